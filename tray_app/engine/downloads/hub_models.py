"""Repositories as the Hub's JSON tells of them, read without trust. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .references import is_repo_id


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository as a search shows it; None where the Hub does not tell."""

    id: str  # "org/repo"
    author: str | None = None
    likes: int | None = None
    downloads: int | None = None  # of the last month
    created_at: float | None = None  # Unix seconds
    modified_at: float | None = None
    gated: str | None = None  # "auto" or "manual": how access is granted
    private: bool = False
    pipeline: str | None = None  # "text-generation"
    license: str | None = None
    tags: tuple[str, ...] = ()
    architecture: str | None = None  # of the GGUF files
    parameters: int | None = None
    context_length: int | None = None


def read_model(row: Any) -> HubModel | None:
    """A row of a search; None when it names no repository."""
    if not isinstance(row, dict):
        return None
    name = row.get("id") or row.get("modelId")
    if not isinstance(name, str) or not is_repo_id(name):
        return None
    told = row.get("gguf")
    gguf = told if isinstance(told, dict) else {}
    tags = read_tags(row)
    return HubModel(
        id=name,
        author=_word(row.get("author")),
        likes=_count(row.get("likes")),
        downloads=_count(row.get("downloads")),
        created_at=_time(row.get("createdAt")),
        modified_at=_time(row.get("lastModified")),
        gated=read_gated(row),
        private=row.get("private") is True,
        pipeline=_word(row.get("pipeline_tag")),
        license=read_license({}, tags),
        tags=tags,
        architecture=_word(gguf.get("architecture")),
        parameters=_count(gguf.get("total")),
        context_length=_count(gguf.get("context_length")),
    )


def _word(value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    return "".join(char for char in value[:100] if char.isprintable()).strip() or None


def _count(value: Any) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if good else None


def _time(value: Any) -> float | None:
    try:
        told = datetime.datetime.fromisoformat(value)
        return (told if told.tzinfo else told.replace(tzinfo=datetime.UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def read_gated(row: Mapping[str, Any]) -> str | None:
    """How access is granted; None where nobody has to ask."""
    told = row.get("gated")
    return told if told in ("auto", "manual") else "manual" if told is True else None


def read_tags(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A repository's tags, the first hundred."""
    told = row.get("tags")
    listed = told[:100] if isinstance(told, list) else []
    return tuple(word for each in listed if (word := _word(each)))


def read_license(card: Mapping[str, Any], tags: Sequence[str]) -> str | None:
    """The card's word ("other" has a name beside it), else the tag's."""
    told = card.get("license")
    first = _word(told[0] if isinstance(told, list) and told else told)
    if first == "other":
        first = _word(card.get("license_name")) or first
    tagged = (tag.removeprefix("license:") for tag in tags if tag.startswith("license:"))
    return first or next(tagged, None) or None
