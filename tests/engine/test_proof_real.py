"""The proof with a real llama.cpp: it passes, its margin is wide, and faults are noticed."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest

from tray_app.engine.child_registry import ChildRegistry
from tray_app.engine.launch import Endpoint
from tray_app.engine.process import ChildProcess, LaunchSpec
from tray_app.engine.runtime import proof as proof_module
from tray_app.engine.runtime import proof_load, proof_model
from tray_app.engine.runtime.proof import Proofs, prove
from tray_app.engine.runtime.proof_load import Trial
from tray_app.engine.runtime.proof_model import LAYERS, write_proof_model
from tray_app.engine.state import StateDb

# A llama-server of a GPU build, on a machine that has one: CI has none.
GPU_SERVER = "LLAMA_WRANGLER_GPU_SERVER"


def left_running(folder: Path) -> list[str]:
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
    ]


def test_a_real_runtime_is_proven_and_leaves_nothing(llama_server: Path, home: Path) -> None:
    registry = ChildRegistry(home / "children.json")
    recorded: list[str] = []

    def check() -> None:
        recorded.extend(record.marker for record in registry.records() if record.kind == "proof")

    run = home / "run"
    proof = prove(llama_server, "cpu", None, run, registry=registry, check=check)
    assert proof.ok, proof.error
    assert (proof.layers_on_gpu, proof.layers) == (0, LAYERS + 1)
    assert proof.load_s is not None
    assert proof.load_s < 5
    assert registry.records() == ()
    assert all(marker.startswith(str(run)) for marker in recorded)
    assert list(run.iterdir()) == []
    assert left_running(run) == []


def test_the_right_token_is_far_ahead_at_every_byte(llama_server: Path, home: Path) -> None:
    """Every printable byte, each after a context of many others. A space is three bytes to it."""
    model = write_proof_model(home / "proof.gguf")
    endpoint = Endpoint(socket_path=home / "s.sock")
    argv = proof_load._arguments(llama_server, model, 0, endpoint)
    with ChildProcess(LaunchSpec(argv)) as child:
        assert proof_load._converse(child, endpoint, time.monotonic(), Trial())[1] == "def"
        for byte in range(0x21, 0x7E):
            prompt = "The quick brown fox jumps over the lazy dog " + chr(byte)
            wish = {"prompt": prompt, "n_predict": 1, "temperature": 0.0, "n_probs": 2}
            _, body = proof_load._ask(endpoint, "POST", "/completion", json.dumps(wish), 10)
            answer = json.loads(body)
            (place,) = answer["completion_probabilities"]
            first, second = place["top_logprobs"]
            assert answer["content"] == first["token"] == chr(byte + 1)
            assert math.exp(first["logprob"]) > 0.9
            assert second["logprob"] < math.log(0.01)


def test_wrong_numbers_are_noticed(
    llama_server: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of one layer read as if their scale were 64 times as large."""
    monkeypatch.setattr(proof_model, "FEED_FORWARD_SCALE", 1.0)
    layer = tuple(
        (name, shape, scale * 64 if name.startswith("ffn") else scale)
        for name, shape, scale in proof_model._LAYER
    )
    monkeypatch.setattr(proof_model, "_LAYER", layer)
    proof = prove(llama_server, "cpu", None, home / "run")
    assert proof.error is not None
    assert "computes wrong results" in proof.error.message


def test_a_model_file_that_it_cannot_read_is_a_fault_in_plain_words(
    llama_server: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path) -> Path:
        whole = write_proof_model(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        return path

    monkeypatch.setattr(proof_module, "write_proof_model", half)
    proof = prove(llama_server, "cpu", None, home / "run")
    assert proof.error is not None
    assert "failed while loading its proof model: The model file is damaged" in proof.error.message


def test_a_cpu_build_is_no_cuda_build(llama_server: Path, home: Path) -> None:
    proof = prove(llama_server, "cuda", None, home / "run", promised=(), environ={})
    assert proof.error is not None
    assert proof.error.message == "The CUDA build sees no GPU."


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux's ldd")
def test_a_library_that_was_removed_is_named(llama_server: Path, home: Path) -> None:
    copy = home / "copy"
    shutil.copytree(llama_server.parent, copy)
    library = next(iter(sorted(copy.glob("libggml-base.*so*"))), None)
    if library is None:
        pytest.skip("this build has no libraries of its own")
    for path in copy.glob("libggml-base.*so*"):
        path.unlink()
    proof = prove(copy / llama_server.name, "cpu", None, home / "run")
    assert proof.error is not None
    assert "cannot start: libggml-base.so" in proof.error.message
    assert proof.missing_libraries[0].startswith("libggml-base.so")
    assert "part of llama.cpp itself" in proof.error.remedy


def test_a_kept_proof_of_a_real_runtime_costs_no_start(llama_server: Path, home: Path) -> None:
    db = StateDb(home / "state.db")
    first = Proofs(db, home / "run").prove(llama_server, "cpu", None, "this machine")
    assert first.ok, first.error
    started = time.monotonic()
    assert Proofs(db, home / "run").prove(llama_server, "cpu", None, "this machine") == first
    assert time.monotonic() - started < 0.05
    db.close()


def test_a_gpu_build_puts_all_layers_on_the_gpu(
    vulkan_server: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LLAMA_WRANGLER_GPU_SERVER` names another build, where a real GPU is."""
    given = os.environ.get(GPU_SERVER)
    if not given:  # llama.cpp passes Mesa's device in software over unless it is named
        monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0")
    proof = prove(Path(given or vulkan_server), None, None, home / "run", promised=())
    assert proof.ok, proof.error
    assert proof.devices
    assert (proof.layers_on_gpu, proof.layers) == (LAYERS + 1, LAYERS + 1)
