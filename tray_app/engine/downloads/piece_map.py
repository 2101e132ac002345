"""The map beside a part file: which pieces are safely on disk, written so that it never lies."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pieces import Standing, piece_bytes_for

VERSION = 1
MAX_MAP_BYTES = 4 << 20  # 8 characters a piece: enough for 8 TB
MISSING = "-" * 8


@dataclass(frozen=True, slots=True)
class PieceMap:
    """What a part file holds, and of which file."""

    size_bytes: int
    sha256: str | None
    validator: str | None  # strong ETag or date, for files whose hash nobody tells
    standing: Standing


def write_map(path: Path, kept: PieceMap) -> None:
    """Replace the map durably. What it tells must be on disk before. Raises OSError."""
    crcs = "".join(MISSING if crc is None else f"{crc:08x}" for crc in kept.standing.crcs)
    row = {
        "v": VERSION,
        "size": kept.size_bytes,
        "sha256": kept.sha256,
        "piece": piece_bytes_for(kept.size_bytes),
        "validator": kept.validator,
        "crc32": crcs,
        "begun": kept.standing.begun,
    }
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="ascii") as file:
        json.dump(row, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_map(path: Path) -> PieceMap | None:
    """The map at `path`; None when there is none or it is garbage. Raises OSError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MAP_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_MAP_BYTES:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        return _parsed(json.loads(data))
    return None


def remove_map(path: Path) -> None:
    """The map and what a killed process left of writing one."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".tmp").unlink(missing_ok=True)


def _parsed(row: dict[str, Any]) -> PieceMap:
    """Raises ValueError, KeyError, TypeError."""
    size, piece, text = row["size"], row["piece"], row["crc32"]
    if row["v"] != VERSION or not _natural(size) or size == 0 or piece != piece_bytes_for(size):
        raise ValueError("another layout")
    count = -(-size // piece)
    if not isinstance(text, str) or len(text) != count * 8:
        raise ValueError("a wrong number of pieces")
    crcs = [text[at : at + 8] for at in range(0, len(text), 8)]
    for name in ("sha256", "validator"):
        if not isinstance(row[name], str | None):
            raise TypeError(name)
    begun = [_begun(each, count, piece, size) for each in row["begun"]]
    standing = Standing(
        tuple(None if crc == MISSING else int(crc, 16) for crc in crcs), tuple(begun)
    )
    return PieceMap(size, row["sha256"], row["validator"], standing)


def _begun(entry: Any, count: int, piece: int, size: int) -> tuple[int, int, int]:
    index, received, crc = entry
    if not all(_natural(each) for each in (index, received, crc)) or index >= count:
        raise ValueError("no such piece")
    if received > min(piece, size - index * piece):
        raise ValueError("more than the piece")
    return index, received, crc


def _natural(value: object) -> bool:
    return type(value) is int and value >= 0
