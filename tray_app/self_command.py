"""How this program starts itself again: the one place that knows a frozen build from a source run.

Engine and faces are two halves of one program, and both start children of it; so this leaf is
used by both and imports neither, nor anything but the standard library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

SCAN_WORKER, LIFELINE, VERSION_TRIAL = "scan-worker", "lifeline", "version-trial"
# Small programs of our own that load nothing of the command line. Frozen they are the first word.
PARTS = {
    SCAN_WORKER: "tray_app.engine.scan_worker",
    LIFELINE: "tray_app.engine.lifeline",
    VERSION_TRIAL: "tray_app.version_trial",
}
VERSIONS = "versions"  # below a copy that updates itself, see `app_versions`
_PACKAGE = Path(__file__).resolve().parent


def is_frozen() -> bool:
    """Whether PyInstaller made this program: there is no Python to give a script to."""
    return bool(getattr(sys, "frozen", False))


def self_command(*words: str) -> list[str]:
    """The command line of `llama-wrangler WORDS`, for a child that does not outlive us."""
    return [sys.executable, *words] if is_frozen() else [sys.executable, "-m", "tray_app", *words]


def part_command(part: str, *words: str) -> list[str]:
    """The command line of one of `PARTS`."""
    if is_frozen():
        return [sys.executable, part, *words]
    if part == LIFELINE:  # as a file and isolated it starts in 8 ms, with its package in 60
        return [sys.executable, "-I", "-S", str(_PACKAGE / "engine" / "lifeline.py"), *words]
    return [sys.executable, "-m", PARTS[part], *words]


def lasting_command(
    frozen: bool | None = None,
    executable: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> list[str]:
    """The absolute command line that runs this installation, also after we have ended."""
    program = Path(executable or sys.executable)
    if is_frozen() if frozen is None else frozen:
        # An AppImage is mounted elsewhere at each start; APPIMAGE names the file itself.
        return [environ.get("APPIMAGE") or str(base_program(program))]
    script = program.with_name(
        "llama-wrangler.exe" if program.suffix == ".exe" else "llama-wrangler"
    )
    return [str(script)] if script.is_file() else [str(program), "-m", "tray_app"]


def own_program() -> Path:
    """The file of the running program; of Python where that is not frozen."""
    return Path(sys.executable)


def base_program(program: Path) -> Path:
    """The program that the system's entries name: that of the copy a newer version lies in."""
    if program.parent.parent.name != VERSIONS:
        return program
    base = program.parent.parent.parent / program.name
    return base if base.is_file() else program


def source_root() -> Path | None:
    """Where `-m tray_app` finds a source tree that is not installed; None in a frozen build."""
    return None if is_frozen() else _PACKAGE.parent
