"""Quantizing: what the tool says is read, what is made is checked, what fails leaves nothing."""

from __future__ import annotations

import argparse
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_maker import make_gguf
from tests.unit.engine_kit import running_engine, wait_until
from tray_app import cli_quantize
from tray_app.engine.convert import making, quantize_tool
from tray_app.engine.core import Engine
from tray_app.engine.errors import BadRequest, EngineError, RuntimeMissing
from tray_app.engine.runtime.proof_load import Tried
from tray_app.engine.values import Job, Runtime

HELP = """usage: llama-quantize …
 allowed quantization types
   2  or  Q4_0    :  4.34G, +0.4685 ppl @ Llama-3-8B
  12  or  Q3_K    : alias for Q3_K_M
  15  or  Q4_K_M  :  4.58G, +0.1754 ppl @ Llama-3-8B
   1  or  F16     : 14.00G, +0.0020 ppl @ Mistral-7B
          COPY    : only copy tensors, no quantizing
"""
# Stands in for the tool where it has to fail: the real one is in tests/engine.
TOOL = f"""#!{sys.executable}
import pathlib, shutil, sys, time
words = sys.argv[1:]
if "--help" in words:
    print({HELP!r}); sys.exit(1)
source, label = pathlib.Path(words[-2] if "--dry-run" in words else words[1]), words[-1]
if "--dry-run" in words:
    print("llama_model_quantize_impl: quant size  =     1.50 MiB (6.17 BPW)")
    print("llama_model_quantize_impl: WARNING: 3 of 4 tensor(s) required fallback quantization")
    sys.exit(0)
target, label = pathlib.Path(words[2]), words[3]
for number in range(1, 5):
    print(f"[{{number:4}}/   4] blk.0 - [ 1 ], type = f32", flush=True)
if label == "F16":
    target.write_bytes(b"half of it")
    print("main: failed to quantize model from 'x'"); sys.exit(1)
shutil.copy(source, target)
if label == "Q4_0":
    time.sleep(60)
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    folder = tmp_path / "runtime"
    folder.mkdir()
    tool = folder / "llama-quantize"
    tool.write_text(TOOL)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    runtime = Runtime("b1-cpu", 1, "cpu", folder / "llama-server", "built", "")
    make_gguf(tmp_path / "home" / "models" / "herd" / "Woolly" / "Woolly.F32.gguf")
    monkeypatch.setattr(making, "try_load", lambda *_: Tried((), 0.1, "d", worked=True))
    with running_engine(tmp_path / "home") as engine:
        monkeypatch.setattr(engine.runtime, "require", lambda _: runtime)
        wait_until(lambda: engine.snapshot().models and engine.snapshot().models[0].details_known)
        yield engine


def model_id(engine: Engine) -> str:
    return engine.snapshot().models[0].id


def job(engine: Engine, *types: str) -> Job:
    args = {"model_id": model_id(engine), "types": list(types)}
    job_id = engine.call("quantize_model", args)["job_id"]
    wait_until(lambda: not engine.jobs.get(job_id).state.in_progress)
    return engine.jobs.get(job_id)


def left(engine: Engine) -> list[str]:
    return sorted(p.name for p in engine.home.models.rglob("*") if p.is_file() or "." in p.name[:1])


def test_types_and_sizes_are_the_tools_own(engine: Engine) -> None:
    found = engine.call("quantize_targets", {"model_id": model_id(engine)})
    assert [each.label for each in found.targets] == ["Q4_0", "Q4_K_M", "F16"]
    assert {each.size_bytes for each in found.targets} == {1_572_864}
    assert found.targets[0].fallbacks == 3
    assert "bits per weight" in found.targets[0].about
    assert found.warning == ""  # it is F32
    assert found.free_bytes > 0


def test_a_result_is_a_model_of_the_library(engine: Engine) -> None:
    assert job(engine, "Q4_K_M").state == "done"
    wait_until(lambda: len(engine.snapshot().models) == 2)
    note = "Woolly.Q4_K_M.gguf.origin.json"
    assert left(engine) == ["Woolly.F32.gguf", "Woolly.Q4_K_M.gguf", note]
    found = engine.call("quantize_targets", {"model_id": model_id(engine)})
    assert [each.label for each in found.targets if each.model_id] == ["Q4_K_M"]
    with pytest.raises(BadRequest, match="is there"):
        engine.call("quantize_model", {"model_id": model_id(engine), "types": ["Q4_K_M"]})


def test_a_tool_that_fails_leaves_nothing(engine: Engine) -> None:
    failed = job(engine, "F16")
    assert failed.error is not None
    assert failed.error.code == "conversion_failed"
    assert "failed to quantize" in failed.error.message
    assert left(engine) == ["Woolly.F32.gguf"]


@pytest.mark.parametrize(
    ("tried", "word"),
    [
        (Tried((), None, None), "no answer"),
        (Tried((), 0.1, ""), "no answer"),
        (Tried((), 0.1, "HTTP 500: no logits"), "HTTP 500"),
        (Tried((), 0.1, None, timed_out=True), "no answer"),
    ],
)
def test_what_does_not_load_or_answer_never_enters_the_library(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tried: Tried, word: str
) -> None:
    monkeypatch.setattr(making, "try_load", lambda *_: tried)
    failed = job(engine, "Q4_K_M")
    assert failed.error is not None
    assert word in failed.error.message
    assert left(engine) == ["Woolly.F32.gguf"]


def test_a_cancel_ends_the_tool_and_leaves_nothing(engine: Engine) -> None:
    args = {"model_id": model_id(engine), "types": ["Q4_0"]}
    job_id = engine.call("quantize_model", args)["job_id"]
    wait_until(lambda: engine.jobs.get(job_id).done == 4)
    engine.call("cancel_job", {"job_id": job_id})
    wait_until(lambda: engine.jobs.get(job_id).state == "cancelled")
    assert left(engine) == ["Woolly.F32.gguf"]


def test_a_full_disk_is_told_before_anything_is_made(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(engine.home.models)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    failed = job(engine, "Q4_K_M")
    assert failed.error is not None
    assert failed.error.code == "not_enough_disk"


@pytest.mark.parametrize("types", [[], ["Q9_Z"], ["COPY"], [7], ["Q4_0"] * 3 + ["../x"]])
def test_a_wish_that_is_none_is_refused_with_what_there_is(
    engine: Engine, types: list[Any]
) -> None:
    with pytest.raises(BadRequest) as error:
        engine.call("quantize_model", {"model_id": model_id(engine), "types": types})
    assert "Q4_K_M" in error.value.remedy


def test_a_runtime_without_the_tool_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = replace(engine.runtime.require(None), server_path=Path("/nowhere/llama-server"))
    monkeypatch.setattr(engine.runtime, "require", lambda _: bare)
    with pytest.raises(RuntimeMissing, match="no llama-quantize"):
        engine.call("quantize_targets", {"model_id": model_id(engine)})


def test_a_model_of_a_users_folder_is_quantized_into_ours(engine: Engine, tmp_path: Path) -> None:
    source = make_gguf(tmp_path / "mine" / "Own.F16.gguf")
    engine.call("add_folder", {"path": str(source.parent)})
    wait_until(lambda: len(engine.snapshot().models) == 2)
    name = next(m.id for m in engine.snapshot().models if m.path == source)
    job_id = engine.call("quantize_model", {"model_id": name, "types": ["Q4_K_M"]})["job_id"]
    wait_until(lambda: engine.jobs.get(job_id).state == "done")
    assert (engine.home.models / "local" / "Own" / "Own.Q4_K_M.gguf").is_file()
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_a_tool_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        quantize_tool.offered(tmp_path / "no-such-tool")


@pytest.mark.parametrize(
    ("word", "size"), [("500M", 500_000_000), ("4g", 4 * 10**9), ("1GB", 10**9)]
)
def test_a_shard_size_is_read(word: str, size: int) -> None:
    assert cli_quantize.shard_size(word) == size


@pytest.mark.parametrize("word", ["", "0M", "4", "G", "-1G", "4T", "1.5G"])
def test_a_size_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        cli_quantize.shard_size(word)


def test_what_a_killed_engine_left_of_a_trial_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "run" / f"{making.TRIAL}0123"
    left.mkdir(parents=True)
    (left / "x.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    (tmp_path / "elsewhere.gguf").write_bytes(b"stays")
    making.clear_left(tmp_path / "run")
    assert not left.exists()
    assert (tmp_path / "elsewhere.gguf").is_file()


@pytest.mark.parametrize("size", [0, 1000, 1 << 50])
def test_a_split_that_makes_no_sense_is_refused(engine: Engine, size: int) -> None:
    tool = engine.runtime.require(None).server_path.with_name("llama-gguf-split")
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    with pytest.raises(BadRequest):
        engine.call("split_model", {"model_id": model_id(engine), "shard_bytes": size})
    with pytest.raises(BadRequest, match="one file already"):
        engine.call("merge_model", {"model_id": model_id(engine)})
