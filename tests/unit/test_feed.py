"""The release feed against a real loopback server: cached, polite, and never a crash when down."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.release_server import (
    ReleaseServer,
    cut_after,
    recorded,
    release_server,
    says,
    status,
)
from tray_app.engine.errors import DownloadFailed, RuntimeMissing
from tray_app.engine.runtime import feed as feed_module
from tray_app.engine.runtime import feed_request
from tray_app.engine.runtime.feed import DEFAULT_FEED, Feed, blocked_until
from tray_app.engine.runtime.feed_rows import is_trusted, read_release, to_row

NOW = 1_760_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with release_server() as running:
        running.add("b11500", {"llama-b11500-bin-ubuntu-x64.tar.gz": b"1" * 100})
        running.add("b11501", {"llama-b11501-bin-ubuntu-x64.tar.gz": b"2" * 100})
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def feed(server: ReleaseServer, tmp_path: Path, clock: Clock) -> Feed:
    return Feed(server.feed_url, tmp_path, environ={}, clock=clock)


def again(feed: Feed, tmp_path: Path, clock: Clock) -> Feed:
    """As the next run of the engine has it."""
    return Feed(feed.url, tmp_path, environ={}, clock=clock)


def builds(state: Any) -> list[int]:
    return [release.build for release in state.releases]


def test_the_releases_are_told_with_all_that_is_known_of_them(
    feed: Feed, server: ReleaseServer
) -> None:
    state = feed.releases(0)
    assert (state.error, state.checked_at) == (None, NOW)
    assert builds(state) == [11501, 11500]
    newest = state.releases[0]
    assert newest.tag == "b11501"
    assert newest.published_at == 1_791_201_600.0
    assert newest.notes == "notes of b11501"
    assert newest.url == "https://github.com/ggml-org/llama.cpp/releases/tag/b11501"
    (asset,) = newest.assets
    assert asset.name == "llama-b11501-bin-ubuntu-x64.tar.gz"
    assert (asset.size_bytes, len(asset.sha256 or "")) == (100, 64)
    assert asset.url == server.host + server.file_path("b11501", asset.name)
    path, headers = server.seen[0]
    assert path == f"{server.list_path}?per_page=30"
    assert headers["accept"] == "application/vnd.github+json"
    assert "if-none-match" not in headers


def test_a_token_in_the_environment_is_not_sent(
    server: ReleaseServer, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_TOKEN", "GH_TOKEN"):
        monkeypatch.setenv(name, "secret-token")
    feed.releases(0)
    assert "secret-token" not in str(server.seen)
    assert "authorization" not in server.seen[0][1]


def test_it_is_asked_again_only_when_the_answer_is_old(
    feed: Feed, server: ReleaseServer, clock: Clock
) -> None:
    feed.releases(3600)
    clock.now += 3599
    assert builds(feed.releases(3600)) == [11501, 11500]
    assert len(server.seen) == 1
    clock.now += 2
    feed.releases(3600)
    assert len(server.seen) == 2
    clock.now -= 7200  # a clock that went back: the age is not known
    feed.releases(3600)
    assert len(server.seen) == 3


def test_an_unchanged_feed_answers_304_and_counts_as_checked(
    feed: Feed, server: ReleaseServer, tmp_path: Path, clock: Clock
) -> None:
    first = feed.releases(0)
    clock.now += 100
    second = feed.releases(0)
    assert second == dataclasses.replace(first, checked_at=NOW + 100)
    assert server.seen[1][1]["if-none-match"].startswith('"')
    # The next run knows the ETag too, and when it was checked.
    third = again(feed, tmp_path, clock)
    assert third.known() == second
    clock.now += 100
    assert builds(third.releases(0)) == [11501, 11500]
    assert server.seen[2][1]["if-none-match"] == server.seen[1][1]["if-none-match"]
    server.add("b11502", {})
    assert builds(third.releases(0)) == [11502, 11501, 11500]


def test_known_asks_nobody(feed: Feed, server: ReleaseServer) -> None:
    state = feed.known()
    assert (state.releases, state.checked_at, state.error) == ((), None, None)
    assert server.seen == []


def test_a_feed_that_is_down_leaves_what_was_known_and_a_remedy(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with release_server() as server:
        server.add("b11500", {})
        feed = Feed(server.feed_url, tmp_path, environ={}, clock=clock)
        before = feed.releases(0)
    clock.now += 10
    state = feed.releases(5)
    assert (state.releases, state.checked_at) == (before.releases, NOW)
    assert state.error is not None
    assert state.error.code == "download_failed"
    assert "refused" in state.error.message
    assert "build it from source" in state.error.remedy
    assert feed.known() == state


def test_a_feed_that_was_never_there_tells_nothing_but_the_error(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}/repos/x/y"
        state = Feed(url, tmp_path, environ={}, clock=clock).releases(0)
    assert (state.releases, state.checked_at) == ((), None)
    assert state.error is not None
    assert "secret" not in state.error.message


def test_an_error_ends_with_the_next_good_answer(feed: Feed, server: ReleaseServer) -> None:
    server.faults[server.list_path] = [status(502)]
    error = feed.releases(0).error
    assert error is not None
    assert "it said 502" in error.message
    assert feed.releases(0).error is None
    assert feed.known().error is None


def test_a_rate_limit_is_remembered_and_nothing_is_asked_before_its_end(
    feed: Feed, server: ReleaseServer, tmp_path: Path, clock: Clock
) -> None:
    feed.releases(0)
    limit = {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": str(int(NOW) + 1800)}
    # The date of the answer is the server's clock, which may differ from ours.
    limit["Date"] = formatdate(NOW, usegmt=True)
    server.faults[server.list_path] = [status(403, **limit)]
    clock.now += 1
    state = feed.releases(0)
    assert builds(state) == [11501, 11500]
    assert state.error is not None
    assert time.strftime("%H:%M", time.localtime(NOW + 1801)) in state.error.message
    assert "build it from source" in state.error.remedy
    for same in (feed, again(feed, tmp_path, clock)):
        clock.now = NOW + 1700
        assert same.releases(0).error is not None
        with pytest.raises(DownloadFailed, match="no more requests"):
            same.release(1)
    assert len(server.seen) == 2
    clock.now = NOW + 1802
    assert feed.releases(0).error is None
    assert len(server.seen) == 3


def test_the_last_request_of_an_hour_is_the_last_one_asked(
    feed: Feed, server: ReleaseServer, clock: Clock
) -> None:
    body = server.content(server.list_path)
    assert body is not None
    limit = {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": str(int(NOW) + 60)}
    server.faults[server.list_path] = [says(body, Date=formatdate(NOW, usegmt=True), **limit)]
    state = feed.releases(0)
    assert (builds(state), state.error) == ([11501, 11500], None)
    assert feed.releases(0).error is not None
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("code", "headers", "wait_s"),
    [
        (200, {}, None),
        (403, {}, None),  # another reason: it is told as such
        (429, {}, 60),
        (429, {"retry-after": "7"}, 7),
        (403, {"retry-after": "7", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}, 7),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 90)}, 90),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) - 90)}, 1),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"}, None),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9" * 12}, 24 * 3600),
        (429, {"retry-after": "9" * 300}, 24 * 3600),
        (429, {"retry-after": "tomorrow"}, 60),
        (200, {"x-ratelimit-remaining": "41", "x-ratelimit-reset": str(int(NOW) + 90)}, None),
    ],
)
def test_the_wait_is_what_the_headers_say_within_a_day(
    code: int, headers: dict[str, str], wait_s: float | None
) -> None:
    until = blocked_until(code, headers, NOW)
    assert until == (None if wait_s is None else NOW + wait_s)


def test_a_refusal_that_is_no_rate_limit_is_told_as_it_is(
    feed: Feed, server: ReleaseServer
) -> None:
    server.faults[server.list_path] = [status(403)]
    error = feed.releases(0).error
    assert error is not None
    assert "it said 403" in error.message
    assert feed.releases(0).error is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON"),
        (b"<html>sign in to this network</html>", "no JSON"),
        (b'[{"tag_name": "b1', "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 200_000, "no JSON"),
        (b"{}", "not a list"),
        (b"null", "not a list"),
        (b"[]", "lists no release"),
        (b"[1, null, [], {}]", "lists no release"),
        (b'[{"tag_name": "v0.6.0", "assets": []}]', "lists no release"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_garbage_leaves_what_was_known(
    feed: Feed, server: ReleaseServer, body: bytes, reason: str
) -> None:
    before = feed.releases(0)
    server.faults[server.list_path] = [says(body)]
    state = feed.releases(0)
    assert state.releases == before.releases
    assert state.error is not None
    assert reason in state.error.message
    assert feed.releases(0).error is None


def test_a_body_without_end_is_cut_off(feed: Feed, server: ReleaseServer) -> None:
    server.faults[server.list_path] = [says(b" " * (feed_request.MAX_BODY_BYTES + 1))]
    error = feed.releases(0).error
    assert error is not None
    assert "more than 8 MiB" in error.message


def test_a_body_that_breaks_off_is_no_answer(feed: Feed, server: ReleaseServer) -> None:
    server.faults[server.list_path] = [cut_after(200)]
    assert feed.releases(0).error is not None


def test_a_body_that_takes_too_long_is_no_answer(
    feed: Feed, server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_request, "WHOLE_S", 0.0)
    error = feed.releases(0).error
    assert error is not None
    assert "took longer" in error.message


def test_odd_rows_and_fields_are_passed_over(feed: Feed, server: ReleaseServer) -> None:
    good = recorded("b7902")
    server.rows = [
        {**good, "tag_name": "b7903", "draft": True},
        {**good, "tag_name": "b7904", "published_at": "yesterday", "body": None, "assets": None},
        {**good, "tag_name": "B7905"},
        {**good, "tag_name": "b" + "9" * 40},
        {**good, "tag_name": "v0.6.0"},  # a version: it only names a build
        {"tag_name": "b7901"},
        {**good, "body": "\ud800" + "x" * 50_000, "html_url": "javascript:alert(1)"},
        {**good, "body": "the same build again"},
    ]
    state = feed.releases(0)
    assert state.error is None
    assert builds(state) == [7904, 7902, 7901]
    assert (state.releases[0].published_at, state.releases[0].notes) == (None, "")
    assert state.releases[0].assets == ()
    assert (len(state.releases[1].notes), state.releases[1].url) == (20_000, "")
    assert len(state.releases[1].assets) == 20
    assert state.releases[2].assets == ()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../evil.tar.gz"},
        {"name": "a/b.tar.gz"},
        {"name": ".hidden"},
        {"name": "x" * 300},
        {"name": None},
        {"size": -1},
        {"size": "100"},
        {"size": True},
        {"size": None},
        {"browser_download_url": "http://mirror.example/a.tar.gz"},
        {"browser_download_url": "file:///etc/passwd"},
        {"browser_download_url": "ftp://x/y"},
        {"browser_download_url": "https://"},
        {"browser_download_url": "https://[::1/x"},
        {"browser_download_url": None},
        {"state": "starter"},  # its upload has not ended
    ],
    ids=str,
)
def test_an_odd_file_is_passed_over(change: dict[str, object]) -> None:
    row = recorded("b7902")
    row["assets"][0] = {**row["assets"][0], **change}
    found = read_release(row)
    assert found is not None
    assert len(found.assets) == len(row["assets"]) - 1


@pytest.mark.parametrize(
    "digest", [None, "", "sha256:12", "sha512:" + "a" * 128, "md5:" + "a" * 32, 7, "a" * 64]
)
def test_only_a_sha256_counts_as_a_digest(digest: object) -> None:
    row = recorded("b7902")
    row["assets"][0]["digest"] = digest
    row["assets"][1]["digest"] = "sha256:" + "A" * 64
    found = read_release(row)
    assert found is not None
    assert [asset.sha256 for asset in found.assets[:2]] == [None, "a" * 64]


def test_a_release_survives_the_cache_unchanged() -> None:
    row = recorded("b11459") | {"published_at": "2026-10-05T12:00:00Z", "body": "new\n* things"}
    found = read_release(row)
    assert found is not None
    assert read_release(json.loads(json.dumps(to_row(found)))) == found


@pytest.mark.parametrize("damage", ["cut", "noise", "other", "huge", "odd", "deep"])
def test_a_broken_cache_file_is_ignored(
    feed: Feed, server: ReleaseServer, tmp_path: Path, clock: Clock, damage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    feed.releases(0)
    (file,) = tmp_path.glob("releases-*.json")
    data = file.read_bytes()
    row = json.loads(data)
    if damage == "huge":
        monkeypatch.setattr(feed_module, "MAX_CACHE_BYTES", 100)
    file.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "noise": b"\xff\x00" * 50,
            "other": json.dumps(row | {"url": "https://other.example"}).encode(),
            "huge": data,
            "odd": json.dumps(row | {"checked_at": "noon"}).encode(),
            "deep": b"[" * 200_000,
        }[damage]
    )
    second = again(feed, tmp_path, clock)
    assert second.known().releases == ()
    assert builds(second.releases(3600)) == [11501, 11500]
    assert "if-none-match" not in server.seen[-1][1]


def test_a_cache_that_cannot_be_written_is_no_failure(
    server: ReleaseServer, tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "file").write_text("not a folder")
    feed = Feed(server.feed_url, tmp_path / "file" / "below", environ={}, clock=clock)
    assert builds(feed.releases(0)) == [11501, 11500]
    assert builds(feed.releases(3600)) == [11501, 11500]
    assert len(server.seen) == 1


def test_a_chosen_build_is_known_or_asked_for_by_its_tag(feed: Feed, server: ReleaseServer) -> None:
    feed.releases(0)
    assert feed.release(11500).tag == "b11500"
    assert len(server.seen) == 1
    server.add("b9000", {"a.zip": b"1"})
    assert feed.release(9000).assets[0].name == "a.zip"
    assert server.seen[-1][0] == f"{server.list_path}/tags/b9000"
    with pytest.raises(RuntimeMissing, match="no release b1234"):
        feed.release(1234)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"tag_name": "b8"}', b'{"draft": true}'])
def test_another_answer_than_the_chosen_build_is_no_release(
    feed: Feed, server: ReleaseServer, body: bytes
) -> None:
    server.faults[f"{server.list_path}/tags/b7"] = [says(body)]
    with pytest.raises(DownloadFailed):
        feed.release(7)


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("https://api.github.com/repos/ggml-org/llama.cpp", True),
        ("http://127.0.0.1:8000/x", True),
        ("http://[::1]:8000/x", True),
        ("http://localhost/x", True),
        ("http://api.github.com/x", False),
        ("http://127.0.0.1.example.com/x", False),
        ("http://localhost.example.com/x", False),
        ("http://192.168.0.1/x", False),
        ("file:///tmp/releases.json", False),
        ("https:///x", False),
        ("", False),
    ],
)
def test_https_is_demanded_of_all_but_this_machine(url: str, trusted: bool) -> None:
    assert is_trusted(url) is trusted


def test_a_feed_without_https_is_not_asked(tmp_path: Path, clock: Clock) -> None:
    state = Feed("http://releases.example/x", tmp_path, environ={}, clock=clock).releases(0)
    assert state.error is not None
    assert "not an https address" in state.error.message


def test_a_feed_that_leads_elsewhere_without_https_is_not_believed(
    feed: Feed, server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = server.host.replace("127.0.0.1", "localhost") + "/moved"
    server.files["/moved"] = server.content(server.list_path) or b""
    server.faults[server.list_path] = [status(302, Location=moved)] * 2
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    assert builds(feed.releases(0)) == [11501, 11500], "a redirect as such is fine"
    real = feed_request.is_trusted
    monkeypatch.setattr(feed_request, "is_trusted", lambda url: "moved" not in url and real(url))
    error = feed.releases(0).error
    assert error is not None
    assert "not https" in error.message


def test_the_environment_overrides_the_setting_and_the_setting_the_default(
    tmp_path: Path,
) -> None:
    assert Feed(None, tmp_path, environ={}).url == DEFAULT_FEED
    assert Feed("https://a.example/x/", tmp_path, environ={}).url == "https://a.example/x"
    environ = {"LLAMA_WRANGLER_FEED": "https://b.example/y"}
    assert Feed("https://a.example/x", tmp_path, environ=environ).url == "https://b.example/y"
    assert list(tmp_path.iterdir()) == []


def test_two_feeds_do_not_share_what_is_kept(
    feed: Feed, server: ReleaseServer, tmp_path: Path, clock: Clock
) -> None:
    feed.releases(0)
    other = Feed("https://other.example/x", tmp_path, environ={}, clock=clock)
    assert other.known().releases == ()
