"""The header of a GGUF that is still on a server, by small range requests.

What a scan reads of a file stands before the tokenizer: one request of 64 KiB told it for every
model that was measured. The addresses, redirects and secrets are those of the transfer.
Loaded only when somebody asks a hub: it imports urllib.request.
"""

from __future__ import annotations

import io
import queue
import threading
import time
from dataclasses import dataclass

from tray_app.engine import gguf
from tray_app.engine.errors import BadGguf, Cancelled, DownloadFailed

from .http_line import Line
from .http_source import Source
from .retry import Changed, GivenUp, RetryPolicy, TryAgain, Unreachable
from .values import Remote

FIRST_BYTES = 64 << 10
MOST_BYTES = 16 << 20  # the largest whole header seen has 15.8 MB (gemma-4: 262,144 tokens)
PIECE_BYTES = 64 << 10
WHOLE_S = 30.0  # for one header: a page waits for it
STALL_S = 10.0  # for the connection, and for each piece
LONGEST_ASKED_S = 2.0  # a server that asks for a longer pause gets it: the caller hears at once
UNKNOWN_SIZE_BYTES = 1 << 44  # where no server tells: no file is larger
POLICY = RetryPolicy(attempts=3, first_pause_s=0.5)
REMEDY = "Retry later. The model can be downloaded all the same."


@dataclass(frozen=True, slots=True)
class Peeked:
    """What was read of a remote file, and its size where somebody tells it."""

    header: gguf.Header
    size_bytes: int | None


def read(
    remote: Remote,
    *,
    cancel: threading.Event | None = None,
    policy: RetryPolicy = POLICY,
    whole_s: float = WHOLE_S,
) -> gguf.Header:
    """The summary of `remote`'s header. Blocks and raises as `peek`."""
    return peek(remote, cancel=cancel, policy=policy, whole_s=whole_s).header


def peek(
    remote: Remote,
    *,
    cancel: threading.Event | None = None,
    policy: RetryPolicy = POLICY,
    whole_s: float = WHOLE_S,
) -> Peeked:
    """`read`, with the size of the file.

    Reads FIRST_BYTES, and twice as much as long as that is too little, MOST_BYTES at most.
    Blocks for `whole_s` at most; `cancel` ends it within 0.1 s by Cancelled. Raises BadGguf for
    a header that is none or too long, Unreachable for what may pass, DownloadFailed, and what
    `remote.renew` raises.
    """
    line, ended = Line(STALL_S), threading.Event()
    told: queue.Queue[Peeked | BaseException] = queue.Queue()

    def ask() -> None:
        try:
            told.put(_Reader(remote, line, ended, policy).peek())
        except BaseException as exc:  # noqa: BLE001  a thread's edge: whoever waits raises it
            told.put(exc)
        finally:
            line.close()

    # On a thread: one that drips its headers for ever is left behind.
    threading.Thread(target=ask, name="remote-header", daemon=True).start()
    try:
        outcome = _awaited(told, cancel, whole_s)
    finally:
        ended.set()
        line.cut()
    if outcome is None:
        raise Unreachable(f"The header of {remote.filename} took over {whole_s:.0f} s.", REMEDY)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _awaited(
    told: queue.Queue[Peeked | BaseException], cancel: threading.Event | None, whole_s: float
) -> Peeked | BaseException | None:
    """What the thread says; None when it is late. Raises Cancelled."""
    deadline = time.monotonic() + whole_s
    while (left_s := deadline - time.monotonic()) > 0:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        try:
            return told.get(timeout=min(0.1, left_s) if cancel is not None else left_s)
        except queue.Empty:
            continue
    return None


class _Prefix(io.BytesIO):
    """The start of a file, which notes when more was asked for than is here."""

    short = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.short = self.short or (size is not None and len(data) < size)
        return data


class _Reader:
    """One header, over one connection."""

    def __init__(
        self, remote: Remote, line: Line, ended: threading.Event, policy: RetryPolicy
    ) -> None:
        self._source, self._line = Source(remote), line
        self._name = remote.filename
        self._ended = ended
        self._policy = policy
        self._size = remote.size_bytes
        self._have = bytearray()

    def peek(self) -> Peeked:
        wanted = FIRST_BYTES
        while True:
            self._bring(wanted)
            whole = self._size is not None and len(self._have) >= self._size
            prefix = _Prefix(bytes(self._have))
            size = UNKNOWN_SIZE_BYTES if self._size is None else self._size
            try:
                return Peeked(gguf.read_header(prefix, size, whole=False), self._size)
            except BadGguf:
                # A file that ended before it was due is read no further: nothing would come.
                if not prefix.short or whole or len(self._have) < wanted:
                    raise
            if wanted >= MOST_BYTES:
                raise BadGguf(
                    f"The header of {self._name} is not told by its first {MOST_BYTES:,} bytes.",
                    REMEDY,
                )
            wanted *= 2

    def _bring(self, wanted: int) -> None:
        """Have the first `wanted` bytes, or all there are."""
        failures = 0
        while True:
            try:
                self._ask(wanted)
            except TryAgain as exc:
                failures += 1
                asked_s = exc.after_s or 0.0
                if failures >= self._policy.attempts or exc.crowded or asked_s > LONGEST_ASKED_S:
                    raise Unreachable(self._failed(str(exc)), REMEDY) from exc
                if self._ended.wait(self._policy.pause_s(failures, exc.after_s)):
                    raise Cancelled from exc
            except Changed as exc:
                raise DownloadFailed(self._failed(f"it has changed there: {exc}"), REMEDY) from exc
            except GivenUp as exc:
                raise DownloadFailed(self._failed(str(exc)), REMEDY) from exc
            else:
                return

    def _ask(self, wanted: int) -> None:
        stop = wanted if self._size is None else min(wanted, self._size)
        if len(self._have) >= stop:
            return
        opened = self._source.open(self._line, len(self._have), stop, self._size, self._ended)
        self._size = opened.total_bytes if self._size is None else self._size
        if opened.start == 0:
            self._have.clear()  # no ranges: what follows is the whole file
        piece = memoryview(bytearray(PIECE_BYTES))
        while len(self._have) < stop:
            count = opened.reply.read_into(piece[: min(PIECE_BYTES, stop - len(self._have))])
            if self._ended.is_set():
                raise Cancelled
            if not count:
                break
            self._have += piece[:count]
        due = stop if self._size is None else min(stop, self._size)
        if not opened.reply.at_end:
            self._line.close()  # the rest may be a whole model, which nobody wants
        if len(self._have) < due and self._size is not None:
            raise TryAgain(f"the connection closed at {len(self._have):,} of {due:,} bytes")

    def _failed(self, why: str) -> str:
        return f"The header of {self._name} could not be read: {why}."
