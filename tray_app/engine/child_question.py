"""One question to a running llama-server beside the requests: its figures, its slots.

It goes to the child's endpoint itself, without a lease: looking is not using, so that a model
that is only looked at stays idle.
"""

from __future__ import annotations

import asyncio

import httptools

from .launch import Endpoint

READ_BYTES = 16 * 1024


class _Body:
    """httptools' callbacks: the body of one answer."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.complete = False

    def on_body(self, piece: bytes) -> None:
        self.data += piece

    def on_message_complete(self) -> None:
        self.complete = True


async def ask_child(
    endpoint: Endpoint,
    path: str,
    timeout_s: float = 1.0,
    most_bytes: int = 256 * 1024,
    body: bytes | None = None,
) -> bytes | None:
    """The body of the child's 200 answer to `GET path`, or to `POST path` with a `body` of JSON.

    None when it gives none in time (a long prompt keeps it from answering), refuses, is gone,
    or says more than `most_bytes`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connect(endpoint)
            try:
                writer.write(_request(endpoint, path, body))
                return await _read(reader, most_bytes)
            finally:
                writer.close()
    except (OSError, TimeoutError, httptools.HttpParserError):
        return None


def _request(endpoint: Endpoint, path: str, body: bytes | None) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (b"GET" if body is None else b"POST", path.encode("ascii"))]
    lines += [b"Host: localhost", b"Connection: close"]
    lines += [f"{name}: {value}".encode() for name, value in endpoint.headers.items()]
    if body is not None:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


async def _connect(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.socket_path:
        return await asyncio.open_unix_connection(str(endpoint.socket_path))
    return await asyncio.open_connection("127.0.0.1", endpoint.port)


async def _read(reader: asyncio.StreamReader, most_bytes: int) -> bytes | None:
    body = _Body()
    parser = httptools.HttpResponseParser(body)
    taken = 0
    while not body.complete:
        data = await reader.read(READ_BYTES)
        taken += len(data)
        if not data or taken > most_bytes:
            return None
        parser.feed_data(data)
    return bytes(body.data) if parser.get_status_code() == 200 else None
