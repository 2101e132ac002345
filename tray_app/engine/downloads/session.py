"""One go at a file: connections that fetch, a hasher that follows, a keeper that writes the map."""

from __future__ import annotations

import hashlib
import logging
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tray_app.engine.errors import Cancelled

from .fetcher import Fetcher
from .http_source import Source
from .limiter import Limiter
from .part_file import READ_BYTES, PartFile
from .pieces import Pieces
from .ramp import Ramp
from .retry import RetryPolicy, TryAgain

log = logging.getLogger(__name__)

SAVE_S = 1.0
FIRST_SAVE_S = 0.2  # a download that is killed young keeps something too
IGNORED_RANGES = 3  # in a row, from a server that has sent ranges, before it is taken at its word


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the transfer is to be made."""

    connections: int
    limit: Limiter
    policy: RetryPolicy


class Session:
    """Fills a part file and hashes it. `run` belongs to one thread; all others are its own."""

    def __init__(
        self,
        source: Source,
        part: PartFile,
        pieces: Pieces,
        wishes: Wishes,
        *,
        save: Callable[[], None] | None,
        small_bytes: int,
    ) -> None:
        """`save` writes the map (None: there is none); `small_bytes` is what needs no pieces."""
        self.source, self.part, self.pieces, self.wishes = source, part, pieces, wishes
        self.stop = threading.Event()
        self.small_bytes = small_bytes
        self.ramp = Ramp(wishes.connections)
        self.digest: str | None = None
        self.quiet_until = 0.0  # the server asked for a pause
        self.alone: Fetcher | None = None  # the only connection, for a server without ranges
        self._save = save
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._fetchers: list[Fetcher] = []
        self._ignored = 0
        works = {"download-hash": self._hash}
        if save is not None:
            works["download-map"] = self._keep
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in works.items()
        ]

    def run(self, tick: Callable[[], None], tick_s: float = 0.05) -> str:
        """Fetch and hash until the file is whole; its sha256. `tick` is called meanwhile.

        Raises what a connection raised, and what `tick` raises. Call `halt` afterwards.
        """
        for thread in self._threads:
            thread.start()
        while not self._ended.wait(tick_s):
            tick()
            self._adapt()
        if self.digest is not None:
            return self.digest
        assert self._failure is not None
        raise self._failure

    def halt(self) -> None:
        """Tell everything to end. Never blocks."""
        self.stop.set()
        for fetcher in self._alive():
            fetcher.line.cut()
        self.pieces.wake()

    def settle(self) -> None:
        """Wait until nothing of it touches the part file. Blocks for as long as the disk does."""
        self.halt()
        for fetcher in self._alive():
            fetcher.bar()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    # -- for the fetchers

    def fail(self, exc: BaseException) -> None:
        """The first failure ends the session."""
        with self._lock:
            if self._failure is None:
                self._failure = exc
        self._ended.set()

    def wants(self, fetcher: Fetcher) -> bool:
        """Whether this connection is still one too few rather than one too many."""
        if self.stop.is_set():
            return False
        if self.alone is not None:
            return self.alone is fetcher
        with self._lock:
            if fetcher not in self._fetchers:
                return False
            if len(self._fetchers) <= self.ramp.wanted:
                return True
            self._fetchers.remove(fetcher)
            return False

    def left(self, fetcher: Fetcher) -> None:
        """A connection has ended."""
        with self._lock:
            if fetcher in self._fetchers:
                self._fetchers.remove(fetcher)
            if self.alone is fetcher:
                self.alone = None

    def others(self, fetcher: Fetcher) -> bool:
        """Whether another connection brings bytes."""
        return any(each is not fetcher and each.delivering for each in self._alive())

    def relieve(self, fetcher: Fetcher, rate: float) -> None:
        """Free what a much slower connection holds: this one, of `rate` bytes/s, has nothing."""
        for each in self._alive():
            if each is not fetcher and each.lags(rate):
                each.give_up()

    def crowded(self) -> None:
        """The server wants fewer connections."""
        with self._lock:
            self.ramp.refused()

    def range_came(self) -> None:
        """The server knows ranges."""
        self.source.knows_ranges = True
        self._ignored = 0

    def ignored_range(self, fetcher: Fetcher) -> None:
        """All of the file came where a range was due. Raises TryAgain if that may be a slip."""
        self._ignored += 1
        if self.source.knows_ranges and self._ignored < IGNORED_RANGES:
            raise TryAgain("the server sent all of it where a part was asked for")
        with self._lock:
            if self.alone not in (None, fetcher):
                raise Cancelled
            self.alone = fetcher
            others = [each for each in self._fetchers if each is not fetcher]
        self.source.knows_ranges = False
        for each in others:
            each.line.cut()

    # -- its own threads

    def _alive(self) -> list[Fetcher]:
        with self._lock:
            return list(self._fetchers)

    def _adapt(self) -> None:
        """Start connections, or let the ramp look at what they bring."""
        fetchers = self._alive()
        if not fetchers:
            self._start()
            return
        delivering = all(each.delivering for each in fetchers)
        if self.alone is not None or not self.source.knows_ranges:
            return
        full = len(fetchers) >= self.ramp.wanted
        self.ramp.observe(self.pieces.received_bytes, delivering and full)
        if len(fetchers) < self.ramp.wanted and self.pieces.free_count():
            self._start()

    def _start(self) -> None:
        if self.pieces.complete:
            return
        fetcher = Fetcher(self)
        with self._lock:
            self._fetchers.append(fetcher)
        threading.Thread(target=fetcher.run, name="download", daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits
            self.fail(exc)

    def _keep(self) -> None:
        assert self._save is not None
        wait_s = FIRST_SAVE_S
        while not self.stop.wait(wait_s):
            self._save()
            wait_s = SAVE_S

    def _hash(self) -> None:
        """Hash what is whole from the start; what an earlier run wrote is checked on the way."""
        digest, view, offset = hashlib.sha256(), memoryview(bytearray(READ_BYTES)), 0
        index, before, crc = 0, digest.copy(), 0
        while not self.stop.is_set():
            done = self.pieces.is_done(index)  # before its end is looked at: that may still grow
            end = self._next_end(index)
            if offset < end:
                got = self.part.read_at(view[: end - offset], offset)
                if not got:
                    raise OSError(f"{self.part.path} is shorter than what was written to it")
                digest.update(view[:got])
                if self.pieces.doubted_crc(index) is not None:
                    crc = zlib.crc32(view[:got], crc)
                offset += got
                continue
            if not done:
                self.pieces.wait_beyond(offset, index)
                continue
            if self.pieces.doubted_crc(index) not in (None, crc):
                log.warning("a piece on disk is not as it arrived", extra={"piece": index})
                self.pieces.drop(index)
                digest, offset = before, self.pieces.start(index)
            else:
                self.pieces.believe(index)
                index += 1
            before, crc = digest.copy(), 0
            if index == len(self.pieces):
                self.digest = digest.hexdigest()
                self._ended.set()
                return

    def _next_end(self, index: int) -> int:
        """How far to hash now: within one piece."""
        length = self.pieces.length(index)
        frontier = self.pieces.frontier()
        return frontier if length is None else min(frontier, self.pieces.start(index) + length)
