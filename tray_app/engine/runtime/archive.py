"""Unpacks a source archive that is treated as hostile, hash or no hash."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tray_app.engine.errors import RuntimeBuildFailed

MAX_MEMBERS = 50_000  # llama.cpp b11434 has 4,104
MAX_TOTAL_BYTES = 1 << 30  # and 176 MB
MAX_NAME_BYTES = 1024


def unpack(
    archive: Path,
    target: Path,
    check: Callable[[], None] = lambda: None,
    *,
    max_members: int = MAX_MEMBERS,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> None:
    """Unpack a .tar.gz of plain files and folders into the new folder `target`.

    `check` is called for each member and may raise to stop. Blocks (llama.cpp: about 2 s).
    Raises RuntimeBuildFailed for anything but plain files inside `target`, or OSError.
    """
    target.mkdir(parents=True)
    total = 0
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for count, member in enumerate(tar, start=1):
                check()
                total += member.size
                if count > max_members or total > max_total_bytes:
                    raise _refused(archive, f"it holds more than {max_total_bytes >> 20} MiB")
                if not (member.isreg() or member.isdir()):
                    raise _refused(archive, f"{member.name[:200]!r} is neither file nor folder")
                if len(member.name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
                    raise _refused(archive, "a name in it is too long")
                # The filter refuses paths that leave `target` and drops owners and odd modes.
                tar.extract(member, target, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as exc:
        raise _refused(archive, str(exc) or type(exc).__name__) from exc


def _refused(archive: Path, reason: str) -> RuntimeBuildFailed:
    return RuntimeBuildFailed(
        f"The source archive {archive.name} cannot be used: {reason}.",
        "Retry: it is then downloaded again.",
    )
