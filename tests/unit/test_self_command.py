"""How the program starts itself again, from source and frozen."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tray_app import __main__ as program
from tray_app import self_command as module
from tray_app.self_command import (
    LIFELINE,
    PARTS,
    SCAN_WORKER,
    lasting_command,
    part_command,
    self_command,
    source_root,
)


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "frozen", True, raising=False)
    monkeypatch.setattr(module.sys, "executable", "/opt/lw/llama-wrangler")


def test_from_source_it_is_a_module_of_this_python() -> None:
    assert self_command("window") == [sys.executable, "-m", "tray_app", "window"]
    assert part_command(SCAN_WORKER) == [sys.executable, "-m", "tray_app.engine.scan_worker"]
    assert Path(part_command(LIFELINE)[-1]).is_file()
    assert source_root() == Path(__file__).parents[2]


@pytest.mark.usefixtures("frozen")
def test_frozen_it_is_the_executable_itself() -> None:
    assert self_command("window") == ["/opt/lw/llama-wrangler", "window"]
    assert part_command(LIFELINE, "7") == ["/opt/lw/llama-wrangler", "lifeline", "7"]
    assert source_root() is None


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_a_main_that_takes_its_words(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []

    def main(words: list[str]) -> int:
        said.append(words)
        return 7

    monkeypatch.setattr(importlib.import_module(PARTS[part]), "main", main)
    monkeypatch.setattr(program.sys, "argv", ["llama-wrangler", part, "a", "b"])
    assert program.main() == 7
    assert said == [["a", "b"]]


def test_a_lifeline_whose_parent_is_gone_starts_nothing() -> None:
    argv = [*part_command(LIFELINE, "1"), sys.executable, "-c", "print('started')"]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_the_installed_script_is_preferred_to_the_module(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    assert lasting_command(False, str(python), {}) == [str(python), "-m", "tray_app"]
    script = tmp_path / "llama-wrangler"
    script.touch()
    assert lasting_command(False, str(python), {}) == [str(script)]


def test_a_frozen_app_runs_itself_and_an_appimage_its_file() -> None:
    assert lasting_command(True, "/opt/x", {}) == ["/opt/x"]
    assert lasting_command(True, "/tmp/.mount/x", {"APPIMAGE": "/a.AppImage"}) == ["/a.AppImage"]
