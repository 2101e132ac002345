"""Conversations outlive a switch: the KV cache of a model's slots is kept on the disk.

Before an idle model leaves memory its slots are saved with llama-server's own slot endpoints, and
restored when it comes back with the same file, arguments and runtime: a prompt that was read once
is not read again (2,101 tokens of SmolLM2 on 2 cores: 12 s against 0.04 s). The files hold what was
said, so they lie in a folder of this user alone, bounded in size, oldest out first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .child_question import ask_child
from .launch import Endpoint
from .values import Model

log = logging.getLogger(__name__)

LEAST_TOKENS = 256  # less is read again faster than it is worth a file: 0.3 s even on 2 cores
SAVE_S = 30.0  # all slots together; then the model leaves without
RESTORE_S = 30.0
SLOTS_ASKED = 16
DISK_LEFT_BYTES = 2 << 30  # never fill a disk with this
KV_BYTES_PER_TOKEN = 128 * 1024  # Llama 3 8B at F16; for models whose header does not tell
KEY_LETTERS, MODEL_LETTERS = 40, 12
_NAME = re.compile(r"[0-9a-f]{40}-(\d{1,3})\.kv")


def key_of(model: Model, runtime_id: str, arguments: Sequence[str]) -> str:
    """Names everything a saved KV cache depends on; `arguments` are without endpoint and program.

    Raises OSError when the model's file is not there.
    """
    status = model.path.stat()
    parts = [status.st_size, status.st_mtime_ns, runtime_id, *arguments]
    rest = hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return model_key(model.path) + rest[: KEY_LETTERS - MODEL_LETTERS]


def model_key(path: Path) -> str:
    """What the keys of a model's file begin with, whatever its arguments are."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:MODEL_LETTERS]


class Conversations:
    """The folder and its bound. Thread-safe."""

    def __init__(self, folder: Path, limit_bytes: Callable[[], int]) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()

    def prepare(self) -> Path:
        """The folder, made if need be. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.folder

    def kept(self, key: str) -> list[tuple[int, str]]:
        """(slot, file name) of what is kept under a key."""
        found = []
        for path in self.folder.glob(f"{key}-*.kv"):
            name = _NAME.fullmatch(path.name)
            if name is not None:
                found.append((int(name.group(1)), path.name))
        return sorted(found)

    def room_for(self, need_bytes: int) -> bool:
        """Whether so much may be written: within the bound, and not the disk's last."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return False
        return need_bytes <= self._limit_bytes() and need_bytes + DISK_LEFT_BYTES <= free

    def replace(self, key: str, parts: Sequence[tuple[int, str]]) -> None:
        """What is kept of the key's model is from now on these (slot, file) and nothing else."""
        with self._lock:
            fresh = set()
            for slot, part in parts:
                name = f"{key}-{slot}.kv"
                with contextlib.suppress(OSError):
                    os.replace(self.folder / part, self.folder / name)
                    fresh.add(name)
            for path in self._files():
                if path.name.startswith(key[:MODEL_LETTERS]) and path.name not in fresh:
                    self._remove(path.name)
            self._bound()

    def forget(self, key: str = "") -> int:
        """Remove what is kept under what `key` begins, or all; how many bytes that were."""
        with self._lock:
            found = [path.name for path in self._files() if path.name.startswith(key)]
            return sum(self._remove(name) for name in found)

    def tidy(self) -> None:
        """Remove what a killed engine left half-written, and what is beyond the bound."""
        with self._lock:
            for path in self.folder.glob("*.part"):
                self._remove(path.name)
            self._bound()

    def held_bytes(self) -> int:
        """How much is kept."""
        return sum(_size(path) for path in self._files())

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("*.kv") if _NAME.fullmatch(path.name)]

    def _bound(self) -> None:
        """Remove the oldest until the rest is within the bound."""
        files = sorted(self._files(), key=_age, reverse=True)
        left = self._limit_bytes()
        for path in files:
            left -= _size(path)
            if left < 0:
                self._remove(path.name)

    def _remove(self, name: str) -> int:
        path = self.folder / name
        size = _size(path)
        with contextlib.suppress(OSError):
            path.unlink()
            return size
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """One model's way to what is kept of it. All that goes wrong only costs a prompt's time."""

    conversations: Conversations
    key: str
    bytes_per_token: int

    async def save(self, endpoint: Endpoint) -> None:
        """Keep the slots of an idle llama-server that hold a conversation worth it."""
        parts: list[tuple[int, str]] = []
        try:
            async with asyncio.timeout(SAVE_S):
                for slot, tokens in await self._slots(endpoint):
                    if not self.conversations.room_for(tokens * self.bytes_per_token):
                        continue
                    part = f"{self.key}-{slot}.part"
                    if await _act(endpoint, slot, "save", part, SAVE_S):
                        parts.append((slot, part))
        except TimeoutError:
            log.warning("the conversations of a model took too long to keep")
        await asyncio.to_thread(self.conversations.replace, self.key, parts)

    async def restore(self, endpoint: Endpoint) -> None:
        """Give a fresh llama-server its slots back; what it does not take is removed."""
        kept = await asyncio.to_thread(self.conversations.kept, self.key)
        for slot, name in kept:
            if not await _act(endpoint, slot, "restore", name, RESTORE_S):
                log.warning("a kept conversation was not taken back", extra={"file": name})
                await asyncio.to_thread(self.conversations.forget, name)

    async def _slots(self, endpoint: Endpoint) -> list[tuple[int, int]]:
        """(slot, tokens) of those that hold enough."""
        told = await ask_child(endpoint, "/slots")
        try:
            rows: Any = json.loads(told or b"[]")
        except ValueError:
            return []
        found = []
        for row in rows[:SLOTS_ASKED] if isinstance(rows, list) else []:
            if not isinstance(row, dict):
                continue
            slot, tokens = row.get("id"), row.get("n_prompt_tokens", 0)
            if isinstance(slot, int) and isinstance(tokens, int) and tokens >= LEAST_TOKENS:
                found.append((slot, tokens))
        return found


async def _act(endpoint: Endpoint, slot: int, action: str, name: str, timeout_s: float) -> bool:
    body = json.dumps({"filename": name}).encode()
    path = f"/slots/{slot}?action={action}"
    return await ask_child(endpoint, path, timeout_s, body=body) is not None
