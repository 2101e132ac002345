"""One file from elsewhere: in parallel ranges, resumed after anything, verified, put in place.

`target.part` is filled piece by piece; `target.part.map` tells which pieces are safely on disk.
Files up to SMALL_BYTES, and those whose size no server tells, come in one stream that only
lengthens the part file, and have no map.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from tray_app.engine.errors import Cancelled, DownloadFailed

from .fetcher import SizeLearned
from .http_source import Source
from .limiter import Limiter
from .part_file import PartFile, map_path, no_space, part_path
from .piece_map import PieceMap, read_map, remove_map, write_map
from .pieces import MIB, Pieces, damaged, piece_bytes_for
from .retry import Changed, GivenUp, RetryPolicy, TryAgain, Unreachable
from .session import Session, Wishes
from .values import Remote

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 8
SMALL_BYTES = 32 * MIB  # 3 s at 100 Mbit/s: more connections and a map gain nothing
FULL = (errno.ENOSPC, errno.EDQUOT)
LEAVE_S = 0.1  # that a cancel waits for the part file to be closed
REMEDY = "Check the connection and the proxy settings, then retry."

Progress = Callable[[int, int | None], None]


def fetch(
    remote: Remote,
    target: Path,
    *,
    connections: int = 4,
    limit: Limiter | None = None,
    progress: Progress = lambda done, total: None,
    cancel: threading.Event | None = None,
    policy: RetryPolicy | None = None,
    remedy: str = REMEDY,
) -> Path:
    """Bring `remote` to `target` and return it; a right file already there is kept.

    Blocks. `cancel` ends it within 0.2 s by Cancelled and keeps what came, as every failure
    does: a later call goes on from there. `progress(done, total)` comes from the calling thread,
    in bytes, and never goes back. Raises Unreachable when the connection is what failed,
    DownloadFailed (with `remedy`), NotEnoughDisk, OSError, and what `remote.renew` raises.
    """
    cancel = cancel or threading.Event()
    if _is_right(remote, target, cancel):
        _clear(target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    wishes = Wishes(
        max(1, min(connections, MAX_CONNECTIONS)), limit or Limiter(), policy or RetryPolicy()
    )
    try:
        _Transfer(remote, target, wishes, progress, cancel, remedy).bring()
    except OSError as exc:
        if exc.errno in FULL:
            raise no_space(target.parent, remote.size_bytes) from exc
        raise
    return target


def discard(target: Path) -> None:
    """Delete what an unfinished transfer to `target` left; a finished file stays.

    Blocks up to LOCK_WAIT_S while one that was just cancelled ends. Raises DownloadFailed when
    one still runs, OSError.
    """
    if not part_path(target).exists():
        remove_map(map_path(target))
        return
    part = PartFile(target, threading.Event())
    remove_map(map_path(target))
    part.remove()


class _Transfer:
    """The sessions that one file takes."""

    def __init__(
        self,
        remote: Remote,
        target: Path,
        wishes: Wishes,
        progress: Progress,
        cancel: threading.Event,
        remedy: str,
    ) -> None:
        self._remote = remote
        self._target = target
        self._map = map_path(target)
        self._wishes = wishes
        self._progress = progress
        self._cancel = cancel
        self._remedy = remedy
        self._source = Source(remote)
        self._pieces = Pieces(remote.size_bytes)
        self._mapped = False
        self._session: Session | None = None
        self._told = 0

    def bring(self) -> None:
        """Until the target is there, or an exception tells why not."""
        part = PartFile(self._target, self._cancel)
        try:
            if _is_right(self._remote, self._target, self._cancel):  # by whoever had the lock
                remove_map(self._map)
                part.remove()
                return
            self._lay_out(part)
            if self._fill(part):
                part.publish()
            else:
                part.remove()
            remove_map(self._map)
        except BaseException as exc:
            self._leave(part, quickly=isinstance(exc, Cancelled))
            raise

    # -- what is there already

    def _lay_out(self, part: PartFile) -> None:
        remote = self._remote
        kept = read_map(self._map)
        if kept is not None and self._fits(kept, part):
            self._use_pieces(part, kept.size_bytes, kept)
            return
        if self._map.exists():
            log.info("the map of a download is of no use", extra={"file": str(self._map)})
            part.truncate()
        if remote.size_bytes is not None and remote.size_bytes > SMALL_BYTES:
            self._use_pieces(part, remote.size_bytes, None)
        else:
            remove_map(self._map)
            self._use_stream(part)

    def _fits(self, kept: PieceMap, part: PartFile) -> bool:
        """Whether the map is of this file: by its hash, or by what the server calls its version."""
        remote = self._remote
        return (
            remote.size_bytes in (None, kept.size_bytes)
            and kept.size_bytes == part.size_bytes
            and kept.sha256 == remote.sha256
            and (kept.sha256 or kept.validator) is not None
        )

    def _use_pieces(self, part: PartFile, size_bytes: int, kept: PieceMap | None) -> None:
        self._pieces = Pieces(size_bytes, piece_bytes_for(size_bytes))
        if kept is None:
            part.truncate()
        part.reserve(size_bytes, whole=True)
        self._mapped = True
        if kept is None:
            self._save(part)
            return
        self._source.validator = kept.validator

        def check(start: int, count: int, crc: int) -> bool:
            self._check_cancel()
            return part.crc(start, count) == crc

        self._pieces.restore(kept.standing, check)

    def _use_stream(self, part: PartFile) -> None:
        size, held = self._remote.size_bytes, part.size_bytes
        if held and (self._remote.sha256 is None or (size is not None and held > size)):
            part.truncate()
            held = 0
        self._pieces = Pieces(size)
        self._mapped = False
        if size is None and held and _sha256(part.path, self._check_cancel) == self._remote.sha256:
            self._pieces.learn_size(held)
        if size is not None:
            part.reserve(size, whole=False)
        self._pieces.restore_start(held, part.crc(0, held))

    # -- sessions

    def _fill(self, part: PartFile) -> bool:
        """Fill the part file until its content is right. False: the target is right already."""
        changes = repairs = again = 0
        while True:
            try:
                digest = self._run_session(part)
            except SizeLearned as learned:
                if self._is_there(learned.size_bytes):
                    return False
                self._use_pieces(part, learned.size_bytes, None)
                continue
            except Changed as exc:
                if changes:
                    raise self._failed(f"it changes on the server: {exc}") from exc
                changes = 1
                self._start_over(part, f"it has changed on the server: {exc}")
                continue
            if self._remote.sha256 in (None, digest):
                return True
            bad = damaged(self._pieces, part.crc, self._check_cancel) if self._mapped else ()
            if bad and not repairs:
                repairs = 1
                log.warning("pieces on disk are not as they arrived", extra={"pieces": len(bad)})
                for index in bad:
                    self._pieces.drop(index)
                continue
            if again or changes:
                self._pieces.drop_all()  # none of it is worth keeping
                raise self._wrong_content()
            again = 1
            self._start_over(part, "its content is wrong")

    def _run_session(self, part: PartFile) -> str:
        session = self._session = Session(
            self._source,
            part,
            self._pieces,
            self._wishes,
            save=(lambda: self._save_meanwhile(part)) if self._mapped else None,
            small_bytes=SMALL_BYTES,
        )
        try:
            digest = session.run(self._tick)
            self._tell()
        except TryAgain as exc:
            attempts = self._wishes.policy.attempts
            raise self._failed(f"{attempts} attempts failed: {exc}", Unreachable) from exc
        except GivenUp as exc:
            raise self._failed(str(exc)) from exc
        except (SizeLearned, Changed):
            session.settle()
            raise
        session.settle()
        return digest

    def _start_over(self, part: PartFile, why: str) -> None:
        log.warning("a download starts over", extra={"file": str(part.path), "why": why})
        self._pieces.drop_all()
        self._source.forget_version()
        if not self._mapped:
            part.truncate()

    def _is_there(self, size_bytes: int) -> bool:
        """A file whose hash nobody tells is known by its size."""
        with contextlib.suppress(FileNotFoundError):
            return self._remote.sha256 is None and self._target.stat().st_size == size_bytes
        return False

    # -- while a session runs, and after

    def _tick(self) -> None:
        self._check_cancel()
        self._tell()

    def _check_cancel(self) -> None:
        if self._cancel.is_set():
            raise Cancelled

    def _tell(self) -> None:
        done = self._pieces.received_bytes
        if done > self._told:
            self._told = done
            self._progress(done, self._pieces.size_bytes)

    def _save(self, part: PartFile) -> None:
        """Write the map: first what it tells is brought to the disk."""
        size = self._pieces.size_bytes
        assert size is not None
        standing = self._pieces.standing()
        part.sync()
        write_map(self._map, PieceMap(size, self._remote.sha256, self._source.validator, standing))

    def _save_meanwhile(self, part: PartFile) -> None:
        """A full disk has no room for a newer map: no matter, where the file has its own."""
        try:
            self._save(part)
        except OSError as exc:
            if exc.errno not in FULL or not part.reserved:
                raise
            log.warning("the disk is too full for the map of a download")

    def _save_last(self, part: PartFile) -> None:
        """On a full disk the last piece makes room for the map that tells of all others."""
        try:
            self._save(part)
        except OSError as exc:
            last = self._pieces.last()
            if exc.errno not in FULL or part.reserved or last is None:
                raise
            self._pieces.drop(last)
            part.give_back(self._pieces.start(last))
            self._save(part)

    def _leave(self, part: PartFile, quickly: bool) -> None:
        """Keep what came. A disk may take long, and a cancel does not wait for that."""
        if self._session is not None:
            self._session.halt()
        thread = threading.Thread(
            target=self._close, args=(part,), name="download-end", daemon=True
        )
        thread.start()
        thread.join(LEAVE_S if quickly else None)

    def _close(self, part: PartFile) -> None:
        if self._session is not None:
            self._session.settle()
        with contextlib.suppress(OSError):
            if self._pieces.received_bytes == 0:
                remove_map(self._map)
                part.remove()
            elif self._mapped:
                self._save_last(part)
        part.close()

    def _failed(self, reason: str, kind: type[DownloadFailed] = DownloadFailed) -> DownloadFailed:
        return kind(
            f"{self._remote.filename} could not be downloaded: {reason} ({self._source.shown}).",
            self._remedy,
        )

    def _wrong_content(self) -> DownloadFailed:
        why = "Something in between may change it."
        if self._source.changed:
            why = "It was replaced on its server: look for the new one."
        return DownloadFailed(
            f"{self._remote.filename} arrived twice with the wrong content (its sha256 should be"
            f" {str(self._remote.sha256)[:12]}…).",
            f"{why} {self._remedy}",
        )


def _is_right(remote: Remote, target: Path, cancel: threading.Event) -> bool:
    """Whether the target is the file already. Blocks, about 1 GB a second. Raises Cancelled."""
    if not target.is_file():
        return False
    if remote.size_bytes is not None and target.stat().st_size != remote.size_bytes:
        return False
    if remote.sha256 is None:
        return remote.size_bytes is not None

    def check() -> None:
        if cancel.is_set():
            raise Cancelled

    return _sha256(target, check) == remote.sha256


def _sha256(path: Path, check: Callable[[], None]) -> str:
    digest, view = hashlib.sha256(), memoryview(bytearray(4 * MIB))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            check()
            digest.update(view[:count])
    return digest.hexdigest()


def _clear(target: Path) -> None:
    """What a transfer left that was killed just before its end; one that runs keeps its own."""
    if part_path(target).exists() or map_path(target).exists():
        with contextlib.suppress(DownloadFailed, OSError):
            discard(target)
