"""What the tray does: renders the engine's state, runs the menu's actions, and quits cleanly.

It draws through a `Panel`, so that all of it runs without a display in tests.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import desktop
from .autostart import Autostart
from .client import Client, ClientError
from .icon import IconFiles
from .menu import Item, build_menu, build_offline_menu, clean
from .menu_downloads import overall, unfinished
from .tray_link import EngineLink, Phase, View
from .tray_news import Message, News
from .window_process import WindowProcess

log = logging.getLogger(__name__)

APP_NAME = "Llama Wrangler"
# Ending the engine ends its models: llama-server needs up to 10 s to free a big one.
QUIT_S = 15.0
# At login the tray may be there before the panel.
HOST_PATIENCE_S = 30.0
_HOST_POLL_S = 1.0
_TITLE_LENGTH = 120  # Windows cuts the tool tip at 127
# Reading the autostart entry may start launchctl on macOS.
_AUTOSTART_FRESH_S = 2.0
# A window process takes up to a quarter of a second to be gone; who asks for it meanwhile means a
# new one.
_DYING_S = 0.5
_NEVER: tuple[float, dict[str, str]] = (float("-inf"), {})

_OFFLINE_ICON = {Phase.STARTING: "starting", Phase.LOST: "error", Phase.STOPPED: "stopped"}


@dataclass(frozen=True, slots=True)
class Face:
    """All that the tray shows at one moment."""

    picture: Path
    title: str
    items: tuple[Item, ...]


class Panel(Protocol):
    """The tray icon of one platform."""

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` on the GUI thread, soon. From any thread."""

    def show(self, face: Face) -> None:
        """Draw `face`. Only on the GUI thread."""

    def notify(self, message: Message) -> None:
        """Show a notification. From any thread; may block briefly."""

    def copy(self, text: str) -> None:
        """Put `text` on the clipboard. From any thread. Raises OSError."""

    def stop(self) -> None:
        """End the GUI loop. From any thread."""


class Session:
    """One run of the tray, from the first icon to the last."""

    def __init__(
        self,
        home: Path,
        panel: Panel,
        icons: IconFiles,
        switch: Autostart,
        *,
        dark_panel: bool | None = None,
        host_available: Callable[[], bool] = lambda: True,
        window: Callable[[Path, Callable[[int, bool], None]], WindowProcess] = WindowProcess,
        link: Callable[..., EngineLink] = EngineLink,
        open_path: Callable[[Path], None] = desktop.open_path,
        first: Mapping[str, str] | None = None,
        register_links: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._panel = panel
        self._icons = icons
        self._switch = switch
        self._dark_panel = dark_panel
        self._host_available = host_available
        self._open_path = open_path
        self._clock = clock
        self._first = dict(first or {"page": "models"})  # what the window opens on
        self._register_links = register_links
        self._asked_for = _NEVER  # when a living window was asked for, and what to show
        self._window = window(home, self._on_window_end)
        self._link = link(home, self._on_view, self._on_event)
        self._news = News(clock)
        self._view = View(Phase.STARTING)
        self._settled = threading.Event()  # the engine answered, or is known not to
        self._quit_lock = threading.Lock()
        self._quitting = threading.Event()
        self._lives_with_window = False
        self._shown: Face | None = None
        self._autostart: tuple[float, bool | None] | None = None

    def start(self) -> None:
        """Begin to follow the engine; returns at once."""
        self._link.start()
        self._in_background(self._repair_autostart)
        self._in_background(self._register)

    def face(self) -> Face:
        """What the tray should show now."""
        view, autostart = self._view, self._autostart_state()
        if self._quitting.is_set():
            text, state = "Stopping…", "stopped"
            items = build_offline_menu(text, autostart=None, can_restart=False)
        elif view.snapshot is not None:
            text, state = _tooltip(view.snapshot), view.snapshot["server_state"]
            items = build_menu(view.snapshot, autostart=autostart)
        else:
            text, state = view.problem or "Starting…", _OFFLINE_ICON[view.phase]
            items = build_offline_menu(
                text, autostart=autostart, can_restart=view.phase is not Phase.STARTING
            )
        title = clean(f"{APP_NAME}: {text}", _TITLE_LENGTH)
        return Face(self._icons.path(state, self._dark_panel), title, items)

    def act(self, item: Item) -> None:
        """Run what the user chose, on a thread of its own; never blocks the GUI."""
        self._in_background(lambda: self._run(item.action, dict(item.args)))

    def present(self, hidden: bool, advice: str, tell: Callable[[str], None]) -> None:
        """Open the window unless `hidden`; where no panel shows icons, live as long as it does.

        Blocks for HOST_PATIENCE_S when `hidden` and no panel is there. `tell` gets the advice.
        """
        if not hidden:
            # The window starts an engine too where there is none; two would race for the lock.
            self._settled.wait(QUIT_S)
            self._run("open_window", self._first)
        deadline = self._clock() + (HOST_PATIENCE_S if hidden else 0)
        while not self._host_available():
            if self._clock() >= deadline:
                self._lives_with_window = True
                tell(advice)
                if hidden:
                    self._run("open_window", self._first)
                if not self._window.alive():  # closed before the flag was set, or never opened
                    self.quit()
                return
            if self._quitting.wait(_HOST_POLL_S):
                return

    def quit(self) -> None:
        """End the window, the engine this tray started, and the tray; blocks up to QUIT_S."""
        with self._quit_lock:
            if self._quitting.is_set():
                return
            self._quitting.set()
        self._render()
        try:
            self._window.end()
            # An engine that is just being started must be known before it can be ended.
            self._settled.wait(QUIT_S)
            self._end_engine()
        finally:
            self._panel.stop()

    def quit_in_background(self) -> None:
        """`quit` for a signal handler."""
        self._in_background(self.quit)

    def _end_engine(self) -> None:
        try:
            # One that is not followed may still run: the link may be between two tries.
            client = self._link.client_or_none() or Client.connect(self._home)
            snapshot = self._view.snapshot or client.snapshot()
        except ClientError:
            return
        finally:
            self._link.stop()
        if snapshot["mode"] == "serve":
            return  # `llama-wrangler serve` owns it, and was there before the tray
        if not end_engine(client, QUIT_S):
            log.warning("the engine is still ending", extra={"timeout_s": QUIT_S})

    def _run(self, action: str, args: Mapping[str, Any]) -> None:
        local: dict[str, Callable[..., None]] = {
            "open_window": self._open_window,
            "open_logs": self._open_logs,
            "copy_address": self._copy_address,
            "set_autostart": self._set_autostart,
            "restart_engine": self._restart_engine,
            "quit": self.quit,
        }
        try:
            if action in local:
                local[action](**args)
            else:
                self._link.call(action, **args)
        except ClientError as error:
            text = "\n".join(part for part in (error.message, error.remedy) if part)
            self._panel.notify(Message(APP_NAME, text))
        except (OSError, subprocess.SubprocessError) as error:
            self._panel.notify(Message(APP_NAME, str(error)))

    def _open_window(self, page: str, reference: str = "") -> None:
        if not self._window.open(page, reference):  # the window that lives raises itself
            self._link.call("show_window", page=page, reference=reference)

    def _open_logs(self) -> None:
        logs = self._home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._open_path(logs)

    def _copy_address(self, text: str) -> None:
        self._panel.copy(text)
        self._panel.notify(Message("Copied", text))

    def _set_autostart(self, enabled: bool) -> None:
        try:
            if enabled:
                self._switch.turn_on()
            else:
                self._switch.turn_off()
        finally:
            self._autostart = None
            self._render()

    def _restart_engine(self) -> None:
        self._on_view(View(Phase.STARTING))
        self._link.retry()

    def _repair_autostart(self) -> None:
        if self._switch.repair():
            log.info("the autostart entry ran another installation and was rewritten")

    def _register(self) -> None:
        if self._register_links():
            log.info("links are opened by this installation now")

    def _autostart_state(self) -> bool | None:
        now = self._clock()
        if self._autostart is None or now - self._autostart[0] > _AUTOSTART_FRESH_S:
            try:
                self._autostart = (now, self._switch.is_on())
            except OSError as error:
                log.warning("the autostart entry cannot be read", extra={"error": str(error)})
                self._autostart = (now, None)
        return self._autostart[1]

    def _on_view(self, view: View) -> None:
        before, self._view = self._view.snapshot, view
        mode = before["mode"] if before is not None else ""
        if view.phase is not Phase.STARTING:
            self._settled.set()
        if view.snapshot is None:
            self._news.forget()
        else:
            for message in self._news.of(view.snapshot):
                self._panel.notify(message)
        self._render()
        if view.phase is Phase.STOPPED and mode == "tray":
            self.quit_in_background()  # `llama-wrangler stop` ends the tray too

    def _on_event(self, name: str, values: Mapping[str, Any]) -> None:
        if name != "WindowRequested":
            return
        wish = {"page": str(values["page"]), "reference": str(values.get("reference", ""))}
        if self._window.alive():
            self._asked_for = (self._clock(), wish)
        else:
            self._in_background(lambda: self._run("open_window", wish))

    def _on_window_end(self, exit_code: int, failed: bool) -> None:
        asked_at, wish = self._asked_for
        if self._clock() - asked_at < _DYING_S and not self._quitting.is_set():
            self._asked_for = _NEVER
            self._in_background(lambda: self._run("open_window", wish))
            return
        if failed and not self._quitting.is_set():
            text = f"The window ended at once (exit code {exit_code}). See its log."
            self._panel.notify(Message(APP_NAME, text))
        invisible = self._lives_with_window and not self._host_available()
        if invisible or (exit_code == 0 and not self._stays_without_window()):
            self.quit()  # does nothing when a quit is what ended the window

    def _stays_without_window(self) -> bool:
        """The user's setting `ui.close_to_tray`; an engine that is away settles nothing."""
        snapshot = self._view.snapshot
        return snapshot is None or bool(snapshot["settings"]["ui"]["close_to_tray"])

    def _render(self) -> None:
        self._panel.post(self._show)

    def _show(self) -> None:
        face = self.face()
        if face != self._shown:
            self._panel.show(face)
            self._shown = face

    def _in_background(self, work: Callable[[], None]) -> None:
        def barrier() -> None:
            try:
                work()
            except Exception:
                log.exception("an action of the tray failed")

        threading.Thread(target=barrier, name="tray-action", daemon=True).start()


def _tooltip(snapshot: Mapping[str, Any]) -> str:
    """The state in one line, with how far downloads are."""
    text = str(snapshot["status_text"])
    moving = [each for each in snapshot["downloads"] if each["state"] == "running"]
    return f"{text} · downloading, {overall(unfinished(snapshot['downloads']))}" if moving else text


def end_engine(client: Client, timeout_s: float) -> bool:
    """Ask the engine to end and wait for its process; False when it is still there."""
    import psutil  # only on the way out: it costs 3 MB

    try:
        process = psutil.Process(client.engine_pid)
        client.call("shutdown")
    except psutil.NoSuchProcess:
        return True
    except ClientError as error:
        log.warning("the engine refused to end", extra={"code": error.code})
    try:
        process.wait(timeout_s)
    except psutil.TimeoutExpired:
        return False
    return True
