"""The engine process: one engine, its control API and its gateway, from lock to last child.

Starts in the order lock, orphans, engine, control, gateway; ends in the reverse. The event
loop runs on the main thread, because Linux ties a child's death signal to the thread that
started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
import time
from pathlib import Path

import filelock
import psutil

from . import __version__
from .control import Control
from .engine import (
    AlreadyRunning,
    Engine,
    EngineError,
    GatewayState,
    GatewayStatus,
    Home,
    start_logging,
    write_atomically,
)
from .faces import Faces
from .gateway import Gateway

log = logging.getLogger(__name__)

ALONE_S = 60.0  # an engine that a tray or the CLI started ends this long after its last face
PORT_RETRY_S = 3.0
GATEWAY_GRACE_S = 2.0


def run_engine(home_path: Path | None = None, mode: str = "serve") -> None:
    """Run the engine until it is told to stop.

    `mode` is "serve", "tray" or "once" (see `client.ensure_engine`).
    Raises AlreadyRunning, OSError.
    """
    home = Home(home_path) if home_path else Home.default()
    home.create()
    lock = filelock.FileLock(home.engine_lock, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise AlreadyRunning(
            f"An engine is running in {home.path} already.",
            "Use `llama-wrangler status`, or `llama-wrangler stop` to end it.",
        ) from None
    try:
        start_logging(home.logs)
        # A thread that scans or parses must not hold a stream back for the default 5 ms.
        sys.setswitchinterval(0.001)
        asyncio.run(Daemon(home, mode).run())
    finally:
        lock.release()


def main(home_path: Path | None, mode: str) -> tuple[str, str] | None:
    """`run_engine` for the command line: None, or what went wrong and what to do about it."""
    try:
        run_engine(home_path, mode)
    except EngineError as error:
        return error.message, error.remedy
    except OSError as error:
        return f"The engine cannot start: {error}", "Check the folder's owner and free space."
    return None


class Daemon:
    """The parts of one run and their order."""

    def __init__(self, home: Home, mode: str) -> None:
        self._home = home
        self._mode = mode
        self._faces = Faces()
        self._stop = asyncio.Event()
        self._gateway: Gateway | None = None

    async def run(self) -> None:
        """Start everything, wait for the end, end everything."""
        loop = asyncio.get_running_loop()
        self._listen_to_signals(loop)
        engine = Engine(self._home, self._mode, __version__)
        control = Control(engine, self._faces, secrets.token_urlsafe(32))
        engine.on_shutdown = lambda: loop.call_soon_threadsafe(self._stop.set)
        await engine.start()
        try:
            self._announce(control)
            gateway_task = asyncio.create_task(self._keep_gateway(engine))
            watch_task = asyncio.create_task(self._watch_faces())
            log.info("engine started", extra={"mode": self._mode, "home": str(self._home.path)})
            await self._stop.wait()
            log.info("engine stopping")
            for task in (gateway_task, watch_task):
                task.cancel()
            await asyncio.gather(gateway_task, watch_task, return_exceptions=True)
        finally:
            self._home.runtime_file.unlink(missing_ok=True)
            engine.announce_stop()
            if self._gateway is not None:
                await self._gateway.stop(GATEWAY_GRACE_S)
            await engine.close()
            control.stop()
            log.info("engine stopped")

    def _listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None:
                continue
            try:
                loop.add_signal_handler(number, self._stop.set)
            except NotImplementedError:  # Windows' loop has none
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop.set))

    def _announce(self, control: Control) -> None:
        """Write `runtime.json`, readable by this user alone, so that faces find us."""
        port = control.start()
        row = {
            "pid": os.getpid(),
            "create_time": psutil.Process().create_time(),
            "control_port": port,
            "token": control.token,
            "version": __version__,
            "started_at": time.time(),
        }
        write_atomically(self._home.runtime_file, json.dumps(row).encode(), mode=0o600)

    async def _keep_gateway(self, engine: Engine) -> None:
        """Open the gateway, try again while another program holds its port, follow settings."""
        while True:
            server = engine.settings.server
            status = GatewayStatus(host=server.host, port=server.port)
            self._gateway = Gateway(engine.backend, host=server.host, port=server.port)
            try:
                await self._gateway.start()
            except EngineError as error:
                self._gateway = None
                engine.set_gateway(status, GatewayState.BLOCKED, error.view())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(engine.server_settings_changed(), PORT_RETRY_S)
                continue
            engine.set_gateway(status, GatewayState.LISTENING, None)
            await engine.server_settings_changed()
            await self._gateway.stop(GATEWAY_GRACE_S)

    async def _watch_faces(self) -> None:
        """End an engine nobody looks at, unless it was started to serve or answers someone."""
        while self._mode != "serve":
            await asyncio.sleep(ALONE_S / 10)
            if self._faces.alone_s() >= ALONE_S:
                log.info("no face for %d s: the engine ends", ALONE_S)
                self._stop.set()
