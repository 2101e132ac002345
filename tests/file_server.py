"""A loopback file server with ranges and keep-alive, and every fault of a download on demand.

`server.put(path, body)` serves a body; `server.faults` are answers given to the next requests in
turn; `server.always` answers every request. `python -m tests.file_server FILE` serves one file.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

Body = bytes | mmap.mmap
SLICE = 64 * 1024


@dataclass
class Request:
    """What was asked for, and what went out on it."""

    path: str
    headers: dict[str, str]  # names in lower case
    sent: int = 0  # bytes of body
    connection: int = 0  # requests of one connection have one number

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Entry:
    """One served file."""

    body: Body
    etag: str | None
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer
    asked: Request

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.number = self.server.opened(self)

    def finish(self) -> None:
        self.server.closed(self)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        fields = {key.lower(): value for key, value in self.headers.items()}
        self.asked = Request(self.path, fields, connection=self.number)
        answer = self.server.next_answer(self.asked)
        with contextlib.suppress(OSError):  # clients go away here on purpose
            answer(self)
            return
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass

    # -- for answers

    @property
    def entry(self) -> Entry | None:
        return self.server.files.get(urlsplit(self.path).path)

    def span(self) -> tuple[int, int] | None:
        """The range asked for, as (start, stop), when there is one and it holds."""
        entry = self.entry
        assert entry is not None
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if_range = self.headers.get("If-Range")
        if not found or not entry.ranges or if_range not in (None, entry.etag):
            return None
        size = len(entry.body)
        return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size

    def head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def head_of_span(self) -> tuple[int, int]:
        """The right head; where the body begins and stops."""
        entry, span = self.entry, self.span()
        assert entry is not None
        size = len(entry.body)
        extra = dict(entry.headers)
        if entry.etag:
            extra["ETag"] = entry.etag
        if span is None:
            self.head(200, size, **extra)
            return 0, size
        start, stop = span
        extra["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.head(206, stop - start, **extra)
        return start, stop

    def send(self, start: int, stop: int, body: Body | None = None) -> None:
        """These bytes, at the server's rate."""
        entry = self.entry
        data = memoryview(body if body is not None else entry.body if entry else b"")
        while start < stop:
            end = min(start + SLICE, stop)
            self.server.pace(end - start, self)
            self.wfile.write(data[start:end])
            self.asked.sent += end - start
            start = end


Answer = Callable[[Handler], object]


def right(handler: Handler) -> None:
    """What a good server says."""
    if handler.entry is None:
        handler.head(404, 0)
        return
    span = handler.span()
    if span is not None and span[0] >= len(handler.entry.body):
        handler.head(416, 0, Content_Range=f"bytes */{len(handler.entry.body)}")
        return
    handler.send(*handler.head_of_span())


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.head(code, 0, **headers)


def reset_after(count: int) -> Answer:
    """`count` bytes, then a TCP reset."""

    def answer(handler: Handler) -> None:
        start, stop = handler.head_of_span()
        handler.send(start, min(start + count, stop))
        handler.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.rfile.close()
        handler.connection.close()
        handler.close_connection = True

    return answer


def cut_after(count: int) -> Answer:
    """`count` bytes, then a clean end of the connection."""

    def answer(handler: Handler) -> None:
        start, stop = handler.head_of_span()
        handler.send(start, min(start + count, stop))
        handler.close_connection = True

    return answer


def stall_after(count: int) -> Answer:
    """`count` bytes, then nothing until the server is closed."""

    def answer(handler: Handler) -> None:
        start, stop = handler.head_of_span()
        handler.send(start, min(start + count, stop))
        handler.wfile.flush()
        handler.server.gate.wait(60)
        handler.close_connection = True

    return answer


def slowly(bytes_per_s: float) -> Answer:
    """The right answer, at this rate."""

    def answer(handler: Handler) -> None:
        start, stop = handler.head_of_span()
        step = max(1, int(bytes_per_s / 20))
        for begin in range(start, stop, step):
            handler.send(begin, min(begin + step, stop))
            handler.server.gate.wait(step / bytes_per_s)

    return answer


def ignore_range(handler: Handler) -> None:
    """All of it, whatever was asked for."""
    entry = handler.entry
    assert entry is not None
    handler.head(200, len(entry.body), **({"ETag": entry.etag} if entry.etag else {}))
    handler.send(0, len(entry.body))


def wrong_byte(at: int) -> Answer:
    """The right answer but for one byte of the file."""

    def answer(handler: Handler) -> None:
        entry = handler.entry
        assert entry is not None
        start, stop = handler.head_of_span()
        part = bytearray(memoryview(entry.body)[start:stop])
        if start <= at < stop:
            part[at - start] ^= 0xFF
        handler.send(0, len(part), bytes(part))

    return answer


def redirect(to: str, code: int = 302) -> Answer:
    return lambda handler: handler.head(code, 0, Location=to)


def says(body: bytes, code: int = 200, **headers: str) -> Answer:
    """Another body than the right one."""

    def answer(handler: Handler) -> None:
        handler.head(code, len(body), **headers)
        handler.wfile.write(body)

    return answer


def chunked(handler: Handler) -> None:
    """The whole file without a length."""
    entry = handler.entry
    assert entry is not None
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    data = memoryview(entry.body)
    for start in range(0, len(data), SLICE):
        piece = data[start : start + SLICE]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        handler.asked.sent += len(piece)
    handler.wfile.write(b"0\r\n\r\n")


class FileServer(ThreadingHTTPServer):
    """Serves bodies by path; remembers each request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        self.files: dict[str, Entry] = {}
        self.faults: list[Answer] = []  # for the next requests, in turn
        self.always: Answer | None = None
        self.on_request: Callable[[Request], None] | None = None
        self.seen: list[Request] = []
        self.bytes_per_s: float | None = None  # of each connection
        self.gate = threading.Event()
        self.most_open = 0  # connections at once
        self._open: dict[int, Handler] = {}
        self._count = 0
        self._lock = threading.Lock()

    def put(self, path: str, body: Body, etag: str | None = "", ranges: bool = True) -> Entry:
        """Serve `body`; its ETag is made of its content unless one is given."""
        if etag == "":
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        self.files[path] = Entry(body, etag, ranges)
        return self.files[path]

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{path}"

    @property
    def sent(self) -> int:
        """Bytes of bodies, all together."""
        with self._lock:
            return sum(each.sent for each in self.seen)

    def next_answer(self, request: Request) -> Answer:
        with self._lock:
            self.seen.append(request)
            if self.on_request is not None:
                self.on_request(request)
            if self.faults:
                return self.faults.pop(0)
            return self.always or right

    def opened(self, handler: Handler) -> int:
        with self._lock:
            self._count += 1
            self._open[self._count] = handler
            self.most_open = max(self.most_open, len(self._open))
            return self._count

    def closed(self, handler: Handler) -> None:
        with self._lock:
            self._open.pop(handler.number, None)

    def pace(self, count: int, handler: Handler) -> None:
        """Hold this connection to the rate."""
        if self.bytes_per_s is None:
            return
        now = time.monotonic()
        due: float = max(getattr(handler, "due", 0.0), now) + count / self.bytes_per_s
        handler.due = due  # type: ignore[attr-defined]
        self.gate.wait(max(0.0, due - now))

    def handle_error(self, *args: object) -> None:
        pass

    def end(self) -> None:
        """Let go of stalled answers and of connections kept alive."""
        self.gate.set()
        with self._lock:
            handlers = list(self._open.values())
        for handler in handlers:
            with contextlib.suppress(OSError):
                handler.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def file_server(tls: ssl.SSLContext | None = None) -> Iterator[FileServer]:
    """A server for the length of a block."""
    with FileServer() as server:
        if tls is not None:
            server.scheme = "https"
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.end()
            server.shutdown()
            thread.join()


def main(arguments: Sequence[str]) -> None:
    """Serve one file at /file until standard input ends; the first line printed is its URL."""
    with Path(arguments[0]).open("rb") as file, file_server() as server:
        server.put("/file", mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), etag='"one"')
        print(server.url("/file"), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
