"""One request to a llama-server child: a fresh connection, its answer passed on as it comes.

The body is never interpreted. The parser sees the bytes only to know where the message ends,
because a broken answer must not look like a complete one.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import httptools

from .http_wire import Headers

# One read. The buffer is allocated once for a connection, not 256 KiB for every read.
READ_BYTES = 64 * 1024
# Request bodies go out in slices, so that asyncio never copies a large one into its buffer.
SEND_BYTES = 256 * 1024
# Holds llama-server's last event, with usage and timings, several times over.
TAIL_BYTES = 4 * 1024
HEAD_BYTES = 64 * 1024
COLLECT_BYTES = 64 * 1024


class BodyFraming(Enum):
    """How the child told the end of its body."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class Passing(Enum):
    """What is done with the body."""

    RAW = "raw"  # bytes go on as they are, framing included
    PIECES = "pieces"  # the content goes on, framed anew
    COLLECTED = "collected"  # kept: an error that becomes one event


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The child's answer up to its body; header names in lower case."""

    status: int
    headers: Headers
    framing: BodyFraming

    @property
    def content_type(self) -> bytes:
        return next((v for k, v in self.headers if k == b"content-type"), b"")


class UpstreamState(Enum):
    HEAD = "head"
    BODY = "body"
    COMPLETE = "complete"
    BROKEN = "broken"


class Upstream(asyncio.BufferedProtocol):
    """The connection to the child. `finished` resolves when it is COMPLETE or BROKEN.

    `on_head` is told the head and says what is done with the body; `raw` and `piece` take it.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        request: tuple[bytes, bytearray],
        on_head: Callable[[ResponseHead], Passing],
        raw: Callable[[bytes], None],
        piece: Callable[[bytes], None],
        clock: Callable[[], float],
        head_only: bool,
    ) -> None:
        self.state = UpstreamState.HEAD
        self.status = 0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first_byte_at: float | None = None
        self.last_byte_at: float | None = None
        self.tail = b""
        self.collected = bytearray()
        self._head, self._body = request
        self._sent = 0
        self._sending_paused = False
        self._on_head, self._raw, self._piece, self._clock = on_head, raw, piece, clock
        self._head_only = head_only
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._head_seen = b""
        self._headers: Headers = []
        self._framing: BodyFraming | None = None  # until its head is here
        self.passing = Passing.RAW
        self._inside_chunk = False
        self._last = b""
        self._parser = httptools.HttpResponseParser(self)

    @property
    def at_boundary(self) -> bool:
        """Whether what has gone on so far can be followed by a chunk of ours."""
        if self._framing is None or self.passing is not Passing.RAW:
            return True
        # A chunk's size line that was cut off also lies outside a chunk: it has no line end.
        # Nothing at all has come when the child dies while it reads the prompt.
        between = not self._inside_chunk and (not self._last or self._last.endswith(b"\n"))
        return self._framing is BodyFraming.CHUNKED and between

    def pause(self) -> None:
        """Stop reading: the client is slow."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        """Close at once; llama-server stops generating when it notices."""
        self.transport.abort()

    # --- asyncio --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if len(self._body) <= SEND_BYTES:  # one write, one system call
            self.transport.write(self._head + self._body)
            self._body = bytearray()
            return
        self.transport.write(self._head)
        self._send_more()

    def pause_writing(self) -> None:
        self._sending_paused = True

    def resume_writing(self) -> None:
        self._sending_paused = False
        self._send_more()

    def _send_more(self) -> None:
        while self._sent < len(self._body) and not self._sending_paused:
            piece = self._body[self._sent : self._sent + SEND_BYTES]
            self._sent += len(piece)
            self.transport.write(piece)
        if self._sent >= len(self._body):
            self._body = bytearray()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._view[:nbytes])
        try:
            if self.state is UpstreamState.BODY:
                self._body_received(data)
            elif self.state is UpstreamState.HEAD:
                self._head_received(data)
        except httptools.HttpParserError:
            self._finish(UpstreamState.BROKEN)

    def eof_received(self) -> None:
        if self.state is UpstreamState.BODY and self._framing is BodyFraming.CLOSE:
            self._finish(UpstreamState.COMPLETE)
        else:
            self._finish(UpstreamState.BROKEN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(UpstreamState.BROKEN)

    # --- the answer -----------------------------------------------------------------------

    def _head_received(self, data: bytes) -> None:
        self._head_seen += data
        end = self._head_seen.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(self._head_seen) > HEAD_BYTES:
                self._finish(UpstreamState.BROKEN)
            return
        head, rest = self._head_seen[:end], self._head_seen[end:]
        self._head_seen = b""
        self._headers = []
        self._parser.feed_data(head)
        status = self.status = self._parser.get_status_code()
        if status < 200:  # an interim answer: the real one follows
            self._parser = httptools.HttpResponseParser(self)
            self.state = UpstreamState.HEAD
            if rest:
                self._head_received(rest)
            return
        self._begin_body(status)
        if rest and self.state is UpstreamState.BODY:
            self._body_received(rest)

    def _begin_body(self, status: int) -> None:
        names = dict(self._headers)
        empty = self._head_only or status in (204, 304)
        if empty:
            framing = BodyFraming.NONE
        elif b"transfer-encoding" in names:
            framing = BodyFraming.CHUNKED
        elif b"content-length" in names:
            framing = BodyFraming.LENGTH
        else:
            framing = BodyFraming.CLOSE
        self._framing = framing
        complete = empty or self.state is UpstreamState.COMPLETE
        self.state = UpstreamState.BODY
        self.passing = self._on_head(ResponseHead(status, self._headers, framing))
        if complete:
            self._finish(UpstreamState.COMPLETE)

    def _body_received(self, data: bytes) -> None:
        self._parser.feed_data(data)  # first: bytes past the message's end must not go on
        if self.passing is Passing.RAW:
            self._last = data
            self._raw(data)
        if self.state is UpstreamState.COMPLETE:
            self._finish(UpstreamState.COMPLETE)

    def _finish(self, state: UpstreamState) -> None:
        if not self.finished.done():
            self.state = state
            self.finished.set_result(None)

    # --- httptools' callbacks -------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.state is UpstreamState.COMPLETE:
            raise httptools.HttpParserError("bytes after the end of the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.strip()))

    def on_chunk_header(self) -> None:
        self._inside_chunk = True

    def on_chunk_complete(self) -> None:
        self._inside_chunk = False

    def on_body(self, body: bytes) -> None:
        now = self.last_byte_at = self._clock()
        if self.first_byte_at is None:
            self.first_byte_at = now
        self.tail = (self.tail + body)[-TAIL_BYTES:]
        if self.passing is Passing.PIECES:
            self._piece(body)
        elif self.passing is Passing.COLLECTED and len(self.collected) < COLLECT_BYTES:
            self.collected += body

    def on_message_complete(self) -> None:
        self.state = UpstreamState.COMPLETE


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens and times as llama-server counted them."""

    prompt_tokens: int | None = None  # cached ones included
    generated_tokens: int | None = None
    tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None  # of those that were not cached
    cached_tokens: int | None = None
    generating_s: float | None = None


# What is looked for, under the one name that is used here.
_NAMES = {
    b"prompt_tokens": "prompt",
    b"input_tokens": "prompt",
    b"completion_tokens": "generated",
    b"output_tokens": "generated",
    b"cached_tokens": "cached",
    b"cache_read_input_tokens": "cached_beside",
    b"cache_n": "cache_n",
    b"prompt_n": "prompt_n",
    b"prompt_per_second": "prompt_per_s",
    b"predicted_n": "predicted_n",
    b"predicted_ms": "predicted_ms",
    b"predicted_per_second": "predicted_per_s",
}
_NUMBER = re.compile(
    rb'"(' + b"|".join(_NAMES) + rb')"\s*:\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)',
)


def counts_in(tail: bytes) -> Counts:
    """The token counts in the last bytes of an answer; one look, once a request.

    llama-server writes `usage` (OpenAI's names, or Anthropic's) and, but for Anthropic's
    endpoint, `timings` (server-common.cpp, server_slot_stats::to_json) last. Text inside the
    answer cannot be mistaken for them: its quotes are escaped.
    """
    found = {  # of several, the last
        _NAMES[name]: number
        for name, text in _NUMBER.findall(tail)
        if math.isfinite(number := float(text))
    }
    prompt, cached = _whole(found, "prompt"), _whole(found, "cache_n")
    beside = _whole(found, "cached_beside")
    if beside is not None and prompt is not None:  # Anthropic's input_tokens are without those
        prompt += beside
    if prompt is None and "prompt_n" in found:
        prompt = int(found["prompt_n"]) + (cached or 0)
    generated = _whole(found, "generated")
    spent_ms = found.get("predicted_ms")
    return Counts(
        prompt_tokens=prompt,
        generated_tokens=_whole(found, "predicted_n") if generated is None else generated,
        tokens_per_s=found.get("predicted_per_s"),
        prompt_tokens_per_s=found.get("prompt_per_s"),
        cached_tokens=next(
            (n for n in (cached, beside, _whole(found, "cached")) if n is not None), None
        ),
        generating_s=None if spent_ms is None else spent_ms / 1000,
    )


def _whole(found: dict[str, float], name: str) -> int | None:
    return int(found[name]) if name in found else None
