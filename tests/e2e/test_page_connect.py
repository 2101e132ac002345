"""The Connect page by clicks in a real browser: its tests ask the real model in each protocol."""

from __future__ import annotations

import pytest

from tests.e2e import kit
from tests.e2e.test_page import (
    FIRST,
    FIRST_NAME,
    LOADED_MS,
    SECOND,
    Opened,
    browser,
    engine,
    opened,
)

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
__all__ = ["browser", "engine", "opened"]


def test_every_protocol_is_tested_for_real_and_says_what_came(opened: Opened) -> None:
    page = opened.page
    opened.client.call("change_model_settings", model_id=FIRST, changes=kit.GREEDY)
    opened.use(FIRST_NAME)
    opened.client.call("create_api_key", name="programs")
    page.get_by_role("link", name="Connect").click()
    main = page.get_by_role("main")
    expect(main.get_by_label("curl settings", exact=True)).to_contain_text("Bearer YOUR-KEY")
    for program in ("curl", "Codex", "Claude Code", "Ollama programs"):
        main.get_by_role("tab", name=program, exact=True).click()
        expect(main.get_by_role("heading", name=program, exact=True)).to_be_visible()
        main.get_by_role("button", name="Test now").click()
        expect(main.get_by_text("It works: an answer in")).to_be_visible(timeout=LOADED_MS)
        expect(main.locator(".test-answer")).not_to_be_empty()
    expect(main.get_by_label("Ollama programs settings", exact=True)).to_contain_text("Bearer")

    tabs = main.get_by_role("tablist", name="Program")
    tabs.get_by_role("tab", name="Ollama programs").press("ArrowDown")
    expect(tabs.get_by_role("tab", name="Open WebUI")).to_have_attribute("aria-selected", "true")
    main.get_by_label("Model", exact=True).select_option(SECOND)
    tabs.get_by_role("tab", name="Claude Code").click()
    expect(main.get_by_label("Claude Code settings", exact=True)).to_contain_text(SECOND)
    opened.watch.assert_clean()


def test_a_test_can_be_stopped_and_a_refusal_is_told(opened: Opened) -> None:
    page = opened.page
    page.get_by_role("link", name="Connect").click()
    main = page.get_by_role("main")
    main.get_by_label("Model", exact=True).select_option(FIRST)
    page.route("**/v1/chat/completions", lambda route: None)  # a server that never answers
    main.get_by_role("button", name="Test now").click()
    main.get_by_role("button", name="Stop").click()
    expect(main.get_by_role("button", name="Test now")).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=502, json={"error": {"message": "It was killed.", "remedy": "Try again."}}
        ),
    )
    main.get_by_role("button", name="Test now").click()
    expect(main.get_by_role("alert")).to_contain_text("It was killed.Try again.")
