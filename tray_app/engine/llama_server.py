"""One llama-server child: started on a private endpoint, awaited until ready, ended."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import launch
from .child_registry import ChildRegistry
from .errors import ErrorView
from .faults import Fault, read_fault, stalled
from .launch import Endpoint
from .logs import tail_lines
from .process import ChildProcess, LaunchSpec
from .runtime.offload import read_offload
from .stall import STALLED_S, StallWatch

log = logging.getLogger(__name__)

# A load is looked at again after this share of the time it has taken: that is what it adds at most,
# whether the model is ready in 0.13 s or in a minute.
POLL_SHARE = 0.03
LEAST_POLL_S, MOST_POLL_S = 0.003, 0.1
HEALTH_S = 2.0  # a question for its health; asked again then
STOP_GRACE_S = 5.0  # SIGTERM to exit takes 0.12 s; a loading child may not listen
STALLED_GRACE_S = 0.5  # for a child that hangs: hardly one listens then
LOAD_LOG_BYTES = 128 * 1024
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its fault, or None when it was asked to."""

    fault: Fault | None


def free_endpoint(folder: Path) -> Endpoint:
    """An endpoint nobody uses: a fresh socket name, or on Windows a free loopback port."""
    if sys.platform == "win32":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return Endpoint(port=probe.getsockname()[1], key=secrets.token_urlsafe(24))
    while True:
        path = folder / f"m{next(_numbers)}.sock"
        # A socket file stays behind a killed child and would stop the next one's bind.
        path.unlink(missing_ok=True)
        return Endpoint(socket_path=path)


class ServerChild:
    """A running llama-server. Made and used on the event loop; nothing here blocks it long."""

    def __init__(
        self,
        argv: tuple[str, ...],
        endpoint: Endpoint,
        log_path: Path,
        registry: ChildRegistry | None = None,
        clock: Callable[[], float] = time.monotonic,
        stalled_s: float = STALLED_S,
    ) -> None:
        """Start it (1-3 ms). Raises OSError."""
        self.endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._log_path = log_path
        self._clock = clock
        self._stopping = False
        self._stalled_s = stalled_s
        self._stalled = False
        self.died: asyncio.Future[ErrorView] = self._loop.create_future()
        self.ended: asyncio.Future[Ended] = self._loop.create_future()
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        self.process = ChildProcess(
            LaunchSpec(
                argv=argv,
                env={**launch.environment(os.environ), **endpoint.environment},
                log_path=log_path,
            ),
            on_exit=self._exited,
            registry=registry,
            kind="llama-server",
            marker=endpoint.marker,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait_ready(self) -> bool:
        """Wait until it answers /health with 200; False when it ended first.

        One that hangs is ended: loads come one after the other, and it would hold up the others.
        """
        started = self._clock()
        watch = StallWatch(self.pid, self._log_path, self._stalled_s, self._clock)
        while not self.ended.done():
            if await self._healthy():
                return not self.ended.done()
            if watch.stalled():
                self._stalled = True
                await self._end(STALLED_GRACE_S)
                return False
            pause_s = POLL_SHARE * (self._clock() - started)
            pause_s = min(max(pause_s, LEAST_POLL_S), MOST_POLL_S)
            await asyncio.wait([self.ended], timeout=pause_s)
        return False

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ask, wait, kill, reap; returns when its whole tree is gone."""
        self._stopping = True
        await self._end(grace_s)

    async def _end(self, grace_s: float) -> None:
        try:
            await asyncio.to_thread(self.process.stop, grace_s)
        except TimeoutError as error:
            log.error("a llama-server would not end: %s", error)
            return
        await asyncio.wait([self.ended], timeout=1.0)

    async def offload(self) -> tuple[int, int] | None:
        """(layers on the GPU, layers) as its load told them; None when it did not."""
        return await asyncio.to_thread(lambda: read_offload(self._first_lines()))

    def _first_lines(self) -> list[str]:
        """The log's first lines of this run: a load with all details has 185 of them."""
        try:
            with self._log_path.open("rb") as log_file:
                log_file.seek(self._log_start)
                return log_file.read(LOAD_LOG_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    async def _healthy(self) -> bool:
        try:
            async with asyncio.timeout(HEALTH_S):
                reader, writer = await self._connect()
                try:
                    writer.write(
                        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                    )
                    return (await reader.readline()).startswith(b"HTTP/1.1 200")
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError):  # ValueError: a line without end
            return False

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.endpoint.socket_path:
            return await asyncio.open_unix_connection(str(self.endpoint.socket_path))
        return await asyncio.open_connection("127.0.0.1", self.endpoint.port)

    def _exited(self, returncode: int) -> None:
        """On the waiter's thread: read the reason there, then tell the loop."""
        fault = None if self._stopping else self._fault(returncode)
        if self.endpoint.socket_path:
            self.endpoint.socket_path.unlink(missing_ok=True)
        try:
            self._loop.call_soon_threadsafe(self._settle, fault)
        except RuntimeError:  # the loop closed first: the engine is gone
            return

    def _fault(self, returncode: int) -> Fault:
        if self._stalled:
            return stalled(self._stalled_s)
        return read_fault(self._own_lines(), returncode)

    def _own_lines(self) -> list[str]:
        """The log's last lines, of this run only: an older run's error is not ours."""
        try:
            size = self._log_path.stat().st_size
        except OSError:
            return []
        # Smaller than it was: a large log was cut while we ran, and its end is ours.
        grown = size if size < self._log_start else size - self._log_start
        return tail_lines(self._log_path, min(16_384, grown)) if grown > 0 else []

    def _settle(self, fault: Fault | None) -> None:
        if not self.ended.done():
            self.ended.set_result(Ended(fault))
        if not self.died.done():
            stopped = ErrorView(
                "model_stopped", "The model was unloaded.", "Send the request again."
            )
            self.died.set_result(fault.error if fault else stopped)
