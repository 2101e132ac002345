"""A client that only counts: one raw streamed request; it has to cost less than a gateway."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from tests.benchmarks.kit import Address


@dataclass(frozen=True)
class Run:
    """One streamed answer. `first_s` counts from before the connect."""

    first_s: float
    total_s: float
    chunks: int
    arrivals: tuple[float, ...]  # when bytes with events came


class Reader(asyncio.Protocol):
    """A client that only counts."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.arrivals: list[float] = []
        self.chunks = 0
        self.tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        found = data.count(b"data: ")
        if found:
            self.arrivals.append(time.perf_counter())
        self.chunks += found
        self.tail = (self.tail + data)[-7:]
        if self.tail == b"\r\n0\r\n\r\n"[-7:] and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("cut off"))


async def ask(address: Address, path: str, body: dict[str, object]) -> Run:
    """One streamed request on a connection of its own."""
    payload = json.dumps({**body, "stream": True}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
    reader = Reader(head.encode() + payload)
    loop, start = asyncio.get_running_loop(), time.perf_counter()
    if isinstance(address, int):
        await loop.create_connection(lambda: reader, "127.0.0.1", address)
    else:
        await loop.create_unix_connection(lambda: reader, address)
    await reader.done
    end = time.perf_counter()
    reader.transport.close()
    return Run(reader.arrivals[0] - start, end - start, reader.chunks, tuple(reader.arrivals))
