"""A real model made into three quantizations by the real tool; each is served and answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from tests import parts
from tests.engine.test_engine_real import Product, running_product
from tray_app.client import Client

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
