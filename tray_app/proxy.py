"""One proxied request, from the wait for its model to the record of its answer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .engine.errors import EngineError, ErrorView
from .engine.values import ModelState, ModelStatus, RequestRecord
from .engine_side import Backend, Lease
from .http_wire import (
    HOP_BY_HOP,
    Answer,
    AnswerState,
    BadWire,
    Framing,
    Headers,
    Request,
    error_body,
    json_bytes,
)
from .named_model import named_model
from .upstream import BodyFraming, Counts, Passing, ResponseHead, Upstream, UpstreamState, counts_in

# The child has no keys of its own; cookies of other local services are none of its business.
NOT_FORWARDED = HOP_BY_HOP | {
    b"api-key",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"origin",
    b"x-api-key",
}
RETRIES = 1
# How long a child's death may take to reach the lease after its socket closed.
DEATH_NOTICE_S = 1.0
# What the record says when the client left before its answer was complete (nginx's number).
CLIENT_GONE = 499
_STATUS_OF_CODE = {
    "bad_request": 400,
    "settings_invalid": 400,
    "not_found": 404,
    "model_not_found": 404,
    "queue_full": 429,
    "model_failed": 502,
    "runtime_build_failed": 502,
    "bad_gguf": 502,
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a stream waits in silence, and how often it hears from us after that."""

    silent_s: float = 1.0
    keepalive_s: float = 5.0


class Exchange:
    """One request on its way through. `run` is cancelled when the client goes away."""

    def __init__(
        self,
        backend: Backend,
        request: Request,
        answer: Answer,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        path: str = "",
    ) -> None:
        self.upstream: Upstream | None = None  # for the client's back pressure
        self._path = path or request.path  # as the client named it
        self._backend = backend
        self._request = request
        self._answer = answer
        self._patience = patience
        self._clock = clock
        self._model_id = ""
        self._started_at, self._start = time.time(), clock()
        self.wait_s = 0.0  # so far, until its model was ready
        self._status = CLIENT_GONE
        self._event_stream = False
        self._tries = 0
        self._saying: asyncio.TimerHandle | None = None  # the next waiting comment

    async def run(self) -> None:
        """Answer the request. Whatever goes wrong is told to the client, not raised."""
        named = await named_model(self._request)
        try:
            self._model_id = self._backend.resolve(named.model)
        except EngineError as exc:
            self._refuse(exc.view())
            return
        try:
            # A child may have died the moment before; nothing was sent to it then, so the
            # request waits for the restart instead of failing.
            while not await self._try(named.stream):
                self._tries += 1
        except EngineError as exc:
            self._refuse(exc.view())
        finally:
            self._backend.record(self._record())

    async def _try(self, stream: bool) -> bool:
        lease = await self._acquire(stream)
        try:
            return await self._relay(lease)
        finally:
            lease.release()

    # --- waiting for the model ------------------------------------------------------------

    async def _acquire(self, stream: bool) -> Lease:
        """Wait for the model, without a task of its own: most often it is ready at once."""
        asked = self._clock()
        if stream:
            self._say_later(self._patience.silent_s)
        try:
            # Pages that poll /slots or /props must not keep a model in memory for ever.
            counts = self._request.method not in (b"GET", b"HEAD")
            lease = await self._backend.acquire(self._model_id, counts)
            self.wait_s += lease.wait_s
            return lease
        except (EngineError, asyncio.CancelledError):
            self.wait_s += self._clock() - asked
            raise
        finally:
            if self._saying is not None:
                self._saying.cancel()

    def _say_later(self, seconds: float) -> None:
        self._saying = asyncio.get_running_loop().call_later(seconds, self._say)

    def _say(self) -> None:
        """Keep a stream's client from giving up: open the stream and say what it waits for."""
        if self._answer.state is AnswerState.UNSENT:
            headers: Headers = [
                (b"Content-Type", b"text/event-stream"),
                (b"Cache-Control", b"no-cache"),
                self._model_header(),
            ]
            self._event_stream = True
            self._answer.open(200, headers, self._answer.stream_framing)
        text = waiting_text(self._backend.status(self._model_id))
        self._answer.piece(f": {text}\n\n".encode())
        self._say_later(self._patience.keepalive_s)

    # --- the child's answer ---------------------------------------------------------------

    async def _relay(self, lease: Lease) -> bool:
        """Send the request and pass its answer on; False when it should be tried once more."""
        try:
            upstream = self.upstream = await self._connect(lease)
        except OSError:
            reason = await _reason_of_death(lease)
            if lease.died.done() and self._tries < RETRIES:
                return False
            self._refuse(reason)
            return True
        self._request.body = bytearray()  # the connection's now, which drops it once sent
        try:
            await upstream.finished
        finally:
            upstream.abort()
        if upstream.state is UpstreamState.COMPLETE:
            self._complete(upstream)
        else:
            await self._broken(lease, upstream)
        return True

    async def _connect(self, lease: Lease) -> Upstream:
        loop = asyncio.get_running_loop()
        request = (self._upstream_head(lease), self._request.body)

        def protocol() -> Upstream:
            head_only = self._request.method == b"HEAD"
            answer = self._answer
            return Upstream(
                request, self._on_head, answer.write, answer.piece, self._clock, head_only
            )

        if lease.socket_path is not None:
            _, upstream = await loop.create_unix_connection(protocol, lease.socket_path)
        else:
            host, port = lease.host_port or ("", 0)
            _, upstream = await loop.create_connection(protocol, host, port)
        return upstream

    def _upstream_head(self, lease: Lease) -> bytes:
        request = self._request
        named = {
            token.strip().lower()
            for value in request.all(b"connection")
            for token in value.split(b",")
        }
        lines = [b"%s %s HTTP/1.1" % (request.method, request.origin_form)]
        lines += [b"Host: localhost", b"Connection: close"]
        lines += [f"{name}: {value}".encode() for name, value in lease.headers.items()]
        lines += [
            b"%s: %s" % (key, value)
            for key, value in request.headers
            if key not in NOT_FORWARDED and key not in named
        ]
        if request.body or request.method in (b"POST", b"PUT", b"PATCH"):
            lines.append(b"Content-Length: %d" % len(request.body))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _on_head(self, head: ResponseHead) -> Passing:
        answer = self._answer
        if answer.state is AnswerState.OPEN:  # our waiting comments are out already
            if head.status != 200:
                return Passing.COLLECTED
            return self._passing(head.framing)
        self._event_stream = head.content_type.startswith(b"text/event-stream")
        headers = [(k, v) for k, v in head.headers if _passes_back(k, head.framing)]
        headers.append(self._model_header())
        if head.framing in (BodyFraming.LENGTH, BodyFraming.NONE):
            answer.open(head.status, headers, Framing.LENGTH)
            return Passing.RAW
        answer.open(head.status, headers, answer.stream_framing)
        return self._passing(head.framing)

    def _passing(self, framing: BodyFraming) -> Passing:
        same = framing is BodyFraming.CHUNKED and self._answer.framing is Framing.CHUNKED
        return Passing.RAW if same else Passing.PIECES

    def _complete(self, upstream: Upstream) -> None:
        if upstream.passing is Passing.COLLECTED:
            self._status = upstream.status
            self._answer.piece(b"data: %s\n\n" % _one_line(bytes(upstream.collected)))
        else:
            self._status = self._answer.status
        if upstream.passing is Passing.RAW:
            self._answer.ended_raw()
        else:
            self._answer.end()

    async def _broken(self, lease: Lease, upstream: Upstream) -> None:
        """The child's connection ended early: say why where that can be said."""
        reason = await _reason_of_death(lease)
        if self._answer.state is AnswerState.UNSENT or upstream.passing is Passing.COLLECTED:
            self._refuse(reason)
            return
        self._status = 502
        if self._event_stream and upstream.at_boundary:
            # An event that was cut off ends here; its client finds it malformed.
            if upstream.tail and not upstream.tail.endswith(b"\n\n"):
                self._answer.piece(b"\n\n")
            self._error_event(502, reason)
        # Otherwise the answer stays OPEN, and the connection is closed in the middle of it.

    # --- refusals -------------------------------------------------------------------------

    def _refuse(self, error: ErrorView) -> None:
        """Tell the client why there is no answer."""
        status, retry_s = self._status_of(error)
        self._status = status
        if self._answer.state is AnswerState.OPEN:
            self._error_event(status, error)
            return
        extra = [(b"Retry-After", b"%d" % retry_s)] if retry_s else []
        self._answer.json(status, error_body(status, error), *extra)

    def _error_event(self, status: int, error: ErrorView) -> None:
        self._answer.piece(b"data: %s\n\n" % json_bytes(error_body(status, error)))
        self._answer.end()

    def _status_of(self, error: ErrorView) -> tuple[int, int | None]:
        """The HTTP status, and after how many seconds another try makes sense."""
        status = _STATUS_OF_CODE.get(error.code, 503)
        if error.code == "queue_full":
            return status, 1
        if error.code == "model_failed" and self._model_id:
            retry_at = self._backend.status(self._model_id).retry_at
            if retry_at is not None:
                return 503, max(1, math.ceil(retry_at - time.time()))
        return status, None

    def _model_header(self) -> tuple[bytes, bytes]:
        # Ids come from file names: what is not plain ASCII is percent-encoded.
        return b"X-Llama-Wrangler-Model", quote(self._model_id, safe="/:@+,()[] ").encode()

    def _record(self) -> RequestRecord:
        now, ready = self._clock(), self._start + self.wait_s
        upstream = self.upstream
        first = upstream.first_byte_at if upstream else None
        counts = counts_in(upstream.tail) if upstream and first is not None else Counts()
        if first is not None and counts.generating_s and not self._event_stream:
            first -= counts.generating_s  # an answer in one piece comes with its last token
        return RequestRecord(
            model_id=self._model_id,
            path=self._path,
            status=self._status,
            started_at=self._started_at,
            wait_s=self.wait_s,
            first_token_s=None if first is None else max(0.0, first - ready),
            duration_s=now - self._start,
            prompt_tokens=counts.prompt_tokens,
            generated_tokens=counts.generated_tokens,
            tokens_per_s=counts.tokens_per_s or self._measured_rate(counts),
            prompt_tokens_per_s=counts.prompt_tokens_per_s,
            cached_tokens=counts.cached_tokens,
        )

    def _measured_rate(self, counts: Counts) -> float | None:
        """Tokens a second between the first and the last byte of a stream without timings."""
        upstream = self.upstream
        if not (self._event_stream and upstream and counts.generated_tokens):
            return None
        span = (upstream.last_byte_at or 0.0) - (upstream.first_byte_at or 0.0)
        return (counts.generated_tokens - 1) / span if span > 0 else None


def waiting_text(status: ModelStatus) -> str:
    """What a waiting request waits for, on one line."""
    if status.state is ModelState.WAITING or status.in_flight:
        what = f"{status.in_flight} requests" if status.in_flight else "other models' requests"
        text = f"waiting for {what} to finish before {status.model_id}"
    elif status.state is ModelState.BACKOFF:
        text = f"{status.model_id} stopped; trying again"
    else:
        text = f"loading {status.model_id}"
    return " ".join(text.split())


def http_error(error: EngineError) -> tuple[int, dict[str, Any]]:
    """Status and JSON body for an error outside a proxied request."""
    known = _STATUS_OF_CODE.get(error.code, 503)
    status = error.status if isinstance(error, BadWire) else known
    return status, error_body(status, error.view())


def _passes_back(name: bytes, framing: BodyFraming) -> bool:
    if name == b"content-length":
        return framing in (BodyFraming.LENGTH, BodyFraming.NONE)
    return name not in HOP_BY_HOP and not name.startswith(b"access-control-")


def _one_line(body: bytes) -> bytes:
    """A JSON body as one line, for an SSE `data:` field."""
    return b" ".join(body.split(b"\n")).replace(b"\r", b" ").strip()


async def _reason_of_death(lease: Lease) -> ErrorView:
    """Why the child is gone; it may take a moment until that is known."""
    await asyncio.wait({lease.died}, timeout=DEATH_NOTICE_S)
    if lease.died.done() and not lease.died.cancelled():
        return lease.died.result()
    return ErrorView(
        "model_failed",
        f"llama-server closed the connection of {lease.model_id} before its answer was complete.",
        "Try again; the model's log says more.",
    )
