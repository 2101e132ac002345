"""Converting and quantizing in a real browser, with the real tools and a loopback Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.converting import kit as converting
from tests.e2e import kit
from tests.e2e.test_page import FIRST_NAME, Opened, browser, engine, opened, opened_page
from tests.hub_server import HubServer, hub_server
from tray_app.engine.convert.pipeline import steps_of
from tray_app.engine.convert.record import Record, Records, Wish
from tray_app.engine.errors import ErrorView

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
__all__ = ["browser", "engine", "opened"]

REPO = "herders/small-llama"


@pytest.fixture
def hub(small_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        files = {path.name: path for path in small_llama.iterdir()}
        server.put(REPO, files, card={"license": "mit"})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def with_converter(
    home: Path, free_port: int, hub: HubServer, llama_server: Path, converter: Path, browser: Any
) -> Iterator[Opened]:
    converting.use(converter, home)
    wish = Wish("/gone/weights", "auto", ("Q8_0",), "odd")
    left = Record("0123456789ab", wish, "Converting odd", "m")
    left.steps = tuple(words for _, words in steps_of(left))
    left.error = ErrorView("conversion_failed", "It broke <b>there</b>.", "Try again.")
    Records(home / "models").save(left)
    runtime = {"server_path": str(llama_server), "auto_build": False}
    kit.write_settings(home, server={"port": free_port}, runtime=runtime)
    with kit.running_engine(home) as client:
        yield from opened_page(browser, client)


def type_box(opened: Opened, within: Any, label: str) -> Any:
    """The checkbox of a type; the sentences of others name it, too."""
    name = opened.page.get_by_text(label, exact=True)
    return within.get_by_role("listitem").filter(has=name).get_by_role("checkbox")


def quantizations(opened: Opened) -> set[str]:
    found: list[dict[str, Any]] = opened.client.snapshot()["models"]
    return {str(model["quantization"]) for model in found}


def test_a_quantization_is_chosen_by_its_size_and_comes_into_the_list(opened: Opened) -> None:
    page = opened.page
    opened.drawer(FIRST_NAME).get_by_role("button", name="Quantize").click()
    dialog = page.get_by_role("dialog", name=f"Quantize {FIRST_NAME}")
    expect(dialog).to_contain_text("It is Q4_1 already")
    expect(type_box(opened, dialog, "Q4_1")).to_be_disabled()
    start = dialog.get_by_role("button", name="Start")
    expect(start).to_be_disabled()
    type_box(opened, dialog, "Q8_0").check()
    expect(dialog).to_contain_text("1 file, 14")
    dialog.get_by_text("More", exact=True).click()
    dialog.get_by_label("Other types for some tensors").fill("attn_v=q8_0")
    start.click()
    expect(dialog).to_have_count(0)
    kit.wait_for(lambda: "Q8_0" in quantizations(opened), "the new model", 60)
    expect(opened.row(FIRST_NAME)).to_have_count(2)
    opened.watch.assert_clean()


def test_a_repository_of_original_weights_becomes_two_models(with_converter: Opened) -> None:
    opened, page = with_converter, with_converter.page
    page.evaluate(f"location.hash = '#/models?reference={REPO.replace('/', '%2F')}'")
    dialog = page.get_by_role("dialog", name="Get a model")
    dialog.get_by_role("button", name="Convert it").click()
    plan = page.locator("section", has=page.get_by_role("heading", name="small-llama"))
    expect(plan).to_contain_text("LlamaForCausalLM")
    expect(plan).to_contain_text("mit")
    expect(type_box(opened, plan, "Q4_K_M")).to_be_checked()
    expect(plan).to_contain_text("Quantize to Q4_K_M: about 1.8 MB")
    expect(type_box(opened, plan, "IQ2_XXS")).to_be_disabled()
    type_box(opened, plan, "Q8_0").check()
    plan.get_by_role("switch", name="Keep the original weights").uncheck()
    plan.get_by_text("More", exact=True).click()
    plan.get_by_role("switch", name="Compare the perplexity").check()
    expect(plan).to_contain_text("Compare the perplexity of each")
    plan.get_by_role("button", name="Start").click()
    expect(plan).to_have_count(0)
    tasks = page.locator("section", has=page.get_by_role("heading", name="Under way"))
    expect(tasks.get_by_role("listitem").filter(has_text="Convert to GGUF")).to_have_attribute(
        "aria-current", "step", timeout=30_000
    )
    expect(page.get_by_role("heading", name="Done")).to_be_visible(timeout=60_000)
    assert quantizations(opened) == {"F16", "Q8_0", "Q4_K_M"}
    assert not (Path(opened.client.snapshot()["home"]) / "models" / "originals").exists()
    page.get_by_role("link", name="See the models").click()
    page.locator(".model-row").filter(has_text="Q4_K_M").click()
    page.keyboard.press("Space")
    drawer = page.get_by_role("complementary")
    expect(drawer).to_contain_text("Perplexity")
    expect(drawer).to_contain_text("Quantized from")
    opened.watch.assert_clean()


def test_what_cannot_be_converted_or_stopped_is_told(with_converter: Opened) -> None:
    page = with_converter.page
    page.evaluate("location.hash = '#/convert'")
    page.get_by_label("Folder or repository").fill("/no/such/folder")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="is not there")).to_be_visible()
    stopped = page.locator("section", has=page.get_by_role("heading", name="Unfinished"))
    expect(stopped).to_contain_text("It broke <b>there</b>.")  # text, and no element
    stopped.get_by_role("button", name="Continue").click()
    expect(stopped).to_contain_text("weights cannot be opened", timeout=20_000)
    stopped.get_by_role("button", name="Discard").click()
    stopped.get_by_role("button", name="Delete").click()
    expect(stopped).to_have_count(0)
    assert with_converter.client.call("conversions")["unfinished"] == []
    expect(page.get_by_text("It is ready")).to_be_visible()
    with_converter.watch.assert_clean()
