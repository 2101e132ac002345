"""Which llama-server is used: the order of the places, what is rejected and why, the trial."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime_kit import BUILD, HELP, scripted_server
from tray_app.engine.errors import ErrorView, RuntimeMissing, RuntimeRejected
from tray_app.engine.events import Event, RuntimeChanged
from tray_app.engine.runtime import store
from tray_app.engine.runtime.choice import ALLOWED, Runtimes
from tray_app.engine.runtime.probe import ask, probe
from tray_app.engine.runtime.shelf import VARIABLE, Shelf, tool_of
from tray_app.engine.state import StateDb
from tray_app.engine.values import Proof, Runtime, RuntimeState, RuntimeStatus

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stand-ins are shell scripts")

REFUSED = ErrorView("runtime_rejected", "It computes wrong results.", "Take another.")


class Machine:
    """A machine with nothing on it yet. Proofs are good unless a path stands in `bad`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"HOME": str(root / "user"), "PATH": str(root / "bin")}
        self.setting: str | None = None
        self.heard: list[Event] = []
        self.bad: set[Path] = set()
        self.proved: list[Path] = []
        self.cached = False
        self.order = ["cuda", "vulkan", "cpu"]
        self.db = StateDb(root / "state.db")

    def runtimes(self) -> Runtimes:
        shelf = Shelf(self.root / "runtimes", self.db, self._prove, self._known, self.environ)
        return Runtimes(
            shelf,
            self.db,
            self.heard.append,
            server_path=lambda: self.setting,
            rank=self.order.index,
            restore=self._restore,
        )

    def _prove(self, server: Path, backend: str, fresh: bool) -> Proof:
        self.proved.append(server)
        return self._known(server, backend)

    def _known(self, server: Path, backend: str) -> Proof:
        good = server not in self.bad
        return Proof(good, 5.0, error=None if good else REFUSED)

    def _restore(self) -> bool:
        if self.cached:
            self.ours("b1-cpu", build=1)
        return self.cached

    def ours(self, runtime_id: str, build: int = BUILD, backend: str = "cpu") -> Path:
        """One of our own, sealed."""
        server = scripted_server(self.root / "runtimes" / runtime_id, build=build)
        lines = server.read_text().splitlines(keepends=True)
        server.write_text("".join(line for line in lines if "runs.txt" not in line))
        store.seal(
            server.parent,
            runtime_id=runtime_id,
            build=build,
            backend=backend,
            key=runtime_id,
            version_text=str(build),
            made_from="tiny-1.tar.gz",
        )
        return server

    @property
    def states(self) -> list[RuntimeState]:
        told = [e.status.state for e in self.heard if isinstance(e, RuntimeChanged)]
        return [state for at, state in enumerate(told) if at == 0 or told[at - 1] is not state]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    # This machine may have a llama-server of its own in the system's folders.
    from tray_app.engine.runtime import shelf

    real = shelf.usual_folders
    monkeypatch.setattr(
        shelf,
        "usual_folders",
        lambda environ: tuple(p for p in real(environ) if tmp_path in p.parents),
    )
    made = Machine(tmp_path)
    yield made
    made.db.close()


def active(status: RuntimeStatus) -> Runtime:
    assert status.active is not None
    return status.active


def examined(runtimes: Runtimes, path: Path) -> Runtime:
    return runtimes.shelf.examine(runtimes.shelf.locate(path))


# -- the search


def test_nothing_on_the_machine_is_missing_not_failed(machine: Machine) -> None:
    runtimes = machine.runtimes()
    status = runtimes.find()
    assert (status.state, status.active, status.error) == (RuntimeState.MISSING, None, None)
    assert machine.states == [RuntimeState.SEARCHING, RuntimeState.MISSING]
    with pytest.raises(RuntimeMissing, match=r"no llama\.cpp on this machine"):
        runtimes.require()


def test_the_places_are_taken_in_order(machine: Machine) -> None:
    root, db = machine.root, machine.db

    def found() -> Runtime:
        db.remember({"runtime_choice": None})  # as on a new machine
        return active(machine.runtimes().find())

    in_folder = scripted_server(root / "user" / "llama.cpp" / "build" / "bin")
    first = found()
    assert (first.server_path, first.origin, first.build) == (in_folder, "folder", BUILD)
    assert first.id.startswith(f"b{BUILD}-cpu-")

    on_path = scripted_server(root / "bin")
    assert found().server_path == on_path

    old = machine.ours("b1-cpu", build=1)
    assert (found().server_path, found().origin) == (old, "built")
    machine.ours("b2-cpu", build=2)
    assert (found().id, found().made_from) == ("b2-cpu", "tiny-1.tar.gz")
    machine.ours("b1-vulkan", build=1, backend="vulkan")
    assert found().id == "b1-vulkan", "a better rung counts more than a newer build"

    by_setting = scripted_server(root / "chosen")
    machine.setting = str(by_setting.parent)
    assert (found().server_path, found().origin) == (by_setting, "settings")

    by_variable = scripted_server(root / "elsewhere")
    machine.environ[VARIABLE] = str(by_variable)
    assert (found().server_path, found().origin) == (by_variable, "environment")


def test_what_was_found_first_stays_until_another_is_chosen(machine: Machine) -> None:
    machine.ours("b1-cpu", build=1)
    assert active(machine.runtimes().find()).id == "b1-cpu"
    machine.ours("b9-vulkan", build=9, backend="vulkan")
    assert active(machine.runtimes().find()).id == "b1-cpu", "nothing newer is taken silently"


def test_a_new_home_gets_its_runtime_from_the_cache(machine: Machine) -> None:
    machine.cached = True
    assert active(machine.runtimes().find()).id == "b1-cpu"


def test_one_that_was_changed_on_the_disk_is_not_used(machine: Machine) -> None:
    server = machine.ours("b1-cpu")
    (server.parent / "extra.so").write_text("changed")
    status = machine.runtimes().find()
    assert status.state is RuntimeState.FAILED
    assert "changed since it was put there" in status.rejected[0].reason


def test_one_that_does_not_prove_itself_is_never_active(machine: Machine) -> None:
    bad = machine.ours("b2-vulkan", build=2, backend="vulkan")
    good = machine.ours("b1-cpu", build=1)
    machine.bad.add(bad)
    runtimes = machine.runtimes()
    assert active(runtimes.find()).server_path == good
    assert [(r.path, r.reason) for r in runtimes.status().rejected] == [(bad, REFUSED.message)]
    with pytest.raises(RuntimeRejected, match="wrong results"):
        examined(runtimes, bad)
    shown = {r.id: r.proof and r.proof.ok for r in runtimes.take_stock().installed}
    assert shown == {"b2-vulkan": False, "b1-cpu": True}
    with pytest.raises(AssertionError):
        runtimes.activate(runtimes.status().installed[0], on_trial=False)


def test_an_old_build_is_rejected_in_plain_words(machine: Machine) -> None:
    scripted_server(machine.root / "bin", build=3000, help_text="--host\n--alias\n--offline")
    runtimes = machine.runtimes()
    status = runtimes.find()
    assert status.state is RuntimeState.FAILED
    assert status.error is not None
    assert "too old (build 3000)" in status.error.message
    assert "--slot-save-path" in status.error.message
    assert [r.path.parent.name for r in runtimes.take_stock().rejected] == ["bin"]
    with pytest.raises(RuntimeMissing, match="too old"):
        runtimes.require()
    assert machine.proved == [], "it is not even tried"


def test_a_bad_one_on_path_does_not_hide_a_good_one(machine: Machine) -> None:
    scripted_server(machine.root / "bin", help_text="")
    good = scripted_server(machine.root / "user" / ".local" / "bin")
    runtimes = machine.runtimes()
    assert active(runtimes.find()).server_path == good
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


def test_a_chosen_one_that_is_gone_makes_room_for_another(machine: Machine) -> None:
    mine = scripted_server(machine.root / "mine")
    runtimes = machine.runtimes()
    runtimes.shelf.adopt(mine)
    assert active(runtimes.find()).origin == "adopted"
    text = mine.read_text()
    mine.unlink()
    spare = scripted_server(machine.root / "bin")
    mine.mkdir()  # something else has its name: it is looked at and named
    status = machine.runtimes().find()
    assert active(status).server_path == spare
    assert status.error is not None
    assert "you chose cannot be used now" in status.error.message
    mine.rmdir()
    mine.write_text(text)
    mine.chmod(0o755)
    status = machine.runtimes().find()
    assert active(status).server_path == mine, "it is still what the user chose"
    assert status.error is None


def test_everything_there_is_stands_in_the_list(machine: Machine) -> None:
    machine.ours("b1-cpu", build=1)
    machine.ours("b7-cpu", build=7)
    on_path = scripted_server(machine.root / "bin", build=5)
    mine = scripted_server(machine.root / "mine", build=6)
    runtimes = machine.runtimes()
    runtimes.shelf.adopt(mine)
    runtimes.shelf.adopt(mine)
    runtimes.find()
    status = runtimes.take_stock()
    assert [(r.build, r.origin) for r in status.installed] == [
        (7, "built"),
        (6, "adopted"),
        (5, "path"),
        (1, "built"),
    ]
    assert all(r.size_bytes and r.installed_at for r in status.installed if r.ours)
    assert runtimes.require("b1-cpu").build == 1
    with pytest.raises(RuntimeMissing, match="pinned to the runtime b3-cpu"):
        runtimes.require("b3-cpu")
    runtimes.shelf.abandon(mine)
    assert on_path in [r.server_path for r in runtimes.take_stock().installed]
    assert mine not in [r.server_path for r in runtimes.status().installed]


def test_a_path_to_a_program_or_a_folder_means_the_same(machine: Machine) -> None:
    shelf = machine.runtimes().shelf
    server = scripted_server(machine.root / "mine" / "build" / "bin")
    assert shelf.locate(server).path == server
    assert shelf.locate(server.parent).path == server
    assert shelf.locate(machine.root / "mine").path == server
    assert shelf.locate(machine.ours("b1-cpu")).origin == "built"
    with pytest.raises(RuntimeMissing, match="no llama-server at"):
        shelf.locate(machine.root / "nothing")


# -- the choice and its trial


def test_a_switch_remembers_the_one_before(machine: Machine) -> None:
    machine.ours("b1-cpu", build=1)
    new = machine.ours("b2-cpu", build=2)
    machine.db.remember({"runtime_choice": str(machine.root / "runtimes/b1-cpu/llama-server")})
    runtimes = machine.runtimes()
    runtimes.find()
    status = runtimes.activate(examined(runtimes, new), on_trial=True)
    assert (active(status).id, status.previous_id, status.on_trial) == ("b2-cpu", "b1-cpu", True)

    again = machine.runtimes()  # the engine was killed meanwhile
    again.find()
    status = again.take_stock()
    assert (active(status).id, status.previous_id, status.on_trial) == ("b2-cpu", "b1-cpu", True)
    again.trial_passed()
    again.save()
    assert not machine.runtimes().find().on_trial


def test_a_runtime_that_fails_on_the_users_model_is_rolled_back(machine: Machine) -> None:
    old, new = machine.ours("b1-cpu", build=1), machine.ours("b2-cpu", build=2)
    machine.db.remember({"runtime_choice": str(old)})
    runtimes = machine.runtimes()
    runtimes.find()
    crash = ErrorView("crashed", "llama-server crashed (SIGSEGV).", "Open its log.")
    assert runtimes.roll_back("org/M:Q4", crash) is None, "nothing is on trial"
    runtimes.activate(examined(runtimes, new), on_trial=True)
    back = runtimes.roll_back("org/M:Q4", crash)
    assert back is not None
    assert back.server_path == old
    status = runtimes.status()
    assert (active(status).id, status.previous_id, status.on_trial) == ("b1-cpu", None, False)
    assert status.rolled_back is not None
    assert (status.rolled_back.runtime_id, status.rolled_back.back_to) == ("b2-cpu", "b1-cpu")
    assert runtimes.roll_back("org/M:Q4", crash) is None, "once"
    runtimes.save()
    assert active(machine.runtimes().find()).id == "b1-cpu"
    runtimes.activate(examined(runtimes, new), on_trial=False)
    assert runtimes.status().rolled_back is None, "the user's own word ends the matter"


def test_the_very_first_runtime_has_nothing_to_go_back_to(machine: Machine) -> None:
    runtimes = machine.runtimes()
    runtimes.find()
    first = machine.ours("b1-cpu")
    status = runtimes.activate(examined(runtimes, first), on_trial=True)
    assert (status.previous_id, status.on_trial) == (None, False)


def test_activating_the_active_one_again_changes_nothing(machine: Machine) -> None:
    old, new = machine.ours("b1-cpu", build=1), machine.ours("b2-cpu", build=2)
    machine.db.remember({"runtime_choice": str(old)})
    runtimes = machine.runtimes()
    runtimes.find()
    runtimes.activate(examined(runtimes, new), on_trial=False)
    status = runtimes.activate(examined(runtimes, new), on_trial=True)
    assert (active(status).id, status.previous_id, status.on_trial) == ("b2-cpu", "b1-cpu", False)


def test_a_choice_that_cannot_be_saved_still_holds(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.ours("b1-cpu")
    runtimes = machine.runtimes()

    def full(values: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(machine.db, "remember", full)
    assert active(runtimes.find()).id == "b1-cpu"
    runtimes.save()


def test_an_impossible_change_of_state_is_a_defect(machine: Machine) -> None:
    runtimes = machine.runtimes()
    machine.ours("b1-cpu")
    runtimes.find()
    with pytest.raises(RuntimeError, match="cannot go from ready to building"):
        runtimes.note(state=RuntimeState.BUILDING)
    assert set(ALLOWED) == set(RuntimeState)


# -- asking a llama-server


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
    first = active(runtimes.find())
    assert active(runtimes.find()) == first
    assert len(runs.read_text().split()) == 3
    scripted_server(machine.root / "bin", build=99999)
    second = active(runtimes.find())
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


def test_the_other_programs_of_a_build_are_found_through_a_link(machine: Machine) -> None:
    server = scripted_server(machine.root / "real")
    scripted_server(machine.root / "real", name="llama-fit-params")
    (machine.root / "bin").mkdir()
    link = machine.root / "bin" / "llama-server"
    link.symlink_to(server)
    runtime = active(machine.runtimes().find())
    assert runtime.server_path == link
    assert tool_of(runtime, "llama-fit-params") == machine.root / "real" / "llama-fit-params"
    assert tool_of(runtime, "llama-quantize") is None
    moved = dataclasses.replace(runtime, server_path=machine.root / "gone" / "llama-server")
    assert tool_of(moved, "llama-fit-params") is None


def test_the_stand_ins_know_every_feature(tmp_path: Path) -> None:
    assert probe(scripted_server(tmp_path)).lacking == ()
    assert HELP
