"""Which model a request names, and whether it asks for a stream: read from its body or query.

Small JSON bodies are parsed. Large ones (pictures, long conversations) are only scanned for
their top-level keys, in a thread: a parse would hold the interpreter for its whole length
and make every running stream stutter, and would cost several times the body in memory.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from .http_wire import Request

# json.loads took 0.9 to 1.7 ms for this much; what is larger leaves the loop.
INLINE_BYTES = 256 * 1024
# A scan ends its hold on the interpreter at least this often (bytes of one regex search).
_WINDOW = 64 * 1024
_OBJECT = re.compile(rb"\s*\{")
_STRUCTURE = re.compile(rb'["{}\[\]]')
_SCALAR_END = re.compile(rb"[,}\]\s]")
_SPACE = re.compile(rb"[\s,:]*")
_BOUNDARY = re.compile(rb'boundary=(?:"([^"]+)"|([^;\s]+))', re.IGNORECASE)
_MODEL_PART = re.compile(rb'\bname="?model"?\s*(?:;|\r\n|$)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Named:
    """`model` is None when the request names none: then it goes to `default`."""

    model: str | None = None
    stream: bool = False


async def named_model(request: Request) -> Named:
    """What the request names. Never raises: a body that is not understood names nothing.

    llama-server reads JSON whatever the content type says, and so does this. Malformed JSON
    goes on to the default model, whose llama-server explains what is wrong with it.
    """
    in_body = Named()
    if request.body:
        if len(request.body) > INLINE_BYTES:
            in_body = await asyncio.to_thread(_named_in_body, request)
        else:
            in_body = _named_in_body(request)
    if in_body.model is not None:
        return in_body
    in_query = parse_qs(request.query).get("model") if request.query else None
    return Named(in_query[-1] or None if in_query else None, in_body.stream)


def _named_in_body(request: Request) -> Named:
    content_type = request.get(b"content-type") or b""
    if content_type.lower().startswith(b"multipart/form-data"):
        return Named(_multipart_model(request.body, content_type))
    if not _OBJECT.match(request.body):
        return Named()
    if len(request.body) > INLINE_BYTES:
        fields = scan_top_level(request.body, frozenset(("model", "stream")))
    else:
        fields = _parsed(request.body)
    model = fields.get("model")
    return Named(model if isinstance(model, str) and model else None, fields.get("stream") is True)


def _parsed(body: bytearray) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def scan_top_level(body: bytes | bytearray, wanted: frozenset[str]) -> dict[str, Any]:
    """The top-level members of a JSON object whose keys are in `wanted`; scalars only.

    Steps over everything else without building it. Malformed JSON yields what was found.
    """
    found: dict[str, Any] = {}
    for key, start, end in _members(body):
        if key in wanted:
            try:
                found[key] = json.loads(body[start:end])
            except (ValueError, RecursionError):
                continue
    return found


def _members(body: bytes | bytearray) -> Iterator[tuple[str, int, int]]:
    """Each top-level key with the bounds of its value."""
    at = body.find(b"{") + 1
    while True:
        at = _skip_space(body, at)
        if body[at : at + 1] != b'"':
            return
        key_end = _string_end(body, at)
        start = _skip_space(body, key_end)
        end = _value_end(body, start)
        if key_end < 0 or end <= start:
            return
        try:
            yield str(json.loads(body[at:key_end])), start, end
        except ValueError:
            return
        at = end


def _skip_space(body: bytes | bytearray, at: int) -> int:
    match = _SPACE.match(body, at)
    return match.end() if match else at


def _string_end(body: bytes | bytearray, at: int) -> int:
    """The index after the string that opens at `at`; -1 when it never closes."""
    quote = at
    while True:
        quote = body.find(b'"', quote + 1)
        if quote < 0:
            return -1
        before = quote
        while body[before - 1] == 0x5C:  # backslashes before it: an odd number escapes it
            before -= 1
        if (quote - before) % 2 == 0:
            return quote + 1


def _value_end(body: bytes | bytearray, start: int) -> int:
    """The index after the value that begins at `start`; -1 when it is cut off."""
    first = body[start : start + 1]
    if first == b'"':
        return _string_end(body, start)
    if first not in (b"{", b"["):
        match = _SCALAR_END.search(body, start)
        return match.start() if match else -1
    depth, at = 0, start
    while at < len(body):
        match = _STRUCTURE.search(body, at, at + _WINDOW)
        if match is None:
            at += _WINDOW
            continue
        at, token = match.end(), match.group()
        if token == b'"':
            at = _string_end(body, match.start())
            if at < 0:
                return -1
            continue
        depth += 1 if token in b"{[" else -1
        if depth == 0:
            return at
    return -1


def _multipart_model(body: bytearray, content_type: bytes) -> str | None:
    """The form field `model`, found without copying the file parts."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return None
    delimiter = b"--" + (boundary.group(1) or boundary.group(2))
    at = body.find(delimiter)
    while at >= 0:
        following = body.find(b"\r\n" + delimiter, at + len(delimiter))
        if following < 0:
            return None
        head_end = body.find(b"\r\n\r\n", at, following)
        if head_end >= 0 and _MODEL_PART.search(body, at, min(head_end, at + 1024)):
            return body[head_end + 4 : following].decode("utf-8", "replace").strip() or None
        at = following + 2
    return None
