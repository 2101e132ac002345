"""`llama-wrangler uninstall` with a real engine: everything goes, models stay unless asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from tests.gguf_maker import make_gguf

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environ(home: Path, tmp_path: Path, free_port: int) -> dict[str, str]:
    settings = {"version": 1, "server": {"port": free_port}, "runtime": {"auto_build": False}}
    (home / "settings.toml").write_text(tomli_w.dumps(settings))
    (home / "models").mkdir()
    make_gguf(home / "models" / "mine.gguf")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "icon.png").write_bytes(b"x")
    return {
        **{k: v for k, v in os.environ.items() if k != "DISPLAY"},
        "LLAMA_WRANGLER_CACHE": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tray_app", *words]
    return subprocess.run(
        argv, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, stdin=-3
    )


def test_all_goes_but_the_models(home: Path, environ: dict[str, str], tmp_path: Path) -> None:
    assert run(environ, "list").returncode == 0
    asked = run(environ, "uninstall")
    assert asked.returncode == 2
    assert "1 model files" in asked.stderr
    assert (home / "settings.toml").exists()
    done = run(environ, "uninstall", "--yes")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in home.iterdir()] == ["models"]
    assert (home / "models" / "mine.gguf").exists()
    assert not (tmp_path / "cache").exists()


def test_the_models_go_when_asked_for(home: Path, environ: dict[str, str]) -> None:
    done = run(environ, "uninstall", "--models", "--yes")
    assert done.returncode == 0, done.stderr
    assert not home.exists()
    again = run(environ, "uninstall", "--yes")
    assert (again.returncode, again.stdout) == (0, "")
