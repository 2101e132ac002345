"""An update of the app by clicks: a stand-in of the next version is fetched, tried and used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app_update_kit import (
    engine_of,
    lay_down,
    program_text,
    publisher,
    start,
    until,
    write_settings,
)
from tests.e2e import kit
from tests.e2e.test_page import browser

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
__all__ = ["browser"]

OLD, NEW = "0.1.0", "0.2.0"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are scripts")


@pytest.fixture
def served(home: Path, tmp_path: Path, free_port: int) -> Iterator[Any]:
    """The engine of a copy in a folder of the user's, which was told of a newer version."""
    with publisher(tmp_path / "published") as place:
        keys = (place.public,)
        program = lay_down(tmp_path / "app", program_text(OLD, home, keys))
        place.publish(NEW, program_text(NEW, home, keys), notes_url="https://example.org/0.2.0")
        write_settings(home, free_port, place.url, updates="off")
        process = start(program, "serve")
        try:
            yield engine_of(home, OLD)
        finally:
            process.terminate()
            process.wait(30)


def test_the_next_version_is_a_few_clicks_away(browser: Any, served: Any, home: Path) -> None:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(15_000)
    try:
        page = context.new_page()
        watch = kit.Watch(page)
        kit.enter(page, served)
        page.get_by_role("link", name="Settings").click()
        card = page.locator(".app-update-card")
        card.get_by_role("radio", name="Tell me").click()
        expect(card.get_by_text("Nothing is downloaded before you say so.")).to_be_visible()
        card.get_by_role("button", name="Check now").click()
        expect(card.get_by_role("heading", name=f"Llama Wrangler {NEW} is out")).to_be_visible()
        expect(card).to_contain_text("https://example.org/0.2.0")
        if folder := os.environ.get("LLAMA_WRANGLER_PICTURES"):
            card.screenshot(path=f"{folder}/app-update.png")
        card.get_by_role("button", name=f"Download {NEW}").click()
        expect(card.get_by_text("has passed its own test")).to_be_visible(timeout=60_000)
        watch.assert_clean()
        card.get_by_role("button", name=f"Restart with {NEW}").click()
        new = engine_of(home, NEW)
        until(lambda: new.call("app_update_status")["state"] == "none", "the end of the update")
    finally:
        context.close()
