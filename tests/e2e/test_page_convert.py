"""Quantizing from a model's details, in a real browser, with the real tool."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e import kit
from tests.e2e.test_page import FIRST_NAME, Opened, browser, engine, opened

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
__all__ = ["browser", "engine", "opened"]


def test_a_quantization_is_chosen_by_its_size_and_comes_into_the_list(opened: Opened) -> None:
    page, client = opened.page, opened.client
    opened.drawer(FIRST_NAME).get_by_role("button", name="Quantize").click()
    dialog = page.get_by_role("dialog", name=f"Quantize {FIRST_NAME}")
    expect(dialog).to_contain_text("It is Q4_1 already")
    expect(dialog.get_by_role("checkbox", name="Q4_1")).to_be_disabled()
    start = dialog.get_by_role("button", name="Start")
    expect(start).to_be_disabled()
    dialog.get_by_role("checkbox", name="Q8_0").check()
    expect(dialog).to_contain_text("1 file, 14")
    start.click()
    expect(dialog).to_have_count(0)

    def quantizations() -> set[str]:
        found: list[dict[str, Any]] = client.snapshot()["models"]
        return {str(model["quantization"]) for model in found}

    kit.wait_for(lambda: "Q8_0" in quantizations(), "the new model", 60)
    expect(opened.row(FIRST_NAME)).to_have_count(2)
    opened.watch.assert_clean()
