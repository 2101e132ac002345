"""GGUF headers byte by byte: what the format allows, and a walk that trusts nothing in it.

Headers come from the internet, so every count and length is bounded before it is used,
memory stays near one read chunk whatever a header claims, and tensor data is never read.
The format is `ggml/include/gguf.h` in llama.cpp; a header it would refuse is refused here.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO

from .errors import BadGguf
from .gguf_types import (
    ARRAY,
    MAX_TENSOR_TYPE,
    NEWEST_KNOWN_TENSOR_TYPE,
    REMOVED_TENSOR_TYPES,
    SCALARS,
    STRING,
    TENSOR_TYPES,
    UINT32,
)

# Real headers reach 16 MB (gemma-4: 262,144 tokens). The caps leave room to grow.
MAX_HEADER_BYTES = 128 << 20
MAX_KEYS = 8192
MAX_KEY_BYTES = 512
MAX_TENSORS = 65_536
MAX_STRINGS = 4 << 20  # in all string arrays together
MAX_KEPT_ITEMS = 4096  # of a number array that describes the layers
MAX_KEPT_BYTES = 1024  # of a text value; names and licences are shorter
MAX_LONG_BYTES = 256 << 10  # of one text that is asked for; chat templates reach 20 KB
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME is 64 with its final zero
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_ALIGNMENT = 1 << 20
MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name length, name, dims, one dim, type, offset

SUMMARY_CHUNK_BYTES = 16 << 10  # the keys before the tokenizer take 1-2 KB
DETAILS_CHUNK_BYTES = 1 << 20
SUMMARY_STRINGS = 4096  # a summary stops rather than walk more array items than this

AGAIN = "Download the file again; if it stays so, ask whoever published it."
CONVERT = "Convert or quantize the model again with a current llama.cpp."

Scalar = int | float | bool | str | tuple[int, ...]


@dataclass(slots=True)
class RawHeader:
    """What the walk kept. The fields below `values` are filled by a whole walk only."""

    version: int
    big_endian: bool
    tensor_count: int
    values: dict[str, Scalar] = field(default_factory=dict)
    whole: bool = False
    elements: int = 0
    elements_by_type: Counter[str] = field(default_factory=Counter)


class _Cursor:
    """Reads forward through the header in chunks; skipping never reads."""

    def __init__(self, stream: BinaryIO, size: int, chunk: int) -> None:
        self.size = size
        self.strings_walked = 0
        self._stream = stream
        self._chunk = chunk
        self._buffer = b""
        self._base = 0
        self._pos = 0
        self.use_order("<")

    def use_order(self, order: str) -> None:
        self.order = order
        self._u32 = struct.Struct(order + "I")
        self._u64 = struct.Struct(order + "Q")

    @property
    def offset(self) -> int:
        return self._base + self._pos

    @property
    def left(self) -> int:
        return self.size - self.offset

    def check(self, count: int) -> None:
        """Raise unless `count` more bytes of header are in the file and believable."""
        end = self.offset + count
        if end > self.size:
            raise BadGguf(
                f"The file ends inside its header: the header goes on to byte {end:,} or "
                f"further, the file has {self.size:,}.",
                AGAIN,
            )
        if end > MAX_HEADER_BYTES:
            raise BadGguf(f"The header is longer than {MAX_HEADER_BYTES:,} bytes.", AGAIN)

    def take(self, count: int) -> bytes:
        end = self._pos + count
        if end > len(self._buffer):
            self._fill(count)
            end = count
        taken = self._buffer[self._pos : end]
        self._pos = end
        return taken

    def _fill(self, count: int) -> None:
        self.check(count)
        self._base += self._pos
        self._pos = 0
        self._stream.seek(self._base)
        self._buffer = self._stream.read(max(count, self._chunk))
        if len(self._buffer) < count:
            raise BadGguf(f"The file ended at byte {self._base + len(self._buffer):,}.", AGAIN)

    def skip(self, count: int) -> None:
        self.check(count)
        self._pos += count
        if self._pos > len(self._buffer):
            self._base += self._pos
            self._pos = 0
            self._buffer = b""

    def u32(self) -> int:
        value: int = self._u32.unpack(self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = self._u64.unpack(self.take(8))[0]
        return value

    def short_text(self, what: str, limit: int) -> str:
        length = self.u64()
        if length > limit:
            raise BadGguf(f"{what} is {length:,} bytes long; at most {limit:,} are allowed.", AGAIN)
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise BadGguf(f"{what} is not text.", AGAIN) from None

    def text(self, limit: int = MAX_KEPT_BYTES) -> str:
        """A string value, of which no more than `limit` bytes are kept; names are one line."""
        length = self.u64()
        self.check(length)
        kept = self.take(min(length, limit)).decode(errors="replace")
        self.skip(max(0, length - limit))
        if limit > MAX_KEPT_BYTES:
            return kept
        return "".join(char for char in kept if char.isprintable()).strip()

    def skip_strings(self, count: int) -> None:
        """Pass `count` strings: the one long loop, about 0.1 us an item."""
        self.check(8 * count)
        unpack = self._u64.unpack_from
        while count:
            buffer, pos, last = self._buffer, self._pos, len(self._buffer) - 8
            while count and pos <= last:
                pos += 8 + unpack(buffer, pos)[0]
                count -= 1
            step = pos - self._pos
            if step:
                self.skip(step)
            if count:
                self._fill(8)


def walk(stream: BinaryIO, size: int, *, whole: bool, long_text: str = "") -> RawHeader:
    """Read the header of the `size` bytes behind `stream`, which must be seekable.

    Of the key `long_text` up to `MAX_LONG_BYTES` are kept as they are.

    Without `whole` the walk ends at the first tokenizer array: everything about the shape of
    the model stands before it, and the arrays are what makes headers long (0.1 ms against
    14 ms for 49,152 tokens). Raises BadGguf, and OSError if the file cannot be read.
    """
    cursor = _Cursor(stream, size, DETAILS_CHUNK_BYTES if whole else SUMMARY_CHUNK_BYTES)
    raw, key_count = _start(cursor)
    seen: set[str] = set()
    for number in range(key_count):
        key = cursor.short_text(f"Key {number}", MAX_KEY_BYTES)
        if not key or key in seen:
            raise BadGguf(f"Key {number} is {'there twice' if key else 'empty'}.", AGAIN)
        seen.add(key)
        limit = MAX_LONG_BYTES if key == long_text else MAX_KEPT_BYTES
        if not _read_value(cursor, key, raw, limit, whole=whole):
            _check_room_for_tensors(cursor, raw)
            return raw
    alignment = _alignment(raw)
    _check_room_for_tensors(cursor, raw)
    raw.whole = True
    if whole:
        _walk_tensors(cursor, raw, alignment)
    return raw


def _start(cursor: _Cursor) -> tuple[RawHeader, int]:
    if cursor.size < 24:
        raise BadGguf(f"The file has {cursor.size} bytes; a GGUF header alone needs 24.", AGAIN)
    magic = cursor.take(4)
    if magic != b"GGUF":
        raise BadGguf(_not_gguf(magic), "Only GGUF files can be run; convert the model first.")
    version = cursor.u32()
    big_endian = version & 0xFFFF == 0 and version != 0
    if big_endian:
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
        cursor.use_order(">")
    if version == 1:
        raise BadGguf("The file is GGUF version 1, which llama.cpp no longer reads.", CONVERT)
    if version not in (2, 3):
        raise BadGguf(f"The file says GGUF version {version}; versions 2 and 3 are known.", AGAIN)
    tensor_count, key_count = cursor.u64(), cursor.u64()
    if tensor_count > MAX_TENSORS:
        raise BadGguf(f"The header claims {tensor_count:,} tensors, over {MAX_TENSORS:,}.", AGAIN)
    if key_count > MAX_KEYS:
        raise BadGguf(f"The header claims {key_count:,} keys, over {MAX_KEYS:,}.", AGAIN)
    return RawHeader(version, big_endian, tensor_count), key_count


def _not_gguf(magic: bytes) -> str:
    if magic in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "The file is in an old ggml format from before GGUF."
    if magic == b"\0\0\0\0":
        return "The file begins with zeros: its download never wrote the beginning."
    if magic[:1] in (b"<", b"{") or magic == b"vers":
        return "The file is text (a web page or a Git LFS pointer), not a model."
    return f"The file does not begin with GGUF but with {magic!r}."


def _read_value(cursor: _Cursor, key: str, raw: RawHeader, limit: int, *, whole: bool) -> bool:
    """Keep or pass the value of `key`; False when a summary should end here."""
    value_type = cursor.u32()
    if value_type in SCALARS:
        letter, width = SCALARS[value_type]
        raw.values[key] = struct.unpack(cursor.order + letter, cursor.take(width))[0]
        if key == "general.alignment" and value_type != UINT32:
            raise BadGguf(f"general.alignment has value type {value_type}, not 4.", AGAIN)
        return True
    if value_type == STRING:
        raw.values[key] = cursor.text(limit)
        return True
    if value_type != ARRAY:
        raise BadGguf(f"Key {key} has value type {value_type}; 0 to 12 exist.", AGAIN)
    return _read_array(cursor, key, raw, whole=whole)


def _read_array(cursor: _Cursor, key: str, raw: RawHeader, *, whole: bool) -> bool:
    item_type, count = cursor.u32(), cursor.u64()
    if item_type == ARRAY:
        raise BadGguf(f"Key {key} is an array of arrays, which GGUF readers refuse.", AGAIN)
    if item_type != STRING and item_type not in SCALARS:
        raise BadGguf(f"Key {key} is an array of value type {item_type}.", AGAIN)
    letter, width = SCALARS.get(item_type, ("", 8))  # a string is 8 bytes of length at least
    if count * width > cursor.left:
        raise BadGguf(
            f"The array {key} claims {count:,} items, but only {cursor.left:,} bytes follow.",
            AGAIN,
        )
    if not whole and (key.startswith("tokenizer.") or _too_many(cursor, item_type, count)):
        return False
    if item_type == STRING:
        cursor.strings_walked += count
        if cursor.strings_walked > MAX_STRINGS:
            raise BadGguf(f"The header holds over {MAX_STRINGS:,} strings in arrays.", AGAIN)
        cursor.skip_strings(count)
    elif count <= MAX_KEPT_ITEMS and letter not in "fd" and not key.startswith("tokenizer."):
        data = cursor.take(count * width)
        raw.values[key] = struct.unpack(f"{cursor.order}{count}{letter}", data)
    else:
        cursor.skip(count * width)
    return True


def _too_many(cursor: _Cursor, item_type: int, count: int) -> bool:
    return item_type == STRING and cursor.strings_walked + count > SUMMARY_STRINGS


def _check_room_for_tensors(cursor: _Cursor, raw: RawHeader) -> None:
    if raw.tensor_count * MIN_TENSOR_BYTES > cursor.left:
        raise BadGguf(
            f"The file is incomplete: {raw.tensor_count:,} tensors are announced, and "
            f"{cursor.left:,} bytes follow.",
            AGAIN,
        )


def _alignment(raw: RawHeader) -> int:
    value = raw.values.get("general.alignment", 32)  # GGUF_DEFAULT_ALIGNMENT
    if not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise BadGguf(f"general.alignment is {value}, not a power of two.", AGAIN)
    return value


def _walk_tensors(cursor: _Cursor, raw: RawHeader, alignment: int) -> None:
    """Count parameters, and check every tensor against the rules and the end of the file."""
    names: set[str] = set()
    expected: int | None = 0  # the offset llama.cpp insists on; None after an unknown type
    data_end = 0
    for number in range(raw.tensor_count):
        name = cursor.short_text(f"The name of tensor {number}", MAX_TENSOR_NAME_BYTES)
        if name in names:
            raise BadGguf(f"Tensor {name!r} is there twice.", AGAIN)
        names.add(name)
        elements, row, tensor_type, offset = _tensor_shape(cursor, name)
        type_name, size = _tensor_bytes(name, elements, row, tensor_type)
        raw.elements += elements
        raw.elements_by_type[type_name] += elements
        if expected is not None and offset != expected:
            raise BadGguf(
                f"Tensor {name!r} is at offset {offset:,}; {expected:,} was expected.", AGAIN
            )
        data_end = max(data_end, offset + (size or 0))
        expected = None if size is None or expected is None else _pad(offset + size, alignment)
    if raw.tensor_count:
        needed = _pad(cursor.offset, alignment) + data_end
        if needed > cursor.size:
            raise BadGguf(
                f"The file is incomplete: it has {cursor.size:,} of {needed:,} bytes.",
                "Finish or repeat its download.",
            )


def _tensor_shape(cursor: _Cursor, name: str) -> tuple[int, int, int, int]:
    """(elements, elements in a row, ggml type, offset) of the next tensor."""
    dims = cursor.u32()
    if dims > MAX_DIMS:
        raise BadGguf(f"Tensor {name!r} has {dims:,} dimensions; {MAX_DIMS} is the most.", AGAIN)
    fields = struct.unpack(f"{cursor.order}{dims}qIQ", cursor.take(8 * dims + 12))
    elements = 1
    for extent in fields[:dims]:
        if extent < 0:
            raise BadGguf(f"Tensor {name!r} has a dimension of {extent:,}.", AGAIN)
        elements *= extent
    if elements >= 1 << 63:
        raise BadGguf(f"Tensor {name!r} has more elements than can be counted.", AGAIN)
    return elements, fields[0] if dims else 1, fields[-2], fields[-1]


def _tensor_bytes(name: str, elements: int, row: int, tensor_type: int) -> tuple[str, int | None]:
    """(type name, size in bytes); the size is None for a type newer than this list."""
    known = TENSOR_TYPES.get(tensor_type)
    if known is None:
        if tensor_type in REMOVED_TENSOR_TYPES:
            raise BadGguf(f"Tensor {name!r} has the removed ggml type {tensor_type}.", CONVERT)
        if tensor_type < NEWEST_KNOWN_TENSOR_TYPE or tensor_type > MAX_TENSOR_TYPE:
            raise BadGguf(f"Tensor {name!r} has ggml type {tensor_type}: no such type.", AGAIN)
        return f"TYPE_{tensor_type}", None
    type_name, block, block_bytes = known
    if row % block:
        raise BadGguf(
            f"Tensor {name!r} has rows of {row:,} elements, no multiple of {type_name}'s {block}.",
            AGAIN,
        )
    return type_name, elements // block * block_bytes


def _pad(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) & -alignment
