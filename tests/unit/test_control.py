"""The control API over real sockets: who may come in, and what a face is told."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import pytest

from tests.unit.engine_kit import wait_until
from tray_app.control import MAX_BODY, STREAMS, TICKETS_KEPT, Control
from tray_app.engine import Engine
from tray_app.engine.errors import BadRequest, EngineError
from tray_app.engine.events import ActiveModelChanged, EngineStopping, EventStream
from tray_app.faces import Faces

TOKEN = "the-token-of-this-run"


class StandIn:
    """What the control API asks of an engine."""

    def __init__(self) -> None:
        self.events = EventStream(history=4)
        self.calls: list[tuple[Any, Any]] = []

    def call(self, name: Any, args: Mapping[str, Any]) -> Any:
        self.calls.append((name, args))
        if name == "refuse":
            raise BadRequest("It was wrong.", "Do it right.")
        if name == "crash":
            raise RuntimeError("SECRET DETAIL")
        if name == "unjson":
            return SimpleNamespace()
        return {"seq": 1} if name == "snapshot" else [name, args]


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert self.json["ok"] is False
        return str(self.json["error"]["code"])


@dataclass
class Site:
    control: Control
    engine: StandIn
    faces: Faces

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        method: str = "",
        token: str | None = TOKEN,
        **headers: str,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.control.port, timeout=10)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def call(self, name: Any, args: Any = None) -> Reply:
        return self.ask("/api/call", json.dumps({"name": name, "args": args or {}}).encode())

    @contextlib.contextmanager
    def listen(self, query: str = "") -> Iterator[BinaryIO]:
        """An event stream, open while the block lasts."""
        with (
            socket.create_connection(("127.0.0.1", self.control.port), timeout=10) as sock,
            sock.makefile("rb") as stream,
        ):
            sock.sendall(
                f"GET /api/events{query} HTTP/1.1\r\nHost: 127.0.0.1:{self.control.port}\r\n"
                f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
            )
            yield stream


@pytest.fixture
def site() -> Iterator[Site]:
    engine, faces = StandIn(), Faces()
    control = Control(cast(Engine, engine), faces, TOKEN, heartbeat_s=0.05)
    control.start()
    yield Site(control, engine, faces)
    engine.events.publish(EngineStopping())
    control.stop()


def lines_until(stream: BinaryIO, wanted: str) -> list[str]:
    """The stream's lines up to the first that begins with `wanted`."""
    seen = []
    for raw in stream:
        seen.append(raw.decode().strip())
        if seen[-1].startswith(wanted):
            return seen
    raise AssertionError(f"the stream ended before {wanted}: {seen}")


# -- who may come in


def test_nothing_is_answered_without_the_token(site: Site) -> None:
    for path in ("/", "/web/app.css", "/api/ping", "/api/snapshot", "/api/events", "/nowhere"):
        for token in (None, "", "wrong", TOKEN + "x", "ü"):
            reply = site.ask(path, token=token)
            assert (reply.status, reply.code) == (401, "unauthorized")
    assert site.ask("/api/call", b"{}", token=None).status == 401
    assert site.engine.calls == []
    assert site.ask("/api/ping").json == {"ok": True, "value": True}


def test_a_ticket_opens_the_page_once(site: Site) -> None:
    ticket = site.call("mint_ticket").json["value"]["ticket"]
    entered = site.ask(f"/enter?ticket={ticket}", token=None)
    assert (entered.status, entered.headers["Location"]) == (303, "/")
    cookies = {
        name: rest
        for name, _, rest in (line.partition("=") for line in entered.headers.get_all("Set-Cookie"))
    }
    session = cookies["llama_wrangler_session"]
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in session.split(";")}
    cookie = "llama_wrangler_session=" + session.split(";")[0]
    assert site.ask("/api/ping", token=None, Cookie=cookie).status == 200
    assert site.ask("/", token=None, Cookie=cookie).status == 200
    again = site.ask(f"/enter?ticket={ticket}", token=None)
    assert (again.status, again.code) == (403, "bad_ticket")
    assert site.ask("/enter", token=None).status == 403
    assert site.ask("/api/ping", token=None, Cookie=cookie + "x").status == 401
    assert TOKEN not in str(entered.headers)


def test_tickets_that_nobody_uses_lapse(site: Site) -> None:
    tickets = [site.control.mint_ticket() for _ in range(TICKETS_KEPT + 1)]
    assert site.ask(f"/enter?ticket={tickets[0]}", token=None).status == 403
    assert site.ask(f"/enter?ticket={tickets[1]}", token=None).status == 303


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil:80", ""]
)
def test_a_foreign_host_name_is_refused(site: Site, host: str) -> None:
    for path in ("/api/ping", "/enter?ticket=x", "/"):
        reply = site.ask(path, Host=host)
        assert (reply.status, reply.code) == (403, "bad_host")


def test_a_page_from_elsewhere_is_refused(site: Site) -> None:
    own = f"http://127.0.0.1:{site.control.port}"
    assert site.ask("/api/ping", Origin=own).status == 200
    for origin in ("null", "https://evil.example", "http://127.0.0.1:1", own + "0", ""):
        reply = site.ask("/api/ping", Origin=origin)
        assert (reply.status, reply.code) == (403, "bad_origin")
    port = site.control.port
    named = site.ask("/api/ping", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")
    assert named.status == 200


# -- headers on every kind of reply


def test_every_reply_carries_the_policy(site: Site) -> None:
    kinds = {
        "page": site.ask("/"),
        "static": site.ask("/web/app.css"),
        "not modified": site.ask("/web/app.css", If_Modified_Since="Fri, 01 Jan 2100 00:00:00 GMT"),
        "missing": site.ask("/web/none.js"),
        "no route": site.ask("/none"),
        "wrong method": site.ask("/api/call"),
        "call": site.call("anything"),
        "error": site.call("refuse"),
        "crash": site.call("crash"),
        "bad json": site.ask("/api/call", b"{"),
        "unauthorized": site.ask("/", token=None),
        "bad host": site.ask("/", Host="evil.example"),
        "enter": site.ask(f"/enter?ticket={site.control.mint_ticket()}", token=None),
        "bad ticket": site.ask("/enter", token=None),
        "head": site.ask("/", method="HEAD"),
    }
    statuses = {name: reply.status for name, reply in kinds.items()}
    assert statuses["not modified"] == 304
    assert statuses["missing"] == statuses["no route"] == 404
    assert statuses["wrong method"] == 405
    for name, reply in kinds.items():
        policy = reply.headers.get_all("Content-Security-Policy") or []
        assert len(policy) == 1, name
        assert "script-src 'self';" in policy[0], name
        assert "unsafe" not in policy[0], name
        assert "frame-ancestors 'none'" in policy[0], name
        assert reply.headers["X-Content-Type-Options"] == "nosniff", name
        assert reply.headers["Referrer-Policy"] == "no-referrer", name
        assert "Server" not in reply.headers, name
        if reply.status >= 400:
            assert reply.headers["Content-Type"] == "application/json", name
            assert reply.code, name
            assert b"Traceback" not in reply.body
            assert b"<html" not in reply.body.lower()


def test_only_the_window_may_evaluate(site: Site) -> None:
    ticket = site.control.mint_ticket()
    entered = site.ask(f"/enter?ticket={ticket}&face=window", token=None)
    assert any(c.startswith("face=window") for c in entered.headers.get_all("Set-Cookie") or [])
    for path in ("/", "/web/app.css", "/api/ping", "/none"):
        policy = site.ask(path, Cookie="face=window").headers["Content-Security-Policy"]
        assert "script-src 'self' 'unsafe-eval';" in policy
        assert (
            "unsafe" not in site.ask(path, Cookie="face=other").headers["Content-Security-Policy"]
        )


def test_files_are_served_with_their_kind(site: Site) -> None:
    page = site.ask("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert site.ask("/web/main.js").headers["Content-Type"].startswith("text/javascript")
    assert site.ask("/web/app.css").headers["Content-Type"].startswith("text/css")


@pytest.mark.parametrize(
    "path",
    ["../control.py", "..%2fcontrol.py", "%2e%2e/control.py", "....//control.py", "/etc/passwd",
     "%2fetc%2fpasswd", "..%5ccontrol.py", "x/../../control.py", "components/../../control.py"],
)  # fmt: skip
def test_no_path_leads_out_of_the_web_folder(site: Site, path: str) -> None:
    reply = site.ask("/web/" + path)
    assert reply.status in (403, 404)
    assert b"Control" not in reply.body
    assert b"root:" not in reply.body


# -- commands


def test_a_call_is_answered_in_the_envelope(site: Site) -> None:
    assert site.call("hello", {"a": 1}).json == {"ok": True, "value": ["hello", {"a": 1}]}
    assert site.ask("/api/snapshot").json == {"ok": True, "value": {"seq": 1}}
    refused = site.call("refuse")
    assert refused.status == 200
    assert refused.json["error"] == {
        "code": "bad_request", "message": "It was wrong.", "remedy": "Do it right.",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["crash", "unjson"])
def test_what_goes_wrong_inside_stays_inside(
    site: Site, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    reply = site.call(name)
    assert (reply.status, reply.code) == (200, "internal")
    assert b"SECRET" not in reply.body
    assert b"Traceback" not in reply.body
    assert "command failed" in caplog.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"5", b'"x"', b"null", b"{}", b'{"args": {}}', b"\xff\xfe", b"[" * 100_000],
)
def test_a_body_that_is_no_call_is_refused(site: Site, body: bytes) -> None:
    reply = site.ask("/api/call", body)
    assert (reply.status, reply.code) == (400, "bad_request")
    assert site.engine.calls == []


@pytest.mark.parametrize("row", [{"name": ["x"]}, {"name": None}, {"name": "x", "args": [1]}])
def test_odd_names_and_arguments_reach_the_table_as_they_are(site: Site, row: Any) -> None:
    assert site.ask("/api/call", json.dumps(row).encode()).status == 200
    assert site.engine.calls == [(row["name"], row.get("args", {}))]


def test_a_body_that_is_too_large_is_refused_unread(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.control.port), timeout=10) as sock:
        sock.sendall(
            f"POST /api/call HTTP/1.1\r\nHost: 127.0.0.1:{site.control.port}\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: {MAX_BODY * 50}\r\n\r\n".encode()
        )
        with contextlib.suppress(OSError):  # the refusal may close it before
            sock.sendall(b"x" * 1000)
            sock.shutdown(socket.SHUT_WR)
        assert b" 413 " in sock.recv(4096)
    assert site.engine.calls == []
    assert site.call("x", {"fits": "x" * 200_000}).status == 200


# -- events


def test_events_come_in_order_with_their_numbers(site: Site) -> None:
    for name in "abc":
        site.engine.events.publish(ActiveModelChanged(name))
    with site.listen("?after=1") as stream:
        seen = lines_until(stream, "id: 3")
        assert "Content-Type: text/event-stream" in seen
        assert "Cache-Control: no-store" in seen
        assert [line for line in seen if line.startswith("id:")] == ["id: 2", "id: 3"]
        assert 'data: {"model_id":"b"}' in seen
        assert "event: ActiveModelChanged" in seen
        site.engine.events.publish(ActiveModelChanged(None))
        assert 'data: {"model_id":null}' in lines_until(stream, 'data: {"model_id":null')


def test_a_stream_beats_in_silence_and_tells_what_was_missed(site: Site) -> None:
    for number in range(9):
        site.engine.events.publish(ActiveModelChanged(str(number)))
    for query, event in (("?after=1", "event: Missed"), ("?after=99999999", "event: Missed")):
        with site.listen(query) as stream:
            assert "id: 9" in lines_until(stream, event)
            assert lines_until(stream, ": ping")
    with site.listen() as stream:
        assert not [line for line in lines_until(stream, ": ping") if line.startswith("id:")]


@pytest.mark.parametrize("after", ["", "x", "-1", "1.5", "%B2", "%C2%B2", "9" * 5000])
def test_a_number_that_is_none_means_from_now(site: Site, after: str) -> None:
    with site.listen(f"?after={after}") as stream:
        assert "200" in lines_until(stream, ": ping")[0]
    wait_until(lambda: site.faces.alone_s() > 0)


def test_streams_are_limited_and_a_face_that_goes_makes_room(site: Site) -> None:
    with contextlib.ExitStack() as others:
        for _ in range(STREAMS - 1):
            lines_until(others.enter_context(site.listen()), ": hello")
        with site.listen() as stream:
            lines_until(stream, ": hello")
            refused = site.ask("/api/events")
            assert (refused.status, refused.code) == (503, "too_many_faces")
            assert site.faces.alone_s() == 0
            assert site.call("still").status == 200  # commands have threads of their own

        def there_is_room() -> bool:
            with site.listen() as stream:
                return b" 200 " in stream.readline()

        wait_until(there_is_room)
    wait_until(lambda: site.faces.alone_s() > 0)


def test_the_end_of_the_engine_ends_every_stream(site: Site) -> None:
    with site.listen() as stream:
        lines_until(stream, ": hello")
        site.engine.events.publish(EngineStopping())
        lines_until(stream, "event: EngineStopping")
        stream.read()  # to its end
    wait_until(lambda: site.faces.alone_s() > 0)


def test_after_the_stop_nobody_listens(site: Site) -> None:
    assert site.call("x").status == 200
    port = site.control.port
    site.control.stop()
    site.control.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_faces_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    faces = Faces(clock=lambda: now)
    now = 5.0
    assert faces.alone_s() == 5
    assert faces.enter(1)
    assert not faces.enter(1)
    now = 9.0
    assert faces.alone_s() == 0
    faces.leave()
    now = 10.0
    assert faces.alone_s() == 1
    faces.touch()
    assert faces.alone_s() == 0


def test_errors_have_one_family() -> None:
    assert issubclass(BadRequest, EngineError)
