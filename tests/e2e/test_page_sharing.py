"""Sharing and keys by clicks in a real browser, with the chat that goes on."""

from __future__ import annotations

import io
from typing import Any

import pytest
import zxingcpp
from PIL import Image

from tests.e2e import kit
from tests.e2e.test_page import (
    FIRST,
    FIRST_NAME,
    LOADED_MS,
    Opened,
    browser,
    engine,
    opened,
)

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
__all__ = ["browser", "engine", "opened"]


def scanned(code: Any) -> str:
    """What a phone reads from the picture on the screen."""
    picture = Image.open(io.BytesIO(code.screenshot()))
    (found,) = zxingcpp.read_barcodes(picture)
    return str(found.text)


def test_sharing_shows_its_key_once_and_the_chat_goes_on(opened: Opened) -> None:
    page = opened.page
    opened.client.call("change_model_settings", model_id=FIRST, changes=kit.GREEDY)
    opened.use(FIRST_NAME)
    page.get_by_role("link", name="Server").click()
    main = page.get_by_role("main")
    main.get_by_role("switch", name="Share on my network").click()
    expect(main.get_by_text("It is shown only once")).to_be_visible()
    key = main.locator(".sharing pre").inner_text().strip()
    assert key.startswith("lw-")
    expect(main.get_by_text(f"ends in {key[-4:]}")).to_be_visible()
    expect(main.locator(".connect-card")).to_contain_text("YOUR-KEY")

    main.get_by_text("QR code for a phone").click()
    addresses = main.locator(".address code.mono").all_inner_texts()
    codes = main.locator(".sharing svg.qr-code")
    read = {scanned(codes.nth(at)) for at in range(codes.count())}
    assert key in read
    assert read - {key} == {text for text in addresses if "127.0.0.1" not in text}

    page.get_by_role("link", name="Chat").click()
    message = page.get_by_label("Message", exact=True)
    message.fill(kit.SHORT_PROMPT)
    message.press("Enter")
    answer = page.get_by_role("article", name=f"Answer of {FIRST_NAME}")
    expect(answer).to_have_attribute("aria-busy", "false", timeout=LOADED_MS)
    expect(answer.locator(".measured")).to_contain_text("tokens/s", timeout=5_000)

    page.get_by_role("link", name="Server").click()
    expect(main.get_by_text("It is shown only once")).to_be_hidden()
    main.get_by_label("New key for").fill("phone")
    main.get_by_role("button", name="Make a key").click()
    expect(main.get_by_text("This is “phone”")).to_be_visible()
    main.get_by_role("switch", name="Share on my network").click()
    for name in ("first key", "phone"):
        main.get_by_role("button", name=f"Revoke {name}").click()
        expect(main.get_by_role("button", name=f"Revoke {name}")).to_be_hidden()
    kit.wait_for(
        lambda: not opened.client.snapshot()["gateway"]["key_required"], "no key is needed"
    )
    opened.watch.assert_clean()
