"""The front door: one port that every OpenAI or Anthropic client talks to.

Owns the listening socket, the set of client connections (connection.py) and the answers that
need no model; everything else is an `Exchange` (proxy.py) with the llama-server of the model
that the request names.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from collections.abc import Callable, Iterable

from . import ollama
from .access import Access, Keys
from .connection import Answering, Connection, Timeouts
from .engine.errors import EngineError, ErrorView, ModelNotFound, PortTaken, SettingsInvalid
from .engine_side import Backend, Lease
from .http_wire import Answer, Limits, Request, error_body
from .proxy import Exchange, Patience, http_error
from .scrape import Scrape
from .tls_door import TlsDoor

__all__ = ["Backend", "Gateway", "Lease", "Timeouts"]

_ROUTER_ONLY = frozenset(("/models/load", "/models/unload", "/models/sse"))


class Gateway:
    """The listening port. All methods belong to the loop that `start` ran on."""

    def __init__(
        self,
        backend: Backend,
        *,
        host: str = "127.0.0.1",
        port: int = 7070,
        max_body_bytes: int = 256 * 1024 * 1024,
        keepalive_s: float = 5.0,
        max_connections: int = 512,
        allowed_origins: Iterable[str] = (),
        keys: Keys | None = None,
        local_without_key: bool = False,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts | None = None,
        silent_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.host = host
        self.limits = Limits(body_bytes=max_body_bytes)
        self.patience = Patience(silent_s, keepalive_s)
        self.timeouts = timeouts or Timeouts()
        self.access = Access(host, allowed_origins, keys, local_without_key, tls is not None)
        self._tls = tls
        self.clock = clock
        self.stopping = False
        self._wanted_port = port
        self._max_connections = max_connections
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._doors: set[TlsDoor] = set()  # TLS connections that shake hands still
        self._empty = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that is listened on; before `start`, the one that was asked for."""
        if self._server is None or not self._server.sockets:
            return self._wanted_port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen. Raises PortTaken, naming the holder, or SettingsInvalid for a bad address."""
        if not self.access.may_listen:  # whatever asked for it: nothing is shared without a key
            raise SettingsInvalid(
                f"The server does not listen on {self.host} without an API key.",
                "Share it on the Server page, which makes a key.",
            )
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._protocol, self.host, self._wanted_port, backlog=256
            )
        except (OSError, OverflowError) as exc:
            address = f"{self.host}:{self._wanted_port}"
            if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
                holder = await asyncio.to_thread(port_holder, self._wanted_port)
                raise PortTaken(
                    f"Port {self._wanted_port} is in use by {holder}.",
                    "Stop it, or choose another port in the settings.",
                ) from exc
            raise SettingsInvalid(
                f"The server cannot listen on {address}: {exc}.",
                "Choose another host or port in the settings.",
            ) from exc

    def _protocol(self) -> asyncio.Protocol:
        if self._tls is None:
            return Connection(self)
        return TlsDoor(self._tls, lambda: Connection(self), self._doors, self._room)

    def _room(self) -> int:
        """How many more connections may wait to say whether they speak TLS."""
        return self._max_connections - len(self._connections)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Take no more requests, let answers end for `grace_s` seconds, then cut the rest."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for door in tuple(self._doors):
            door.transport.abort()
        for connection in tuple(self._connections):
            connection.close_if_idle()
        if await self._all_gone(grace_s):
            return
        tasks = [c.task for c in self._connections if c.task is not None]
        for connection in tuple(self._connections):
            connection.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._all_gone(1.0)

    async def _all_gone(self, timeout_s: float) -> bool:
        self._empty.clear()
        if not self._connections:
            return True
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in; False when there are too many."""
        full = len(self._connections) >= self._max_connections
        self._connections.add(connection)
        return not full

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def answer_locally(self, request: Request, answer: Answer) -> bool:
        """Answer what needs no model; False when the request is to be proxied."""
        path = request.path
        if request.method == b"OPTIONS":
            answer.whole(204, "", b"", *self.access.preflight_headers(request))
        elif path in _ROUTER_ONLY:
            error = ErrorView(
                "not_found",
                f"{path} belongs to llama.cpp's router, which this server does not use.",
                "Name a model in a request and it is loaded; the tray switches and unloads.",
            )
            answer.json(404, error_body(404, error))
        elif ollama.answer_at_once(self.backend, request, answer):
            pass
        elif request.method not in (b"GET", b"HEAD"):
            return False
        elif path in ("/v1/models", "/models"):
            answer.json(200, {"object": "list", "data": self.backend.model_list()})
        elif path.startswith(("/v1/models/", "/models/")):
            self._answer_model(path.partition("models/")[2], answer)
        elif path in ("/health", "/v1/health"):
            # Without a key nobody is told which models there are.
            answer.json(200, {"status": "ok"} if self.access.keyed else self.backend.health())
        else:
            return False
        return True

    def exchange(self, request: Request, answer: Answer) -> Answering:
        """What answers a request that takes time."""
        if ollama.speaks(request):
            return ollama.OllamaExchange(self.backend, request, answer, self.patience, self.clock)
        if request.path == "/metrics" and request.method in (b"GET", b"HEAD"):
            return Scrape(self.backend, answer)
        return Exchange(self.backend, request, answer, self.patience, self.clock)

    def _answer_model(self, name: str, answer: Answer) -> None:
        try:
            model_id = self.backend.resolve(name)
            rows = (row for row in self.backend.model_list() if row.get("id") == model_id)
            row = next(rows, None)
            if row is None:
                raise ModelNotFound(f"There is no model {name!r}.", "See GET /v1/models.")
        except EngineError as exc:
            status, body = http_error(exc)
            answer.json(status, body)
        else:
            answer.json(200, row)


def port_holder(port: int) -> str:
    """Who listens on a TCP port, as "name (pid 123)". Blocks: it reads all of /proc."""
    import psutil  # a start rarely needs it

    try:
        for connection in psutil.net_connections(kind="tcp"):
            local = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not local or local.port != port:
                continue
            if connection.pid is None:
                break
            return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        pass  # not permitted to look, or the holder ended meanwhile
    return "another process"
