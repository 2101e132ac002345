"""The page in a headless browser against a real engine with real models."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import kit
from tray_app.client import Client

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

FIRST = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1"
SECOND = "second-herd/SmolLM2-135M-Small-GGUF:Q2_K"
FIRST_NAME, SECOND_NAME = "SmolLM2-135M-Instruct", "SmolLM2-135M-Small"
HOSTILE_FILE = '<img src=x onerror="alert(1);window.hacked=1">.gguf'
# A load takes under a second here; a shared CI machine is slower.
LOADED_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with kit.browser() as browser:
        yield browser


@dataclass
class Opened:
    """A page in the browser, the engine behind it, and what the page did wrong so far."""

    page: Any
    client: Client
    watch: kit.Watch

    def row(self, name: str) -> Any:
        """The line of a model in the list."""
        return self.page.get_by_role("listitem").filter(has_text=name)

    def drawer(self, name: str) -> Any:
        """The details of a model, opened."""
        self.page.get_by_role("button", name=f"Details of {name}").click()
        return self.page.get_by_role("complementary", name=name)

    def use(self, name: str) -> None:
        """Switch by clicking, and wait until the row says that it is ready."""
        self.page.get_by_role("button", name=f"Use {name}", exact=True).click()
        expect(self.row(name)).to_contain_text("Ready", timeout=LOADED_MS)


def opened_page(browser: Any, client: Client) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.set_default_timeout(15_000)
    try:
        page = context.new_page()
        watch = kit.Watch(page)
        kit.enter(page, client)
        yield Opened(page, client, watch)
    finally:
        context.close()


@pytest.fixture
def engine(two_models_home: Path, free_port: int) -> Iterator[Client]:
    kit.write_settings(two_models_home, server={"port": free_port, "context_length": 2048})
    with kit.running_engine(two_models_home) as client:
        yield client


@pytest.fixture
def opened(browser: Any, engine: Client) -> Iterator[Opened]:
    yield from opened_page(browser, engine)


def test_a_ticket_opens_the_page_once(browser: Any, engine: Client) -> None:
    ticket = engine.call("mint_ticket")["ticket"]
    address = f"{engine.page_url}/enter?ticket={ticket}"
    first, second = browser.new_context(), browser.new_context()
    try:
        page = first.new_page()
        page.goto(address)
        expect(page.get_by_role("heading", name="Models")).to_be_visible()
        answer = second.new_page().goto(address)
        assert answer.status == 403
        assert second.new_page().goto(f"{engine.page_url}/").status == 401
    finally:
        first.close()
        second.close()


def test_a_click_on_use_switches_the_real_server(opened: Opened) -> None:
    expect(opened.row(FIRST_NAME)).to_be_visible()
    expect(opened.row(SECOND_NAME)).to_be_visible()
    assert opened.client.snapshot()["active_model_id"] is None
    opened.use(FIRST_NAME)
    assert opened.client.snapshot()["active_model_id"] == FIRST
    assert kit.status_of(opened.client, FIRST)["state"] == "ready"
    opened.use(SECOND_NAME)
    assert opened.client.snapshot()["active_model_id"] == SECOND
    expect(opened.page.get_by_label("Pages")).to_contain_text(f"{SECOND_NAME} is ready")
    opened.watch.assert_clean()


def test_a_switch_made_elsewhere_shows_without_a_reload(opened: Opened) -> None:
    opened.client.call("switch_model", model_id=SECOND)
    expect(opened.row(SECOND_NAME)).to_contain_text("Ready", timeout=LOADED_MS)
    expect(opened.row(SECOND_NAME)).to_contain_text("In use")
    opened.client.call("unload_model", model_id=SECOND)
    expect(opened.row(SECOND_NAME)).not_to_contain_text("Ready", timeout=LOADED_MS)
    opened.watch.assert_clean()


def test_the_details_show_the_command_line_that_really_runs(opened: Opened) -> None:
    import psutil

    opened.use(FIRST_NAME)
    drawer = opened.drawer(FIRST_NAME)
    expect(drawer).to_contain_text("apache-2.0")
    expect(drawer).to_contain_text("135M")
    runs = opened.client.call("launch_command", model_id=FIRST)
    expect(drawer.get_by_label("command line", exact=True)).to_have_text(runs["text"])
    process = psutil.Process(kit.status_of(opened.client, FIRST)["pid"])
    assert process.cmdline()[-len(runs["argv"]) :] == runs["argv"]
    opened.watch.assert_clean()


def test_a_models_own_context_length_is_used_at_its_next_load(opened: Opened) -> None:
    opened.use(FIRST_NAME)
    drawer = opened.drawer(FIRST_NAME)
    field = drawer.get_by_label("Context length")
    expect(field).to_have_attribute("placeholder", "2048")
    field.fill("1024")
    drawer.get_by_role("button", name="Save").click()
    expect(opened.page.get_by_role("log", name="Messages")).to_contain_text("Saved")
    assert opened.client.call("model_settings", model_id=FIRST)["own"]["context_length"] == 1024
    assert kit.status_of(opened.client, FIRST)["context_length"] == 2048  # as it was loaded
    drawer.get_by_role("button", name="Unload").click()
    drawer.get_by_role("button", name="Load", exact=True).click()
    assert kit.wait_ready(opened.client, FIRST)["context_length"] == 1024
    expect(drawer).to_contain_text("1,024 tokens")
    expect(drawer.get_by_label("command line", exact=True)).to_contain_text("--ctx-size 1024")
    opened.watch.assert_clean()


def test_a_setting_that_cannot_be_is_refused_at_its_field(opened: Opened) -> None:
    drawer = opened.drawer(FIRST_NAME)
    drawer.get_by_label("Context length").fill("-5")
    drawer.get_by_role("button", name="Save").click()
    expect(drawer.get_by_role("alert")).to_contain_text("-5")
    assert opened.client.call("model_settings", model_id=FIRST)["own"].get("context_length") is None
    opened.watch.assert_clean()


def test_the_server_page_shows_address_command_and_a_live_log(opened: Opened) -> None:
    page, client = opened.page, opened.client
    client.call("switch_model", model_id=FIRST)
    kit.wait_ready(client, FIRST)
    page.get_by_role("link", name="Server").click()
    status = page.get_by_label("Status", exact=True)
    expect(status).to_contain_text("Ready")
    expect(status).to_contain_text(client.snapshot()["gateway"]["base_url"])
    page.get_by_role("tab", name="llama-server").click()
    runs = client.call("launch_command", model_id=FIRST)["text"]
    expect(page.get_by_label("command line", exact=True)).to_have_text(runs)
    (log,) = (row["name"] for row in client.call("list_logs") if FIRST_NAME in row["name"])
    page.get_by_label("Log file").select_option(log)
    lines = page.get_by_label(f"Log {log}", exact=True)
    expect(lines).to_contain_text("server")
    page.get_by_label("Search the log").fill("prompt eval time")
    expect(lines).not_to_contain_text("prompt eval time")
    kit.complete(client, "A llama is", tokens=2)
    expect(lines).to_contain_text("prompt eval time", timeout=10_000)
    expect(lines.locator("mark").first).to_have_text("prompt eval time")
    page.get_by_label("Levels shown").select_option("error")
    expect(lines).to_have_text("No line matches.")
    page.get_by_label("Levels shown").select_option("info")
    expect(lines).to_contain_text("prompt eval time")
    page.get_by_label("Search the log").fill("")
    page.get_by_label("Log file").select_option("engine.log")
    expect(page.get_by_label("Log engine.log", exact=True)).to_contain_text("engine started")
    opened.watch.assert_clean()


def test_the_server_page_shows_speeds_and_what_the_slots_hold(opened: Opened) -> None:
    page, client = opened.page, opened.client
    client.call("switch_model", model_id=FIRST)
    kit.wait_ready(client, FIRST)
    page.get_by_role("link", name="Server").click()
    card = page.get_by_label("Speed and use", exact=True)
    expect(card).to_contain_text("No request in this time")
    memory = page.get_by_label("Memory", exact=True)
    expect(memory).to_contain_text("slots busy · 0 of 2k context used")
    used_at = kit.status_of(client, FIRST)["last_used_at"]
    kit.complete(client, "A llama is", tokens=4)
    row = card.get_by_role("row").filter(has_text=FIRST_NAME)
    expect(row).to_contain_text(re.compile(r"\d+\.\d|\d{2,}"), timeout=10_000)
    expect(
        row.get_by_role("img", name=re.compile("^Speed by the hour: .* tokens.s$"))
    ).to_have_count(1)
    expect(row.get_by_role("img", name="Requests by the hour: 1 request")).to_have_count(1)
    expect(memory).to_contain_text(re.compile(r"slots busy · [1-9]\d* of 2k context used"))
    bar = memory.get_by_role("img", name=re.compile(r"^Slot \d: free, [1-9]\d* of 2,048 tokens$"))
    expect(bar.first).to_be_visible()
    card.get_by_role("tab", name="Month").click()
    expect(row.get_by_role("img", name="Requests by day: 1 request")).to_have_count(1)
    # The page looked several times; only the completion was a use.
    assert used_at is None
    assert client.snapshot()["gateway"]["requests_total"] == 1
    opened.watch.assert_clean()


def test_the_chat_streams_an_answer_and_tells_its_speed(opened: Opened) -> None:
    page = opened.page
    opened.client.call("change_model_settings", model_id=FIRST, changes=kit.GREEDY)
    opened.use(FIRST_NAME)
    page.get_by_role("link", name="Chat").click()
    message = page.get_by_label("Message", exact=True)
    expect(message).to_be_focused()
    message.fill(kit.SHORT_PROMPT)
    message.press("Enter")
    answer = page.get_by_role("article", name=f"Answer of {FIRST_NAME}")
    expect(answer).to_have_attribute("aria-busy", "false", timeout=LOADED_MS)
    expect(answer.locator(".measured")).to_have_text(
        re.compile(r"^[\d.,]+ tokens/s · \d+ tokens · first token after .+"), timeout=5_000
    )
    said = answer.inner_text().replace(answer.locator(".measured").inner_text(), "")
    assert re.search(r"\w", said.replace(FIRST_NAME, ""))
    record = kit.wait_for(lambda: opened.client.call("request_history", limit=1), "the record")
    assert record[0]["generated_tokens"] > 0
    opened.watch.assert_clean()


def test_the_stop_button_ends_the_work_of_the_model_too(opened: Opened) -> None:
    page, client = opened.page, opened.client
    opened.use(FIRST_NAME)
    page.get_by_role("link", name="Chat").click()
    message = page.get_by_label("Message", exact=True)
    message.fill(kit.LONG_PROMPT)
    message.press("Enter")
    answer = page.get_by_role("article", name=f"Answer of {FIRST_NAME}")  # named at the first token
    expect(answer).to_contain_text(re.compile(r"\w"), timeout=LOADED_MS)
    assert kit.status_of(client, FIRST)["in_flight"] == 1
    page.get_by_role("button", name="Stop (Esc)").click()
    expect(page.get_by_role("button", name="Send (Enter)")).to_be_visible()
    expect(answer).to_contain_text("stopped")
    kit.wait_for(lambda: kit.status_of(client, FIRST)["in_flight"] == 0, "the stream to end", 5)
    kit.wait_for(lambda: not processing(client), "an idle slot", 5)
    opened.watch.assert_clean()


def processing(client: Client) -> bool:
    """Whether the active model's llama-server generates tokens right now, by its own word."""
    return any(slot["is_processing"] for slot in kit.ask(client, "GET", "/slots"))


def test_a_hostile_file_name_is_only_text(
    browser: Any, two_models_home: Path, free_port: int, smollm2: Path
) -> None:
    kit.write_settings(two_models_home, server={"port": free_port, "context_length": 2048})
    hostile_path = two_models_home / "models" / "evil" / HOSTILE_FILE
    hostile_path.parent.mkdir()
    shutil.copyfile(smollm2, hostile_path)  # a hard link would be listed as the same model
    with kit.running_engine(two_models_home) as client:
        for opened in opened_page(browser, client):
            page = opened.page
            (hostile,) = (m for m in client.snapshot()["models"] if "<img" in m["path"])
            row = page.get_by_role("listitem").filter(has_text=hostile["name"])
            expect(row).to_be_visible()
            page.get_by_role("button", name=f"Use {hostile['name']}", exact=True).click()
            expect(row).to_contain_text("Ready", timeout=LOADED_MS)
            opened.drawer(hostile["name"])
            for name in ("Server", "Runtimes", "Chat", "Settings", "Models"):
                page.get_by_role("link", name=name, exact=True).click()
                expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
            assert page.locator("[onerror], img:not([src^='/web/'])").count() == 0
            assert page.evaluate("window.hacked") is None
            opened.watch.assert_clean()


def test_the_page_tells_that_the_engine_is_gone_and_comes_back_with_it(
    browser: Any, two_models_home: Path, free_port: int
) -> None:
    kit.write_settings(two_models_home, server={"port": free_port})
    with kit.running("engine", "--mode", "serve") as process:
        client = kit.connected(two_models_home)
        for opened in opened_page(browser, client):
            expect(opened.row(FIRST_NAME)).to_be_visible()
            opened.watch.assert_clean()
            os.kill(process.pid, signal.SIGKILL)
            expect(opened.page.get_by_text("The engine does not answer")).to_be_visible()
            expect(opened.page.get_by_label("Pages")).to_contain_text("Not connected")
            assert opened.watch.dialogs == []


def test_pages_that_were_closed_leave_their_place_to_others(browser: Any, engine: Client) -> None:
    for _ in range(12):  # more than the engine has places for at once
        for opened in opened_page(browser, engine):
            expect(opened.row(FIRST_NAME)).to_be_visible()
            expect(opened.page.get_by_label("Pages")).to_contain_text("No model in use")
            expect(opened.page.get_by_text("does not answer")).to_have_count(0)
            kit.wait_for(lambda o=opened: streaming(o.page), "the page's event stream", 10)


def streaming(page: Any) -> bool:
    """Whether the page's event stream is open."""
    return bool(
        page.get_by_label("Pages").locator('[role="status"]').inner_text() != "Not connected"
    )


def test_the_keyboard_alone_is_enough(opened: Opened) -> None:
    page = opened.page
    expect(opened.row(FIRST_NAME)).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_label("Search models")).to_be_focused()
    page.keyboard.type("small")
    expect(opened.row(FIRST_NAME)).to_have_count(0)
    page.keyboard.press("Escape")
    expect(opened.row(FIRST_NAME)).to_be_visible()
    page.locator('[id^="row:"]').first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(f'[id="row:{SECOND}"]')).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("complementary", name=SECOND_NAME)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary", name=SECOND_NAME)).to_have_count(0)
    expect(page.locator(f'[id="row:{SECOND}"]')).to_be_focused()
    page.keyboard.press("Enter")
    expect(opened.row(SECOND_NAME)).to_contain_text("Ready", timeout=LOADED_MS)
    page.keyboard.press("Control+3")
    expect(page.get_by_role("heading", name="Downloads", exact=True)).to_be_focused()
    page.keyboard.press("Control+6")
    expect(page.get_by_role("heading", name="Connect", exact=True)).to_be_focused()
    page.keyboard.press("Control+7")
    expect(page.get_by_role("heading", name="Runtimes", exact=True)).to_be_focused()
    page.keyboard.press("Control+8")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("Control+9")
    expect(page.get_by_role("heading", name="Settings", exact=True)).to_be_focused()
    opened.watch.assert_clean()


def test_settings_are_saved_and_shown_to_every_face(opened: Opened) -> None:
    page, client = opened.page, opened.client
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("radio", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    kit.wait_for(lambda: client.snapshot()["settings"]["ui"]["theme"] == "dark", "the theme")
    port = page.get_by_label("Port", exact=True)
    port.fill("99999")
    port.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("99999")
    other = kit.free_port()
    port.fill(str(other))
    port.press("Enter")
    kit.wait_for(
        lambda: (g := client.snapshot()["gateway"])["port"] == other and g["state"] == "listening",
        "the gateway at its new port",
    )
    page.get_by_role("link", name="Server").click()
    expect(page.get_by_label("Status", exact=True)).to_contain_text(f"127.0.0.1:{other}")
    opened.watch.assert_clean()


def test_narrow_and_wide_pages_never_scroll_sideways(opened: Opened) -> None:
    page = opened.page
    for width in (480, 760, 1600):
        page.set_viewport_size({"width": width, "height": 700})
        for name in ("models", "server", "runtimes", "chat", "settings"):
            page.evaluate(f"location.hash = '#/{name}'")
            expect(page.locator(f"main[data-page={name}]")).to_be_visible()
            assert page.evaluate(
                "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            ), f"{name} at {width} px scrolls sideways"
    opened.watch.assert_clean()


# -- the runtimes page


@pytest.fixture
def without_feed(two_models_home: Path, free_port: int) -> Iterator[Client]:
    """An engine whose list of releases cannot be reached, whatever network there is."""
    kit.write_settings(
        two_models_home,
        server={"port": free_port, "context_length": 2048},
        runtime={"feed_url": f"http://127.0.0.1:{kit.free_port()}/releases"},
    )
    with kit.running_engine(two_models_home) as client:
        yield client


@pytest.fixture
def runtimes(browser: Any, without_feed: Client) -> Iterator[Opened]:
    for opened in opened_page(browser, without_feed):
        opened.page.get_by_role("link", name="Runtimes", exact=True).click()
        yield opened


def test_the_runtimes_page_shows_what_runs_and_what_could(runtimes: Opened) -> None:
    page = runtimes.page
    status = runtimes.client.snapshot()["runtime"]
    in_use = page.get_by_label("In use", exact=True)
    expect(in_use).to_contain_text(f"llama.cpp b{status['active']['build']}")
    expect(in_use).to_contain_text(status["active"]["server_path"])
    expect(in_use).to_contain_text("Proven")
    expect(page.get_by_label("This computer", exact=True)).to_contain_text("Processor")
    usable = [rung for rung in status["ladder"] if rung["usable"]]
    assert usable
    for rung in usable:
        expect(page.get_by_label("What this computer can use")).to_contain_text(rung["reason"])
    for runtime in status["installed"]:
        expect(page.get_by_label("Installed", exact=True)).to_contain_text(runtime["id"])
    runtimes.watch.assert_clean()


def test_releases_that_cannot_be_reached_are_said_to_be(runtimes: Opened) -> None:
    updates = runtimes.page.get_by_label("Updates", exact=True)
    updates.get_by_role("button", name="Check now").click()
    expect(updates.get_by_text("127.0.0.1").first).to_be_visible(timeout=LOADED_MS)
    expect(updates.get_by_role("button", name="Check now")).to_be_enabled()
    runtimes.watch.assert_clean()


def test_the_backend_and_the_way_of_updates_are_kept(runtimes: Opened) -> None:
    page, client = runtimes.page, runtimes.client
    page.get_by_role("radio", name="Processor", exact=True).check()
    kit.wait_for(lambda: client.snapshot()["settings"]["runtime"]["backend"] == "cpu", "the wish")
    page.get_by_role("radio", name="Best for this computer", exact=True).check()
    kit.wait_for(lambda: client.snapshot()["settings"]["runtime"]["backend"] is None, "no wish")
    page.get_by_role("radio", name="Off", exact=True).check(force=True)
    kit.wait_for(lambda: client.snapshot()["settings"]["runtime"]["updates"] == "off", "the mode")
    runtimes.watch.assert_clean()


def test_a_build_of_mine_that_is_none_is_refused_with_its_path(runtimes: Opened) -> None:
    installed = runtimes.page.get_by_label("Installed", exact=True)
    installed.get_by_role("button", name="Add a build of mine…").click()
    installed.get_by_label("Where your llama-server").fill("/no/such/llama-server")
    installed.get_by_role("button", name="Try it").click()
    main = runtimes.page.locator("main")
    expect(main.get_by_role("alert").filter(has_text="/no/such")).to_be_visible(timeout=LOADED_MS)
    runtimes.watch.assert_clean()


def test_a_model_is_pinned_to_a_runtime_in_its_details(opened: Opened) -> None:
    runtime_id = opened.client.snapshot()["runtime"]["active"]["id"]
    drawer = opened.drawer(FIRST_NAME)
    drawer.get_by_text("For experts").click()
    drawer.get_by_label("Runtime", exact=True).select_option(runtime_id)
    drawer.get_by_role("button", name="Save").click()
    expect(opened.page.get_by_role("log", name="Messages")).to_contain_text("Saved")
    own = opened.client.call("model_settings", model_id=FIRST)["own"]
    assert own["runtime"] == runtime_id
    drawer.get_by_role("button", name="Load", exact=True).click()
    assert kit.wait_ready(opened.client, FIRST)["runtime_id"] == runtime_id
    expect(drawer.locator(".fact").filter(has_text="Runtime")).to_contain_text(runtime_id)
    opened.watch.assert_clean()
