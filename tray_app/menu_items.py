"""What a tray menu is made of: its lines as values, and the cleaning of their words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

NAME_LENGTH = 48
LINE_LENGTH = 90


class Kind(StrEnum):
    """How one line of the menu looks and behaves."""

    ACTION = "action"
    RADIO = "radio"
    CHECK = "check"
    SEPARATOR = "separator"
    SUBMENU = "submenu"
    HEADING = "heading"  # text only


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the menu. `action` names a command; `args` are its arguments."""

    kind: Kind
    label: str = ""
    action: str = ""
    args: tuple[tuple[str, Any], ...] = ()
    enabled: bool = True
    checked: bool = False
    default: bool = False
    children: tuple[Item, ...] = ()


SEPARATOR = Item(Kind.SEPARATOR)


def clean(text: object, limit: int) -> str:
    """`text` on one line without control or direction marks, at most `limit` characters.

    What is too long loses its middle: names of models differ at both ends.
    """
    # The slice bounds the work on a name of megabytes.
    words = "".join(
        " " if character.isspace() else character
        for character in str(text)[: 20 * limit]
        if character.isspace() or not unicodedata.category(character).startswith("C")
    ).split()
    line = " ".join(words)
    if len(line) <= limit:
        return line
    tail = limit // 3
    return line[: limit - tail - 1].rstrip() + "…" + line[-tail:].lstrip()


def escape_label(label: str, mark: str) -> str:
    """`label` so that the toolkit's mnemonic `mark` ("&" on Windows, else "") shows as itself."""
    return label.replace(mark, mark * 2) if mark else label


def same_shape(old: Sequence[Item], new: Sequence[Item]) -> bool:
    """Whether only labels and `enabled` differ, so that an open menu can be changed in place."""
    return len(old) == len(new) and all(
        (a.kind, a.action, a.args, a.checked, a.default)
        == (b.kind, b.action, b.args, b.checked, b.default)
        and same_shape(a.children, b.children)
        for a, b in zip(old, new, strict=True)
    )


def heading(text: str) -> Item:
    """A line of text that cannot be clicked."""
    return Item(Kind.HEADING, clean(text, LINE_LENGTH), enabled=False)


def open_window(label: str, *, page: str = "models", default: bool = False) -> Item:
    """A line that opens the window on `page`."""
    return Item(Kind.ACTION, label, "open_window", (("page", page),), default=default)
