"""A conversation outlives a switch: its prompt is not read twice, by a real llama-server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_engine_real import FIRST, SECOND, Product, product, status_of
from tests.unit.engine_kit import wait_until
from tray_app.client import Client

__all__ = ["product"]

STORY = " ".join(
    f"On day {day} the herd crossed the river {day * 7 % 31} times." for day in range(110)
)


@pytest.fixture
def client(product: Product) -> Client:
    client = product.start()
    changes = {"context_length": 4096, "max_tokens": 4, "temperature": 0}
    client.call("change_model_settings", model_id=FIRST, changes=changes)
    return client


def tell(product: Product, model: str = FIRST) -> dict[str, Any]:
    """The story told to a model: what reading it cost, and what it answered."""
    asked = [{"role": "user", "content": STORY}]
    body = {"model": model, "messages": asked, "max_tokens": 4, "temperature": 0}
    status, answer = product.ask("/v1/chat/completions", body)
    assert status == 200, answer
    timings = answer["timings"]
    return {
        "read": timings["prompt_n"],
        "prompt_s": timings["prompt_ms"] / 1000,
        "text": answer["choices"][0]["message"]["content"],
    }


def leave(client: Client, model_id: str = FIRST) -> None:
    client.call("unload_model", model_id=model_id)
    wait_until(lambda: status_of(client, model_id)["state"] == "unloaded")


def kept(product: Product) -> list[Path]:
    return sorted((product.home / "conversations").glob("*"))


def test_after_two_switches_the_prompt_is_not_read_again(product: Product, client: Client) -> None:
    first = tell(product)
    assert first["read"] > 1500
    needed = status_of(client, FIRST)["memory_bytes"]
    client.call("change_settings", changes={"server.memory_budget_bytes": needed + (1 << 20)})
    assert product.chat(SECOND)[0] == 200
    assert status_of(client, FIRST)["state"] == "unloaded", "only one fits"
    again = tell(product)
    assert again["read"] <= 2
    assert again["prompt_s"] < 0.03 * first["prompt_s"] + 0.05
    assert again["text"] == first["text"]


def test_a_conversation_in_memory_outlives_the_end_of_the_engine(
    product: Product, client: Client
) -> None:
    tell(product)
    assert not kept(product)
    client.call("shutdown")
    product.ended(product.started[-1])
    assert len(kept(product)) == 1
    product.start()
    assert tell(product)["read"] <= 2


def test_it_outlives_the_engine_and_is_for_this_user_alone(
    product: Product, client: Client
) -> None:
    tell(product)
    leave(client)
    (file,) = kept(product)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    client.call("shutdown")
    product.ended(product.started[-1])
    half_written = file.with_suffix(".part")
    half_written.write_bytes(b"half")
    product.start()
    assert not half_written.exists()
    assert tell(product)["read"] <= 2


def test_other_settings_mean_another_kv_cache(product: Product, client: Client) -> None:
    tell(product)
    leave(client)
    before = kept(product)
    changes = {"kv_cache_type": "q8_0", "flash_attention": "on"}
    client.call("change_model_settings", model_id=FIRST, changes=changes)
    assert tell(product)["read"] > 1500
    leave(client)
    assert len(kept(product)) == 1, "what no longer fits the settings is gone"
    assert kept(product) != before


def test_a_damaged_file_costs_the_prompt_and_nothing_else(product: Product, client: Client) -> None:
    first = tell(product)
    leave(client)
    (file,) = kept(product)
    file.write_bytes(file.read_bytes()[:5000])
    again = tell(product)
    assert again["read"] > 1500
    assert again["text"] == first["text"]
    assert kept(product) == []


def test_nothing_is_kept_where_that_is_switched_off_or_forgotten(
    product: Product, client: Client
) -> None:
    tell(product)
    leave(client)
    assert client.call("forget_conversations") > 1_000_000
    assert kept(product) == []
    client.call("change_settings", changes={"server.keep_conversations": False})
    tell(product)
    leave(client)
    assert kept(product) == []


def test_what_is_beyond_the_bound_is_not_written(product: Product, client: Client) -> None:
    client.call("change_settings", changes={"server.conversations_bytes": 1000})
    tell(product)
    leave(client)
    assert kept(product) == []


def test_short_conversations_are_not_worth_a_file(product: Product, client: Client) -> None:
    assert product.chat(FIRST)[0] == 200
    leave(client)
    assert kept(product) == []
