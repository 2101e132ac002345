"""What gateway tests share: a backend that obeys, a scripted llama-server, a raw client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tray_app.engine.errors import EngineError, ErrorView, ModelNotFound, NoActiveModel
from tray_app.engine.values import (
    Measures,
    Model,
    ModelDetails,
    ModelState,
    ModelStatus,
    RequestRecord,
    Running,
)
from tray_app.gateway import Gateway

CLIENT_LIMIT = 40  # requests a greedy client sends ahead

Handler = Callable[["Seen", asyncio.StreamWriter], Awaitable[None]]


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run one async test; a hang is a failure."""
    asyncio.run(asyncio.wait_for(test, 30))


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


@dataclass
class FakeLease:
    model_id: str
    socket_path: str | None
    died: asyncio.Future[ErrorView]
    host_port: tuple[str, int] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    releases: int = 0

    def release(self) -> None:
        self.releases += 1


@dataclass
class FakeBackend:
    """Two models; a test closes `ready`, sets `error`, or resolves a lease's `died`."""

    socket_path: str
    active: str | None = "org/active:Q4"
    models: tuple[str, ...] = ("org/active:Q4", "org/other:Q8")
    error: EngineError | None = None
    state: ModelState = ModelState.LOADING
    in_flight: int = 0
    retry_at: float | None = None
    leases: list[FakeLease] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    measured: Measures | None = None
    retired: list[str] = field(default_factory=list)
    waiting: int = 0
    left_the_queue: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ready.set()

    def resolve(self, name: str | None) -> str:
        self.asked.append(name)
        if name in (None, "default"):
            if self.active is None:
                raise NoActiveModel("No model is chosen.", "Choose one in the tray.")
            return self.active
        if name not in self.models:
            raise ModelNotFound(f"There is no model {name!r}.", "See /v1/models.")
        assert name is not None
        return name

    async def acquire(self, model_id: str, counts: bool = True) -> FakeLease:
        self.waiting += 1
        started = asyncio.get_running_loop().time()
        try:
            await self.ready.wait()
        except asyncio.CancelledError:
            self.left_the_queue += 1
            raise
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error
        wait_s = asyncio.get_running_loop().time() - started
        died: asyncio.Future[ErrorView] = asyncio.get_running_loop().create_future()
        lease = FakeLease(model_id, self.socket_path, died, wait_s=wait_s)
        self.leases.append(lease)
        return lease

    def status(self, model_id: str) -> ModelStatus:
        return ModelStatus(model_id, self.state, self.in_flight, retry_at=self.retry_at)

    def model_list(self) -> list[dict[str, Any]]:
        return [{"id": model, "object": "model"} for model in self.models]

    def health(self) -> dict[str, Any]:
        return {"status": "ok"}

    async def measures(self) -> Measures:
        assert self.measured is not None
        return self.measured

    def record(self, record: RequestRecord) -> None:
        self.records.append(record)

    def library(self) -> tuple[Model, ...]:
        return ()

    def running(self) -> tuple[Running, ...]:
        return ()

    async def details(self, model_id: str) -> ModelDetails:
        raise ModelNotFound(f"There is no model {model_id!r}.", "See /v1/models.")

    def retire(self, model_id: str) -> None:
        self.retired.append(model_id)


@dataclass
class Seen:
    """A request as the scripted upstream received it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the gateway hung up


class Upstream:
    """A server on a unix socket whose `handler` writes raw bytes; it reads like httplib."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path, self.handler = path, handler
        self.seen: list[Seen] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            seen = await read_request(reader)
            self.seen.append(seen)
            watch = asyncio.create_task(self._watch(reader, seen))
            try:
                await self.handler(seen, writer)
            finally:
                watch.cancel()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    @staticmethod
    async def _watch(reader: asyncio.StreamReader, seen: Seen) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        seen.gone.set()


async def read_request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, target, headers, body)


@dataclass
class Got:
    """An answer as the client received it."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error


class Client:
    """A connection that sends what it is told and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> Got:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        fields = [line.partition(": ") for line in lines[1:] if line]
        return Got(int(lines[0].split(" ")[1]), {k.lower(): v for k, _, v in fields}, b"")

    async def answer(self, method: str = "GET") -> Got:
        got = await self.head()
        while got.status == 100:
            got = await self.head()
        if method == "HEAD" or got.status in (204, 304):
            return got
        try:
            if got.headers.get("transfer-encoding") == "chunked":
                await self.chunks(got)
            elif "content-length" in got.headers:
                got.body = await self.reader.readexactly(int(got.headers["content-length"]))
            else:
                got.body = await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            got.complete = False
        return got

    async def chunks(self, got: Got) -> None:
        """Read a chunked body into `got`, as far as it comes."""
        pieces = []
        try:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                pieces.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        finally:
            got.body = b"".join(pieces)

    async def closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                return await self.reader.read() == b""
        return True

    def close(self) -> None:
        self.writer.close()


@dataclass
class Rig:
    gateway: Gateway
    backend: FakeBackend
    upstream: Upstream
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        client = await Client.connect(self.gateway.port)
        self.clients.append(client)
        return client

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Got:
        client = await self.client()
        client.send(request(method, target, body, **headers))
        return await client.answer(method)


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    """A request as bytes; underscores in header names become hyphens."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {headers.pop('Host', '127.0.0.1')}"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat(stream: bool = False, **fields: Any) -> bytes:
    return request(
        "POST", "/v1/chat/completions", json.dumps({**fields, "stream": stream}).encode()
    )


async def echo(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer with what was asked."""
    body = json.dumps({"target": seen.target, "body": seen.body.decode("latin-1")}).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Access-Control-Allow-Origin: *\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def as_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextlib.asynccontextmanager
async def rig(handler: Handler = echo, **options: Any) -> AsyncIterator[Rig]:
    """A gateway in front of a scripted upstream, both gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        upstream = Upstream(str(Path(folder) / "u.sock"), handler)
        await upstream.start()
        backend = FakeBackend(upstream.path)
        gateway = Gateway(backend, host="127.0.0.1", port=0, **options)
        await gateway.start()
        made = Rig(gateway, backend, upstream)
        try:
            yield made
        finally:
            for client in made.clients:
                client.close()
            await gateway.stop(0.2)
            await upstream.stop()
            assert all(lease.releases == 1 for lease in backend.leases)
