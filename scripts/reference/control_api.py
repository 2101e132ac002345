"""The generated parts of docs/control-api.md: commands, events, and the values in both."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import typing
from dataclasses import fields
from typing import Any
from unittest.mock import Mock

from tray_app.engine import events as engine_events
from tray_app.engine.commands import Commands
from tray_app.engine.values import Snapshot

from .fields import about, hints, json_word, kinds_in, table

_TITLES = {
    "RuntimeCommands": "llama.cpp builds",
    "DownloadCommands": "Downloads",
    "FormatCommands": "Files",
    "ConvertCommands": "Conversion and quantizing",
    "UsageCommands": "Use",
    "SharingCommands": "Sharing and keys",
    "BenchCommands": "Measuring speed",
}


def _tables() -> list[object]:
    """The engine's one table, and those it is made of; no engine is needed to look at them."""
    whole = Commands(Mock())
    return [whole, *(each for name, each in vars(whole).items() if name.startswith("_about_"))]


def _methods(table_: object) -> list[tuple[str, Any]]:
    kind = type(table_)
    names = [name for name, each in vars(kind).items() if inspect.isfunction(each)]
    return [
        (name, getattr(kind, name)) for name in names if not name.startswith("_") and name != "run"
    ]


def commands() -> str:
    """Every command with its arguments and its value."""
    lines: list[str] = []
    for each in _tables():
        source = inspect.getsource(type(each))
        title = _TITLES.get(type(each).__name__, "")
        for name, method in _methods(each):
            begins = source.index(f"def {name}(")
            inner = re.findall(r"^    # -- (.+)$", source[:begins], re.MULTILINE)
            here = " · ".join(filter(None, (title, inner[-1] if inner else "")))
            heading = f"### {here if title else here.capitalize()}"
            if heading not in lines:
                lines += [heading, ""]
            lines += _command(name, method)
    return "\n".join(lines)


def _command(name: str, method: Any) -> list[str]:
    kinds = hints(method)
    wanted = [each for each in inspect.signature(method).parameters.values() if each.name != "self"]
    lines = [f"#### `{name}`", "", about(method), ""]
    for each in wanted:
        must = each.default is inspect.Parameter.empty
        default = "" if must else f", default {_default(each.default)}"
        lines.append(f"- `{each.name}`: {json_word(kinds[each.name])}{default}")
    return [*lines, f"- value: {_value(method, kinds['return'])}", ""]


def _value(method: Any, hint: Any) -> str:
    keys = _keys(method) if typing.get_origin(hint) is dict else []
    return f"`{{{', '.join(keys)}}}`" if keys else json_word(hint)


def _keys(method: Any) -> list[str]:
    """The keys of the object that a function returns, where it writes it down itself."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
        if not isinstance(node, ast.Return):
            continue
        if isinstance(node.value, ast.Dict):
            return [ast.literal_eval(key) for key in node.value.keys if key is not None]
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            return _keys(getattr(sys.modules[method.__module__], node.value.func.id))
    return []


def _default(value: Any) -> str:
    words = {None: "null", True: "true", False: "false", "": "empty"}
    return (
        words[value]
        if isinstance(value, (bool, str, type(None))) and value in words
        else f"`{value}`"
    )


def _events() -> list[type]:
    return list(typing.get_args(engine_events.Event))


def events() -> str:
    """Every event with its fields."""
    lines: list[str] = []
    for kind in _events():
        lines += [f"### `{kind.__name__}`", ""]
        lines += [about(kind), ""] if about(kind) else []
        lines += table(kind)
    return "\n".join(lines)


def values() -> str:
    """Every object that a command or an event may hold."""
    found: dict[str, type] = {}
    waiting: list[type] = [Snapshot]
    for each in _tables():
        for _, method in _methods(each):
            waiting += kinds_in(hints(method)["return"])
    for kind in _events():
        waiting += [k for f in fields(kind) for k in kinds_in(hints(kind)[f.name])]
    while waiting:
        kind = waiting.pop(0)
        if kind.__name__ in found:
            assert found[kind.__name__] is kind, f"two values are called {kind.__name__}"
            continue
        found[kind.__name__] = kind
        waiting += [k for hint in hints(kind).values() for k in kinds_in(hint)]
    lines: list[str] = []
    for name in sorted(found):
        lines += [f"### Object {name}", ""]
        lines += [about(found[name]), ""] if about(found[name]) else []
        lines += table(found[name])
    return "\n".join(lines)
