"""Headers of GGUF files on a server: one small request as a rule, a bounded end to every lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import file_server as faults
from tests import gguf_maker as maker
from tests.file_server import FileServer, Handler
from tray_app.engine.downloads import remote_header
from tray_app.engine.downloads.retry import RetryPolicy, Unreachable
from tray_app.engine.downloads.values import Remote
from tray_app.engine.errors import BadGguf, Cancelled, DownloadFailed

POLICY = RetryPolicy(attempts=3, first_pause_s=0.0)
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def server() -> Iterator[FileServer]:
    with faults.file_server() as server:
        yield server


def model(size: int = 40 * MIB, **traits: Any) -> bytes:
    """A model file of `size` bytes whose tensors nobody reads."""
    header, _ = maker.gguf_bytes(maker.llama_keys(**traits))
    return header + bytes(size - len(header))


def remote(server: FileServer, path: str = "/m.gguf", size: int | None = None) -> Remote:
    return Remote(server.url(path), path[1:], size)


def peek(remote: Remote, **options: Any) -> remote_header.Peeked:
    return remote_header.peek(remote, policy=POLICY, **options)


def test_one_request_of_64_kib_tells_the_shape_of_a_large_model(server: FileServer) -> None:
    server.put("/m.gguf", model(layers=32, kv_heads=8, embedding=4096, heads=32, tokens=50_000))
    header = remote_header.read(remote(server, size=40 * MIB))
    assert (header.architecture, header.context_length) == ("llama", 4096)
    assert header.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert [each.range for each in server.seen] == ["bytes=0-65535"]
    assert server.seen[0].headers["accept-encoding"] == "identity"


def test_keys_that_take_more_are_read_on_in_doubling_steps(server: FileServer) -> None:
    server.put("/m.gguf", model(more={"general.description": "x" * 200_000}))
    assert remote_header.read(remote(server, size=40 * MIB)).context_length == 4096
    ranges = ["bytes=0-65535", "bytes=65536-131071", "bytes=131072-262143"]
    assert [each.range for each in server.seen] == ranges
    assert len({each.connection for each in server.seen}) == 1


def test_no_more_than_16_mib_are_read_whatever_a_header_claims(server: FileServer) -> None:
    server.put("/m.gguf", model(more={"general.description": "x" * (20 * MIB)}))
    with pytest.raises(BadGguf, match="16,777,216"):
        peek(remote(server, size=40 * MIB))
    assert (len(server.seen), server.seen[-1].range) == (9, "bytes=8388608-16777215")


def test_a_server_without_ranges_is_not_made_to_send_a_whole_model(server: FileServer) -> None:
    size = 200 * MIB
    server.put("/m.gguf", model(size), ranges=False)
    assert peek(remote(server, size=size)).header.architecture == "llama"
    # What stood in the sockets' buffers when the connection was closed may have gone out too.
    assert server.sent < 30 * MIB


def test_a_server_without_ranges_is_read_on_from_the_start(server: FileServer) -> None:
    server.put("/m.gguf", model(more={"general.description": "x" * 100_000}), ranges=False)
    assert peek(remote(server, size=40 * MIB)).header.context_length == 4096
    assert len(server.seen) == 2


@pytest.mark.parametrize("answer", [faults.right, faults.ignore_range, faults.chunked])
def test_a_file_of_unknown_size_is_read_and_measured(
    server: FileServer, answer: faults.Answer
) -> None:
    body = model(3 * MIB)
    server.put("/m.gguf", body)
    server.always = answer
    peeked = peek(remote(server))
    assert peeked.header.context_length == 4096
    assert peeked.size_bytes == (None if answer is faults.chunked else len(body))


def test_a_small_file_is_read_whole(server: FileServer) -> None:
    header, size = maker.gguf_bytes()
    server.put("/m.gguf", header + bytes(size - len(header)))
    assert peek(remote(server, size=size)).header.context_length == 4096
    assert server.seen[0].range == f"bytes=0-{size - 1}"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>Sign in</html>" + bytes(100_000), "is text"),
        (bytes(100_000), "begins with zeros"),
        (maker.gguf_bytes(version=9)[0] + bytes(100_000), "version 9"),
        (maker.gguf_bytes(key_count=1 << 40)[0] + bytes(100_000), "claims"),
        (b"GGUF", "4 bytes"),
    ],
)
def test_what_is_no_header_is_told_after_one_request(
    server: FileServer, body: bytes, why: str
) -> None:
    server.put("/m.gguf", body)
    with pytest.raises(BadGguf, match=why):
        peek(remote(server, size=len(body)))
    assert len(server.seen) == 1


def test_a_body_without_an_end_is_left(server: FileServer) -> None:
    head = maker.gguf_bytes(maker.llama_keys(more={"general.description": "x" * (17 * MIB)}))[0]

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(head[: 2 * MIB])
        while True:
            handler.wfile.write(bytes(64 * KIB))

    server.always = endless
    with pytest.raises(BadGguf):
        peek(remote(server))
    assert len(server.seen) <= 9


def test_a_line_that_is_cut_is_taken_up_where_it_was(server: FileServer) -> None:
    server.put("/m.gguf", model())
    server.faults = [faults.cut_after(10_000), faults.reset_after(0), faults.right]
    assert peek(remote(server, size=40 * MIB)).header.context_length == 4096
    assert [each.range for each in server.seen][::2] == ["bytes=0-65535", "bytes=10000-65535"]


def test_a_line_that_is_always_cut_is_unreachable(server: FileServer) -> None:
    server.put("/m.gguf", model())
    server.always = faults.cut_after(0)
    with pytest.raises(Unreachable, match=r"m\.gguf could not be read: .*closed") as caught:
        peek(remote(server, size=40 * MIB))
    assert caught.value.remedy
    assert len(server.seen) == POLICY.attempts


def test_a_server_that_wants_fewer_questions_gets_no_second_one(server: FileServer) -> None:
    server.always = faults.status(429, Retry_After="60")
    with pytest.raises(Unreachable, match="429"):
        peek(remote(server, size=40 * MIB))
    assert len(server.seen) == 1


def test_another_file_than_the_listed_one_is_no_model_of_ours(server: FileServer) -> None:
    server.put("/m.gguf", model())
    with pytest.raises(DownloadFailed, match="changed"):
        peek(remote(server, size=39 * MIB))


def test_a_server_that_stalls_is_left_after_the_time_that_a_page_waits(
    server: FileServer,
) -> None:
    server.put("/m.gguf", model())
    server.always = faults.stall_after(100)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="took over"):
        peek(remote(server, size=40 * MIB), whole_s=0.2)
    assert time.monotonic() - began < 5


def test_a_cancel_ends_the_waiting(server: FileServer) -> None:
    server.put("/m.gguf", model())
    server.always = faults.stall_after(100)
    cancel = threading.Event()
    server.on_request = lambda request: cancel.set()
    with pytest.raises(Cancelled):
        peek(remote(server, size=40 * MIB), cancel=cancel)


def test_a_token_is_not_sent_to_another_origin(server: FileServer) -> None:
    with faults.file_server() as cdn:
        cdn.put("/signed", model())
        server.always = faults.redirect(cdn.url("/signed"))
        asked = Remote(server.url("/m.gguf"), "m.gguf", 40 * MIB, None, {"Authorization": "secret"})
        assert peek(asked).header.context_length == 4096
        assert server.seen[0].headers["authorization"] == "secret"
        assert "authorization" not in cdn.seen[0].headers
