"""An update of the app end to end: real processes, a real server, and a kill at each bad moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import file_server
from tests.app_update_kit import (
    Publisher,
    engine_of,
    lay_down,
    program_text,
    publisher,
    start,
    until,
    write_settings,
)
from tray_app.app_versions import Choice, OwnCopy, read_choice, write_choice
from tray_app.client import Client, ClientError

OLD, NEW = "0.1.0", "0.2.0"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are scripts")


@dataclass
class Stage:
    """A copy of version OLD in a folder of the user's, and where newer ones are published."""

    home: Path
    program: Path
    publisher: Publisher
    started: list[subprocess.Popen[bytes]]

    def publish(self, fault: str = "none", version: str = NEW) -> None:
        keys = (self.publisher.public,)
        self.publisher.publish(version, program_text(version, self.home, keys, fault))

    def run(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        process = start(self.program, *words, **environ)
        self.started.append(process)
        return process

    def fetched(self, client: Client) -> dict[str, Any]:
        """The status once the version that was told of has been brought and tried."""
        client.call("check_app_update")
        job_id = client.call("fetch_app_update")["job_id"]

        def ended() -> dict[str, Any] | None:
            jobs = {job["id"]: job for job in client.snapshot()["jobs"]}
            job = jobs[job_id]
            return job if job["state"] not in ("queued", "running") else None

        job = until(ended, "the job to end")
        return {**client.call("app_update_status"), "job": job}

    def choice(self) -> Choice:
        return read_choice(OwnCopy(self.program).pointer)

    def version(self) -> str:
        """What the program that the user starts says it is."""
        env = {k: v for k, v in os.environ.items() if k != "LLAMA_WRANGLER_RUNS"}
        done = subprocess.run(
            [self.program, "--version"], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.split()[-1]


@pytest.fixture
def stage(home: Path, tmp_path: Path, free_port: int) -> Iterator[Stage]:
    with publisher(tmp_path / "published") as place:
        text = program_text(OLD, home, (place.public,))
        program = lay_down(tmp_path / "llama-wrangler-folder", text)
        write_settings(home, free_port, place.url)
        made = Stage(home, program, place, [])
        yield made
        with contextlib.suppress(ClientError):  # it has ended already
            Client.connect(home).call("shutdown")
        for process in made.started:
            process.wait(30)


def test_a_new_version_is_fetched_tried_and_used(stage: Stage) -> None:
    stage.publish()
    served = stage.run("serve")
    client = engine_of(stage.home, OLD)
    # The line is cut in the middle of the archive; manifest and signature come whole.
    right, cut = file_server.right, file_server.reset_after(90_000)
    stage.publisher.server.faults = [right, right, cut]
    status = stage.fetched(client)
    assert status["job"]["state"] == "done", status["job"]
    assert status["state"] == "ready"
    assert stage.publisher.server.seen[-1].range == "bytes=90000-", "it went on where it was cut"
    assert stage.version() == OLD, "nothing is used before the user's word"

    assert client.call("apply_app_update") == {"applied": True}
    new = engine_of(stage.home, NEW)
    assert new.engine_pid == served.pid, "who started it keeps the process"
    until(lambda: stage.choice().confirmed, "the new version's word that it has come up")
    assert (stage.choice().current, stage.choice().previous) == (NEW, OLD)
    assert stage.version() == NEW
    assert new.call("app_update_status")["state"] == "none"


@pytest.mark.parametrize("fault", ["dies", "hangs"])
@pytest.mark.parametrize("mode", ["serve", "engine"])
def test_a_version_that_does_not_come_up_is_taken_back(stage: Stage, mode: str, fault: str) -> None:
    stage.publish(fault)
    words = ["serve"] if mode == "serve" else ["engine", "--mode", "tray"]
    stage.run(*words, LLAMA_WRANGLER_TRIAL_S="4")
    client = engine_of(stage.home, OLD)
    old_pid = client.engine_pid
    assert stage.fetched(client)["state"] == "ready"
    client.call("apply_app_update")
    until(lambda: stage.choice().failed == NEW, "the new version to be taken back")
    back = engine_of(stage.home, OLD)
    assert back.engine_pid != old_pid
    told = until(lambda: back.snapshot()["app_update"]["taken_back"], "word of it")
    assert (told["version"], told["back_to"]) == (NEW, OLD)
    notices = {notice["code"]: notice for notice in back.snapshot()["notices"]}
    assert NEW in notices["app_taken_back"]["message"]
    assert stage.version() == OLD
    back.call("skip_app_update", version=NEW)
    assert back.call("app_update_status")["taken_back"] is None


def test_a_version_that_fails_its_own_test_is_not_offered(stage: Stage) -> None:
    stage.publish("fails_its_test")
    stage.run("serve")
    status = stage.fetched(engine_of(stage.home, OLD))
    assert status["job"]["state"] == "failed"
    assert status["state"] == "available"
    assert status["error"]["code"] == "app_update_failed"
    assert "FAIL  engine" in status["error"]["message"]
    assert not (stage.program.parent / "versions" / NEW).exists()


def test_an_update_waits_for_what_runs(stage: Stage) -> None:
    stage.publish()
    stage.run("serve")
    client = engine_of(stage.home, OLD)
    assert stage.fetched(client)["state"] == "ready"
    # A download that gets nowhere is something that runs.
    server = stage.publisher.server
    server.put("/slow.gguf", b"GGUF" + bytes(1_000_000))
    server.always = file_server.stall_after(1000)
    download = client.call("pull", reference=server.url("/slow.gguf"))
    assert client.call("apply_app_update") == {"applied": False}
    assert client.call("app_update_status")["waiting"]
    assert client.snapshot()["version"] == OLD
    client.call("cancel_download", download_id=download["id"])
    engine_of(stage.home, NEW)


@pytest.mark.parametrize("moment", ["staging", "trying"])
def test_a_kill_while_it_is_staged_leaves_the_old_version(stage: Stage, moment: str) -> None:
    stage.publish()
    served = stage.run("serve")
    client = engine_of(stage.home, OLD)
    if moment == "staging":
        stage.publisher.server.faults = [file_server.right] * 2 + [file_server.stall_after(5000)]
    client.call("check_app_update")
    client.call("fetch_app_update")
    folder = stage.program.parent / "versions"
    began = folder / (".fetch" if moment == "staging" else ".staging")
    until(began.exists, f"{began.name} to be there")
    os.kill(served.pid, signal.SIGKILL)
    served.wait()
    assert stage.version() == OLD
    assert not (folder / NEW).exists()
    # The next engine goes on, and is not disturbed by what was left.
    stage.publisher.server.faults = []
    stage.run("serve")
    again = engine_of(stage.home, OLD)
    assert stage.fetched(again)["state"] == "ready"


def test_a_kill_of_all_while_it_is_switched_leaves_a_version_that_starts(stage: Stage) -> None:
    stage.publish("dies")
    served = stage.run("engine", "--mode", "tray")
    client = engine_of(stage.home, OLD)
    assert stage.fetched(client)["state"] == "ready"
    client.call("apply_app_update")
    watchers = [each for each in psutil.process_iter() if _is_trial(each, stage.home)]
    assert watchers
    until(lambda: stage.choice().current == NEW, "the switch")
    for process in watchers:
        process.kill()
    served.wait(30)
    # Nobody watches: the starts themselves find out that it never comes up.
    pointer = OwnCopy(stage.program).pointer
    assert not stage.choice().confirmed or stage.choice().failed == NEW
    for _ in range(4):
        if stage.choice().failed == NEW:
            break
        stage.run("serve").wait(30) if stage.choice().starts < 3 else stage.run("serve")
    engine_of(stage.home, OLD)
    assert stage.choice().failed == NEW
    assert "never came up" in read_choice(pointer).reason


@pytest.mark.parametrize("fault", ["none", "dies"])
def test_an_appimage_is_replaced_and_put_back(stage: Stage, tmp_path: Path, fault: str) -> None:
    keys = (stage.publisher.public,)
    image = tmp_path / "Llama Wrangler.AppImage"
    image.write_text(program_text(OLD, stage.home, keys, image=True), encoding="utf-8")
    image.chmod(0o755)
    stage.publisher.publish(NEW, program_text(NEW, stage.home, keys, fault, image=True), image=True)
    stage.program = image
    stage.run("engine", "--mode", "tray")
    client = engine_of(stage.home, OLD)
    status = stage.fetched(client)
    assert (status["kind"], status["state"]) == ("appimage", "ready")
    client.call("apply_app_update")
    copy = OwnCopy(image, is_image=True)
    if fault == "none":
        engine_of(stage.home, NEW)
        until(lambda: read_choice(copy.pointer).confirmed, "the new version's word")
        assert stage.version() == NEW
        assert f"'{OLD}'" in copy.previous_image.read_text()
    else:
        until(lambda: read_choice(copy.pointer).failed == NEW, "the old image to be put back")
        engine_of(stage.home, OLD)
        assert stage.version() == OLD


def test_the_command_line_brings_a_version_and_waits_for_it(stage: Stage) -> None:
    stage.publish()
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "LLAMA_WRANGLER_RUNS")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [str(stage.program), "update", *words]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    told = run()
    assert told.returncode == 0, told.stderr
    assert "No newer version is known." in told.stdout
    told = run("--check")
    assert f"Version {NEW} is out" in told.stdout
    assert "update --apply" in told.stdout
    told = run("--apply")
    assert told.returncode == 0, told.stderr
    assert f"Version {NEW} is in use." in told.stdout
    assert f"Llama Wrangler {NEW}, a folder of yours." in run().stdout
    # What is published is what runs now: there is nothing left to do.
    told = run("--apply")
    assert (told.returncode, "No newer version" in told.stdout) == (0, True)


def test_a_version_whose_files_are_gone_makes_room_for_the_base(stage: Stage) -> None:
    pointer = OwnCopy(stage.program).pointer
    pointer.parent.mkdir()
    write_choice(pointer, Choice(NEW, OLD))
    assert stage.version() == OLD
    assert stage.choice().failed == NEW


def _is_trial(process: psutil.Process, home: Path) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return "version-trial" in line and str(home) in line
