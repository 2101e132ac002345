"""`/metrics` of a real engine with real models, read as Prometheus reads it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.test_engine_real import FIRST, SECOND, Product, product, status_of
from tests.unit.engine_kit import wait_until
from tray_app.client import Client

__all__ = ["product"]

OWN = "llama_wrangler_"


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(product: Product) -> Samples:
    """Every sample by name and labels; the parser raises for what it cannot read."""
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    finally:
        connection.close()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
    assert len(found) == len(samples)
    return found


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@contextmanager
def halted(pid: int) -> Iterator[None]:
    """A child that lives and answers nobody."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def loaded(client: Client, model_id: str) -> None:
    client.call("load_model", model_id=model_id)
    wait_until(lambda: status_of(client, model_id)["state"] == "ready", 30)


def test_our_figures_and_those_of_every_child_are_told(product: Product) -> None:
    client = product.start()
    loaded(client, FIRST)
    loaded(client, SECOND)
    answered = [product.chat(FIRST, 5)[1]["usage"] for _ in range(2)]
    wait_until(lambda: client.snapshot()["gateway"]["requests_total"] == 2)
    samples = scrape(product)
    assert of(samples, OWN + "requests_total", model=FIRST, status="2xx") == 2
    generated = sum(usage["completion_tokens"] for usage in answered)
    assert of(samples, OWN + "generated_tokens_total", model=FIRST) == generated
    prompt = sum(usage["prompt_tokens"] for usage in answered)
    assert of(samples, OWN + "prompt_tokens_total", model=FIRST) == prompt
    assert of(samples, OWN + "request_duration_seconds_count", model=FIRST) == 2
    assert of(samples, OWN + "time_to_first_token_seconds_count", model=FIRST) == 2
    assert of(samples, OWN + "model_state", model=SECOND, state="ready") == 1
    assert of(samples, OWN + "model_loads_total", model=SECOND) == 1
    assert of(samples, OWN + "model_memory_bytes", model=SECOND) > 50_000_000
    assert of(samples, OWN + "memory_held_bytes") > 100_000_000
    # The children's own: what llama-server counted, with the model's label.
    assert of(samples, "llamacpp:tokens_predicted_total", model=FIRST) == generated
    assert of(samples, "llamacpp:tokens_predicted_total", model=SECOND) == 0
    assert of(samples, OWN + "scrape_error", model=FIRST) == 0


def test_looking_uses_no_model_and_loads_none(product: Product) -> None:
    client = product.start()
    scrape(product)
    assert client.snapshot()["statuses"] == []
    loaded(client, FIRST)
    before = status_of(client, FIRST)
    for _ in range(3):
        scrape(product)
    assert status_of(client, FIRST) == before
    assert before["last_used_at"] is None
    assert client.snapshot()["gateway"]["requests_total"] == 0


def test_a_child_that_does_not_answer_is_left_out_and_holds_nobody_up(product: Product) -> None:
    client = product.start()
    loaded(client, FIRST)
    loaded(client, SECOND)
    with halted(status_of(client, FIRST)["pid"]):
        began = time.monotonic()
        samples = scrape(product)
        took_s = time.monotonic() - began
    assert 0.9 < took_s < 3
    assert of(samples, OWN + "scrape_error", model=FIRST) == 1
    assert of(samples, OWN + "scrape_error", model=SECOND) == 0
    children = {dict(labels)["model"] for name, labels in samples if name.startswith("llamacpp:")}
    assert children == {SECOND}
    assert product.chat(FIRST)[0] == 200


def test_use_is_told_by_model_with_speeds(product: Product) -> None:
    client = product.start()
    loaded(client, FIRST)
    for _ in range(3):
        assert product.chat(FIRST, 6)[0] == 200
    wait_until(lambda: client.snapshot()["gateway"]["requests_total"] == 3)
    (row,) = client.call("request_history", limit=1)
    assert row["cached_tokens"] == row["prompt_tokens"] - 1  # asked before, all but one token
    assert row["prompt_tokens_per_s"] > 1
    assert 0 < row["first_token_s"] < row["duration_s"]  # not when the whole answer came
    found = client.call("usage", days=1)
    (model,) = found["models"]
    assert (model["model_id"], model["requests"], model["failed"]) == (FIRST, 3, 0)
    assert model["tokens_per_s"] > 1
    assert model["prompt_tokens_per_s"] > 1
    assert model["first_token_median_s"] <= model["first_token_p95_s"]
    assert sum(bucket["requests"] for bucket in model["buckets"]) == 3
    assert client.call("usage", model_id=SECOND, days=7)["models"] == []


def test_slots_tell_what_a_model_holds_and_do_not_use_it(product: Product) -> None:
    client = product.start()
    assert client.call("slots", model_id=FIRST) == []
    loaded(client, FIRST)
    assert product.chat(FIRST, 6)[0] == 200
    before = status_of(client, FIRST)
    slots = client.call("slots", model_id=FIRST)
    assert {slot["context_length"] for slot in slots} == {before["context_length"]}
    assert not any(slot["busy"] for slot in slots)
    assert sum(slot["context_used"] > 10 for slot in slots) == 1
    assert all(set(slot) == {"id", "busy", "context_length", "context_used"} for slot in slots)
    with halted(before["pid"]):
        assert client.call("slots", model_id=FIRST) == []
    assert status_of(client, FIRST) == before


def test_the_status_line_says_the_last_speed_while_it_answers(product: Product) -> None:
    client = product.start()
    client.call("switch_model", model_id=FIRST)
    wait_until(lambda: status_of(client, FIRST)["state"] == "ready", 30)
    assert product.chat("default", 6)[0] == 200
    wait_until(lambda: client.snapshot()["gateway"]["requests_total"] == 1)
    asked = {"model": "default", "stream": True, "max_tokens": 2000, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
    try:
        body = json.dumps({**asked, "prompt": "A llama is"})
        connection.request("POST", "/v1/completions", body)
        connection.getresponse()
        said = client.snapshot()["status_text"]
    finally:
        connection.close()
    assert re.search(r": answering 1 request, lately \d+(\.\d)? tokens/s$", said), said
