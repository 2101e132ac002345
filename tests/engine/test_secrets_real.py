"""A real keychain (gnome-keyring's Secret Service, on a bus of its own) keeps the token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import parts

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_only_in_the_keychain_0123456789"
SCRIPT = """
set -e
printf 'password' | gnome-keyring-daemon --unlock --components=secrets --daemonize >/dev/null
exec "$@"
"""
STEPS = """
import os, sys
from tray_app.engine import secrets
print(secrets.account(False))
secrets.set_hub_token(os.environ.pop("TOKEN_OF_THE_TEST"))
print(secrets.account(True), secrets.hub_token(True) == sys.stdin.readline().strip())
again = secrets.HubToken({}, secrets._keyring)
print(len(again.read(True) or ""))
again.keep(None)
print(again.account(True))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, for the sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="lwk-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_token_is_kept_by_the_secret_service_and_nowhere_else(folder: Path) -> None:
    missing = [p for p in ("gnome-keyring-daemon", "dbus-run-session") if not shutil.which(p)]
    if missing:
        text = f"not installed: {', '.join(missing)}"
        pytest.fail(text, pytrace=False) if parts.in_ci() else pytest.skip(text)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "PYTHONPATH": str(ROOT),
        "TOKEN_OF_THE_TEST": TOKEN,
    }
    done = subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", SCRIPT, "sh", sys.executable, "-c", STEPS],
        input=TOKEN + "\n",
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stdout + done.stderr
    name = "'SecretService Keyring'"
    assert lines[0] == f"HubAccount(source='none', keychain={name}, problem='')"
    assert lines[1] == f"HubAccount(source='keychain', keychain={name}, problem='') True"
    assert lines[2] == str(len(TOKEN))
    assert lines[3] == lines[0]
    for path in folder.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
