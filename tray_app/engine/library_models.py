"""From files to models: shards become one, projectors find their model, ids are given out.

Pure functions over what a scan has read; nothing here touches a disk.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from . import naming
from .gguf import Header
from .library_files import SeenFile
from .values import LeftOut, Model, ModelKind

# Which projector to take when a repo offers several: full precision costs little here.
PROJECTOR_LABELS = ("F16", "BF16", "F32", "Q8_0")
ADAPTER, IMATRIX, MMPROJ = "adapter", "imatrix", "mmproj"
SHOWN_SHARDS = 4


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """One file with what is known about it."""

    seen: SeenFile
    header: Header | None
    problem: str | None
    known_id: str | None  # the id it had before


@dataclass(frozen=True, slots=True)
class Assembly:
    """The library as a whole."""

    models: tuple[Model, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(slots=True)
class _Part:
    file: ScannedFile
    name: naming.FileName
    directory: str
    root: str


@dataclass(slots=True)
class _Group:
    """The files of one model, by shard number."""

    parts: dict[int, _Part] = field(default_factory=dict)

    @property
    def first(self) -> _Part:
        return self.parts[min(self.parts)]


def assemble(
    files: Iterable[ScannedFile],
    sure_roots: Set[str] = frozenset(),
    pause: Callable[[], None] = lambda: None,
) -> Assembly:
    """Build the models. `sure_roots` are library folders laid out as publisher/repo/file.

    `pause` is called between models, for other threads' sake.
    """
    left_out: dict[str, str] = {}
    groups: dict[tuple[str, str, int], _Group] = defaultdict(_Group)
    projectors: list[_Part] = []
    for file in files:
        pause()
        path = file.seen.path
        directory, base = os.path.split(path)
        part = _Part(file, naming.parse_file_name(base), directory, file.seen.folder)
        if _is_projector(part) and file.problem is None:
            projectors.append(part)
            continue
        reason = file.problem or _unfit(part)
        if reason and part.name.shard_count == 1:
            left_out[path] = reason
            continue
        key = (directory, part.name.whole_stem, part.name.shard_count)
        groups[key].parts[part.name.shard_index] = part
    whole: list[_Group] = []
    for group in groups.values():
        reason = _broken_group(group)
        if reason:
            left_out[group.first.file.seen.path] = reason
        else:
            whole.append(group)
    models = _build_models(whole, projectors, sure_roots, pause)
    paired = {str(model.mmproj_path) for model in models}
    for part in projectors:
        if part.file.seen.path not in paired:
            left_out[part.file.seen.path] = "A projector (mmproj) that no model here takes."
    rows = tuple(LeftOut(Path(path), left_out[path]) for path in sorted(left_out))
    return Assembly(models, rows)


def _is_projector(part: _Part) -> bool:
    header = part.file.header
    if header is not None and (header.architecture == "clip" or header.general_type == MMPROJ):
        return True
    return part.name.is_mmproj


def _unfit(part: _Part) -> str | None:
    """Why a readable GGUF file is no model that can answer, or None."""
    header = part.file.header
    if header is None:
        return "It has not been read."
    if header.general_type == ADAPTER:
        return "A LoRA adapter: it changes a model and is none itself."
    if header.general_type == IMATRIX:
        return "An importance matrix: it helps to quantize a model and is none itself."
    if header.big_endian != (sys.byteorder == "big"):
        order = "big" if header.big_endian else "little"
        return f"It is {order}-endian and this computer is not. Download the other variant."
    if part.name.shard_count == 1 and (header.split_count or 1) > 1:
        return (
            f"It is one of {header.split_count} shards, but not named "
            f"…-00001-of-{header.split_count:05}.gguf. Give it its first name back."
        )
    if part.name.shard_index > 1:  # only the first shard describes the model
        return None
    if header.tensor_count == 0 and part.name.shard_count == 1:
        return "It holds a vocabulary only, no weights."
    if header.architecture is None:
        return "It does not name its architecture, so llama.cpp cannot load it."
    return None


def _broken_group(group: _Group) -> str | None:
    count = group.first.name.shard_count
    missing = [number for number in range(1, count + 1) if number not in group.parts]
    if missing:
        return f"{_list_shards(missing)} of {count} missing."
    for number, part in sorted(group.parts.items()):
        reason = part.file.problem or _unfit(part)
        if reason:
            return f"Shard {number} of {count} cannot be used: {reason}"
        said = part.file.header.split_count if part.file.header else None
        if said is not None and said != count and count > 1:
            return f"Shard {number} says it is one of {said}, its name says {count}."
    return None


def _list_shards(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:SHOWN_SHARDS])
    more = len(numbers) - SHOWN_SHARDS
    listed = f"{shown} and {more:,} more" if more > 0 else shown
    return f"Shard {listed}" if len(numbers) == 1 else f"Shards {listed}"


def _build_models(
    groups: Sequence[_Group],
    projectors: Sequence[_Part],
    sure_roots: Set[str],
    pause: Callable[[], None],
) -> tuple[Model, ...]:
    ordered = sorted(groups, key=lambda group: group.first.file.seen.path)
    stems: dict[str, set[str]] = defaultdict(set)  # folder -> the models at or below it
    beside: dict[str, list[_Part]] = defaultdict(list)  # folder -> the projectors in it
    for part in projectors:
        beside[part.directory].append(part)
    if projectors:
        for group in ordered:
            for folder in _up_to_root(group.first):
                stems[folder].add(naming.squash(group.first.name.stem))
    origins = []
    for group in ordered:
        origins.append(_origin(group.first, sure_roots))
        pause()
    ids = _give_ids([group.first for group in ordered], origins, pause)
    folders = {root: Path(root) for root in {group.first.root for group in groups}}
    models = []
    for group, origin, model_id in zip(ordered, origins, ids, strict=True):
        projector = _find_projector(group.first, beside, stems) if projectors else None
        root = folders[group.first.root]
        models.append(_build_model(group, origin, model_id, root, projector))
        pause()
    return tuple(sorted(models, key=lambda model: (model.name.lower(), model.id)))


def _origin(part: _Part, sure_roots: Set[str]) -> naming.Origin:
    sure = part.root in sure_roots
    return naming.trusted_origin(
        part.name, naming.find_origin(part.file.seen.path, part.root, sure=sure)
    )


def _give_ids(
    parts: Sequence[_Part], origins: Sequence[naming.Origin], pause: Callable[[], None]
) -> list[str]:
    """An id for each first file. One that a file had before goes to nobody else."""
    given: dict[int, str] = {}
    taken: set[str] = set()
    for number, (part, origin) in enumerate(zip(parts, origins, strict=True)):
        pause()
        known = part.file.known_id
        if known is None or known in taken:
            continue
        if known in naming.id_candidates(part.file.seen.path, part.name, origin):
            given[number] = known
            taken.add(known)
    for number, (part, origin) in enumerate(zip(parts, origins, strict=True)):
        pause()
        if number not in given:
            candidates = naming.id_candidates(part.file.seen.path, part.name, origin)
            free = (id for id in candidates if id not in taken)
            given[number] = next(free, part.file.seen.path)
            taken.add(given[number])
    return [given[number] for number in range(len(parts))]


def _build_model(
    group: _Group, origin: naming.Origin, model_id: str, folder: Path, projector: str | None
) -> Model:
    first = group.first
    header = first.file.header
    assert header is not None  # _unfit left the others out
    files = [part.file for part in group.parts.values()]
    headers = [file.header for file in files if file.header is not None]
    counts = [header.parameter_count or 0 for header in headers if header.details]
    details = len(counts) == len(files)
    embedding = header.kind is ModelKind.EMBEDDING
    return Model(
        id=model_id,
        name=naming.display_name(first.name, origin),
        publisher=origin.publisher,
        path=Path(first.file.seen.path),
        folder=folder,
        size_bytes=sum(file.seen.key.size_bytes for file in files),
        shard_count=len(files),
        modified_at=max(file.seen.key.mtime_ns for file in files) / 1e9,
        architecture=header.architecture,
        parameter_count=sum(counts) if details else None,
        size_label=header.size_label,
        quantization=naming.best_label(first.name.label, header.quantization),
        context_length=header.context_length,
        kv_bytes_per_token=header.kv_bytes_per_token,
        has_chat_template=header.has_chat_template,
        kind=header.kind,
        mmproj_path=Path(projector) if projector and not embedding else None,
        available=all(file.seen.available for file in files),
        details_known=details,
        license=header.license,
    )


def _up_to_root(part: _Part) -> list[str]:
    """The file's own folder and those above it, up to the library folder."""
    folders = [part.directory]
    while folders[-1] != part.root and os.path.dirname(folders[-1]) != folders[-1]:
        folders.append(os.path.dirname(folders[-1]))
    return folders


def _find_projector(
    part: _Part, beside: Mapping[str, Sequence[_Part]], stems: Mapping[str, Set[str]]
) -> str | None:
    """The projector for a model: one that bears its name first, else the deepest nameless one.

    A nameless projector counts only where it can mean one model alone: loading a foreign one
    makes llama-server end.
    """
    own = naming.squash(part.name.stem)
    choices: list[tuple[bool, int, int, str]] = []
    for depth, folder in enumerate(_up_to_root(part)):
        for candidate in beside.get(folder, ()):
            name = naming.mmproj_stem(candidate.name)
            fits = naming.related(name, own) if name else len(stems[folder]) == 1
            if fits and candidate.root == part.root:
                label = candidate.name.label
                rank = PROJECTOR_LABELS.index(label) if label in PROJECTOR_LABELS else 9
                choices.append((not name, depth, rank, candidate.file.seen.path))
    return min(choices)[3] if choices else None
