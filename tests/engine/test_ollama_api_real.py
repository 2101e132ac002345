"""Programs made for Ollama on our port: the official `ollama` client, a real engine and model."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from tests.engine.test_engine_real import FIRST, SECOND, Product, product, status_of
from tests.unit.engine_kit import wait_until
from tray_app.client import Client

__all__ = ["product"]

HELLO = [{"role": "user", "content": "Say hello."}]
SHORT: dict[str, Any] = {"num_predict": 8, "temperature": 0, "seed": 1}


@pytest.fixture
def engine(product: Product) -> Client:
    client = product.start()
    client.call("change_settings", changes={"aliases": {"llama3": FIRST}})
    client.call("switch_model", model_id=FIRST)
    return client


@pytest.fixture
def asks(product: Product, engine: Client) -> Iterator[ollama.Client]:
    with ollama.Client(f"http://127.0.0.1:{product.port}") as client:
        yield client


def test_a_chat_is_answered_whole_and_in_pieces(asks: ollama.Client) -> None:
    whole = asks.chat(FIRST, HELLO, options=SHORT)
    assert whole.message.role == "assistant"
    assert whole.message.content
    assert whole.done is True
    assert whole.done_reason in ("stop", "length")
    assert whole.model == FIRST
    assert whole.eval_count is not None
    assert 0 < whole.eval_count <= 8
    assert whole.prompt_eval_count is not None
    assert whole.prompt_eval_count > 3
    for nanoseconds in (whole.total_duration, whole.eval_duration, whole.load_duration):
        assert nanoseconds is not None
    assert whole.total_duration is not None
    assert whole.eval_duration is not None
    assert 1e6 < whole.eval_duration < whole.total_duration < 60e9
    pieces = list(asks.chat(FIRST, HELLO, options=SHORT, stream=True))
    assert len(pieces) > 3
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert [piece.done for piece in pieces].count(True) == 1
    assert pieces[-1].done
    assert pieces[-1].eval_count == whole.eval_count
    assert pieces[-1].done_reason == whole.done_reason


def test_a_prompt_is_completed_with_and_without_the_template(asks: ollama.Client) -> None:
    asked = asks.generate(FIRST, "Say hello.", system="Be brief.", options=SHORT)
    assert asked.response
    assert asked.done_reason in ("stop", "length")
    raw = asks.generate(FIRST, "One, two, three,", raw=True, options=SHORT)
    assert "four" in raw.response
    assert raw.done_reason == "length"
    assert raw.eval_count == 8
    pieces = list(asks.generate(FIRST, "One, two, three,", raw=True, options=SHORT, stream=True))
    assert "".join(piece.response for piece in pieces) == raw.response
    assert pieces[-1].eval_count == 8


def test_a_format_holds_the_answer_to_its_schema(asks: ollama.Client) -> None:
    form = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "n": {"type": "integer"}},
        "required": ["colour", "n"],
    }
    options = SHORT | {"num_predict": 60}
    told = asks.chat(FIRST, HELLO, format=form, options=options)
    assert set(json.loads(told.message.content or "")) == {"colour", "n"}
    raw = asks.generate(FIRST, "Data:", raw=True, format=form, options=options)
    assert '"colour"' in raw.response


def test_lists_tell_the_library_and_what_is_in_memory(asks: ollama.Client, engine: Client) -> None:
    names = {row.model: row for row in asks.list().models}
    assert {FIRST, SECOND, "default:latest", "llama3:latest"} <= names.keys()
    details = names[SECOND].details
    assert details is not None
    assert details.quantization_level == "Q2_K"
    assert details.format == "gguf"
    size = names[FIRST].size
    assert size is not None
    assert size > 90_000_000
    asks.chat("llama3:latest", HELLO, options=SHORT)
    (row,) = asks.ps().models
    assert row.model == FIRST
    assert row.context_length == 512
    assert row.size_vram == 0
    assert row.expires_at is not None


def test_show_tells_what_the_model_is_able_to_do(asks: ollama.Client, engine: Client) -> None:
    changes = {"temperature": 0.5, "top_k": 30}
    engine.call("change_model_settings", model_id=FIRST, changes=changes)
    told = asks.show(FIRST)
    assert told.capabilities is not None
    assert told.capabilities[0] == "completion"
    assert told.template is not None
    assert "<|im_start|>" in told.template
    assert "\n" in told.template or "{%" in told.template
    assert told.modelinfo is not None
    assert told.modelinfo["general.architecture"] == "llama"
    assert told.modelinfo["llama.context_length"] > 512
    assert told.modelinfo["general.parameter_count"] > 100_000_000
    assert told.parameters == "temperature 0.5\ntop_k 30"


def test_the_names_of_its_lists_work_on_the_openai_side_too(
    asks: ollama.Client, product: Product
) -> None:
    """Copilot in VS Code lists by Ollama's API and asks by OpenAI's."""
    for row in asks.list().models:
        assert product.chat(str(row.model))[0] == 200, row.model


def test_keep_alive_of_zero_lets_the_model_leave_and_an_empty_question_loads_it(
    asks: ollama.Client, engine: Client
) -> None:
    loaded = asks.generate(SECOND)
    assert loaded.done_reason == "load"
    assert status_of(engine, SECOND)["state"] == "ready"
    asks.chat(SECOND, HELLO, options=SHORT, keep_alive=0)
    wait_until(lambda: status_of(engine, SECOND)["state"] == "unloaded")
    asks.chat(SECOND, [])
    assert status_of(engine, SECOND)["state"] == "ready"
    assert asks.generate(SECOND, keep_alive=0).done_reason == "unload"
    wait_until(lambda: status_of(engine, SECOND)["state"] == "unloaded")


def test_what_goes_wrong_is_told_as_ollama_tells_it(asks: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as unknown:
        asks.chat("nobody:7b", HELLO)
    assert unknown.value.status_code == 404
    assert "nobody:7b" in unknown.value.error
    with pytest.raises(ollama.ResponseError) as streamed:
        list(asks.generate("nobody:7b", "x", stream=True))
    assert streamed.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as too_long:
        asks.chat(FIRST, [{"role": "user", "content": "word " * 3000}])
    assert too_long.value.status_code == 400
    assert "context" in too_long.value.error
    for change in (asks.delete, asks.push):
        with pytest.raises(ollama.ResponseError) as refused:
            change(FIRST)
        assert refused.value.status_code == 501
    assert asks.pull(FIRST).status == "success"
    with pytest.raises(ollama.ResponseError, match="no model"):
        asks.pull("qwen3:4b")
    with pytest.raises(ollama.ResponseError, match="template"):
        asks.generate(FIRST, "x", template="{{ .Prompt }}")


def test_a_key_is_taken_and_asked_for(product: Product, engine: Client) -> None:
    key = engine.call("create_api_key", name="ollama")["new_key"]["key"]
    address = f"http://127.0.0.1:{product.port}"
    with ollama.Client(address) as without, pytest.raises(ollama.ResponseError) as refused:
        without.list()
    assert refused.value.status_code == 401
    with ollama.Client(address, headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.chat(FIRST, HELLO, options=SHORT).message.content


def test_the_asynchronous_client_streams_and_may_hang_up(product: Product, engine: Client) -> None:
    async def ask() -> int:
        client = ollama.AsyncClient(f"http://127.0.0.1:{product.port}")
        seen = 0
        stream = await client.chat(FIRST, HELLO, stream=True, options={"num_predict": 300})
        async for _ in stream:
            seen += 1
            if seen == 3:
                break
        await stream.aclose()
        await client.close()
        return seen

    assert asyncio.run(ask()) == 3
    wait_until(lambda: status_of(engine, FIRST)["in_flight"] == 0)


def test_probes_find_ollama_and_browsers_find_llama_server(
    product: Product, engine: Client
) -> None:
    product.chat(FIRST)
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
    for method, said in (("GET", b"Ollama is running"), ("HEAD", b"")):
        connection.request(method, "/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, said)
    connection.request("GET", "/api/version")
    version = json.loads(connection.getresponse().read())["version"]
    assert all(part.isdecimal() for part in version.split("."))
    connection.request("GET", "/", headers={"Accept": "text/html"})
    response = connection.getresponse()  # llama-server's own, where it was built with a page
    assert response.getheader("X-Llama-Wrangler-Model") == FIRST
    assert b"Ollama" not in response.read()
    connection.close()
