"""What can be set about a model, carried out by a real llama-server; idle models leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.engine.test_engine_real import FIRST, SECOND, Product, product, status_of
from tests.unit.engine_kit import wait_until
from tray_app.client import Client, ClientError

__all__ = ["product"]


def set_up(client: Client, model_id: str, changes: Mapping[str, Any]) -> None:
    client.call("change_model_settings", model_id=model_id, changes=dict(changes))


def props(product: Product, model_id: str) -> dict[str, Any]:
    status, told = product.ask(f"/props?model={model_id}")
    assert status == 200
    assert isinstance(told, dict)
    return told


def test_a_llama_server_takes_everything_that_can_be_set(product: Product) -> None:
    client = product.start()
    wait_until(lambda: client.snapshot()["runtime"]["active"])
    set_up(
        client,
        FIRST,
        {
            "context_length": 1024,
            "kv_cache_type": "q8_0",
            "flash_attention": "on",
            "batch_size": 256,
            "ubatch_size": 128,
            "threads": 2,
            "parallel": 1,
            "temperature": 0.25,
            "top_p": 0.5,
            "top_k": 7,
            "min_p": 0.125,
            "repeat_penalty": 1.25,
            "max_tokens": 3,
            "reasoning": "off",
            "chat_template": "chatml",
            "draft_model": SECOND,
        },
    )
    status, answer = product.ask(
        "/v1/chat/completions",
        {"model": FIRST, "messages": [{"role": "user", "content": "Tell a long story."}]},
    )
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 3, "max_tokens holds"
    told = props(product, FIRST)["default_generation_settings"]
    assert told["n_ctx"] == 1024
    sampling = told["params"]
    assert (sampling["top_k"], sampling["temperature"]) == (7, 0.25)
    assert (sampling["top_p"], sampling["min_p"]) == (0.5, 0.125)
    assert sampling["repeat_penalty"] == 1.25
    row = status_of(client, FIRST)
    sizes = {model["id"]: model["size_bytes"] for model in client.snapshot()["models"]}
    assert row["memory_bytes"] > sizes[FIRST] + sizes[SECOND], "the draft model counts too"


def test_a_smaller_kv_cache_is_seen_by_the_fit(product: Product) -> None:
    client = product.start()
    held = {}
    for kind in ("f16", "q4_0"):
        set_up(
            client, FIRST, {"kv_cache_type": kind, "flash_attention": "on", "context_length": 8192}
        )
        client.call("load_model", model_id=FIRST)
        wait_until(lambda: status_of(client, FIRST)["state"] == "ready")
        held[kind] = status_of(client, FIRST)["memory_bytes"]
        client.call("unload_model", model_id=FIRST)
        wait_until(lambda: status_of(client, FIRST)["state"] == "unloaded")
    # 22,528 bytes a token at F16 and 8,192 tokens: 185 MB; Q4_0 takes 4.5 bits of 16.
    assert held["f16"] - held["q4_0"] > 100e6


def test_what_the_runtime_does_not_know_is_refused_and_nothing_is_changed(
    product: Product,
) -> None:
    client = product.start()
    wait_until(lambda: client.snapshot()["runtime"]["active"])
    for changes, said in (
        ({"threads": 2, "extra_args": ["--flash-atn", "on"]}, "--flash-atn, which"),
        ({"threads": 2, "draft_model": "nobody/nothing"}, "neither a model of the library"),
        ({"threads": 2, "draft_model": FIRST}, "is the model itself"),
        ({"threads": 2, "mmproj_path": "/nowhere/mmproj.gguf"}, "which is no file"),
    ):
        with pytest.raises(ClientError, match=said):
            set_up(client, FIRST, changes)
    assert client.call("model_settings", model_id=FIRST)["own"]["threads"] is None
    set_up(client, FIRST, {"extra_args": ["--flash-attn", "on", "--reverse-prompt", "-end"]})
    assert product.chat(FIRST)[0] == 200


def test_a_bad_word_in_the_overlay_disables_that_model_only(product: Product) -> None:
    overlay = product.home / "models.user.toml"
    overlay.write_text(f'["{FIRST}"]\nextra_args = ["--no-such-thing"]\n')
    client = product.start()
    status, answer = product.chat(FIRST)
    assert status == 400
    assert "--no-such-thing" in answer["error"]["message"]
    assert product.chat(SECOND)[0] == 200
    overlay.write_text("")
    assert product.chat(FIRST)[0] == 200
    assert client.snapshot()["settings"]["models"] == {}


def test_an_idle_model_leaves_memory_and_comes_back_for_a_request(product: Product) -> None:
    client = product.start()
    client.call("change_settings", changes={"server.idle_unload_s": 2})
    set_up(client, SECOND, {"idle_unload_s": 0})
    assert product.chat(FIRST)[0] == product.chat(SECOND)[0] == 200
    wait_until(lambda: status_of(client, FIRST)["state"] == "unloaded")
    assert status_of(client, FIRST)["pid"] is None
    assert status_of(client, SECOND)["state"] == "ready", "its own setting says never"
    assert product.chat(FIRST)[0] == 200


def test_who_only_looks_does_not_keep_a_model(product: Product) -> None:
    client = product.start()
    set_up(client, FIRST, {"idle_unload_s": 2})
    assert product.chat(FIRST)[0] == 200
    used_at = status_of(client, FIRST)["last_used_at"]
    assert props(product, FIRST)["total_slots"]
    assert status_of(client, FIRST)["last_used_at"] == used_at


def test_preloaded_models_are_there_and_a_rest_model_follows_the_last(product: Product) -> None:
    client = product.start()
    client.call("change_settings", changes={"server.preload": [FIRST]})
    client.call("shutdown")
    product.ended(product.started[-1])
    client = product.start()
    wait_until(lambda: status_of(client, FIRST)["state"] == "ready")
    client.call("change_settings", changes={"server.rest_model": SECOND, "server.idle_unload_s": 1})
    wait_until(lambda: status_of(client, SECOND)["state"] == "ready")
    assert status_of(client, FIRST)["state"] == "unloaded"


def test_how_models_fit_is_measured_before_anyone_loads_them(product: Product) -> None:
    client = product.start()
    set_up(client, FIRST, {"context_length": 8192})

    def memory(**changes: Any) -> dict[str, Any]:
        told = client.call("model_memory", model_id=FIRST, changes=changes)
        assert isinstance(told, dict)
        return told

    wait_until(lambda: client.snapshot()["runtime"]["active"])
    wait_until(lambda: memory()["measured"])
    measured = memory()
    assert status_of(client, FIRST)["state"] == "unloaded"
    parts = ("weights_bytes", "kv_cache_bytes", "compute_bytes", "beside_bytes")
    assert measured["total_bytes"] == sum(measured[part] for part in parts)
    client.call("load_model", model_id=FIRST)
    wait_until(lambda: status_of(client, FIRST)["state"] == "ready")
    assert status_of(client, FIRST)["memory_bytes"] == measured["total_bytes"]

    guessed = memory(kv_cache_type="q8_0", flash_attention="on", draft_model=SECOND)
    assert not guessed["measured"]
    assert 0.5 < guessed["kv_cache_bytes"] / measured["kv_cache_bytes"] < 0.57
    assert guessed["compute_bytes"] == measured["compute_bytes"]
    assert guessed["beside_bytes"] > 50e6
    # The guess of the KV cache is as good as the measurement, within a MiB or two of rounding.
    again = memory(context_length=4096)
    assert abs(again["kv_cache_bytes"] * 2 - measured["kv_cache_bytes"]) < 4e6
    with pytest.raises(ClientError, match="context_length is 1;"):
        memory(context_length=1)
