"""The engine process: one engine, its control API and its gateway, from lock to last child.

Starts in the order lock, orphans, engine, control, gateway; ends in the reverse. The event
loop runs on the main thread, because Linux ties a child's death signal to the thread that
started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import psutil

from . import __version__
from .app_versions import become
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

PORT_RETRY_S = 3.0
FIRST_SCAN_S = 5.0  # a drive that sleeps takes longer; then its models come later
GATEWAY_GRACE_S = 2.0
ANSWERS_GRACE_S = 6 * 3600.0  # for answers when only the address changes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no engine runs here, for the command line."""

    message: str
    remedy: str
    already_running: bool = False


Tell = Callable[[str], None]


def run_engine(home_path: Path | None, mode: str, alone_s: float, tell: Tell) -> None:
    """Run the engine until it is told to stop.

    `mode` is "serve", "tray" or "once" (see `client.ensure_engine`); all but "serve" end when
    no face has been there and nobody was answered for `alone_s` seconds. `tell` gets a line
    for a terminal when the address opens, or why it does not.
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
        again = asyncio.run(Daemon(home, mode, alone_s, tell).run())
    finally:
        lock.release()
    if again:  # the same process goes on as the new version, so that who started it keeps it
        become(again)


def main(home_path: Path | None, mode: str, alone_s: float, tell: Tell) -> Failure | None:
    """`run_engine` for the command line: None, or what went wrong and what to do about it."""
    try:
        run_engine(home_path, mode, alone_s, tell)
    except EngineError as error:
        return Failure(error.message, error.remedy, isinstance(error, AlreadyRunning))
    except OSError as error:
        return Failure(
            f"The engine cannot start: {error}.", "Check the folder's owner and free space."
        )
    return None


class Daemon:
    """The parts of one run and their order."""

    def __init__(self, home: Home, mode: str, alone_s: float, tell: Tell) -> None:
        self._home = home
        self._tell = tell
        self._mode = mode
        self._alone_s = alone_s
        self._faces = Faces()
        self._stop = asyncio.Event()
        self._failed = False
        self._gateway: Gateway | None = None
        self._retired: dict[Gateway, asyncio.Task[None]] = {}  # these only end their answers

    async def run(self) -> list[str]:
        """Start everything, wait for the end, end everything; what to become then, if anything."""
        loop = asyncio.get_running_loop()
        self._listen_to_signals(loop)
        engine = Engine(self._home, self._mode, __version__)
        control = Control(engine, self._faces, secrets.token_urlsafe(32))
        engine.on_shutdown = lambda: loop.call_soon_threadsafe(self._stop.set)
        services: list[asyncio.Task[None]] = []
        try:
            await engine.start()
            self._announce(control)
            services.append(asyncio.create_task(self._keep_gateway(engine)))
            services.append(asyncio.create_task(self._watch_faces(engine)))
            for task in services:
                task.add_done_callback(self._service_ended)
            # What is loaded now stays: without it a full collection holds streams back for 24 ms.
            gc.freeze()
            log.info("engine started", extra={"mode": self._mode, "home": str(self._home.path)})
            await self._stop.wait()
            log.info("engine stopping")
        finally:
            self._home.runtime_file.unlink(missing_ok=True)
            engine.announce_stop()
            for task in services:
                task.cancel()
            await asyncio.gather(*services, return_exceptions=True)
            gateways = [*self._retired, *([self._gateway] if self._gateway is not None else [])]
            # Nobody's answer is cut for a new version of the app.
            grace_s = ANSWERS_GRACE_S if engine.app_update.leaving else GATEWAY_GRACE_S
            await asyncio.gather(*(gateway.stop(grace_s) for gateway in gateways))
            await engine.close()
            await asyncio.to_thread(control.stop)
            log.info("engine stopped")
        return [] if self._failed else engine.app_update.change_versions()

    def _service_ended(self, task: asyncio.Task[None]) -> None:
        """An engine without its gateway would look alive and answer nobody: it ends, loudly."""
        if not task.cancelled() and task.exception() is not None:
            log.critical("a part of the engine failed", exc_info=task.exception())
            self._failed = True
            self._stop.set()

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
        said = ""
        # Who asks for a model that is there must not hear that it is not.
        await asyncio.to_thread(engine.library.listed, FIRST_SCAN_S)
        while True:
            server = engine.take_server_settings()
            status = GatewayStatus(host=server.host, port=server.port)
            self._gateway = Gateway(
                engine.backend,
                host=server.host,
                port=server.port,
                allowed_origins=server.cors_origins,
                keys=engine.keys,
                local_without_key=server.local_without_key,
                tls=engine.tls.context if engine.tls is not None else None,
            )
            try:
                await self._gateway.start()
            except EngineError as error:
                self._gateway = None
                engine.set_gateway(status, GatewayState.BLOCKED, error.view())
                if said != error.message:
                    said = error.message
                    self._tell(f"{error.message} {error.remedy}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(engine.server_settings_changed(), PORT_RETRY_S)
                continue
            engine.set_gateway(status, GatewayState.LISTENING, None)
            said = ""
            self._tell(f"Answering at {engine.gateway.base_url}")
            await engine.server_settings_changed()
            while engine.take_server_settings() == server:  # a first key, or its loss
                engine.set_gateway(status, GatewayState.LISTENING, None)
                await engine.server_settings_changed()
            await self._retire(self._gateway)

    async def _retire(self, gateway: Gateway) -> None:
        """Listen no more; what it is answering is answered, however long that takes."""
        task = asyncio.create_task(gateway.stop(ANSWERS_GRACE_S))
        self._retired[gateway] = task
        task.add_done_callback(lambda _: self._retired.pop(gateway, None))
        await asyncio.sleep(0)  # its port is free from here on

    async def _watch_faces(self, engine: Engine) -> None:
        """End an engine nobody looks at, unless it is to serve or answers someone."""
        while not self._stop.is_set():
            await asyncio.sleep(self._alone_s / 10)
            if engine.mode == "serve" or self._faces.alone_s() == 0:
                continue
            if await asyncio.to_thread(engine.busy):
                self._faces.touch()
            elif self._faces.alone_s() >= self._alone_s:
                log.info("no face for %.0f s: the engine ends", self._alone_s)
                self._stop.set()
