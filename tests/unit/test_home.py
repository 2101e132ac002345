"""Folders, atomic writes and broken files set aside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tray_app.engine.home import (
    SOCKET_PATH_LIMIT,
    Home,
    cache_folder,
    set_aside,
    write_atomically,
)


def test_the_environment_names_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMA_WRANGLER_HOME", str(tmp_path / "h"))
    assert Home.default().path == tmp_path / "h"
    monkeypatch.delenv("LLAMA_WRANGLER_HOME")
    assert Home.default().path == Path.home() / ".llama-wrangler"
    monkeypatch.setenv("LLAMA_WRANGLER_CACHE", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c"


def test_the_folders_are_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "h")
    home.create()
    home.create()
    for folder in (home.path, home.models, home.runtimes, home.logs, home.run):
        assert folder.stat().st_mode & 0o777 == 0o700
    home.run.chmod(0o755)
    home.create()
    assert home.run.stat().st_mode & 0o777 == 0o700


def test_sockets_of_a_deep_home_go_where_their_path_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Home(Path("/h"))
    assert short.socket_folder() == short.run
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    deep = Home(tmp_path / ("x" * 100))
    folder = deep.socket_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert deep.socket_folder() == folder
    assert Home(tmp_path / ("y" * 100)).socket_folder() != folder
    assert len(os.fsencode(short.run)) + 24 <= SOCKET_PATH_LIMIT


def test_a_link_in_the_place_of_the_socket_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    home = Home(tmp_path / ("x" * 100))
    folder = home.socket_folder()
    folder.rmdir()
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="not ours"):
        home.socket_folder()


def test_a_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_broken_copy_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for number in range(1, 4):
        path.write_text(str(number))
        assert set_aside(path).name == f"f.broken-{number}"
    assert (tmp_path / "f.broken-1").read_text() == "1"
