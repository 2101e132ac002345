"""HTTP/1.1 as bytes: requests read under limits, answers written in the framing a client knows.

Parsing is llhttp's (through httptools), in its strict mode: it refuses a request that carries
both Content-Length and Transfer-Encoding, folded headers, and bare line feeds.
"""

from __future__ import annotations

import http
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import unquote

import httptools

from .engine.errors import BadRequest, ErrorView

Headers = list[tuple[bytes, bytes]]

# RFC 9110 7.6.1, and the two that only a first HTTP/2 upgrade attempt carries.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadWire(BadRequest):
    """A request that the gateway itself refuses; `status` is the HTTP status."""

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold."""

    head_bytes: int = 64 * 1024
    header_count: int = 128
    body_bytes: int = 256 * 1024 * 1024


@dataclass(slots=True)
class Request:
    """One request; header names are in lower case."""

    method: bytes
    target: bytes
    version: str
    headers: Headers
    keep_alive: bool
    body: bytearray = field(default_factory=bytearray)

    @property
    def path(self) -> str:
        """The decoded path, without the query."""
        return unquote(self.origin_form.partition(b"?")[0].decode("latin-1"))

    @property
    def query(self) -> str:
        """The query as sent, without its question mark."""
        return self.origin_form.partition(b"?")[2].decode("latin-1")

    @property
    def origin_form(self) -> bytes:
        """The target as a path, also when it was sent in absolute form."""
        if self.target.startswith(b"/"):
            return self.target
        rest = self.target.partition(b"://")[2]
        path = rest[len(self.authority or b"") :]
        return path if path.startswith(b"/") else b"/" + path

    @property
    def authority(self) -> bytes | None:
        """The host of a target in absolute form."""
        if b"://" not in self.target or self.target.startswith(b"/"):
            return None
        rest = self.target.partition(b"://")[2]
        return rest.partition(b"/")[0].partition(b"?")[0]

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


class Phase(Enum):
    """Where a connection is inside a request."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


class RequestReader:
    """Turns a client's bytes into requests, whole body included, one after the other.

    `on_head` is called when a head is complete and may raise `BadWire` to refuse the body;
    `on_request` when the body is there too.
    """

    def __init__(
        self,
        limits: Limits,
        on_head: Callable[[Request], None],
        on_request: Callable[[Request], None],
    ) -> None:
        self.phase = Phase.IDLE
        self._limits = limits
        self._on_head = on_head
        self._on_request = on_request
        self._refusal: BadWire | None = None
        self._upgrading = False
        self._wire_bytes = 0  # of this request, as received
        self._request = self._blank()
        self._parser = httptools.HttpRequestParser(self)

    @property
    def buffered(self) -> int:
        """How many bytes of an unfinished body are held."""
        return len(self._request.body)

    def feed(self, data: bytes) -> None:
        """Take more bytes; raises `BadWire`, after which the connection can only be closed."""
        self._wire_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._replay_without_upgrade(data[exc.args[0] :])
        except httptools.HttpParserError as exc:
            raise self._refusal or BadWire(400, f"This is not HTTP/1.1: {exc}.") from exc
        self._check_wire_size()

    def _check_wire_size(self) -> None:
        """Bound what the parser keeps of unfinished header lines and chunk extensions."""
        if self.phase is Phase.HEAD and self._wire_bytes > self._limits.head_bytes:
            raise self._too_long()
        framing = self._wire_bytes - 8 * len(self._request.body)
        if self.phase is Phase.BODY and framing > 8 * self._limits.head_bytes:
            raise BadWire(400, "The chunks of this body carry more framing than content.")

    def _replay_without_upgrade(self, rest: bytes) -> None:
        """Read the request again as plain HTTP/1.1.

        Java's HttpClient asks for h2c on every first request, and llhttp then skips the body.
        """
        head = self._request
        kept = [(k, v) for k, v in head.headers if k not in (b"connection", *HOP_BY_HOP)]
        kept += [(k, v) for k, v in head.headers if k == b"transfer-encoding"]
        lines = b"".join(b"%s: %s\r\n" % pair for pair in kept)
        self._parser = httptools.HttpRequestParser(self)
        self._upgrading = False
        self.phase = Phase.IDLE
        version = head.version.encode()
        self.feed(b"%s %s HTTP/%s\r\n%s\r\n" % (head.method, head.target, version, lines) + rest)

    # --- httptools' callbacks -------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.phase = Phase.HEAD
        self._request = self._blank()

    def on_url(self, url: bytes) -> None:
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase is not Phase.HEAD:
            return  # a trailer: nothing here needs one
        headers = self._request.headers
        headers.append((name.lower(), value.strip()))
        if len(headers) > self._limits.header_count:
            self._refuse(BadWire(431, f"More than {self._limits.header_count} headers."))

    def on_headers_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method()
        request.version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive() and request.version == "1.1"
        head_bytes = sum(len(k) + len(v) + 4 for k, v in request.headers) + len(request.target)
        if head_bytes > self._limits.head_bytes:
            self._refuse(self._too_long())
        self._check_head(request)
        if self._parser.should_upgrade():
            self._upgrading = True
            return
        self.phase = Phase.BODY
        try:
            self._on_head(request)
        except BadWire as exc:
            self._refuse(exc)

    def on_body(self, piece: bytes) -> None:
        body = self._request.body
        body += piece
        if len(body) > self._limits.body_bytes:
            self._refuse(self._too_large())

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        request, self._request = self._request, self._blank()
        self.phase = Phase.IDLE
        self._wire_bytes = 0
        self._on_request(request)

    # --- refusals -------------------------------------------------------------------------

    def _check_head(self, request: Request) -> None:
        if request.method == b"CONNECT":
            self._refuse(BadWire(405, "CONNECT is not served here."))
        if request.version not in ("1.0", "1.1"):
            self._refuse(BadWire(505, f"HTTP/{request.version} is not served here."))
        coding = request.all(b"transfer-encoding")
        if coding and (len(coding) > 1 or coding[0].lower() != b"chunked"):
            self._refuse(BadWire(501, "The only transfer encoding served here is chunked."))
        length = request.get(b"content-length")
        if length is not None and int(length) > self._limits.body_bytes:
            self._refuse(self._too_large())

    def _refuse(self, refusal: BadWire) -> None:
        """Stop the parser; `feed` raises the refusal."""
        self._refusal = refusal
        raise refusal

    def _too_large(self) -> BadWire:
        limit = self._limits.body_bytes
        return BadWire(413, f"The request body is larger than {limit:,} bytes.")

    def _too_long(self) -> BadWire:
        return BadWire(431, f"The request head is larger than {self._limits.head_bytes:,} bytes.")

    def _blank(self) -> Request:
        return Request(b"", b"", "1.1", [], keep_alive=False)


class AnswerState(Enum):
    UNSENT = "unsent"
    OPEN = "open"  # the head is out
    ENDED = "ended"


class Framing(Enum):
    """How the end of a body is told."""

    LENGTH = "length"  # Content-Length, or no body at all
    CHUNKED = "chunked"
    CLOSE = "close"  # by closing: for HTTP/1.0 clients


class Answer:
    """What goes back to a client for one request. Writing never blocks.

    `headers` go into every head: CORS and the like.
    """

    def __init__(
        self,
        request: Request,
        write: Callable[[bytes], None],
        headers: Iterable[tuple[bytes, bytes]],
    ) -> None:
        self.state = AnswerState.UNSENT
        self.framing = Framing.LENGTH
        self.status = 0
        self.keep_alive = request.keep_alive
        self.write = write
        self._headers = tuple(headers)
        self._http_1_0 = request.version == "1.0"
        self._head_only = request.method == b"HEAD"

    @property
    def stream_framing(self) -> Framing:
        """The framing for a body of unknown length."""
        return Framing.CLOSE if self._http_1_0 else Framing.CHUNKED

    def open(self, status: int, headers: Headers, framing: Framing) -> None:
        """Send the head. With `LENGTH`, `headers` hold the Content-Length."""
        self.state, self.status, self.framing = AnswerState.OPEN, status, framing
        lines = [b"HTTP/1.1 %d %s" % (status, _reason(status))]
        lines += [b"%s: %s" % pair for pair in (*headers, *self._headers)]
        if framing is Framing.CHUNKED:
            lines.append(b"Transfer-Encoding: chunked")
        if framing is Framing.CLOSE:
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"Connection: close")
        self.write(b"\r\n".join(lines) + b"\r\n\r\n")

    def piece(self, body: bytes) -> None:
        """Send a part of the body."""
        if body and not self._head_only:
            self.write(chunk(body) if self.framing is Framing.CHUNKED else body)

    def end(self) -> None:
        """The body is complete."""
        if self.framing is Framing.CHUNKED and not self._head_only:
            self.write(LAST_CHUNK)
        self.state = AnswerState.ENDED

    def ended_raw(self) -> None:
        """The body is complete, its framing came with it."""
        self.state = AnswerState.ENDED

    def whole(
        self, status: int, content_type: str, body: bytes, *extra: tuple[bytes, bytes]
    ) -> None:
        """Send a complete answer."""
        headers: Headers = [(b"Content-Type", content_type.encode())] if content_type else []
        if status != 204:
            headers.append((b"Content-Length", b"%d" % len(body)))
        self.open(status, [*headers, *extra], Framing.LENGTH)
        self.piece(body)
        self.end()

    def json(self, status: int, value: Any, *extra: tuple[bytes, bytes]) -> None:
        """Send a complete JSON answer."""
        self.whole(status, "application/json; charset=utf-8", json_bytes(value), *extra)


def chunk(body: bytes) -> bytes:
    """`body` as one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(body), body)


def json_bytes(value: Any) -> bytes:
    """Compact JSON. Lone surrogates (they occur in file names) come out escaped."""
    return json.dumps(value, separators=(",", ":")).encode()


def error_body(status: int, error: ErrorView) -> dict[str, Any]:
    """An error in the form OpenAI's clients read."""
    if status >= 500:
        kind = "server_error"
    else:
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            status, "invalid_request_error"
        )
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "code": error.code,
            "remedy": error.remedy,
        }
    }


def _reason(status: int) -> bytes:
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Status"
