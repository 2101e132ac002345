"""A hub's site in its own window: our bar knows a model's page, the page knows nothing of us."""

from __future__ import annotations

import json
import select
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.e2e import kit
from tests.e2e.test_window import QtWindow, expect, qt_window
from tests.hub_server import HubServer, hub_server, says
from tray_app.client import Client

REPO = "herders/SmolLM2-GGUF"
PAGE = """<!doctype html><meta charset=utf-8><title>A hub</title><body style="background:#cde">
<h1>A hub</h1><script>
const tell = (name, value) => fetch(`/told?${name}=${encodeURIComponent(JSON.stringify(value))}`);
setTimeout(() => {
  const api = window.pywebview && window.pywebview.api;
  tell('api', api ? Object.keys(api) : []);
  const bridge = window.webkit?.messageHandlers?.jsBridge;
  bridge?.postMessage('["call", ["pull", {}], "1"]');
  history.pushState({}, '', '/herders/Pushed-GGUF');
}, 1500);
</script>"""


class Site(ThreadingHTTPServer):
    """A hub's site; every page of it is the same."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.told: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/told":
            self.server.told.append(unquote(parts.query))
        body = PAGE.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def press_the_bar(environ: dict[str, str], title: str) -> None:
    """A real click on the button at the right end of the bar."""
    x, y, width, _ = kit.geometry(environ, kit.windows(environ, title)[-1])
    kit.click(environ, x + width - 90, y + 22)


def line_of(process: subprocess.Popen[bytes], environ: dict[str, str], title: str) -> Any:
    """Press until the window says something: the bar is grey until the page is a model's."""
    assert process.stdout is not None
    stdout = process.stdout

    def pressed() -> bytes | None:
        press_the_bar(environ, title)
        ready, _, _ = select.select([stdout], [], [], 0.5)
        return stdout.readline() if ready else None

    return json.loads(kit.wait_for(pressed, "a line of the browse window", 30))


@pytest.mark.parametrize("gui", ["gtk", "qt"])
def test_the_bar_offers_the_model_of_the_page_and_the_page_has_no_bridge(
    gui: str, display: dict[str, str], site: Site, tmp_path: Path
) -> None:
    if gui == "qt":
        pytest.importorskip("PySide6.QtWebEngineWidgets")
    environ = display | {"PYWEBVIEW_GUI": gui, "QTWEBENGINE_DISABLE_SANDBOX": "1"}
    words = ("browse", "--site", "huggingface", "--endpoint", site.url, "--owned")
    process = subprocess.Popen(
        kit.app(*words), env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        kit.wait_for(lambda: kit.windows(environ, "huggingface"), "the window", 30)
        kit.wait_for(lambda: site.told, "a word of the page", 30)
        assert site.told == ["api=[]"]
        # The address came by history.pushState, as it does on the real site.
        assert line_of(process, environ, "huggingface") == {"reference": "herders/Pushed-GGUF"}
        kit.screenshot(environ, tmp_path / "browse.png")
        assert process.stdin is not None
        process.stdin.close()  # its parent is gone
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, smollm2: Path) -> Iterator[HubServer]:
    with hub_server() as server:
        server.put(REPO, {"SmolLM2.Q4_1.gguf": smollm2}, card={"license": "apache-2.0"})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def window(
    home: Path, free_port: int, hub: HubServer, display: dict[str, str]
) -> Iterator[tuple[QtWindow, Client, dict[str, str]]]:
    kit.write_settings(home, server={"port": free_port}, runtime={"auto_build": False})
    environ = display | {"HF_ENDPOINT": hub.url}
    with kit.running_engine(home, environ) as client, qt_window(environ) as shown:
        yield shown, client, environ


def test_the_button_of_the_browse_window_leads_to_the_question_in_ours(
    window: tuple[QtWindow, Client, dict[str, str]], hub: HubServer
) -> None:
    shown, client, environ = window
    hub.faults.append(says(302, b"", Location=f"/{REPO}"))  # its first page is a model's
    assert shown.native("native:browse", {"site": "huggingface"}) == {"ok": True, "value": True}
    kit.wait_for(lambda: kit.windows(environ, "huggingface"), "the browse window", 30)
    title = shown.page.get_by_role("dialog", name="Get a model")

    def asked() -> bool:
        press_the_bar(environ, "huggingface")
        return bool(title.is_visible())

    kit.wait_for(asked, "the question", 30)
    expect(title.get_by_text("SmolLM2-GGUF Q4_1")).to_be_visible()
    expect(title.get_by_label("Name or address")).to_have_value(REPO)
    assert client.snapshot()["downloads"] == []  # it only asked
    title.get_by_role("button", name="Download").click()
    kit.wait_for(lambda: [m["id"] for m in client.snapshot()["models"]], "the model", 60)
    expect(
        shown.page.get_by_text("In the library").or_(shown.page.get_by_text("Finished"))
    ).not_to_have_count(0)


def test_a_site_that_is_none_is_refused(
    window: tuple[QtWindow, Client, dict[str, str]],
) -> None:
    answer = window[0].native("native:browse", {"site": "https://example.org"})
    assert answer["ok"] is False
    assert answer["error"]["code"] == "bad_request"
