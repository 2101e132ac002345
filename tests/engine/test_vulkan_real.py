"""A GPU backend for real: Vulkan, built by the product, on Mesa's device in software.

llama.cpp passes such a device over unless GGML_VK_VISIBLE_DEVICES names it (ggml-vulkan.cpp);
so leaving the variable out stands for a driver that is gone.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
import tomli_w

from tests.engine.test_engine_real import FIRST, Product, product, status_of
from tests.engine.test_runtime_switch_real import finish, runtime_of
from tests.unit.engine_kit import wait_until
from tray_app.client import Client

__all__ = ["product"]

VISIBLE = "GGML_VK_VISIBLE_DEVICES"


@pytest.fixture
def client(product: Product, vulkan_server: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """An engine that sees the device, on the processor so far."""
    monkeypatch.setenv(VISIBLE, "0")
    path = product.home / "settings.toml"
    table = tomllib.loads(path.read_text())
    table["runtime"] = {"updates": "off", "auto_build": False}
    path.write_text(tomli_w.dumps(table))
    return started(product)


def started(product: Product) -> Client:
    client = product.start()
    wait_until(lambda: runtime_of(client)["state"] not in ("searching", "missing"))
    return client


def restarted(product: Product) -> Client:
    Client.connect(product.home).call("shutdown")
    for process in product.started:
        process.wait(30)
    return started(product)


def test_a_vulkan_build_of_ours_is_proved_used_and_its_offload_shown(
    product: Product, client: Client, llama_server: Path, vulkan_server: Path
) -> None:
    before = runtime_of(client)["active"]
    assert before["backend"] == "cpu"
    job = finish(client, client.call("build_runtime", backend="vulkan"))
    assert job["state"] == "done", job
    active = runtime_of(client)["active"]
    assert (active["id"], active["backend"], active["origin"]) == (
        f"b{before['build']}-vulkan",
        "vulkan",
        "built",
    )
    assert "llvmpipe" in active["devices"][0]
    proof = active["proof"]
    assert proof["ok"]
    assert (proof["layers_on_gpu"], proof["layers"]) == (3, 3)
    assert "-DGGML_VULKAN=ON" in active["made_from"]

    client.call("switch_model", model_id=FIRST)
    wait_until(lambda: (status_of(client, FIRST).get("offload") or {}).get("actual"), 60)
    assert status_of(client, FIRST)["offload"] == {"requested": None, "actual": 31, "total": 31}
    assert product.chat()[0] == 200
    assert not runtime_of(client)["on_trial"]

    client.call("change_model_settings", model_id=FIRST, changes={"gpu_layers": 3})
    client.call("unload_model", model_id=FIRST)
    client.call("load_model", model_id=FIRST)
    wait_until(lambda: (status_of(client, FIRST).get("offload") or {}).get("requested") == 3, 60)
    assert status_of(client, FIRST)["offload"]["actual"] == 3


def test_a_device_that_is_gone_is_told_and_taken_again_when_it_is_back(
    product: Product,
    client: Client,
    llama_server: Path,
    vulkan_server: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish(client, client.call("build_runtime", backend="vulkan"))
    vulkan = runtime_of(client)["active"]["id"]

    monkeypatch.delenv(VISIBLE)
    client = restarted(product)
    runtime = runtime_of(client)
    assert runtime["active"]["backend"] == "cpu"
    assert "sees no GPU" in runtime["error"]["message"]
    notices = {n["code"]: n for n in client.snapshot()["notices"]}
    assert runtime["active"]["id"] in notices["runtime_missing"]["message"]
    job = finish(client, client.call("use_runtime", name=vulkan))
    assert job["state"] == "failed"
    assert "sees no GPU" in job["error"]["message"]
    assert runtime_of(client)["active"]["backend"] == "cpu"

    monkeypatch.setenv(VISIBLE, "0")
    client = restarted(product)
    assert runtime_of(client)["active"]["id"] == vulkan
    assert runtime_of(client)["error"] is None


@pytest.mark.skipif(bool(shutil.which("nvcc", path="/usr/bin")), reason="CUDA is here")
def test_down_the_ladder_each_backend_that_cannot_be_built_is_named(
    product: Product, client: Client, llama_server: Path
) -> None:
    """With CUDA wished for on a machine without it, the build comes out for the processor."""
    client.call("change_settings", changes={"runtime.backend": "cuda"})
    job = finish(client, client.call("build_runtime"))
    assert job["state"] == "done", job
    runtime = runtime_of(client)
    assert runtime["active"]["backend"] == "cpu"
    assert runtime["stepped_down"][0].startswith("CUDA: ")
    assert "cannot be built here" in runtime["stepped_down"][0]
