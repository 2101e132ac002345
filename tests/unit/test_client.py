"""The faces' client against answers that are good, bad and not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tray_app import client as module
from tray_app.client import (
    ALREADY_RUNNING,
    Client,
    ClientError,
    ensure_engine,
    home_path,
    read_address,
)

Answer = Callable[[str, bytes], tuple[int, bytes]]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer
    seen: list[tuple[str, str, bytes]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        status, data = self.server.answer(self.path, body)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def ok(value: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"ok": True, "value": value}).encode()


def write_address(home: Path, port: int, **more: Any) -> None:
    row = {"pid": os.getpid(), "control_port": port, "token": "t0ken", "version": "9", **more}
    (home / "runtime.json").write_text(json.dumps(row))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.seen = []
    server.answer = lambda path, body: ok(path)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    write_address(tmp_path, server.server_port)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def refused(work: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        work()
    return caught.value


def test_a_call_carries_the_token_and_returns_the_value(server: Server, tmp_path: Path) -> None:
    client = Client.connect(tmp_path)
    server.answer = lambda path, body: ok(json.loads(body))
    assert client.call("switch_model", model_id="a", now=True) == {
        "name": "switch_model",
        "args": {"model_id": "a", "now": True},
    }
    assert {token for _, token, _ in server.seen} == {"Bearer t0ken"}
    assert client.call("x", name="y")["args"] == {"name": "y"}
    assert (client.engine_pid, client.engine_version) == (os.getpid(), "9")


def test_an_error_is_raised_with_its_words(server: Server, tmp_path: Path) -> None:
    client = Client.connect(tmp_path)
    error = {"code": "model_not_found", "message": "There is none.", "remedy": "Look."}
    server.answer = lambda path, body: (200, json.dumps({"ok": False, "error": error}).encode())
    told = refused(lambda: client.call("x"))
    assert (told.code, told.message, told.remedy) == tuple(error.values())
    server.answer = lambda path, body: (401, b'{"ok": false}')
    assert refused(lambda: client.call("x")).message == "the engine answered 401"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"5", b"null", b"\xff"])
def test_another_program_on_the_port_is_not_our_engine(
    server: Server, tmp_path: Path, body: bytes
) -> None:
    server.answer = lambda path, _: (200, body)
    assert refused(lambda: Client.connect(tmp_path)).code == "engine_unreachable"


@pytest.mark.parametrize("text", [None, "", "{", "[]", "5", '{"pid": "x"}', '{"pid": 1}'])
def test_without_a_readable_address_there_is_no_engine(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "runtime.json").write_text(text)
    assert read_address(tmp_path) is None
    told = refused(lambda: Client.connect(tmp_path))
    assert told.code == "engine_unreachable"
    assert str(tmp_path) in told.remedy


def test_an_address_that_nobody_answers_means_no_engine(tmp_path: Path, free_port: int) -> None:
    write_address(tmp_path, free_port)
    assert refused(lambda: Client.connect(tmp_path)).code == "engine_unreachable"


def test_events_are_parsed_and_end_with_the_engine(server: Server, tmp_path: Path) -> None:
    client = Client.connect(tmp_path)
    stream = b': hello\n\nid: 4\nevent: A\ndata: {"x":1}\n\n: ping\n\nid: 5\nevent: B\ndata: {}\n\n'
    server.answer = lambda path, body: (200, stream)
    assert list(client.events(after=3)) == [
        (0, "Ping", {}),
        (4, "A", {"x": 1}),
        (4, "Ping", {}),
        (5, "B", {}),
    ]
    assert server.seen[-1][0] == "/api/events?after=3"
    server.answer = lambda path, body: (200, b"id: no number\n\n")
    assert list(client.events()) == []


def test_a_refused_event_stream_says_why(server: Server, tmp_path: Path) -> None:
    client = Client.connect(tmp_path)
    error = {"code": "too_many_faces", "message": "Too many windows are open."}
    server.answer = lambda path, body: (503, json.dumps({"ok": False, "error": error}).encode())
    assert refused(lambda: list(client.events())).code == "too_many_faces"


def test_the_home_is_named_like_the_engines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMA_WRANGLER_HOME", str(tmp_path))
    assert home_path() == tmp_path
    assert home_path(Path("/x")) == Path("/x")
    monkeypatch.delenv("LLAMA_WRANGLER_HOME")
    assert home_path() == Path.home() / ".llama-wrangler"


class Process:
    def __init__(self, status: int | None) -> None:
        self.status = status

    def poll(self) -> int | None:
        return self.status


def test_a_running_engine_is_used_and_told_that_it_is_needed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "start_engine", lambda *_: pytest.fail("one runs already"))
    ensure_engine(tmp_path, "once")
    assert not any(b"keep_running" in body for _, _, body in server.seen)
    ensure_engine(tmp_path, "tray")
    assert json.loads(server.seen[-1][2]) == {"name": "keep_running", "args": {"mode": "tray"}}
    ping = server.answer
    server.answer = lambda path, body: (500, b"{}") if body else ping(path, body)
    ensure_engine(tmp_path, "serve")  # an older engine does not know the command


def test_an_engine_that_does_not_start_is_told_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "start_engine", lambda *_: Process(7))
    told = refused(lambda: ensure_engine(tmp_path, "once"))
    assert told.code == "engine_failed"
    assert "(exit status 7)." in told.message
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "start_engine", lambda *_: Process(None))
    assert refused(lambda: ensure_engine(tmp_path, "once")).message.endswith("did not start.")


def test_two_faces_that_start_an_engine_at_once_share_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (tmp_path / "runtime.json").read_text()
    (tmp_path / "runtime.json").unlink()
    starts: list[Process] = []

    def start(home: Path, mode: str) -> Process:
        starts.append(Process(ALREADY_RUNNING))
        if len(starts) == 2:
            (tmp_path / "runtime.json").write_text(address)  # the other's is up now
        return starts[-1]

    monkeypatch.setattr(module, "start_engine", start)
    assert ensure_engine(tmp_path, "once").engine_pid == os.getpid()
    assert len(starts) == 2


def test_the_client_loads_nothing_heavy() -> None:
    code = (
        "import sys, tray_app.client\n"
        "heavy = {'requests', 'asyncio', 'psutil', 'bottle', 'tray_app.engine'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
