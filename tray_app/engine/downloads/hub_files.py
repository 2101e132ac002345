"""The GGUF files of a repository, read without trust, and which of them a plan takes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tray_app.engine import naming
from tray_app.engine.errors import BadRequest, NotFound

from .values import safe_name

MAX_PATH = 1024
MAX_SIZE_BYTES = 1 << 44  # 16 TiB, beyond any model
MAX_PROJECTORS = 100
MAX_SHOWN = 24  # quantizations that a message lists
# Asked for none, these in turn, where they fit: small, good, and fast on every backend.
PREFERRED = ("Q4_K_M", "Q4_0", "UD-Q4_K_XL", "Q4_K_S", "MXFP4")
# Of several projectors, as the library chooses too: F16 computes on every backend.
PROJECTOR_LABELS = ("F16", "BF16", "F32", "Q8_0")
# Heads that guess ahead for a model and are none themselves (Llama-macOS, SidecarPicker).
DRAFT_PREFIXES = ("mtp-", "dflash-", "eagle3-", "dspark-")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository."""

    path: str  # in the repository, "/" between parts, each a safe name
    size_bytes: int | None
    sha256: str | None  # of files in LFS only
    quantization: str | None  # "UD-Q4_K_XL"; of the name, or of the folder
    role: str  # "model", "shard" (all parts but the first), "mmproj", "draft", "imatrix", "other"

    @property
    def name(self) -> str:
        """Without its folders."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Empty for the top."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Variant:
    """One model that the repository offers: a file, or all of its parts that are there."""

    files: tuple[HubFile, ...]  # in order
    shard_count: int
    quantization: str | None

    @property
    def size_bytes(self) -> int | None:
        """Of all parts."""
        sizes = [file.size_bytes for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def complete(self) -> bool:
        """Whether no part is missing."""
        return len(self.files) == self.shard_count

    @property
    def label(self) -> str:
        """What names it within the repository."""
        return self.quantization or self.files[0].name


def read_rows(rows: Any) -> Iterable[HubFile]:
    """The files of one page of a tree, without rows that are none and names that no disk takes."""
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict) or row.get("type") != "file":
            continue
        path, lfs = row.get("path"), row.get("lfs")
        if not isinstance(path, str) or not _is_safe(path):
            continue
        lfs = lfs if isinstance(lfs, dict) else {}
        oid = lfs.get("oid", "")
        sha256 = oid if isinstance(oid, str) and _SHA256.fullmatch(oid) else None
        size = _size(lfs.get("size")) if lfs else _size(row.get("size"))
        yield HubFile(path, size, sha256, _quantization(path), _role(path))


def _size(value: Any) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE_BYTES
    return value if good else None


def _is_safe(path: str) -> bool:
    if len(path) > MAX_PATH:
        return False
    try:
        for part in path.split("/"):
            safe_name(part)
    except BadRequest:
        return False
    return True


def _quantization(path: str) -> str | None:
    """Repositories name it in the file, or keep each in a folder of that name."""
    for part in reversed(path.split("/")):
        label = naming.parse_file_name(part).label
        if label is not None:
            return label
    return None


def _role(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    if not naming.is_gguf(name):
        return "other"
    parsed = naming.parse_file_name(name)
    if parsed.is_mmproj:
        return "mmproj"
    if name.startswith(DRAFT_PREFIXES):
        return "draft"
    if naming.skip_reason(name) is not None:
        return "other" if name.startswith("ggml-vocab-") else "imatrix"
    return "shard" if parsed.shard_index > 1 else "model"


def variants(files: Iterable[HubFile]) -> tuple[Variant, ...]:
    """The models among `files`, by path."""
    groups: dict[tuple[str, str, int], list[HubFile]] = {}
    for file in files:
        if file.role in ("model", "shard"):
            parsed = naming.parse_file_name(file.name)
            key = (file.folder, parsed.whole_stem, parsed.shard_count)
            groups.setdefault(key, []).append(file)
    found = []
    for (_, _, count), members in groups.items():
        members.sort(key=lambda file: file.name)
        found.append(Variant(tuple(members), count, members[0].quantization))
    return tuple(sorted(found, key=lambda variant: variant.files[0].path))


# -- choosing


def asked_file(models: Sequence[Variant], path: str, repo: str) -> Variant:
    """The model with the file at `path`, or with the only one of that name. Raises NotFound."""
    exact = [each for each in models if any(file.path == path for file in each.files)]
    named = [each for each in models if any(file.name == path for file in each.files)]
    if not exact and len(named) != 1:
        raise NotFound(f"{repo} has no model {path}.", _offered(models))
    return _whole(exact[0] if exact else named[0], repo)


def asked_quantization(models: Sequence[Variant], tag: str, repo: str) -> tuple[Variant, ...]:
    """The models in this quantization, the largest first. Raises NotFound.

    First by the exact label ("UD-Q4_K_XL"), then one that differs by "UD-" alone, then by the
    end of the file's name, for labels that are nobody else's.
    """
    parsed = naming.parse_file_name(f"x-{tag}.gguf")
    # "Q4_K_M.x" is another wish than Q4_K_M: what is asked for is never replaced.
    plain = parsed.label is not None and (parsed.stem, parsed.tail) == ("x", "")
    wanted = (parsed.label if plain and parsed.label else tag).upper()
    matching = [each for each in models if (each.quantization or "").upper() == wanted]
    if not matching:
        matching = [each for each in models if each.quantization == f"UD-{wanted}"]
    if not matching:
        ends = tuple(f"{separator}{tag.lower()}" for separator in "-._")
        matching = [
            each
            for each in models
            if naming.parse_file_name(each.files[0].name).whole_stem.lower().endswith(ends)
        ]
    if not matching:
        raise NotFound(f"{repo} has no {tag[:80]}.", _offered(models))
    whole = [each for each in matching if each.complete] or [_whole(matching[0], repo)]
    return tuple(sorted(whole, key=lambda each: -(each.size_bytes or 0)))


def best(
    models: Sequence[Variant],
    needs: Mapping[Variant, int | None],
    budget_bytes: int | None,
    repo: str,
) -> Variant:
    """The model for somebody who named no quantization. `needs`: bytes with its projector.

    A preferred label that fits the budget, else the largest that fits, else the smallest. With
    no budget a preferred one, else the smallest with 4 bits or more. Raises NotFound where no
    model is whole.
    """
    whole = [each for each in models if each.complete] or [_whole(models[0], repo)]
    by_size = sorted(whole, key=lambda each: needs[each] or 0)
    fitting = [each for each in by_size if _fits(needs[each], budget_bytes)]
    for label in PREFERRED:
        named = [each for each in fitting if each.quantization == label]
        if named:
            return named[-1]
    if budget_bytes is None:
        plain = [each for each in by_size if re.search(r"[4-9]|16|32", each.quantization or "")]
        return (plain or by_size[::-1])[0]
    return fitting[-1] if fitting else by_size[0]


def _fits(need: int | None, budget_bytes: int | None) -> bool:
    return budget_bytes is None or (need is not None and need <= budget_bytes)


def _whole(variant: Variant, repo: str) -> Variant:
    if not variant.complete:
        raise NotFound(
            f"{repo} has only {len(variant.files)} of the {variant.shard_count} parts of"
            f" {variant.label}.",
            "Its upload may not have ended: retry later, or choose another quantization.",
        )
    return variant


def _offered(models: Sequence[Variant]) -> str:
    """What a repository has, as a remedy."""
    sizes: dict[str, str] = {}
    for each in models:
        size = each.size_bytes
        told = "" if size is None else f" ({size / 1e9:.1f} GB)"
        sizes.setdefault(each.label, told if each.complete else " (incomplete)")
    shown = [f"{label}{told}" for label, told in list(sizes.items())[:MAX_SHOWN]]
    more = f" and {len(sizes) - MAX_SHOWN} more" if len(sizes) > MAX_SHOWN else ""
    return f"It has: {', '.join(shown)}{more}."


# -- what comes along


def projectors(files: Iterable[HubFile]) -> tuple[tuple[HubFile, str], ...]:
    """The projectors with the model's name that each bears, empty for none; MAX_PROJECTORS."""
    found = [file for file in files if file.role == "mmproj"][:MAX_PROJECTORS]
    return tuple((each, naming.mmproj_stem(naming.parse_file_name(each.name))) for each in found)


def projector_for(variant: Variant, found: Sequence[tuple[HubFile, str]]) -> HubFile | None:
    """The projector in the model's folder or above it: one that bears the model's name first,
    then the nearest, then F16. One named for another model would end llama-server.
    """
    model = variant.files[0]
    own = naming.squash(naming.parse_file_name(model.name).stem)
    choices: list[tuple[bool, int, int, str, HubFile]] = []
    for each, name in found:
        above = not each.folder or f"{model.folder}/".startswith(f"{each.folder}/")
        if not above or (name and not naming.related(name, own)):
            continue
        label = each.quantization or ""
        rank = PROJECTOR_LABELS.index(label) if label in PROJECTOR_LABELS else 9
        choices.append((not name, -len(each.folder), rank, each.path, each))
    return min(choices)[4] if choices else None


def local_name(file: HubFile, all_files: Iterable[HubFile]) -> str:
    """Where it goes below the repository's folder: flat, unless its name is there twice."""
    folded = file.name.casefold()
    twice = sum(each.name.casefold() == folded for each in all_files) > 1
    return file.path if twice else file.name


def original_weights(files: Iterable[HubFile]) -> tuple[HubFile, ...]:
    """The weights of a repository for other programs, which llama.cpp's converter reads."""
    found = [file for file in files if file.name.lower().endswith(WEIGHTS)]
    safe = [file for file in found if file.name.lower().endswith(".safetensors")]
    return tuple(safe or found)
