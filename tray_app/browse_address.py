"""Which model the page of a hub is about: read from its address alone. Pure.

Its own few rules, because faces do not use the engine; what comes out is only ever shown in a
dialog, where the engine reads it anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

HOMES = {
    "huggingface": "https://huggingface.co/models?library=gguf&sort=trending",
    "ollama": "https://ollama.com/library",
}
MAX_ADDRESS = 2000  # characters
_HF_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_OLLAMA_HOSTS = frozenset({"ollama.com", "www.ollama.com"})
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_TAGGED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,79})?")
# First parts of addresses that are pages of the site and no publisher.
_HF_PAGES = frozenset(
    {
        *("api", "blog", "chat", "collections", "datasets", "docs", "enterprise", "inference"),
        *("join", "learn", "login", "logout", "models", "new", "organizations", "papers"),
        *("posts", "pricing", "search", "settings", "spaces", "tasks", "terms-of-service"),
    }
)
_OLLAMA_PAGES = frozenset(
    {
        *("api", "blog", "cloud", "connect", "docs", "download", "install", "models"),
        *("pricing", "privacy", "public", "search", "settings", "signin", "signup", "terms"),
    }
)


@dataclass(frozen=True, slots=True)
class Seen:
    """The model of a page."""

    name: str  # for people: "org/repo", "llama3.2:1b"
    reference: str  # for the engine


def model_of(address: str, endpoint: str | None = None) -> Seen | None:
    """The model that `address` is the page of; None for every other page.

    `endpoint` is a mirror of Hugging Face, "https://host[:port]".
    """
    if len(address) > MAX_ADDRESS or not address.isprintable():
        return None
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        mirror = bool(endpoint) and urlsplit(endpoint or "").netloc == parts.netloc
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or "@" in parts.netloc:
        return None
    pieces = [unquote(piece) for piece in parts.path.split("/") if piece]
    if mirror or (host in _HF_HOSTS and parts.port is None):
        return _huggingface(pieces, parts.query)
    if host in _OLLAMA_HOSTS and parts.port is None:
        return _ollama(pieces)
    return None


def _huggingface(pieces: list[str], query: str) -> Seen | None:
    if len(pieces) < 2 or pieces[0].lower() in _HF_PAGES:
        return None
    org, repo, *rest = pieces
    if not (_PART.fullmatch(org) and _PART.fullmatch(repo)):
        return None
    name = f"{org}/{repo}"
    page = f"https://huggingface.co/{name}"
    if rest[:1] in (["blob"], ["resolve"]) and rest[-1].lower().endswith(".gguf"):
        return Seen(f"{name}: {rest[-1]}", f"{page}/{quote('/'.join(rest))}")
    shown = parse_qs(query).get("show_file_info", [""])[0]
    if shown.lower().endswith(".gguf"):
        return Seen(f"{name}: {shown}", f"{page}?show_file_info={quote(shown, safe='')}")
    return Seen(name, name)


def _ollama(pieces: list[str]) -> Seen | None:
    if len(pieces) < 2 or pieces[0].lower() in _OLLAMA_PAGES:
        return None
    namespace, model = pieces[:2]
    if not (_PART.fullmatch(namespace) and _TAGGED.fullmatch(model)):
        return None
    if namespace == "library":
        return Seen(model, f"ollama:{model}")
    return Seen(f"{namespace}/{model}", f"ollama:{namespace}/{model}")
