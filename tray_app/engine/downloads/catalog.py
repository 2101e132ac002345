"""The short list of models for those who know none yet, kept in catalog.json beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tray_app.engine.errors import BadRequest, EngineError

from .references import parse
from .values import Hub, Suggestion

FILE = "catalog.json"
TAGS = frozenset({"chat", "vision", "tools", "code", "embedding"})
F16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the list."""

    reference: str  # "org/repo:QUANTIZATION"
    title: str
    about: str
    size_bytes: int  # all that is fetched, the projector too
    size_is_about: bool  # as published to two or three digits
    parameters: int
    kv_bytes_per_token: int
    context_length: int  # tokens it was trained for
    license: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """The list, and names of Ollama's library to complete what is typed."""

    entries: tuple[Entry, ...]
    ollama_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suggested:
    """What the Discover page shows before anything is typed."""

    suggestions: tuple[Suggestion, ...]
    ollama_names: tuple[str, ...]
    quantizations: Mapping[str, str]  # label -> one plain sentence


class _Wrong(Exception):
    """What is wrong with the file."""


def load(text: str | None = None) -> Catalog:
    """The list as it came with the program, or the one in `text`.

    Blocks for one small read. Raises EngineError when the file is missing or wrong, which a test
    excludes for our own.
    """
    try:
        if text is None:
            text = Path(__file__).with_name(FILE).read_text("utf-8")
        told = json.loads(text)
        entries = tuple(_entry(row) for row in told["models"])
        names = tuple(_name(each) for each in told["ollama_names"])
        if len({entry.reference for entry in entries}) < len(entries) or not entries:
            raise _Wrong("a model stands in it twice, or none does")
    except (OSError, ValueError, KeyError, TypeError, _Wrong) as exc:
        why = f"{exc} is missing" if isinstance(exc, KeyError) else str(exc)
        raise EngineError(
            f"The list of suggested models cannot be read: {why}.", "Install the program again."
        ) from exc
    return Catalog(entries, names)


def _entry(row: Mapping[str, Any]) -> Entry:
    reference = _text(row, "reference")
    try:
        parsed = parse(reference)
    except BadRequest as exc:
        raise _Wrong(exc.message) from exc
    if parsed.hub is not Hub.HUGGINGFACE or parsed.tag is None:
        raise _Wrong(f"{reference} is no org/repo:QUANTIZATION")
    tags = tuple(row["tags"])
    if not tags or not TAGS.issuperset(tags):
        raise _Wrong(f"{reference} has tags that nobody knows")
    if ("vision" in tags) != (row["projector_bytes"] is not None):
        raise _Wrong(f"{reference} has a projector and does not see, or the other way round")
    cache = _count(row, "kv_bytes_per_token", least=0)
    if cache != _kv_cache(row["kv_shape"]):
        raise _Wrong(f"{reference} has a KV cache that does not follow from its shape")
    projector = 0 if row["projector_bytes"] is None else _count(row, "projector_bytes")
    return Entry(
        reference=reference,
        title=_text(row, "title"),
        about=_text(row, "about"),
        size_bytes=_count(row, "size_bytes") + projector,
        size_is_about=row["size_is_about"] is True,
        parameters=_count(row, "parameters"),
        kv_bytes_per_token=cache,
        context_length=_count(row, "context_length"),
        license=_text(row, "license"),
        tags=tags,
    )


def _kv_cache(shape: Any) -> int:
    """Bytes for one token, of [layers, KV heads, dimensions of a head]; None for encoders."""
    if shape is None:
        return 0
    layers, heads, dimensions = (int(each) for each in shape)
    return 2 * layers * heads * dimensions * F16_BYTES


def _count(row: Mapping[str, Any], key: str, least: int = 1) -> int:
    value = row[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _Wrong(f"{key} is {value!r}")
    return value


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"{key} is {value!r}")
    return value


def _name(value: Any) -> str:
    try:
        if isinstance(value, str) and parse(value).hub is Hub.OLLAMA:
            return value
    except BadRequest as exc:
        raise _Wrong(exc.message) from exc
    raise _Wrong(f"{value!r} is no name of Ollama's library")
