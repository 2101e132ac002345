"""Speed measured by the real llama-bench: kept, compared, cancelled, killed, behind answers."""

from __future__ import annotations

import contextlib
import os
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from tests.engine.test_engine_real import FIRST, SECOND, Product, running_product, status_of
from tests.unit.engine_kit import wait_until
from tray_app.client import Client

SHORT = {"prompt_tokens": 32, "generated_tokens": 8, "repetitions": 2}
LONG = {"prompt_tokens": 512, "generated_tokens": 128, "repetitions": 50}  # about 80 s


@pytest.fixture
def product(two_models_home: Path, free_port: int) -> Iterator[Product]:
    path = two_models_home / "settings.toml"
    table = tomllib.loads(path.read_text())
    table["server"] = {"port": free_port, "context_length": 512, "start_with": "nothing"}
    path.write_text(tomli_w.dumps(table))
    with running_product(two_models_home, free_port) as made:
        yield made


def tools(home: Path) -> list[psutil.Process]:
    """The llama-bench processes of this home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words and "llama-bench" in words[0] and str(home) in " ".join(words):
                found.append(process)
    return found


def job_of(client: Client, job_id: str) -> dict[str, Any]:
    return next(job for job in client.snapshot()["jobs"] if job["id"] == job_id)


def begun(client: Client, home: Path, **args: Any) -> tuple[str, psutil.Process]:
    """A measurement that has come to its first runs."""
    job_id = client.call("bench_model", model_id=FIRST, **args)["job_id"]
    wait_until(lambda: " run 1 of" in job_of(client, job_id)["step"], 60)
    (tool,) = tools(home)
    return job_id, tool


def ended(client: Client, job_id: str) -> dict[str, Any]:
    wait_until(lambda: job_of(client, job_id)["state"] not in ("queued", "running"), 80)
    return job_of(client, job_id)


def test_a_model_is_measured_kept_and_held_against_before(product: Product) -> None:
    words = ("bench", FIRST, "--prompt", "64", "--generate", "16", "--repetitions", "2")
    found = product.json(*words)
    assert (found["job"]["state"], found["job"]["error"]) == ("done", None)
    newest = found["bench"]["newest"]
    assert found["bench"]["previous"] is None
    for test in ("prompt", "generation"):
        assert newest[test]["tokens_per_s"] > 1
        assert newest[test]["stddev_per_s"] >= 0
    assert (newest["model_id"], newest["backend"]) == (FIRST, "cpu")
    assert newest["settings"]["kv_cache_type"] == "f16"
    assert newest["settings"]["threads"] >= 1
    assert newest["device"]
    assert newest["in_memory"] == []

    # With other settings, and another model in memory.
    client = Client.connect(product.home)
    client.call("keep_running", mode="serve")
    changes = {"kv_cache_type": "q8_0", "flash_attention": "on", "threads": 1}
    client.call("change_model_settings", model_id=FIRST, changes=changes)
    assert product.chat(SECOND)[0] == 200
    again = product.json(*words)["bench"]
    assert again["newest"]["in_memory"] == [SECOND]
    settings = again["newest"]["settings"]
    assert (settings["kv_cache_type"], settings["flash_attention"]) == ("q8_0", "on")
    assert settings["threads"] == 1
    assert again["previous"]["run"]["id"] == newest["id"]
    assert 0 < again["previous"]["prompt_ratio"] < 10
    assert "KV cache q8_0, before f16" in again["previous"]["changes"]
    assert status_of(client, SECOND)["state"] == "ready"

    said = product.run(*words)
    assert said.returncode == 0, said.stderr
    assert "BEFORE" in said.stdout
    assert f"In memory meanwhile, idle: {SECOND}." in said.stdout
    assert len(product.json("bench", "--history", FIRST)["runs"]) == 3
    assert FIRST in product.run("bench", "--history").stdout
    assert tools(product.home) == []
    assert product.run("bench", FIRST, "--repetitions", "0").returncode == 1
    assert product.run("bench", "nobody").returncode == 1


def test_a_cancel_in_the_middle_leaves_no_process(product: Product) -> None:
    client = product.start()
    job_id, tool = begun(client, product.home, **LONG)
    client.call("cancel_job", job_id=job_id)
    assert ended(client, job_id)["state"] == "cancelled"
    assert not tool.is_running()
    assert tools(product.home) == []
    assert client.call("bench_history")["runs"] == []


def test_a_tool_that_is_killed_is_a_clear_failure(product: Product) -> None:
    client = product.start()
    job_id, tool = begun(client, product.home, **LONG)
    tool.kill()
    job = ended(client, job_id)
    assert job["state"] == "failed"
    assert job["error"]["code"] == "bench_failed"
    assert "killed from outside" in job["error"]["message"]
    assert job["error"]["remedy"]
    assert client.call("bench_history")["runs"] == []
    job_id = client.call("bench_model", model_id=FIRST, **SHORT)["job_id"]
    assert ended(client, job_id)["state"] == "done"


def test_an_engine_that_is_killed_leaves_no_tool(product: Product) -> None:
    client = product.start()
    _, tool = begun(client, product.home, **LONG)
    os.kill(client.engine_pid, signal.SIGKILL)
    wait_until(lambda: not tool.is_running() or tool.status() == psutil.STATUS_ZOMBIE, 15)
    for process in product.started:
        process.wait(20)
    client = product.start()
    assert tools(product.home) == []
    (job,) = client.snapshot()["jobs"]
    assert job["state"] == "interrupted"


def test_answers_go_first_and_the_measurement_begins_anew(product: Product) -> None:
    client = product.start()
    job_id, tool = begun(client, product.home, prompt_tokens=256, repetitions=5)
    # Of a model that has to be loaded: the load ends the tool before it begins.
    status, answer = product.chat(SECOND, tokens=24)
    assert status == 200, answer
    assert not tool.is_running()
    wait_until(lambda: tools(product.home), 60)
    # Of a model that is in memory.
    (second,) = tools(product.home)
    status, answer = product.chat(SECOND, tokens=64)
    assert status == 200, answer
    assert not second.is_running()
    assert ended(client, job_id)["state"] == "done"
    (run,) = client.call("bench_history")["runs"]
    assert run["in_memory"] == [SECOND]
    assert "answers go first" in client.call("read_log", name="bench.log")["text"]


def test_with_a_gpu_the_idle_model_leaves_for_it_and_comes_back(
    product: Product, vulkan_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0")  # else the software device is passed over
    path = product.home / "settings.toml"
    table = tomllib.loads(path.read_text())
    table["runtime"]["server_path"] = str(vulkan_server)
    path.write_text(tomli_w.dumps(table))
    client = product.start()
    client.call("load_model", model_id=FIRST)
    wait_until(lambda: status_of(client, FIRST)["state"] == "ready", 60)
    before = status_of(client, FIRST)["pid"]
    few = {"prompt_tokens": 8, "generated_tokens": 2, "repetitions": 1}
    job = ended(client, client.call("bench_model", model_id=FIRST, **few)["job_id"])
    assert (job["state"], job["error"]) == ("done", None)
    (run,) = client.call("bench_history")["runs"]
    assert (run["backend"], run["in_memory"]) == ("vulkan", [])
    assert "llvmpipe" in run["device"]
    wait_until(lambda: status_of(client, FIRST)["state"] == "ready", 60)
    assert status_of(client, FIRST)["pid"] != before


def test_a_damaged_model_is_told_by_its_reason(product: Product) -> None:
    path = next((product.home / "models").rglob("*Q4_1.gguf"))
    data = path.read_bytes()
    path.unlink()  # it is a link to the part that all tests share
    client = product.start()
    path.write_bytes(data)
    client.call("rescan")
    wait_until(lambda: any(m["id"] == FIRST for m in client.snapshot()["models"]))
    os.truncate(path, len(data) - 1_000_000)
    job_id = client.call("bench_model", model_id=FIRST, **SHORT)["job_id"]
    job = ended(client, job_id)
    assert job["state"] == "failed"
    assert "damaged or incomplete" in job["error"]["message"]
