"""Discover and Downloads in a real browser: real engine, real weights, a loopback Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import parts
from tests.e2e import kit
from tests.e2e.test_page import Opened, browser, opened_page
from tests.hub_server import HubServer, Listed, hub_server

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
__all__ = ["browser"]

REPO = "herders/SmolLM2-135M-Instruct-GGUF"
HOSTILE = '<img src=x onerror="alert(1);window.hacked=1">'
CARD = f"""---
license: mit
---
# Its card {HOSTILE}

[a link](javascript:alert(1)) ![a picture](https://elsewhere.example/x.png)
"""
SLOW_BYTES_S = 2_000_000


@pytest.fixture
def hub(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    told = {"likes": 12, "downloads": 12345, "gguf": {"total": 134515008, "context_length": 8192}}
    with hub_server() as server:
        files = {parts.SMOLLM2_FILE: smollm2, "Huge.F16.gguf": Listed(10**12)}
        server.put(
            REPO,
            {**files, "README.md": CARD.encode(), f"{parts.SMOLLM2_FILE}.imatrix": b"x"},
            card={"license": "apache-2.0"},
            tags=["gguf", "license:apache-2.0", HOSTILE],
            more=told,
        )
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def opened(
    home: Path, free_port: int, hub: HubServer, llama_server: Path, browser: Any
) -> Iterator[Opened]:
    runtime = {"server_path": str(llama_server), "auto_build": False}
    kit.write_settings(home, server={"port": free_port}, runtime=runtime)
    with kit.running_engine(home) as client:
        yield from opened_page(browser, client)


def go(opened: Opened, name: str) -> None:
    opened.page.get_by_role("link", name=name, exact=False).first.click()
    expect(opened.page.get_by_role("heading", level=1, name=name)).to_be_visible()


def test_a_model_is_found_looked_at_downloaded_and_used(opened: Opened, hub: HubServer) -> None:
    page = opened.page
    go(opened, "Discover")
    first = page.get_by_role("region", name="First models for this computer")
    expect(first.get_by_role("listitem").first).to_contain_text("parameters")
    page.get_by_role("combobox", name="Search Hugging Face").fill("smollm2")
    page.get_by_role("button", name="SmolLM2-135M-Instruct-GGUF").click()
    drawer = page.get_by_role("complementary", name="SmolLM2-135M-Instruct-GGUF")
    offer = drawer.get_by_role("listitem").filter(has_text="Q4_1")
    expect(offer).to_contain_text("recommended")
    expect(offer).to_contain_text("8,192 tokens of context")
    expect(drawer.get_by_role("listitem").filter(has_text="F16")).to_contain_text("Too large")
    drawer.get_by_label("How it would run here").select_option("4096")
    expect(offer).to_contain_text("4,096 tokens of context")
    expect(drawer.get_by_text("Its card <img")).to_have_count(1)  # text, and no element
    opened.client.call("change_settings", changes={"downloads.limit_bytes_s": SLOW_BYTES_S})
    offer.get_by_role("button", name="Download Q4_1").click()
    expect(offer.get_by_role("link", name="Downloading")).to_be_visible()
    offer.get_by_role("link", name="Downloading").click()

    row = page.get_by_role("listitem").filter(has_text="SmolLM2-135M-Instruct-GGUF Q4_1")
    expect(row).to_contain_text("left")
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("Paused")
    row.get_by_role("button", name="Resume").click()
    expect(row).to_contain_text("Downloading")
    opened.client.call("change_settings", changes={"downloads.limit_bytes_s": None})
    use = page.get_by_role("region", name="Finished").get_by_role("button", name="Use")
    # The first model is the active one by itself.
    in_use = page.get_by_role("region", name="Finished").get_by_role("button", name="In use")
    expect(use.or_(in_use).first).to_be_visible(timeout=60_000)
    assert [m["quantization"] for m in opened.client.snapshot()["models"]] == ["Q4_1"]


def test_the_question_before_a_download_shows_what_it_comes_to(opened: Opened) -> None:
    page = opened.page
    page.evaluate(f"location.hash = '#/models?reference={REPO.replace('/', '%2F')}'")
    dialog = page.get_by_role("dialog", name="Get a model")
    expect(dialog).to_contain_text("apache-2.0")
    expect(dialog).to_contain_text(parts.SMOLLM2_FILE)
    expect(dialog).to_contain_text("that are free")
    assert "reference" not in page.url  # a reload does not ask again
    dialog.get_by_label("Name or address").fill("org/nothing")
    expect(dialog.get_by_role("alert")).to_contain_text("There is no org/nothing")
    expect(dialog.get_by_role("button", name="Download")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert opened.client.snapshot()["downloads"] == []


def test_a_failed_download_says_why_and_leaves_the_list(opened: Opened) -> None:
    page = opened.page
    opened.client.call("pull", reference="org/nothing")
    go(opened, "Downloads")
    row = page.get_by_role("listitem").filter(has_text="org/nothing")
    expect(row.get_by_role("alert")).to_contain_text("There is no org/nothing")
    row.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="Models you download appear here")).to_be_visible()


def test_a_hub_that_is_away_is_said_and_asked_again(opened: Opened, hub: HubServer) -> None:
    page = opened.page
    hub.questions_left = 0
    go(opened, "Discover")
    expect(page.get_by_role("alert")).to_contain_text("too many questions")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_the_settings_of_downloads_are_saved_and_judged(opened: Opened) -> None:
    page = opened.page
    go(opened, "Settings")
    limit = page.get_by_label("Speed limit")
    limit.fill("2.5")
    limit.press("Enter")
    kit.wait_for(
        lambda: opened.client.snapshot()["settings"]["downloads"]["limit_bytes_s"] == 2_500_000,
        "the limit",
    )
    page.get_by_label("At a time").fill("99")
    page.get_by_label("At a time").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("1 to 8 downloads")
    page.get_by_label("Hugging Face token").fill("two words")
    page.get_by_role("button", name="Keep in the keychain").click()
    expect(page.get_by_text("This cannot be a token")).to_be_visible()


def test_a_downloaded_model_is_deleted_from_its_details(opened: Opened, smollm2: Path) -> None:
    client = opened.client
    client.call("pull", reference=REPO)
    kit.wait_for(lambda: client.snapshot()["models"], "the model", 60)
    drawer = opened.drawer("SmolLM2-135M-Instruct")
    expect(drawer).to_contain_text("apache-2.0")
    client.call("unload_model")
    delete = drawer.get_by_role("button", name="Delete from this computer")
    expect(delete).to_be_enabled(timeout=30_000)
    delete.click()
    opened.page.get_by_role("dialog").get_by_role("button", name="Delete 98").click()
    kit.wait_for(lambda: not client.snapshot()["models"], "the end of the model")
    assert list((Path(client.snapshot()["home"]) / "models").iterdir()) == []


@pytest.mark.parametrize("width", [480, 760, 1600])
def test_the_pages_never_scroll_sideways(opened: Opened, width: int) -> None:
    page = opened.page
    page.set_viewport_size({"width": width, "height": 700})
    opened.client.call("pull", reference="org/" + "long-name-" * 9 + "x")
    for name in ("Discover", "Downloads"):
        page.evaluate(f"location.hash = '#/{name.lower()}'")
        expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
        if name == "Discover":
            page.get_by_role("button", name="SmolLM2-135M-Instruct-GGUF").click()
            expect(page.get_by_role("complementary")).to_contain_text("Q4_1")
        wide = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide == 0, name
