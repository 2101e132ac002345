"""One release as GitHub's REST API tells it, read without trust, and written back for the cache.

Format: docs.github.com/rest/releases/releases. Upstream marks each build ("b11434") as a
prerelease; a release with a version ("v0.6.0") has no archives but the name of such a build
(llama.cpp, .github/workflows/release-publish.yml and make-release.yml).
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import urllib.parse
from typing import Any

from .values import Asset, Release

MAX_NOTES = 20_000  # characters
MAX_ASSETS = 500
# They become the name of a file in the cache.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_TAG = re.compile(r"b(\d{1,9})")
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")


def read_release(row: Any) -> Release | None:
    """The release in `row`; None for a draft and for what is no build of llama.cpp."""
    if not isinstance(row, dict) or row.get("draft"):
        return None
    tag = _TAG.fullmatch(_text(row.get("tag_name")))
    if tag is None:
        return None
    assets = row.get("assets")
    found = [
        _read_asset(each) for each in (assets if isinstance(assets, list) else [])[:MAX_ASSETS]
    ]
    page = _text(row.get("html_url"))
    return Release(
        tag=tag[0],
        build=int(tag[1]),
        published_at=_time(row.get("published_at")),
        notes=_text(row.get("body"))[:MAX_NOTES],
        url=page if is_trusted(page) else "",
        assets=tuple(asset for asset in found if asset is not None),
    )


def to_row(release: Release) -> dict[str, Any]:
    """`release` in the form that `read_release` takes."""
    at = release.published_at
    when = None if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()
    return {
        "tag_name": release.tag,
        "published_at": when,
        "body": release.notes,
        "html_url": release.url,
        "assets": [
            {
                "name": asset.name,
                "size": asset.size_bytes,
                "digest": f"sha256:{asset.sha256}" if asset.sha256 else None,
                "browser_download_url": asset.url,
            }
            for asset in release.assets
        ],
    }


def is_trusted(url: str) -> bool:
    """Whether nobody in between can change what `url` tells: https, or this machine itself."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https":
        return bool(host)
    return parts.scheme == "http" and _is_loopback(host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_asset(row: Any) -> Asset | None:
    if not isinstance(row, dict) or row.get("state", "uploaded") != "uploaded":
        return None
    name, url, size = (
        _text(row.get("name")),
        _text(row.get("browser_download_url")),
        row.get("size"),
    )
    if not _FILE_NAME.fullmatch(name) or not is_trusted(url):
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return None
    digest = _DIGEST.fullmatch(_text(row.get("digest")))
    return Asset(name, size, digest[1].lower() if digest else None, url)


def _text(value: Any) -> str:
    """`value` when it is a text that can be written as UTF-8, else an empty one."""
    if not isinstance(value, str):
        return ""
    return value.encode("utf-8", "replace").decode("utf-8")


def _time(value: Any) -> float | None:
    """Seconds since 1970 of an ISO 8601 time with its zone ("2026-09-21T10:00:00Z")."""
    try:
        return datetime.datetime.fromisoformat(_text(value)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
