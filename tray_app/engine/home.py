"""Where everything lives: one home folder, and a cache that is never relied on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

# sun_path holds 108 bytes with its closing zero on Linux, 104 on macOS (unix(7), unix(4)).
SOCKET_PATH_LIMIT = 103


@dataclass(frozen=True, slots=True)
class Home:
    """The paths under one home folder. Making a `Home` touches no disk; `create()` does."""

    path: Path

    @classmethod
    def default(cls) -> Home:
        """`LLAMA_WRANGLER_HOME`, or `~/.llama-wrangler`."""
        given = os.environ.get("LLAMA_WRANGLER_HOME")
        return cls(
            Path(given).expanduser().absolute() if given else Path.home() / ".llama-wrangler"
        )

    @property
    def settings(self) -> Path:
        return self.path / "settings.toml"

    @property
    def user_models(self) -> Path:
        return self.path / "models.user.toml"

    @property
    def state_db(self) -> Path:
        return self.path / "state.db"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def runtimes(self) -> Path:
        return self.path / "runtimes"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def runtime_file(self) -> Path:
        return self.path / "runtime.json"

    @property
    def engine_lock(self) -> Path:
        return self.path / "engine.lock"

    @property
    def children_file(self) -> Path:
        return self.run / "children.json"

    def create(self) -> None:
        """Make the folders; private, because logs and sockets are. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.models, self.runtimes, self.logs, self.run):
            folder.mkdir(exist_ok=True, mode=0o700)
        # llama-server makes its socket world-connectable (0755): the folder must not be.
        self.run.chmod(0o700)

    def socket_folder(self) -> Path:
        """A 0700 folder whose socket paths fit `sun_path`: `run/`, or one under the temp folder."""
        if len(os.fsencode(self.run)) + 24 <= SOCKET_PATH_LIMIT:
            return self.run
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        owner = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir()) / f"llama-wrangler-{owner}-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or (owner and status.st_uid != owner):
            raise OSError(f"{folder} is not ours, so no socket is put there")
        folder.chmod(0o700)
        return folder


def cache_folder() -> Path:
    """What is expensive to get again: `LLAMA_WRANGLER_CACHE`, or `~/.cache/llama-wrangler`."""
    given = os.environ.get("LLAMA_WRANGLER_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "llama-wrangler"


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data`, synced, so that a crash leaves the old or the new, never a half.

    Raises OSError. Blocks for one disk sync.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def set_aside(path: Path) -> Path:
    """Move a broken file out of the way, keeping every earlier one; returns its new path."""
    for number in range(1, 1000):
        target = path.with_name(f"{path.name}.broken-{number}")
        if not target.exists():
            os.replace(path, target)
            return target
    raise OSError(f"1000 broken copies of {path} are kept already")
