"""One client connection: its requests are read ahead and answered one after the other."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from .engine.errors import ErrorView
from .http_wire import (
    CONTINUE,
    Answer,
    AnswerState,
    BadWire,
    Framing,
    Phase,
    Request,
    RequestReader,
    error_body,
)
from .proxy import http_error
from .upstream import Upstream

if TYPE_CHECKING:
    from .gateway import Gateway

log = logging.getLogger(__name__)

# Requests that one connection may send ahead of their answers.
PIPELINED = 8
PIPELINED_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Requests that are being answered have none: models take their time."""

    head_s: float = 30.0  # a head from its first byte, or a new connection without one
    body_s: float = 60.0  # a body without a further byte
    idle_s: float = 75.0  # between requests; longer than the idle timeout of common clients
    drain_s: float = 2.0  # what still arrives after a refusal is read away, so that it is seen


class Answering(Protocol):
    """What answers one request that takes time. `run` is cancelled when the client goes away."""

    @property
    def upstream(self) -> Upstream | None:
        """What is held back while the client is slow."""
        ...

    async def run(self) -> None: ...


class ConnectionState(StrEnum):
    READING = "reading"
    ANSWERING = "answering"
    DRAINING = "draining"  # the last answer is out
    CLOSED = "closed"


_ALLOWED = {
    ConnectionState.READING: {
        ConnectionState.ANSWERING,
        ConnectionState.DRAINING,
        ConnectionState.CLOSED,
    },
    ConnectionState.ANSWERING: {
        ConnectionState.READING,
        ConnectionState.DRAINING,
        ConnectionState.CLOSED,
    },
    ConnectionState.DRAINING: {ConnectionState.CLOSED},
    ConnectionState.CLOSED: set[ConnectionState](),
}


class Connection(asyncio.Protocol):
    """One client. Its requests are answered one after the other."""

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway) -> None:
        self.state = ConnectionState.READING
        self.task: asyncio.Task[None] | None = None
        self._gateway = gateway
        self._reader = RequestReader(gateway.limits, self._on_head, self._on_request)
        self._queue: deque[Request | BadWire] = deque()
        self._exchange: Answering | None = None
        self._deaf = False  # nothing after this can be understood
        self._writable = True
        self._continue_owed = False
        self._answered = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timed: Phase | None = None

    # --- asyncio --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._gateway.admit(self):
            self._watch()
            return
        self._deaf = True
        self._queue.append(BadWire(503, "Too many connections are open.", "Close some clients."))
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.state is ConnectionState.DRAINING:
            return
        try:
            self._reader.feed(data)
        except BadWire as exc:
            self._deaf = True
            self._queue.append(exc)
        self._next()
        self._watch()
        ahead = len(self._queue) >= PIPELINED or self._reader.buffered > PIPELINED_BYTES
        if ahead and self.state is ConnectionState.ANSWERING:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._writable = False
        if self._exchange and self._exchange.upstream:
            self._exchange.upstream.pause()

    def resume_writing(self) -> None:
        self._writable = True
        if self._exchange and self._exchange.upstream:
            self._exchange.upstream.resume()
        self._next()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._move(ConnectionState.CLOSED)
        self._queue.clear()
        self._set_timer(None)
        if self.task is not None:
            self.task.cancel()
        self._gateway.forget(self)

    # --- requests -------------------------------------------------------------------------

    def _on_head(self, request: Request) -> None:
        peer = self.transport.get_extra_info("peername")
        secured = self.transport.get_extra_info("ssl_object") is not None
        self._gateway.access.check(request, peer[0] if peer else "", secured)
        if request.version == "1.1" and request.get(b"expect") == b"100-continue":
            self._continue_owed = True
            self._pay_continue()

    def _pay_continue(self) -> None:
        if self._continue_owed and self.state is ConnectionState.READING and not self._queue:
            self._continue_owed = False
            self.transport.write(CONTINUE)

    def _on_request(self, request: Request) -> None:
        self._continue_owed = False
        self._queue.append(request)

    def _next(self) -> None:
        """Begin with the next request, when the answer before it is out."""
        while self._queue and self.state is ConnectionState.READING and self._writable:
            item = self._queue.popleft()
            self._move(ConnectionState.ANSWERING)
            if isinstance(item, BadWire):
                self._refuse(item)
            else:
                self._begin(item)

    def _begin(self, request: Request) -> None:
        gateway = self._gateway
        answer = Answer(request, self.transport.write, gateway.access.headers(request))
        answer.keep_alive = answer.keep_alive and not gateway.stopping
        if gateway.answer_locally(request, answer):
            self._finished(answer)
            return
        self._exchange = gateway.exchange(request, answer)
        self.task = asyncio.get_running_loop().create_task(self._run(self._exchange, answer))

    async def _run(self, exchange: Answering, answer: Answer) -> None:
        try:
            await exchange.run()
        except Exception:  # the barrier of a request: one answer fails, not all
            log.exception("a request failed inside the gateway")
            if answer.state is AnswerState.UNSENT:
                fault = ErrorView("engine", "The gateway failed.", "Its log says more.")
                answer.json(500, error_body(500, fault))
        finally:
            self.task = self._exchange = None
        if self.state is ConnectionState.ANSWERING:
            self._finished(answer)
            self._next()
            self._watch()

    def _finished(self, answer: Answer) -> None:
        self._answered += 1
        self._timed = None
        if answer.state is AnswerState.OPEN:
            self._break_off(answer)
        elif not answer.keep_alive or self._gateway.stopping:
            self._deaf = True
            self._move(ConnectionState.DRAINING)
            self.transport.close()
        else:
            self._move(ConnectionState.READING)
            self._pay_continue()
            self.transport.resume_reading()

    def _break_off(self, answer: Answer) -> None:
        """End in the middle, so that the client sees a broken answer and not a short one."""
        self._move(ConnectionState.DRAINING)
        if answer.framing is Framing.CLOSE:
            # Closing would look like the end of the body: reset the connection instead.
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()

    def _refuse(self, refusal: BadWire) -> None:
        """Answer what cannot be read to its end, then close."""
        blank = Request(b"GET", b"/", "1.1", [], keep_alive=False)
        status, body = http_error(refusal)
        Answer(blank, self.transport.write, ()).json(status, body)
        self._move(ConnectionState.DRAINING)
        # A close with unread bytes is a reset, and the client would not see the refusal.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._set_timer(self._gateway.timeouts.drain_s)

    # --- time -----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Set the timer that fits what the client does now."""
        if self.state is ConnectionState.ANSWERING:
            self._timed = None
            self._set_timer(None)
            return
        phase, timeouts = self._reader.phase, self._gateway.timeouts
        if self.state is not ConnectionState.READING or (
            phase is self._timed and phase is not Phase.BODY
        ):
            return
        self._timed = phase
        if phase is Phase.IDLE and self._answered:
            self._set_timer(timeouts.idle_s)
        else:
            self._set_timer(timeouts.body_s if phase is Phase.BODY else timeouts.head_s)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        if self.state is ConnectionState.DRAINING or not self._writable:
            self.transport.abort()
        elif self._reader.phase is Phase.IDLE:
            self.transport.close()
        else:
            self._deaf = True
            self._queue.append(BadWire(408, "The request did not arrive in time."))
            self._next()

    def close_if_idle(self) -> None:
        """Close unless a request is being answered."""
        if self.state is ConnectionState.READING:
            self.transport.close()

    def _move(self, state: ConnectionState) -> None:
        if state not in _ALLOWED[self.state]:
            raise RuntimeError(f"a connection cannot go from {self.state} to {state}")
        self.state = state
