"""Which files of a folder one model is made of, looked at before any of them is brought in."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable
from pathlib import Path

from tray_app.engine import gguf, naming
from tray_app.engine.errors import BadGguf, BadRequest, NotFound
from tray_app.engine.gguf_cache import FileKey
from tray_app.engine.library_files import SeenFile
from tray_app.engine.library_models import ScannedFile, assemble


def source_of(path: Path) -> Path:
    """The model's file that `path` means, links followed as far as names tell of GGUF.

    A Hugging Face cache has the names in links and the content in files called by their hash,
    so the last link is kept there. Raises BadRequest, NotFound, OSError. Never waits on a pipe.
    """
    if not path.is_absolute() or "\0" in str(path):
        raise BadRequest(f"{str(path)[:80]!r} is no whole path.", "Give the path from the root on.")
    try:
        named = path.parent.resolve(strict=True) / path.name
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no {path}.", "Look at the name.") from None
    except (RuntimeError, OSError) as error:  # Python 3.12 and older raise the first for loops
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            raise
        raise BadRequest(f"{path} leads to itself.", "Look at the link.") from None
    if stat.S_ISDIR(mode):
        raise BadRequest(f"{path} is a folder.", "Add it as a library folder instead.")
    source = real if naming.is_gguf(real.name) else named
    if not stat.S_ISREG(mode) or not naming.is_gguf(source.name):
        raise BadRequest(f"{path.name} is no .gguf file.", "Only GGUF models can be imported.")
    return source


def files_of(source: Path) -> tuple[Path, ...]:
    """The file, or all its shards in order, and the projector beside it; all whole and usable.

    Reads their headers: blocks for 5-100 ms. Raises NotFound for a shard that is not there,
    BadGguf for what the library would not list, OSError.
    """
    reason = naming.skip_reason(source.name)
    if reason:
        raise _refusal(source, reason)
    beside = sorted(path for path in source.parent.iterdir() if naming.is_gguf(path.name))
    shards = _shards(source, beside)
    scanned = [_scanned(path) for path in shards]
    own = {path.name for path in shards}
    for path in _candidates(source, beside):
        try:
            if path.name not in own:
                scanned.append(_scanned(path))
        except (BadGguf, OSError):
            continue  # a broken projector is left where it is
    assembly = assemble(scanned)
    for left in assembly.left_out:
        if left.path in shards:
            is_projector = left.path == source and "mmproj" in left.reason
            remedy = "Import the model itself: its projector comes along." if is_projector else ""
            raise _refusal(left.path, left.reason, remedy)
    (model,) = assembly.models
    return (*shards, *([model.mmproj_path] if model.mmproj_path is not None else []))


def _refusal(path: Path, reason: str, remedy: str = "") -> BadGguf:
    return BadGguf(
        f"{path.name} cannot be imported: {reason}", remedy or "Choose the file of a model."
    )


def _shards(source: Path, beside: Iterable[Path]) -> list[Path]:
    name = naming.parse_file_name(source.name)
    if name.shard_count == 1:
        return [source]
    found = {}
    for path in beside:
        other = naming.parse_file_name(path.name)
        if (other.whole_stem, other.shard_count) == (name.whole_stem, name.shard_count):
            found[other.shard_index] = path
    missing = [number for number in range(1, name.shard_count + 1) if number not in found]
    if missing:
        raise NotFound(
            f"Shard {missing[0]} of {name.shard_count} is not beside {source.name}"
            f" ({len(missing)} are missing).",
            "Put all shards of the model into one folder.",
        )
    return [found[number] for number in sorted(found)]


def _candidates(source: Path, beside: Iterable[Path]) -> list[Path]:
    """Projectors that may be the model's: one without a name only where there is no other model."""
    own = naming.squash(naming.parse_file_name(source.name).stem)
    named: list[Path] = []
    nameless: list[Path] = []
    stems = {own}
    for path in beside:
        name = naming.parse_file_name(path.name)
        if name.is_mmproj:
            (named if naming.mmproj_stem(name) else nameless).append(path)
        elif naming.skip_reason(path.name) is None:
            stems.add(naming.squash(name.stem))
    return [*named, *(nameless if len(stems) == 1 else [])]


def _scanned(path: Path) -> ScannedFile:
    """Raises BadGguf in the file's name, OSError."""
    try:
        header = gguf.read_details(path)
    except BadGguf as error:
        raise BadGguf(f"{path.name}: {error.message}", error.remedy) from error
    status = path.stat()
    key = FileKey(status.st_size, status.st_mtime_ns, status.st_ino)
    seen = SeenFile(str(path), str(path.parent), key, status.st_dev)
    return ScannedFile(seen, header, None, None)
