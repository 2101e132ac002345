"""Downloads against a real local HTTP server that misbehaves, and the package index."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tray_app.engine import fetch
from tray_app.engine.errors import Cancelled, DownloadFailed, NotEnoughDisk
from tray_app.engine.fetch import RemoteFile, RetryPolicy, fetch_file, without_credentials
from tray_app.engine.package_index import configured_indexes, find_distribution

BODY = bytes(range(256)) * 8192  # 2 MiB
SHA = hashlib.sha256(BODY).hexdigest()
QUICK = RetryPolicy(attempts=4, first_pause_s=0.01, longest_pause_s=0.05, stall_s=5)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def do_GET(self) -> None:
        self.server.seen.append(dict(self.headers.items()) | {"path": self.path})
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass

    def head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


Answer = Callable[[Handler], object]


class FaultyServer(ThreadingHTTPServer):
    """Gives its answers in turn; the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [whole]
        self.seen: list[dict[str, str]] = []
        self.gate = threading.Event()

    def handle_error(self, *args: object) -> None:
        pass  # clients go away here on purpose

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def start_of(handler: Handler) -> int:
    wanted = handler.headers.get("Range", "bytes=0-")
    return int(wanted.removeprefix("bytes=").rstrip("-"))


def whole(handler: Handler, body: bytes = BODY) -> None:
    """A good server with ranges."""
    start = start_of(handler)
    if start:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.head(206, len(body) - start, Content_Range=span, ETag='"one"')
    else:
        handler.head(200, len(body), ETag='"one"')
    handler.wfile.write(body[start:])


def cut_after(count: int) -> Answer:
    def answer(handler: Handler) -> None:
        start = start_of(handler)
        status = 206 if start else 200
        span = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        handler.head(status, len(BODY) - start, Content_Range=span, ETag='"one"')
        handler.wfile.write(BODY[start : start + count])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    return answer


def no_ranges(handler: Handler) -> None:
    handler.head(200, len(BODY))
    handler.wfile.write(BODY)


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.head(code, 0, **headers)


def stall(handler: Handler) -> None:
    handler.head(200, len(BODY), ETag='"one"')
    handler.wfile.write(BODY[:1000])
    handler.wfile.flush()
    handler.server.gate.wait(20)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as faulty:
        thread = threading.Thread(target=faulty.serve_forever, args=(0.01,))
        thread.start()
        yield faulty
        faulty.gate.set()
        faulty.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def remote(server: FaultyServer, **changes: object) -> RemoteFile:
    fields: dict[str, object] = {"sha256": SHA, "size_bytes": len(BODY), **changes}
    return RemoteFile(f"{server.url}/f.bin", "f.bin", **fields)  # type: ignore[arg-type]


def test_a_file_arrives_whole_with_progress_and_no_part_left(
    server: FaultyServer, tmp_path: Path
) -> None:
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "f.bin"
    fetch_file(remote(server), target, progress=lambda *p: told.append(p), policy=QUICK)
    assert target.read_bytes() == BODY
    assert told[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert os.listdir(target.parent) == ["f.bin"]
    fetch_file(remote(server), target)
    assert len(server.seen) == 1, "a right file is not fetched again"


def test_a_file_of_unknown_size_arrives_too(server: FaultyServer, tmp_path: Path) -> None:
    fetch_file(remote(server, size_bytes=None), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_a_cut_connection_is_resumed_where_it_broke(server: FaultyServer, tmp_path: Path) -> None:
    # Six cuts are more than the four attempts: those that got bytes do not count.
    server.answers = [*[cut_after(300_000)] * 6, whole]
    fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == BODY
    ranges = [seen.get("Range") for seen in server.seen]
    assert ranges == [None, *[f"bytes={n * 300_000}-" for n in range(1, 7)]]


def test_a_part_file_of_an_earlier_run_is_resumed(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "f.bin.part").write_bytes(BODY[:1_000_000])
    fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert server.seen[0]["Range"] == "bytes=1000000-"


@pytest.mark.parametrize("part", [b"wrong" * 1000, BODY[:-5] + b"wrong", BODY + b"more"])
def test_a_wrong_part_file_is_thrown_away(
    server: FaultyServer, tmp_path: Path, part: bytes
) -> None:
    (tmp_path / "f.bin.part").write_bytes(part)
    fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_a_complete_part_file_needs_no_server(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "f.bin.part").write_bytes(BODY)
    fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert server.seen == []


def test_a_server_that_ignores_ranges_sends_it_all_again(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.answers = [cut_after(500_000), no_ranges]
    fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_another_range_than_asked_for_is_not_trusted(server: FaultyServer, tmp_path: Path) -> None:
    def other_range(handler: Handler) -> None:
        handler.head(206, 5, Content_Range=f"bytes 5-9/{len(BODY)}")
        handler.wfile.write(BODY[5:10])

    server.answers = [cut_after(500_000), other_range, whole]
    fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert server.seen[-1]["Range"] == "bytes=500000-"


def test_a_range_the_server_does_not_have_starts_over(server: FaultyServer, tmp_path: Path) -> None:
    server.answers = [cut_after(500_000), status(416), whole]
    fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_wrong_bytes_are_never_put_in_place(server: FaultyServer, tmp_path: Path) -> None:
    server.answers = [lambda handler: whole(handler, BODY[:-1] + b"!")]
    with pytest.raises(DownloadFailed, match="wrong content"):
        fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert os.listdir(tmp_path) == []
    assert len(server.seen) == 2, "it may have been the line: one more time"


def test_more_bytes_than_promised_are_cut_off(server: FaultyServer, tmp_path: Path) -> None:
    server.answers = [lambda handler: whole(handler, BODY * 3)]
    with pytest.raises(DownloadFailed, match="6,291,456 bytes of it, not 2,097,152"):
        fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert os.listdir(tmp_path) == []


def test_a_busy_server_is_tried_again_when_it_says(server: FaultyServer, tmp_path: Path) -> None:
    date = formatdate(time.time() - 5, usegmt=True)
    server.answers = [status(503), status(429, Retry_After="0"), status(503, Retry_After=date)]
    server.answers.append(whole)
    fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert len(server.seen) == 4


def test_a_server_that_stays_busy_is_given_up(server: FaultyServer, tmp_path: Path) -> None:
    server.answers = [status(503)]
    with pytest.raises(DownloadFailed, match="4 attempts failed: the server said 503") as caught:
        fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert caught.value.remedy
    assert len(server.seen) == 4


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_final_answer_is_not_repeated(server: FaultyServer, tmp_path: Path, code: int) -> None:
    server.answers = [status(code)]
    with pytest.raises(DownloadFailed, match=str(code)):
        fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert len(server.seen) == 1


def test_nobody_listening_is_a_download_failure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/f.bin"
        with pytest.raises(DownloadFailed, match="refused"):
            fetch_file(RemoteFile(url, "f.bin", SHA, len(BODY)), tmp_path / "f.bin", policy=QUICK)


def test_a_stalled_connection_is_left_and_resumed(server: FaultyServer, tmp_path: Path) -> None:
    server.answers = [stall, whole]
    policy = RetryPolicy(attempts=2, first_pause_s=0.01, stall_s=1.0)
    fetch_file(remote(server), tmp_path / "f.bin", policy=policy)
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert server.seen[1]["Range"] == "bytes=1000-"


def test_a_cancel_ends_a_stalled_download_at_once_and_keeps_the_part(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.answers = [stall]
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        fetch_file(
            remote(server),
            tmp_path / "f.bin",
            progress=lambda done, total: cancel.set(),
            cancel=cancel,
            policy=QUICK,
        )
    assert (tmp_path / "f.bin.part").stat().st_size == 1000


def test_a_cancel_ends_the_pause_between_attempts(server: FaultyServer, tmp_path: Path) -> None:
    server.answers = [status(503, Retry_After="60")]
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Cancelled):
        fetch_file(remote(server), tmp_path / "f.bin", cancel=cancel)


def test_too_little_disk_is_seen_before_a_byte_is_fetched(
    server: FaultyServer, tmp_path: Path
) -> None:
    with pytest.raises(NotEnoughDisk, match="9000000000 MB are needed"):
        fetch_file(remote(server, size_bytes=9 * 10**15), tmp_path / "f.bin", policy=QUICK)
    assert server.seen == []


def test_a_disk_that_fills_up_is_told_as_such(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch.os, "fsync", full)
    with pytest.raises(NotEnoughDisk, match="too full"):
        fetch_file(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert not (tmp_path / "f.bin").exists()


def test_a_password_goes_to_its_own_host_only(tmp_path: Path, server: FaultyServer) -> None:
    with FaultyServer() as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        server.answers = [status(302, Location=f"{other.url}/f.bin")]
        url = server.url.replace("//", "//me:p%40ss@") + "/f.bin?token=abc"
        fetch_file(RemoteFile(url, "f.bin", SHA, len(BODY)), tmp_path / "f.bin", policy=QUICK)
        other.shutdown()
        thread.join()
    assert server.seen[0]["Authorization"] == "Basic bWU6cEBzcw=="
    assert "Authorization" not in other.seen[0]
    assert without_credentials(url) == f"{server.url}/f.bin"


def json_page(handler: Handler) -> None:
    files = [
        {"filename": "p-1.tar.gz", "url": "../../files/p-1.tar.gz", "hashes": {"sha256": "1" * 64}},
        {"filename": "p-2.tar.gz", "url": "../../files/p-2.tar.gz", "hashes": {"sha256": SHA}},
    ]
    body = json.dumps({"files": files}).encode()
    handler.head(200, len(body), Content_Type="application/vnd.pypi.simple.v1+json")
    handler.wfile.write(body)


def html_page(handler: Handler) -> None:
    body = f'<a href="/files/p-2.tar.gz#sha256={SHA}">p</a><a href="/x">x</a><a>y</a>'.encode()
    handler.head(200, len(body), Content_Type="text/html; charset=utf-8")
    handler.wfile.write(body)


@pytest.mark.parametrize("page", [json_page, html_page])
def test_a_distribution_is_found_on_json_and_html_indexes(
    server: FaultyServer, page: Answer
) -> None:
    server.answers = [page]
    found = find_distribution("p", "p-2.tar.gz", SHA, indexes=(server.url + "/simple/",))
    assert found == RemoteFile(f"{server.url}/files/p-2.tar.gz", "p-2.tar.gz", SHA, None)
    assert server.seen[0]["path"] == "/simple/p/"
    assert "vnd.pypi.simple.v1+json" in server.seen[0]["Accept"]


def test_the_password_of_an_index_is_used_for_its_files(server: FaultyServer) -> None:
    server.answers = [json_page]
    index = server.url.replace("//", "//me:pw@") + "/simple"
    found = find_distribution("p", "p-2.tar.gz", SHA, indexes=(index,))
    assert "//me:pw@" in found.url


def test_a_folder_can_be_an_index_and_a_bad_index_is_passed_over(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.answers = [status(404)]
    page = tmp_path / "simple" / "p" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../p-2.tar.gz#sha256={SHA}">p</a>')
    indexes = (server.url, f"file://{tmp_path}/simple")
    found = find_distribution("p", "p-2.tar.gz", SHA, indexes=indexes)
    assert found.url == f"file://{tmp_path}/p-2.tar.gz"
    (tmp_path / "p-2.tar.gz").write_bytes(BODY)
    fetch_file(found, tmp_path / "out.tar.gz", policy=QUICK)
    assert (tmp_path / "out.tar.gz").read_bytes() == BODY


def test_a_file_under_another_hash_is_not_ours(server: FaultyServer) -> None:
    server.answers = [json_page]
    secret = server.url.replace("//", "//me:secret@")
    with pytest.raises(DownloadFailed, match="does not list it") as caught:
        find_distribution("p", "p-1.tar.gz", SHA, indexes=(secret,))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"files": [{}]}', b'{"files": 3}'])
def test_a_broken_page_is_a_download_failure(server: FaultyServer, body: bytes) -> None:
    def broken(handler: Handler) -> None:
        handler.head(200, len(body), Content_Type="application/json")
        handler.wfile.write(body)

    server.answers = [broken]
    with pytest.raises(DownloadFailed):
        find_distribution("p", "p-2.tar.gz", SHA, indexes=(server.url,))


@pytest.mark.skipif(os.name == "nt", reason="other places on Windows")
def test_the_indexes_are_those_of_pip(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none")}
    env["PIP_CONFIG_FILE"] = os.devnull
    assert configured_indexes(env) == ("https://pypi.org/simple",)
    chosen = tmp_path / "chosen.conf"
    chosen.write_text(
        "[global]\nindex-url = https://a.example/simple\n"
        "extra-index-url =\n  https://b.example/simple\n  https://c.example/s\n"
    )
    env["PIP_CONFIG_FILE"] = str(chosen)
    assert configured_indexes(env) == (
        "https://a.example/simple",
        "https://b.example/simple",
        "https://c.example/s",
    )
    env["PIP_INDEX_URL"] = "https://d.example/simple"
    env["PIP_EXTRA_INDEX_URL"] = "https://a.example/simple"
    assert configured_indexes(env) == ("https://d.example/simple", "https://a.example/simple")
    chosen.write_text("not an ini file")
    del env["PIP_EXTRA_INDEX_URL"]
    assert configured_indexes(env)[0] == "https://d.example/simple"
