"""A GGUF of this computer brought into the library: linked where that costs nothing, else copied.

All files of a model, shards and projector, are staged in a hidden folder and appear together by
one rename; a killed engine leaves only that folder, which the next one removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from tray_app.engine import gguf, naming
from tray_app.engine.errors import BadGguf, BadRequest, EngineError, NotEnoughDisk, NotFound
from tray_app.engine.jobs import JobContext, JobRunner
from tray_app.engine.values import Job

from .values import safe_name

KIND = "import_model"
HOWS = ("auto", "link", "copy", "move")
STAGING = ".importing-"
FOLDER = "local"
CHUNK_BYTES = 4 << 20
DISK_MARGIN_BYTES = 64 << 20
_NO_MODEL = {
    "adapter": "a LoRA adapter, which changes a model and is none itself",
    "imatrix": "an importance matrix, which is no model",
    "mmproj": "the projector of a model, which comes along with it",
}


class Importer:
    """Starts imports as jobs. Thread-safe."""

    def __init__(self, jobs: JobRunner, models: Path, rescan: Callable[[], object]) -> None:
        """`models` is the home's own models folder; `rescan` is called after each import."""
        self._jobs = jobs
        self._models = models
        self._rescan = rescan

    def start(self, path: str, how: str = "auto") -> Job:
        """Begin to bring the model with the file `path` in. Blocks for reading its header.

        Raises BadRequest, NotFound, BadGguf for what can be seen at once.
        """
        if how not in HOWS:
            raise BadRequest(f"A model cannot be imported by {how!r}.", f"Use: {', '.join(HOWS)}.")
        source = _checked(Path(path))
        files = files_of(source)

        def work(context: JobContext) -> None:
            if source.is_relative_to(self._models.resolve()):
                context.progress(1, 1, "steps", "It is in the library already")
            else:
                self._bring(files, how, context)
            self._rescan()

        return self._jobs.submit(KIND, f"Importing {source.name[:100]}", work)

    def clear_left(self) -> None:
        """Remove what a killed engine left half imported. Blocks for the deletion."""
        with contextlib.suppress(OSError):
            for folder in self._models.glob(f"{STAGING}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _bring(self, files: tuple[Path, ...], how: str, context: JobContext) -> None:
        self._models.mkdir(parents=True, exist_ok=True)
        name = naming.parse_file_name(files[0].name).whole_stem
        target = self._place(name, files)
        if target is None:
            context.progress(1, 1, "steps", "It is in the library already")
            return
        staging = self._models / f"{STAGING}{secrets.token_hex(4)}"
        staging.mkdir()
        try:
            if how not in ("auto", "link") or not _linked(files, staging, must=how == "link"):
                _copied(files, staging, self._models, context)
            context.check()
            target.parent.mkdir(parents=True, exist_ok=True)
            staging.rename(target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        if how == "move":
            for file in files:
                file.unlink(missing_ok=True)

    def _place(self, name: str, files: Iterable[Path]) -> Path | None:
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
            if all(_same(file, folder / file.name) for file in files):
                return None
        raise EngineError(f"There are 999 models called {plain}.", "Rename the file.")


def files_of(source: Path) -> tuple[Path, ...]:
    """The file, or all shards of it in order, and a projector of the same name beside it.

    Raises NotFound for a shard that is missing.
    """
    name = naming.parse_file_name(source.name)
    beside = [path for path in source.parent.iterdir() if naming.is_gguf(path.name)]
    files = [source]
    if name.shard_count > 1:
        shards = {}
        for path in beside:
            other = naming.parse_file_name(path.name)
            if (other.whole_stem, other.shard_count) == (name.whole_stem, name.shard_count):
                shards[other.shard_index] = path
        missing = [number for number in range(1, name.shard_count + 1) if number not in shards]
        if missing:
            raise NotFound(
                f"Shard {missing[0]} of {name.shard_count} is not beside {source.name}"
                f" ({len(missing)} are missing).",
                "Put all shards of the model into one folder.",
            )
        files = [shards[number] for number in sorted(shards)]
    projectors = [
        path
        for path in sorted(beside)
        if (other := naming.parse_file_name(path.name)).is_mmproj
        and naming.squash(naming.mmproj_stem(other)) == naming.squash(name.stem)
    ]
    return (*files, *projectors[:1])


def _checked(path: Path) -> Path:
    """A whole GGUF model, with links followed. Raises BadRequest, NotFound, BadGguf, OSError."""
    if not path.is_absolute():
        raise BadRequest(f"{path} is no whole path.", "Give the path from the root on.")
    try:
        source = path.resolve(strict=True)
        status = source.stat()
    except FileNotFoundError:
        raise NotFound(f"There is no {path}.", "Look at the name.") from None
    except RuntimeError:  # links in a circle
        raise BadRequest(f"{path} leads to itself.", "Look at the link.") from None
    if stat.S_ISDIR(status.st_mode):
        raise BadRequest(f"{path} is a folder.", "Add it to the library's folders instead.")
    if not stat.S_ISREG(status.st_mode) or not naming.is_gguf(source.name):
        raise BadRequest(f"{path.name} is no .gguf file.", "Only GGUF models can be imported.")
    header = gguf.read_details(source)
    what = "mmproj" if header.architecture == "clip" else header.general_type
    if what in _NO_MODEL:
        raise BadGguf(f"{path.name} is {_NO_MODEL[what]}.", "Import the model itself.")
    return source


def _same(one: Path, other: Path) -> bool:
    """Whether two files are one, or have the same size and beginning and end."""
    try:
        if one.samefile(other):
            return True
        if one.stat().st_size != other.stat().st_size:
            return False
        with one.open("rb") as first, other.open("rb") as second:
            for offset in (0, max(0, one.stat().st_size - CHUNK_BYTES)):
                first.seek(offset)
                second.seek(offset)
                if first.read(CHUNK_BYTES) != second.read(CHUNK_BYTES):
                    return False
    except OSError:
        return False
    return True


def _linked(files: Iterable[Path], staging: Path, must: bool) -> bool:
    """Second names for the same bytes; False where the file system has none for us."""
    try:
        for file in files:
            os.link(file, staging / file.name)
    except OSError as error:
        if must:
            raise EngineError(
                f"It cannot be linked: {error.strerror or error}.", "Copy or move it instead."
            ) from error
        for left in staging.iterdir():
            left.unlink()
        return False
    return True


def _copied(files: tuple[Path, ...], staging: Path, models: Path, context: JobContext) -> None:
    """Copies, synced. Raises NotEnoughDisk, Cancelled, OSError."""
    total = sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(models).free
    if free < total + DISK_MARGIN_BYTES:
        raise NotEnoughDisk(
            f"The disk is too full: {total / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free.",
            f"Free some space on the disk of {models}, or add the model's folder to the library.",
        )
    done = 0
    for file in files:
        with file.open("rb") as source, (staging / file.name).open("xb") as target:
            while chunk := source.read(CHUNK_BYTES):
                context.check()
                try:
                    target.write(chunk)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise NotEnoughDisk(
                            "The disk is full.", f"Free some space on the disk of {models}."
                        ) from error
                    raise
                done += len(chunk)
                context.progress(done, total, "bytes", f"Copying {file.name[:80]}")
            target.flush()
            os.fsync(target.fileno())
        shutil.copystat(file, staging / file.name)
