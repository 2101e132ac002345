"""The manifest of a release: one JSON document, read strictly and within bounds.

    {"format": 1, "product": "llama-wrangler", "version": "0.2.0",
     "released_at": 1780000000, "expires_at": 1790000000, "notes_url": "https://…",
     "files": {"linux-x86_64": {"folder": {"url": "…", "size_bytes": 1, "sha256": "…"}}}}

Times are Unix seconds. An address is https, or a name beside the manifest.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tray_app.app_versions import is_newer, version_key
from tray_app.engine.errors import AppUpdateRefused
from tray_app.engine.runtime.feed_rows import is_trusted

FORMAT = 1
PRODUCT = "llama-wrangler"
MAX_MANIFEST_BYTES = 64 * 1024
MAX_FILE_BYTES = 512 << 20  # a frozen build is 38 MB
MAX_PLATFORMS = 32
MAX_TIME = 1 << 40
MAX_URL = 2048
# How far a clock may be behind that of who made the release.
CLOCK_SLACK_S = 2 * 86_400.0
FORMS = ("folder", "appimage")
_ENDINGS = {"folder": (".tar.gz", ".tar.xz", ".zip"), "appimage": (".AppImage",)}
_PLATFORM = re.compile(r"(linux|windows|macos)-[a-z0-9_]{2,16}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
REMEDY = "Nothing was changed. Look again later, or get the new version where you got this one."


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of a release."""

    url: str
    filename: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A release, as who made it tells. `files`: by platform, then by form (FORMS)."""

    version: str
    released_at: float
    expires_at: float
    notes_url: str
    files: Mapping[str, Mapping[str, ReleaseFile]]

    def file_for(self, platform: str, form: str) -> ReleaseFile | None:
        """What is for one kind of copy, where there is anything."""
        return self.files.get(platform, {}).get(form)


def read_manifest(data: bytes, url: str) -> Manifest:
    """A manifest that came from `url`, its signature checked before. Raises AppUpdateRefused."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise refused(f"it is larger than {MAX_MANIFEST_BYTES >> 10} KiB")
    try:
        row = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise refused("it is no JSON") from exc
    if not isinstance(row, dict):
        raise refused("it is no JSON object")
    if type(row.get("format")) is not int or row["format"] != FORMAT:
        raise refused("it is of a later format than this version reads")
    if row.get("product") != PRODUCT:
        raise refused("it is of another program")
    version = row.get("version")
    if not isinstance(version, str) or version_key(version) is None:
        raise refused("its version is none")
    released_at, expires_at = _time(row, "released_at"), _time(row, "expires_at")
    if expires_at <= released_at:
        raise refused("it ends before it begins")
    return Manifest(version, released_at, expires_at, _notes(row), _files(row, url))


def check_fresh(manifest: Manifest, now: float, seen_at: float) -> None:
    """Refuse what is out of date, or older than one seen before (released at `seen_at`).

    Times in Unix seconds. Raises AppUpdateRefused.
    """
    if now > manifest.expires_at:
        raise refused("it is out of date: whoever sent it holds back a newer one")
    if manifest.released_at > now + CLOCK_SLACK_S:
        raise refused("it is from the future: is this computer's clock right?")
    if manifest.released_at < seen_at:
        raise refused("an older one was sent than the one before")


def check_newer(manifest: Manifest, own: str) -> None:
    """Refuse what is no newer version than `own`. Raises AppUpdateRefused."""
    if not is_newer(manifest.version, own):
        raise refused(f"version {manifest.version} does not come after {own}")


def refused(reason: str) -> AppUpdateRefused:
    """A manifest that is not used, and why."""
    return AppUpdateRefused(f"Word of a new version cannot be used: {reason}.", REMEDY)


def _time(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if type(value) is not int or not 0 < value < MAX_TIME:
        raise refused(f"its {key} is no time")
    return float(value)


def _notes(row: Mapping[str, Any]) -> str:
    url = row.get("notes_url", "")
    if not isinstance(url, str) or len(url) > MAX_URL or (url and not _is_https(url)):
        raise refused("its notes are at no https address")
    return url


def _files(row: Mapping[str, Any], base: str) -> dict[str, dict[str, ReleaseFile]]:
    table = row.get("files")
    if not isinstance(table, dict) or not 0 < len(table) <= MAX_PLATFORMS:
        raise refused("it names no files, or too many")
    found: dict[str, dict[str, ReleaseFile]] = {}
    for platform, forms in table.items():
        if not _PLATFORM.fullmatch(platform) or not isinstance(forms, dict):
            raise refused(f"{platform[:40]!r} is no platform")
        known = {form: _file(forms[form], form, base) for form in FORMS if form in forms}
        found[platform] = known  # a form that comes later is for later versions
    return found


def _file(row: Any, form: str, base: str) -> ReleaseFile:
    if not isinstance(row, dict):
        raise refused("a file of it is none")
    url, size, sha256 = row.get("url"), row.get("size_bytes"), row.get("sha256")
    if not isinstance(url, str) or not 0 < len(url) <= MAX_URL:
        raise refused("a file of it has no address")
    whole = urllib.parse.urljoin(base, url) if _NAME.fullmatch(url) else url
    if not is_trusted(whole) or (whole is url and not _is_https(url)):
        raise refused("a file of it is at no https address")
    name = urllib.parse.urlsplit(whole).path.rpartition("/")[2]
    if not _NAME.fullmatch(name) or not name.endswith(_ENDINGS[form]):
        raise refused(f"{name[:60]!r} is no name for a file")
    if type(size) is not int or not 0 < size <= MAX_FILE_BYTES:
        raise refused(f"a file of it is larger than {MAX_FILE_BYTES >> 20} MiB, or empty")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise refused("a file of it has no SHA-256")
    return ReleaseFile(whole, name, size, sha256)


def _is_https(url: str) -> bool:
    # What is in no header and no address bar: control characters, spaces, backslashes.
    if not re.fullmatch(r"[!-\[\]-~]+", url):
        return False
    return url.startswith("https://") and is_trusted(url)


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number")
