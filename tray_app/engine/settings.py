"""settings.toml: validated, migrated, written atomically; and the user's own overlay."""

from __future__ import annotations

import logging
import threading
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from .errors import SettingsInvalid
from .home import set_aside, write_atomically
from .settings_checks import RESERVED_ARGS
from .settings_tables import parse_table, plain_table, to_table
from .settings_values import (
    VERSION,
    DownloadSettings,
    ModelSettings,
    RuntimeSettings,
    ServerSettings,
    Settings,
)

__all__ = [
    "RESERVED_ARGS",
    "DownloadSettings",
    "ModelSettings",
    "RuntimeSettings",
    "ServerSettings",
    "Settings",
    "SettingsStore",
    "parse_table",
    "plain_table",
    "to_table",
]

log = logging.getLogger(__name__)


def _migrate(table: dict[str, Any]) -> dict[str, Any]:
    """Bring a table of an older version up to VERSION. Raises SettingsInvalid for a newer one."""
    version = table.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise SettingsInvalid(
            f"settings.toml is of version {version}; this program knows up to {VERSION}.",
            "Update Llama Wrangler, or remove the file to start from the defaults.",
        )
    return {**table, "version": VERSION}


class SettingsStore:
    """Owns settings.toml and reads models.user.toml; thread-safe.

    A file that cannot be read is set aside and named in `broken`; the defaults serve.
    """

    def __init__(self, path: Path, overlay_path: Path) -> None:
        self._path = path
        self._overlay_path = overlay_path
        self._lock = threading.Lock()
        self.broken: tuple[Path, str] | None = None
        self.overlay_error: str | None = None
        self._current = self._load()

    @property
    def current(self) -> Settings:
        """The settings in force; a frozen value."""
        return self._current

    def _load(self) -> Settings:
        try:
            table = tomllib.loads(self._path.read_text("utf-8"))
            return typing.cast(Settings, parse_table(Settings, _migrate(table)))
        except FileNotFoundError:
            return Settings()
        except (SettingsInvalid, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            why = error.message if isinstance(error, SettingsInvalid) else str(error)
            kept = set_aside(self._path)
            log.error("settings.toml was set aside", extra={"reason": why, "kept_as": str(kept)})
            self.broken = (kept, why)
            return Settings()

    def change(self, changes: Mapping[str, Any]) -> tuple[str, ...]:
        """Apply `{"server.port": 7071, ...}` as one write; None removes a key (its default rules).

        A key of the `models` and `aliases` tables goes by `change_model` and whole tables.
        Returns the keys that changed. Raises SettingsInvalid, OSError; then nothing changed.
        """
        with self._lock:
            table = to_table(self._current)
            for key, value in changes.items():
                section, _, name = key.partition(".")
                if name:
                    place = table.setdefault(section, {})
                    if not isinstance(place, dict):
                        raise SettingsInvalid(f"{key} is not a setting.")
                    place.pop(name, None) if value is None else place.__setitem__(name, value)
                elif value is None:
                    table.pop(section, None)
                else:
                    table[section] = value
            self._write(table)
        return tuple(changes)

    def change_model(self, model_id: str, changes: Mapping[str, Any]) -> None:
        """Apply changes to one model's own table. Raises SettingsInvalid, OSError."""
        with self._lock:
            table = to_table(self._current)
            own = _changed(table.setdefault("models", {}).get(model_id, {}), changes)
            if own:
                table["models"][model_id] = own
            else:
                table["models"].pop(model_id, None)
            self._write(table)

    def _write(self, table: dict[str, Any]) -> None:
        fresh = typing.cast(Settings, parse_table(Settings, _migrate(table)))
        try:
            data = tomli_w.dumps(to_table(fresh)).encode("utf-8")
        except UnicodeEncodeError as error:
            raise SettingsInvalid(
                "A setting holds a character that no text file can.",
                "Rename the folder or file so that its name is plain Unicode.",
            ) from error
        write_atomically(self._path, data)
        self._current = fresh

    def overlay(self, model_id: str) -> dict[str, Any]:
        """The user's own table for a model in models.user.toml, read anew; never written.

        A file that is no TOML at all is ignored and named in `overlay_error`, so that it takes
        no model down. Raises SettingsInvalid naming a bad key: only that model is disabled.
        """
        problem, table = None, {}
        try:
            table = tomllib.loads(self._overlay_path.read_text("utf-8"))
        except FileNotFoundError:
            pass
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            problem = f"{self._overlay_path.name} is ignored: {str(error).rstrip('.')}."
        self.overlay_error = problem  # once, because notices are made on other threads meanwhile
        own = table.get(model_id, {})
        parse_table(ModelSettings, own, f"models.user.toml: {model_id}")
        return dict(own)

    def for_model(self, model_id: str, changes: Mapping[str, Any] | None = None) -> ModelSettings:
        """The effective settings: defaults < server < model < user overlay.

        The one resolver for tray, window, CLI and launch. `changes` are what the model's own
        settings would get (see `change_model`). Raises SettingsInvalid.
        """
        server = self._current.server
        base = ModelSettings(
            context_length=server.context_length,
            parallel=server.parallel,
            idle_unload_s=server.idle_unload_s,
            keep_conversations=server.keep_conversations,
        )
        own = to_table(self._current.models.get(model_id, ModelSettings()))
        own = _changed(own, changes or {})
        merged = {**to_table(base), **own, **self.overlay(model_id)}
        return typing.cast(ModelSettings, parse_table(ModelSettings, merged, model_id))


def _changed(own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A model's own table after changes; what is None or as by default is left out."""
    defaults = {"system_prompt": "", **to_table(ModelSettings())}
    fresh = {**own, **changes}
    return {k: v for k, v in fresh.items() if v is not None and v != defaults.get(k)}
