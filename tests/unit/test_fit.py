"""Fits: what llama-fit-params prints, what is remembered, and what stands in for it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tray_app.engine import fit
from tray_app.engine.fit import Fits, MemoryPart, estimate, parse_arguments, parse_memory
from tray_app.engine.state import StateDb
from tray_app.engine.values import Model, Runtime

MIB = 1 << 20


@pytest.fixture
def model(tmp_path: Path) -> Model:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" * 100)
    return Model(
        id="p/m:Q4",
        name="m",
        publisher="p",
        path=path,
        folder=tmp_path,
        size_bytes=400,
        shard_count=1,
        modified_at=1.0,
        kv_bytes_per_token=1000,
    )


@pytest.fixture
def db(tmp_path: Path) -> Iterator[StateDb]:
    state = StateDb(tmp_path / "state.db")
    yield state
    state.close()


def runtime_with(folder: Path, script: str | None) -> Runtime:
    """A runtime whose llama-fit-params is `script`; each run adds its arguments to runs.txt."""
    if script is not None:
        tool = folder / "llama-fit-params"
        tool.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/runs.txt"\n{script}\n')
        tool.chmod(0o755)
    return Runtime("b1-cpu", 1, "cpu", folder / "llama-server", "built", "1")


GOOD = """
case "$*" in
*-fitp*) echo "Host 92 180 109 " ;;
*) echo "0.00.072.591 I llama_fit_params: printing fitted CLI arguments to stdout..." >&2
   echo "-c 8192 -ngl -1" ;;
esac
"""

posix_only = pytest.mark.skipif(os.name == "nt", reason="stand-ins are shell scripts")


def runs(folder: Path) -> list[str]:
    path = folder / "runs.txt"
    return path.read_text().splitlines() if path.exists() else []


@posix_only
def test_a_fit_is_measured_once(db: StateDb, model: Model, tmp_path: Path) -> None:
    runtime = runtime_with(tmp_path, GOOD)
    result = Fits(db).fit(model, runtime, 8192)
    assert result.measured
    assert (result.context_length, result.gpu_layers, result.extra_args) == (8192, None, ())
    assert result.memory == (MemoryPart("Host", 93 * MIB, 181 * MIB, 110 * MIB),)
    assert result.memory_bytes == result.host_bytes == 384 * MIB
    assert runs(tmp_path) == [f"-m {model.path} -c 8192", f"-m {model.path} -c 8192 -fitp on"]
    assert Fits(db).fit(model, runtime, 8192) == result
    assert len(runs(tmp_path)) == 2, "a later engine process knows it"


@posix_only
def test_anything_it_depends_on_asks_anew(db: StateDb, model: Model, tmp_path: Path) -> None:
    runtime = runtime_with(tmp_path, GOOD)
    fits = Fits(db)
    fits.fit(model, runtime, 8192)
    fits.fit(model, runtime, 4096)
    fits.fit(model, dataclasses.replace(runtime, id="b2-cpu"), 8192)
    fits.fit(model, dataclasses.replace(runtime, devices=("CUDA0: X (9 MiB, 8 MiB free)",)), 8192)
    assert len(runs(tmp_path)) == 8
    # Free memory of a device is not hardware.
    fits.fit(model, dataclasses.replace(runtime, devices=("CUDA0: X (9 MiB, 2 MiB free)",)), 8192)
    assert len(runs(tmp_path)) == 8
    os.utime(model.path, ns=(1, 1))
    fits.fit(model, runtime, 8192)
    assert len(runs(tmp_path)) == 10
    fits.forget(model)
    fits.fit(model, runtime, 8192)
    assert len(runs(tmp_path)) == 12


@posix_only
def test_gpu_layers_the_user_set_are_measured_not_fitted(
    db: StateDb, model: Model, tmp_path: Path
) -> None:
    result = Fits(db).fit(model, runtime_with(tmp_path, GOOD), 4096, gpu_layers=7)
    assert (result.context_length, result.gpu_layers) == (4096, 7)
    assert runs(tmp_path) == [f"-m {model.path} -c 4096 -ngl 7 -fitp on"]


@posix_only
@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'E failed to load model' >&2; exit 1", "exit code 1: E failed to load model"),
        ("echo nonsense", "printed no arguments"),
        ("echo '-c 0 -ngl 1'", "printed no arguments"),
        ('case "$*" in *-fitp*) echo x;; *) echo "-c 5 -ngl 1";; esac', "printed no memory"),
        ("sleep 60", "did not answer"),
        ("kill -SEGV $$", "SIGSEGV"),
        (None, "no llama-fit-params"),
    ],
)
def test_a_failing_tool_gives_an_estimate_that_is_not_remembered(
    db: StateDb, model: Model, tmp_path: Path, script: str | None, problem: str
) -> None:
    fits = Fits(db, timeout_s=0.5)
    result = fits.fit(model, runtime_with(tmp_path, script), 2048, 3)
    if "printed no arguments" in problem:
        result = fits.fit(model, runtime_with(tmp_path, script), 2048)
    assert not result.measured
    assert problem in result.problem or "printed no memory" in result.problem
    assert result.memory_bytes == 400 + 1000 * 2048 + fit.COMPUTE_BYTES
    good = fits.fit(model, runtime_with(tmp_path, GOOD), 2048, 3)
    assert good.measured


def test_a_file_that_is_gone_gives_an_estimate(db: StateDb, model: Model, tmp_path: Path) -> None:
    model.path.unlink()
    assert "missing" in Fits(db).fit(model, runtime_with(tmp_path, GOOD), 2048).problem


def test_an_unknown_kv_size_is_taken_for_a_large_one(model: Model) -> None:
    known, unknown = model, dataclasses.replace(model, kv_bytes_per_token=None)
    assert estimate(unknown, 100).memory_bytes > estimate(known, 100).memory_bytes


def test_the_arguments_of_a_gpu_machine_are_read_strictly() -> None:
    output = (
        "0.00.072.591 I llama_fit_params: printing fitted CLI arguments to stdout...\n"
        '-c 4096 -ngl 48 -ts 30,18 -ot "blk\\.2[0-9]\\.ffn_.*=CPU,blk\\.1\\.ffn=CUDA1"\n'
    )
    assert parse_arguments(output) == (
        4096,
        48,
        ("-ts", "30,18", "-ot", "blk\\.2[0-9]\\.ffn_.*=CPU,blk\\.1\\.ffn=CUDA1"),
    )
    for bad in ("", "-c 4096", "-c 4096 -ngl 48 --rpc evil:1", "x -c 4096 -ngl 48", "-c -1 -ngl 1"):
        with pytest.raises(ValueError, match="no arguments"):
            parse_arguments(bad)


def test_the_memory_of_a_gpu_machine_is_read_by_device() -> None:
    parts = parse_memory("noise\nCUDA0 4000 512 300 \nHost 100 0 20 \n")
    assert [part.device for part in parts] == ["CUDA0", "Host"]
    assert parts[1] == MemoryPart("Host", 101 * MIB, 0, 21 * MIB)
    for bad in ("", "CUDA0 1 2 3 ", "Host 1 2", "Host 1 2 x "):
        with pytest.raises(ValueError, match="no memory"):
            parse_memory(bad)


@posix_only
def test_a_row_of_another_version_is_measured_again(
    db: StateDb, model: Model, tmp_path: Path
) -> None:
    runtime = runtime_with(tmp_path, GOOD)
    Fits(db).fit(model, runtime, 8192)
    with db.transaction() as connection:
        connection.execute("UPDATE fit_cache SET result = '{\"context\": 1}'")
    assert Fits(db).fit(model, runtime, 8192).measured
    assert len(runs(tmp_path)) == 4


@posix_only
def test_the_cache_is_bounded_by_use(
    db: StateDb, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "KEPT", 2)
    now = iter(range(1000))
    fits = Fits(db, clock=lambda: float(next(now)))
    runtime = runtime_with(tmp_path, GOOD)
    for context in (1000, 2000):
        fits.fit(model, runtime, context)
    fits.fit(model, runtime, 1000)
    fits.fit(model, runtime, 3000)  # pushes 2000 out
    count = len(runs(tmp_path))
    fits.fit(model, runtime, 1000)
    assert len(runs(tmp_path)) == count
    fits.fit(model, runtime, 2000)
    assert len(runs(tmp_path)) == count + 2
