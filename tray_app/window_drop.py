"""Files dropped on the window: the page never learns their paths, so its process tells it.

GTK and Qt say it themselves. pywebview's own way (6.2: `pywebviewFullPath` of a DOM event) serves
the other systems; under GTK it reads text and misses the URI list that file managers send.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

MOST = 50  # paths of one drop
EVENT = "llama-wrangler:drop"

Tell = Callable[[list[str]], None]


def follow_drops(window: Any) -> None:
    """Tell the page the paths of what is dropped on it."""

    def tell(paths: list[str]) -> None:
        # `run_js` waits for the GUI's thread, which may be ours.
        if paths:
            words = script(paths[:MOST])
            threading.Thread(target=window.run_js, args=(words,), name="drop", daemon=True).start()

    def on_shown() -> None:
        native = window.native
        if type(native).__module__.startswith("gi."):
            _gtk(native, tell)
        elif hasattr(native, "webview") and hasattr(native.webview, "installEventFilter"):
            _qt(native, tell)
        else:
            window.events.loaded += lambda: _dom(window, tell)

    window.events.shown += on_shown


def _gtk(native: Any, tell: Tell) -> None:
    from gi.repository import GLib

    seen: list[str] = []

    def received(_view: Any, _context: Any, _x: int, _y: int, data: Any, *_: Any) -> bool:
        uris = data.get_uris()
        if uris:  # WebKit asks for several forms of the same drop
            seen[:] = paths_of_uris(uris)
        return False

    def dropped(*_: Any) -> bool:
        # After WebKit's own handlers, which ask for the data once more.
        GLib.timeout_add(100, deliver)
        return False

    def deliver() -> bool:
        paths, seen[:] = list(seen), []
        tell(paths)
        return False

    def connect() -> bool:
        view = _web_view(native)
        view.connect("drag-data-received", received)
        view.connect("drag-drop", dropped)
        return False

    GLib.idle_add(connect)


def _web_view(widget: Any) -> Any:
    """The WebKit view inside a GTK window."""
    while not hasattr(widget, "get_uri"):
        widget = widget.get_child()
    return widget


def _qt(native: Any, tell: Tell) -> None:
    from qtpy import QtCore

    class Filter(QtCore.QObject):
        def eventFilter(self, _watched: Any, event: Any) -> bool:
            if event.type() == QtCore.QEvent.Type.Drop:
                urls = event.mimeData().urls()
                paths = [url.toLocalFile() for url in urls if url.isLocalFile()]
                tell(paths)
            return False

    view = native.webview
    watch = Filter()
    watch.moveToThread(view.thread())
    watch.setParent(None)
    view.drop_filter = watch  # kept as long as the view
    for widget in (view, *view.findChildren(QtCore.QObject)):
        if widget.isWidgetType():
            widget.installEventFilter(watch)


def _dom(window: Any, tell: Tell) -> None:
    window.dom.document.events.drop += lambda event: tell(paths_of(event))


def paths_of_uris(uris: Iterable[str]) -> list[str]:
    """The local paths among URIs (RFC 8089); others are left out."""
    paths = []
    for uri in uris:
        parts = urlsplit(uri.strip())
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            paths.append(unquote(parts.path))
    return paths


def paths_of(event: Mapping[str, Any]) -> list[str]:
    """The paths in a drop as pywebview tells it."""
    files = (event.get("dataTransfer") or {}).get("files") or []
    paths = [file.get("pywebviewFullPath") for file in files if isinstance(file, Mapping)]
    return [str(path) for path in paths if path]


def script(paths: list[str]) -> str:
    """What tells the page; JSON in ASCII is safe inside a script."""
    detail = json.dumps({"detail": {"paths": paths}})
    return f"dispatchEvent(new CustomEvent({json.dumps(EVENT)}, {detail}))"
