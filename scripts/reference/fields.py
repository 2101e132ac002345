"""Dataclasses with the comments that stand beside their fields in the source."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import io
import re
import sys
import tokenize
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

_JSON = {
    str: "text",
    Path: "path",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Any: "anything",
    object: "anything",
    types.NoneType: "null",
}


def comments(kind: type) -> dict[str, str]:
    """What the source says behind each field, or each member of an enum."""
    source = inspect.getsource(kind)
    by_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, str] = {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        target = None
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            target = node.target.id
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
        line = node.end_lineno or node.lineno
        if target is not None and line in by_line:
            found[target] = by_line[line]
    return found


def hints(thing: Any) -> dict[str, Any]:
    """The annotations of a dataclass or function, those imported for the type checker too."""
    module = sys.modules[thing.__module__]
    package = module.__name__.rpartition(".")[0]
    names: dict[str, Any] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                assert isinstance(inner, ast.ImportFrom)
                found = importlib.import_module("." * inner.level + (inner.module or ""), package)
                names |= {each.name: getattr(found, each.name) for each in inner.names}
    return typing.get_type_hints(thing, localns=names)


def kinds_in(hint: Any) -> list[type]:
    """The dataclasses that an annotation names."""
    if dataclasses.is_dataclass(hint):
        return [typing.cast(type, hint)]
    return [kind for inner in typing.get_args(hint) for kind in kinds_in(inner)]


def json_word(hint: Any) -> str:
    """What an annotated value is in JSON, in words; a dataclass by a link to its table."""
    if hint in _JSON:
        return _JSON[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " · ".join(f"`{member.value}`" for member in hint)
    if dataclasses.is_dataclass(hint):
        name = typing.cast(type, hint).__name__
        return f"[{name}](#object-{name.lower()})"
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(json_word, inner))
    if origin is tuple and inner[-1:] != (Ellipsis,):
        return f"list of {' and '.join(map(json_word, inner))}"
    if origin in (tuple, list):
        return f"list of {json_word(inner[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "object" if inner[1] in (Any, object) else f"object of {json_word(inner[1])}"
    raise TypeError(f"{hint!r} has no JSON form here")


def about(thing: object) -> str:
    """Its docstring as one paragraph; none where a dataclass has only the made one."""
    words = inspect.getdoc(thing) or ""
    made = isinstance(thing, type) and words.startswith(f"{thing.__name__}(")
    return "" if made else in_json(" ".join(words.replace("|", "\\|").split()))


def in_json(words: str) -> str:
    """Words of the source as a reader of JSON wants them."""
    return re.sub(r"\bNone\b", "null", words)


def table(kind: type) -> list[str]:
    """The rows of a dataclass's fields, in Markdown."""
    kinds, notes = hints(kind), comments(kind)
    rows = [
        f"| `{each.name}` | {json_word(kinds[each.name])} | {in_json(notes.get(each.name, ''))} |"
        for each in dataclasses.fields(kind)
    ]
    return ["| field | | |", "|---|---|---|", *rows, ""] if rows else []
