"""The bytes inside a .tar.gz or .tar.xz, with bounds on how many are read and kept in memory."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, Any, cast

# A member's own header, a long name and a pax header. tarfile reads each of them at once.
HEADER_BYTES = 64 * 1024
BLOCK_BYTES = 512
READ_AHEAD_BYTES = 20 * BLOCK_BYTES  # tarfile.RECORDSIZE
PADDING_BYTES = 1 << 20  # `tar` fills up to its record, 10 KiB unless told otherwise
XZ_MEMORY_BYTES = 256 << 20  # `xz -9` needs 65 MiB to unpack (xz(1))
CHUNK_BYTES = 64 * 1024


class TooMuch(Exception):
    """More came out of the archive than is allowed; the text says of what, if not of all."""


def open_stream(archive: Path) -> IO[bytes]:
    """What the compression holds, by the archive's ending. Raises OSError."""
    if archive.name.lower().endswith(".xz"):
        return cast("IO[bytes]", _XzStream(archive))
    return cast("IO[bytes]", gzip.open(archive, "rb"))


class CountedStream:
    """A stream that ends with TooMuch where more is read than was allowed so far."""

    def __init__(self, raw: IO[bytes], limit_bytes: int) -> None:
        self._raw = raw
        self._limit = limit_bytes
        self._read = 0
        self._allowed = 0
        self.allow_header()  # tarfile.open reads the first one

    def allow_header(self) -> None:
        """A header may be read now, behind all that was allowed before."""
        self.allow(HEADER_BYTES)

    def allow(self, size_bytes: int) -> None:
        """So many bytes of content, filled up to whole blocks, may be read from here on."""
        whole = -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        self._allowed = self._read + whole + READ_AHEAD_BYTES

    def finish(self) -> None:
        """Read what is behind the last member: padding, and the sum that guards it all."""
        self.allow(PADDING_BYTES)
        while self.read(CHUNK_BYTES):
            pass

    def read(self, size: int) -> bytes:
        """As a file's; `size` is never negative here."""
        data = self._raw.read(size)
        self._read += len(data)
        if self._read > self._limit:
            raise TooMuch
        if self._read > self._allowed:
            raise TooMuch("it holds more than its headers say, or a header is too large")
        return data


class _XzStream:
    """lzma.open with a bound on the memory that the archive asks for."""

    def __init__(self, archive: Path) -> None:
        import lzma  # not every Python has it, and few archives need it

        self._lzma: Any = lzma
        self._file = archive.open("rb")
        self._decompressor = self._new()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end. Raises EOFError when it ends too early."""
        parts: list[bytes] = []
        wanted = size
        try:
            while wanted > 0 and (data := self._next(wanted)):
                parts.append(data)
                wanted -= len(data)
        except self._lzma.LZMAError as exc:
            raise ValueError(str(exc)) from exc
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()

    def _new(self) -> Any:
        return self._lzma.LZMADecompressor(self._lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    def _next(self, wanted: int) -> bytes:
        while True:
            compressed = b""
            if self._decompressor.eof:  # `xz` may write several streams, one behind another
                compressed = self._decompressor.unused_data or self._file.read(CHUNK_BYTES)
                if not compressed:
                    return b""
                self._decompressor = self._new()
            elif self._decompressor.needs_input:
                compressed = self._file.read(CHUNK_BYTES)
                if not compressed:
                    raise EOFError
            data: bytes = self._decompressor.decompress(compressed, wanted)
            if data:
                return data
