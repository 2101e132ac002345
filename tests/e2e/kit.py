"""The running product for tests and pictures: engine, headless browser, real windows, clicks."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import tomli_w

from tests import parts
from tests.product import command
from tray_app.client import Client, ClientError

ROOT = Path(__file__).parents[2]
CHROMIUM_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# With these SmolLM2 answers the same 106 tokens each time; sampled, it may ramble to the limit.
GREEDY = {"extra_args": ["--temp", "0"]}
SHORT_PROMPT = "Name three uses of wool."
# SmolLM2 goes on for more than 600 tokens (6 s) with this; asked to count, it may end at once.
LONG_PROMPT = "Write a very long story about a llama."
# Chosen so that every wait ends early on an idle machine and late on a busy one.
READY_S = 30.0
GONE_S = 20.0
_PAUSE_S = 0.02

Value = TypeVar("Value")


def wait_for(ask: Callable[[], Value | None], what: str, timeout_s: float = READY_S) -> Value:
    """The first truthy answer of `ask`; fails naming `what` when none comes in time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (value := ask()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        pause.wait(_PAUSE_S)
    return value


def free_port() -> int:
    """A loopback port that nobody held a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write_settings(home: Path, **tables: dict[str, Any]) -> None:
    """Lay `tables` over what `settings.toml` holds; only while no engine runs."""
    path = home / "settings.toml"
    settings = tomllib.loads(path.read_text("utf-8")) if path.exists() else {"version": 1}
    for name, table in tables.items():
        settings[name] = {**settings.get(name, {}), **table}
    path.write_text(tomli_w.dumps(settings), encoding="utf-8")


@contextmanager
def temporary_home(
    models: bool = True, runtime: bool = True, **server: Any
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A home with the two real models, outside of a test; and the environment to run it in."""
    with tempfile.TemporaryDirectory(prefix="lw-") as folder:
        path = Path(folder) / "llama-wrangler"
        path.mkdir()
        if models:
            parts.place(parts.smollm2(), path / "models" / parts.FIRST_MODEL)
            parts.place(parts.smollm2_q2(), path / "models" / parts.SECOND_MODEL)
        program = {"server_path": str(parts.llama_server())} if runtime else {}
        write_settings(
            path,
            server={"port": free_port(), "context_length": 4096, **server},
            runtime={"auto_build": False, **program},
        )
        yield (
            path,
            {
                **os.environ,
                "LLAMA_WRANGLER_HOME": str(path),
                "LLAMA_WRANGLER_CACHE": str(Path(folder) / "cache"),
            },
        )


def app(*words: str) -> list[str]:
    """The command line of the product."""
    return command(*words)


@contextmanager
def running(
    *words: str, environ: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the product, asked to end and then reaped at the end of the block."""
    process = subprocess.Popen(command(*words), cwd=ROOT, env=environ, **options)
    try:
        yield process
    finally:
        end(process)
        if process.stdin is not None:
            process.stdin.close()


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, and make sure that it does."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(GONE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def connected(home: Path) -> Client:
    """A client of the engine of `home`, once there is one."""

    def ask() -> Client | None:
        with contextlib.suppress(ClientError):
            return Client.connect(home)
        return None

    return wait_for(ask, "the engine")


@contextmanager
def running_engine(home: Path, environ: Mapping[str, str] | None = None) -> Iterator[Client]:
    """An engine of `home` whose library was read and whose gateway listens."""
    environ = {**(environ or os.environ), "LLAMA_WRANGLER_HOME": str(home)}
    with running("engine", "--mode", "serve", environ=environ):
        client = connected(home)
        wait_for(lambda: settled(client.snapshot()), "the first scan")
        yield client


def settled(snapshot: Mapping[str, Any]) -> bool:
    """Whether the scan is over, a runtime was looked for, and the gateway has its port or not."""
    unread = any(m["available"] and not m["details_known"] for m in snapshot["models"])
    searching = snapshot["runtime"]["state"] == "searching"
    return not (snapshot["scanning"] or unread or searching) and (
        snapshot["gateway"]["state"] != "stopped"
    )


def status_of(client: Client, model_id: str) -> dict[str, Any]:
    """What the model is doing; an untouched one is unloaded."""
    for status in client.snapshot()["statuses"]:
        if status["model_id"] == model_id:
            return dict(status)
    return {"model_id": model_id, "state": "unloaded", "in_flight": 0, "pid": None}


def wait_ready(client: Client, model_id: str) -> dict[str, Any]:
    """The status of the model once it is ready to answer."""

    def ask() -> dict[str, Any] | None:
        status = status_of(client, model_id)
        return status if status["state"] == "ready" else None

    return wait_for(ask, f"{model_id} to be ready")


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet counts as ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def window_processes(home: Path) -> list[psutil.Process]:
    """The window processes of `home`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended, or is not ours
            ours = process.environ().get("LLAMA_WRANGLER_HOME") == str(home)
            if ours and "window" in process.cmdline():
                found.append(process)
    return found


def child_pids(client: Client) -> list[int]:
    """The processes of the resident models."""
    return [s["pid"] for s in client.snapshot()["statuses"] if s["pid"] is not None]


def ask(client: Client, method: str, path: str, body: Any = None) -> Any:
    """A request through the gateway; returns its JSON answer."""
    port = client.snapshot()["gateway"]["port"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def complete(client: Client, prompt: str, tokens: int, model: str = "default") -> str:
    """A few tokens of the model; returns which model answered."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    return str(ask(client, "POST", "/v1/completions", body)["model"])


def chromium() -> str:
    """The system's Chromium, or a skip with the reason."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is not installed", pytrace=False)
        pytest.skip("Chromium is not installed")
    return path


@contextmanager
def browser(environ: Mapping[str, str] | None = None) -> Iterator[Any]:
    """A headless Chromium under playwright."""
    path = chromium()
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path,
            args=list(CHROMIUM_ARGUMENTS),
            chromium_sandbox=False,
            env=dict(environ or os.environ),
        )
        try:
            yield started
        finally:
            started.close()


def enter(page: Any, client: Client, name: str = "models") -> None:
    """Open the product's page with a fresh ticket."""
    ticket = client.call("mint_ticket")["ticket"]
    page.goto(f"{client.page_url}/enter?ticket={ticket}#/{name}")


def place_of_button(
    browser: Any, client: Client, name: str, width: int, height: int
) -> tuple[int, int]:
    """The middle of a button of the first page, in a view of this size."""
    context = browser.new_context(viewport={"width": width, "height": height})
    try:
        page = context.new_page()
        enter(page, client)
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        return int(box["x"] + box["width"] / 2), int(box["y"] + box["height"] / 2)
    finally:
        context.close()


def over_cdp(playwright: Any, port: int) -> Any:
    """A connection to the debugging port of a window, once the page is in it."""

    def page_listed() -> bool:
        # A connection made before there is a page hangs for its whole timeout.
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            try:
                connection.request("GET", "/json/list")
                targets = json.loads(connection.getresponse().read())
                return any("127.0.0.1" in target["url"] for target in targets)
            finally:
                connection.close()
        return False

    wait_for(page_listed, "the page at the debugging port")
    # Qt's web engine has no browser contexts of its own to set up: hence no defaults.
    return playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}", no_defaults=True)


WATCH = """
window.__violations = [];
addEventListener('securitypolicyviolation', (event) => {
  window.__violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`);
});
"""


class Watch:
    """Everything a page does that a good page never does."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.abroad: list[str] = []
        page.add_init_script(WATCH)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.on("dialog", self._on_dialog)
        page.on("request", self._on_request)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"console {message.type}: {message.text}")

    def _on_dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.abroad.append(request.url)

    def assert_clean(self) -> None:
        """No error, no dialog, no refused script, and not one request to another host."""
        assert self.errors == []
        assert self.dialogs == []
        assert self.abroad == []
        assert self.page.evaluate("window.__violations ?? []") == []


# -- real windows on an X display


def windows(environ: Mapping[str, str], name: str = "Llama Wrangler") -> list[str]:
    """The ids of the visible X windows whose title has `name`."""
    found = _xdotool(environ, "search", "--onlyvisible", "--name", name)
    return found.stdout.split()


def wait_window(environ: Mapping[str, str]) -> str:
    """The id of the product's window, once it is mapped."""
    return wait_for(lambda: windows(environ), "a window")[-1]


def geometry(environ: Mapping[str, str], window: str) -> tuple[int, int, int, int]:
    """x, y, width, height of a window."""
    text = _xdotool(environ, "getwindowgeometry", "--shell", window).stdout
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    x, y, width, height = (int(values[key]) for key in ("X", "Y", "WIDTH", "HEIGHT"))
    return x, y, width, height


def click(environ: Mapping[str, str], x: int, y: int, button: int = 1) -> None:
    """A real mouse click at a place of the screen."""
    _xdotool(environ, "mousemove", "--sync", str(x), str(y), "click", str(button))


def _xdotool(environ: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["xdotool", *words], env=dict(environ), capture_output=True, text=True, check=False
    )


def screenshot(environ: Mapping[str, str], path: Path) -> Any:
    """What the display shows now, as a Pillow image; also kept at `path`."""
    from PIL import Image

    path.unlink(missing_ok=True)
    subprocess.run(["scrot", str(path)], env=dict(environ), check=True, capture_output=True)
    with Image.open(path) as image:
        return image.convert("RGB")


def colours(image: Any) -> int:
    """How many colours an image has: an empty window has one or two."""
    return len(image.getcolors(image.width * image.height))
