"""`--self-test` run for real: what it says when all is well, and what it names when it is not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.kit import ROOT

NO_DISPLAY = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}


def run(*words: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tray_app", "--self-test", *words],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.e2e
def test_all_of_the_app_answers_and_leaves_nothing(
    display: dict[str, str], llama_server: Path, smollm2: Path, tmp_path: Path
) -> None:
    desk = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "data")}
    words = ("--model", str(smollm2), "--llama-server", str(llama_server), "--within-s", "80")
    done = run(*words, environ={**display, **desk})
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert steps == ["engine", "library", "tray", "window", "model", "end"]
    place = done.stdout.splitlines()[1].split()[1].rstrip(",")
    assert Path(place).name.startswith("lw-")
    assert not Path(place).exists()
    assert not any(tmp_path.rglob("*llama-wrangler*")), "it wrote to the user's desktop"


def test_without_a_display_the_rest_is_tried() -> None:
    done = run(environ=NO_DISPLAY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skip  tray, window" in done.stdout
    assert "read the header of " in done.stdout


def test_a_llama_server_that_does_not_work_is_named(tmp_path: Path, smollm2: Path) -> None:
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\nexit 3\n")
    server.chmod(server.stat().st_mode | stat.S_IXUSR)
    words = ("--model", str(smollm2), "--llama-server", str(server))
    done = run(*words, environ=NO_DISPLAY)
    assert done.returncode == 1
    assert "FAIL  model" in done.stdout
    assert "No llama.cpp was found" in done.stdout


def test_a_home_that_cannot_work_fails_within_its_time(tmp_path: Path) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF and nothing more")
    began = time.monotonic()
    done = run("--model", str(model), "--within-s", "20", environ=NO_DISPLAY)
    assert done.returncode == 1
    assert "broken.gguf was left out" in done.stdout
    assert time.monotonic() - began < 30


def test_a_file_that_is_not_there_is_a_wrong_command_line(tmp_path: Path) -> None:
    done = run("--model", str(tmp_path / "no.gguf"), environ=NO_DISPLAY)
    assert done.returncode == 2
    assert "There is no file" in done.stderr
