"""`llama-wrangler://` links. They come from anywhere, so all they can do is to ask. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

SCHEME = "llama-wrangler"
MAX_LINK = 3000  # characters
MAX_REFERENCE = 2000  # as the engine takes them
PAGES = (
    "models",
    "discover",
    "downloads",
    "convert",
    "server",
    "connect",
    "runtimes",
    "chat",
    "settings",
)
_REMEDY = f"A link is {SCHEME}://pull/NAME, with the name or address of a model."


@dataclass(frozen=True, slots=True)
class Wish:
    """What a link asks for: a page, and a model to ask about there."""

    page: str
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a link is none."""

    message: str
    remedy: str = _REMEDY


def read(link: str) -> Wish | Refused:
    """What `link` asks for: `pull/NAME` for the question before a download, `open/PAGE`."""
    if len(link) > MAX_LINK:
        return Refused(f"This link is too long: {len(link):,} characters.")
    try:
        parts = urlsplit(link.strip())
    except ValueError:
        return Refused("This is no link.")
    if parts.scheme.lower() != SCHEME:
        return Refused(f"This is no {SCHEME}:// link.")
    verb = parts.netloc.lower()
    word = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    word = unquote(word)
    if verb == "open" and word in PAGES:
        return Wish(word)
    if verb != "pull":
        return Refused(f"This link asks for “{verb[:40]}”, which links cannot do.")
    if not word or len(word) > MAX_REFERENCE or not word.isprintable() or word != word.strip():
        return Refused("This link names no model.")
    return Wish("discover", word)
