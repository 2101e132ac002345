"""The API keys of the server: made here, shown once, and only their hashes kept.

A key has 256 random bits, so that its SHA-256 tells nothing of it: what lies on the disk cannot be
used, and no keychain has to be unlocked for the server to start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import BadRequest
from .home import set_aside, write_atomically

log = logging.getLogger(__name__)

PREFIX = "lw-"
KEY_BYTES = 32
MOST_KEYS = 100
NAME_CHARS = 60


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it may be shown; `ending` are its last four characters."""

    name: str
    ending: str
    created_at: float


@dataclass(frozen=True, slots=True)
class _Kept:
    name: str
    sha256: str
    ending: str
    created_at: float


@dataclass(frozen=True, slots=True)
class NewKey:
    """The only time that a key itself is told."""

    name: str
    key: str


class ApiKeys:
    """Owns keys.json (0600). Thread-safe; what the gateway reads is a frozen value.

    A file that cannot be read is set aside: then there are no keys, and nothing is shared.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self._lock = threading.Lock()
        self._kept: tuple[_Kept, ...] = self._load()
        self._hashes = frozenset(kept.sha256 for kept in self._kept)
        self._session = secrets.token_urlsafe(KEY_BYTES)

    @property
    def required(self) -> bool:
        """Whether the server asks for a key: as soon as there is one."""
        return bool(self._hashes)

    @property
    def session(self) -> str:
        """A key of this run for the app's own page, accepted from this machine alone."""
        return self._session

    def accepts(self, given: str, local: bool) -> bool:
        """Whether it is one of the keys. `local`: asked from this machine."""
        if local and secrets.compare_digest(given.encode(), self._session.encode()):
            return True
        return hashlib.sha256(given.encode()).hexdigest() in self._hashes

    def list(self) -> list[ApiKey]:
        """All keys, without what would open anything."""
        return [ApiKey(kept.name, kept.ending, kept.created_at) for kept in self._kept]

    def create(self, name: str) -> NewKey:
        """Make a key. Raises BadRequest, OSError; then there is none."""
        bare = " ".join(name.split())
        if not bare or len(bare) > NAME_CHARS or not bare.isprintable():
            raise BadRequest(
                f"A key's name has 1 to {NAME_CHARS} characters.",
                "Name it after the program or person that uses it.",
            )
        with self._lock:
            if any(kept.name.casefold() == bare.casefold() for kept in self._kept):
                raise BadRequest(f"There is a key “{bare}” already.", "Choose another name.")
            if len(self._kept) >= MOST_KEYS:
                raise BadRequest(f"There are {MOST_KEYS} keys already.", "Revoke one first.")
            key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
            hashed = hashlib.sha256(key.encode()).hexdigest()
            self._keep((*self._kept, _Kept(bare, hashed, key[-4:], time.time())))
        return NewKey(bare, key)

    def revoke(self, name: str) -> None:
        """From now on it opens nothing. Raises BadRequest, OSError."""
        with self._lock:
            left = tuple(kept for kept in self._kept if kept.name != name)
            if len(left) == len(self._kept):
                raise BadRequest(f"There is no key “{name[:NAME_CHARS]}”.", "See the list of keys.")
            self._keep(left)

    def _keep(self, kept: tuple[_Kept, ...]) -> None:
        rows = {"version": 1, "keys": [asdict(each) for each in kept]}
        write_atomically(self._path, json.dumps(rows, indent=1).encode("utf-8", "replace"))
        self._kept, self._hashes = kept, frozenset(each.sha256 for each in kept)

    def _load(self) -> tuple[_Kept, ...]:
        try:
            rows = json.loads(self._path.read_bytes())["keys"]
            kept = tuple(
                _Kept(str(row["name"]), row["sha256"], str(row["ending"]), float(row["created_at"]))
                for row in rows
            )
            if any(len(each.sha256) != 64 for each in kept):
                raise ValueError("not a SHA-256")
            return kept
        except FileNotFoundError:
            return ()
        except (ValueError, KeyError, TypeError) as error:
            log.error("keys.json was set aside: %s", error)
            set_aside(self._path)
            return ()
