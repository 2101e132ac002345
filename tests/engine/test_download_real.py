"""A model from a real registry, pulled by a real engine, answers with all that it carries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests import parts
from tests.engine.test_engine_real import Product, running_product
from tests.hub_server import hub_server
from tests.oci_registry import OciRegistry, running_registry
from tests.unit.engine_kit import wait_until
from tray_app.client import Client, ClientError

SYSTEM = "You are a herder of llamas."
PARAMS = {"temperature": 0.5, "num_ctx": 2048, "stop": ["<|im_end|>"]}


@pytest.fixture(scope="module")
def registry(smollm2: Path) -> Iterator[OciRegistry]:
    try:
        with running_registry() as registry:
            layers: list[tuple[str, bytes | Path]] = [
                ("model", smollm2),
                ("template", b"{{ .Prompt }}"),
                ("system", SYSTEM.encode()),
                ("params", json.dumps(PARAMS).encode()),
                ("license", b"Apache License\nVersion 2.0, January 2004\n"),
            ]
            registry.push_model("library/smollm2", "135m", layers)
            yield registry
    except parts.PartMissing as missing:
        if parts.in_ci():
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture
def product(home: Path, free_port: int, llama_server: Path) -> Iterator[Product]:
    """A home without a model."""
    table = {
        "version": 1,
        "server": {"port": free_port},
        "runtime": {"server_path": str(llama_server), "auto_build": False},
    }
    (home / "settings.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    with running_product(home, free_port) as made:
        yield made


def download_of(client: Client, download_id: str) -> dict[str, Any]:
    rows = [row for row in client.snapshot()["downloads"] if row["id"] == download_id]
    assert len(rows) == 1
    return dict(rows[0])


def pulled(client: Client, reference: str) -> dict[str, Any]:
    """Pull it to its end."""
    queued = client.call("pull", reference=reference)
    ended = ("done", "failed", "cancelled")
    wait_until(lambda: download_of(client, queued["id"])["state"] in ended, 60)
    return download_of(client, queued["id"])


def test_a_model_of_ollamas_registry_answers_with_its_settings(
    product: Product, registry: OciRegistry
) -> None:
    client = product.start()
    name = f"{registry.host}/library/smollm2:135m"
    preview = client.call("preview_download", reference=name)
    assert preview["total_bytes"] > parts.SMOLLM2_SIZE_BYTES  # with the license
    assert preview["badge"]["fits"] == "processor"
    assert preview["license"] == "Apache License"

    done = pulled(client, name)
    assert (done["state"], done["error"]) == ("done", None)
    assert done["warnings"] == []  # this GGUF has a chat template of its own
    target = Path(done["model_path"])
    assert hashlib.sha256(target.read_bytes()).hexdigest() == parts.SMOLLM2_SHA256
    assert not [path for path in product.home.rglob("*.part*")]

    (model,) = client.snapshot()["models"]
    settings = client.call("model_settings", model_id=model["id"])["own"]
    assert settings["system_prompt"] == SYSTEM
    assert settings["context_length"] == 2048
    argv = client.call("launch_command", model_id=model["id"])["argv"]
    assert argv[argv.index("--temp") + 1] == "0.5"
    assert argv[argv.index("--ctx-size") + 1] == "2048"

    # The first model is the active one by itself, and answers to Ollama's name for it too.
    assert client.snapshot()["active_model_id"] == model["id"]
    for asked in ("default", model["id"], name):
        status, answer = product.chat(asked)
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"]

    # In memory it is not deleted; afterwards it is gone, with its alias.
    with pytest.raises(ClientError, match="in memory"):
        client.call("delete_model", model_id=model["id"])
    client.call("unload_model", model_id=model["id"])
    wait_until(lambda: not any(row["pid"] for row in client.snapshot()["statuses"]))
    freed = client.call("delete_model", model_id=model["id"])["freed_bytes"]
    assert freed >= parts.SMOLLM2_SIZE_BYTES
    wait_until(lambda: client.snapshot()["models"] == [])
    assert client.snapshot()["settings"]["aliases"] == {}
    assert list((product.home / "models").iterdir()) == []


def test_a_model_behind_a_hub_is_found_looked_at_and_pulled(
    product: Product, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_server() as hub:
        hub.put("herders/SmolLM2-GGUF", {parts.SMOLLM2_FILE: smollm2, "README.md": b"# Small"})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        client = product.start()
        (found,) = client.call("search_models", query="smollm2")["models"]
        details = client.call("repo_details", repo=found["id"])
        (offer,) = details["offers"]
        assert (offer["quantization"], offer["recommended"]) == ("Q4_1", True)
        assert offer["badge"]["fits"] == "processor"
        assert client.call("model_card", repo=found["id"])["markdown"] == "# Small"

        done = pulled(client, offer["reference"])
        assert done["state"] == "done", done["error"]
        status, answer = product.chat()
        assert status == 200, answer
        (offer,) = client.call("repo_details", repo=found["id"])["offers"]
        (model,) = client.snapshot()["models"]
        assert offer["model_id"] == model["id"]
