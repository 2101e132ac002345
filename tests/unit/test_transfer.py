"""Transfers in pieces from a real loopback server that has every fault of hubs.md."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.file_server import (
    Answer,
    FileServer,
    Handler,
    Request,
    chunked,
    cut_after,
    file_server,
    ignore_range,
    redirect,
    reset_after,
    right,
    says,
    slowly,
    stall_after,
    status,
    wrong_byte,
)
from tray_app.engine.downloads import part_file, transfer
from tray_app.engine.downloads.http_line import Line
from tray_app.engine.downloads.http_source import Source
from tray_app.engine.downloads.limiter import Limiter
from tray_app.engine.downloads.part_file import PartFile
from tray_app.engine.downloads.retry import GivenUp, RetryPolicy, Unreachable
from tray_app.engine.downloads.transfer import discard, fetch
from tray_app.engine.downloads.values import Remote
from tray_app.engine.errors import Cancelled, DownloadFailed, NotEnoughDisk

MIB = 1 << 20
PIECE = 4 * MIB
BODY = random.Random(4).randbytes(22 * MIB + 12_345)  # six pieces, the last one short
OTHER = bytes(len(BODY))
SIZE = len(BODY)
SHA = hashlib.sha256(BODY).hexdigest()
QUICK = RetryPolicy(attempts=4, first_pause_s=0.01, longest_pause_s=0.05, stall_s=10)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as serving:
        serving.put("/f.bin", BODY)
        yield serving


@pytest.fixture(autouse=True)
def _small_files_are_in_pieces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SMALL_BYTES", MIB)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def remote(server: FileServer, **changes: Any) -> Remote:
    plain = Remote(server.url("/f.bin"), "f.bin", SIZE, SHA)
    return replace(plain, **changes)


class Told:
    """Progress as it was told."""

    def __init__(self, then: Callable[[int], None] = lambda done: None) -> None:
        self.done: list[int] = []
        self.total: int | None = None
        self._then = then

    def __call__(self, done: int, total: int | None) -> None:
        self.done.append(done)
        self.total = total
        self._then(done)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def assert_right(folder: Path, body: bytes = BODY) -> None:
    assert names(folder) == ["f.bin"], "nothing is left beside the file"
    assert (folder / "f.bin").read_bytes() == body


def pause_after(count: int, server: FileServer, folder: Path, **more: Any) -> None:
    """A transfer that is cancelled once so many bytes are there."""
    cancel = threading.Event()
    told = Told(lambda done: cancel.set() if done >= count else None)
    server.bytes_per_s = 40 * MIB
    with pytest.raises(Cancelled):
        fetch(
            more.pop("remote", remote(server)),
            folder / "f.bin",
            progress=told,
            cancel=cancel,
            policy=QUICK,
            **more,
        )
    server.bytes_per_s = None
    PartFile(folder / "f.bin", threading.Event()).close()  # its last map is written now


# -- the plain way


def test_a_file_comes_in_parallel_ranges_and_each_byte_once(
    server: FileServer, tmp_path: Path
) -> None:
    server.bytes_per_s = 30 * MIB
    told = Told()
    fetch(remote(server), tmp_path / "f.bin", progress=told, policy=QUICK)
    assert_right(tmp_path)
    assert told.done == sorted(set(told.done))
    assert (told.done[-1], told.total) == (SIZE, SIZE)
    assert server.sent == SIZE
    assert len({request.connection for request in server.seen}) > 1
    assert all(request.range for request in server.seen)


def test_a_right_file_is_kept_and_what_a_killed_run_left_beside_it_is_cleared(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "f.bin").write_bytes(BODY)
    (tmp_path / "f.bin.part.map").write_text("{}")
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert server.seen == []


def test_a_wrong_file_of_that_name_is_replaced(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(OTHER)
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)


@pytest.mark.parametrize("known", [{"sha256": None}, {"size_bytes": None}, {}])
def test_what_the_hub_does_not_tell_is_learned_from_the_server(
    server: FileServer, tmp_path: Path, known: dict[str, None]
) -> None:
    told = Told()
    unknown = remote(server, **known) if known else Remote(server.url("/f.bin"), "f.bin")
    fetch(unknown, tmp_path / "f.bin", progress=told, policy=QUICK)
    assert_right(tmp_path)
    assert told.total == SIZE
    assert any(request.range for request in server.seen), "in pieces"
    asked = len(server.seen)
    fetch(unknown, tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert len(server.seen) <= asked + 1, "the finished file is known again"


def test_a_body_without_a_length_comes_in_one_stream(server: FileServer, tmp_path: Path) -> None:
    server.always = chunked
    told = Told()
    fetch(
        Remote(server.url("/f.bin"), "f.bin", sha256=SHA),
        tmp_path / "f.bin",
        progress=told,
        policy=QUICK,
    )
    assert_right(tmp_path)
    assert told.done[-1] == SIZE
    assert len(server.seen) == 1


def test_an_empty_file_is_a_file(server: FileServer, tmp_path: Path) -> None:
    server.put("/f.bin", b"")
    empty = remote(server, size_bytes=0, sha256=hashlib.sha256().hexdigest())
    fetch(empty, tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path, b"")


# -- the fault table


FAULTS: dict[str, list[Answer]] = {
    "reset": [reset_after(1_000_000)] * 3,
    "truncation": [cut_after(1_000_000)] * 3,
    "503": [status(503)] * 3,
    "429": [status(429, Retry_After="0")] * 3,
    "wrong range": [
        lambda h: h.head(206, 5, Content_Range=f"bytes 1-5/{SIZE}"),
        lambda h: h.head(206, 5, Content_Range="nonsense"),
    ],
    "a page to sign in": [says(b"<p>pay", Content_Type="text/html")] * 3,
    "ignored range": [right, right, ignore_range, ignore_range],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_in_the_right_file_and_nothing_begins_at_zero_again(
    server: FileServer, tmp_path: Path, fault: str
) -> None:
    server.faults = list(FAULTS[fault])
    told = Told()
    fetch(remote(server), tmp_path / "f.bin", progress=told, policy=QUICK)
    assert_right(tmp_path)
    assert told.done == sorted(set(told.done))
    wasted = server.sent - SIZE
    assert wasted < (3 * MIB if fault != "ignored range" else 2 * SIZE)


def test_a_connection_that_stalls_is_left_and_the_others_go_on(
    server: FileServer, tmp_path: Path
) -> None:
    server.faults = [right, stall_after(1_000_000)]
    policy = replace(QUICK, stall_s=1.0)
    fetch(remote(server), tmp_path / "f.bin", policy=policy)
    assert_right(tmp_path)
    assert server.sent <= SIZE


def test_a_slow_connection_does_not_hold_up_the_end(server: FileServer, tmp_path: Path) -> None:
    server.bytes_per_s = 40 * MIB
    server.faults = [right, slowly(100_000)]  # 42 s for a piece
    began = time.monotonic()
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "answer", [status(503), reset_after(0), says(b"<p>", Content_Type="text/html")]
)
def test_a_server_that_stays_broken_is_told_as_something_that_may_pass(
    server: FileServer, tmp_path: Path, answer: Answer
) -> None:
    server.always = answer
    with pytest.raises(Unreachable, match="4 attempts failed"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert names(tmp_path) == []


def test_a_server_that_breaks_for_good_in_the_middle_leaves_what_came(
    server: FileServer, tmp_path: Path
) -> None:
    requests = itertools.count()
    server.always = lambda h: right(h) if next(requests) < 3 else h.head(503, 0)
    with pytest.raises(Unreachable):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert names(tmp_path) == ["f.bin.part", "f.bin.part.map"]
    server.always = None
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert server.sent == SIZE


def test_one_wrong_byte_on_the_wire_is_found_and_comes_right_again(
    server: FileServer, tmp_path: Path
) -> None:
    server.faults = [wrong_byte(100)]
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert server.sent == 2 * SIZE, "no hash tells which piece it was"


def test_a_byte_that_is_always_wrong_is_given_up_with_a_clear_word(
    server: FileServer, tmp_path: Path
) -> None:
    server.always = wrong_byte(SIZE - 1)
    told = Told()
    with pytest.raises(DownloadFailed, match="twice with the wrong content"):
        fetch(remote(server), tmp_path / "f.bin", progress=told, policy=QUICK)
    assert names(tmp_path) == []
    assert told.done == sorted(set(told.done))
    assert server.sent == 2 * SIZE


def test_a_byte_damaged_on_its_way_to_the_disk_costs_one_piece(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = PartFile.write_at
    damage = iter([True])

    def write(self: PartFile, data: memoryview, offset: int) -> None:
        if PIECE <= offset < 2 * PIECE and next(damage, False):
            data = memoryview(bytes([data[0] ^ 1]) + bytes(data[1:]))
        sound(self, data, offset)

    monkeypatch.setattr(PartFile, "write_at", write)
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert server.sent == SIZE + PIECE


def test_a_byte_damaged_on_disk_in_a_pause_costs_one_piece(
    server: FileServer, tmp_path: Path
) -> None:
    pause_after(SIZE // 2, server, tmp_path)
    before = server.sent
    kept = json.loads((tmp_path / "f.bin.part.map").read_text())
    whole = [kept["crc32"][8 * n : 8 * n + 8] != "--------" for n in range(6)]
    at = whole.index(True) * PIECE + 77
    with (tmp_path / "f.bin.part").open("r+b") as file:
        file.seek(at)
        file.write(bytes([BODY[at] ^ 1]))
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    missing = SIZE - before
    assert missing < server.sent - before < missing + PIECE + MIB


def test_a_server_without_ranges_sends_one_stream(server: FileServer, tmp_path: Path) -> None:
    server.files["/f.bin"].ranges = False
    fetch(remote(server), tmp_path / "f.bin", connections=8, policy=QUICK)
    assert_right(tmp_path)
    assert len(server.seen) == 1


def test_a_server_without_ranges_that_breaks_never_takes_progress_back(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["/f.bin"].ranges = False
    server.faults = [cut_after(10 * MIB), cut_after(15 * MIB)]
    told = Told()
    fetch(remote(server), tmp_path / "f.bin", progress=told, policy=QUICK)
    assert_right(tmp_path)
    assert told.done == sorted(set(told.done))
    assert [request.range for request in server.seen[1:]] == [None, None]


def test_a_server_that_forgets_how_to_send_ranges_is_taken_at_its_word(
    server: FileServer, tmp_path: Path
) -> None:
    pause_after(8 * MIB, server, tmp_path)
    server.files["/f.bin"].ranges = False
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)


def test_a_server_that_takes_few_connections_gets_few(server: FileServer, tmp_path: Path) -> None:
    server.bytes_per_s = 30 * MIB
    open_now: set[int] = set()

    def two_at_most(handler: Handler) -> None:
        if len(open_now | {handler.number}) > 2:
            handler.head(429, 0, Retry_After="0")
            return
        open_now.add(handler.number)
        right(handler)

    server.always = two_at_most
    fetch(remote(server), tmp_path / "f.bin", connections=8, policy=QUICK)
    assert_right(tmp_path)
    assert server.sent == SIZE


# -- addresses


@pytest.fixture
def cdn(server: FileServer) -> Iterator[FileServer]:
    """Another origin, to which `server` redirects under an address that is signed anew."""
    with file_server() as serving:
        signed = itertools.count()

        def sign(handler: Handler) -> None:
            path = f"/signed-{next(signed)}"
            serving.put(path, BODY)
            redirect(serving.url(path) + "?secret=1")(handler)

        server.always = sign
        yield serving


def test_a_redirect_is_resolved_once_and_the_token_stays_with_its_origin(
    server: FileServer, cdn: FileServer, tmp_path: Path
) -> None:
    private = remote(server, headers={"Authorization": "Bearer abc"})
    fetch(private, tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert [request.headers["authorization"] for request in server.seen] == ["Bearer abc"]
    assert len(cdn.seen) > 1
    assert not any("authorization" in request.headers for request in cdn.seen)


def test_an_expired_address_is_asked_for_again(
    server: FileServer, cdn: FileServer, tmp_path: Path
) -> None:
    def expire(request: Request) -> None:
        if len(cdn.seen) == 3:
            del cdn.files["/signed-0"]
            cdn.always = lambda h: right(h) if h.entry else h.head(403, 0)

    cdn.on_request = expire
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert len(server.seen) == 2
    assert cdn.sent == SIZE


def test_an_address_that_the_hub_itself_refuses_is_renewed(
    server: FileServer, tmp_path: Path
) -> None:
    server.put("/new.bin", BODY)
    renewed = remote(server, url=server.url("/new.bin"), headers={"Authorization": "Bearer new"})
    asked: list[int] = []

    def renew() -> Remote:
        asked.append(1)
        return renewed

    server.always = lambda h: (
        h.head(403, 0) if h.path == "/f.bin" and len(server.seen) > 2 else right(h)
    )
    fetch(remote(server, renew=renew), tmp_path / "f.bin", connections=2, policy=QUICK)
    assert_right(tmp_path)
    assert asked == [1]
    assert server.seen[-1].headers["authorization"] == "Bearer new"


def test_a_renewal_that_does_not_help_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.always = status(403)
    same = remote(server)
    with pytest.raises(DownloadFailed, match="said 403"):
        fetch(remote(server, renew=lambda: same), tmp_path / "f.bin", policy=QUICK)
    assert len(server.seen) < 10
    assert names(tmp_path) == []


def test_a_renewal_to_another_file_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.always = status(410)
    other = remote(server, sha256="0" * 64)
    with pytest.raises(DownloadFailed, match="another file by this name"):
        fetch(remote(server, renew=lambda: other), tmp_path / "f.bin", policy=QUICK)


@pytest.mark.parametrize("code", [401, 403, 404, 410, 400, 451])
def test_a_final_answer_is_not_repeated(server: FileServer, tmp_path: Path, code: int) -> None:
    server.always = status(code)
    with pytest.raises(DownloadFailed, match=str(code)) as caught:
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert not isinstance(caught.value, Unreachable)
    assert len(server.seen) == 1
    assert names(tmp_path) == []


def test_redirects_lead_neither_to_files_nor_round_in_circles(
    server: FileServer, tmp_path: Path
) -> None:
    server.always = redirect("file:///etc/passwd")
    with pytest.raises(DownloadFailed, match="not https"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    server.always = redirect(server.url("/f.bin"))
    with pytest.raises(DownloadFailed, match="8 redirects"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert names(tmp_path) == []


@pytest.mark.parametrize("where", ["http://[", "http://h:99999999/", "//h:x/", "http://[::1/f"])
def test_a_redirect_to_nonsense_is_told(server: FileServer, tmp_path: Path, where: str) -> None:
    server.always = redirect(where)
    with pytest.raises(DownloadFailed, match="broken address"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)


@pytest.mark.parametrize("url", ["http://[", "http://h:99999999/", "http:///f", "nonsense", ""])
def test_an_address_that_is_none_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadFailed):
        fetch(Remote(url, "f.bin", SIZE, SHA), tmp_path / "f.bin", policy=QUICK)
    assert names(tmp_path) == []


def test_addresses_with_odd_characters_are_quoted(server: FileServer, tmp_path: Path) -> None:
    server.put("/%C3%BC%20x/f.bin", BODY)
    url = server.url("/\u00fc x/f.bin?a=\u00e9&b=%20#part")
    fetch(remote(server, url=url), tmp_path / "f.bin", policy=QUICK)
    assert server.seen[0].path == "/%C3%BC%20x/f.bin?a=%C3%A9&b=%20"


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    class Told(Line):
        def get(self, url: str, headers: object) -> Any:
            answer = type("Reply", (), {})()
            answer.url, answer.status = url, 302
            answer.headers = {"location": "http://elsewhere.example/f"}
            return answer

    source = Source(Remote("https://hub.example/f", "f"))
    with pytest.raises(GivenUp, match="not https"):
        source.open(Told(1), 0, None, None, threading.Event())


def test_a_proxy_is_used_with_its_password(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url("").replace("//", "//me:p%40ss@"))
    fetch(remote(server, url="http://files.invalid/f.bin"), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert server.seen[0].path == "http://files.invalid/f.bin"
    assert server.seen[0].headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
    assert server.seen[0].headers["host"] == "files.invalid"


def test_a_socks_proxy_is_told_as_the_reason(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(DownloadFailed, match="socks5 proxy"):
        fetch(remote(server, url="http://files.invalid/f"), tmp_path / "f.bin", policy=QUICK)


def test_a_compressed_file_is_not_taken_for_the_file(server: FileServer, tmp_path: Path) -> None:
    server.files["/f.bin"].headers["Content-Encoding"] = "gzip"
    with pytest.raises(DownloadFailed, match="compressed"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)


# -- a file that changes


@pytest.mark.parametrize("sha256", [None, hashlib.sha256(OTHER).hexdigest()])
def test_a_file_replaced_on_its_server_meanwhile_comes_anew(
    server: FileServer, tmp_path: Path, sha256: str | None
) -> None:
    def replace_it(request: Request) -> None:
        if len(server.seen) == 4:
            server.put("/f.bin", OTHER)

    server.on_request = replace_it
    told = Told()
    fetch(remote(server, sha256=sha256), tmp_path / "f.bin", progress=told, policy=QUICK)
    assert_right(tmp_path, OTHER)
    assert told.done == sorted(set(told.done))


def test_a_file_that_keeps_changing_is_given_up(server: FileServer, tmp_path: Path) -> None:
    versions = itertools.count()
    server.on_request = lambda _: setattr(server.files["/f.bin"], "etag", f'"{next(versions)}"')
    with pytest.raises(DownloadFailed, match="changes on the server"):
        fetch(remote(server, sha256=None), tmp_path / "f.bin", policy=QUICK)


def test_a_replaced_file_is_told_when_its_hash_was_wanted(
    server: FileServer, tmp_path: Path
) -> None:
    def replace_it(request: Request) -> None:
        if len(server.seen) == 4:
            server.put("/f.bin", OTHER)

    server.on_request = replace_it
    with pytest.raises(DownloadFailed, match="wrong content") as caught:
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert "replaced on its server" in caught.value.remedy
    assert names(tmp_path) == []


def test_several_etags_for_one_content_do_no_harm_where_a_hash_is_known(
    server: FileServer, tmp_path: Path
) -> None:
    versions = itertools.count()
    server.on_request = lambda _: setattr(server.files["/f.bin"], "etag", f'"{next(versions)}"')
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert server.sent == SIZE


def test_a_file_of_another_size_than_promised_is_not_fetched(
    server: FileServer, tmp_path: Path
) -> None:
    server.put("/f.bin", BODY + b"more")
    with pytest.raises(DownloadFailed, match="bytes of it, not"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert names(tmp_path) == []


def test_a_registry_that_names_another_digest_is_believed_at_once(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["/f.bin"].etag = f'"sha256:{"0" * 64}"'
    with pytest.raises(DownloadFailed, match="another file now"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert names(tmp_path) == []
    server.files["/f.bin"].etag = f'"sha256:{SHA}"'
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)


def test_a_paused_file_without_a_hash_goes_on_only_if_it_is_the_same(
    server: FileServer, tmp_path: Path
) -> None:
    unhashed = remote(server, sha256=None)
    pause_after(8 * MIB, server, tmp_path, remote=unhashed)
    fetch(unhashed, tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert server.sent < SIZE + 2 * PIECE
    (tmp_path / "f.bin").unlink()
    pause_after(8 * MIB, server, tmp_path, remote=unhashed)
    server.put("/f.bin", OTHER)
    fetch(unhashed, tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path, OTHER)


# -- pause, cancel, resume


def test_a_pause_ends_within_a_fifth_of_a_second_and_loses_nothing(
    server: FileServer, tmp_path: Path
) -> None:
    server.always = stall_after(2 * MIB)
    cancel = threading.Event()
    set_at: list[float] = []

    def stop(done: int) -> None:
        if done >= 4 * MIB and not set_at:
            cancel.set()
            set_at.append(time.monotonic())

    with pytest.raises(Cancelled):
        fetch(remote(server), tmp_path / "f.bin", progress=Told(stop), cancel=cancel, policy=QUICK)
    assert time.monotonic() - set_at[0] < 0.2
    server.always = None
    told = Told()
    before = server.sent
    fetch(remote(server), tmp_path / "f.bin", progress=told, policy=QUICK)
    assert_right(tmp_path)
    assert server.sent - before == SIZE - 4 * MIB, "even half pieces are gone on with"
    assert told.done[0] >= 4 * MIB


def test_a_cancel_ends_the_pause_that_a_server_asked_for(
    server: FileServer, tmp_path: Path
) -> None:
    server.always = status(503, Retry_After="60")
    cancel = threading.Event()
    server.on_request = lambda _: threading.Timer(0.1, cancel.set).start()
    with pytest.raises(Cancelled):
        fetch(remote(server), tmp_path / "f.bin", cancel=cancel)
    discard(tmp_path / "f.bin")
    assert names(tmp_path) == []


def test_discard_leaves_nothing_of_a_cancelled_transfer(server: FileServer, tmp_path: Path) -> None:
    pause_after(8 * MIB, server, tmp_path)
    assert names(tmp_path) == ["f.bin.part", "f.bin.part.map"]
    discard(tmp_path / "f.bin")
    assert names(tmp_path) == []
    discard(tmp_path / "f.bin")
    discard(tmp_path / "gone" / "f.bin")


def test_a_listener_that_fails_ends_the_transfer(server: FileServer, tmp_path: Path) -> None:
    def fail(done: int, total: int | None) -> None:
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        fetch(remote(server), tmp_path / "f.bin", progress=fail, policy=QUICK)
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)


def garbage_maps() -> dict[str, bytes]:
    good: dict[str, Any] = {
        "v": 1, "size": SIZE, "sha256": SHA, "piece": PIECE, "validator": None,
        "crc32": "-" * 48, "begun": [],
    }  # fmt: skip
    wrong = {
        "other size": {"size": SIZE + 1},
        "other hash": {"sha256": "0" * 64},
        "other piece": {"piece": MIB},
        "too few": {"crc32": "-" * 8},
        "no hex": {"crc32": "z" * 48},
        "lies": {"crc32": "00000000" * 6},
        "far": {"begun": [[7, 1, 1]]},
        "much": {"begun": [[0, PIECE + 1, 1]]},
        "lying start": {"begun": [[0, PIECE, 1], [5, 1000, 2]]},
        "flat": {"begun": [1]},
        "types": {"size": "a", "begun": None},
        "version": {"v": 2},
    }
    maps = {name: json.dumps(good | change).encode() for name, change in wrong.items()}
    bombs = {"empty": b"", "binary": os.urandom(999), "deep": b"[" * 100_000, "list": b"[]"}
    return maps | bombs | {"huge": b"1" * 5_000_000}


@pytest.mark.parametrize("kind", garbage_maps())
def test_a_garbage_map_is_not_believed(server: FileServer, tmp_path: Path, kind: str) -> None:
    with (tmp_path / "f.bin.part").open("wb") as file:
        file.truncate(SIZE)
    (tmp_path / "f.bin.part.map").write_bytes(garbage_maps()[kind])
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)
    assert server.sent == SIZE


def test_a_part_file_that_became_shorter_is_not_believed(
    server: FileServer, tmp_path: Path
) -> None:
    pause_after(8 * MIB, server, tmp_path)
    os.truncate(tmp_path / "f.bin.part", SIZE // 2)
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)


# -- two at once, and the disk


def test_a_second_transfer_of_one_file_is_refused_while_the_first_runs(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file, "LOCK_WAIT_S", 0.1)
    with_it = PartFile(tmp_path / "f.bin", threading.Event())
    with pytest.raises(DownloadFailed, match="another download of the same file"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    with pytest.raises(DownloadFailed, match="another download of the same file"):
        discard(tmp_path / "f.bin")
    with_it.close()
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert_right(tmp_path)


def test_a_second_transfer_that_waited_takes_what_the_first_brought(
    server: FileServer, tmp_path: Path
) -> None:
    server.bytes_per_s = 20 * MIB
    first = threading.Thread(
        target=fetch, args=(remote(server), tmp_path / "f.bin"), kwargs={"policy": QUICK}
    )
    begun = threading.Event()
    server.on_request = lambda _: begun.set()
    first.start()
    assert begun.wait(10)
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    first.join()
    assert_right(tmp_path)
    assert server.sent == SIZE


def test_a_link_in_the_place_of_the_part_file_is_not_written_through(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "f.bin.part").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"f\.bin\.part"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 40 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_too_little_disk_is_seen_before_a_byte_is_fetched(
    server: FileServer, small_disk: Path
) -> None:
    with pytest.raises(NotEnoughDisk, match="23 MB are needed and 42 MB are free"):
        fetch(remote(server), small_disk / "f.bin", policy=QUICK)  # a margin has to remain
    assert (names(small_disk), server.seen) == ([], [])


def test_a_reservation_that_fails_leaves_no_file(
    server: FileServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file, "DISK_MARGIN_BYTES", -(10**12))
    (small_disk / "ballast").write_bytes(bytes(24 * MIB))
    with pytest.raises(NotEnoughDisk):
        fetch(remote(server), small_disk / "f.bin", policy=QUICK)
    assert (names(small_disk), server.seen) == (["ballast"], [])


def test_a_disk_that_fills_up_is_told_and_with_room_it_goes_on(
    server: FileServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file, "DISK_MARGIN_BYTES", -(10**12))
    monkeypatch.setattr(part_file, "_allocate", lambda fd, size: False)
    (small_disk / "ballast").write_bytes(bytes(24 * MIB))
    with pytest.raises(NotEnoughDisk, match="too full"):
        fetch(remote(server), small_disk / "f.bin", policy=QUICK)
    (small_disk / "ballast").unlink()
    before = server.sent
    fetch(remote(server), small_disk / "f.bin", policy=QUICK)
    assert_right(small_disk)
    assert server.sent - before < SIZE - 8 * MIB


def test_the_space_is_set_aside_at_once(server: FileServer, tmp_path: Path) -> None:
    held: list[int] = []
    server.on_request = lambda _: held.append((tmp_path / "f.bin.part").stat().st_blocks * 512)
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert held[0] >= SIZE


def test_the_map_tells_only_what_was_synced_before(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, write = PartFile.sync, transfer.write_map
    monkeypatch.setattr(PartFile, "sync", lambda self: (order.append("sync"), sync(self))[1])
    monkeypatch.setattr(transfer, "write_map", lambda *a: (order.append("map"), write(*a))[1])
    server.bytes_per_s = 8 * MIB
    fetch(remote(server), tmp_path / "f.bin", connections=2, policy=QUICK)
    assert_right(tmp_path)
    assert len(order) >= 4
    assert order == ["sync", "map"] * (len(order) // 2)


def test_a_limit_holds_for_all_connections_together(server: FileServer, tmp_path: Path) -> None:
    began = time.monotonic()
    fetch(remote(server), tmp_path / "f.bin", limit=Limiter(30e6), policy=QUICK)
    assert time.monotonic() - began > SIZE / 30e6 * 0.8
    assert_right(tmp_path)
