"""Small text files of models, read with bounds: they come from anywhere."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 << 20  # an index of 100,000 tensors has 10 MB, a tokenizer.json up to 35 MB
MAX_DEPTH = 100
MAX_PATH = 4096


class Unreadable(Exception):
    """It cannot be read, or is not what it should be; the text says why."""


def whole_path(text: str) -> Path | None:
    """A path from the root on that a user wrote, "~" included; None for what is none."""
    if not text or len(text) > MAX_PATH or "\x00" in text:
        return None
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # "~nobody"
        return None
    return path if path.is_absolute() else None


def read_start(path: Path, count: int) -> bytes:
    """The first `count` bytes of a regular file. Raises Unreadable; never waits for a pipe."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as exc:
        raise Unreadable(f"{path.name} cannot be opened: {exc.strerror or exc}") from exc
    with os.fdopen(handle, "rb", buffering=0) as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"{path.name} is no regular file")
        try:
            return file.read(min(count, status.st_size))  # the buffer is made before the reading
        except OSError as exc:
            raise Unreadable(f"{path.name} cannot be read: {exc.strerror or exc}") from exc


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object. Raises Unreadable, also for one that nests too deep."""
    data = read_start(path, limit + 1)
    if len(data) > limit:
        raise Unreadable(f"{path.name} has more than {limit >> 20} MB")
    return parse_object(data, path.name)


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """As `read_json`, for what was read already."""
    if _too_deep(data):
        raise Unreadable(f"{name} nests more than {MAX_DEPTH} levels deep")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable(f"{name} is no JSON") from None
    if not isinstance(value, dict):
        raise Unreadable(f"{name} is no JSON object")
    return value


def _too_deep(data: bytes) -> bool:
    """Whether brackets nest beyond MAX_DEPTH; those in texts count, which errs to the safe side.

    Cheap: only files with many brackets in a row are counted at all.
    """
    if data.count(b"[" * 8) == 0 and data.count(b'{"') < MAX_DEPTH:
        return False
    depth = 0
    for byte in data[: 4 << 20]:
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def inside(folder: Path, name: object) -> Path | None:
    """The path of a file that an index names, if it lies in the folder; else None."""
    if not isinstance(name, str) or not name or len(name) > 255:
        return None
    if "/" in name or "\\" in name or name in (".", "..") or "\x00" in name:
        return None
    return folder / name
