"""A model's folder as Hugging Face lays it out: config, tokenizer, weights, or an adapter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import safetensors
from .bounded import Unreadable, inside, read_json, read_start
from .values import Tensors, Tokenizer

MAX_FILES = 20_000
MAX_SHARDS = 2_000
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"(?:model|pytorch_model)-(\d{5})-of-(\d{5})\.(?:safetensors|bin)")
_TOKENIZER_MODELS = {"BPE": "bpe", "Unigram": "unigram", "WordPiece": "wordpiece"}


@dataclass(slots=True)
class Weights:
    """The weight files of a folder, and what is wrong with them."""

    files: list[str] = field(default_factory=list)
    tensors: Tensors | None = None  # of safetensors only
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    pickled: bool = False
    size_bytes: int = 0


def names_in(folder: Path) -> list[str]:
    """The names in a folder. Raises Unreadable."""
    names = []
    try:
        for number, path in enumerate(folder.iterdir()):
            if number >= MAX_FILES:
                raise Unreadable(f"{folder.name} holds more than {MAX_FILES:,} files")
            names.append(path.name)
    except OSError as exc:
        raise Unreadable(f"{folder.name} cannot be read: {exc.strerror or exc}") from exc
    return sorted(names)


def find_weights(folder: Path, names: Sequence[str]) -> Weights:
    """What the index names, or the files as they are called. Raises Unreadable."""
    weights = Weights()
    index = next((name for name in INDEXES if name in names), None)
    if index is not None:
        weights.files = _indexed(folder, index, weights)
    else:
        single = [name for name in _SINGLE if name in names]
        weights.files = single[:1] or _shards(names, weights)
    weights.pickled = any(name.endswith(".bin") for name in weights.files)
    _look(folder, weights)
    return weights


def _indexed(folder: Path, index: str, weights: Weights) -> list[str]:
    table = read_json(folder / index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise Unreadable(f"{index} names no weights")
    names: dict[str, None] = {}
    for name in table.values():
        path = inside(folder, name)
        if path is None:
            raise Unreadable(f"{index} names {str(name)[:80]!r}, which is no file of this folder")
        names[path.name] = None
        if len(names) > MAX_SHARDS:
            raise Unreadable(f"{index} names more than {MAX_SHARDS:,} files")
    weights.missing = [name for name in names if not (folder / name).is_file()]
    return [name for name in names if name not in weights.missing]


def _shards(names: Sequence[str], weights: Weights) -> list[str]:
    """Shards without an index: their names tell how many there should be."""
    found = [(name, match) for name in names if (match := _SHARD.fullmatch(name))]
    if found:
        count = int(found[0][1][2])
        there = {int(match[1]) for _, match in found}
        gone = [number for number in range(1, min(count, MAX_SHARDS) + 1) if number not in there]
        weights.missing = [f"shard {number} of {count}" for number in gone]
        return [name for name, _ in found]
    other = [name for name in names if name.endswith(".safetensors") and "adapter" not in name]
    return other[:1]


def _look(folder: Path, weights: Weights) -> None:
    count = parameters = size = 0
    types: Counter[str] = Counter()
    for name in weights.files:
        path = folder / name
        weights.size_bytes += path.stat().st_size
        if not name.endswith(".safetensors"):
            continue
        try:
            tensors, _ = safetensors.read_tensors(path)
        except Unreadable as exc:
            weights.broken.append(str(exc))
            continue
        count += tensors.count
        parameters += tensors.parameters
        size += tensors.bytes
        types.update(dict(tensors.types))
    if count:
        weights.tensors = Tensors(count, parameters, size, tuple(types.most_common()))


def find_tokenizer(folder: Path, names: Sequence[str]) -> Tokenizer | None:
    """What turns text into tokens here; None when nothing does. Raises Unreadable."""
    template = _has_template(folder, names)
    if "tokenizer.json" in names:
        model = read_json(folder / "tokenizer.json").get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        if kind is None and isinstance(model, dict) and "merges" in model:
            kind = "BPE"  # files before 2021 do not tell
        return Tokenizer(
            _TOKENIZER_MODELS.get(str(kind), str(kind).lower()[:40]), "tokenizer.json", template
        )
    if "tokenizer.model" in names:
        start = read_start(folder / "tokenizer.model", 16)
        kind = "sentencepiece" if start[:1] == b"\n" else "tiktoken"  # protobuf's first field
        return Tokenizer(kind, "tokenizer.model", template)
    for name, kind in (("vocab.json", "bpe"), ("vocab.txt", "wordpiece"), ("tekken.json", "bpe")):
        if name in names:
            return Tokenizer(kind, name, template)
    return None


def _has_template(folder: Path, names: Sequence[str]) -> bool | None:
    if "chat_template.jinja" in names or "chat_template.json" in names:
        return True
    if "tokenizer_config.json" not in names:
        return None
    return bool(read_json(folder / "tokenizer_config.json").get("chat_template"))


def architecture_of(config: dict[str, Any]) -> str | None:
    """The first of `architectures`."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    return first[:100] if isinstance(first, str) and first.isprintable() else None


def quantization_of(config: dict[str, Any]) -> tuple[str, bool] | None:
    """How the weights are quantized already, in words, and whether the converter reads that.

    llama.cpp's converter undoes bitnet, fp8, gptq (act order included), compressed-tensors and
    modelopt (conversion/base.py of b11434, `dequant_model`), and takes mxfp4 as it is.
    """
    told = config.get("quantization_config")
    if not isinstance(told, dict):
        inner = config.get("text_config")
        told = inner.get("quantization_config") if isinstance(inner, dict) else None
    if not isinstance(told, dict):
        return None
    method = str(told.get("quant_method", ""))[:40].lower()
    bits = told.get("bits") or (
        4 if told.get("load_in_4bit") else 8 if told.get("load_in_8bit") else None
    )
    words = f"{method.upper() or 'Quantized'}{f', {bits} bit' if isinstance(bits, int) else ''}"
    readable = method in ("gptq", "fp8", "bitnet", "compressed-tensors", "modelopt", "mxfp4")
    return words, readable


def is_mlx(config: dict[str, Any]) -> bool:
    """MLX writes `quantization` with `group_size`, and no `quantization_config` of its own kind."""
    told = config.get("quantization")
    return isinstance(told, dict) and "group_size" in told


def context_of(config: dict[str, Any]) -> int | None:
    """Tokens it was trained for."""
    for source in (config, config.get("text_config")):
        value = source.get("max_position_embeddings") if isinstance(source, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31:
            return value
    return None


def sees(config: dict[str, Any]) -> bool:
    """Whether there is a part for pictures, or for sound: either needs a projector."""
    parts = ("vision_config", "visual", "audio_config")
    return any(isinstance(config.get(key), dict) for key in parts)
