"""settings.toml: typed, validated, migrated, written atomically; and the user's own overlay."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import threading
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from .errors import SettingsInvalid
from .home import set_aside, write_atomically
from .values import BACKENDS

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How models are served. Lengths in tokens, memory in bytes."""

    host: str = "127.0.0.1"
    port: int = 7070
    context_length: int = 8192
    memory_budget_bytes: int | None = None  # None: what is free, less a reserve
    parallel: int | None = None  # slots; None: llama-server decides
    max_queue: int = 64  # requests that may wait for one model
    start_with: str = "last"  # "nothing", "last" or a model id


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """Folders scanned besides the home's own `models/`."""

    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Which llama.cpp is used."""

    server_path: str | None = None  # None: the best one found
    auto_build: bool = True  # get one, prebuilt or from source, when none is found
    backend: str | None = None  # the rung of the ladder to take; None: the best that works
    updates: str = "notify"  # "off", "notify" or "auto": installed when proved and nothing runs
    feed_url: str | None = None  # of the releases, in the form of GitHub's API; None: official


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """How models are fetched."""

    concurrent: int = 2  # downloads at a time
    connections: int = 4  # at most, for each of them
    limit_bytes_s: int | None = None  # all together; None: as fast as it goes
    hub_endpoint: str | None = None  # a mirror of Hugging Face; None: HF_ENDPOINT, or the Hub
    token_stored: bool = False  # a token is in the keychain; the token itself is never here


@dataclass(frozen=True, slots=True)
class UiSettings:
    """What the window remembers."""

    theme: str = "system"
    close_to_tray: bool = True


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Wishes for one model; None means "as the server settings say"."""

    context_length: int | None = None
    gpu_layers: int | None = None  # None: what the fit says
    threads: int | None = None
    parallel: int | None = None
    pinned: bool = False  # stays in memory
    mmproj: bool = True  # use the paired projector
    runtime: str | None = None  # id of the runtime to run on; None: the active one
    system_prompt: str | None = None  # offered by the window's chat
    extra_args: tuple[str, ...] = ()  # appended to llama-server's arguments


@dataclass(frozen=True, slots=True)
class Settings:
    """All of settings.toml."""

    version: int = VERSION
    server: ServerSettings = field(default_factory=ServerSettings)
    library: LibrarySettings = field(default_factory=LibrarySettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    downloads: DownloadSettings = field(default_factory=DownloadSettings)
    ui: UiSettings = field(default_factory=UiSettings)
    aliases: Mapping[str, str] = field(default_factory=dict)  # name -> model id or "default"
    models: Mapping[str, ModelSettings] = field(default_factory=dict)


def _range(low: int, high: int, unit: str) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if value is not None and not low <= value <= high:
            raise SettingsInvalid(
                f"{key} is {value}; it must be {low} to {high} {unit}.".replace(" .", ".")
            )

    return check


def _loopback(key: str, value: Any) -> None:
    if value == "localhost":
        return
    try:
        fine = ipaddress.ip_address(value).is_loopback
    except ValueError:
        fine = False
    if not fine:
        raise SettingsInvalid(
            f"{key} is {value!r}, which other machines could reach.",
            "Use 127.0.0.1: sharing on the network needs an API key and is not offered yet.",
        )


def _aliases(key: str, value: Any) -> None:
    for name in value:
        if not name.strip() or name == "default":
            raise SettingsInvalid(
                f"{key} holds the name “{name}”, which cannot be an alias.",
                "`default` always means the active model; give another name.",
            )


def _one_of(*words: str) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if value is not None and value not in words:
            known = f"{', '.join(words[:-1])} or {words[-1]}"
            raise SettingsInvalid(f"{key} is {value!r}; it must be {known}.")

    return check


def _address(of_what: str) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise SettingsInvalid(
                f"{key} is {value!r}, which is no address.",
                f"Give the address of {of_what}, or clear it.",
            )

    return check


# Arguments the engine itself decides; overriding them would break switching or safety.
RESERVED_ARGS = frozenset(
    {
        *("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-a", "--alias"),
        *("--host", "--port", "--api-key", "--api-key-file", "--ssl-key-file", "--ssl-cert-file"),
        *("--models-dir", "--models-preset", "--models-max", "--models-autoload"),
        *("--slot-save-path", "--fit", "-fit", "--path", "--api-prefix", "--cors-origins"),
        *("--log-file", "--log-disable"),
    }
)


def _extra_args(key: str, value: Any) -> None:
    for word in value:
        name = word.split("=", 1)[0]
        # llama.cpp takes --slot_save_path for --slot-save-path.
        if (name.replace("_", "-") if name.startswith("--") else name) in RESERVED_ARGS:
            raise SettingsInvalid(
                f"{key} holds {name}, which Llama Wrangler sets itself.",
                "Remove it; context length, GPU layers and threads have their own fields.",
            )
        if "\x00" in word or len(word) > 4096:
            raise SettingsInvalid(f"{key} holds a word that no command line can carry.")


_CHECKS: dict[tuple[type, str], Callable[[str, Any], None]] = {
    (Settings, "aliases"): _aliases,
    (ServerSettings, "host"): _loopback,
    (ServerSettings, "port"): _range(1024, 65535, ""),
    (ServerSettings, "context_length"): _range(256, 16_777_216, "tokens"),
    (ServerSettings, "memory_budget_bytes"): _range(64 << 20, 1 << 50, "bytes"),
    (ServerSettings, "parallel"): _range(1, 256, "slots"),
    (ServerSettings, "max_queue"): _range(1, 10_000, "requests"),
    (RuntimeSettings, "backend"): _one_of(*BACKENDS),
    (RuntimeSettings, "updates"): _one_of("off", "notify", "auto"),
    (RuntimeSettings, "feed_url"): _address("the releases in the form of GitHub's API"),
    (DownloadSettings, "concurrent"): _range(1, 8, "downloads"),
    (DownloadSettings, "connections"): _range(1, 8, "connections"),
    (DownloadSettings, "limit_bytes_s"): _range(16 << 10, 1 << 40, "bytes a second"),
    (DownloadSettings, "hub_endpoint"): _address("a mirror of Hugging Face"),
    (UiSettings, "theme"): _one_of("system", "light", "dark"),
    (ModelSettings, "context_length"): _range(256, 16_777_216, "tokens"),
    (ModelSettings, "gpu_layers"): _range(0, 10_000, "layers"),
    (ModelSettings, "threads"): _range(1, 1024, "threads"),
    (ModelSettings, "parallel"): _range(1, 256, "slots"),
    (ModelSettings, "extra_args"): _extra_args,
}


def _convert(kind: Any, key: str, value: Any) -> Any:
    """`value` from TOML or JSON as the annotated type `kind`; raises SettingsInvalid."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(
            next(a for a in typing.get_args(kind) if a is not types.NoneType), key, value
        )
    if dataclasses.is_dataclass(kind):
        return parse_table(typing.cast(type, kind), value, key)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(str, key, item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        inner = typing.get_args(kind)[1]
        return {str(k): _convert(inner, f"{key}.{k}", v) for k, v in value.items()}
    if (
        isinstance(kind, type)
        and isinstance(value, kind)
        and (kind is bool) == isinstance(value, bool)
    ):
        return value
    wanted = {int: "a whole number", str: "text", bool: "true or false"}.get(
        kind, "a list of words" if origin is tuple else "a table of names"
    )
    raise SettingsInvalid(f"{key} is {value!r}; it must be {wanted}.")


def parse_table(kind: type, table: Any, where: str = "") -> Any:
    """A settings dataclass from a plain table. Raises SettingsInvalid naming the key."""
    if not isinstance(table, Mapping):
        raise SettingsInvalid(f"{where or 'settings'} must be a table of keys.")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in table.items():
        key = f"{where}.{name}" if where else str(name)
        if name not in hints:
            raise SettingsInvalid(
                f"{key} is not a setting.", f"Known here: {', '.join(sorted(hints))}."
            )
        values[name] = _convert(hints[name], key, value)
        check = _CHECKS.get((kind, name))
        if check:
            check(key, values[name])
    return kind(**values)


def to_table(value: Any) -> Any:
    """The plain table of a settings dataclass; keys that are None are left out, as TOML needs."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_table(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {key: to_table(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return value


def plain_table(value: Any) -> Any:
    """The settings as plain types for faces, keys that are None included."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain_table(item) for name, item in pairs}
    if isinstance(value, Mapping):
        return {key: plain_table(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


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
            own = {**table.setdefault("models", {}).get(model_id, {}), **changes}
            defaults = {"system_prompt": "", **to_table(ModelSettings())}
            own = {k: v for k, v in own.items() if v is not None and v != defaults.get(k)}
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

    def for_model(self, model_id: str) -> ModelSettings:
        """The effective settings: defaults < server < model < user overlay.

        The one resolver for tray, window, CLI and launch. Raises SettingsInvalid.
        """
        server = self._current.server
        base = ModelSettings(context_length=server.context_length, parallel=server.parallel)
        own = to_table(self._current.models.get(model_id, ModelSettings()))
        merged = {**to_table(base), **own, **self.overlay(model_id)}
        return typing.cast(ModelSettings, parse_table(ModelSettings, merged, model_id))
