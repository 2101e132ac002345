"""A real llama.cpp build, packed as upstream packs releases, installed from a loopback feed."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.release_server import (
    ReleaseServer,
    cut_after,
    release_server,
    tar_of,
    versioned_libraries,
    zip_of,
)
from tests.runtime_kit import Follower
from tray_app.engine.errors import EngineError, RuntimeBuildFailed, RuntimeRejected
from tray_app.engine.fetch import RetryPolicy
from tray_app.engine.fit import Fits
from tray_app.engine.runtime import store
from tray_app.engine.runtime.assets import latest
from tray_app.engine.runtime.feed import Feed
from tray_app.engine.runtime.install import install_prebuilt
from tray_app.engine.runtime.probe import probe
from tray_app.engine.runtime.values import Hardware, Proof, Rung, Runtime
from tray_app.engine.state import StateDb
from tray_app.engine.values import Model

QUICK = RetryPolicy(attempts=4, first_pause_s=0.01, longest_pause_s=0.05, stall_s=10)
SYSTEM = {"linux": ("linux", "ubuntu"), "darwin": ("darwin", "macos"), "win32": ("windows", "win")}
system, word = SYSTEM.get(sys.platform, (sys.platform, sys.platform))
arch = {"amd64": "x86_64", "aarch64": "arm64"}.get(
    platform.machine().lower(), platform.machine().lower()
)
HERE = Hardware(system, arch)
BACKEND = "metal" if (system, arch) == ("darwin", "arm64") else "cpu"
RUNGS = (Rung(BACKEND, True, "told"),)
END = f"{word}-{'arm64' if arch == 'arm64' else 'x64'}"


def prove(server: Path, backend: str) -> Proof:
    """It runs, says its version, knows the features we use, and lists its devices."""
    try:
        found = probe(server)
    except EngineError as exc:
        return Proof(ok=False, proved_at=time.time(), error=exc.view())
    return Proof(ok=not found.lacking, proved_at=time.time(), devices=found.devices)


@pytest.fixture(scope="module")
def build_number(llama_server: Path) -> int:
    found = probe(llama_server).build
    assert found is not None
    return found


@pytest.fixture
def built(llama_server: Path, build_number: int, tmp_path: Path) -> Path:
    """The programs and libraries of the real build, named as upstream's."""
    folder = tmp_path / "built"
    folder.mkdir()
    for path in llama_server.resolve().parent.iterdir():
        if re.fullmatch(r"llama-[\w-]+(\.exe)?|LICENSE|\S+\.(so|dylib|dll|metal)", path.name):
            shutil.copy2(path, folder / path.name)
    try:
        probe(folder / llama_server.name)
    except EngineError as exc:
        pytest.skip(f"this llama-server does not run out of another folder: {exc.message}")
    versioned_libraries(folder, build_number)
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with release_server() as running:
        yield running


def install(server: ReleaseServer, folder: Path) -> Path:
    feed = Feed(server.feed_url, folder / "cache", environ={})
    found = latest(feed.releases(0).releases, HERE, RUNGS)
    assert found is not None
    runtimes = folder / "runtimes"
    return install_prebuilt(*found, runtimes, folder / "cache", Follower(), prove, QUICK)


def nothing_left(folder: Path) -> bool:
    downloads = [path for path in (folder / "cache" / "downloads").rglob("*") if path.is_file()]
    return list((folder / "runtimes").iterdir()) == [] and downloads == []


def test_a_real_archive_is_installed_runs_and_knows_how_a_model_fits(
    server: ReleaseServer, built: Path, build_number: int, smollm2: Path, tmp_path: Path
) -> None:
    tag = f"b{build_number}"
    name = f"llama-{tag}-bin-{END}.tar.gz"
    server.add(tag, {name: tar_of(built, f"llama-{tag}")})
    target = install(server, tmp_path)
    shutil.rmtree(built)  # it needs nothing of where it came from
    assert target.name == f"{tag}-{BACKEND}-release"
    found = probe(target / store.SERVER)
    assert (found.build, found.lacking) == (build_number, ())
    manifest = store.verified(target)
    assert manifest is not None
    assert manifest.version_text == found.version_text
    assert manifest.made_from.startswith(f"release {tag}: {name}, sha256 ")
    if system == "linux":
        assert manifest.links["libllama.so"] == "libllama.so.0"
        assert manifest.links["libllama.so.0"] == f"libllama.so.0.0.{build_number}"
    runtime = Runtime(
        target.name, build_number, BACKEND, target / store.SERVER, "downloaded", found.version_text
    )
    db = StateDb(tmp_path / "state.db")
    model = Model(
        id="SmolLM2",
        name="SmolLM2",
        publisher=None,
        path=smollm2,
        folder=smollm2.parent,
        size_bytes=smollm2.stat().st_size,
        shard_count=1,
        modified_at=smollm2.stat().st_mtime,
    )
    fit = Fits(db).fit(model, runtime, 4096)
    db.close()
    assert (fit.problem, fit.context_length) == ("", 4096)


def test_a_real_zip_is_installed_over_a_line_that_breaks(
    server: ReleaseServer, built: Path, build_number: int, tmp_path: Path
) -> None:
    tag = f"b{build_number}"
    name = f"llama-{tag}-bin-{END}.zip"
    data = zip_of(built, "build/bin")
    server.add(tag, {name: data})
    server.faults[server.file_path(tag, name)] = [cut_after(1_000_000), cut_after(1_000_000)]
    target = install(server, tmp_path)
    assert store.verified(target) is not None
    assert probe(target / store.SERVER).build == build_number
    ranges = [headers.get("range") for _, headers in server.asked(name)]
    assert ranges == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_real_archive_that_was_cut_is_refused(
    server: ReleaseServer, built: Path, build_number: int, tmp_path: Path
) -> None:
    tag = f"b{build_number}"
    data = tar_of(built, f"llama-{tag}")
    server.add(tag, {f"llama-{tag}-bin-{END}.tar.gz": data[: len(data) - 100_000]})
    with pytest.raises(RuntimeBuildFailed, match="ends too early"):
        install(server, tmp_path)
    assert nothing_left(tmp_path)


@pytest.mark.skipif(system != "linux", reason="the words of the loader of Linux")
def test_a_real_server_with_a_missing_library_is_rejected_by_its_name(
    server: ReleaseServer, built: Path, build_number: int, tmp_path: Path
) -> None:
    for path in built.glob("libllama.so*"):
        path.unlink()
    tag = f"b{build_number}"
    server.add(tag, {f"llama-{tag}-bin-{END}.tar.gz": tar_of(built, f"llama-{tag}")})
    with pytest.raises(RuntimeRejected, match=r"libllama\.so"):
        install(server, tmp_path)
    assert nothing_left(tmp_path)


def test_a_real_server_of_another_build_is_rejected(
    server: ReleaseServer, built: Path, build_number: int, tmp_path: Path
) -> None:
    server.add("b999999", {f"llama-b999999-bin-{END}.tar.gz": tar_of(built, "llama")})
    with pytest.raises(RuntimeRejected, match=f"build {build_number}, not 999999"):
        install(server, tmp_path)
    assert nothing_left(tmp_path)
