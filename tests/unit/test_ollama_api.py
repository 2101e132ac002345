"""Ollama's requests and llama-server's answers, translated: what a small real model cannot show."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_kit import SSE_HEAD, Got, Handler, Seen, as_chunk, request, rig, run, until
from tray_app import ollama_models, ollama_requests
from tray_app.engine.errors import BadRequest, ErrorView, ModelFailed, QueueFull
from tray_app.engine.values import (
    Model,
    ModelDetails,
    ModelKind,
    ModelState,
    ModelStatus,
    Offload,
    Running,
)
from tray_app.ollama_answers import ChatTeller, Events, Times, object_in

TIMES = Times(lambda: 2.0, lambda: 0.5)


def model(name: str = "org/Some-GGUF:Q4_K_M", **changes: Any) -> Model:
    values: dict[str, Any] = {
        "id": name,
        "name": "Some",
        "publisher": "org",
        "path": Path("/m/some.gguf"),
        "folder": Path("/m"),
        "size_bytes": 1000,
        "shard_count": 1,
        "modified_at": 1.0,
        "architecture": "qwen3",
        "quantization": "Q4_K_M",
        "kind": ModelKind.CHAT,
    }
    return Model(**(values | changes))


# --- requests


def test_options_go_by_the_names_that_llama_server_reads() -> None:
    options = {"temperature": 0.1, "num_predict": 5, "num_keep": 3, "num_ctx": 9, "stop": ["a"]}
    asked = ollama_requests.chat(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "options": options}
    )
    assert asked.stream
    assert asked.body == {
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.1,
        "max_tokens": 5,
        "n_keep": 3,
        "stop": ["a"],
        "messages": [{"role": "user", "content": "x"}],
    }


@pytest.mark.parametrize("tokens", [-1, -2])
def test_without_a_limit_the_model_ends_its_answer(tokens: int) -> None:
    asked = ollama_requests.generate(
        {"model": "m", "prompt": "x", "raw": True, "options": {"num_predict": tokens}}
    )
    assert "n_predict" not in asked.body


def test_a_gap_is_filled_between_prompt_and_suffix() -> None:
    asked = ollama_requests.generate(
        {"prompt": "def f(", "suffix": "return 1", "options": {"num_predict": 9}}
    )
    assert asked.path == b"/infill"
    assert asked.body["input_prefix"] == "def f("
    assert asked.body["input_suffix"] == "return 1"
    assert asked.body["n_predict"] == 9


def test_pictures_become_parts_of_their_kind() -> None:
    body = {"messages": [{"role": "user", "content": "See", "images": ["/9j/AA", "iVBORx", "zz"]}]}
    (message,) = ollama_requests.chat(body).body["messages"]
    assert message["content"][0] == {"type": "text", "text": "See"}
    urls = [part["image_url"]["url"] for part in message["content"][1:]]
    assert urls == [
        "data:image/jpeg;base64,/9j/AA",
        "data:image/png;base64,iVBORx",
        "data:image/png;base64,zz",
    ]


def test_tools_answer_the_calls_they_belong_to() -> None:
    calls = [
        {"function": {"name": "time", "arguments": {"zone": "UTC"}}},
        {"function": {"name": "weather", "arguments": {}}},
    ]
    body = {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "tool_calls": calls, "thinking": "hm"},
            {"role": "tool", "tool_name": "weather", "content": "rain"},
            {"role": "tool", "content": "noon"},
        ],
        "tools": [{"type": "function", "function": {"name": "time"}}],
    }
    asked = ollama_requests.chat(body).body
    assert asked["tools"] == body["tools"]
    _, called, weather, time = asked["messages"]
    assert called["reasoning_content"] == "hm"
    first, second = called["tool_calls"]
    assert json.loads(first["function"]["arguments"]) == {"zone": "UTC"}
    assert weather["tool_call_id"] == second["id"]
    assert time["tool_call_id"] == first["id"]


@pytest.mark.parametrize(
    ("think", "kwargs"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_thinking_is_a_word_of_the_template(think: Any, kwargs: dict[str, Any]) -> None:
    asked = ollama_requests.generate({"prompt": "x", "think": think})
    assert asked.body["chat_template_kwargs"] == kwargs


@pytest.mark.parametrize(
    ("wish", "leaves"),
    [
        *((wish, True) for wish in (0, "0", "0s", "0m", 0.0)),
        *((wish, False) for wish in ("5m", -1, None, "", False, "-1m", [])),
    ],
)
def test_only_a_keep_alive_of_zero_lets_the_model_leave(wish: Any, leaves: bool) -> None:
    assert ollama_requests.leaves_at_once({"keep_alive": wish}) is leaves


@pytest.mark.parametrize(
    ("translate", "body"),
    [
        (ollama_requests.chat, {"messages": "hello"}),
        (ollama_requests.chat, {"messages": ["hello"]}),
        (ollama_requests.chat, {"messages": [{"content": "x", "images": [1]}]}),
        (ollama_requests.chat, {"messages": [{"content": "x"}], "options": [1]}),
        (ollama_requests.chat, {"messages": [{"tool_calls": [{"function": {}}]}]}),
        (ollama_requests.generate, {"prompt": 7}),
        (ollama_requests.generate, {"prompt": "x", "template": "{{ . }}"}),
        (ollama_requests.embed, {"input": [1, 2]}),
        (ollama_requests.model_in, {"model": 3}),
        (ollama_requests.model_in, {}),
    ],
)
def test_what_is_no_request_is_refused_in_words(translate: Any, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        translate(body)
    assert refused.value.message
    assert refused.value.remedy


# --- answers


def delta(index: int = 0, **call: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"tool_calls": [{"index": index, "function": call}]}}]}


def test_tool_calls_in_pieces_are_told_once_and_whole() -> None:
    teller = ChatTeller("m", TIMES, flat=False)
    events = [
        {"choices": [{"delta": {"reasoning_content": "Let me"}}]},
        delta(name="time", arguments=""),
        delta(arguments='{"zone":'),
        delta(1, name="day", arguments="{}"),
        delta(arguments='"UTC"}'),
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
    ]
    rows = [row for event in events for row in teller.event(event)]
    assert rows[0]["message"] == {"role": "assistant", "content": "", "thinking": "Let me"}
    assert rows[1]["message"]["tool_calls"] == [
        {"function": {"name": "time", "arguments": {"zone": "UTC"}}},
        {"function": {"name": "day", "arguments": {}}},
    ]
    assert len(rows) == 2
    last = teller.last()
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert (last["prompt_eval_count"], last["eval_count"]) == (9, 4)
    assert (last["total_duration"], last["load_duration"]) == (2_000_000_000, 500_000_000)


def test_arguments_that_are_no_object_are_not_lost() -> None:
    call = {"function": {"name": "f", "arguments": "[1, 2"}}
    answer = {"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "length"}]}
    told = ChatTeller("m", TIMES, flat=False).whole(answer)
    arguments = told["message"]["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"arguments": "[1, 2"}
    assert told["done_reason"] == "length"


def test_log_probabilities_are_handed_on() -> None:
    content = [{"token": "a", "logprob": -0.1, "top_logprobs": []}]
    answer = {"choices": [{"message": {"content": "a"}, "logprobs": {"content": content}}]}
    assert ChatTeller("m", TIMES, flat=True).whole(answer)["logprobs"] == content


def test_events_are_found_however_they_are_cut() -> None:
    text = (
        b': loading\n\ndata: {"a": "\xc3\xa9"}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\ndata: [1]\n\n'
    )
    for size in (1, 2, 3, 7, len(text)):
        events = Events()
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        found = [event for piece in pieces for event in events.feed(piece)]
        assert found == [{"a": "é"}, {"b": 2}]


def test_deep_nesting_is_no_object() -> None:
    assert object_in(b"[" * 100_000) is None
    assert object_in(b'{"a":' * 100_000) is None


# --- the library


def test_lists_name_each_model_with_a_tag() -> None:
    rows = [{"id": "default", "stands_for": "solo"}, {"id": "solo"}, {"id": "gone"}]
    told = ollama_models.tags(rows, [model("solo")])["models"]
    assert [row["name"] for row in told] == ["default:latest", "solo:latest"]
    assert told[0]["digest"] == told[1]["digest"]
    assert len(told[0]["digest"]) == 64


def test_memory_on_the_gpu_is_told_by_layers() -> None:
    status = ModelStatus(
        "m", ModelState.READY, memory_bytes=3000, offload=Offload(None, actual=10, total=30)
    )
    told = ollama_models.running([Running(model(), status, None)], now=0.0)["models"][0]
    assert (told["size"], told["size_vram"]) == (3000, 1000)
    assert told["expires_at"].startswith("2261")


def test_what_a_model_is_able_to_do_is_in_its_template_and_header() -> None:
    template = "{% if tools %}...{% endif %}{% if enable_thinking %}{% endif %}"
    header = {"tokenizer.ggml.fim_pre_token_id": 3, "x.scale": math.nan, "x.list": (1,) * 100}
    found = ModelDetails(model(mmproj_path=Path("/p")), header, template, {"top_k": 4})
    told = ollama_models.shown(found)
    assert told["capabilities"] == ["completion", "tools", "thinking", "vision", "insert"]
    assert told["model_info"] == {"tokenizer.ggml.fim_pre_token_id": 3}
    assert told["parameters"] == "top_k 4"
    assert "/m" not in json.dumps(told)


# --- faults, through a gateway in front of a child that misbehaves

PIECE = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
KILLED = ErrorView("model_failed", "llama-server was killed.", "It is started again.")
ASKED = {"model": "org/active:Q4", "messages": [{"role": "user", "content": "x"}]}


def writes(*parts: bytes) -> Handler:
    """A child that writes this and closes."""

    async def handler(seen: Seen, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return handler


def ask(handler: Handler, *, stream: bool, then: ErrorView | None = None) -> Got:
    """The answer to one chat in front of such a child; `then` is why it died."""
    got: list[Got] = []

    async def test() -> None:
        async with rig(handler) as r:
            client = await r.client()
            body = json.dumps(ASKED | {"stream": stream}).encode()
            client.send(request("POST", "/api/chat", body))
            if then is not None:
                await until(lambda: bool(r.backend.leases))
                r.backend.leases[-1].died.set_result(then)
            got.append(await client.answer())
            await until(lambda: len(r.backend.records) == 1)
            assert r.backend.records[0].path == "/api/chat"

    run(test())
    return got[0]


def lines(got: Got) -> list[dict[str, Any]]:
    return [json.loads(line) for line in got.body.splitlines()]


def test_a_child_that_dies_in_a_stream_ends_it_with_a_line_that_says_why() -> None:
    got = ask(writes(SSE_HEAD, as_chunk(PIECE)), stream=True, then=KILLED)
    first, last = lines(got)
    assert got.complete
    assert got.headers["content-type"] == "application/x-ndjson"
    assert first["message"]["content"] == "hi"
    assert last == {"error": "llama-server was killed. It is started again."}


@pytest.mark.parametrize("stream", [True, False])
def test_a_child_that_dies_before_it_said_anything_is_a_502(stream: bool) -> None:
    got = ask(writes(SSE_HEAD[:20]), stream=stream, then=KILLED)
    assert got.status == 502
    assert got.json == {"error": "llama-server was killed. It is started again."}


def test_an_answer_that_is_cut_off_is_an_error_and_no_short_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    got = ask(writes(head, b'{"choices": ['), stream=False)
    assert got.status == 502
    assert "try again" in got.json["error"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_of_llama_server_keeps_its_status(stream: bool) -> None:
    said = b'{"error":{"code":400,"message":"the context is too small","type":"x"}}'
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
    got = ask(writes(head, b"Content-Length: %d\r\n\r\n" % len(said), said), stream=stream)
    assert (got.status, got.json) == (400, {"error": "the context is too small"})


def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tray_app.ollama.MOST_BYTES", 1000)
    endless = as_chunk(b"data: " + b"x" * 3000)
    got = ask(writes(SSE_HEAD, endless, b"0\r\n\r\n"), stream=True)
    assert got.status == 502
    assert "no end" in got.json["error"]


def test_waiting_is_silent_and_a_failure_after_it_still_has_its_status() -> None:
    async def test() -> None:
        async with rig(writes(), silent_s=0.01, keepalive_s=0.01) as r:
            r.backend.ready.clear()
            r.backend.error = ModelFailed("The model's file is damaged.", "Download it again.")
            client = await r.client()
            client.send(request("POST", "/api/chat", json.dumps(ASKED).encode()))
            await until(lambda: r.backend.waiting == 1)
            await asyncio.sleep(0.1)  # comments would have gone out by now
            r.backend.ready.set()
            got = await client.answer()
            assert got.json == {"error": "The model's file is damaged. Download it again."}
            assert got.status == 502

    run(test())


def test_a_full_queue_is_told_with_its_retry_and_a_bad_body_with_its_reason() -> None:
    async def test() -> None:
        async with rig() as r:
            r.backend.error = QueueFull("Too many wait.", "Try again.")
            got = await r.ask("POST", "/api/chat", json.dumps(ASKED).encode())
            assert (got.status, got.headers["retry-after"]) == (429, "1")
            got = await r.ask("POST", "/api/chat", json.dumps({"model": "org/active:Q4"}).encode())
            assert got.status == 429, "an empty question loads the model, which waits too"
            for body in (b"", b"[1]", b"{", b"\xff", b"{}"):
                got = await r.ask("POST", "/api/generate", body)
                assert got.status == 400
                assert isinstance(got.json["error"], str)
            got = await r.ask("GET", "/api/chat")
            assert got.status == 405
            got = await r.ask("GET", "/api/me")
            assert got.status == 404
            got = await r.ask("HEAD", "/api/tags")
            assert (got.status, got.body) == (200, b"")

    run(test())


def test_a_model_leaves_after_its_answer_and_not_before() -> None:
    async def test() -> None:
        async with rig(writes(SSE_HEAD, as_chunk(PIECE), b"0\r\n\r\n")) as r:
            body = json.dumps(ASKED | {"keep_alive": 0, "model": "org/active:Q4"}).encode()
            got = await r.ask("POST", "/api/chat", body)
            assert lines(got)[-1]["done"] is True
            assert lines(got)[-1]["model"] == "org/active:Q4"
            assert r.backend.retired == ["org/active:Q4"]
            assert r.upstream.seen[0].target == "/v1/chat/completions"
            assert json.loads(r.upstream.seen[0].body)["model"] == "org/active:Q4"

    run(test())
