"""Starts the process that outlives a change of versions: `tray_app.version_trial`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock

from tray_app.app_versions import OwnCopy
from tray_app.self_command import VERSION_TRIAL, part_command, source_root


def start_trial(
    copy: OwnCopy, version: str, home: Path, mode: str, show: bool
) -> subprocess.Popen[bytes]:
    """Watch over the change to `version`, in a session of its own. Raises OSError."""
    form, shown = "image" if copy.is_image else "folder", "shown" if show else "hidden"
    # Looked at here: the tray may have gone before the other process has begun.
    tray = "tray" if _tray_is_there(home) else "no-tray"
    words = (form, str(copy.program), version, str(home), mode, shown, tray)
    argv = part_command(VERSION_TRIAL, *words)
    if copy.is_image:  # what is mounted now goes with this process: it needs a mount of its own
        argv = [str(copy.program), VERSION_TRIAL, *words]
    flags: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.DETACHED_PROCESS}
    silent = subprocess.DEVNULL
    return subprocess.Popen(
        argv, stdin=silent, stdout=silent, stderr=silent, cwd=source_root(), **flags
    )


def _tray_is_there(home: Path) -> bool:
    """Whether a tray of this home holds its lock."""
    lock = filelock.FileLock(home / "tray.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False
