"""The walk over one library folder: which GGUF files lie in it, each file once.

It only looks: nothing is ever written into a library folder.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .gguf_cache import FileKey
from .naming import CONTROL_SUFFIXES, is_gguf, is_unfinished, skip_reason
from .values import FolderState

# Trash, snapshots and version control hold files that their owner has done with.
SKIPPED_FOLDERS = frozenset(
    {".git", ".Trash", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".snapshots"}
)
# Half imported (downloads/imports.py), half converted (convert/record.py).
SKIPPED_STARTS = (".Trash-", ".importing-", ".making-")
MAX_DEPTH = 24


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A GGUF file a walk found."""

    path: str
    folder: str  # the library folder
    key: FileKey
    device: int
    available: bool = True


@dataclass(slots=True)
class FolderWalk:
    """What one walk found."""

    state: FolderState
    device: int = 0
    entries: int = 0
    files: list[SeenFile] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # path -> reason
    unreadable: list[str] = field(default_factory=list)  # folders inside this one
    watched: dict[str, int] = field(default_factory=dict)  # folder -> mtime_ns before the walk


@dataclass(slots=True)
class Visited:
    """Folders and files met so far in one scan, across all library folders."""

    folders: set[tuple[int, int]] = field(default_factory=set)
    files: dict[tuple[int, int], str] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)


class Pacer:
    """Called between small pieces of work, lets other threads run every `every_s` seconds.

    A thread that computes gives the interpreter up only after 5 ms, which a stream beside it
    would feel; giving it up after each file instead would cost 60 us a time.
    """

    def __init__(
        self, every_s: float = 0.001, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._every_s = every_s
        self._clock = clock
        self._last = clock()

    def __call__(self) -> None:
        if self._clock() - self._last >= self._every_s:
            time.sleep(0)
            self._last = self._clock()


def walk_folder(root: str, visited: Visited, pause: Callable[[], None]) -> FolderWalk:
    """Find the GGUF files below `root`. Blocks; calls `pause` between folders and files.

    Linked folders and files are followed, after real ones, and no folder twice.
    """
    try:
        status = os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        return FolderWalk(FolderState.MISSING)
    except OSError:
        return FolderWalk(FolderState.UNREADABLE)
    if not stat.S_ISDIR(status.st_mode):
        return FolderWalk(FolderState.MISSING)
    walk = FolderWalk(FolderState.OK, status.st_dev)
    candidates: list[tuple[bool, str]] = []  # (is a link, path)
    waiting = [(root, 0)]
    linked: list[tuple[str, int]] = []
    while waiting or linked:
        folder, depth = waiting.pop() if waiting else linked.pop(0)
        children = _list_folder(folder, walk, visited, candidates)
        if depth < MAX_DEPTH:
            linked += [(path, depth + 1) for is_link, path in children if is_link]
            waiting += [(path, depth + 1) for is_link, path in reversed(children) if not is_link]
        pause()
    if root in walk.unreadable:
        return FolderWalk(FolderState.UNREADABLE, watched=walk.watched)
    for _, path in sorted(candidates):
        _take_file(path, root, walk, visited)
        pause()
    return walk


def _list_folder(
    folder: str, walk: FolderWalk, visited: Visited, candidates: list[tuple[bool, str]]
) -> list[tuple[bool, str]]:
    """Note the files of one folder; return its own folders as (is a link, path), sorted."""
    children: list[tuple[bool, str]] = []
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in visited.folders and status.st_ino:
            return children
        visited.folders.add(identity)
        walk.watched[folder] = status.st_mtime_ns
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as exc:
        walk.unreadable.append(folder)
        walk.left_out[folder] = f"This folder cannot be read: {_why(exc)}."
        return children
    names = {entry.name for entry in entries}
    walk.entries += len(entries)
    for entry in entries:
        if entry.name.startswith("._"):  # macOS keeps its attributes so on foreign drives
            continue
        if _is_folder(entry):
            if entry.name not in SKIPPED_FOLDERS and not entry.name.startswith(SKIPPED_STARTS):
                children.append((entry.is_symlink(), entry.path))
        elif is_unfinished(entry.name):
            walk.left_out[entry.path] = "A download that has not ended."
        elif is_gguf(entry.name):
            reason = skip_reason(entry.name)
            if any(entry.name + suffix in names for suffix in CONTROL_SUFFIXES):
                reason = "A download that has not ended."
            if reason:
                walk.left_out[entry.path] = reason
            else:
                candidates.append((entry.is_symlink(), entry.path))
    return children


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _take_file(path: str, root: str, walk: FolderWalk, visited: Visited) -> None:
    if path in visited.paths:
        return
    visited.paths.add(path)
    try:
        status = os.stat(path)
    except OSError as exc:
        walk.left_out[path] = f"It cannot be read: {_why(exc)}."
        return
    identity = (status.st_dev, status.st_ino)
    if not stat.S_ISREG(status.st_mode):
        walk.left_out[path] = "It is not a regular file."
    elif status.st_size == 0:
        walk.left_out[path] = "The file is empty: its download never began."
    elif status.st_ino and identity in visited.files:
        walk.left_out[path] = f"It is the same file as {visited.files[identity]}."
    else:
        visited.files[identity] = path
        key = FileKey(status.st_size, status.st_mtime_ns, status.st_ino)
        walk.files.append(SeenFile(path, root, key, status.st_dev))


def _why(exc: OSError) -> str:
    if exc.errno == errno.ENOENT:
        return "it is a link to a file that is not there"
    if exc.errno == errno.ELOOP:
        return "it is a link that leads back to itself"
    return exc.strerror or type(exc).__name__
