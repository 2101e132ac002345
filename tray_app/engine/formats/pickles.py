"""PyTorch's pickled weights, looked at and never unpickled: their opcodes are only listed.

A pickle can name any function to be called when it is loaded. torch.save writes a ZIP with one
`data.pkl`; before 1.6 it wrote bare pickles in a row.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .bounded import Unreadable, read_start

MAX_PICKLE_BYTES = 32 << 20  # a checkpoint of 100,000 tensors has 15 MB
MAX_OPCODES = 4_000_000
MAX_ENTRIES = 200_000
# What a checkpoint needs to be put together (torch/_weights_only_unpickler.py).
_SAFE = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch.serialization _get_layout",
        *(
            f"torch {name}Storage"
            for name in (
                *("Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool"),
                *("BFloat16", "ComplexDouble", "ComplexFloat"),
            )
        ),
        *(f"torch {name}" for name in ("float32", "float16", "bfloat16", "int64", "int8", "uint8")),
    }
)


@dataclass(frozen=True, slots=True)
class Pickled:
    """What the opcodes say."""

    foreign: tuple[str, ...]  # names that a checkpoint has no need of

    @property
    def dangerous(self) -> bool:
        """Whether loading it could do more than give tensors."""
        return bool(self.foreign)


def is_pickle(start: bytes) -> bool:
    """A ZIP, or a bare pickle of protocol 2 to 5."""
    return start[:4] == b"PK\x03\x04" or (
        start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"
    )


def look(path: Path) -> Pickled:
    """List what a checkpoint would call. Blocks for seconds at most. Raises Unreadable."""
    start = read_start(path, 4)
    data = _from_zip(path) if start == b"PK\x03\x04" else read_start(path, MAX_PICKLE_BYTES)
    return Pickled(_names(data, path.name))


def _from_zip(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            rows = archive.infolist()
            if len(rows) > MAX_ENTRIES:
                raise Unreadable(f"{path.name} holds {len(rows):,} entries")
            pickles = [row for row in rows if row.filename.endswith("/data.pkl")]
            if not pickles:
                raise Unreadable(f"{path.name} is a ZIP archive without a checkpoint in it")
            if pickles[0].file_size > MAX_PICKLE_BYTES:
                raise Unreadable(f"{path.name} claims a pickle of {pickles[0].file_size:,} bytes")
            with archive.open(pickles[0]) as entry:
                return entry.read(MAX_PICKLE_BYTES)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as exc:
        raise Unreadable(f"{path.name} is a broken archive: {exc}") from exc


def _names(data: bytes, name: str) -> tuple[str, ...]:
    """All names that are looked up, but for those that every checkpoint has."""
    found: dict[str, None] = {}
    texts: list[str] = []
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number > MAX_OPCODES:
                raise Unreadable(f"{name} has more than {MAX_OPCODES:,} steps")
            if opcode.name in ("GLOBAL", "INST"):
                found[str(argument)] = None
            elif opcode.name == "STACK_GLOBAL":  # module and name were pushed before
                found[" ".join(texts[-2:]) or "?"] = None
            elif isinstance(argument, str):
                texts = [*texts[-3:], argument[:200]]
            if opcode.name == "STOP":
                break
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as exc:
        raise Unreadable(f"{name} is a broken pickle: {exc}") from exc
    return tuple(each[:200] for each in found if each not in _SAFE)
