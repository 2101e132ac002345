"""A hub's own site in a window of a process of its own, without bridge and without secrets.

Only its address is read. When that is a model's page, our bar offers it; a click writes one line
of JSON to stdout, `{"reference": …}`, for the window's process that started us.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import webview

from . import APP_NAME, browse_bar, desktop
from .browse_address import HOMES, Seen, model_of

WIDTH, HEIGHT = 1120, 800
# Not for a page, nor for anything that a page could break into.
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class _Browser:
    """What the window is on, and what its bar does."""

    def __init__(self, home: str, endpoint: str | None) -> None:
        self.home = home
        self._endpoint = endpoint
        self._address = home
        self._seen: Seen | None = None
        self._bar: browse_bar.Bar | None = None
        self._lock = threading.Lock()
        self.window: Any = None

    def begin(self) -> None:
        """The window is there: put the bar on it."""
        bar = browse_bar.attach(
            self.window, self.moved, self.download, self.go_home, self.open_outside
        )
        with self._lock:
            self._bar = bar
            seen = self._seen
        bar.show(seen.name if seen else None)

    def moved(self, address: str) -> None:
        """The page has another address."""
        seen = model_of(address, self._endpoint)
        with self._lock:
            self._address, self._seen, bar = address, seen, self._bar
        if bar is not None:
            bar.show(seen.name if seen else None)

    def download(self) -> None:
        """The button of the bar, or of the menu."""
        with self._lock:
            seen = self._seen
        if seen is not None:
            sys.stdout.write(json.dumps({"reference": seen.reference}) + "\n")
            sys.stdout.flush()

    def go_home(self) -> None:
        """Back to the first page."""
        self.window.load_url(self.home)

    def open_outside(self) -> None:
        """Show the page in the user's own browser."""
        if self._address.startswith(("https://", "http://")):
            desktop.open_path(self._address)

    def menu(self) -> list[Any]:
        """The bar where there is none: a menu of the window."""
        from webview.menu import Menu, MenuAction

        actions: list[Any] = [
            MenuAction(f"Download with {APP_NAME}", self.download),
            MenuAction("First page", self.go_home),
            MenuAction("Open in the browser", self.open_outside),
        ]
        return [Menu(APP_NAME, actions)]


def run_browse(site: str, endpoint: str | None, owned: bool) -> int:
    """Show the site and block until the window is closed.

    `owned`: our stdin is the pipe of the window's process, whose end ends us.
    """
    for name in SECRETS:
        os.environ.pop(name, None)
    home = endpoint if endpoint and site == "huggingface" else HOMES[site]
    browser = _Browser(home, endpoint)
    window: Any = webview.create_window(
        f"{APP_NAME}: {site}",
        home,
        width=WIDTH,
        height=HEIGHT,
        text_select=True,
        menu=[] if sys.platform == "linux" else browser.menu(),
    )
    browser.window = window
    window.events.shown += browser.begin
    if owned:
        threading.Thread(target=_watch_parent, args=(window,), daemon=True).start()
    gui: Any = os.environ.get("PYWEBVIEW_GUI") or None
    webview.start(gui=gui, private_mode=True)
    return 0


def _watch_parent(window: Any) -> None:
    # Not through sys.stdin: its lock, held here for good, would abort the interpreter's end.
    while os.read(0, 1):
        pass
    last_resort = threading.Timer(5.0, os._exit, args=(0,))
    last_resort.daemon = True
    last_resort.start()
    window.destroy()
