"""One scan: every library folder walked, every header known, from the cache if it can be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .errors import BadGguf
from .gguf import read_summary
from .gguf_cache import FileKey, Keep, Row
from .library_files import FolderWalk, SeenFile, Visited, walk_folder
from .scan_worker import problem_text
from .values import FolderState

# A file this fresh may still be copied: its own time is watched, since a folder's does not
# move while a file in it grows.
UNSETTLED_S = 120.0


@dataclass(slots=True)
class ScanResult:
    """What one scan found, and what it learned on the way."""

    folders: dict[str, FolderState] = field(default_factory=dict)
    files: list[SeenFile] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    watched: dict[str, int | None] = field(default_factory=dict)  # path -> mtime_ns
    fresh: list[Row] = field(default_factory=list)  # rows to store
    gone: list[str] = field(default_factory=list)  # paths to forget

    def looks_like(self, other: ScanResult) -> bool:
        """Whether nothing is to be told after this scan that was not so after `other`."""
        return (
            not self.fresh
            and not self.gone
            and self.folders == other.folders
            and self.left_out == other.left_out
            and self.files == other.files
        )


def scan(
    folders: Sequence[str],
    rows: dict[str, Row],
    pause: Callable[[], None],
    now: Callable[[], float] = time.time,
) -> ScanResult:
    """Walk `folders` and bring `rows` (path -> row, changed in place) up to date.

    Blocks. `pause` runs between files so that other threads get the interpreter. The models
    of a folder that cannot be read right now are taken from `rows` and marked unavailable.
    """
    result = ScanResult()
    unsettled_ns = int((now() - UNSETTLED_S) * 1e9)
    visited = Visited()
    moved: dict[FileKey, Row] | None = None
    for root in folders:
        walk = walk_folder(root, visited, pause)
        if walk.state is FolderState.OK and _is_empty_mount_point(root, walk, rows):
            walk.state = FolderState.MISSING
        result.folders[root] = walk.state
        result.left_out.update(walk.left_out)
        result.watched.update(walk.watched)
        result.watched.setdefault(root, None)
        result.files += walk.files
        result.files += _remembered(root, walk, rows, visited)
        for file in walk.files:
            row = rows.get(file.path)
            if row is None or row.key != file.key or row.keep is Keep.SCAN:
                if moved is None:
                    moved = {row.key: row for row in rows.values() if row.key.inode}
                row = _learn(file, row, moved)
                rows[file.path] = row
                result.fresh.append(row)
            if row.problem or file.key.mtime_ns > unsettled_ns:
                result.watched[file.path] = file.key.mtime_ns
            pause()
    kept = {file.path for file in result.files}
    result.gone = [path for path in rows if path not in kept]
    for path in result.gone:
        del rows[path]
    return result


def _learn(file: SeenFile, before: Row | None, moved: dict[FileKey, Row]) -> Row:
    """The row of a new or changed file: that of the same file under another name, or read."""
    known = moved.get(file.key)
    if known is not None and known.keep is Keep.FOREVER:
        return replace(known, path=file.path, device=file.device, model_id=None)
    model_id = before.model_id if before else None
    row = Row(file.path, file.key, file.device, None, model_id=model_id)
    try:
        return replace(row, header=read_summary(file.path))
    except BadGguf as exc:
        return replace(row, problem=problem_text(exc))
    except OSError as exc:
        reason = f"It cannot be read: {exc.strerror or type(exc).__name__}."
        return replace(row, problem=reason, keep=Keep.SCAN)


def _remembered(
    root: str, walk: FolderWalk, rows: dict[str, Row], visited: Visited
) -> list[SeenFile]:
    """The known files of `root`, or of the folders in it, that cannot be read right now."""
    lost = [root] if walk.state is not FolderState.OK else walk.unreadable
    files = []
    for row in rows.values():
        if row.path in visited.paths or not any(is_below(row.path, folder) for folder in lost):
            continue
        visited.paths.add(row.path)
        files.append(SeenFile(row.path, root, row.key, row.device, available=False))
    return files


def _is_empty_mount_point(root: str, walk: FolderWalk, rows: dict[str, Row]) -> bool:
    """Whether `root` is the empty folder that a drive leaves behind when it is taken out."""
    if walk.entries:
        return False
    devices = {row.device for row in rows.values() if is_below(row.path, root)}
    return bool(devices) and walk.device not in devices


def is_below(path: str, folder: str) -> bool:
    """Whether `path` lies in `folder`, by their text."""
    return path.startswith(folder if folder.endswith(os.sep) else folder + os.sep)


def has_changed(watched: dict[str, int | None]) -> bool:
    """Whether any watched folder or unsettled file looks different now.

    One `stat` each (1.5 us on a local disk). Blocks as long as a drive takes to answer.
    """
    for path, before in watched.items():
        try:
            after: int | None = os.stat(path).st_mtime_ns
        except OSError:
            after = None
        if after != before:
            return True
    return False
