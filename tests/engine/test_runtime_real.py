"""A real llama.cpp build: found, restored from the cache, probed, and asked how a model fits."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runtime_kit import Follower
from tray_app.engine.errors import DownloadFailed
from tray_app.engine.fetch import RemoteFile
from tray_app.engine.fit import Fits, estimate
from tray_app.engine.home import cache_folder
from tray_app.engine.runtime import store
from tray_app.engine.runtime.build import Parts, obtain_runtime
from tray_app.engine.runtime.probe import probe
from tray_app.engine.runtime.recipe import PROGRAMS, Source, cache_key, host_recipe
from tray_app.engine.runtime.shelf import Shelf, tool_of
from tray_app.engine.state import StateDb
from tray_app.engine.values import Model, Proof, Runtime

MIB = 1 << 20
KV_BYTES_PER_TOKEN = 2 * 30 * 3 * 64 * 2  # keys and values, 30 layers, 3 heads of 64, F16


@pytest.fixture
def runtime(llama_server: Path, tmp_path: Path) -> Runtime:
    return described(llama_server, tmp_path)


def described(server: Path, tmp_path: Path) -> Runtime:
    """What a llama-server says of itself; nothing is proved."""
    db = StateDb(tmp_path / "shelf.db")
    try:
        shelf = Shelf(tmp_path / "rt", db, lambda *_: Proof(True, 0.0), lambda *_: None)
        return shelf.describe(shelf.locate(server))
    finally:
        db.close()


@pytest.fixture
def model(smollm2: Path) -> Model:
    return Model(
        id="SmolLM2-135M-Instruct:Q4_1",
        name="SmolLM2-135M-Instruct",
        publisher=None,
        path=smollm2,
        folder=smollm2.parent,
        size_bytes=smollm2.stat().st_size,
        shard_count=1,
        modified_at=smollm2.stat().st_mtime,
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
    )


def test_a_real_llama_server_offers_all_we_use(llama_server: Path) -> None:
    found = probe(llama_server)
    assert found.lacking == ()
    assert found.build is not None
    assert found.build >= 11434
    assert f"build {found.build}" in found.version_text


def test_the_built_runtime_is_complete_and_moves_with_its_folder(tmp_path: Path) -> None:
    cached = cached_runtime()
    target = tmp_path / "moved" / "runtime"
    store.copy_in_place(cached, target)
    runtime = described(target / store.SERVER, tmp_path)
    assert all(tool_of(runtime, name) for name in PROGRAMS)
    assert runtime.build == host_recipe().source.build
    if shutil.which("ldd"):
        libraries = subprocess.run(
            ["ldd", str(target / "llama-server")], capture_output=True, text=True, check=True
        ).stdout
        assert str(cached) not in libraries
        assert f"{target}/libllama.so" in libraries


def test_a_new_home_finds_the_cached_runtime_in_seconds_and_without_a_network(
    tmp_path: Path,
) -> None:
    cached = cached_runtime()
    cache = tmp_path / "cache"
    store.copy_in_place(cached, cache / "runtimes" / cached.name)

    def no_network(source: Source) -> RemoteFile:
        raise DownloadFailed("no network", "")

    folder = obtain_runtime(
        host_recipe(), tmp_path / "rt", cache, Follower(), Parts(locate=no_network)
    )
    assert store.verified(folder, cached.name)
    runtime = described(folder, tmp_path)
    assert (runtime.origin, runtime.id) == ("built", host_recipe().runtime_id)
    assert runtime.made_from
    assert runtime.size_bytes


def cached_runtime() -> Path:
    key = cache_key(host_recipe())
    folder = cache_folder() / "runtimes" / key
    if store.verified(folder, key) is None:
        pytest.skip("the runtime of this session is not one that we built into the cache")
    return folder


def test_smollm2_is_fitted_by_the_real_tool_and_remembered(
    runtime: Runtime, model: Model, tmp_path: Path
) -> None:
    db = StateDb(tmp_path / "state.db")
    fits = Fits(db)
    measured = fits.fit(model, runtime, 8192)
    assert measured.problem == ""
    assert measured.measured
    assert measured.context_length == 8192
    # 180 MiB of KV cache, as the header says; rounded up by the tool's whole MiB.
    kv_cache = sum(part.kv_cache_bytes for part in measured.memory)
    assert 0 <= kv_cache - KV_BYTES_PER_TOKEN * 8192 <= MIB
    weights = sum(part.weights_bytes for part in measured.memory)
    assert abs(weights - model.size_bytes) < 8 * MIB
    missing = dataclasses.replace(runtime, server_path=tmp_path / "nothing" / "llama-server")
    assert not fits.fit(model, missing, 8192).measured
    assert Fits(db).fit(model, runtime, 8192) == measured
    assert estimate(model, 8192).memory_bytes >= measured.memory_bytes
    db.close()


def test_a_broken_model_gives_an_estimate_and_the_reason(
    runtime: Runtime, model: Model, tmp_path: Path
) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(model.path.read_bytes()[:1_000_000])
    db = StateDb(tmp_path / "state.db")
    result = Fits(db).fit(dataclasses.replace(model, path=half), runtime, 4096)
    assert not result.measured
    # Its log is written by a thread that its exit may cut off, so the words are no promise.
    assert "exit code 1" in result.problem
    db.close()
