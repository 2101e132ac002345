"""Prebuilt runtimes from a loopback feed: installed whole and proven, or nothing is left."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.release_server import (
    ReleaseServer,
    cut_after,
    no_ranges,
    release_server,
    says,
    stall_after,
    status,
    tar_of,
    versioned_libraries,
    zip_of,
)
from tests.runtime_kit import Follower, scripted_server
from tray_app.engine.errors import (
    Cancelled,
    DownloadFailed,
    EngineError,
    ErrorView,
    NotEnoughDisk,
    RuntimeBuildFailed,
    RuntimeMissing,
    RuntimeRejected,
)
from tray_app.engine.fetch import RetryPolicy
from tray_app.engine.runtime import install, store
from tray_app.engine.runtime.assets import pick
from tray_app.engine.runtime.feed import Feed
from tray_app.engine.runtime.install import clear_downloads, install_prebuilt
from tray_app.engine.runtime.probe import probe
from tray_app.engine.runtime.values import Hardware, Prebuilt, Proof, Release, Rung

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stand-ins are shell scripts")

BUILD = 12000
TAG = f"b{BUILD}"
NAME = f"llama-{TAG}-bin-ubuntu-x64.tar.gz"
LINUX = Hardware("linux", "x86_64", cuda="13.4")
RUNGS = (Rung("cuda", False, ""), Rung("cpu", True, ""))
QUICK = RetryPolicy(attempts=4, first_pause_s=0.01, longest_pause_s=0.05, stall_s=5)
NOISE = os.urandom(300_000)  # so that archives have a middle to break in


def prove(server: Path, backend: str) -> Proof:
    """The shortest proof: it says its version and lists its devices."""
    try:
        found = probe(server)
    except EngineError as exc:
        return Proof(ok=False, proved_at=time.time(), error=exc.view())
    return Proof(ok=True, proved_at=time.time(), devices=found.devices)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with release_server() as running:
        yield running


class Place:
    """A home's runtimes, a cache, and what an installation needs beside them."""

    def __init__(self, server: ReleaseServer, folder: Path) -> None:
        self.server = server
        self.runtimes, self.cache = folder / "runtimes", folder / "cache"
        self.reporter = Follower(folder / "install.log")
        self.prove = prove

    def choose(self, backend: str | None = None) -> tuple[Release, Prebuilt]:
        state = Feed(self.server.feed_url, self.cache, environ={}).releases(0)
        assert state.error is None
        return state.releases[0], pick(state.releases[0], LINUX, RUNGS, backend)

    def install(self, backend: str | None = None) -> Path:
        release, prebuilt = self.choose(backend)
        return install_prebuilt(
            release, prebuilt, self.runtimes, self.cache, self.reporter, self.prove, QUICK
        )

    @property
    def downloads(self) -> list[str]:
        folder = self.cache / "downloads"
        return sorted(path.name for path in folder.rglob("*") if path.is_file())

    def is_empty(self) -> bool:
        """Whether neither a runtime nor a staging folder is there."""
        return not self.runtimes.exists() or list(self.runtimes.iterdir()) == []


@pytest.fixture
def place(server: ReleaseServer, tmp_path: Path) -> Place:
    return Place(server, tmp_path)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """What a build of llama.cpp leaves in its bin folder, as upstream packs it."""
    folder = tmp_path / "built"
    scripted_server(folder, build=BUILD)
    scripted_server(folder, build=BUILD, name="llama-quantize")
    (folder / "libllama.so").write_bytes(NOISE)
    (folder / "libggml-base.so").write_bytes(b"ggml")
    versioned_libraries(folder, BUILD)
    (folder / "LICENSE").write_text("MIT")
    return folder


def folder_of(target: Path) -> set[str]:
    return {path.name for path in target.iterdir()}


PROGRAMS = {"llama-server", "llama-quantize", "LICENSE", "manifest.json"}
LIBRARIES = {
    f"lib{name}.so{end}" for name in ("llama", "ggml-base") for end in ("", ".0", f".0.0.{BUILD}")
}


@pytest.mark.parametrize("root", [f"llama-{TAG}", "build/bin", "."])
@pytest.mark.parametrize("ending", ["tar.gz", "tar.xz", "zip"])
def test_a_release_is_installed_from_any_archive_and_folder(
    place: Place, built: Path, root: str, ending: str
) -> None:
    packed = {
        "tar.gz": lambda: tar_of(built, root, "gz"),
        "tar.xz": lambda: tar_of(built, root, "xz"),
        "zip": lambda: zip_of(built, "" if root == "." else root),
    }[ending]()
    name = NAME.replace("tar.gz", ending)
    row = place.server.add(TAG, {name: packed})
    target = place.install()
    assert target == place.runtimes / f"{TAG}-cpu-release"
    assert folder_of(target) == PROGRAMS | LIBRARIES
    assert (target / "libllama.so").read_bytes() == NOISE
    assert probe(target / "llama-server").build == BUILD
    digest = row["assets"][0]["digest"].removeprefix("sha256:")
    manifest = store.read_manifest(target)
    assert manifest is not None
    assert (manifest.runtime_id, manifest.build, manifest.backend) == (target.name, BUILD, "cpu")
    assert (manifest.origin, manifest.key) == ("downloaded", digest)
    assert manifest.made_from == f"release {TAG}: {name}, sha256 {digest}"
    assert manifest.version_text == f"{BUILD} (0abc)"
    assert bool(manifest.links) is (ending != "zip")
    assert os.listdir(place.runtimes) == [target.name]
    assert place.downloads == []


def test_an_installed_runtime_keeps_its_seal_while_it_is_run(place: Place, built: Path) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    target = place.install()
    assert store.verified(target) is not None
    asked = len(place.server.seen)
    place.install()
    assert len(place.server.seen) == asked + 1, "only the feed: what is there is kept"


def test_the_steps_and_the_bytes_are_told(place: Place, built: Path) -> None:
    data = tar_of(built, "x")
    place.server.add(TAG, {NAME: data})
    place.install()
    told = place.reporter.told
    assert [step for *_, step in told if step] == ["Downloading", "Unpacking", "Trying it"]
    counted = [(done, total) for done, total, unit, _ in told if unit == "bytes"]
    assert counted[0] == (0, len(data))
    assert counted[-1] == (len(data), len(data))
    assert [done for done, _ in counted] == sorted(done for done, _ in counted)


def cuda_release(place: Place, built: Path, companion: Path) -> int:
    """A CUDA release for Linux as upstream packs one; the size of its two archives."""
    end = "bin-ubuntu-cuda-12.8-x64"
    files = {
        f"llama-{TAG}-{end}.tar.gz": tar_of(built, f"llama-{TAG}"),
        f"cudart-llama-{TAG}-{end}.tar.gz": tar_of(companion, f"cudart-llama-{TAG}-{end}"),
    }
    place.server.add(TAG, files)
    return sum(len(data) for data in files.values())


def test_the_libraries_of_a_companion_lie_beside_the_server(
    place: Place, built: Path, tmp_path: Path
) -> None:
    companion = tmp_path / "cudart"
    (companion / "deep").mkdir(parents=True)
    (companion / "libcudart.so.12.8.90").write_bytes(b"cudart")
    (companion / "libcudart.so.12").symlink_to("libcudart.so.12.8.90")
    (companion / "deep" / "libcublas.so.12").write_bytes(b"cublas")
    (companion / "libcublas.so").symlink_to("deep/libcublas.so.12")
    (companion / "libllama.so").write_bytes(b"not this one")
    (companion / "EULA.txt").write_text("terms")
    (companion / "setup.sh").write_text("rm -rf /")
    size = cuda_release(place, built, companion)
    target = place.install("cuda")
    assert target.name == f"{TAG}-cuda-release"
    added = {"libcudart.so.12.8.90", "libcudart.so.12", "libcublas.so.12", "libcublas.so"}
    assert folder_of(target) == PROGRAMS | LIBRARIES | added | {"EULA.txt"}
    assert (target / "libcudart.so.12").read_bytes() == b"cudart"
    assert (target / "libcublas.so").read_bytes() == b"cublas"
    assert (target / "libllama.so").read_bytes() == NOISE
    assert place.reporter.told[0][1] == size
    manifest = store.read_manifest(target)
    assert manifest is not None
    assert manifest.made_from.count("sha256") == 2
    assert place.downloads == []


def test_a_programs_mode_is_set_where_the_archive_knows_none(place: Place, built: Path) -> None:
    for path in built.iterdir():
        path.chmod(0o644)
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    target = place.install()
    assert os.access(target / "llama-quantize", os.X_OK)
    assert not os.access(target / "LICENSE", os.X_OK)


def test_a_wrong_digest_installs_nothing(place: Place, built: Path) -> None:
    data = bytearray(tar_of(built, "x"))
    place.server.add(TAG, {NAME: bytes(data)})
    data[1000] ^= 1
    path = place.server.file_path(TAG, NAME)
    place.server.files[path] = bytes(data)
    with pytest.raises(DownloadFailed, match="wrong content") as caught:
        place.install()
    assert "package index" not in caught.value.remedy
    assert "build it from source" in caught.value.remedy
    assert (place.is_empty(), place.downloads) == (True, [])


def hostile(*members: tuple[str, bytes, str, bytes]) -> bytes:
    """A .tar.gz of (name, kind, link, content)."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        for name, kind, link, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content)
            tar.addfile(info, io.BytesIO(content))
    return memory.getvalue()


FILE, LINK = tarfile.REGTYPE, tarfile.SYMTYPE
HOSTILE = {
    "absolute path": [("/tmp/lw-evil", FILE, "", b"1")],
    "way out": [("../../lw-evil", FILE, "", b"1")],
    "link out": [("bin", LINK, "../..", b""), ("llama-server", FILE, "", b"1")],
    "absolute link": [("llama-server", LINK, "/bin/sh", b"")],
    "through a link": [("door", LINK, "../..", b""), ("door/lw-evil", FILE, "", b"1")],
    "device": [("llama-server", tarfile.CHRTYPE, "", b"")],
    "bomb": [("llama-server", FILE, "", bytes(8 << 20))],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_installs_nothing_and_is_not_kept(
    place: Place, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "LEAST_BOUND_BYTES", 1 << 20)
    place.server.add(TAG, {NAME: hostile(*HOSTILE[what])})
    with pytest.raises(RuntimeBuildFailed, match=f"{NAME} cannot be used"):
        place.install()
    assert (place.is_empty(), place.downloads) == (True, [])
    assert list(tmp_path.rglob("*evil*")) == []
    assert not Path("/tmp/lw-evil").exists()


def test_an_archive_that_was_truncated_upstream_installs_nothing(place: Place, built: Path) -> None:
    data = tar_of(built, "x")
    place.server.add(TAG, {NAME: data[: len(data) // 2]})  # its digest is right
    with pytest.raises(RuntimeBuildFailed, match="ends too early"):
        place.install()
    assert (place.is_empty(), place.downloads) == (True, [])


def test_an_archive_without_a_server_is_rejected(place: Place, built: Path) -> None:
    (built / "llama-server").unlink()
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    with pytest.raises(RuntimeRejected, match="holds no llama-server"):
        place.install()
    assert (place.is_empty(), place.downloads) == (True, [])


def test_a_link_to_a_part_that_is_not_kept_is_rejected(place: Place, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    scripted_server(whole / "bin", build=BUILD)
    (whole / "lib").mkdir()
    (whole / "lib" / "libllama.so").write_bytes(b"1")
    (whole / "bin" / "libllama.so").symlink_to("../lib/libllama.so")
    place.server.add(TAG, {NAME: tar_of(whole, "x")})
    with pytest.raises(RuntimeRejected, match=r"libllama\.so is a link to nothing"):
        place.install()
    assert place.is_empty()


def test_a_release_with_another_build_inside_is_rejected(place: Place, built: Path) -> None:
    place.server.add("b12001", {NAME: tar_of(built, "x")})
    with pytest.raises(RuntimeRejected, match="says it is build 12000, not 12001"):
        place.install()
    assert (place.is_empty(), place.downloads) == (True, [])


def test_a_failed_proof_tells_its_reason_and_leaves_nothing(place: Place, built: Path) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    error = ErrorView("runtime_rejected", "libvulkan.so.1 is missing.", "Install it.")
    seen: list[tuple[str, str]] = []

    def refuse(server: Path, backend: str) -> Proof:
        seen.append((server.name, backend))
        assert os.access(server, os.X_OK)
        return Proof(ok=False, proved_at=0, error=error)

    place.prove = refuse
    with pytest.raises(RuntimeRejected) as caught:
        place.install()
    assert (caught.value.message, caught.value.remedy) == (error.message, error.remedy)
    assert seen == [("llama-server", "cpu")]
    assert (place.is_empty(), place.downloads) == (True, [])


def test_a_program_that_crashes_is_rejected(place: Place, built: Path) -> None:
    (built / "llama-server").write_text("#!/bin/sh\nkill -SEGV $$\n")
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    with pytest.raises(RuntimeRejected, match="llama-server"):
        place.install()
    assert place.is_empty()


def test_a_failed_proof_leaves_the_runtime_that_was_there(place: Place, built: Path) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    target = place.install()
    before = (target / "llama-server").stat().st_ino
    place.prove = lambda server, backend: Proof(ok=False, proved_at=0)
    with pytest.raises(RuntimeRejected, match="does not work here"):
        place.install()
    assert (target / "llama-server").stat().st_ino == before
    assert os.listdir(place.runtimes) == [target.name]


def test_a_damaged_runtime_is_installed_anew(place: Place, built: Path) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    target = place.install()
    (target / "libllama.so").unlink()
    assert (place.install() / "libllama.so").read_bytes() == NOISE
    assert os.listdir(place.runtimes) == [target.name]


def test_a_cut_line_is_resumed_where_it_broke(place: Place, built: Path) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    path = place.server.file_path(TAG, NAME)
    place.server.faults[path] = [cut_after(100_000), cut_after(50_000)]
    place.install()
    ranges = [headers.get("range") for _, headers in place.server.asked(NAME)]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_server_that_ignores_ranges_sends_it_all_again(place: Place, built: Path) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    path = place.server.file_path(TAG, NAME)
    place.server.faults[path] = [cut_after(100_000), no_ranges]
    assert (place.install() / "libllama.so").read_bytes() == NOISE


def test_a_line_that_stays_cut_fails_with_a_remedy_and_the_next_try_goes_on(
    place: Place, built: Path
) -> None:
    data = tar_of(built, "x")
    place.server.add(TAG, {NAME: data})
    path = place.server.file_path(TAG, NAME)
    place.server.faults[path] = [cut_after(100_000), *[status(503, Retry_After="0")] * 3]
    with pytest.raises(DownloadFailed, match="said 503") as caught:
        place.install()
    assert "goes on where it stopped" in caught.value.remedy
    assert "package index" not in caught.value.remedy
    assert (place.is_empty(), place.downloads) == (True, [f"{NAME}.part"])
    assert place.install().is_dir()
    assert place.server.asked(NAME)[-1][1]["range"] == "bytes=100000-"
    assert place.downloads == []


def test_a_file_that_is_gone_is_told(place: Place, built: Path) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    del place.server.files[place.server.file_path(TAG, NAME)]
    with pytest.raises(DownloadFailed, match="said 404"):
        place.install()
    assert place.is_empty()


def test_a_page_instead_of_the_archive_is_no_runtime(place: Place, built: Path) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    path = place.server.file_path(TAG, NAME)
    place.server.faults[path] = [says(b"<html>sign in to this network</html>")] * 9
    with pytest.raises(DownloadFailed):
        place.install()
    assert place.is_empty()


def test_a_cancel_while_it_downloads_keeps_only_the_part_that_is_there(
    place: Place, built: Path
) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    path = place.server.file_path(TAG, NAME)
    place.server.faults[path] = [stall_after(100_000)]
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            place.install()
        except BaseException as exc:  # noqa: BLE001 - looked at below
            outcome.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait = threading.Event()
    while not any(told[0] == 100_000 for told in place.reporter.told):
        assert thread.is_alive(), outcome
        wait.wait(0.01)
    place.reporter.cancel.set()
    thread.join(20)
    assert [type(exc) for exc in outcome] == [Cancelled]
    assert (place.is_empty(), place.downloads) == (True, [f"{NAME}.part"])
    place.reporter = Follower()
    place.install()
    assert place.server.asked(NAME)[-1][1]["range"] == "bytes=100000-"


@pytest.mark.parametrize("step", ["Unpacking", "Trying it"])
def test_a_cancel_after_the_download_keeps_only_the_download(
    place: Place, built: Path, step: str
) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})

    wanted = step

    class Cancelling(Follower):
        def progress(
            self, done: int, total: int | None = None, unit: str = "", step: str | None = None
        ) -> None:
            super().progress(done, total, unit, step)
            if step == wanted:
                self.cancel.set()

    place.reporter = Cancelling()
    with pytest.raises(Cancelled):
        place.install()
    assert (place.is_empty(), place.downloads) == (True, [NAME])
    place.reporter = Follower()
    asked = len(place.server.asked(NAME))
    assert place.install().is_dir()
    assert len(place.server.asked(NAME)) == asked, "the download is not made again"


def test_too_little_disk_is_seen_before_a_byte_is_fetched(
    place: Place, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    monkeypatch.setattr(install, "EXPANSION", 10**12)
    with pytest.raises(NotEnoughDisk, match="MB are free") as caught:
        place.install()
    assert str(place.runtimes) in caught.value.remedy
    assert place.server.asked(NAME) == []
    assert place.is_empty()


def test_a_disk_that_fills_up_is_told_and_the_download_kept(
    place: Place, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})

    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(install, "unpack", full)
    with pytest.raises(NotEnoughDisk, match="filled up"):
        place.install()
    assert (place.is_empty(), place.downloads) == (True, [NAME])


def test_a_file_without_digest_or_https_is_never_installed(place: Place, built: Path) -> None:
    release = Release(TAG, BUILD, None, "", "")
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    _, good = place.choose()
    (asset,) = good.assets
    for change, words in [({"sha256": None}, "no sha256"), ({"url": "http://a.b/c"}, "no https")]:
        fields = {name: getattr(asset, name) for name in ("name", "size_bytes", "sha256", "url")}
        bad = Prebuilt("cpu", "", (type(asset)(**{**fields, **change}),))
        with pytest.raises(RuntimeMissing, match=words):
            install_prebuilt(
                release, bad, place.runtimes, place.cache, place.reporter, prove, QUICK
            )
    with pytest.raises(RuntimeMissing):
        install_prebuilt(
            release, Prebuilt("cpu", "", ()), place.runtimes, place.cache, place.reporter, prove
        )


def test_downloads_that_nobody_went_on_with_are_cleared_after_a_week(
    place: Place, built: Path
) -> None:
    place.server.add(TAG, {NAME: tar_of(built, "x")})
    _, prebuilt = place.choose()
    old, new, mine = ("1" * 64, "2" * 64, str(prebuilt.assets[0].sha256))
    for name in (old, new, mine):
        part = place.cache / "downloads" / name / "x.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"1")
        if name != new:
            long_ago = time.time() - install.KEEP_DOWNLOADS_S - 60
            os.utime(part, (long_ago, long_ago))
            os.utime(part.parent, (long_ago, long_ago))
    clear_downloads(place.cache, keep=prebuilt)
    assert {path.name for path in (place.cache / "downloads").iterdir()} == {new, mine}
    shutil.rmtree(place.cache)
    clear_downloads(place.cache)
