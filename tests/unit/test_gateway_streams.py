"""What passes through the gateway byte for byte, and what happens when either side goes away."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.gateway_kit import (
    SSE_HEAD,
    Handler,
    Seen,
    as_chunk,
    chat,
    request,
    rig,
    run,
    until,
)
from tray_app.engine.errors import ErrorView, ModelFailed, NotEnoughMemory
from tray_app.engine.values import ModelState

EVENTS = [b'data: {"n": %d}\n\n' % n for n in range(50)] + [b"data: [DONE]\n\n"]
KILLED = ErrorView("model_failed", "llama-server was killed by signal 9.", "It is started again.")
TIMINGS = (
    b'data: {"choices":[],"usage":{"completion_tokens":7,"prompt_tokens":5,"total_tokens":12,'
    b'"prompt_tokens_details":{"cached_tokens":1}},"timings":{"cache_n":1,"prompt_n":4,'
    b'"prompt_ms":10.5,"predicted_n":7,"predicted_ms":70.0,"predicted_per_second":100.25}}\n\n'
)


async def stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(SSE_HEAD)
    for event in EVENTS:
        writer.write(as_chunk(event))
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")


def after(head: bytes, *parts: bytes, then: ErrorView | None = None) -> Handler:
    """A child that writes this and closes."""

    async def handler(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for part in parts:
            writer.write(part)
            await writer.drain()

    return handler


def test_a_stream_arrives_byte_for_byte() -> None:
    async def test() -> None:
        async with rig(stream) as r:
            client = await r.client()
            client.send(chat(stream=True))
            head = await client.head()
            assert head.headers["content-type"] == "text/event-stream"
            assert "access-control-allow-origin" not in head.headers
            raw = await client.reader.readexactly(sum(len(as_chunk(e)) for e in EVENTS) + 5)
            assert raw == b"".join(as_chunk(e) for e in EVENTS) + b"0\r\n\r\n"
            client.send(request("GET", "/health"))
            assert (await client.answer()).status == 200

    run(test())


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_every_framing_of_the_child_reaches_every_client(
    size: int, framing: str, version: str
) -> None:
    body = bytes(n % 251 for n in range(size))
    head = b"HTTP/1.1 201 Created\r\nContent-Type: a/b\r\nX-Own: 1\r\n"
    if framing == "length":
        parts = [head + b"Content-Length: %d\r\n\r\n" % size, body]
    elif framing == "close":
        parts = [head + b"\r\n", body]
    else:
        pieces = [as_chunk(body[n : n + 70_000]) for n in range(0, size, 70_000)]
        parts = [head + b"Transfer-Encoding: chunked\r\n\r\n", *pieces, b"0\r\n\r\n"]

    async def test() -> None:
        async with rig(after(*parts)) as r:
            client = await r.client()
            asked = request("POST", "/x", b"{}")
            client.send(asked.replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
            got = await client.answer()
            assert (got.status, got.complete) == (201, True)
            assert got.body == body
            assert (got.headers["content-type"], got.headers["x-own"]) == ("a/b", "1")
            if version == "1.0":
                assert await client.closed()
                assert "transfer-encoding" not in got.headers
            else:
                client.send(request("GET", "/health"))
                assert (await client.answer()).status == 200

    run(test())


def test_head_and_204_have_no_body() -> None:
    async def handler(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "HEAD":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def test() -> None:
        async with rig(handler) as r:
            client = await r.client()
            client.send(request("HEAD", "/props"))
            assert (await client.answer("HEAD")).headers["content-length"] == "50"
            client.send(request("GET", "/props"))
            assert (await client.answer()).status == 204
            client.send(request("GET", "/health"))
            assert (await client.answer()).status == 200

    run(test())


def test_an_interim_answer_and_a_head_in_pieces_are_understood() -> None:
    pieces = [b"HTTP/1.1 100 Continue\r\n", b"\r\nHTTP/1.1 200 O", b"K\r\nContent-Le"]
    pieces += [b"ngth: 2\r\n\r", b"\nok"]

    async def handler(seen: Seen, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    async def test() -> None:
        async with rig(handler) as r:
            assert (await r.ask("GET", "/props")).body == b"ok"

    run(test())


def test_a_large_request_body_reaches_the_child_whole() -> None:
    async def test() -> None:
        async with rig() as r:
            body = b'{"picture": "' + b"ab" * 4_000_000 + b'", "model": "org/other:Q8"}'
            got = await r.ask("POST", "/v1/chat/completions", body)
            assert got.status == 200
            assert r.upstream.seen[0].body == body
            assert r.backend.asked == ["org/other:Q8"]

    run(test())


# --- waiting ------------------------------------------------------------------------------


def test_a_waiting_stream_hears_comments_and_then_its_answer() -> None:
    async def test() -> None:
        async with rig(stream, silent_s=0.01, keepalive_s=0.01) as r:
            r.backend.ready.clear()
            client = await r.client()
            client.send(chat(stream=True))
            head = await client.head()
            assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
            assert head.headers["x-llama-wrangler-model"] == "org/active:Q4"
            first = await client.reader.readuntil(b"\n\n\r\n")
            assert first.endswith(b": loading org/active:Q4\n\n\r\n")
            r.backend.state, r.backend.in_flight = ModelState.READY, 2
            while b": waiting for 2 requests to finish" not in first:
                first = await client.reader.readuntil(b"\n\n\r\n")
            r.backend.ready.set()
            await client.chunks(head)
            comments, _, rest = head.body.partition(b"data: ")
            assert b"data: " + rest == b"".join(EVENTS)
            assert all(line.startswith(b":") for line in comments.split(b"\n\n") if line)
            client.send(request("GET", "/health"))
            assert (await client.answer()).status == 200

    run(test())


def test_a_waiting_request_that_wants_no_stream_just_waits() -> None:
    async def test() -> None:
        async with rig(silent_s=0.01, keepalive_s=0.01) as r:
            r.backend.ready.clear()
            client = await r.client()
            client.send(chat(stream=False))
            await until(lambda: r.backend.waiting == 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.1)
            r.backend.ready.set()
            assert (await client.answer()).status == 200

    run(test())


@pytest.mark.parametrize("aloud", [True, False])
def test_a_client_that_leaves_while_it_waits_leaves_the_queue(aloud: bool) -> None:
    async def test() -> None:
        async with rig(silent_s=0.01 if aloud else 60, keepalive_s=0.01) as r:
            r.backend.ready.clear()
            client = await r.client()
            client.send(chat(stream=True))
            await until(lambda: r.backend.waiting == 1)
            if aloud:
                await client.head()
            client.close()
            await until(lambda: r.backend.left_the_queue == 1)
            await until(lambda: len(r.backend.records) == 1)
            assert r.backend.records[0].status == 499
            assert r.backend.records[0].wait_s > 0
            assert r.upstream.seen == []

    run(test())


def test_a_lease_granted_as_its_client_leaves_is_given_back() -> None:
    async def test() -> None:
        async with rig() as r:
            r.backend.ready.clear()
            client = await r.client()
            client.send(chat())
            await until(lambda: r.backend.waiting == 1)
            connection = next(iter(r.gateway._connections))
            r.backend.ready.set()  # both in one step of the loop: granted, and gone
            connection.transport.abort()
            await until(lambda: bool(r.backend.records))
            assert r.backend.records[0].status == 499
            # Either it was never granted, or it is released: `rig` checks the releases.
            assert r.backend.left_the_queue + len(r.backend.leases) == 1

    run(test())


@pytest.mark.parametrize(
    ("error", "retry", "status"),
    [
        (ModelFailed("It exited with code 1.", "See its log."), False, 502),
        (ModelFailed("It exited with code 1.", "See its log."), True, 503),
        (NotEnoughMemory("It needs 9 GB of 8 GB.", "Take a smaller one."), False, 503),
    ],
)
def test_a_model_that_cannot_be_had_is_an_error_with_a_reason(
    error: ModelFailed | NotEnoughMemory, retry: bool, status: int
) -> None:
    async def test() -> None:
        async with rig() as r:
            r.backend.error = error
            r.backend.retry_at = 1e11 if retry else None
            got = await r.ask("POST", "/completion", b"{}")
            assert (got.status, got.error["code"]) == (status, error.code)
            assert (got.error["message"], got.error["remedy"]) == (error.message, error.remedy)
            assert ("retry-after" in got.headers) is retry
            assert r.backend.records[0].status == status

    run(test())


def test_a_failure_after_the_comments_is_an_event() -> None:
    async def test() -> None:
        async with rig(silent_s=0.01, keepalive_s=10) as r:
            r.backend.ready.clear()
            r.backend.error = NotEnoughMemory("It needs 9 GB of 8 GB.", "Take a smaller one.")
            client = await r.client()
            client.send(chat(stream=True))
            head = await client.head()
            r.backend.ready.set()
            await client.chunks(head)
            event = json.loads(head.body.split(b"data: ")[1])
            assert event["error"]["code"] == "not_enough_memory"
            assert r.backend.records[0].status == 503

    run(test())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nConte"])
def test_a_child_that_dies_before_its_head_and_after_the_comments_is_an_event(said: bytes) -> None:
    async def test() -> None:
        async with rig(after(said), silent_s=0.01, keepalive_s=10) as r:
            r.backend.ready.clear()
            client = await r.client()
            client.send(chat(stream=True))
            head = await client.head()
            r.backend.ready.set()
            await until(lambda: bool(r.backend.leases))
            r.backend.leases[0].died.set_result(KILLED)
            await client.chunks(head)
            event = json.loads(head.body.split(b"data: ")[1])
            assert event["error"]["message"] == KILLED.message
            assert r.backend.records[0].status == 502

    run(test())


def test_a_childs_refusal_after_the_comments_is_an_event() -> None:
    refusal = b'{"error": {"message": "too long",\n "code": 400}}'
    head_400 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(refusal)

    async def test() -> None:
        async with rig(after(head_400, refusal), silent_s=0.01, keepalive_s=10) as r:
            r.backend.ready.clear()
            client = await r.client()
            client.send(chat(stream=True))
            head = await client.head()
            r.backend.ready.set()
            await client.chunks(head)
            line = head.body.partition(b"data: ")[2]
            assert line.endswith(b"\n\n")
            assert json.loads(line) == json.loads(refusal)
            assert r.backend.records[0].status == 400

    run(test())


# --- going away ---------------------------------------------------------------------------


def test_the_child_sees_at_once_that_the_client_has_gone() -> None:
    async def endless(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + as_chunk(EVENTS[0]))
        await seen.gone.wait()

    async def test() -> None:
        async with rig(endless) as r:
            client = await r.client()
            client.send(chat(stream=True))
            await client.head()
            client.close()
            await asyncio.wait_for(r.upstream.seen[0].gone.wait(), 1)
            await until(lambda: bool(r.backend.records))
            record = r.backend.records[0]
            assert record.status == 499
            assert record.first_token_s is not None
            assert r.backend.leases[0].releases == 1

    run(test())


@pytest.mark.parametrize("known", [True, False])
def test_a_child_that_dies_before_its_head_is_a_502_with_the_reason(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tray_app.proxy.DEATH_NOTICE_S", 5.0 if known else 0.01)

    async def test() -> None:
        async with rig(after(b"HTTP/1.1 200 OK\r\nConte")) as r:
            client = await r.client()
            client.send(chat())
            await until(lambda: bool(r.backend.leases))
            if known:
                r.backend.leases[0].died.set_result(KILLED)
            got = await client.answer()
            assert got.status == 502
            assert (got.error["message"] == KILLED.message) is known
            assert got.error["code"] == "model_failed"
            client.send(request("GET", "/health"))
            assert (await client.answer()).status == 200

    run(test())


def test_a_child_that_does_not_accept_is_a_502(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tray_app.proxy.DEATH_NOTICE_S", 0.01)

    async def test() -> None:
        async with rig() as r:
            r.backend.socket_path += ".gone"
            assert (await r.ask("POST", "/x", b"{}")).status == 502

    run(test())


@pytest.mark.parametrize(("comes_back", "status", "tries"), [(True, 200, 2), (False, 502, 2)])
def test_a_request_that_meets_a_child_just_dead_waits_for_its_restart_once(
    comes_back: bool, status: int, tries: int
) -> None:
    async def test() -> None:
        async with rig() as r:
            there = r.backend.socket_path
            r.backend.socket_path += ".gone"
            client = await r.client()
            client.send(chat())
            await until(lambda: len(r.backend.leases) == 1)
            if comes_back:
                r.backend.socket_path = there
            r.backend.leases[0].died.set_result(KILLED)
            if not comes_back:
                await until(lambda: len(r.backend.leases) == 2)
                r.backend.leases[1].died.set_result(KILLED)
            assert (await client.answer()).status == status
            await until(lambda: bool(r.backend.records))
            assert [lease.releases for lease in r.backend.leases] == [1] * tries

    run(test())


@pytest.mark.parametrize("count", [0, 5])  # none yet: it was reading the prompt
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_child_that_dies_between_two_events_ends_the_stream_with_the_reason(
    version: str, count: int
) -> None:
    async def test() -> None:
        async with rig(after(SSE_HEAD, *(as_chunk(e) for e in EVENTS[:count]))) as r:
            client = await r.client()
            asked = chat(stream=True).replace(b"HTTP/1.1", b"HTTP/" + version.encode())
            client.send(asked)
            await until(lambda: bool(r.backend.leases))
            r.backend.leases[0].died.set_result(KILLED)
            got = await client.answer()
            assert got.complete
            events = got.body.split(b"\n\n")
            assert events[:count] == [e.strip() for e in EVENTS[:count]]
            error = json.loads(events[count].removeprefix(b"data: "))["error"]
            assert (error["message"], error["code"]) == (KILLED.message, "model_failed")
            assert r.backend.records[0].status == 502

    run(test())


def test_a_child_that_goes_on_with_nonsense_ends_the_stream_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tray_app.proxy.DEATH_NOTICE_S", 0.01)

    async def test() -> None:
        async with rig(after(SSE_HEAD, as_chunk(EVENTS[0]) + b"not a size\r\n")) as r:
            client = await r.client()
            client.send(chat(stream=True))
            got = await client.answer()
            assert got.complete
            error = json.loads(got.body.removeprefix(b"data: "))["error"]
            assert error["code"] == "model_failed"
            assert r.backend.records[0].status == 502

    run(test())


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "head", "rest"),
    [
        ("1.1", SSE_HEAD, as_chunk(EVENTS[0]) + b"20\r\ndata: cut"),
        ("1.1", SSE_HEAD, as_chunk(EVENTS[0]) + b"2"),
        ("1.1", SSE_HEAD, as_chunk(EVENTS[0])[:-1]),
        ("1.1", CHUNKED % b"application/json", as_chunk(b"{")),
        ("1.0", CHUNKED % b"application/json", as_chunk(b"{")),
        ("1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"12345"),
        ("1.0", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"12345"),
    ],
)
def test_an_answer_that_broke_elsewhere_looks_broken(
    version: str, head: bytes, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tray_app.proxy.DEATH_NOTICE_S", 0.01)

    async def test() -> None:
        async with rig(after(head, rest)) as r:
            client = await r.client()
            client.send(chat(stream=True).replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
            got = await client.answer()
            assert not got.complete
            assert r.backend.records[0].status == 502
            assert r.backend.leases[0].releases == 1

    run(test())


def test_bytes_after_the_end_of_an_answer_never_reach_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tray_app.proxy.DEATH_NOTICE_S", 0.01)
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"

    async def test() -> None:
        async with rig(after(smuggled)) as r:
            client = await r.client()
            client.send(chat())
            await client.head()
            assert b"HTTP" not in await client.reader.read()

    run(test())


def test_a_slow_reader_holds_the_child_back_instead_of_filling_memory() -> None:
    sent = 0

    async def fast(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(SSE_HEAD)
        while sent < 48_000_000:
            writer.write(as_chunk(b"x" * 64_000))
            await writer.drain()
            sent += 64_000
        writer.write(b"0\r\n\r\n")

    async def test() -> None:
        async with rig(fast) as r:
            client = await r.client()
            client.send(chat(stream=True))
            head = await client.head()
            connection = next(iter(r.gateway._connections))
            await until(lambda: not connection._writable)
            exchange = connection._exchange
            assert exchange is not None
            assert exchange.upstream is not None
            assert not exchange.upstream.transport.is_reading()
            assert connection.transport.get_write_buffer_size() < 300_000
            # The kernel's socket buffers on both ways hold a few megabytes.
            assert sent < 24_000_000
            await client.chunks(head)
            assert len(head.body) == 48_000_000

    run(test())


# --- records ------------------------------------------------------------------------------


def test_a_record_holds_what_the_child_counted() -> None:
    parts = [as_chunk(e) for e in (*EVENTS, TIMINGS, b"data: [DONE]\n\n")]

    async def test() -> None:
        async with rig(after(SSE_HEAD, *parts, b"0\r\n\r\n")) as r:
            await r.ask("POST", "/v1/chat/completions?a=b", b'{"stream": true}')
            await until(lambda: bool(r.backend.records))
            record = r.backend.records[0]
            assert (record.model_id, record.path) == ("org/active:Q4", "/v1/chat/completions")
            assert record.status == 200
            assert (record.prompt_tokens, record.generated_tokens) == (5, 7)
            assert record.tokens_per_s == 100.25
            assert record.first_token_s is not None
            assert 0 < record.first_token_s <= record.duration_s < 5
            assert record.started_at > 1e9
            assert (record.cached_tokens, record.prompt_tokens_per_s) == (1, None)

    run(test())


@pytest.mark.parametrize("spent_ms", [150.0, 9000.0])
def test_an_answer_in_one_piece_had_its_first_token_before_its_last(spent_ms: float) -> None:
    body = b'{"timings":{"prompt_n":4,"prompt_per_second":80.5,"predicted_ms":%.1f}}' % spent_ms

    async def slow(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def test() -> None:
        async with rig(slow) as r:
            await r.ask("POST", "/v1/chat/completions", b"{}")
            await until(lambda: bool(r.backend.records))
            record = r.backend.records[0]
            assert record.prompt_tokens_per_s == 80.5
            assert record.first_token_s is not None
            assert 0 <= record.first_token_s <= max(0.0, record.duration_s - spent_ms / 1000)

    run(test())


def test_a_record_of_an_anthropic_stream_measures_the_rate_itself() -> None:
    delta = b'event: message_delta\ndata: {"delta":{},"usage":{"output_tokens":9}}\n\n'

    async def handler(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + as_chunk(EVENTS[0]))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(as_chunk(delta) + b"0\r\n\r\n")

    async def test() -> None:
        async with rig(handler) as r:
            await r.ask("POST", "/v1/messages", b'{"stream": true}')
            record = r.backend.records[0]
            assert (record.prompt_tokens, record.generated_tokens) == (None, 9)
            assert record.tokens_per_s is not None
            assert 20 < record.tokens_per_s < 170

    run(test())


def test_a_record_of_a_json_answer_has_its_counts_and_text_cannot_forge_them() -> None:
    answer = {
        "choices": [{"message": {"content": '"usage":{"prompt_tokens":999}'}}],
        "usage": {"completion_tokens": 3, "prompt_tokens": 2, "total_tokens": 5},
    }
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def test() -> None:
        async with rig(after(head, body)) as r:
            await r.ask("POST", "/v1/chat/completions", b"{}")
            record = r.backend.records[0]
            assert (record.prompt_tokens, record.generated_tokens) == (2, 3)
            assert record.tokens_per_s is None

    run(test())
