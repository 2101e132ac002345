"""What file and folder names say: quantization, shards, projectors, and the model's id.

An id depends on names alone, so it stays the same while a header is read further and after
the file's content is replaced.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

RESERVED_IDS = frozenset({"default"})  # the gateway's name for the active model
GENERIC_STEMS = frozenset({"", "model", "ggmlmodel", "ggml", "gguf", "weights", "unsloth"})
UNFINISHED_SUFFIXES = (
    ".part",
    ".partial",
    ".incomplete",
    ".downloadinprogress",
    ".download",
    ".crdownload",
    ".tmp",
)
# aria2 and axel write into the final name and keep this file beside it until they are done.
CONTROL_SUFFIXES = (".aria2", ".st")

_SHARD = re.compile(r"^(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})$")
_LABEL = re.compile(
    r"(?<![^-._ ])(?P<label>(?:UD[-_])?(?:"
    r"[IT]?Q\d(?:_(?:\d|K|S|M|L|XS|XXS|XL|XXL|NL))*|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32"
    r"))(?=$|[-._ ])",
    re.IGNORECASE,
)
_HF_CACHE_FOLDER = re.compile(r"^models--(?P<org>.+?)--(?P<repo>.+)$")
_SEPARATORS = "-._ "


@dataclass(frozen=True, slots=True)
class FileName:
    """A GGUF file name taken apart: `stem-label-tail-00001-of-00003.gguf`."""

    whole_stem: str  # without shard numbers and suffix
    stem: str  # without the label
    label: str | None  # quantization as the field writes it, e.g. "UD-Q4_K_XL"
    tail: str  # what follows the label, e.g. "imat"
    shard_index: int = 1
    shard_count: int = 1
    is_mmproj: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file was published. `sure` when the folder layout leaves no doubt."""

    publisher: str | None = None
    repo: str | None = None
    sure: bool = False


def parse_file_name(name: str) -> FileName:
    """Take `name` (with its .gguf) apart. Never fails: what is not there stays empty."""
    base = name[: -len(".gguf")] if is_gguf(name) else name
    index, count = 1, 1
    shard = _SHARD.match(base)
    if shard and 1 <= int(shard["index"]) <= int(shard["count"]):
        base, index, count = shard["stem"], int(shard["index"]), int(shard["count"])
    stem, label, tail = _split_label(base)
    return FileName(base, stem, label, tail, index, count, "mmproj" in name.lower())


def _split_label(base: str) -> tuple[str, str | None, str]:
    labels = list(_LABEL.finditer(base))
    if not labels:
        return base, None, ""
    found = labels[-1]
    stem = base[: found.start()].rstrip(_SEPARATORS)
    return stem, _spelled(found["label"]), base[found.end() :].strip(_SEPARATORS)


def _spelled(label: str) -> str:
    """`label` in the field's spelling: q4_k_m -> Q4_K_M, fp16 -> F16, MXFP4_MOE -> MXFP4."""
    upper = label.upper().replace("UD_", "UD-").removesuffix("_MOE")
    return re.sub(r"^FP(16|32)$", r"F\1", upper)


def is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def skip_reason(name: str) -> str | None:
    """Why a file called `name` is not a model at all; None if it may be one."""
    lower = name.lower()
    if lower.startswith("ggml-vocab-"):
        return "A vocabulary for llama.cpp's own tests: it holds no weights."
    if lower.startswith("imatrix") or (
        lower.endswith("imatrix.gguf") and parse_file_name(name).label is None
    ):
        return "An importance matrix: it helps to quantize a model and is none itself."
    return None


def is_unfinished(name: str) -> bool:
    """Whether `name` is a GGUF download that has not ended, by its suffix."""
    lower = name.lower()
    return ".gguf" in lower and lower.endswith(UNFINISHED_SUFFIXES)


def find_origin(path: str, root: str, *, sure: bool = False) -> Origin:
    """Publisher and repo from the folders between `root` and the file at `path` below it.

    A Hugging Face cache names both anywhere above the file. Otherwise they are the last two
    folders, after those that only name a quantization (repos keep shards in such folders);
    `sure` says that the library folder is known to be laid out so.
    """
    if "models--" in path:
        for part in reversed(path.split(os.sep)[:-1]):
            cached = _HF_CACHE_FOLDER.match(part)
            if cached:
                return Origin(cached["org"], cached["repo"], sure=True)
    *folders, file_name = path[len(root) :].lstrip(os.sep).split(os.sep)
    while len(folders) > 2 and _names_a_quantization(folders[-1], file_name):
        folders.pop()
    if len(folders) < 2:
        return Origin()
    return Origin(folders[-2], folders[-1], sure=sure and len(folders) == 2)


def _names_a_quantization(folder: str, file_name: str) -> bool:
    parsed = parse_file_name(file_name)
    stem, label, _ = _split_label(folder)
    return (label is not None and not stem) or folder == parsed.whole_stem


def trusted_origin(name: FileName, origin: Origin) -> Origin:
    """`origin`, or none if two folders merely happen to lie above an unrelated file."""
    if origin.sure or (origin.repo and related(name.stem, origin.repo)):
        return origin
    return Origin()


def id_candidates(path: str, name: FileName, origin: Origin) -> Iterator[str]:
    """Ids for the file, best first; the last is unique to its path.

    `origin` is a trusted one. The library gives out the first that no other model holds.
    """
    tag = "-".join(part for part in (name.label, name.tail) if part)
    stem = name.stem or name.whole_stem
    owner = f"{origin.publisher}/{origin.repo}" if origin.repo else ""
    in_full = _join(owner or stem, f"{stem}-{tag}".strip("-") if owner else tag)
    # A trusted origin that is not sure is a related one.
    plain = bool(owner) and (not origin.sure or related(name.stem, origin.repo or ""))
    short = _join(owner, tag) if plain else in_full
    if short.lower() not in RESERVED_IDS:
        yield short
        if in_full != short:
            yield in_full
    yield f"{short}~{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"


def _join(name: str, tag: str) -> str:
    """An id fit for JSON, a command line and a log: no blanks, nothing unprintable."""
    model_id = f"{name.replace(':', '-')}:{tag}" if tag else name.replace(":", "-")
    if model_id.isprintable() and " " not in model_id:
        return model_id
    return "".join(char if char.isprintable() and char != " " else "-" for char in model_id)


def display_name(name: FileName, origin: Origin) -> str:
    """The model's name for people: the file's, or the repo's if the file says nothing."""
    if origin.repo and squash(name.stem) in GENERIC_STEMS:
        return re.sub(r"[-_.]gguf$", "", origin.repo, flags=re.IGNORECASE)
    return (name.stem or name.whole_stem).encode(errors="replace").decode()


def best_label(from_name: str | None, from_header: str | None) -> str | None:
    """The more telling of two labels: the name's (UD-Q4_K_XL) if the header's bits agree."""
    if from_name == from_header:
        return from_name
    if from_name and from_header and _bits(from_name) != _bits(from_header):
        return from_header
    return from_name or from_header


def _bits(label: str) -> str:
    return "".join(re.findall(r"\d+", label)[:1])


def related(stem: str, repo: str) -> bool:
    """Whether a file's stem and a repo's name tell of the same model."""
    one, other = squash(stem), squash(repo)
    if one in GENERIC_STEMS or one == other:
        return True
    return min(len(one), len(other)) > 2 and (one in other or other in one)


def squash(name: str) -> str:
    """`name` without case, separators and format words, for comparing."""
    plain = re.sub(r"[^a-z0-9]+", "", name.lower())
    return plain.removesuffix("gguf") or plain


def mmproj_stem(name: FileName) -> str:
    """The model's name inside a projector's name; empty when it is called mmproj alone."""
    without = re.sub(r"mmproj", "", name.stem, flags=re.IGNORECASE).strip(_SEPARATORS)
    plain = squash(without)
    return "" if plain in GENERIC_STEMS else plain
