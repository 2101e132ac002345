"""The real window: Qt's back end driven over CDP, and GTK's, the default one, by real clicks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import kit
from tray_app.client import Client
from tray_app.window_process import ENDED_FOR_US

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

FIRST = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1"
SECOND = "second-herd/SmolLM2-135M-Small-GGUF:Q2_K"
FIRST_NAME = "SmolLM2-135M-Instruct"
LOADED_MS = 30_000
# What another program sees when it pastes.
PASTE = """
import gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gtk
print(Gtk.Clipboard.get(Gdk.SELECTION_CLIPBOARD).wait_for_text() or "")
"""


@pytest.fixture
def engine(two_models_home: Path, free_port: int) -> Iterator[Client]:
    kit.write_settings(two_models_home, server={"port": free_port, "context_length": 2048})
    with kit.running_engine(two_models_home) as client:
        yield client


@dataclass
class QtWindow:
    """The product's window with Qt's web engine, and its page over CDP."""

    process: subprocess.Popen[bytes]
    page: Any
    watch: kit.Watch

    def native(self, name: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the bridge as any script in the page could."""
        answer = self.page.evaluate(
            "([name, args]) => pywebview.api.call(name, args)", [name, args or {}]
        )
        return dict(answer)


@contextmanager
def qt_window(environ: dict[str, str], *words: str) -> Iterator[QtWindow]:
    pytest.importorskip("PySide6.QtWebEngineWidgets")
    port = kit.free_port()
    environ = environ | {
        "PYWEBVIEW_GUI": "qt",
        "QTWEBENGINE_REMOTE_DEBUGGING": str(port),
        # Chromium refuses to run as root with its sandbox on; CI containers are root.
        "QTWEBENGINE_DISABLE_SANDBOX": "1",
    }
    with (
        kit.running("window", *words, environ=environ, stdin=subprocess.PIPE) as process,
        sync_api.sync_playwright() as playwright,
    ):
        browser = kit.over_cdp(playwright, port)
        try:
            page = kit.wait_for(
                lambda: next((p for p in browser.contexts[0].pages if "127" in p.url), None),
                "the page in the window",
            )
            page.set_default_timeout(15_000)
            watch = kit.Watch(page)
            page.evaluate(kit.WATCH)  # this page was there before its watch
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            kit.wait_for(lambda: page.evaluate("!!window.pywebview?.api?.call"), "the bridge")
            yield QtWindow(process, page, watch)
        finally:
            browser.close()


@pytest.fixture
def qt(engine: Client, display: dict[str, str]) -> Iterator[QtWindow]:
    with qt_window(display) as window:
        yield window


def test_commands_of_the_window_go_through_the_bridge(qt: QtWindow, engine: Client) -> None:
    page = qt.page
    page.evaluate(
        """() => {
          const call = pywebview.api.call;
          window.bridged = [];
          pywebview.api.call = (name, args) => {
            window.bridged.push(name);
            return call(name, args);
          };
        }"""
    )
    fetched: list[str] = []
    page.on("request", lambda r: fetched.append(r.url) if "/api/call" in r.url else None)
    page.get_by_role("button", name=f"Use {FIRST_NAME}", exact=True).click()
    row = page.get_by_role("listitem").filter(has_text=FIRST_NAME)
    expect(row).to_contain_text("Ready", timeout=LOADED_MS)
    assert engine.snapshot()["active_model_id"] == FIRST
    assert "switch_model" in page.evaluate("window.bridged")
    assert fetched == []
    qt.watch.assert_clean()


def test_the_chat_streams_in_the_window(qt: QtWindow, engine: Client) -> None:
    engine.call("change_model_settings", model_id=FIRST, changes=kit.GREEDY)
    engine.call("switch_model", model_id=FIRST)
    kit.wait_ready(engine, FIRST)
    page = qt.page
    page.get_by_role("link", name="Chat").click()
    message = page.get_by_label("Message", exact=True)
    message.fill(kit.SHORT_PROMPT)
    message.press("Enter")
    answer = page.get_by_role("article", name=f"Answer of {FIRST_NAME}")
    expect(answer).to_have_attribute("aria-busy", "false", timeout=LOADED_MS)
    expect(answer.locator(".measured")).to_contain_text("tokens/s")
    qt.watch.assert_clean()


def test_the_bridge_does_what_is_on_its_list_and_nothing_else(
    qt: QtWindow, engine: Client, two_models_home: Path
) -> None:
    refused = [
        ("shutdown", {}),
        ("mint_ticket", {}),
        ("show_window", {"page": "models"}),
        ("no_such_command", {}),
        ("__class__", {}),
        ("native:run", {}),
        ("native:__init__", {}),
        ("native:open_path", {"path": "/etc/passwd"}),
        ("native:open_path", {"path": f"{two_models_home}/models/../../../etc"}),
        ("native:open_url", {"url": "file:///etc/passwd"}),
        ("native:open_url", {"url": "javascript:alert(1)"}),
    ]
    for name, args in refused:
        answer = qt.native(name, args)
        assert answer["ok"] is False, f"{name} {args} was done"
        assert answer["error"]["code"] == "bad_request", f"{name} {args}: {answer}"
        assert "Traceback" not in str(answer)
    assert qt.native("snapshot")["value"]["pid"] == engine.engine_pid
    assert qt.native("native:autostart")["value"] is False
    wrong = qt.native("switch_model", {"model_id": 7, "surprise": []})
    assert wrong["ok"] is False
    assert "Traceback" not in str(wrong)


def test_every_command_of_the_page_is_one_that_the_bridge_lets_through() -> None:
    """A page in a browser has them all; the window's bridge has a list, which must keep up."""
    from tray_app.window import ENGINE_COMMANDS

    web = Path(__file__).parents[2] / "tray_app" / "web"
    scripts = [p for p in web.rglob("*.js") if "vendor" not in p.parts]
    calls = re.compile(r"\b(?:run|attempt|bridge\.call)\(\s*'(\w+)'")
    used = {name for path in scripts for name in calls.findall(path.read_text("utf-8"))}
    assert len(used) > 20, "the pattern finds the page's calls"
    assert used <= ENGINE_COMMANDS | {"request_history"}


def test_the_runtimes_page_works_through_the_bridge(qt: QtWindow, engine: Client) -> None:
    page = qt.page
    page.get_by_role("link", name="Runtimes", exact=True).click()
    expect(page.get_by_text(re.compile("^Proven .* answered")).first).to_be_visible(timeout=15_000)
    expect(page.get_by_role("heading", name="This computer", exact=True)).to_be_visible()
    page.get_by_role("button", name="Check now").click()
    found = qt.native("available_runtimes", {"refresh": False})
    assert found["ok"], found
    rungs = [rung["backend"] for rung in found["value"]["buildable"]]
    assert "cpu" in rungs
    assert qt.native("read_hardware")["ok"]


def test_text_that_is_copied_in_the_window_can_be_pasted_elsewhere(
    qt: QtWindow, display: dict[str, str]
) -> None:
    assert qt.native("native:copy_text", {"text": "llamas, é!"}) == {"ok": True, "value": True}
    kit.wait_for(lambda: "llamas, é!" in _paste(display), "the clipboard", 10)


def _paste(environ: dict[str, str]) -> str:
    command = [sys.executable, "-c", PASTE]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_second_start_brings_the_window_to_the_asked_page(qt: QtWindow, engine: Client) -> None:
    engine.call("show_window", page="server")
    expect(qt.page.get_by_role("heading", name="Server", exact=True)).to_be_visible()


def test_the_window_ends_with_the_engine(qt: QtWindow, engine: Client) -> None:
    os.kill(engine.engine_pid, signal.SIGKILL)
    assert qt.process.wait(kit.GONE_S) == ENDED_FOR_US


def test_a_killed_window_harms_nobody(engine: Client, display: dict[str, str]) -> None:
    engine.call("switch_model", model_id=FIRST)
    before = kit.wait_ready(engine, FIRST)
    with qt_window(display) as window:
        window.process.kill()
        window.process.wait()
    assert kit.status_of(engine, FIRST)["pid"] == before["pid"]
    with qt_window(display) as window:
        expect(window.page.get_by_label("Pages")).to_contain_text(f"{FIRST_NAME} is ready")


@contextmanager
def gtk_window(environ: dict[str, str], *words: str) -> Iterator[subprocess.Popen[bytes]]:
    pytest.importorskip("gi")
    with kit.running("window", *words, environ=environ, stdin=subprocess.PIPE) as process:
        kit.wait_window(environ)
        yield process


def test_a_real_click_in_the_default_window_switches_the_model(
    engine: Client, display: dict[str, str], tmp_path: Path
) -> None:
    with gtk_window(display):
        window = kit.wait_window(display)
        x, y, width, height = kit.geometry(display, window)
        with kit.browser() as browser:  # where the same page has the button at this size
            at_x, at_y = kit.place_of_button(browser, engine, f"Use {FIRST_NAME}", width, height)

        def drawn() -> bool:
            image = kit.screenshot(display, tmp_path / "screen.png")
            return kit.colours(image.crop((x, y, x + width, y + height))) > 64

        kit.wait_for(drawn, "the page to be painted")

        def switched() -> bool:
            kit.click(display, x + at_x, y + at_y)
            return bool(engine.snapshot()["active_model_id"] == FIRST)

        kit.wait_for(switched, "the click to arrive")
        kit.wait_ready(engine, FIRST)


def test_the_window_ends_with_the_tray_that_owns_it(
    engine: Client, display: dict[str, str]
) -> None:
    with gtk_window(display, "--owned") as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(kit.GONE_S) == ENDED_FOR_US
    assert engine.snapshot()["pid"] == engine.engine_pid


def test_the_default_window_ends_with_the_engine(engine: Client, display: dict[str, str]) -> None:
    with gtk_window(display) as process:
        os.kill(engine.engine_pid, signal.SIGKILL)
        assert process.wait(kit.GONE_S) == ENDED_FOR_US
