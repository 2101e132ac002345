"""The one table of commands that faces may call, with their arguments checked."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sqlite3
import threading
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import diagnostics, launch, logs, routes, settings
from .app_update.commands import AppUpdateCommands
from .bench.commands import BenchCommands
from .convert.commands import ConvertCommands
from .downloads.commands import DownloadCommands
from .errors import BadRequest, EngineError, EngineUnreachable, SettingsInvalid
from .events import SettingsChanged, WindowRequested
from .formats.commands import FormatCommands
from .runtime.commands import RuntimeCommands
from .sharing import SharingCommands, check_host
from .tls import certificate_of
from .usage_commands import UsageCommands
from .values import Job, LeftOut, Model, ModelState, RequestRecord, Snapshot

if TYPE_CHECKING:
    from .core import Engine

log = logging.getLogger(__name__)

FIRST_SCAN_S = 5.0  # 1,000 files that are known take 0.05 s

_JSON_TYPES: dict[Any, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    dict[str, Any]: (dict,),
    dict[str, Any] | None: (dict, type(None)),
    list[str]: (list,),
    list[str] | None: (list, type(None)),
    str | None: (str, type(None)),
    int | None: (int, type(None)),
}


class Commands:
    """Public methods are the commands; `run` is how a face reaches them.

    Each returns fast, with a value that has a JSON form; long work becomes a job.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._about_runtimes = RuntimeCommands(engine)
        self._about_downloads = DownloadCommands(engine)
        self._about_formats = FormatCommands(engine)
        self._about_conversion = ConvertCommands(engine)
        self._about_usage = UsageCommands(engine)
        self._about_sharing = SharingCommands(engine)
        self._about_bench = BenchCommands(engine)
        self._about_app = AppUpdateCommands(engine)
        self._folders = threading.Lock()  # a folder list is read, then written

    def run(self, name: str, args: Mapping[str, Any]) -> Any:
        """Check name and arguments, then call. Raises EngineError and nothing else."""
        method = self._find(name)
        if method is None:
            raise BadRequest(f"There is no command “{name}”.")
        if not isinstance(args, Mapping):
            raise BadRequest("Arguments must be an object.")
        _check(name, method, args)
        if self._engine.closing and name != "shutdown":
            raise EngineUnreachable("The engine is stopping.", "Start Llama Wrangler again.")
        try:
            return method(**args)
        except OSError as error:
            log.warning("command failed", exc_info=True, extra={"command": name})
            where = f": {error.filename}" if error.filename else ""
            why = error.strerror or str(error)
            raise EngineError(f"{why}{where}.", "Check the disk and the file's owner.") from error
        except sqlite3.Error as error:
            log.warning("command failed", exc_info=True, extra={"command": name})
            raise EngineError(
                f"The state database could not be used: {error}.", "Check the disk's free space."
            ) from error

    def _find(self, name: object) -> Any:
        if not isinstance(name, str) or name.startswith("_") or name == "run":
            return None
        tables = (
            *(self, self._about_runtimes, self._about_downloads),
            *(self._about_formats, self._about_conversion),
            *(self._about_usage, self._about_sharing, self._about_bench, self._about_app),
        )
        return next((found for table in tables if (found := getattr(table, name, None))), None)

    # -- state

    def snapshot(self) -> Snapshot:
        """The whole state."""
        return self._engine.snapshot()

    def doctor(self) -> list[diagnostics.Check]:
        """What was looked at, and what to do where it is wrong."""
        snapshot = self._engine.snapshot()
        found = diagnostics.checks(snapshot, self._engine.home)
        return [*found, *self._about_runtimes.runtime_doctor()[1:]]

    def copy_diagnostics(self) -> dict[str, str]:
        """Write one redacted bundle; returns its path."""
        snapshot = self._engine.snapshot()
        found = self.doctor()
        return {"path": str(diagnostics.write_bundle(snapshot, found, self._engine.home))}

    def request_history(self, limit: int = 50) -> list[RequestRecord]:
        """The last answered requests, newest first."""
        return self._engine.history.recent(limit)

    def show_window(self, page: str = "models", reference: str = "") -> bool:
        """Ask tray and window to show the window, and there to ask about a model to download."""
        if not page.isalpha() or len(page) > 40 or len(reference) > 2048:
            raise BadRequest("There is no such page.", "Ask for one of the window's pages.")
        self._engine.publish(WindowRequested(page, reference))
        return True

    def keep_running(self, mode: str) -> str:
        """A tray, or someone who serves on, needs the engine that was started for one question."""
        if mode not in ("tray", "serve"):
            raise BadRequest(f"keep_running: mode is {mode!r}; it must be tray or serve.")
        self._engine.on_loop(_soon(lambda: self._engine.keep_running(mode)))
        return self._engine.mode

    def shutdown(self) -> bool:
        """End the engine process and all its models."""
        self._engine.on_shutdown()
        return True

    # -- models

    def switch_model(self, model_id: str, now: bool = False) -> dict[str, str]:
        """Make a model active; `now` cuts running answers that stand in its way."""
        model = self._model(model_id, usable=True)
        self._engine.on_loop(self._engine.active.switch(model.id, now))
        return {"model_id": model.id}

    def load_model(self, model_id: str) -> dict[str, str]:
        """Bring a model into memory without making it active; returns at once."""
        model = self._model(model_id, usable=True)
        self._engine.on_loop(_soon(lambda: self._engine.backend.start_load(model.id)))
        return {"model_id": model.id}

    def unload_model(self, model_id: str | None = None, now: bool = False) -> list[str]:
        """Let a model leave memory when it is idle; without a name, all of them."""
        residency = self._engine.residency
        statuses = residency.statuses()
        if model_id is None:
            ids = [s.model_id for s in statuses.values() if s.state is not ModelState.UNLOADED]
        else:  # its file may be gone from the library while it is in memory
            ids = [model_id if model_id in statuses else self._model(model_id).id]

        async def unload_all() -> None:
            await asyncio.gather(*(residency.unload(each, now) for each in ids))

        self._engine.on_loop(unload_all())
        return ids

    def pin_model(self, model_id: str, pinned: bool) -> bool:
        """Keep a model in memory once it is there, or let it leave again."""
        model = self._model(model_id)
        self._change_model(model.id, {"pinned": pinned or None})
        return pinned

    def launch_command(self, model_id: str) -> dict[str, Any]:
        """The exact command line that runs, or would run, the model."""
        model = self._model(model_id)
        argv = self._engine.planner.command(model.id)
        return {"argv": list(argv), "text": launch.command_text(argv)}

    def forget_conversations(self) -> int:
        """Remove what is kept of conversations on the disk; how many bytes that were."""
        return self._engine.conversations.forget()

    # -- library

    def rescan(self) -> bool:
        """Look through all folders again."""
        self._engine.library.rescan()
        return True

    def add_folder(self, path: str) -> bool:
        """Add a library folder. Raises SettingsInvalid if it is none."""
        folder = _expanded(path)
        if not folder.is_absolute() or not folder.is_dir():
            raise SettingsInvalid(
                f"{path} is not a folder.", "Give the whole path of a folder that is there."
            )
        with self._folders:
            known = self._engine.settings.library.folders
            taken = {self._engine.home.models, *map(_expanded, known)}
            if folder not in taken:
                self._change({"library.folders": [*known, str(folder)]})
        return True

    def remove_folder(self, path: str) -> bool:
        """Take a folder out of the library; nothing in it is touched."""
        gone = _expanded(path)
        with self._folders:
            known = self._engine.settings.library.folders
            left = [folder for folder in known if _expanded(folder) != gone]
            if len(left) == len(known):
                raise SettingsInvalid(f"{path} is not one of the added folders.")
            self._change({"library.folders": left})
        return True

    # -- settings

    def change_settings(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Set `{"server.port": 7071, ...}`; None: the default. All or nothing; returns all."""
        self._change(changes)
        return self._engine.settings_table()

    def model_settings(self, model_id: str) -> dict[str, Any]:
        """A model's own settings and what comes out of all layers together."""
        model = self._model(model_id)
        store = self._engine.store
        own = store.current.models.get(model.id, settings.ModelSettings())
        return {"own": asdict(own), "effective": asdict(store.for_model(model.id))}

    def change_model_settings(self, model_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Set a model's own settings, from its next load on; returns what `model_settings` does."""
        model = self._model(model_id)
        self._engine.planner.check(model, self._engine.store.for_model(model.id, changes))
        self._change_model(model.id, changes)
        return self.model_settings(model.id)

    # -- logs, jobs

    def list_logs(self) -> list[logs.LogFile]:
        """The log files, newest first."""
        return logs.list_logs(self._engine.home.logs)

    def read_log(
        self, name: str, offset: int | None = None, max_bytes: int = 65536
    ) -> logs.LogPart:
        """A piece of a log; without `offset` its tail."""
        return logs.read_log(self._engine.home.logs, name, offset, max_bytes)

    def cancel_job(self, job_id: str) -> Job:
        """Ask a job to end."""
        return self._engine.jobs.cancel(job_id)

    def left_out(self) -> list[LeftOut]:
        """Files the library does not list, and why."""
        return list(self._engine.library.left_out())

    # -- inside

    def _model(self, name: str, usable: bool = False) -> Model:
        """By name. A model of a missing drive has settings too, unless it must be `usable`."""
        engine = self._engine
        engine.library.listed(FIRST_SCAN_S)  # or a model would not be there yet
        look = routes.resolve if usable else routes.find
        return look(name, engine.library.models(), engine.settings.aliases, engine.active.model_id)

    def _change_model(self, model_id: str, changes: Mapping[str, Any]) -> None:
        engine = self._engine
        engine.store.change_model(model_id, changes)
        if "pinned" in changes:
            pinned = bool(changes["pinned"])
            engine.on_loop(_soon(lambda: engine.residency.set_pinned(model_id, pinned)))
        if "runtime" in changes:
            engine.runtime_changed()
        engine.publish(SettingsChanged((f"models.{model_id}",)))

    def _change(self, changes: Mapping[str, Any]) -> None:
        engine = self._engine
        server = engine.settings.server
        if isinstance(wished := _in_server(changes, "host", None), str):
            check_host(wished, engine.keys.required)
        files = [
            _in_server(changes, name, getattr(server, name))
            for name in ("tls_certificate", "tls_key")
        ]
        if files != [server.tls_certificate, server.tls_key]:
            certificate, key = (name if isinstance(name, str) else None for name in files)
            certificate_of(certificate, key)
        keys = engine.store.change(changes)
        engine.publish(SettingsChanged(keys))
        if any(key.startswith("library") for key in keys):
            engine.library.set_folders(engine.library_folders())
        if {
            "server",
            "server.port",
            "server.host",
            "server.cors_origins",
            "server.local_without_key",
            "server.tls_certificate",
            "server.tls_key",
        } & set(keys):
            engine.note_server_settings()
        engine.runtime.settings_changed(keys)
        engine.downloads.settings_changed(keys)
        engine.notices_changed()


def _in_server(changes: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """The value of a key of `server` that changes would set, if they do."""
    server = changes.get("server", {})
    inner = server.get(name, otherwise) if isinstance(server, Mapping) else otherwise
    return changes.get(f"server.{name}", inner)


async def _soon(act: Callable[[], None]) -> None:
    act()


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # "~nobody"
        raise SettingsInvalid(f"{path} is not a folder: {error}") from None


def _check(name: str, method: Any, args: Mapping[str, Any]) -> None:
    try:
        inspect.signature(method).bind(**args)
    except TypeError as error:
        raise BadRequest(f"{name}: {error}") from None
    hints = typing.get_type_hints(method)
    for key, value in args.items():
        kinds = _JSON_TYPES[hints[key]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise BadRequest(f"{name}: {key} is {value!r}, which is of the wrong kind.")
