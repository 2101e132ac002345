"""Routing, local answers, access and connections of the gateway, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from tests.gateway_kit import CLIENT_LIMIT, Got, Rig, chat, request, rig, run, until
from tray_app.engine.errors import PortTaken, SettingsInvalid
from tray_app.engine.keys import ApiKeys
from tray_app.engine.values import ModelState
from tray_app.gateway import Gateway, Timeouts

BOUNDARY = "multipart/form-data; boundary=XX"


def form(*parts: tuple[str, str]) -> bytes:
    made = b"".join(
        f'--XX\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in parts
    )
    return made + b"--XX--\r\n"


@pytest.mark.parametrize(
    ("target", "body", "content_type", "expected"),
    [
        ("/v1/chat/completions", b'{"model": "org/other:Q8"}', "application/json", "org/other:Q8"),
        ("/v1/messages", b' {"model": "org/other:Q8"}', "text/plain", "org/other:Q8"),
        ("/completion", b'{"prompt": "x"}', "application/json", None),
        ("/completion", b'{"model": 5}', "application/json", None),
        ("/completion", b'{"model": ""}', "application/json", None),
        ("/completion", b'{"model": "org/other:Q8"', "application/json", None),
        ("/completion", b"[1]", "application/json", None),
        ("/slots?model=org%2Fother%3AQ8", b"", "", "org/other:Q8"),
        ("/props", b"", "", None),
        (
            "/v1/audio/transcriptions",
            form(("file", "model"), ("model", "org/other:Q8"), ("x", "y")),
            BOUNDARY,
            "org/other:Q8",
        ),
        ("/v1/audio/transcriptions", form(("file", 'name="model"')), BOUNDARY, None),
        ("/v1/audio/transcriptions", b"--XX\r\nbroken", BOUNDARY, None),
        (
            "/completion",
            json.dumps({"a": [{"model": "no"}, '"\\'] * 30_000, "model": "org/other:Q8"}).encode(),
            "application/json",
            "org/other:Q8",
        ),
    ],
)
def test_a_request_goes_to_the_model_it_names(
    target: str, body: bytes, content_type: str, expected: str | None
) -> None:
    async def test() -> None:
        async with rig() as r:
            headers = {"Content_Type": content_type} if content_type else {}
            got = await r.ask("POST" if body else "GET", target, body, **headers)
            assert got.status == 200
            assert r.backend.asked == [expected]
            assert got.headers["x-llama-wrangler-model"] == (expected or "org/active:Q4")
            assert r.upstream.seen[0].target == target
            assert r.upstream.seen[0].body == body

    run(test())


@pytest.mark.parametrize(
    "path",
    ["/v1/responses", "/v1/embeddings", "/rerank", "/infill", "/tokenize", "/lora-adapters", "/no"],
)
def test_every_other_path_is_passed_on_as_it_is(path: str) -> None:
    async def test() -> None:
        async with rig() as r:
            got = await r.ask("POST", path + "?a=%20b", b"{}")
            assert got.json["target"] == path + "?a=%20b"

    run(test())


def test_the_head_passed_on_holds_no_secret_and_no_hop() -> None:
    async def test() -> None:
        async with rig() as r:
            await r.ask(
                "POST",
                "/tokenize",
                b"{}",
                Authorization="Bearer s",
                x_api_key="s",
                Cookie="s",
                Origin="http://localhost:3000",
                Connection="keep-alive, X-Hop",
                X_Hop="1",
                TE="trailers",
                Accept="*/*",
            )
            headers = r.upstream.seen[0].headers
            assert headers == {
                "host": "localhost",
                "connection": "close",
                "accept": "*/*",
                "content-length": "2",
            }

    run(test())


def test_model_lists_and_health_are_answered_without_a_model() -> None:
    async def test() -> None:
        async with rig() as r:
            r.backend.active = None
            for path in ("/v1/models", "/models"):
                got = await r.ask("GET", path)
                assert [row["id"] for row in got.json["data"]] == list(r.backend.models)
            for path in ("/health", "/v1/health"):
                assert (await r.ask("GET", path)).json == {"status": "ok"}
            for path in ("/v1/models/org/other:Q8", "/v1/models/org%2Fother%3AQ8"):
                assert (await r.ask("GET", path)).json["id"] == "org/other:Q8"
            missing = await r.ask("GET", "/v1/models/nope")
            assert (missing.status, missing.error["code"]) == (404, "model_not_found")
            head = await r.ask("HEAD", "/v1/models")
            assert int(head.headers["content-length"]) > 20
            assert r.upstream.seen == []
            assert r.backend.records == []

    run(test())


def test_the_routers_own_paths_say_what_to_do_instead() -> None:
    async def test() -> None:
        async with rig() as r:
            got = await r.ask("POST", "/models/load", b'{"model": "org/other:Q8"}')
            assert got.status == 404
            assert set(got.error) == {"message", "type", "code", "remedy"}
            assert r.backend.asked == []

    run(test())


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [("nope", 404, "model_not_found"), ("default", 503, "no_active_model")],
)
def test_a_name_that_leads_nowhere_is_explained(name: str, status: int, code: str) -> None:
    async def test() -> None:
        async with rig() as r:
            r.backend.active = None
            got = await r.ask("POST", "/v1/chat/completions", json.dumps({"model": name}).encode())
            assert (got.status, got.error["code"]) == (status, code)
            assert got.error["message"]
            assert got.error["remedy"]

    run(test())


# --- who may use it -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:7070"}, 200),
        ({"Host": "host.docker.internal:7070"}, 200),
        ({"Host": "host.docker.internal", "Origin": "http://host.docker.internal"}, 403),
        ({"Host": "[::1]:7070"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://[::1]"}, 200),
        ({"Origin": "https://chat.example"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "http://localhost:3000"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
def test_only_this_machines_names_and_pages_get_in(headers: dict[str, str], status: int) -> None:
    async def test() -> None:
        async with rig(allowed_origins=["https://chat.example"]) as r:
            for method, target in (("GET", "/v1/models"), ("POST", "/tokenize")):
                body = b"{}" if method == "POST" else b""
                got = await r.ask(method, target, body, **headers)
                assert got.status == status
                origin = headers.get("Origin") if status == 200 else None
                assert got.headers.get("access-control-allow-origin") == origin
            assert len(r.upstream.seen) == (status == 200)

    run(test())


def test_hosts_are_not_checked_on_a_network_address_but_origins_and_keys_are(
    tmp_path: Path,
) -> None:
    keys = ApiKeys(tmp_path / "keys.json")
    made = keys.create("a")

    async def test() -> None:
        async with rig() as r:
            with pytest.raises(SettingsInvalid, match="without an API key"):
                await Gateway(r.backend, host="0.0.0.0", port=0).start()
            gateway = Gateway(r.backend, host="0.0.0.0", port=0, keys=keys)
            await gateway.start()
            try:
                r.gateway, loopback = gateway, r.gateway
                assert (await r.ask("GET", "/health", Host="desk.lan:7070")).status == 200
                assert (await r.ask("GET", "/health")).json == {"status": "ok"}
                assert (await r.ask("GET", "/v1/models", Host="desk.lan")).status == 401
                got = await r.ask("GET", "/v1/models", Authorization=f"Bearer {made.key}")
                assert got.status == 200
                assert (await r.ask("GET", "/health", Origin="http://desk.lan")).status == 403
            finally:
                r.gateway = loopback
                for client in r.clients:
                    client.close()
                await gateway.stop(1)

    run(test())


def test_a_preflight_is_answered_for_pages_of_this_machine_only() -> None:
    async def test() -> None:
        async with rig() as r:
            asked = {
                "Access_Control_Request_Method": "POST",
                "Access_Control_Request_Headers": "authorization,content-type",
            }
            got = await r.ask(
                "OPTIONS", "/v1/chat/completions", b"", Origin="http://localhost:1", **asked
            )
            assert got.status == 204
            assert got.headers["access-control-allow-origin"] == "http://localhost:1"
            assert got.headers["access-control-allow-headers"] == "authorization,content-type"
            assert "POST" in got.headers["access-control-allow-methods"]
            assert got.headers["vary"] == "Origin"
            assert (await r.ask("OPTIONS", "/", b"", Origin="http://x.y", **asked)).status == 403

    run(test())


# --- connections --------------------------------------------------------------------------


def test_a_connection_is_used_again_and_pipelined_requests_keep_their_order() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.client()
            for n in range(3):
                client.send(request("POST", f"/a{n}", b"{}"))
                assert (await client.answer()).json["target"] == f"/a{n}"
            many = [request("POST", f"/b{n}", b"{}") for n in range(40)]
            client.send(b"".join(many))
            for n in range(40):
                assert (await client.answer()).json["target"] == f"/b{n}"
            client.send(request("GET", "/health", Connection="close"))
            assert (await client.answer()).headers["connection"] == "close"
            assert await client.closed()

    run(test())


def test_http_1_0_is_answered_and_closed() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.client()
            client.send(b"GET /props HTTP/1.0\r\n\r\n")
            assert (await client.answer()).json["target"] == "/props"
            assert await client.closed()

    run(test())


def test_a_chunked_body_reaches_the_child_with_its_length() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.client()
            client.send(
                b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                b'9\r\n{"model":\r\n12\r\n "org/other:Q8"}  \r\n0\r\nTrailer: x\r\n\r\n'
            )
            await client.answer()
            assert r.backend.asked == ["org/other:Q8"]
            assert r.upstream.seen[0].headers["content-length"] == "27"

    run(test())


def test_expect_100_continue_is_answered_before_the_body() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.client()
            whole = request("POST", "/x", b"{}", Expect="100-continue")
            client.send(whole[:-2])
            assert (await client.head()).status == 100
            client.send(whole[-2:])
            assert (await client.answer()).json["body"] == "{}"
            assert "expect" not in r.upstream.seen[0].headers

    run(test())


def test_an_upgrade_offer_is_ignored_and_the_body_kept() -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.client()
            offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}
            client.send(request("POST", "/x", b'{"a":1}', HTTP2_Settings="AAM", **offer))
            assert (await client.answer()).json["body"] == '{"a":1}'
            client.send(request("POST", "/y", b"{}"))
            assert (await client.answer()).json["target"] == "/y"

    run(test())


def test_a_body_over_the_limit_is_refused_while_it_is_still_being_sent() -> None:
    async def test() -> None:
        async with rig(max_body_bytes=1000) as r:
            announced = await r.client()
            announced.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n")
            assert (await announced.answer()).status == 413
            chunked = await r.client()
            chunked.send(
                b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(20):
                chunked.send(b"64\r\n" + b"a" * 100 + b"\r\n")
            got = await chunked.answer()
            assert (got.status, got.error["type"]) == (413, "invalid_request_error")
            assert "1,000 bytes" in got.error["message"]
            assert await chunked.closed()

    run(test())


H = b"POST /x HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"hello\r\n\r\n", 400),
        (H + b"Content-Length: -1\r\n\r\n", 400),
        (H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
        (H + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (H + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (H + b"Transfer-Encoding: chunked\r\n\r\n1" + b";a" * 400_000, 400),
        (H + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (H + b"Transfer-Encoding : chunked\r\n\r\n", 400),
        (H + b"A: b\r\n c\r\n\r\n", 400),
        (H + b"A: b\nC: d\n\n", 400),
        (H + b"Host: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        (b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (H + b"A: b\r\n" * 200 + b"\r\n", 431),
        (H + b"A: " + b"b" * 70_000, 431),
        (H + b"A: " + b"b" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 70_000, 431),
    ],
)
def test_a_hostile_head_is_refused_and_the_connection_closed(sent: bytes, status: int) -> None:
    async def test() -> None:
        async with rig() as r:
            client = await r.client()
            client.send(sent)
            got = await client.answer()
            assert got.status == status
            assert got.error["message"]
            assert await client.closed()
            assert r.upstream.seen == []

    run(test())


def test_an_absolute_target_of_this_machine_is_passed_on_as_a_path() -> None:
    async def test() -> None:
        async with rig() as r:
            assert (await r.ask("GET", "http://localhost:7070/props?a=1")).json["target"] == (
                "/props?a=1"
            )

    run(test())


def test_a_slow_head_a_stalled_body_and_an_idle_connection_are_closed() -> None:
    async def test() -> None:
        async with rig(timeouts=Timeouts(head_s=0.1, body_s=0.1, idle_s=0.1, drain_s=0.1)) as r:
            silent = await r.client()
            assert await silent.closed()
            for begun in (b"GET / HT", H + b"Content-Length: 5\r\n\r\nab"):
                slow = await r.client()
                slow.send(begun)
                assert (await slow.answer()).status == 408
                assert await slow.closed()
            idle = await r.client()
            idle.send(request("GET", "/health"))
            assert (await idle.answer()).status == 200
            assert await idle.closed()

    run(test())


def test_connections_over_the_cap_are_told_so() -> None:
    async def test() -> None:
        async with rig(max_connections=1, timeouts=Timeouts(drain_s=0.1)) as r:
            first = await r.client()
            first.send(request("GET", "/health"))
            await first.answer()
            assert (await r.ask("GET", "/health")).status == 503
            first.close()
            await until(lambda: len(r.gateway._connections) == 0)
            assert (await r.ask("GET", "/health")).status == 200

    run(test())


def test_a_taken_port_names_its_holder() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            async with rig() as r:
                with pytest.raises(PortTaken) as caught:
                    await Gateway(r.backend, port=port).start()
            assert f"pid {os.getpid()}" in caught.value.message
            assert str(port) in caught.value.message
            assert "another port" in caught.value.remedy

    run(test())


def test_an_address_that_is_not_ours_is_a_wrong_setting() -> None:
    async def test() -> None:
        async with rig() as r:
            for host, port in (("192.0.2.1", 0), ("127.0.0.1", 70_000)):
                with pytest.raises(SettingsInvalid):
                    await Gateway(r.backend, host=host, port=port).start()

    run(test())


def test_stopping_lets_an_answer_end_and_then_closes() -> None:
    async def test() -> None:
        async with rig() as r:
            r.backend.ready.clear()
            idle, busy = await r.client(), await r.client()
            busy.send(chat())
            await until(lambda: r.backend.waiting == 1)
            stopping = asyncio.create_task(r.gateway.stop(5))
            assert await idle.closed()
            r.backend.ready.set()
            assert (await busy.answer()).status == 200
            assert await busy.closed()
            await stopping
            with pytest.raises(OSError):  # noqa: PT011  refused or reset, both are closed
                await r.client()

    run(test())


def test_stopping_cuts_what_outlasts_the_grace() -> None:
    async def test() -> None:
        async with rig() as r:
            r.backend.ready.clear()
            busy = await r.client()
            busy.send(chat())
            await until(lambda: r.backend.waiting == 1)
            await r.gateway.stop(0.05)
            assert await busy.closed()
            assert r.backend.left_the_queue == 1

    run(test())


async def _memory_of_pipelining(r: Rig) -> Got:
    client = await r.client()
    client.send(chat())
    await until(lambda: r.backend.waiting == 1)
    for _ in range(CLIENT_LIMIT):
        client.send(request("POST", "/x", b"a" * 500_000))
    await until(lambda: any(not c.transport.is_reading() for c in r.gateway._connections))
    held = max(c._reader.buffered for c in r.gateway._connections)
    queued = max(len(c._queue) for c in r.gateway._connections)
    assert held <= 2_000_000
    assert queued <= 9
    r.backend.ready.set()
    return await client.answer()


def test_requests_sent_ahead_are_held_back() -> None:
    async def test() -> None:
        async with rig() as r:
            r.backend.state = ModelState.LOADING
            r.backend.ready.clear()
            assert (await _memory_of_pipelining(r)).status == 200

    run(test())
