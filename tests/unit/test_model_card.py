"""A repository's README: bounded, without front matter, and nothing in it that hides or breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import hub_server as fixture
from tests.hub_server import HubServer
from tray_app.engine.downloads.hub_request import HubRequests
from tray_app.engine.downloads.huggingface import HuggingFace
from tray_app.engine.downloads.model_card import MOST_BYTES, fetch_card, plain_markdown
from tray_app.engine.downloads.retry import RetryPolicy, Unreachable
from tray_app.engine.errors import BadRequest, DownloadFailed

REPO = "herders/Llama-GGUF"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with fixture.hub_server() as server:
        yield server


@pytest.fixture
def hub(server: HubServer) -> HuggingFace:
    policy = RetryPolicy(attempts=2, first_pause_s=0.0)
    requests = HubRequests(server.url, lambda: None, {}, policy=policy)
    return HuggingFace(None, lambda: None, {}, requests=requests)


def test_the_card_is_read_at_the_commit_and_without_its_front_matter(
    server: HubServer, hub: HuggingFace
) -> None:
    body = "---\nlicense: mit\ntags:\n- gguf\n---\n\n# Llama\r\n\nIt spits — ünd läuft.\n"
    repo = server.put(REPO, {"README.md": body.encode(), "m-Q4_0.gguf": b"GGUF"})
    assert fetch_card(hub, REPO) == ("# Llama\n\nIt spits — ünd läuft.", False)
    assert f"GET /{REPO}/resolve/{repo.refs['main']}/README.md" in server.asked()


def test_a_repository_without_a_card_has_an_empty_one(server: HubServer, hub: HuggingFace) -> None:
    server.put(REPO, {"m-Q4_0.gguf": b"GGUF"})
    assert fetch_card(hub, REPO) == ("", False)
    assert fetch_card(hub, "nobody/Nothing") == ("", False)


def test_a_long_card_is_read_up_to_256_kib(server: HubServer, hub: HuggingFace) -> None:
    server.put(REPO, {"README.md": b"a" * (9 << 20)})
    markdown, truncated = fetch_card(hub, REPO)
    assert (len(markdown), truncated) == (MOST_BYTES, True)


def test_a_card_of_just_that_length_is_whole(server: HubServer, hub: HuggingFace) -> None:
    server.put(REPO, {"README.md": b"a" * MOST_BYTES})
    assert fetch_card(hub, REPO) == ("a" * MOST_BYTES, False)


def test_a_body_without_an_end_is_cut_off(server: HubServer, hub: HuggingFace) -> None:
    server.put(REPO, {"README.md": b"#"})
    server.faults = [fixture.right, fixture.endless]
    assert fetch_card(hub, REPO)[1] is True


def test_a_card_behind_a_redirect_is_followed_without_the_token(server: HubServer) -> None:
    server.tokens = {"hf_x"}
    requests = HubRequests(server.url, lambda: "hf_x", {})
    hub = HuggingFace(None, lambda: None, {}, requests=requests)
    server.put(REPO, {"README.md": b"# Here", "other": b"# There"})
    server.blobs["card"] = b"# There"
    server.faults = [fixture.right, fixture.says(302, Location=server.signed("card"))]
    assert fetch_card(hub, REPO) == ("# There", False)
    on_cdn = [each for each in server.seen if each.origin == "cdn"]
    assert "authorization" not in on_cdn[0].headers


@pytest.mark.parametrize("fault", [fixture.cut, fixture.dead, fixture.says(503)])
def test_a_card_that_cannot_be_had_is_an_error(
    server: HubServer, hub: HuggingFace, fault: fixture.Answer
) -> None:
    server.put(REPO, {"README.md": b"#"})
    server.faults = [fixture.right, fault, fault]
    with pytest.raises(Unreachable):
        fetch_card(hub, REPO)


def test_a_gated_card_says_what_to_do(server: HubServer, hub: HuggingFace) -> None:
    server.put(REPO, {"README.md": b"#"}, gated="manual")
    with pytest.raises(DownloadFailed, match="gated") as caught:
        fetch_card(hub, REPO)
    assert "accept" in caught.value.remedy


def test_a_name_that_is_no_repository_is_not_asked_for(server: HubServer, hub: HuggingFace) -> None:
    with pytest.raises(BadRequest):
        fetch_card(hub, "../../etc/passwd")
    assert server.seen == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\xef\xbb\xbf---\na: b\n---\nText", "Text"),
        (b"---\nno end of it", "---\nno end of it"),
        (b"---\na: b\n...\nText", "Text"),
        (b"Text\n---\nnot front\n---\nmore", "Text\n---\nnot front\n---\nmore"),
        (b"bad \xff byte", "bad \ufffd byte"),
        (b"a\x00b\x1b[31mc\x7f\td", "ab[31mc\td"),
        ("a\u202eb\u2066c".encode(), "abc"),
        ("\U0001f999 \u200d ok".encode(), "\U0001f999 \u200d ok"),
        (b"", ""),
    ],
)
def test_what_stands_in_a_card_is_made_plain(body: bytes, text: str) -> None:
    assert plain_markdown(body) == text


def test_a_front_matter_without_an_end_takes_no_time(server: HubServer) -> None:
    body = b"---\n" + b"a: b\n" * 50_000
    assert plain_markdown(body).startswith("---\na: b")
