"""Which llama-server is used: the order of the places, what is rejected and why, and builds."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import pytest

from tests.runtime_kit import (
    BUILD,
    ENDLESS,
    HELP,
    Follower,
    local_parts,
    scripted_server,
    tiny_project,
)
from tray_app.engine.errors import BadRequest, RuntimeMissing
from tray_app.engine.events import Event, RuntimeChanged
from tray_app.engine.jobs import JobContext, JobRunner
from tray_app.engine.runtime.build import obtain_runtime
from tray_app.engine.runtime.choice import ALLOWED, VARIABLE, Runtimes, tool_of
from tray_app.engine.runtime.probe import ProbeCache, ask, probe
from tray_app.engine.state import StateDb
from tray_app.engine.values import JobState, RuntimeState

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stand-ins are shell scripts")


class Machine:
    """A machine with nothing on it yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"HOME": str(root / "user"), "PATH": str(root / "bin")}
        self.setting: str | None = None
        self.heard: list[Event] = []
        self.recipe = tiny_project(root)

    def runtimes(self) -> Runtimes:
        return Runtimes(
            self.root / "runtimes",
            self.root / "cache",
            self.heard.append,
            server_path=lambda: self.setting,
            environ=self.environ,
            recipe=self.recipe,
            parts=dataclasses.replace(local_parts(self.root), prove=ProbeCache().probe),
        )

    @property
    def states(self) -> list[RuntimeState]:
        return [e.status.state for e in self.heard if isinstance(e, RuntimeChanged)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    # This machine may have a llama-server of its own in the system's folders.
    from tray_app.engine.runtime import choice as runtimes

    real = runtimes.usual_folders
    monkeypatch.setattr(
        runtimes,
        "usual_folders",
        lambda environ: tuple(p for p in real(environ) if tmp_path in p.parents),
    )
    return Machine(tmp_path)


def test_nothing_on_the_machine_is_missing_not_failed(machine: Machine) -> None:
    runtimes = machine.runtimes()
    status = runtimes.find()
    assert (status.state, status.active, status.error) == (RuntimeState.MISSING, None, None)
    assert machine.states == [RuntimeState.SEARCHING, RuntimeState.MISSING]
    with pytest.raises(RuntimeMissing, match=r"no llama\.cpp on this machine"):
        runtimes.require()


def test_the_places_are_taken_in_order(machine: Machine) -> None:
    root = machine.root
    in_folder = scripted_server(root / "user" / "llama.cpp" / "build" / "bin")
    found = machine.runtimes().find().active
    assert found is not None
    assert (found.server_path, found.origin, found.build) == (in_folder, "folder", BUILD)

    on_path = scripted_server(root / "bin")
    assert machine.runtimes().find().active.server_path == on_path  # type: ignore[union-attr]

    # No PATH for the build's tools in `environ`: they come from this process's own.
    obtain_runtime(machine.recipe, root / "runtimes", root / "cache", Follower(), local_parts(root))
    built = machine.runtimes().find().active
    assert built is not None
    assert (built.id, built.origin, built.backend) == (f"b{BUILD}-cpu", "built", "cpu")

    by_variable = scripted_server(root / "elsewhere")
    machine.environ[VARIABLE] = str(by_variable)
    assert machine.runtimes().find().active.origin == "environment"  # type: ignore[union-attr]

    by_setting = scripted_server(root / "chosen")
    machine.setting = str(by_setting)
    chosen = machine.runtimes().find().active
    assert chosen is not None
    assert (chosen.server_path, chosen.origin) == (by_setting, "settings")
    assert chosen.id.startswith(f"b{BUILD}-cpu-")


def test_a_new_home_gets_its_runtime_from_the_cache(machine: Machine) -> None:
    obtain_runtime(
        machine.recipe,
        machine.root / "old-home",
        machine.root / "cache",
        Follower(),
        local_parts(machine.root),
    )
    found = machine.runtimes().find().active
    assert found is not None
    assert found.server_path == machine.root / "runtimes" / f"b{BUILD}-cpu" / "llama-server"


def test_a_built_runtime_that_was_changed_is_not_used(machine: Machine) -> None:
    folder = obtain_runtime(
        machine.recipe,
        machine.root / "runtimes",
        machine.root / "no-cache",
        Follower(),
        local_parts(machine.root),
    )
    (folder / "llama-quantize").write_text("changed")
    assert machine.runtimes().find().state is RuntimeState.MISSING


def test_an_old_build_is_rejected_in_plain_words(machine: Machine) -> None:
    scripted_server(machine.root / "bin", build=3000, help_text="--host\n--alias\n--offline")
    runtimes = machine.runtimes()
    status = runtimes.find()
    assert status.state is RuntimeState.FAILED
    assert status.error is not None
    assert "too old (build 3000)" in status.error.message
    assert "--slot-save-path" in status.error.message
    assert [r.path.parent.name for r in runtimes.status().rejected] == ["bin"]
    with pytest.raises(RuntimeMissing, match="too old"):
        runtimes.require()


def test_a_bad_one_on_path_does_not_hide_a_good_one(machine: Machine) -> None:
    scripted_server(machine.root / "bin", help_text="")
    good = scripted_server(machine.root / "user" / ".local" / "bin")
    runtimes = machine.runtimes()
    assert runtimes.find().active.server_path == good  # type: ignore[union-attr]
    assert len(runtimes.status().rejected) == 1


@pytest.mark.parametrize(
    "text", [None, "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho hello\n", "\x7fELF"]
)
def test_what_the_user_named_is_never_replaced_silently(machine: Machine, text: str | None) -> None:
    scripted_server(machine.root / "bin")
    named = machine.root / "named"
    if text is not None:
        named.write_text(text)
        named.chmod(0o755)
    machine.setting = str(named)
    status = machine.runtimes().find()
    assert (status.state, status.active) == (RuntimeState.FAILED, None)
    assert status.error is not None
    assert "settings" in status.error.message
    assert str(named) in status.error.message


def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\nsleep 60\n")
    server.chmod(0o755)
    with pytest.raises(RuntimeMissing, match="did not answer --version within 0 s"):
        probe(server, timeout_s=0.3)


def test_endless_output_is_bounded(tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\ni=0; while [ $i -lt 9000 ]; do echo line; i=$((i+1)); done\n")
    server.chmod(0o755)
    assert len(ask(server, ("--help",), 20).splitlines()) == 4000


def test_a_file_is_probed_once_until_it_changes(machine: Machine) -> None:
    server = scripted_server(machine.root / "bin")
    runs = machine.root / "bin" / "runs.txt"
    runtimes = machine.runtimes()
    first = runtimes.find().active
    assert runtimes.find().active == first
    assert len(runs.read_text().split()) == 3
    scripted_server(machine.root / "bin", build=99999)
    second = runtimes.find().active
    assert first is not None
    assert second is not None
    assert second.build == 99999
    assert second.id != first.id, "the fit cache must not take it for the same"
    assert server == second.server_path


def test_versions_and_devices_of_all_kinds_are_understood(tmp_path: Path) -> None:
    server = scripted_server(tmp_path)
    text = server.read_text()
    server.write_text(
        text.replace(
            f"version: {BUILD} (0abc)", "version: 0.6.0-dev (build 11434, commit b11434)"
        ).replace("(none)", "CUDA0: NVIDIA H100 (81000 MiB, 80000 MiB free)")
    )
    found = probe(server)
    assert (found.build, found.backend) == (11434, "cuda")
    assert found.version_text == "0.6.0-dev (build 11434, commit b11434)"
    assert found.devices == ("CUDA0: NVIDIA H100 (81000 MiB, 80000 MiB free)",)
    server.write_text(text.replace(f"version: {BUILD} (0abc)", "version: 0 (unknown)"))
    assert probe(server).build is None


def test_use_activates_a_probed_server(machine: Machine) -> None:
    server = scripted_server(machine.root / "elsewhere")
    runtimes = machine.runtimes()
    assert runtimes.use(server).server_path == server
    assert runtimes.require().server_path == server
    with pytest.raises(RuntimeMissing):
        runtimes.use(machine.root / "nothing")
    assert runtimes.require().server_path == server


def test_the_other_programs_of_a_build_are_found_through_a_link(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    server = scripted_server(tmp_path / "real")
    scripted_server(tmp_path / "real", name="llama-fit-params")
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "llama-server"
    link.symlink_to(server)
    runtime = machine.runtimes().find().active
    assert runtime is not None
    assert runtime.server_path == link
    assert tool_of(runtime, "llama-fit-params") == tmp_path / "real" / "llama-fit-params"
    assert tool_of(runtime, "llama-quantize") is None


def wait_for(runner: JobRunner, job_id: str) -> JobState:
    pause = threading.Event()
    for _ in range(3000):
        state = runner.get(job_id).state
        if state not in (JobState.QUEUED, JobState.RUNNING):
            return state
        pause.wait(0.01)
    pytest.fail("the job never ended")


def test_a_build_job_ends_with_an_active_runtime(machine: Machine, tmp_path: Path) -> None:
    runtimes = machine.runtimes()
    runtimes.find()
    db = StateDb(tmp_path / "state.db")
    runner = JobRunner(db, machine.heard.append)
    job = runner.submit("build_runtime", "Build llama.cpp", runtimes.build_job)
    assert wait_for(runner, job.id) is JobState.DONE
    status = runtimes.status()
    assert status.state is RuntimeState.READY
    assert status.job_id is None
    assert machine.states[-2:] == [RuntimeState.BUILDING, RuntimeState.READY]
    runner.close()
    db.close()


def test_a_cancelled_build_keeps_what_was_active(machine: Machine, tmp_path: Path) -> None:
    machine.recipe = tiny_project(tmp_path, ENDLESS)
    server = scripted_server(tmp_path / "bin")
    runtimes = machine.runtimes()
    runtimes.find()
    db = StateDb(tmp_path / "state.db")
    runner = JobRunner(db, machine.heard.append)
    compiling = threading.Event()

    def work(context: JobContext) -> None:
        report = context.progress

        def watch(
            done: int, total: int | None = None, unit: str = "", step: str | None = None
        ) -> None:
            report(done, total, unit, step)
            if step == "Compiling":
                compiling.set()

        context.progress = watch  # type: ignore[method-assign]
        runtimes.build_job(context)

    job = runner.submit("build_runtime", "Build llama.cpp", work)
    assert compiling.wait(30)
    building = runtimes.status()
    assert (building.state, building.job_id) == (RuntimeState.BUILDING, job.id)
    assert building.active is not None, "models go on running"
    assert runtimes.find() == building, "a search does not disturb it"
    with pytest.raises(BadRequest):
        runtimes.use(server)
    runner.cancel(job.id)
    assert wait_for(runner, job.id) is JobState.CANCELLED
    assert runtimes.status().state is RuntimeState.READY
    assert runtimes.require().server_path == server
    runner.close()
    db.close()


def test_a_failed_build_says_why(machine: Machine, tmp_path: Path) -> None:
    machine.recipe = tiny_project(tmp_path, server_c="#error no legs\n")
    runtimes = machine.runtimes()
    db = StateDb(tmp_path / "state.db")
    runner = JobRunner(db, machine.heard.append)
    job = runner.submit("build_runtime", "Build llama.cpp", runtimes.build_job)
    assert wait_for(runner, job.id) is JobState.FAILED
    status = runtimes.status()
    assert status.state is RuntimeState.FAILED
    assert status.error is not None
    assert "no legs" in status.error.message
    assert status.error == runner.get(job.id).error
    runner.close()
    db.close()


def test_the_stand_ins_know_every_feature(tmp_path: Path) -> None:
    assert probe(scripted_server(tmp_path)).lacking == ()
    assert HELP
    assert set(ALLOWED) == set(RuntimeState)
