"""Measuring speed from a model's details, in a real browser and with the real tool."""

from __future__ import annotations

import pytest

from tests.e2e.test_page import FIRST, FIRST_NAME, Opened, browser, engine, opened

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
__all__ = ["browser", "engine", "opened"]

MEASURED_MS = 90_000  # 7 s on two cores at rest


def test_a_speed_is_measured_cancelled_and_held_against_before(opened: Opened) -> None:
    client = opened.client
    args = {"prompt_tokens": 512, "generated_tokens": 128, "repetitions": 1}
    client.call("bench_model", model_id=FIRST, **args)
    drawer = opened.drawer(FIRST_NAME)
    table = drawer.get_by_role("table", name="Measured speed")
    expect(table).to_contain_text("Reading a prompt", timeout=MEASURED_MS)
    expect(drawer).to_contain_text("on ")

    measure = drawer.get_by_role("button", name="Measure speed")
    measure.click()
    expect(drawer.get_by_label("Measuring speed")).to_be_visible()
    drawer.get_by_role("button", name="Cancel").click()
    expect(measure).to_be_enabled(timeout=MEASURED_MS)
    assert len(client.call("bench_history")["runs"]) == 1

    measure.click()
    opened.page.reload()  # the page holds no truth: it finds the measurement again
    drawer = opened.drawer(FIRST_NAME)
    expect(drawer.get_by_label("Measuring speed")).to_be_visible()
    expect(drawer.get_by_role("button", name="Measure speed")).to_be_visible(timeout=MEASURED_MS)
    expect(drawer).to_contain_text("nothing was changed")
    drawer.get_by_text("Earlier measurements").click()
    expect(drawer.get_by_role("region", name="Earlier measurements")).to_contain_text("b11434")
    assert len(client.call("bench_history")["runs"]) == 2
    opened.watch.assert_clean()
