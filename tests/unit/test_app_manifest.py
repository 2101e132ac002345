"""Word of a new version: signed, in date, newer, within bounds; everything else is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import release
from tests.file_server import FileServer, file_server, redirect, says
from tray_app.engine.app_update.manifest import (
    CLOCK_SLACK_S,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    Manifest,
    check_fresh,
    read_manifest,
)
from tray_app.engine.app_update.source import ask
from tray_app.engine.app_update.trust import PUBLIC_KEYS, verify
from tray_app.engine.errors import AppUpdateRefused, DownloadFailed

URL = "https://example.org/releases/manifest.json"
NOW = 1_800_000_000
HASH = "0" * 64
Row = dict[str, Any]


def file_row(**changes: Any) -> Row:
    name = "llama-wrangler-0.2.0-linux-x86_64.tar.gz"
    return {"url": name, "size_bytes": 1000, "sha256": HASH, **changes}


def row(**changes: Any) -> Row:
    return {
        "format": 1,
        "product": "llama-wrangler",
        "version": "0.2.0",
        "released_at": NOW,
        "expires_at": NOW + 1000,
        "notes_url": "https://example.org/notes",
        "files": {"linux-x86_64": {"folder": file_row()}},
        **changes,
    }


def read(changed: Any) -> Manifest:
    return read_manifest(json.dumps(changed).encode(), URL)


def reason(act: Callable[[], object]) -> str:
    with pytest.raises(AppUpdateRefused) as caught:
        act()
    assert caught.value.remedy
    return caught.value.message


# -- signatures


def test_a_signature_of_one_of_the_keys_counts() -> None:
    (old, old_public), (new, new_public) = release.new_key(), release.new_key()
    data = b"anything"
    verify(data, release.sign(data, [old]), [old_public])
    # A rotation: signed with both, for copies that know the one and those that know the other.
    both = release.sign(data, [old, new])
    for known in ([old_public], [new_public], [new_public, old_public]):
        verify(data, both, known)


def test_nothing_else_does() -> None:
    (private, public), (other, _) = release.new_key(), release.new_key()
    data = b'{"version": "0.2.0"}'
    good = release.sign(data, [private])
    flipped = bytearray(base64.b64decode(good))
    flipped[5] ^= 1
    for text, signature, keys in (
        (data + b" ", good, [public]),  # not these very bytes
        (data, release.sign(data, [other]), [public]),  # another key
        (data, base64.b64encode(bytes(flipped)), [public]),
        (data, b"", [public]),
        (data, b"not base64 at all", [public]),
        (data, base64.b64encode(b"short"), [public]),
        (data, b"x" * 1000, [public]),
        (data, b"AAAA\n" * 8 + good, [public]),  # behind more lines than are looked at
        (data, good, []),  # this copy knows no key
    ):
        with pytest.raises(AppUpdateRefused, match="without a signature"):
            verify(text, signature, keys)


def test_the_keys_of_this_version_are_keys() -> None:
    for key in PUBLIC_KEYS:
        assert len(base64.b64decode(key, validate=True)) == 32


# -- what a manifest may say


def test_a_good_one_is_read() -> None:
    manifest = read(row())
    assert manifest.version == "0.2.0"
    file = manifest.file_for("linux-x86_64", "folder")
    assert file is not None
    assert file.url == "https://example.org/releases/llama-wrangler-0.2.0-linux-x86_64.tar.gz"
    assert (file.filename, file.size_bytes) == ("llama-wrangler-0.2.0-linux-x86_64.tar.gz", 1000)
    assert manifest.file_for("linux-x86_64", "appimage") is None
    assert manifest.file_for("windows-x86_64", "folder") is None


def test_what_a_later_version_may_add_is_passed_over() -> None:
    files = {"linux-x86_64": {"folder": file_row(signature="x"), "squashfs": 7}}
    assert read(row(files=files, channel="stable")).version == "0.2.0"


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": True},
        {"product": "something-else"},
        {"version": "0.2"[:1]},
        {"version": "0.2.0-rc1"},
        {"version": "../0.2.0"},
        {"version": 2},
        {"released_at": "2027-01-01"},
        {"released_at": -1},
        {"released_at": 1.5},
        {"released_at": 10**30},
        {"expires_at": NOW},
        {"expires_at": None},
        {"notes_url": "javascript:alert(1)"},
        {"notes_url": "http://example.org"},
        {"notes_url": "https://example.org/" + "x" * 3000},
        {"notes_url": "https://example.org/\nX-Header: 1"},
        {"notes_url": 7},
        {"files": {}},
        {"files": []},
        {"files": {"linux-x86_64": []}},
        {"files": {"../../etc": {}}},
        {"files": {f"linux-x{n:03}": {} for n in range(40)}},
    ],
)
def test_what_is_not_as_it_has_to_be_is_refused(changes: Row) -> None:
    assert "cannot be used" in reason(lambda: read(row(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://example.org/a.tar.gz"},
        {"url": "file:///etc/passwd.tar.gz"},
        {"url": "//example.org/a.tar.gz"},
        {"url": "../a.tar.gz"},
        {"url": "a/b.tar.gz"},
        {"url": "https://example.org/a.tar.gz\r\nX: y"},
        {"url": "https://example.org/%2e%2e/..tar.gz"},
        {"url": "https://example.org/a.exe"},
        {"url": "https://example.org/.tar.gz"},
        {"url": ""},
        {"url": None},
        {"size_bytes": 0},
        {"size_bytes": -5},
        {"size_bytes": MAX_FILE_BYTES + 1},
        {"size_bytes": 1e3},
        {"size_bytes": True},
        {"sha256": "0" * 63},
        {"sha256": "g" * 64},
        {"sha256": None},
    ],
)
def test_a_file_that_is_none_is_refused(changes: Row) -> None:
    files = {"linux-x86_64": {"folder": file_row(**changes)}}
    assert "cannot be used" in reason(lambda: read(row(files=files)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 60_000,
        b'{"format": NaN}',
        b" " * MAX_MANIFEST_BYTES + b"{}",
        b"1" * 60_000,
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    assert "cannot be used" in reason(lambda: read_manifest(data, URL))


# -- when it counts


def test_an_old_one_is_refused_though_it_is_signed() -> None:
    manifest = read(row())
    check_fresh(manifest, NOW + 10, seen_at=0)
    check_fresh(manifest, NOW + 10, seen_at=NOW)
    assert "out of date" in reason(lambda: check_fresh(manifest, NOW + 1001, 0))
    assert "an older one" in reason(lambda: check_fresh(manifest, NOW + 10, NOW + 1))
    assert "future" in reason(lambda: check_fresh(manifest, NOW - CLOCK_SLACK_S - 1, 0))


# -- asking


def publish(server: FileServer, data: bytes, private: str) -> str:
    server.put("/manifest.json", data)
    server.put("/manifest.json.sig", release.sign(data, [private]))
    return server.url("/manifest.json")


def test_the_two_files_are_asked_for_and_nothing_is_told() -> None:
    private, public = release.new_key()
    with file_server() as server:
        url = publish(server, json.dumps(row()).encode(), private)
        assert ask(url, [public]).version == "0.2.0"
        assert [each.path for each in server.seen] == ["/manifest.json", "/manifest.json.sig"]
        told = {name for each in server.seen for name in each.headers}
        assert told <= {"host", "user-agent", "accept-encoding", "connection"}
        assert {each.headers["user-agent"] for each in server.seen} == {"llama-wrangler"}


def test_a_place_that_answers_badly_is_told_of() -> None:
    private, public = release.new_key()
    with file_server() as server:
        url = publish(server, json.dumps(row()).encode(), private)
        server.faults = [says(b"x" * (MAX_MANIFEST_BYTES + 1))]
        with pytest.raises(DownloadFailed, match="more than"):
            ask(url, [public])
        server.faults = [redirect("http://example.invalid/manifest.json")]
        with pytest.raises(DownloadFailed):
            ask(url, [public])
        del server.files["/manifest.json.sig"]
        with pytest.raises(DownloadFailed, match="it answered 404"):
            ask(url, [public])
    with pytest.raises(DownloadFailed, match="no https address"):
        ask("http://example.org/manifest.json", [public])
    with pytest.raises(DownloadFailed):
        ask(url, [public])


# -- making one


def test_a_release_is_what_the_app_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = release.__version__
    for name in (
        f"llama-wrangler-{version}-linux-x86_64.tar.gz",
        f"llama-wrangler-{version}-linux-aarch64.AppImage",
        f"llama-wrangler-{version}-linux-x86_64.AppDir.tar.gz",
        f"llama-wrangler_{version}_amd64.deb",
    ):
        (tmp_path / name).write_bytes(name.encode())
    private, public = release.new_key()
    monkeypatch.setenv(release.KEY_VARIABLE, private)
    assert release.main([str(tmp_path), "--notes", "https://example.org/n"]) == 0
    data = (tmp_path / "manifest.json").read_bytes()
    verify(data, (tmp_path / "manifest.json.sig").read_bytes(), [public])
    manifest = read_manifest(data, URL)
    assert manifest.version == version
    assert sorted((p, f) for p in manifest.files for f in manifest.files[p]) == [
        ("linux-arm64", "appimage"),
        ("linux-x86_64", "folder"),
    ]
    sums = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert len(sums) == 6
    assert private not in (tmp_path / "manifest.json").read_text() + "".join(sums)


def test_a_release_without_a_key_is_loud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(release.KEY_VARIABLE, raising=False)
    assert release.main([str(tmp_path)]) == 1
    assert "holds no file of a release" in capsys.readouterr().err
    name = f"llama-wrangler-{release.__version__}-linux-x86_64.tar.gz"
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "manifest.json.sig").write_text("of another one")
    assert release.main([str(tmp_path)]) == release.UNSIGNED
    assert "NOT SIGNED" in capsys.readouterr().err
    assert not (tmp_path / "manifest.json.sig").exists()
    (tmp_path / "llama-wrangler-9.9.9-linux-x86_64.tar.gz").write_bytes(b"x")
    assert release.main([str(tmp_path)]) == 1
