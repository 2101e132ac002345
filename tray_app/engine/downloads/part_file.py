"""The file that a transfer fills: locked against a second transfer, reserved, then put in place."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import threading
import time
import zlib
from pathlib import Path

from tray_app.engine.errors import Cancelled, DownloadFailed, NotEnoughDisk

DISK_MARGIN_BYTES = 64 << 20
LOCK_WAIT_S = 5.0  # a transfer that was just cancelled may still be writing its map
READ_BYTES = 1 << 20
# Windows locks bytes, and others cannot read those: so one far behind any file's end.
_LOCKED_BYTE = 1 << 62


def part_path(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def map_path(target: Path) -> Path:
    return target.with_name(target.name + ".part.map")


class PartFile:
    """An open, locked part file. Reads and writes may come from several threads."""

    def __init__(self, target: Path, stop: threading.Event) -> None:
        """Open or make it. Blocks while another transfer has it, LOCK_WAIT_S at most.

        Raises DownloadFailed when it stays locked, Cancelled, OSError.
        """
        self.path = part_path(target)
        self.reserved = False  # the file system has set all of its space aside
        self._target = target
        self._seek = threading.Lock()
        self._fd = _open_locked(self.path, stop)

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def reserve(self, size_bytes: int, whole: bool) -> None:
        """See that `size_bytes` have room, and with `whole` give them to the file at once.

        Raises NotEnoughDisk, OSError.
        """
        held = getattr(os.fstat(self._fd), "st_blocks", 0) * 512
        free = shutil.disk_usage(self.path.parent).free
        if free < size_bytes - held + DISK_MARGIN_BYTES and held < size_bytes:
            raise no_space(self.path.parent, size_bytes - held)
        if whole:
            self.reserved = _allocate(self._fd, size_bytes)
            if not self.reserved:
                os.ftruncate(self._fd, size_bytes)

    def give_back(self, offset: int) -> None:
        """Free the space from `offset` on; the size stays. Raises OSError."""
        size = self.size_bytes
        os.ftruncate(self._fd, offset)
        os.ftruncate(self._fd, size)

    def truncate(self) -> None:
        """Empty it."""
        os.ftruncate(self._fd, 0)

    def write_at(self, data: memoryview, offset: int) -> None:
        """All of `data`. Raises OSError."""
        while data:
            if hasattr(os, "pwrite"):
                written = os.pwrite(self._fd, data, offset)
            else:
                with self._seek:
                    os.lseek(self._fd, offset, os.SEEK_SET)
                    written = os.write(self._fd, data)
            data, offset = data[written:], offset + written

    def read_at(self, view: memoryview, offset: int) -> int:
        """Bytes read into `view`; 0 at the end. Raises OSError."""
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [view], offset)
        with self._seek:
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(view))
        view[: len(data)] = data
        return len(data)

    def crc(self, offset: int, count: int) -> int:
        """crc32 of a range. Raises OSError."""
        view, crc, end = memoryview(bytearray(READ_BYTES)), 0, offset + count
        while offset < end:
            got = self.read_at(view[: end - offset], offset)
            if not got:
                break
            crc = zlib.crc32(view[:got], crc)
            offset += got
        return crc

    def sync(self) -> None:
        """What was written is on the disk. Raises OSError."""
        getattr(os, "fdatasync", os.fsync)(self._fd)

    def publish(self) -> None:
        """Durably give it the target's name, and close it. Raises OSError."""
        os.fsync(self._fd)
        if sys.platform == "win32":
            self.close()  # an open file cannot be renamed there
        os.replace(self.path, self._target)
        _sync_folder(self._target.parent)
        self.close()

    def remove(self) -> None:
        """Delete and close it."""
        if sys.platform == "win32":
            self.close()
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let the lock go. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def no_space(folder: Path, needed: int | None) -> NotEnoughDisk:
    """What is told when the disk is full."""
    free = shutil.disk_usage(folder).free
    wanted = f"{needed / 1e6:.0f} MB are needed and " if needed else ""
    return NotEnoughDisk(
        f"The disk is too full for this download: {wanted}{free / 1e6:.0f} MB are free.",
        f"Free some space on the disk of {folder}, then retry.",
    )


def _open_locked(path: Path, stop: threading.Event) -> int:
    deadline = time.monotonic() + LOCK_WAIT_S
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_NOFOLLOW", 0)
    while True:
        fd = os.open(path, flags, 0o666)
        try:
            if _lock(fd) and _is_still(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if time.monotonic() > deadline:
            raise DownloadFailed(
                f"{path.name} is being filled by another download of the same file.",
                "Wait until that one has ended, or cancel it.",
            )
        if stop.wait(0.05):
            raise Cancelled


def _is_still(fd: int, path: Path) -> bool:
    """Whether the locked file is what has the name: its last owner may have renamed it."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(fd: int) -> bool:
    """Whether this open file got the lock, which ends with it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        if exc.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
            raise
    return True  # a file system without locks: nobody can be kept out


def _allocate(fd: int, size_bytes: int) -> bool:
    """Whether the file system has set the space aside. Raises OSError when there is not enough.

    fallocate(2) itself: glibc's posix_fallocate writes to each block where the file system
    cannot do it, which takes as long as the download.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is None:
        return False
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(fd, 0, 0, size_bytes) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            return False
        raise OSError(code, os.strerror(code))
    return True


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk, where folders can be synced."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
