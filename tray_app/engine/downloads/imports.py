"""A GGUF of this computer brought into the library: linked where that costs nothing, else copied.

All files of a model, shards and projector, are staged in a hidden folder and appear together by
one rename; a killed engine leaves only that folder, which the next one removes. A file of the
user's is deleted only after its model is in the library, whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tray_app.engine import naming
from tray_app.engine.errors import BadRequest, EngineError, NotEnoughDisk
from tray_app.engine.jobs import JobContext, JobRunner
from tray_app.engine.values import Job

from .import_files import files_of, source_of
from .values import safe_name

KIND = "import_model"
HOWS = ("auto", "link", "copy", "move")
STAGING = ".importing-"
FOLDER = "local"
CHUNK_BYTES = 4 << 20
DISK_MARGIN_BYTES = 64 << 20
ALREADY = "It is in the library already"
_TURN_S = 0.2


class Importer:
    """Starts imports as jobs, which take turns. Thread-safe."""

    def __init__(
        self,
        jobs: JobRunner,
        models: Path,
        rescan: Callable[[], object],
        folders: Callable[[], Iterable[Path]] = lambda: (),
    ) -> None:
        """`models` is the home's own models folder; `rescan` is called after each import.

        What lies in one of `folders`, those of the library, is not imported again.
        """
        self._jobs = jobs
        self._models = models
        self._rescan = rescan
        self._folders = folders
        self._turn = threading.Lock()

    def start(self, path: str, how: str = "auto") -> Job:
        """Begin to bring the model with the file `path` in. Blocks for reading its headers.

        Raises BadRequest, NotFound, BadGguf for what can be seen at once; OSError.
        """
        if how not in HOWS:
            raise BadRequest(f"A model cannot be imported by {how!r}.", f"Use: {', '.join(HOWS)}.")
        source = source_of(Path(path))
        files = files_of(source)
        if how == "move" and any(file.is_symlink() for file in (Path(path), *files)):
            raise BadRequest(
                f"{Path(path).name} is a link, or has one beside it.",
                "Copy or link it instead: what it leads to may be needed elsewhere.",
            )

        def work(context: JobContext) -> None:
            if self._is_listed(source, Path(path)):
                context.progress(1, 1, "steps", ALREADY)
            else:
                with self._alone(context):
                    self._bring(files, how, context)
            self._rescan()

        return self._jobs.submit(KIND, f"Importing {source.name[:100]}", work)

    def clear_left(self) -> None:
        """Remove what a killed engine left half imported. Blocks for the deletion."""
        with contextlib.suppress(OSError):
            for folder in self._models.glob(f"{STAGING}*"):
                shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self, context: JobContext) -> Iterator[None]:
        """Two copies at once are no faster, and might be of one model; a cancel ends the wait."""
        if not self._turn.acquire(blocking=False):
            context.progress(0, None, "steps", "Waiting for another import")
            while not self._turn.acquire(timeout=_TURN_S):
                context.check()
        try:
            yield
        finally:
            self._turn.release()

    def _is_listed(self, *paths: Path) -> bool:
        roots = [self._models.resolve(), *self._folders()]
        return any(path.is_relative_to(root) for path in paths for root in roots)

    def _bring(self, files: Sequence[Path], how: str, context: JobContext) -> None:
        name = naming.parse_file_name(files[0].name).whole_stem
        target = self._place(name, files, context)
        if target is None:
            context.progress(1, 1, "steps", ALREADY)
            return
        staging = self._models / f"{STAGING}{secrets.token_hex(4)}"
        staging.mkdir(parents=True)
        try:
            if how == "copy" or not _linked(files, staging, must=how == "link"):
                _check_disk(files, self._models)
                _copied(files, staging, context)
                if how == "move":
                    _compared(files, staging, context)
            _sync_folder(staging)
            context.check()
            target.parent.mkdir(exist_ok=True)
            staging.rename(target)
            _sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        context.progress(1, 1, "steps", "It is in the library now")
        if how == "move":
            _removed(files, context)

    def _place(self, name: str, files: Sequence[Path], context: JobContext) -> Path | None:
        """A folder that is free, or None when the same files are there already."""
        try:
            plain = safe_name(name)
        except BadRequest:
            plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-.")
            plain = plain[:80] or "model"
        for number in range(1, 1000):
            folder = self._models / FOLDER / (plain if number == 1 else f"{plain}-{number}")
            if not folder.exists():
                return folder
            if all(_same(file, folder / file.name, context) for file in files):
                return None
        raise EngineError(f"There are 999 models called {plain}.", "Rename the file.")


def _same(one: Path, other: Path, context: JobContext) -> bool:
    """Whether two files are one, or have the same bytes. Raises Cancelled, OSError for `one`.

    Fine-tunes of one model differ in the middle only, so all of it is read (about 1 GB/s).
    """
    size = one.stat().st_size
    try:
        if other.samefile(one):
            return True
        if other.stat().st_size != size:
            return False
        second = other.open("rb")
    except OSError:
        return False
    done = 0
    with one.open("rb") as first, second:
        while chunk := first.read(CHUNK_BYTES):
            context.check()
            if chunk != second.read(len(chunk)):
                return False
            done += len(chunk)
            context.progress(done, size, "bytes compared", f"Comparing {one.name[:80]}")
    return done == size


def _linked(files: Iterable[Path], staging: Path, must: bool) -> bool:
    """Second names for the same bytes; False where the file system has none for us."""
    try:
        for file in files:
            os.link(file.resolve(), staging / file.name)  # Linux would link a link itself
    except OSError as error:
        if must:
            raise EngineError(
                f"It cannot be linked: {error.strerror or error}.", "Copy or move it instead."
            ) from error
        for left in staging.iterdir():
            left.unlink()
        return False
    return True


def _check_disk(files: Iterable[Path], models: Path) -> None:
    """Raises NotEnoughDisk before the first byte is copied."""
    total = sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(models).free
    if free < total + DISK_MARGIN_BYTES:
        raise NotEnoughDisk(
            f"The disk is too full: {total / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free.",
            f"Free some space on the disk of {models}, or add the model's folder to the library.",
        )


def _copied(files: Iterable[Path], staging: Path, context: JobContext) -> None:
    """Copies, synced. Raises NotEnoughDisk, Cancelled, OSError, EngineError for a changing file."""
    sizes = {file: file.stat().st_size for file in files}
    base, total = 0, sum(sizes.values())
    for file in sizes:
        with file.open("rb") as source, (staging / file.name).open("xb") as target:
            before, copied = os.fstat(source.fileno()), 0
            while chunk := source.read(CHUNK_BYTES):
                context.check()
                _written(target, chunk)
                copied += len(chunk)
                if copied > before.st_size:  # it may grow as fast as it is read
                    raise _changed(file)
                context.progress(base + copied, total, "bytes", f"Copying {file.name[:80]}")
            target.flush()
            os.fsync(target.fileno())
            after = os.fstat(source.fileno())
        if copied != before.st_size or before.st_mtime_ns != after.st_mtime_ns:
            raise _changed(file)
        os.utime(staging / file.name, ns=(after.st_atime_ns, after.st_mtime_ns))
        base += copied


def _written(target: BinaryIO, chunk: bytes) -> None:
    try:
        target.write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NotEnoughDisk("The disk is full.", "Free some space, then retry.") from error
        raise


def _changed(file: Path) -> EngineError:
    return EngineError(
        f"{file.name} changed while it was copied.",
        "Wait until the program that writes it has ended, then retry.",
    )


def _compared(files: Iterable[Path], staging: Path, context: JobContext) -> None:
    """Read the copies again, since the originals are about to go. Raises EngineError."""
    for file in files:
        if not _same(file, staging / file.name, context):
            raise _changed(file)


def _removed(files: Sequence[Path], context: JobContext) -> None:
    """The model is there: an original that cannot be deleted is told and no failure."""
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            why = error.strerror or type(error).__name__
            context.progress(
                1, 1, "steps", f"Imported, but {file.name[:80]} could not be deleted: {why}"
            )
            return


def _sync_folder(folder: Path) -> None:
    """Have the names in it on the disk, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
