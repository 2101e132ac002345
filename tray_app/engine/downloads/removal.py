"""Deleting a model's files from the disk; only what lies in the home's own models folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tray_app.engine import naming
from tray_app.engine.errors import BadRequest
from tray_app.engine.values import Model

from . import origins


def files_of(model: Model, others: Iterable[Model]) -> tuple[Path, ...]:
    """All files that are the model's alone: shards, projector, adapters, licenses, origin note."""
    found = [*_shards(model.path), origins.note_path(model.path)]
    shared = {other.mmproj_path for other in others if other.id != model.id}
    if model.mmproj_path is not None and model.mmproj_path not in shared:
        found.append(model.mmproj_path)
    for pattern in ("*.lora-?.gguf", "*.LICENSE*"):  # as `ollama.plan` names them
        stem = model.path.name[: -len(".gguf")]
        found += [path for path in model.path.parent.glob(pattern) if path.name.startswith(stem)]
    return tuple(path for path in found if path.is_file())


def delete(model: Model, models: Path, others: Iterable[Model]) -> int:
    """Delete a model; the bytes that its files had. Raises BadRequest, OSError."""
    if not model.path.is_relative_to(models):
        raise BadRequest(
            f"{model.path} is in a folder of your own.",
            "Llama Wrangler deletes only what it has put into its own models folder: delete the"
            " file by hand, or take its folder out of the library.",
        )
    freed = 0
    for path in files_of(model, others):
        if not path.is_relative_to(models):  # a projector elsewhere
            continue
        size = path.stat().st_size
        path.unlink(missing_ok=True)
        freed += size
    for folder in model.path.parents:
        if folder == models:
            break
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()
    return freed


def _shards(first: Path) -> Iterator[Path]:
    name = naming.parse_file_name(first.name)
    if name.shard_count == 1:
        yield first
        return
    for path in first.parent.iterdir():
        other = naming.parse_file_name(path.name)
        same = (other.whole_stem, other.shard_count) == (name.whole_stem, name.shard_count)
        if same and naming.is_gguf(path.name):
            yield path
