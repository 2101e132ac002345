"""`llama-wrangler uninstall`: takes back what the app has put on this computer for one user.

Not the program, which its installer removes; nor models, which are the user's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from . import autostart, link_handler
from .client import Client, ClientError, ensure_engine

STOP_S = 20.0
MODELS = "models"


def take_back(home: Path, cache: Path, with_models: bool) -> Iterator[str]:
    """Remove it and yield a line for each thing that was there.

    Blocks until engine and tray have ended, 20 s at most. Raises ClientError when the engine does
    not end, OSError.
    """
    if home.is_dir():
        yield from _forget_token(home)
        _stop(home)
    switch = autostart.autostart()
    if switch.is_on():
        switch.turn_off()
        yield "the start at login"
    if link_handler.unregister():
        yield "the handler of llama-wrangler:// links"
    if cache.is_dir():
        shutil.rmtree(cache)
        yield f"{cache}"
    yield from _empty(home, with_models)


def models_of(home: Path) -> tuple[int, int]:
    """How many files there are below the home's models, and their bytes."""
    sizes = [p.lstat().st_size for p in (home / MODELS).rglob("*") if p.is_file()]
    return len(sizes), sum(sizes)


def _forget_token(home: Path) -> Iterator[str]:
    # The engine alone speaks with the keychain. One that cannot start has nothing to say here.
    with contextlib.suppress(ClientError):
        client = ensure_engine(home, "once")
        if client.call("hub_account")["source"] == "keychain":
            client.call("set_hub_token", token=None)
            yield "the Hugging Face token in the keychain"


def _stop(home: Path) -> None:
    try:
        client = Client.connect(home)
    except ClientError:
        return
    client.call("shutdown")
    deadline, pause = time.monotonic() + STOP_S, threading.Event()
    while _alive(client.engine_pid):
        if time.monotonic() > deadline:
            raise ClientError(
                "engine_failed",
                f"The engine (process {client.engine_pid}) did not end in {STOP_S:.0f} s.",
                "End it, then try again: nothing was removed.",
            )
        pause.wait(0.02)


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _empty(home: Path, with_models: bool) -> Iterator[str]:
    if not home.is_dir():
        return
    for path in sorted(home.iterdir()):
        if path.name == MODELS and not with_models and models_of(home)[0]:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if any(home.iterdir()):
        yield f"everything but {MODELS}/ in {home}"
    else:
        home.rmdir()
        yield f"{home}"


def default_cache() -> Path:
    """What the engine and the tray can get again: `LLAMA_WRANGLER_CACHE`, or below ~/.cache."""
    given = os.environ.get("LLAMA_WRANGLER_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "llama-wrangler"
