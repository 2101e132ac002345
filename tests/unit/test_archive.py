"""Archives from elsewhere: what is kept, what is refused, and that nothing is left of the rest."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tray_app.engine.errors import Cancelled, RuntimeBuildFailed
from tray_app.engine.runtime import archive_stream
from tray_app.engine.runtime.archive import unpack

posix_only = pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")
ENDINGS = {".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz"}


def member(
    name: str,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    mode: int = 0o644,
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, len(content), link, mode
    return info, content


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.SYMTYPE, link=target)


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *members: tuple[str, bytes, int]) -> Path:
    """Members as (name, content, Unix mode)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def tree(folder: Path) -> dict[str, object]:
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def refused(archive: Path, reason: str, **limits: int) -> None:
    """`archive` is refused for `reason`, and its folder holds nothing but itself afterwards."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(RuntimeBuildFailed, match=reason) as caught:
        unpack(archive, archive.parent / "out", **limits)  # type: ignore[arg-type]
    assert archive.name in caught.value.message
    assert caught.value.remedy
    assert sorted(archive.parent.rglob("*")) == before


@posix_only
@pytest.mark.parametrize("ending", ENDINGS)
def test_files_folders_modes_and_links_come_out_of_a_tar(tmp_path: Path, ending: str) -> None:
    archive = tar(
        tmp_path / f"a{ending}",
        member("./", kind=tarfile.DIRTYPE),
        link("./llama/libllama.so", "libllama.so.0"),
        link("./llama/libllama.so.0", "libllama.so.0.0.7"),
        member("./llama/libllama.so.0.0.7", b"library"),
        member("./llama/llama-server", b"program", mode=0o4755),
        member("./llama/empty", kind=tarfile.DIRTYPE),
        link("./llama/bin/llama-server", "../llama-server"),
        mode=ENDINGS[ending],
    )
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {
        "llama/libllama.so": "libllama.so.0",
        "llama/libllama.so.0": "libllama.so.0.0.7",
        "llama/libllama.so.0.0.7": b"library",
        "llama/llama-server": b"program",
        "llama/bin/llama-server": "../llama-server",
    }
    assert (tmp_path / "out/llama/libllama.so").read_bytes() == b"library"
    assert (tmp_path / "out/llama/empty").is_dir()
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out/llama").iterdir()}
    assert (modes["llama-server"], modes["libllama.so.0.0.7"]) == (0o755, 0o644)


@posix_only
def test_files_modes_and_links_come_out_of_a_zip(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path / "a.zip",
        ("build/bin/llama-server", b"program", 0o100755),
        ("build/bin/libllama.so", b"libllama.so.0", stat.S_IFLNK | 0o777),
        ("build/bin/libllama.so.0", b"library", 0o100644),
        ("build/empty/", b"", 0o40755),
    )
    unpack(archive, tmp_path / "out")
    found = tree(tmp_path / "out")
    assert found["build/bin/llama-server"] == b"program"
    assert found["build/bin/libllama.so"] == "libllama.so.0"
    assert os.access(tmp_path / "out/build/bin/llama-server", os.X_OK)
    assert not os.access(tmp_path / "out/build/bin/libllama.so.0", os.X_OK)
    assert (tmp_path / "out/build/empty").is_dir()


def test_where_no_links_can_be_made_their_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_allowed(*args: object, **more: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", not_allowed)
    archive = tar(tmp_path / "a.tar.gz", link("b", "c"), link("a", "b"), member("c", b"12345"))
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"12345", "b": b"12345", "c": b"12345"}
    archive.rename(tmp_path / "b.tar.gz")
    with pytest.raises(RuntimeBuildFailed, match="more than"):
        unpack(tmp_path / "b.tar.gz", tmp_path / "out2", max_total_bytes=14)


HOSTILE_NAMES = {
    "/etc/evil": "absolute path",
    "../evil": "leads out",
    "a/../../evil": "leads out",
    "a/./../b": "leads out",
    "a\\..\\..\\evil": "not every system",
    "C:evil": "not every system",
    "CON": "no file name on Windows",
    "a/nul.txt": "no file name on Windows",
    "com1": "no file name on Windows",
    "a./b": "no file name on Windows",
    "a /b": "no file name on Windows",
    "line\nbreak": "not every system",
    "x" * 256: "too long",
    "long/" * 300: "too long",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name[:20]))
def test_a_hostile_name_is_refused(tmp_path: Path, name: str) -> None:
    reason = HOSTILE_NAMES[name]
    outside = tmp_path / "deep"
    outside.mkdir()
    refused(tar(outside / "a.tar.gz", member("good", b"1"), member(name, b"1")), reason)
    refused(zipped(outside / "a.zip", ("good", b"1", 0), (name, b"1", 0)), reason)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("llama-server_.txt", b"1", 0))
    archive.write_bytes(archive.read_bytes().replace(b"server_", b"server\0"))
    refused(archive, "cannot be used")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    refused(tar(tmp_path / "a.tar.gz", member("b\udcff", b"1")), "not UTF-8")


HOSTILE_LINKS = {
    "/etc/passwd": "does not stay inside",
    "../outside": "leads out",
    "sub/../../outside": "does not stay inside",
    "..\\outside": "does not stay inside",
    "nothing": "leads to no file",
    "folder": "leads to no file",
    "evil": "leads to no file",  # itself
    "": "does not stay inside",
}


@pytest.mark.parametrize("target", HOSTILE_LINKS)
def test_a_link_that_leaves_or_leads_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    reason = HOSTILE_LINKS[target]
    (tmp_path / "outside").write_bytes(b"mine")
    archive = tar(tmp_path / "a.tar.gz", member("folder/x", b"1"), link("evil", target))
    refused(archive, reason)
    mode = stat.S_IFLNK | 0o777
    if target:
        refused(
            zipped(tmp_path / "a.zip", ("folder/x", b"1", 0), ("evil", target.encode(), mode)),
            reason,
        )
    assert (tmp_path / "outside").read_bytes() == b"mine"


def test_links_in_a_ring_are_refused(tmp_path: Path) -> None:
    refused(tar(tmp_path / "a.tar.gz", link("a", "b"), link("b", "a")), "leads to no file")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = tar(
        tmp_path / "a.tar.gz", link("door", "../outside"), member("door/evil", b"1"), member("x")
    )
    refused(archive, "is no folder")
    # The other way round: first the folder, then a link in its place.
    archive = tar(tmp_path / "a.tar.gz", member("door/good", b"1"), link("door", "../outside"))
    refused(archive, "twice")
    # And a file that a link of the same name stands in for.
    archive = tar(tmp_path / "a.tar.gz", member("x"), link("door", "x"), member("door", b"1"))
    refused(archive, "twice")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("names", [("a", "a"), ("Lib.so", "lib.so"), ("é", "é"), ("d/a", "D")])
def test_two_files_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    refused(tar(tmp_path / "a.tar.gz", *(member(name, b"1") for name in names)), "twice")


@pytest.mark.parametrize(
    "kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
def test_hard_links_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tar(tmp_path / "a.tar.gz", member("good"), member("bad", kind=kind, link="good"))
    refused(archive, "neither file nor folder")


def test_a_device_in_a_zip_is_refused(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "a.zip", ("pipe", b"", stat.S_IFIFO | 0o644)), "neither file")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("secret", b"1", 0))
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flags of the local header, and of the table's
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    refused(archive, "encrypted")


def test_a_compression_nobody_uses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a", b"1" * 1000)
    refused(path, "compression")


def test_a_bomb_is_stopped_by_what_comes_out_of_it(tmp_path: Path) -> None:
    zeros = bytes(4 << 20)  # 4 KB packed
    bomb = tar(tmp_path / "a.tar.gz", member("zeros", zeros))
    assert bomb.stat().st_size < 10_000
    refused(bomb, "more than 1 MiB", max_total_bytes=1 << 20)
    refused(zipped(tmp_path / "a.zip", ("zeros", zeros, 0)), "more than", max_total_bytes=1 << 20)
    xz = tar(tmp_path / "a.tar.xz", member("zeros", zeros), mode="w:xz")
    refused(xz, "more than", max_total_bytes=1 << 20)


def test_a_zip_that_lies_about_its_sizes_is_stopped_too(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("zeros", bytes(4 << 20), 0))
    true, told = struct.pack("<L", 4 << 20), struct.pack("<L", 10)
    archive.write_bytes(archive.read_bytes().replace(true, told))
    refused(archive, "cannot be used", max_total_bytes=1 << 20)


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", *(member(f"{n}") for n in range(20)))
    refused(archive, "more than 19", max_members=19)
    unpack(archive, tmp_path / "out", max_members=20)


def test_a_header_that_never_ends_does_not_fill_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 512 << 20
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(32):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    refused(path, "a header is too large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("zip64", [False, True])
def test_a_table_that_never_ends_does_not_fill_memory(tmp_path: Path, zip64: bool) -> None:
    archive = zipped(tmp_path / "a.zip", ("a", b"1", 0))
    data = archive.read_bytes()
    end = data.index(b"PK\x05\x06")
    if zip64:
        data = data[:end] + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1) + data[end:]
    else:
        data = data[: end + 12] + struct.pack("<L", 9 << 20) + data[end + 16 :]
    archive.write_bytes(data)
    refused(archive, "table of files is too large")


def test_an_xz_that_wants_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_stream, "XZ_MEMORY_BYTES", 1 << 20)  # the default needs 9 MB
    refused(tar(tmp_path / "a.tar.xz", member("a", b"1"), mode="w:xz"), "[Mm]emory")


def test_an_xz_of_several_streams_is_read_to_its_end(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", member("a", b"1" * 5000), member("b", b"2"), mode="w:")
    data = whole.read_bytes()
    path = tmp_path / "a.tar.xz"
    path.write_bytes(lzma.compress(data[:3000]) + lzma.compress(data[3000:]))
    unpack(path, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"1" * 5000, "b": b"2"}


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.xz", ".zip"])
@pytest.mark.parametrize("left", [0, 1, 60, 30_000, -200, -5])
def test_a_truncated_archive_leaves_nothing(tmp_path: Path, ending: str, left: int) -> None:
    content = os.urandom(50_000)
    path = tmp_path / f"a{ending}"
    if ending == ".zip":
        zipped(path, ("a", b"first", 0), ("b", content, 0))
    else:
        tar(path, member("a", b"first"), member("b", content), mode=f"w:{ending[-2:]}")
    path.write_bytes(path.read_bytes()[:left])
    refused(path, "cannot be used")


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.xz", ".zip"])
def test_noise_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(os.urandom(5000))
    refused(path, "cannot be used")


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_a_flipped_bit_is_seen(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    content = os.urandom(50_000)
    if ending == ".zip":
        zipped(path, ("b", content, 0))
    else:
        tar(path, member("b", content))
    data = bytearray(path.read_bytes())
    data[25_000] ^= 0x10
    path.write_bytes(data)
    refused(path, "cannot be used")


def test_a_cancel_in_mid_file_leaves_nothing(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", member("big", bytes(4 << 20)))
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        unpack(archive, tmp_path / "out", check)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", member("a", b"1"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"mine": b"mine"}
