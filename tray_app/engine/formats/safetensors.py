"""The header of a safetensors file, held to the rules of the format.

8 bytes little-endian length, then a JSON object: name -> dtype, shape, data_offsets, which cover
the rest of the file without holes or overlaps (huggingface/safetensors, README "Format"; its
limit for the header is 100 MB).
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from .bounded import Unreadable, parse_object, read_start
from .values import Tensors

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 200_000
MAX_DIMS = 16
# Bits of one element; those below a byte are packed (safetensors 0.6, dtype.rs).
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8,
    "BOOL": 8, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins so may be one."""
    if len(start) < 10:
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return bool(2 <= length <= MAX_HEADER_BYTES and start[8:9] == b"{")


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """What the header says, and its `__metadata__`. Blocks for one read. Raises Unreadable."""
    size = path.stat().st_size
    start = read_start(path, 8)
    if len(start) < 8:
        raise Unreadable(f"{path.name} has {len(start)} bytes, too few for a header")
    (length,) = struct.unpack("<Q", start)
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise Unreadable(f"{path.name} claims a header of {length:,} bytes")
    if 8 + length > size:
        raise Unreadable(f"{path.name} ends within its header: it is cut off")
    header = parse_object(read_start(path, 8 + length)[8:], path.name)
    metadata = header.pop("__metadata__", {})
    tensors = _sum(header, size - 8 - length, path.name)
    return tensors, metadata if isinstance(metadata, dict) else {}


def _sum(header: dict[str, Any], data_bytes: int, name: str) -> Tensors:
    if len(header) > MAX_TENSORS:
        raise Unreadable(f"{name} claims {len(header):,} tensors")
    types: Counter[str] = Counter()
    spans = []
    for key, row in header.items():
        dtype, elements, begin, end = _row(row, key, name)
        bits = BITS.get(dtype)
        if bits is not None and (end - begin) * 8 != -(-elements * bits // 8) * 8:
            raise Unreadable(f"{name}: {key[:80]} has another size than its shape")
        types[dtype] += elements
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise Unreadable(f"{name}: its tensors overlap, or leave a hole at byte {at:,}")
        at = end
    if at > data_bytes:
        missing = (at - data_bytes) / 1e6
        raise Unreadable(f"{name} is cut off: {missing:,.1f} MB of its tensors are missing")
    return Tensors(len(header), sum(types.values()), at, tuple(types.most_common()))


def _row(row: Any, key: str, name: str) -> tuple[str, int, int, int]:
    wrong = Unreadable(f"{name}: the entry of {key[:80]!r} is not as it should be")
    if not isinstance(row, dict):
        raise wrong
    dtype, shape, offsets = row.get("dtype"), row.get("shape"), row.get("data_offsets")
    if not isinstance(dtype, str) or not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise wrong
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise wrong
    numbers = [*shape, *offsets]
    if not all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 53 for n in numbers
    ):
        raise wrong
    begin, end = offsets
    elements = math.prod(shape)
    if begin > end or elements >= 1 << 53:
        raise wrong
    return dtype, elements, begin, end


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
