"""A loopback server that speaks GitHub's release API and serves archives, with faults on demand."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "/repos/ggml-org/llama.cpp"
FIXTURES = Path(__file__).parent / "fixtures" / "releases"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ReleaseServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        fields = {key.lower(): value for key, value in self.headers.items()}
        self.server.seen.append((self.path, fields))
        faults = self.server.faults.get(path)
        answer = faults.pop(0) if faults else whole
        with contextlib.suppress(OSError):  # clients go away here on purpose
            answer(self)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass

    def content(self) -> bytes | None:
        """What a server without faults has under this path."""
        return self.server.content(urlsplit(self.path).path)

    def head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


Answer = Callable[[Handler], object]


def whole(handler: Handler) -> None:
    """The right answer: with ranges for files, with 304 for a feed that has not changed."""
    body = handler.content()
    if body is None:
        handler.head(404, 0)
        return
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    if handler.headers.get("If-None-Match") == etag:
        handler.head(304, 0, ETag=etag)
        return
    start = _start(handler)
    if start >= len(body) > 0:
        handler.head(416, 0)
    elif start:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.head(206, len(body) - start, Content_Range=span, ETag=etag)
        handler.wfile.write(body[start:])
    else:
        handler.head(200, len(body), ETag=etag)
        handler.wfile.write(body)


def _start(handler: Handler) -> int:
    return int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


def cut_after(count: int) -> Answer:
    """The line breaks after `count` bytes of what was asked for."""

    def answer(handler: Handler) -> None:
        body = handler.content() or b""
        start = _start(handler)
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.head(206 if start else 200, len(body) - start, Content_Range=span, ETag='"one"')
        handler.wfile.write(body[start : start + count])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    return answer


def no_ranges(handler: Handler) -> None:
    """All of it, whatever range was asked for."""
    body = handler.content() or b""
    handler.head(200, len(body))
    handler.wfile.write(body)


def stall_after(count: int) -> Answer:
    """`count` bytes, then nothing until the server is closed."""

    def answer(handler: Handler) -> None:
        body = handler.content() or b""
        handler.head(200, len(body), ETag='"one"')
        handler.wfile.write(body[:count])
        handler.wfile.flush()
        handler.server.gate.wait(60)

    return answer


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.head(code, 0, **headers)


def says(body: bytes, **headers: str) -> Answer:
    """Another body than the right one."""

    def answer(handler: Handler) -> None:
        handler.head(200, len(body), **headers)
        handler.wfile.write(body)

    return answer


class ReleaseServer(ThreadingHTTPServer):
    """Releases by `add`; `faults[path]` are answers given in turn before the right one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows: list[dict[str, Any]] = []  # the newest first, as the API lists them
        self.files: dict[str, bytes] = {}  # by path
        self.faults: dict[str, list[Answer]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []  # path with query, headers
        self.gate = threading.Event()

    def handle_error(self, *args: object) -> None:
        pass

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def feed_url(self) -> str:
        return self.host + REPOSITORY

    @property
    def list_path(self) -> str:
        return f"{REPOSITORY}/releases"

    def file_path(self, tag: str, name: str) -> str:
        return f"/ggml-org/llama.cpp/releases/download/{tag}/{name}"

    def content(self, path: str) -> bytes | None:
        """The body of a path, by what has been added."""
        if path == self.list_path:
            return json.dumps(self.rows).encode()
        tag = path.removeprefix(f"{self.list_path}/tags/")
        for row in self.rows:
            if row["tag_name"] == tag:
                return json.dumps(row).encode()
        return self.files.get(unquote(path))

    def add(self, tag: str, files: Mapping[str, bytes | Path], **changes: object) -> dict[str, Any]:
        """A release of these files; `changes` replace fields of its row."""
        assets = []
        for name, given in files.items():
            data = given.read_bytes() if isinstance(given, Path) else given
            path = self.file_path(tag, name)
            self.files[path] = data
            assets.append(
                {
                    "name": name,
                    "size": len(data),
                    "state": "uploaded",
                    "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
                    "browser_download_url": self.host + path,
                }
            )
        row = {
            "tag_name": tag,
            "name": tag,
            "draft": False,
            "prerelease": True,
            "published_at": "2026-10-05T12:00:00Z",
            "html_url": f"https://github.com/ggml-org/llama.cpp/releases/tag/{tag}",
            "body": f"notes of {tag}",
            "assets": assets,
            **changes,
        }
        self.rows.insert(0, row)
        return row

    def asked(self, part: str) -> list[tuple[str, dict[str, str]]]:
        """What was asked for with `part` in its path."""
        return [(path, headers) for path, headers in self.seen if part in path]


@contextlib.contextmanager
def release_server() -> Iterator[ReleaseServer]:
    """A server for the length of a block."""
    with ReleaseServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.gate.set()
            server.shutdown()
            thread.join()


def recorded(tag: str) -> dict[str, Any]:
    """A recorded release of tests/fixtures/releases."""
    row: dict[str, Any] = json.loads((FIXTURES / f"{tag}.json").read_text(encoding="utf-8"))
    return row


def tar_of(folder: Path, root: str, ending: str = "gz") -> bytes:
    """`folder` as upstream packs it: all below `root`/, links kept."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode=f"w:{ending}") as tar:  # type: ignore[call-overload]
        tar.add(folder, root)
    return memory.getvalue()


def zip_of(folder: Path, root: str = "") -> bytes:
    """`folder` as a zip with Unix modes; links as their targets' content."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                archive.write(path, f"{root}/{name}" if root else name)
    return memory.getvalue()


def versioned_libraries(folder: Path, build: int) -> None:
    """Give the libraries of `folder` the names that upstream's build gives them.

    libllama.so -> libllama.so.0 -> libllama.so.0.0.11434, the last one being the file (the
    VERSION and SOVERSION of llama.cpp's CMakeLists.txt).
    """
    for path in sorted(folder.glob("*.so")):
        real = path.with_name(f"{path.name}.0.0.{build}")
        path.rename(real)
        path.with_name(f"{path.name}.0").symlink_to(real.name)
        path.symlink_to(f"{path.name}.0")
