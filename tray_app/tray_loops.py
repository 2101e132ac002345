"""The GUI loops under pystray, one for each platform, behind the same few methods.

pystray offers no way to run work on its own thread and rebuilds whole menus, so these reach
into its icon. Each such reach is commented; pystray 0.19.5 was read for them.
"""

from __future__ import annotations

import importlib
import logging
import queue
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from .menu import Item, Kind, escape_label
from .tray_news import Message

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTIFICATIONS = "org.freedesktop.Notifications"


class Loop(Protocol):
    """The GUI thread of one platform."""

    def prepare(self, icon: Any) -> None:
        """Get `icon` ready for `post`, before `run`."""

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` on the GUI thread, soon. From any thread."""

    def on_signals(self, act: Callable[[], None]) -> None:
        """Call `act` when the process is told to end. On the GUI thread."""

    def run(self, icon: Any, setup: Callable[[Any], None]) -> None:
        """Block in the loop of `icon` until it is stopped."""

    def relabel(self, icon: Any, old: Sequence[Item], new: Sequence[Item], mark: str) -> bool:
        """Change the texts of the live menu in place; False where that cannot be done."""

    def notify(self, message: Message, picture: Path | None) -> bool:
        """Show a notification; False to let pystray do it."""


def gui_loop(platform: str = sys.platform) -> Loop:
    """The loop of this platform."""
    if platform == "win32":
        return WindowsLoop()
    if platform == "darwin":
        return CocoaLoop()
    return GtkLoop()


class GtkLoop:
    """Linux: GLib's main loop."""

    def __init__(self) -> None:
        from gi.repository import Gio, GLib

        self._gio, self._glib = Gio, GLib

    def prepare(self, icon: Any) -> None:
        """See Loop."""

    def post(self, work: Callable[[], None]) -> None:
        """See Loop."""

        def once() -> bool:
            work()
            return False

        self._glib.idle_add(once)

    def on_signals(self, act: Callable[[], None]) -> None:
        """See Loop. Python's own handlers would wait until the C loop returns."""

        def again() -> bool:
            act()
            return True

        for number in _SIGNALS:
            self._glib.unix_signal_add(self._glib.PRIORITY_HIGH, number, again)

    def run(self, icon: Any, setup: Callable[[Any], None]) -> None:
        """See Loop."""
        try:
            icon.run(setup)
        except self._glib.Error as error:
            # On its way out pystray hides its notification, also where no service shows any.
            log.info("pystray could not reach the desktop", extra={"error": str(error)})

    def relabel(self, icon: Any, old: Sequence[Item], new: Sequence[Item], mark: str) -> bool:
        """See Loop. A rebuilt menu closes under the user's pointer (moses-palmer/pystray#59)."""
        menu = getattr(icon, "_menu_handle", None)
        return menu is not None and _relabel(menu, old, new, mark)

    def notify(self, message: Message, picture: Path | None) -> bool:
        """See Loop. pystray's own call blocks the GUI until the service answers (25 s)."""
        values = self._glib.Variant(
            "(susssasa{sv}i)",
            ("Llama Wrangler", 0, str(picture or ""), message.title, message.body, [], {}, -1),
        )
        try:
            bus = self._gio.bus_get_sync(self._gio.BusType.SESSION, None)
        except self._glib.Error as error:
            log.warning("no session bus for a notification", extra={"error": str(error)})
            return True
        bus.call(
            _NOTIFICATIONS,
            "/org/freedesktop/Notifications",
            _NOTIFICATIONS,
            "Notify",
            values,
            None,
            self._gio.DBusCallFlags.NONE,
            -1,
            None,
            None,
        )
        return True


def _relabel(menu: Any, old: Sequence[Item], new: Sequence[Item], mark: str) -> bool:
    widgets = menu.get_children()
    if len(widgets) != len(new):
        return False
    for widget, before, after in zip(widgets, old, new, strict=True):
        if before == after or after.kind is Kind.SEPARATOR:
            continue
        if after.default:
            return False  # its label is markup
        widget.set_label(escape_label(after.label, mark))
        widget.set_sensitive(after.enabled)
        if after.children and not _relabel(
            widget.get_submenu(), before.children, after.children, mark
        ):
            return False
    return True


class CocoaLoop:
    """macOS: AppKit's loop on the main thread."""

    def __init__(self) -> None:
        # By name: PyObjC comes with pystray, but only on macOS.
        self._helper = importlib.import_module("PyObjCTools.AppHelper")
        self._signals = importlib.import_module("PyObjCTools.MachSignals")

    def prepare(self, icon: Any) -> None:
        """See Loop."""

    def post(self, work: Callable[[], None]) -> None:
        """See Loop."""
        self._helper.callAfter(work)

    def on_signals(self, act: Callable[[], None]) -> None:
        """See Loop."""
        for number in _SIGNALS:
            self._signals.signal(number, lambda *_: act())

    def run(self, icon: Any, setup: Callable[[Any], None]) -> None:
        """See Loop."""
        icon.run(setup)

    def relabel(self, icon: Any, old: Sequence[Item], new: Sequence[Item], mark: str) -> bool:
        """See Loop. macOS keeps an open menu as it was when it was opened."""
        return False

    def notify(self, message: Message, picture: Path | None) -> bool:
        """See Loop."""
        return False


class WindowsLoop:
    """Windows: pystray's message loop, with one message of our own that runs posted work."""

    # pystray uses WM_USER + 10 and + 11 (its _util/win32.py).
    _WM_POSTED = 0x0400 + 64
    _WM_NOTIFY = 0x0400 + 11

    def __init__(self, post_message: Callable[[int, int], None] | None = None) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._post_message = post_message or _post_message
        self._icon: Any = None
        self._menu_is_open = False

    def prepare(self, icon: Any) -> None:
        """See Loop. Adds to the table that pystray reads for each window message."""
        self._icon = icon
        handlers = icon._message_handlers
        notified = handlers[self._WM_NOTIFY]

        def on_notify(wparam: int, lparam: int) -> None:
            # The menu runs a loop of its own in here; destroying it under the pointer is what
            # a rebuild would do, so posted work waits until it is closed.
            self._menu_is_open = True
            try:
                notified(wparam, lparam)
            finally:
                self._menu_is_open = False
                self._run_posted(0, 0)

        handlers[self._WM_NOTIFY] = on_notify
        handlers[self._WM_POSTED] = self._run_posted

    def post(self, work: Callable[[], None]) -> None:
        """See Loop."""
        self._work.put(work)
        window = getattr(self._icon, "_hwnd", None)
        if window:  # before the window is there the first message of it runs the work
            self._post_message(window, self._WM_POSTED)

    def on_signals(self, act: Callable[[], None]) -> None:
        """See Loop. Windows ends a process without a console by closing it, not by signals."""

    def run(self, icon: Any, setup: Callable[[Any], None]) -> None:
        """See Loop."""
        icon.run(setup)

    def relabel(self, icon: Any, old: Sequence[Item], new: Sequence[Item], mark: str) -> bool:
        """See Loop. The menu is drawn anew each time it opens."""
        return False

    def notify(self, message: Message, picture: Path | None) -> bool:
        """See Loop."""
        return False

    def _run_posted(self, wparam: int, lparam: int) -> None:
        while not self._menu_is_open:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                return
            work()


def _post_message(window: int, message: int) -> None:
    import ctypes

    vars(ctypes)["windll"].user32.PostMessageW(window, message, 0, 0)
