"""A repository's README.md as untrusted Markdown: bounded, decoded, without its front matter."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from tray_app.engine.errors import NotFound

if TYPE_CHECKING:
    from .huggingface import HuggingFace

MOST_BYTES = 256 << 10  # cards of 50 KB are long ones
# YAML between two lines of dashes at the very start; one without an end is left as it is.
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|$)")
_KEPT = "\n\t"
# Format characters that turn the direction of text and so hide what stands there.
_HIDING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def fetch_card(hub: HuggingFace, repo: str) -> tuple[str, bool]:
    """(the card of "org/repo", whether it goes on). Empty where the repository has none.

    A repository that does not exist has none either: `details` is what tells. Blocks for
    seconds. Raises BadRequest, DownloadFailed.
    """
    try:
        body, truncated = hub.readme(repo, MOST_BYTES)
    except NotFound:
        return "", False
    return plain_markdown(body), truncated


def plain_markdown(body: bytes) -> str:
    """`body` as text: front matter and control characters out, what is no UTF-8 replaced. Pure."""
    text = body.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    found = _FRONT_MATTER.match(text)
    text = text[found.end() :] if found else text
    return "".join(char for char in text if _is_shown(char)).strip()


def _is_shown(char: str) -> bool:
    if char in _KEPT:
        return True
    return unicodedata.category(char) not in ("Cc", "Cs") and char not in _HIDING
