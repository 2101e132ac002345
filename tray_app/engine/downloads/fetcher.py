"""One connection of a transfer: takes pieces, writes what comes, tries again when it breaks."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from typing import TYPE_CHECKING

from tray_app.engine.errors import Cancelled

from .http_line import Line
from .http_source import Opened
from .part_file import DISK_MARGIN_BYTES, READ_BYTES
from .pieces import MIB, Span
from .retry import Changed, TryAgain

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger(__name__)

SPAN_S = 3.0  # of one request at a connection's own rate: round trips cost little then
LAG_S = 2.0
LAG_FACTOR = 4
FIRST_SPAN_BYTES = 16 * MIB


class SizeLearned(Exception):
    """The size of a large file was not known and is now: it can be fetched in pieces."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


class Fetcher:
    """A connection and its thread."""

    def __init__(self, session: Session) -> None:
        """Nothing is opened before `run`."""
        self.line = Line(session.wishes.policy.stall_s)
        self.delivering = False  # bytes come
        self._session = session
        self._pieces = session.pieces
        self._writing = threading.Lock()
        self._barred = False
        self._view = memoryview(bytearray(READ_BYTES))
        self._rate = 0.0  # bytes a second, of the last span
        self._failures = 0  # in a row, without a byte
        self._span: Span | None = None  # while bytes of it are read
        self._began = self._last_byte = 0.0
        self._got = 0  # bytes of this attempt that were wanted
        self._mark = 0  # what the whole transfer had at the first failure

    def run(self) -> None:
        """Fetch what nobody fetches until all is there, or this connection is one too many."""
        session = self._session
        try:
            while session.wants(self):
                span = self._claim()
                if span is None:
                    session.relieve(self, self._rate)
                    self._pieces.wait_free()
                elif not self._carry(span):
                    break
        except Cancelled:
            pass
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits
            session.fail(exc)
        finally:
            session.left(self)
            self.delivering = False
            self.line.close()

    def bar(self) -> None:
        """Nothing is written from here on. Blocks while something is."""
        with self._writing:
            self._barred = True

    def lags(self, rate: float) -> bool:
        """Whether one of `rate` bytes/s should take over; after LAG_S, not for a first hiccup."""
        now = time.monotonic()
        if self._span is None or now - self._began < LAG_S:
            return False
        stalls = now - self._last_byte > LAG_S
        return stalls or self._got / (now - self._began) * LAG_FACTOR < rate

    def give_up(self) -> None:
        """Let another connection have the piece; what came of it counts."""
        if self._span is not None:
            self._pieces.release(self._span)

    def _claim(self) -> Span | None:
        pieces, session = self._pieces, self._session
        if session.alone is self:
            return pieces.claim_all() if pieces.free_count() else None
        if session.wishes.connections == 1:
            return pieces.claim(len(pieces))
        piece = max(pieces.length(0) or 1, 1)
        wanted = int(max(self._rate * SPAN_S, FIRST_SPAN_BYTES)) // piece
        fair = pieces.free_count() // (2 * session.ramp.wanted)
        return pieces.claim(max(1, min(wanted, fair)))

    def _carry(self, span: Span) -> bool:
        """Fetch a span, or pause after a failure. False when this connection is of no use.

        Raises TryAgain when no connection gets anywhere.
        """
        try:
            self._wait_until(self._session.quiet_until)
            self._got, self._began = 0, time.monotonic()
            self._last_byte = self._began
            self._fetch(span)
            self._failures = 0
            self._rate = self._got / max(time.monotonic() - self._began, 0.001)
            return True
        except TryAgain as exc:
            self.delivering = False
            self.line.close()
            self._check_stop()
            log.info("download interrupted: %s", exc)
            self._pieces.release(span)  # others may take it meanwhile
            return self._count_failure(exc)
        finally:
            self._pieces.release(span)

    def _count_failure(self, exc: TryAgain) -> bool:
        session, policy = self._session, self._session.wishes.policy
        others = session.others(self)
        if exc.crowded and others:
            session.crowded()
            return False
        received = self._pieces.received_bytes
        self._failures = 1 if self._got else self._failures + 1
        if self._failures == 1:
            self._mark = received
        if self._failures >= policy.attempts:
            if others:
                return False
            if received <= self._mark:
                raise exc
            self._failures, self._mark = 1, received
        pause_s = policy.pause_s(self._failures, exc.after_s)
        until = time.monotonic() + pause_s
        if exc.after_s is not None:
            session.quiet_until = max(session.quiet_until, until)
        self._wait_until(until)
        return True

    def _fetch(self, span: Span) -> None:
        session, pieces = self._session, self._pieces
        start = pieces.start(span.index) + pieces.begun(span.index)[0]
        stop = None if span.stop == len(pieces) else pieces.start(span.stop)
        if session.alone is self:
            start, stop = 0, None
        opened = session.source.open(self.line, start, stop, pieces.size_bytes, session.stop)
        self._learn(opened)
        if opened.reply.status == 206:
            session.range_came()
        elif start or stop is not None:
            session.ignored_range(self)
            span = pieces.claim_all()
        self._span = span
        try:
            self._take(span, opened)
        finally:
            self._span = None
            pieces.release(span)

    def _learn(self, opened: Opened) -> None:
        """The size, where it was not known before."""
        total = opened.total_bytes
        if self._pieces.size_bytes is not None or total is None:
            return
        if total > self._session.small_bytes:
            raise SizeLearned(total)
        if self._pieces.begun(0)[0] > total:
            raise Changed(f"the server has {total:,} bytes of it, less than have come")
        self._pieces.learn_size(total)

    def _take(self, span: Span, opened: Opened) -> None:
        """Read the body from where it begins, and write what is wanted of it."""
        pieces, reply = self._pieces, opened.reply
        position = opened.start
        while True:
            index = span.index
            begun, crc = pieces.begun(index)
            begins, length = pieces.start(index), pieces.length(index)
            self._skip(opened, begins + begun - position)
            while length is None or begun < length:
                room = READ_BYTES if length is None else length - begun
                room = min(room, READ_BYTES, self._session.wishes.limit.read_bytes)
                got = reply.read_into(self._view[:room])
                if not got:
                    if length is None:
                        break  # where the body ends, the file does
                    raise TryAgain(f"the connection closed at {begins + begun:,} bytes")
                crc = zlib.crc32(self._view[:got], crc)
                self._store(span, self._view[:got], begins + begun, crc)
                begun += got
            position = begins + begun
            if not pieces.finish(span) or not self._session.wants(self):
                return

    def _store(self, span: Span, data: memoryview, offset: int, crc: int) -> None:
        session = self._session
        if self._pieces.size_bytes is None and offset // MIB % 64 == 0:
            session.part.reserve(offset + DISK_MARGIN_BYTES, whole=False)
        session.wishes.limit.take(len(data), session.stop)
        with self._writing:
            if self._barred or session.stop.is_set():
                raise Cancelled
            session.part.write_at(data, offset)
        if not self._pieces.add(span, len(data), crc):
            raise Cancelled
        self._got += len(data)
        self._last_byte = time.monotonic()
        self.delivering = True
        session.source.delivered()

    def _skip(self, opened: Opened, count: int) -> None:
        """Read past what is there already."""
        while count > 0:
            self._check_stop()
            got = opened.reply.read_into(self._view[: min(count, READ_BYTES)])
            if not got:
                raise TryAgain("the connection closed before what is missing")
            self._session.wishes.limit.take(got, self._session.stop)
            count -= got

    def _wait_until(self, when: float) -> None:
        if self._session.stop.wait(max(0.0, when - time.monotonic())):
            raise Cancelled

    def _check_stop(self) -> None:
        session = self._session
        if session.stop.is_set() or session.alone not in (None, self):
            raise Cancelled
