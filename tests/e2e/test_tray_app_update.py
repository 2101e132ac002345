"""A tray changes to the next version: the old icon goes, the new one comes, on a real bus."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.app_update_kit import (
    engine_of,
    lay_down,
    program_text,
    publisher,
    start,
    until,
    write_settings,
)
from tray_app.app_versions import OwnCopy, read_choice
from tray_app.client import Client

OLD, NEW = "0.1.0", "0.2.0"
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the stand-ins are scripts"),
    pytest.mark.timeout(240),
]


def trays(home: Path, folder: Path) -> list[psutil.Process]:
    """The trays of the home, by the folder their program lies in."""
    found = []
    for process in psutil.process_iter():
        try:
            line, env = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        program = next((word for word in line if word.endswith("/llama-wrangler")), "")
        ours = env.get("LLAMA_WRANGLER_HOME") == str(home) and "tray" in line
        if ours and Path(program).parent == folder and "engine" not in line:
            found.append(process)
    return found


def test_the_tray_is_exchanged_with_its_engine(
    home: Path, tmp_path: Path, free_port: int, display: dict[str, str]
) -> None:
    with publisher(tmp_path / "published") as place:
        keys = (place.public,)
        program = lay_down(tmp_path / "app", program_text(OLD, home, keys))
        place.publish(NEW, program_text(NEW, home, keys))
        write_settings(home, free_port, place.url)
        # What a tray registers for links belongs to the test.
        own = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
        old: subprocess.Popen[bytes] = start(program, "tray", "--hidden", **{**display, **own})
        try:
            client = engine_of(home, OLD)
            assert trays(home, program.parent)
            client.call("check_app_update")
            client.call("fetch_app_update")
            # Its test opens a tray and a window of the new version on this display.
            until(
                lambda: client.call("app_update_status")["state"] in ("ready", "available"),
                "the end of the fetch",
                120,
            )
            status = client.call("app_update_status")
            assert status["state"] == "ready", status["error"]
            client.call("apply_app_update")
            old.wait(60)
            new = engine_of(home, NEW)
            until(lambda: read_choice(OwnCopy(program).pointer).confirmed, "the new one's word")
            until(lambda: trays(home, program.parent / "versions" / NEW), "the new tray")
            assert new.snapshot()["mode"] == "tray"
        finally:
            Client.connect(home).call("shutdown")
            old.wait(30)
