"""The window: a process of its own around one pywebview window that shows the engine's page.

It lives while open, ends with its engine or its tray, and takes neither along. The bridge has
one method with an allow-list: any script in the page can reach what hangs on the bridge
object (shared measurement), so this process holds no secret beyond its own session.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import webview

from . import APP_NAME, autostart, desktop
from .browse_address import HOMES
from .browse_process import BrowseProcess
from .client import Client, ClientError, ensure_engine
from .window_drop import follow_drops
from .window_probe import probe
from .window_process import ENDED_FOR_US

log = logging.getLogger(__name__)

WIDTH, HEIGHT = 1080, 760
MIN_SIZE = (480, 520)
ENGINE_COMMANDS = frozenset(
    {
        *("snapshot", "rescan", "add_folder", "remove_folder"),
        *("switch_model", "load_model", "unload_model", "pin_model", "launch_command"),
        *("change_settings", "model_settings", "change_model_settings"),
        *("list_logs", "read_log", "request_history", "doctor", "copy_diagnostics"),
        *("usage", "slots", "forget_conversations", "model_memory"),
        *("sharing", "share", "create_api_key", "revoke_api_key", "gateway_key"),
        *("find_runtime", "build_runtime", "install_runtime", "use_runtime", "remove_runtime"),
        *("available_runtimes", "roll_back_runtime", "check_updates", "skip_update"),
        *("read_hardware", "runtime_doctor", "cancel_job"),
        *("pull", "preview_download", "pause_download", "resume_download", "cancel_download"),
        *("retry_download", "remove_download", "move_download", "pause_downloads"),
        *("resume_downloads", "clear_downloads", "search_models", "repo_details", "model_card"),
        *("suggested_models", "hub_account", "set_hub_token", "import_model", "model_origin"),
        *("delete_model", "inspect_model", "quantize_targets", "quantize_model", "model_quality"),
        *("convert_plan", "convert_model", "conversions", "continue_conversion"),
        *("discard_conversion", "install_converter", "remove_converter"),
        *("bench_model", "bench_history"),
        *("app_update_status", "check_app_update", "fetch_app_update", "apply_app_update"),
        "skip_app_update",
    }
)


def _failure(error: ClientError) -> dict[str, Any]:
    view = {"code": error.code, "message": error.message, "remedy": error.remedy}
    return {"ok": False, "error": view}


class Bridge:
    """What the page may call: `pywebview.api.call(name, args)` and nothing else."""

    def __init__(self, native: Native) -> None:
        self._native = native

    def call(self, name: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run an engine command, or a `native:` one; always an envelope, never a traceback."""
        try:
            if name.startswith("native:"):
                return {"ok": True, "value": self._native.run(name[7:], dict(args or {}))}
            if name not in ENGINE_COMMANDS:
                raise ClientError("bad_request", f"The page may not call “{name}”.")
            return {"ok": True, "value": self._native.client.call(name, **dict(args or {}))}
        except ClientError as error:
            return _failure(error)
        except OSError as error:
            return _failure(ClientError("system", f"The system refused: {error}"))
        except Exception:  # barrier: a traceback here would reach the page
            log.exception("bridge call failed")
            return _failure(ClientError("internal", f"“{name}” failed in the window."))


class Native:
    """What only the window's process can do for the page."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.window: Any = None
        self.browser = BrowseProcess(self._ask_about)

    def run(self, name: str, args: dict[str, Any]) -> Any:
        """Dispatch by the allow-list. Raises ClientError."""
        actions = {
            "choose_folder": self._choose_folder,
            "choose_files": self._choose_files,
            "browse": self._browse,
            "open_path": self._open_path,
            "open_url": self._open_url,
            "copy_text": self._copy_text,
            "autostart": self._autostart,
        }
        if name not in actions:
            raise ClientError("bad_request", f"The window cannot do “{name}”.")
        return actions[name](args)

    def _choose_folder(self, args: dict[str, Any]) -> str | None:
        chosen = self.window.create_file_dialog(webview.FileDialog.FOLDER)
        return str(chosen[0]) if chosen else None

    def _choose_files(self, args: dict[str, Any]) -> list[str]:
        kinds = ("Models (*.gguf)", "All files (*.*)")
        dialog = webview.FileDialog.OPEN
        chosen = self.window.create_file_dialog(dialog, allow_multiple=True, file_types=kinds)
        return [str(path) for path in chosen or ()]

    def _browse(self, args: dict[str, Any]) -> bool:
        site = str(args.get("site", ""))
        if site not in HOMES:
            raise ClientError("bad_request", f"“{site[:40]}” is no site that can be shown.")
        settings = self.client.snapshot()["settings"]["downloads"]
        endpoint = settings["hub_endpoint"] or os.environ.get("HF_ENDPOINT") or None
        self.browser.open(site, endpoint)
        return True

    def _ask_about(self, reference: str) -> None:
        """The browse window's button: the engine has this window ask."""
        try:
            self.client.call("show_window", page="discover", reference=reference)
        except ClientError as error:
            log.warning("a wish of the browse window was lost: %s", error.message)

    def _open_path(self, args: dict[str, Any]) -> bool:
        # Without its `..`; a link that the user put into a folder is theirs to follow.
        path = Path(os.path.normpath(str(args.get("path", ""))))
        home = Path(str(self.client.snapshot()["home"]))
        known = [home, *(Path(f["path"]) for f in self.client.snapshot()["folders"])]
        if not any(path == folder or path.is_relative_to(folder) for folder in known):
            raise ClientError("bad_request", f"{path} is not in a folder of the library.")
        desktop.open_path(path if path.is_dir() else path.parent)
        return True

    def _open_url(self, args: dict[str, Any]) -> bool:
        url = str(args.get("url", ""))
        if not url.startswith(("https://", "http://")):
            raise ClientError("bad_request", "Only web addresses are opened.")
        desktop.open_path(url)
        return True

    def _copy_text(self, args: dict[str, Any]) -> bool:
        desktop.copy_text(str(args.get("text", "")))
        return True

    def _autostart(self, args: dict[str, Any]) -> bool:
        switch = autostart.autostart()
        if "enabled" in args:
            (switch.turn_on if args["enabled"] else switch.turn_off)()
        return switch.is_on()


def _watch_parent(close: Any) -> None:
    """Close when the tray's end of our stdin pipe closes: the tray quit, or was killed."""
    # Not through sys.stdin: its lock, held here for good, would abort the interpreter's end.
    while os.read(0, 1):
        pass
    close()


def _watch_engine(client: Client, window: Any, close: Any) -> None:
    """Close with the engine; come to the front when a second start asks for the window."""
    try:
        for _, name, data in client.events():
            if name == "WindowRequested":
                window.show()
                window.restore()
                place = _place(str(data.get("page", "models")), str(data.get("reference", "")))
                window.run_js(f"location.hash = {json.dumps(place)}")
    except ClientError as error:  # too many windows are open: this one is one of them
        log.warning("the engine cannot be followed: %s", error.message)
    finally:
        close()


def _place(page: str, reference: str = "") -> str:
    """The page's address behind "#"; a reference is what it asks about there."""
    page = page if page.isalpha() else "models"
    more = f"?reference={quote(reference, safe='')}" if reference else ""
    return f"#/{page}{more}"


def run_window(
    home: Path | None, page: str, owned: bool, reference: str = "", probed: bool = False
) -> int:
    """Show the window and block until it is closed. Raises ClientError without an engine.

    `owned`: our stdin is the tray's pipe, whose end ends us. `probed`: for the self-test.
    Returns 0 when the user closed it and `ENDED_FOR_US` when tray or engine went away.
    """
    client = ensure_engine(home, "tray")
    native = Native(client)
    ticket = client.call("mint_ticket")["ticket"]
    url = f"{client.page_url}/enter?ticket={ticket}&face=window{_place(page, reference)}"
    window: Any = webview.create_window(
        APP_NAME,
        url,
        js_api=Bridge(native),
        width=WIDTH,
        height=HEIGHT,
        min_size=MIN_SIZE,
        text_select=True,
        background_color="#161512" if desktop.panel_is_dark() else "#f6f4ef",
    )
    native.window = window
    follow_drops(window)
    closed, ended_for_us = threading.Event(), threading.Event()

    def close() -> None:
        if not closed.is_set():
            closed.set()
            ended_for_us.set()
            # A web engine that hangs must not keep a window without an engine open.
            last_resort = threading.Timer(5.0, os._exit, args=(ENDED_FOR_US,))
            last_resort.daemon = True
            last_resort.start()
            window.destroy()

    window.events.closed += closed.set
    if owned:
        threading.Thread(target=_watch_parent, args=(close,), daemon=True).start()
    threading.Thread(target=_watch_engine, args=(client, window, close), daemon=True).start()
    if probed:
        threading.Thread(target=probe, args=(window, close), daemon=True).start()
    gui: Any = os.environ.get("PYWEBVIEW_GUI") or None
    webview.start(gui=gui, private_mode=True)
    native.browser.end()
    return ENDED_FOR_US if ended_for_us.is_set() else 0
