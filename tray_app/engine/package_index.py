"""Finds a file on the Python package index that the user's own pip is set up for."""

from __future__ import annotations

import configparser
import json
import logging
import os
import sys
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path

from .errors import DownloadFailed
from .fetch import RemoteFile, open_url, why_not, without_credentials

log = logging.getLogger(__name__)

DEFAULT_INDEX = "https://pypi.org/simple"
# PEP 691, with PEP 503 pages for indexes that know no JSON.
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
MAX_PAGE_BYTES = 32 * 1024 * 1024


def find_distribution(
    project: str,
    filename: str,
    sha256: str | None,
    *,
    size_bytes: int | None = None,
    indexes: tuple[str, ...] | None = None,
    timeout_s: float = 30.0,
) -> RemoteFile:
    """Where `filename` of `project` is, on the first index that has it.

    An index that names another hash for it is passed over. Without a `sha256` the index has to
    tell one. Blocks. Raises DownloadFailed.
    """
    reasons: list[str] = []
    for index in indexes if indexes is not None else configured_indexes():
        page = index.rstrip("/") + f"/{project}/"
        try:
            for url, digest in _links(page, timeout_s):
                known = sha256 or digest
                if _name_of(url) == filename and known and digest in (None, known):
                    return RemoteFile(url, filename, known, size_bytes)
            reasons.append(f"{without_credentials(index)} does not list it")
        except (OSError, HTTPException, ValueError) as exc:
            log.info("a package index did not answer", exc_info=exc)
            reasons.append(f"{without_credentials(index)}: {why_not(exc)}")
    raise DownloadFailed(
        f"{filename} was not found on any package index ({'; '.join(reasons)}).",
        "Check the connection, or the index-url in your pip configuration.",
    )


def configured_indexes(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The index URLs pip would use, in its order: `index-url`, then each `extra-index-url`."""
    env = os.environ if environ is None else environ
    settings = _pip_settings(env)
    main = env.get("PIP_INDEX_URL") or settings.get("index-url") or DEFAULT_INDEX
    extra = env.get("PIP_EXTRA_INDEX_URL") or settings.get("extra-index-url") or ""
    return tuple(dict.fromkeys([main.strip(), *extra.split()]))


def _pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """[global] of pip's configuration files, the later file winning (pip's documentation)."""
    merged: dict[str, str] = {}
    for path in _pip_files(env):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as exc:
            log.warning("%s cannot be read: %s", path, exc)
            continue
        if parser.has_section("global"):
            merged.update(parser.items("global"))
    return merged


def _pip_files(env: Mapping[str, str]) -> Iterator[Path]:
    chosen = env.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    home = Path(env.get("HOME") or Path.home())
    if sys.platform == "win32":
        yield Path(env.get("PROGRAMDATA", r"C:\ProgramData")) / "pip" / "pip.ini"
        yield home / "pip" / "pip.ini"
        yield Path(env.get("APPDATA", home)) / "pip" / "pip.ini"
    else:
        yield Path("/Library/Application Support/pip/pip.conf")
        for folder in (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
            yield Path(folder) / "pip" / "pip.conf"
        yield Path("/etc/pip.conf")
        yield home / ".pip" / "pip.conf"
        yield home / "Library" / "Application Support" / "pip" / "pip.conf"
        yield Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / ("pip.ini" if os.name == "nt" else "pip.conf")
    if chosen:
        yield Path(chosen)


def _links(page: str, timeout_s: float) -> list[tuple[str, str | None]]:
    """(absolute URL, sha256 if told) of each file of the page. Raises OSError, ValueError."""
    address = page + "index.html" if page.startswith("file:") else page
    with open_url(address, {"Accept": ACCEPT}, timeout_s) as response:
        body = response.read(MAX_PAGE_BYTES + 1)
        kind = response.headers.get("Content-Type", "")
        base = response.url or address
    if len(body) > MAX_PAGE_BYTES:
        raise ValueError("its page is too large")
    base = _with_credentials_of(page, base)
    if "json" in kind:
        return _json_links(body, base)
    parser = _Anchors()
    parser.feed(body.decode("utf-8", "replace"))
    found = []
    for href in parser.hrefs:
        url, _, fragment = urllib.parse.urljoin(base, href).partition("#")
        name, _, digest = fragment.partition("=")
        found.append((url, digest if name == "sha256" else None))
    return found


def _json_links(body: bytes, base: str) -> list[tuple[str, str | None]]:
    try:
        return [
            (urllib.parse.urljoin(base, row["url"]), row.get("hashes", {}).get("sha256"))
            for row in json.loads(body)["files"]
        ]
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("its page is not a package index's") from exc


def _with_credentials_of(page: str, base: str) -> str:
    """`base` with the user and password of `page`, when it is the same host."""
    mine, theirs = urllib.parse.urlsplit(page), urllib.parse.urlsplit(base)
    user, at, host = mine.netloc.rpartition("@")
    same = (mine.scheme, host) == (theirs.scheme, theirs.netloc)
    return theirs._replace(netloc=f"{user}{at}{host}").geturl() if at and same else base


def _name_of(url: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])


class _Anchors(HTMLParser):
    """The href of each anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs.extend(value for name, value in attrs if name == "href" and value)
