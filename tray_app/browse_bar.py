"""The bar above a hub's page, and how its address is followed: one function for each web engine.

The bar is a widget of the toolkit, not part of the page: no script of the page can press it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from . import APP_NAME

LOOK_S = 0.5  # where the address can only be asked for
_WEB = ("http:", "https:", "about:", "blob:", "data:")


class Bar(Protocol):
    """What the browse window needs of its bar. `show` may be called from any thread."""

    def show(self, name: str | None) -> None:
        """Offer the model `name`; None: this page is about none."""


def offer(name: str | None) -> str:
    """The words on the button."""
    return f"Download with {APP_NAME}: {name}" if name else "Open the page of a model"


def attach(
    window: Any,
    on_address: Callable[[str], None],
    on_download: Callable[[], None],
    on_home: Callable[[], None],
    on_outside: Callable[[], None],
) -> Bar:
    """Put a bar on a shown window and tell each new address. On a thread of pywebview's."""
    native = window.native
    module = type(native).__module__
    if module.startswith("gi."):
        return _gtk(native, on_address, on_download, on_home, on_outside)
    if hasattr(native, "addToolBar"):
        return _qt(native, on_address, on_download, on_home, on_outside)
    return _polled(window, on_address)


def _gtk(
    native: Any,
    on_address: Callable[[str], None],
    on_download: Callable[[], None],
    on_home: Callable[[], None],
    on_outside: Callable[[], None],
) -> Bar:
    from gi.repository import GLib, Gtk

    holder = native.get_child()
    view = holder.get_child()
    if not hasattr(view, "get_uri"):  # a Viewport in between
        view = view.get_child()
    button = Gtk.Button(label=offer(None), sensitive=False)
    button.get_style_context().add_class("suggested-action")

    def tool(icon: str, words: str, act: Callable[[], None]) -> Any:
        made = Gtk.Button.new_from_icon_name(icon, Gtk.IconSize.BUTTON)
        made.set_tooltip_text(words)
        made.connect("clicked", lambda _: act())
        return made

    def build() -> None:
        bar = Gtk.Box(spacing=6, margin=6)
        for made in (
            tool("go-previous-symbolic", "Back", view.go_back),
            tool("go-next-symbolic", "Forward", view.go_forward),
            tool("go-home-symbolic", "First page", on_home),
            tool("web-browser-symbolic", "Open in the browser", on_outside),
        ):
            bar.pack_start(made, False, False, 0)
        bar.pack_end(button, False, False, 0)
        button.connect("clicked", lambda _: on_download())
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        native.remove(holder)
        box.pack_start(bar, False, False, 0)
        box.pack_start(holder, True, True, 0)
        native.add(box)
        box.show_all()
        view.connect("notify::uri", lambda *_: on_address(view.get_uri() or ""))
        view.connect("decide-policy", _only_web)
        view.get_context().connect("download-started", lambda _, download: download.cancel())
        on_address(view.get_uri() or "")

    GLib.idle_add(build)

    class GtkBar:
        def show(self, name: str | None) -> None:
            def draw() -> None:
                button.set_label(offer(name))
                button.set_sensitive(name is not None)

            GLib.idle_add(draw)

    return GtkBar()


def _only_web(_view: Any, decision: Any, _kind: Any) -> bool:
    """Refuse what is no web page: a site must not start programs of this computer."""
    action = getattr(decision, "get_navigation_action", None)
    uri = action().get_request().get_uri() if action is not None else "https:"
    if uri.lower().startswith(_WEB):
        return False
    decision.ignore()
    return True


def _qt(
    native: Any,
    on_address: Callable[[str], None],
    on_download: Callable[[], None],
    on_home: Callable[[], None],
    on_outside: Callable[[], None],
) -> Bar:
    from qtpy import QtCore, QtWidgets

    signal: Any = QtCore.Signal  # type: ignore[attr-defined]  # of whichever Qt there is

    class QtBar(QtCore.QObject):
        built = signal()
        shown = signal(str)

        def __init__(self) -> None:
            super().__init__()
            self.moveToThread(native.thread())
            self.built.connect(self.build)
            self.shown.connect(self.draw)

        def show(self, name: str | None) -> None:
            self.shown.emit(name or "")

        def build(self) -> None:
            bar = native.addToolBar("Page")
            bar.setMovable(False)
            page = native.webview
            for words, act in (
                ("Back", page.back),
                ("Forward", page.forward),
                ("First page", on_home),
                ("Open in the browser", on_outside),
            ):
                bar.addAction(words, act)
            gap = QtWidgets.QWidget()
            policy = QtWidgets.QSizePolicy.Policy
            gap.setSizePolicy(policy.Expanding, policy.Preferred)
            bar.addWidget(gap)
            self.button = QtWidgets.QPushButton(offer(None))
            self.button.setEnabled(False)
            self.button.clicked.connect(lambda *_: on_download())
            bar.addWidget(self.button)
            page.urlChanged.connect(lambda url: on_address(url.toString()))
            on_address(page.url().toString())

        def draw(self, name: str) -> None:
            # "&" would mark a key of the keyboard.
            self.button.setText(offer(name or None).replace("&", "&&"))
            self.button.setEnabled(bool(name))

    bar = QtBar()
    bar.built.emit()
    return bar


def _polled(window: Any, on_address: Callable[[str], None]) -> Bar:
    """Elsewhere the window's own menu is the bar (`browse.menu`): the address is asked for."""
    ended = threading.Event()
    window.events.closed += ended.set

    def look() -> None:
        last = ""
        while not ended.wait(LOOK_S):
            address = window.get_current_url() or ""
            if address != last:
                last = address
                on_address(address)

    threading.Thread(target=look, name="address", daemon=True).start()

    class TitleBar:
        def show(self, name: str | None) -> None:
            window.set_title(f"{APP_NAME}: {name}" if name else APP_NAME)

    return TitleBar()
