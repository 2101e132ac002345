"""Unpacks a source or release archive that is treated as hostile, hash or no hash."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from tray_app.engine.errors import RuntimeBuildFailed

from .archive_stream import CountedStream, TooMuch, open_stream

ENDINGS = (".tar.gz", ".tgz", ".tar.xz", ".zip")
MAX_MEMBERS = 50_000  # llama.cpp b11434 has 4,104
MAX_TOTAL_BYTES = 1 << 30  # and 176 MB
MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255  # NAME_MAX of ext4, APFS and NTFS
MAX_LINK_DEPTH = 8  # libllama.so -> libllama.so.0 -> libllama.so.0.0.11434
# The table at the end of a zip is read at once. 50,000 of our names take 5 MB.
MAX_ZIP_TABLE_BYTES = 8 << 20
CHUNK_BYTES = 256 * 1024

# Windows: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))]
)
_DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,  # zipfile: a compression or version that it does not know
    ValueError,
)
_BAD_CHARACTERS = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f]')


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry, of a tar or of a zip."""

    name: str
    kind: str  # "file", "folder" or "link"
    executable: bool = False
    size_bytes: int = 0  # as it says itself
    link: str = ""
    open: Callable[[], IO[bytes]] | None = None


def unpack(
    archive: Path,
    target: Path,
    check: Callable[[], None] = lambda: None,
    *,
    max_members: int = MAX_MEMBERS,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> None:
    """Unpack a .tar.gz, .tgz, .tar.xz or .zip into the new folder `target`.

    Files, folders, and relative links to a file of the same archive; anything else is refused,
    and so is every name that would not be the same on each system. Sizes are counted as they
    are written. `check` is called for each 256 KiB and may raise to stop. Whatever is raised,
    no `target` is left. Blocks (llama.cpp: about 2 s). Raises RuntimeBuildFailed, OSError.
    """
    target.mkdir(parents=True)
    writer = _Writer(target, check, max_members, max_total_bytes)
    try:
        for member in _members(archive, max_members, max_total_bytes):
            writer.take(member)
        writer.make_links()
    except _Refused as exc:
        raise _unusable(archive, str(exc)) from exc
    except TooMuch as exc:
        reason = str(exc) or f"it holds more than {max_total_bytes >> 20} MiB"
        raise _unusable(archive, reason) from exc
    except EOFError as exc:
        raise _unusable(archive, "it ends too early") from exc
    except _DAMAGE as exc:
        words = str(exc)
        early = "unexpected end of data" in words
        reason = "it ends too early" if early else words or type(exc).__name__
        raise _unusable(archive, reason) from exc
    finally:
        if not writer.complete:
            shutil.rmtree(target, ignore_errors=True)


class _Refused(Exception):
    """Something in the archive is not wanted; the text says what."""


class _Writer:
    """Puts members below the target, the links last, so that nothing is written through one."""

    def __init__(
        self, target: Path, check: Callable[[], None], max_members: int, max_total_bytes: int
    ) -> None:
        self.complete = False
        self._target = target
        self._check = check
        self._max_members = max_members
        self._max_total_bytes = max_total_bytes
        self._count = 0
        self._written = 0
        # By how a file system that ignores case sees the name.
        self._kinds: dict[str, str] = {}
        self._files: dict[str, int] = {}  # the name as given -> bytes
        self._links: dict[str, str] = {}

    def take(self, member: _Member) -> None:
        """One member of the archive, in its order."""
        self._check()
        self._count += 1
        if self._count > self._max_members:
            raise _Refused(f"it holds more than {self._max_members:,} files")
        name = _safe_name(member.name)
        if name is None:  # the folder that all lies in
            if member.kind != "folder":
                raise _Refused(f"{member.name[:200]!r} is no name for a file")
            return
        self._claim(name, member.kind)
        path = self._target / name
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
        elif member.kind == "link":
            self._links[name] = member.link
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(member, name, path)

    def make_links(self) -> None:
        """The end of the archive: each link, once it is known what lies behind it."""
        for name in self._links:
            file = self._file_behind(name)
            path = self._target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.symlink(self._links[name], path)
            except (OSError, NotImplementedError):  # Windows allows them to few
                self._count_bytes(self._files[file])
                shutil.copy2(self._target / file, path)
        self.complete = True

    def _claim(self, name: str, kind: str) -> None:
        """Refuse a name that is there already, or that lies below a file or a link."""
        parts = PurePosixPath(name).parts
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if self._kinds.setdefault(_folded(above), "folder") != "folder":
                raise _Refused(f"{name[:200]!r} lies below {above[:200]!r}, which is no folder")
        key = _folded(name)
        before = self._kinds.get(key)
        if before is not None and not before == kind == "folder":
            raise _Refused(f"{name[:200]!r} is in it twice")
        self._kinds[key] = kind

    def _write(self, member: _Member, name: str, path: Path) -> None:
        assert member.open is not None
        self._files[name] = 0
        # "x": what this file system takes for the same name by rules of its own ends here.
        with member.open() as source, path.open("xb") as file:
            while chunk := source.read(CHUNK_BYTES):
                self._check()
                self._count_bytes(len(chunk))
                self._files[name] += len(chunk)
                file.write(chunk)
        if self._files[name] != member.size_bytes:
            raise EOFError
        path.chmod(0o755 if member.executable else 0o644)

    def _count_bytes(self, count: int) -> None:
        self._written += count
        if self._written > self._max_total_bytes:
            raise TooMuch

    def _file_behind(self, name: str) -> str:
        """The file that the link `name` ends at. Refuses one that leaves, or ends nowhere."""
        current = name
        for _ in range(MAX_LINK_DEPTH):
            current = _link_target(current, self._links[current])
            if current in self._files:
                return current
            if current not in self._links:
                break
        raise _Refused(f"the link {name[:200]!r} leads to no file of it")


def _safe_name(name: str) -> str | None:
    """`name` without "./" and "/" at its ends; None for the root. Refuses all that is odd."""
    shown = repr(name[:200])
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise _Refused(f"the name {shown} is not UTF-8") from None
    if length > MAX_NAME_BYTES:
        raise _Refused("a name in it is too long")
    if name.startswith("/"):
        raise _Refused(f"the name {shown} is an absolute path")
    if _BAD_CHARACTERS.search(name):
        raise _Refused(f"the name {shown} has characters that not every system takes")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for part in parts:
        if part == "..":
            raise _Refused(f"the name {shown} leads out of its folder")
        if len(part.encode("utf-8")) > MAX_PART_BYTES:
            raise _Refused("a name in it is too long")
        if part.endswith((".", " ")) or part.partition(".")[0].rstrip().lower() in _DEVICES:
            raise _Refused(f"the name {shown} is no file name on Windows")
    return "/".join(parts) or None


def _link_target(name: str, link: str) -> str:
    """The member that `link`, standing at `name`, points to. Refuses what leaves the folder."""
    shown = f"the link {name[:200]!r} -> {link[:200]!r}"
    if not link or link.startswith("/") or _BAD_CHARACTERS.search(link) or len(link) > 1024:
        raise _Refused(f"{shown} does not stay inside")
    folder = list(PurePosixPath(name).parts[:-1])
    parts = [part for part in link.split("/") if part not in ("", ".")]
    while parts and parts[0] == "..":
        if not folder:
            raise _Refused(f"{shown} leads out of its folder")
        folder.pop()
        parts.pop(0)
    if ".." in parts:  # "a/.." depends on what `a` is
        raise _Refused(f"{shown} does not stay inside")
    return "/".join([*folder, *parts])


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _members(archive: Path, max_members: int, max_total_bytes: int) -> Iterator[_Member]:
    """Each member, by the archive's ending. A member's content is read before the next comes."""
    if archive.name.lower().endswith(".zip"):
        yield from _zip_members(archive)
        return
    with contextlib.closing(open_stream(archive)) as raw:
        # Headers and padding: two blocks for each member are enough, and room for long names.
        yield from _tar_members(
            CountedStream(raw, max_total_bytes + max_members * 1024 + (4 << 20))
        )


def _tar_members(stream: CountedStream) -> Iterator[_Member]:
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as tar:
        while True:
            stream.allow_header()
            info = tar.next()
            if info is None:
                break
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep each of them
            stream.allow(info.size)
            yield _of_tar(tar, info)
    stream.finish()


def _of_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if info.isdir():
        return _Member(info.name, "folder")
    if info.issym():
        return _Member(info.name, "link", link=info.linkname)
    if not info.isreg() or info.issparse():
        raise _Refused(f"{info.name[:200]!r} is neither file nor folder")

    def content() -> IO[bytes]:
        reader = tar.extractfile(info)
        assert reader is not None
        return reader

    return _Member(info.name, "file", bool(info.mode & 0o100), info.size, open=content)


def _zip_members(archive: Path) -> Iterator[_Member]:
    _check_zip_table(archive)
    with zipfile.ZipFile(archive) as whole:
        for info in whole.infolist():
            yield _of_zip(whole, info)


def _of_zip(whole: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    name = info.orig_filename  # ZipFile cuts names off at a zero byte
    if info.flag_bits & 0x1:
        raise _Refused(f"{name[:200]!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Refused(f"the compression of {name[:200]!r} is not known here")
    # Unix modes are in the upper half, where the maker was Unix (APPNOTE.TXT 4.4.2, Info-ZIP).
    mode = info.external_attr >> 16 if info.create_system == 3 else 0
    if name.endswith("/"):
        return _Member(name, "folder")
    if stat.S_ISLNK(mode):
        with whole.open(info) as reader:
            return _Member(name, "link", link=reader.read(2048).decode("utf-8", "strict"))
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise _Refused(f"{name[:200]!r} is neither file nor folder")
    executable = bool(mode & 0o100)
    return _Member(name, "file", executable, info.file_size, open=lambda: whole.open(info))


def _check_zip_table(archive: Path) -> None:
    """Refuse a zip whose table would fill memory; ZipFile reads it whatever its size.

    The end record is in the last 22 to 65,557 bytes, and the 20 bytes before it are a zip64
    locator where there is one (APPNOTE.TXT 4.3.15, 4.3.16).
    """
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 20 - 22 - 0xFFFF))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise zipfile.BadZipFile("it ends too early, or is no zip file")
    (table_bytes,) = struct.unpack_from("<L", tail, at + 12)
    zip64 = tail[max(0, at - 20) : at].startswith(b"PK\x06\x07")
    if zip64 or table_bytes > MAX_ZIP_TABLE_BYTES:
        raise _Refused("its table of files is too large")


def _unusable(archive: Path, reason: str) -> RuntimeBuildFailed:
    return RuntimeBuildFailed(
        f"The archive {archive.name} cannot be used: {reason}.",
        "Take another release, or build it from source.",
    )
