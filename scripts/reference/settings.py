"""The generated part of docs/settings.md: each key with its type, default, limits and meaning."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Any

from tray_app.engine.settings_checks import CHECKS
from tray_app.engine.settings_values import ModelSettings, Settings

from .fields import about, comments, hints, json_word


def text() -> str:
    """Markdown."""
    lines = ["### The file's top", "", *_rows(Settings, tables=False)]
    for each in dataclasses.fields(Settings):
        kind = hints(Settings)[each.name]
        if dataclasses.is_dataclass(kind):
            lines += [f"### `[{each.name}]`", "", about(kind), ""]
            lines += _rows(typing.cast(type, kind))
    lines += ['### `[models."ID"]`', "", about(ModelSettings), "", *_rows(ModelSettings)]
    return "\n".join(lines)


def _rows(kind: type, tables: bool = True) -> list[str]:
    kinds, notes = hints(kind), comments(kind)
    rows = []
    for each in dataclasses.fields(kind):
        hint = kinds[each.name]
        if not tables and (dataclasses.is_dataclass(hint) or each.name == "models"):
            continue
        meaning = notes.get(each.name)
        if not meaning:
            raise SystemExit(f"{kind.__name__}.{each.name} has no comment that says what it is")
        meaning = re.sub(r"\bNone\b", "not set", meaning)
        limits = _limits(kind, each.name)
        type_ = json_word(hint).removesuffix(" or null") + (f", {limits}" if limits else "")
        rows.append(f"| `{each.name}` | {type_} | {_default(each)} | {meaning} |")
    return ["| key | is | default | means |", "|---|---|---|---|", *rows, ""]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "empty"
    if field.default is None:
        return "not set"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, str):
        return f'`"{field.default}"`'
    return "empty" if field.default == () else f"`{field.default}`"


def _limits(kind: type, name: str) -> str:
    """What the check of a value says of it, read from what the check was made with."""
    check = CHECKS.get((kind, name))
    known = inspect.getclosurevars(check).nonlocals if check else {}
    if "low" in known:
        unit = f" {known['unit']}" if known["unit"] else ""
        return f"{known['low']:,} to {known['high']:,}{unit}"
    return " · ".join(f"`{word}`" for word in known.get("words", ()))
