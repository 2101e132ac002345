"""What one GGUF file is: the facts the library lists, read from its header alone.

`read_summary` is for a scan (0.1 ms, stops before the tokenizer); `read_details` walks the
whole header and finds half files (7 ms for 49,152 tokens, so it runs in the scan worker).
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import BadGguf
from .gguf_types import (
    CACHELESS_ARCHITECTURES,
    EMBEDDING_ARCHITECTURES,
    FILE_TYPES,
    HYBRID_ARCHITECTURES,
    HYBRID_KEY_PARTS,
    RECURRENT_ARCHITECTURES,
)
from .gguf_wire import RawHeader, Scalar, walk
from .values import ModelKind

F16_BYTES = 2
MAX_LAYERS = 4096
MAX_COUNT = 1 << 31  # for any other number of heads, dimensions or tokens
FILE_TYPE_GUESSED = 1024


@dataclass(frozen=True, slots=True)
class Header:
    """One file's header. None is "not there, or not read yet"."""

    version: int
    big_endian: bool
    tensor_count: int
    details: bool  # the whole header was walked and every tensor lies inside the file
    architecture: str | None = None
    general_type: str | None = None  # "model", "adapter", "imatrix", "mmproj"
    name: str | None = None  # general.name, as its maker wrote it
    size_label: str | None = None
    license: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    kv_bytes_per_token: int | None = None
    pooling_type: int | None = None
    split_count: int | None = None  # shards this file says it is one of
    has_chat_template: bool | None = None
    parameter_count: int | None = None

    @property
    def kind(self) -> ModelKind:
        """What the model is for, UNKNOWN until the tokenizer's keys have been seen."""
        if self.architecture in EMBEDDING_ARCHITECTURES or self.pooling_type:
            return ModelKind.EMBEDDING
        if self.has_chat_template is None:
            return ModelKind.UNKNOWN
        return ModelKind.CHAT if self.has_chat_template else ModelKind.COMPLETION


CHAT_TEMPLATE = "tokenizer.chat_template"
FIELDS = tuple(field.name for field in dataclasses.fields(Header))


def read_summary(path: Path | str) -> Header:
    """Read up to the tokenizer. Blocks for one small read; raises BadGguf, OSError."""
    return _read_file(path, whole=False)


def read_details(path: Path | str) -> Header:
    """Read the whole header. Blocks for 5-100 ms; raises BadGguf, OSError."""
    return _read_file(path, whole=True)


def read_values(path: Path | str) -> tuple[dict[str, Scalar], str]:
    """(every key that is short enough to keep, the whole chat template or "").

    Tensors add "general.parameter_count", which newer files carry themselves.
    Blocks for 5-100 ms; raises BadGguf, OSError.
    """
    with open(path, "rb", buffering=0, opener=_open_without_waiting) as stream:
        size = _regular_size(stream)
        raw = walk(stream, size, whole=True, long_text=CHAT_TEMPLATE)
    values = {"general.parameter_count": raw.elements, **raw.values}
    template = values.pop(CHAT_TEMPLATE, "")
    return values, template if isinstance(template, str) else ""


def read_header(stream: BinaryIO, size: int, *, whole: bool) -> Header:
    """Read a header from a seekable `stream` that holds the start of `size` bytes of GGUF."""
    return _interpret(walk(stream, size, whole=whole))


def to_record(header: Header) -> dict[str, Any]:
    """`header` as plain values, for JSON."""
    return {name: getattr(header, name) for name in FIELDS}


def from_record(record: Mapping[str, Any]) -> Header:
    """The inverse of `to_record`. Raises TypeError if a field is unknown or missing."""
    return Header(**record)


def _read_file(path: Path | str, *, whole: bool) -> Header:
    with open(path, "rb", buffering=0, opener=_open_without_waiting) as stream:
        return read_header(stream, _regular_size(stream), whole=whole)


def _regular_size(stream: BinaryIO) -> int:
    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise BadGguf("This is not a regular file.", "Remove it from the folder.")
    return status.st_size


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe called x.gguf would otherwise hold the scan until somebody writes to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _interpret(raw: RawHeader) -> Header:
    values = raw.values
    architecture = _text(values, "general.architecture")
    template = values.get(CHAT_TEMPLATE)
    return Header(
        version=raw.version,
        big_endian=raw.big_endian,
        tensor_count=raw.tensor_count,
        details=raw.whole and (raw.tensor_count == 0 or bool(raw.elements_by_type)),
        architecture=architecture,
        general_type=_text(values, "general.type"),
        name=_text(values, "general.name"),
        size_label=_text(values, "general.size_label"),
        license=_text(values, "general.license"),
        quantization=_quantization(raw),
        context_length=_count(values, f"{architecture}.context_length"),
        embedding_length=_count(values, f"{architecture}.embedding_length"),
        kv_bytes_per_token=kv_bytes_per_token(values, architecture),
        pooling_type=_count(values, f"{architecture}.pooling_type"),
        split_count=_count(values, "split.count"),
        has_chat_template=bool(template) if raw.whole or template else None,
        parameter_count=raw.elements if raw.elements_by_type else None,
    )


def kv_bytes_per_token(values: Mapping[str, Scalar], architecture: str | None) -> int | None:
    """Bytes of F16 KV cache that one token of context takes over all layers.

    An upper bound for models with a sliding window, whose windowed layers keep fewer tokens.
    None where heads and layers do not tell: recurrent and unlisted hybrid models.
    """
    if architecture is None or architecture in RECURRENT_ARCHITECTURES:
        return None
    if architecture in CACHELESS_ARCHITECTURES:
        return 0
    prefix = f"{architecture}.attention."
    layers = _count(values, f"{architecture}.block_count")
    heads = _per_layer(values, f"{prefix}head_count", layers)
    kv_heads = _per_layer(values, f"{prefix}head_count_kv", layers) or heads
    if not layers or not heads or not kv_heads:
        return None
    if _is_hybrid(values, architecture) and not _varies(values, f"{prefix}head_count_kv"):
        return None
    default = (_count(values, f"{architecture}.embedding_length") or 0) // max(1, heads[0])
    key = _longest(values, prefix, ("key_length", "key_length_swa"), default)
    value = _longest(values, prefix, ("value_length", "value_length_swa"), default)
    if _count(values, f"{prefix}key_length_mla") and _count(values, f"{prefix}value_length_mla"):
        value = 0  # MLA keeps one latent vector, from which V is a view (llama_kv_cache)
    # The last layers of gemma3n and gemma4 reuse the cache of earlier ones.
    shared = min(_count(values, f"{prefix}shared_kv_layers") or 0, layers)
    total = sum(kv_heads[: layers - shared]) * (key + value) * F16_BYTES
    return total if 0 < total < MAX_COUNT else None


def _is_hybrid(values: Mapping[str, Scalar], architecture: str) -> bool:
    if architecture in HYBRID_ARCHITECTURES:
        return True
    return any(part in key for key in values for part in HYBRID_KEY_PARTS)


def _varies(values: Mapping[str, Scalar], key: str) -> bool:
    return isinstance(values.get(key), tuple)


def _longest(
    values: Mapping[str, Scalar], prefix: str, names: tuple[str, ...], default: int
) -> int:
    return max(_count(values, prefix + name) or 0 for name in names) or default


def _per_layer(values: Mapping[str, Scalar], key: str, layers: int | None) -> list[int]:
    """The number at `key` for each layer; empty when it is absent or does not fit."""
    value = values.get(key)
    if not layers or layers > MAX_LAYERS:
        return []
    if isinstance(value, tuple):
        fits = len(value) >= layers and all(0 <= item < MAX_COUNT for item in value)
        return list(value[:layers]) if fits else []
    count = _count(values, key)
    return [count] * layers if count else []


# What llama-quantize writes where a row is not a multiple of 256 values, as such types need:
# SmolLM2-135M as Q2_K holds no Q2_K tensor at all (src/llama-quant.cpp, tensor_type_fallback).
FALLBACK_TYPES = frozenset({"F16", "IQ4_NL", "Q4_0", "Q5_0", "Q5_1", "Q8_0"})


def _quantization(raw: RawHeader) -> str | None:
    """The label of general.file_type, unless the tensors say that it is not so."""
    file_type = _count(raw.values, "general.file_type")
    label = None if file_type is None else FILE_TYPES.get(file_type & ~FILE_TYPE_GUESSED)
    if not raw.elements_by_type:
        return label
    if label and any(_family(name) == _family(label) for name in raw.elements_by_type):
        return label
    most = raw.elements_by_type.most_common(1)[0][0]
    if label and ("_K" in label or label.startswith(("IQ", "TQ"))) and most in FALLBACK_TYPES:
        return label
    return most


def _family(label: str) -> str:
    found = re.match(r"[A-Z]+\d+", label)
    return found.group() if found else label


def _text(values: Mapping[str, Scalar], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) and value else None


def _count(values: Mapping[str, Scalar], key: str) -> int | None:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_COUNT:
        return None
    return value
