"""Between plain tables (TOML, JSON) and the typed settings, each value checked."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from .errors import SettingsInvalid
from .settings_checks import CHECKS


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
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(kind, type)
        and isinstance(value, kind)
        and (kind is bool) == isinstance(value, bool)
    ):
        return value
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    wanted = words.get(kind, "a list of words" if origin is tuple else "a table of names")
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
        check = CHECKS.get((kind, name))
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
