"""Which bytes of a file have come: its pieces, who fetches which, how far it is whole.

All bookkeeping, no I/O; every method may be called from any thread, and locks only briefly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIB = 1 << 20
_FREE, _TAKEN, _DONE = 0, 1, 2


def piece_bytes_for(size_bytes: int) -> int:
    """4 MiB up to 1 GiB, 8 up to 8, else 16: a damaged piece costs little, and so does the map."""
    if size_bytes <= 1 << 30:
        return 4 * MIB
    return 8 * MIB if size_bytes <= 8 << 30 else 16 * MIB


@dataclass(frozen=True, slots=True)
class Standing:
    """What has come, as it can be written down."""

    crcs: tuple[int | None, ...]  # of each whole piece; None where it is not whole
    begun: tuple[tuple[int, int, int], ...] = ()  # piece, bytes of its start, their crc32


@dataclass(slots=True, eq=False)
class Span:
    """Neighbouring pieces that one connection fetches: `index` now, up to `stop`."""

    index: int
    stop: int
    revoked: bool = False


class Pieces:
    """The pieces of one file. A file of unknown size is one piece without a length."""

    def __init__(self, size_bytes: int | None, piece_bytes: int | None = None) -> None:
        """Without `piece_bytes` the file is one piece."""
        self.changed = threading.Condition()
        self._size = size_bytes
        self._piece = piece_bytes or size_bytes or 0
        count = 1 if not piece_bytes or not size_bytes else -(-size_bytes // piece_bytes)
        self._state = bytearray(count)
        self._crc: list[int | None] = [None] * count
        self._begun: dict[int, tuple[int, int]] = {}
        self._doubted: set[int] = set()
        self._spans: list[Span] = []
        self._whole = 0  # pieces from the start without a gap
        self._done_bytes = 0

    def __len__(self) -> int:
        return len(self._state)

    @property
    def size_bytes(self) -> int | None:
        return self._size

    @property
    def received_bytes(self) -> int:
        """Bytes that are on disk and wanted there."""
        with self.changed:
            return self._done_bytes + sum(count for count, _ in self._begun.values())

    @property
    def complete(self) -> bool:
        with self.changed:
            return self._frontier_piece() == len(self._state)

    def learn_size(self, size_bytes: int) -> None:
        """The size of a file of one piece, once its server has told it."""
        with self.changed:
            self._size = self._piece = size_bytes

    def start(self, index: int) -> int:
        """Where a piece begins in the file."""
        return index * self._piece

    def length(self, index: int) -> int | None:
        """Bytes of a piece; None while the size is unknown."""
        if self._size is None:
            return None
        return min(self._piece, self._size - index * self._piece)

    def begun(self, index: int) -> tuple[int, int]:
        """Bytes of a piece that have come, and their crc32. A whole piece has its length."""
        with self.changed:
            if self._state[index] == _DONE:
                return self.length(index) or 0, self._crc[index] or 0
            return self._begun.get(index, (0, 0))

    def is_done(self, index: int) -> bool:
        return self._state[index] == _DONE

    # -- who fetches what

    def claim(self, most: int) -> Span | None:
        """Up to `most` neighbouring pieces that nobody fetches, the first ones first.

        When there are none, the second half of what another connection has still before it.
        """
        with self.changed:
            first = self._state.find(_FREE, self._whole)
            if first < 0:
                return self._steal()
            stop = first
            while stop < len(self._state) and stop - first < most and self._state[stop] == _FREE:
                self._state[stop] = _TAKEN
                stop += 1
            return self._give(first, stop)

    def claim_all(self) -> Span:
        """Everything, taken from whoever fetches: for a server that only sends whole files."""
        with self.changed:
            for span in self._spans:
                span.revoked = True
            self._spans.clear()
            for index, state in enumerate(self._state):
                if state == _FREE:
                    self._state[index] = _TAKEN
            return self._give(0, len(self._state))

    def release(self, span: Span) -> None:
        """Whoever fetched it goes: what is not whole is free again; what came of it counts."""
        with self.changed:
            if span.revoked:
                return
            span.revoked = True
            self._spans.remove(span)
            for index in range(span.index, span.stop):
                if self._state[index] == _TAKEN:
                    self._state[index] = _FREE
            self.changed.notify_all()

    def add(self, span: Span, count: int, crc: int) -> bool:
        """`count` more bytes of the span's piece; `crc` is of all of it so far.

        False when the piece is no longer this span's.
        """
        with self.changed:
            if span.revoked:
                return False
            self._begun[span.index] = (self._begun.get(span.index, (0, 0))[0] + count, crc)
            self.changed.notify_all()
            return True

    def finish(self, span: Span) -> bool:
        """The span's piece is whole: on to the next. False when there is no further one."""
        with self.changed:
            if span.revoked:
                return False
            if self._state[span.index] != _DONE:
                self._finish(span.index)
            span.index += 1
            return span.index < span.stop

    def last(self) -> int | None:
        """The last piece of which something has come."""
        with self.changed:
            last = max((*self._begun, self._state.rfind(_DONE)))
            return None if last < 0 else last

    def free_count(self) -> int:
        """Pieces that nobody has taken yet."""
        with self.changed:
            return self._state.count(_FREE)

    def wait_free(self) -> None:
        """Block until something changes, 0.2 s at most, unless a piece is free."""
        with self.changed:
            if self._state.find(_FREE, self._whole) < 0:
                self.changed.wait(0.2)

    def wait_beyond(self, offset: int, index: int) -> None:
        """Block until more than `offset` is whole or piece `index` is, 0.5 s at most."""
        with self.changed:
            if self.frontier() <= offset and self._state[index] != _DONE:
                self.changed.wait(0.5)

    def wake(self) -> None:
        """End every wait."""
        with self.changed:
            self.changed.notify_all()

    # -- how far it is whole, and what is doubted

    def frontier(self) -> int:
        """Bytes from the start without a gap."""
        with self.changed:
            index = self._frontier_piece()
            if index == len(self._state):
                return self._size or 0
            return index * self._piece + self._begun.get(index, (0, 0))[0]

    def doubted_crc(self, index: int) -> int | None:
        """What a whole piece of an earlier run must have on disk; None when it is known good."""
        with self.changed:
            return self._crc[index] if index in self._doubted else None

    def believe(self, index: int) -> None:
        """What an earlier run wrote is on the disk as it should be."""
        with self.changed:
            self._doubted.discard(index)

    def drop(self, index: int) -> None:
        """A piece is not on disk as it arrived: it has to come again."""
        with self.changed:
            self._doubted.discard(index)
            if self._state[index] == _DONE:
                self._state[index] = _FREE
                self._crc[index] = None
                self._done_bytes -= self.length(index) or 0
            self._begun.pop(index, None)
            self._whole = min(self._whole, index)
            self.changed.notify_all()

    def drop_all(self) -> None:
        """Start over."""
        for index in range(len(self._state)):
            self.drop(index)

    # -- as written down

    def standing(self) -> Standing:
        """What has come by now."""
        with self.changed:
            begun = sorted((index, count, crc) for index, (count, crc) in self._begun.items())
            return Standing(tuple(self._crc), tuple(begun))

    def restore(self, standing: Standing, check: Callable[[int, int, int], bool]) -> None:
        """Take over what an earlier run wrote down; `check(start, count, crc)` looks at the disk.

        Whole pieces are doubted until somebody has read them; begun ones are checked here.
        """
        with self.changed:
            for index, crc in enumerate(standing.crcs):
                if crc is not None:
                    self._crc[index] = crc
                    self._state[index] = _DONE
                    self._done_bytes += self.length(index) or 0
                    self._doubted.add(index)
        for index, count, crc in standing.begun:
            if not self.is_done(index) and check(self.start(index), count, crc):
                with self.changed:
                    self._begun[index] = (count, crc)

    def restore_start(self, count: int, crc: int) -> None:
        """The first `count` bytes of a file of one piece are there."""
        with self.changed:
            self._begun[0] = (count, crc)
            if self._size is not None and count == self._size:
                self._finish(0)

    def _finish(self, index: int) -> None:
        count, crc = self._begun.pop(index, (0, 0))
        if self._size is None:
            self._size = self._piece = count
        self._state[index] = _DONE
        self._crc[index] = crc
        self._done_bytes += count
        self.changed.notify_all()

    def _give(self, first: int, stop: int) -> Span:
        span = Span(first, stop)
        self._spans.append(span)
        return span

    def _steal(self) -> Span | None:
        richest = max(self._spans, key=lambda span: span.stop - span.index, default=None)
        if richest is None or richest.stop - richest.index < 2:
            return None
        middle = richest.index + (richest.stop - richest.index + 1) // 2
        stop, richest.stop = richest.stop, middle
        return self._give(middle, stop)

    def _frontier_piece(self) -> int:
        while self._whole < len(self._state) and self._state[self._whole] == _DONE:
            self._whole += 1
        return self._whole


def damaged(
    pieces: Pieces, crc_of: Callable[[int, int], int], check: Callable[[], None]
) -> Sequence[int]:
    """The pieces that are not on disk as they arrived; `check` is called before each is read."""
    bad = []
    for index, crc in enumerate(pieces.standing().crcs):
        check()
        if crc is not None and crc_of(pieces.start(index), pieces.length(index) or 0) != crc:
            bad.append(index)
    return bad
