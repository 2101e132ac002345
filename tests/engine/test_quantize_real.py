"""A real model made into three quantizations by the real tool; each is served and answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from tests import parts
from tests.engine.test_engine_real import Product, running_product
from tests.unit.engine_kit import wait_until
from tray_app.client import Client
from tray_app.engine.formats.inspect import inspect

NAME = "herd/SmolLM2-GGUF:Q4_1"


@pytest.fixture
def product(home: Path, free_port: int, llama_server: Path, smollm2: Path) -> Iterator[Product]:
    parts.place(smollm2, home / "models" / "herd" / "SmolLM2-GGUF" / parts.SMOLLM2_FILE)
    table = {
        "version": 1,
        "server": {"port": free_port, "context_length": 512},
        "runtime": {"server_path": str(llama_server), "auto_build": False},
    }
    (home / "settings.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    with running_product(home, free_port) as made:
        yield made


def test_three_quantizations_are_made_proven_and_served(product: Product) -> None:
    found = product.json("quantize", NAME)
    sizes = {each["label"]: each["size_bytes"] for each in found["targets"]}
    assert len(sizes) > 25
    assert "Q4_1 already" in found["warning"]
    job = product.json("quantize", NAME, "Q8_0", "q4_k_m", "Q2_K")
    assert (job["state"], job["error"]) == ("done", None)
    client = Client.connect(product.home)
    models = {m["quantization"]: m for m in client.snapshot()["models"]}
    assert set(models) == {"Q4_1", "Q8_0", "Q4_K_M", "Q2_K"}
    for label in ("Q8_0", "Q4_K_M", "Q2_K"):
        # What the tool foresees is its tensors; the header comes on top.
        assert 0 <= models[label]["size_bytes"] - sizes[label] < 4 << 20
        client.call("keep_running", mode="serve")
        status, answer = product.chat(models[label]["id"])
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"]
    again = product.run("quantize", NAME, "Q8_0")
    assert again.returncode == 1
    assert "is there" in again.stderr
    assert not [p for p in (product.home / "models").iterdir() if p.name.startswith(".")]


def test_a_model_is_split_merged_again_and_verified(product: Product, smollm2: Path) -> None:
    assert product.json("verify", NAME)["state"] == "done"
    job = product.json("split", NAME, "--size", "50M")
    assert (job["state"], job["error"]) == ("done", None)
    client = Client.connect(product.home)
    sharded = next(m for m in client.snapshot()["models"] if m["shard_count"] > 1)
    client.call("keep_running", mode="serve")
    status, answer = product.chat(sharded["id"])
    assert status == 200, answer

    # The whole file goes, and comes back out of its shards.
    whole = product.home / "models" / "herd" / "SmolLM2-GGUF" / parts.SMOLLM2_FILE
    whole.rename(product.home / "whole.gguf")
    client.call("rescan")
    wait_until(lambda: len(client.snapshot()["models"]) == 1)
    (left,) = client.snapshot()["models"]
    assert product.json("merge", left["id"])["state"] == "done"
    assert whole.is_file()
    assert inspect(whole).problem == ""
    assert inspect(whole).actions == inspect(smollm2).actions


def test_a_damaged_model_does_not_pass(product: Product) -> None:
    path = product.home / "models" / "herd" / "SmolLM2-GGUF" / parts.SMOLLM2_FILE
    data = path.read_bytes()
    path.unlink()  # it is a link to the part that all tests share
    path.write_bytes(data[:-1_000_000])
    done = product.run("verify", NAME)
    assert done.returncode == 1
