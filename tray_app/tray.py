"""The tray process: one icon, one menu, drawn by pystray on the thread that owns the GUI."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import desktop
from .autostart import autostart
from .client import Client, ClientError
from .icon import IconFiles, PngFile
from .link_handler import register
from .menu import Item, Kind, escape_label, same_shape
from .tray_loops import gui_loop
from .tray_news import Message
from .tray_session import APP_NAME, Face, Session

log = logging.getLogger(__name__)

EXIT_NO_DISPLAY = 3
_SECOND_START_S = 10.0
# Windows holds the texts of a notification in arrays of 64 and 256 characters.
_BALLOON_TITLE, _BALLOON_BODY = 63, 255


def no_display() -> str | None:
    """None where there is a screen; else what to say before serving without a tray."""
    if desktop.display_available():
        return None
    return (
        "There is no display (neither DISPLAY nor WAYLAND_DISPLAY is set), so there is no tray "
        "icon and no window. Llama Wrangler serves without them."
    )


def run_tray(
    home: Path, hidden: bool, page: str = "models", reference: str = "", apart: bool = False
) -> int:
    """Run the tray until the user quits; returns the exit code. Blocks; main thread only.

    The window opens on `page`, and asks there about downloading `reference`.

    `hidden` is the start at login: it shows no window, unless no panel appears either.
    `apart` keeps to `home`: nothing of the user's desktop is read or changed (the self-test).
    A second start asks the running one for its window and returns 0.
    """
    problem = no_display()
    if problem:
        _tell(problem)
        return EXIT_NO_DISPLAY
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(home / "tray.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return 0 if hidden else _show_running(home, page, reference)
    try:
        return _run_first(home, hidden, page, reference, apart)
    finally:
        lock.release()


def _show_running(home: Path, page: str, reference: str) -> int:
    """Ask the engine of the running tray for the window; waits while it is starting."""
    pause = threading.Event()
    waited_s = 0.0
    while True:
        try:
            client = Client.connect(home)
        except ClientError as error:
            if waited_s >= _SECOND_START_S:
                _tell(f"{APP_NAME} is running, but its engine is not: {error.message}")
                return 1
            pause.wait(0.2)
            waited_s += 0.2
            continue
        try:
            client.call("show_window", page=page, reference=reference)
        except ClientError as error:
            _tell(f"{error.message} {error.remedy}")
            return 1
        return 0


def _run_first(home: Path, hidden: bool, page: str, reference: str, apart: bool) -> int:
    backend = None if sys.platform in ("darwin", "win32") else desktop.tray_backend()
    dark_panel = desktop.panel_is_dark()
    icons = IconFiles(_cache_folder() / "icons")
    icons.draw_all_apart(dark_panel)
    panel = _make_panel(backend)
    session = Session(
        home,
        panel,
        icons,
        autostart(platform="linux", environ={}, home=home) if apart else autostart(),
        dark_panel=dark_panel,
        host_available=lambda: desktop.tray_host_available(backend),
        first={"page": page, "reference": reference},
        register_links=(lambda: False) if apart else register,
    )

    def ready() -> None:
        session.start()
        session.present(hidden, desktop.tray_advice(backend), _tell)

    panel.run(session.face(), session.act, ready, session.quit_in_background)
    return 0


def _cache_folder() -> Path:
    given = os.environ.get("LLAMA_WRANGLER_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "llama-wrangler"


def _make_panel(backend: str | None) -> PystrayPanel | NoPanel:
    if sys.platform not in ("darwin", "win32"):
        if backend is None:
            return NoPanel()
        os.environ["PYSTRAY_BACKEND"] = backend
        # Without this GDK loads the GL driver for a process that draws nothing: 27 MB with
        # Mesa. The window must not inherit it (window_process.py).
        os.environ["GDK_GL"] = "disable"
        if not desktop.session_bus_available():
            return NoPanel()
    try:
        return PystrayPanel(sys.platform)
    except ImportError as error:
        log.warning("pystray has no back end here", extra={"error": str(error)})
        return NoPanel()


class NoPanel:
    """Stands in where no icon can be drawn: a plain loop, and messages on stderr."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(
        self,
        face: Face,
        act: Callable[[Item], None],
        ready: Callable[[], None],
        interrupted: Callable[[], None],
    ) -> None:
        """Block until `stop`; `ready` runs on a thread of its own."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: interrupted())
        threading.Thread(target=ready, name="tray-ready", daemon=True).start()
        while (work := self._work.get()) is not None:
            work()

    def post(self, work: Callable[[], None]) -> None:
        """See Panel."""
        self._work.put(work)

    def show(self, face: Face) -> None:
        """Nothing to draw on."""

    def notify(self, message: Message) -> None:
        """See Panel."""
        _tell(f"{message.title}: {message.body}")

    def copy(self, text: str) -> None:
        """See Panel."""
        desktop.copy_text(text, gtk_copy=_tell)

    def stop(self) -> None:
        """See Panel."""
        self._work.put(None)


class PystrayPanel:
    """The icon as pystray draws it.

    pystray may only be touched on the GUI thread: it is not thread-safe on macOS and Windows
    (moses-palmer/pystray#60).
    """

    def __init__(self, platform: str) -> None:
        import pystray

        self._pystray = pystray
        self._platform = platform
        self._loop = gui_loop(platform)
        self._icon: Any = None
        self._face: Face | None = None
        self._rows: list[Item] = []  # what pystray's labels read: the menu in order
        self._act: Callable[[Item], None] = lambda item: None
        self._mnemonic = "&" if platform == "win32" else ""
        # libdbusmenu doubles underscores in new labels, but not in those that change.
        backend = os.environ.get("PYSTRAY_BACKEND")
        self._changed_mark = "_" if backend == "appindicator" else ""

    def run(
        self,
        face: Face,
        act: Callable[[Item], None],
        ready: Callable[[], None],
        interrupted: Callable[[], None],
    ) -> None:
        """Show `face` and block until `stop`; `ready` runs on a thread of its own."""
        self._act = act
        self._face = face
        self._icon = self._pystray.Icon(
            "llama-wrangler", self._picture(face), face.title, self._menu(face.items)
        )
        self._loop.prepare(self._icon)

        def begin() -> None:
            # pystray has set its own SIGINT handler by now; the loop's comes after it.
            self.post(lambda: self._loop.on_signals(interrupted))
            ready()

        def setup(icon: Any) -> None:
            self.post(lambda: setattr(icon, "visible", True))
            threading.Thread(target=begin, name="tray-ready", daemon=True).start()

        self._loop.run(self._icon, setup)

    def post(self, work: Callable[[], None]) -> None:
        """See Panel."""

        def barrier() -> None:
            try:
                work()
            except Exception:
                log.exception("drawing the tray failed")

        self._loop.post(barrier)

    def show(self, face: Face) -> None:
        """See Panel. An open menu stays open when only its texts change."""
        old, self._face = self._face, face
        if old is None or face.picture != old.picture:
            self._icon.icon = self._picture(face)
        if old is None or face.title != old.title:
            self._icon.title = face.title
        if old is not None and face.items == old.items:
            return
        if old is not None and same_shape(old.items, face.items):
            self._rows[:] = _in_order(face.items)
            if self._loop.relabel(self._icon, old.items, face.items, self._changed_mark):
                return
        self._icon.menu = self._menu(face.items)

    def notify(self, message: Message) -> None:
        """See Panel."""
        if not self._loop.notify(message, self._face.picture if self._face else None):
            self._icon.notify(message.body[:_BALLOON_BODY], message.title[:_BALLOON_TITLE])

    def copy(self, text: str) -> None:
        """See Panel."""
        desktop.copy_text(text)

    def stop(self) -> None:
        """See Panel."""
        if self._icon is not None:
            self._icon.stop()

    def _picture(self, face: Face) -> Any:
        if self._platform not in ("darwin", "win32"):
            return PngFile(face.picture)
        from PIL import Image  # these back ends resize it or save it as ICO

        with Image.open(face.picture) as picture:
            return picture.copy()

    def _menu(self, items: Sequence[Item]) -> Any:
        self._rows = _in_order(items)
        return self._submenu(items, iter(range(len(self._rows))))

    def _submenu(self, items: Sequence[Item], numbers: Any) -> Any:
        return self._pystray.Menu(*[self._entry(item, next(numbers), numbers) for item in items])

    def _entry(self, item: Item, number: int, numbers: Any) -> Any:
        if item.kind is Kind.SEPARATOR:
            return self._pystray.Menu.SEPARATOR
        rows = self._rows  # a menu keeps its own rows while the next one is built
        checked = item.kind in (Kind.RADIO, Kind.CHECK)
        action: Any = lambda icon, entry: self._act(rows[number])  # noqa: E731 (pystray counts its parameters)
        if item.kind is Kind.SUBMENU:
            action = self._submenu(item.children, numbers)
        return self._pystray.MenuItem(
            lambda entry: escape_label(rows[number].label, self._mnemonic),
            action,
            checked=(lambda entry: rows[number].checked) if checked else None,
            radio=item.kind is Kind.RADIO,
            default=item.default,
            enabled=lambda entry: rows[number].enabled,
        )


def _in_order(items: Sequence[Item]) -> list[Item]:
    """All items, each before its children: the order in which they are numbered."""
    rows: list[Item] = []
    for item in items:
        rows.append(item)
        rows.extend(_in_order(item.children))
    return rows


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
