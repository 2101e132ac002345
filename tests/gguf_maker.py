"""Writes GGUF files for tests: tiny valid ones, and ones that lie in any field.

Tensor data is a hole in the file: nothing here costs disk space, whatever a shape says.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tray_app.engine.gguf_types import SCALARS, TENSOR_TYPES

U8, I32, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 5, 4, 6, 7, 8, 9, 10
TYPE_F32, TYPE_F16, TYPE_Q4_0, TYPE_Q8_0, TYPE_Q4_K = 0, 1, 2, 8, 12


@dataclass(frozen=True)
class Typed:
    """A value with its GGUF type spelled out, where the default would be another."""

    value_type: int
    value: Any


@dataclass(frozen=True)
class Raw:
    """Bytes that stand for a value, its type included: for lies."""

    data: bytes


@dataclass(frozen=True)
class Tensor:
    """One tensor. `offset` None: where llama.cpp expects it."""

    name: str
    shape: Sequence[int] = (32, 4)
    tensor_type: int = TYPE_F32
    offset: int | None = None

    @property
    def size_bytes(self) -> int:
        elements = 1
        for extent in self.shape:
            elements *= extent
        _, block, block_bytes = TENSOR_TYPES.get(self.tensor_type, ("", 1, 4))
        return max(0, elements // block * block_bytes)


def text(value: str | bytes, order: str = "<") -> bytes:
    """A GGUF string."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack(order + "Q", len(data)) + data


def pair(key: str | bytes, value: Any, order: str = "<") -> bytes:
    """A key with its value."""
    return text(key, order) + _value(value, order)


def _value(value: Any, order: str) -> bytes:
    if isinstance(value, Raw):
        return value.data
    if isinstance(value, (list, tuple)):
        item_type = STRING if value and isinstance(value[0], str) else I32
        items = b"".join(_plain(item_type, item, order) for item in value)
        return struct.pack(order + "IIQ", ARRAY, item_type, len(value)) + items
    typed = value if isinstance(value, Typed) else Typed(_type_of(value), value)
    return struct.pack(order + "I", typed.value_type) + _plain(typed.value_type, typed.value, order)


def _type_of(value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    return {str: STRING, int: U32, float: F32}[type(value)]


def _plain(value_type: int, value: Any, order: str) -> bytes:
    if value_type == STRING:
        return text(value, order)
    return struct.pack(order + SCALARS[value_type][0], value)


def llama_keys(
    architecture: str = "llama",
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: Any = 2,
    embedding: int = 64,
    context: int = 4096,
    tokens: int = 8,
    template: str | None = "{{ messages }}",
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The keys of a small model; `more` comes before the tokenizer, None removes a key."""
    keys: dict[str, Any] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": "Tiny Test",
        f"{architecture}.block_count": layers,
        f"{architecture}.context_length": context,
        f"{architecture}.embedding_length": embedding,
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": kv_heads,
        **(more or {}),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"t{number}" for number in range(tokens)],
        "tokenizer.chat_template": template,
    }
    return {key: value for key, value in keys.items() if value is not None}


def default_tensors(tensor_type: int = TYPE_F32) -> list[Tensor]:
    return [
        Tensor("token_embd.weight", (256, 8), tensor_type),
        Tensor("output_norm.weight", (64,), TYPE_F32),
    ]


def gguf_bytes(
    keys: Mapping[str, Any] | Sequence[tuple[Any, Any]] | None = None,
    tensors: Sequence[Tensor] | None = None,
    *,
    version: int = 3,
    order: str = "<",
    magic: bytes = b"GGUF",
    tensor_count: int | None = None,
    key_count: int | None = None,
    alignment: int = 32,
) -> tuple[bytes, int]:
    """(the header padded to where its data begins, the size of the whole file)."""
    keys = llama_keys() if keys is None else keys
    pairs = list(keys.items()) if isinstance(keys, Mapping) else list(keys)
    tensors = default_tensors() if tensors is None else tensors
    data = magic + struct.pack(
        order + "IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if key_count is None else key_count,
    )
    data += b"".join(pair(key, value, order) for key, value in pairs)
    end = 0
    for tensor in tensors:
        offset = end if tensor.offset is None else tensor.offset
        data += text(tensor.name, order) + struct.pack(order + "I", len(tensor.shape))
        data += struct.pack(f"{order}{len(tensor.shape)}q", *tensor.shape)
        data += struct.pack(order + "IQ", tensor.tensor_type, offset)
        end = (offset + tensor.size_bytes + alignment - 1) // alignment * alignment
    data += bytes(-len(data) % alignment)
    return data, len(data) + end


def write_file(path: Path, header: bytes, size: int | None = None) -> Path:
    """Write `header` and leave a hole up to `size` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) if size is None else size)
    return path


def make_gguf(
    path: Path,
    keys: Mapping[str, Any] | None = None,
    tensors: Sequence[Tensor] | None = None,
    *,
    keep: float = 1.0,
    **options: Any,
) -> Path:
    """Write a valid model file; with `keep` below 1 only that share of its tensor data."""
    header, size = gguf_bytes(keys, tensors, **options)
    return write_file(path, header, len(header) + int((size - len(header)) * keep))


def make_shards(directory: Path, stem: str, count: int, **more: Any) -> list[Path]:
    """Write a model in `count` shards as llama-gguf-split does: only the first has the keys."""
    paths = []
    for number in range(count):
        split: dict[str, Any] = {
            "split.no": Typed(2, number),
            "split.count": Typed(2, count),
            "split.tensors.count": Typed(I32, count),
        }
        keys = {**llama_keys(**more), **split} if number == 0 else split
        path = directory / f"{stem}-{number + 1:05}-of-{count:05}.gguf"
        paths.append(make_gguf(path, keys, [Tensor(f"blk.{number}.weight", (64, 8))]))
    return paths


def make_mmproj(path: Path) -> Path:
    """Write a vision projector."""
    keys = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
    }
    return make_gguf(path, keys, [Tensor("mm.0.weight", (64, 64), TYPE_F16)])
