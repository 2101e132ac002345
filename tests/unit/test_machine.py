"""The hardware is read once, remembered, and read anew when a driver or GPU changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tray_app.engine.runtime.machine import Machine
from tray_app.engine.state import StateDb
from tray_app.engine.values import Gpu, Hardware

CARD = Gpu("NVIDIA GeForce RTX 4090", "nvidia", 24 << 30, False, "550.54", "8.9")
WITH_CARD = Hardware("linux", "x86_64", cpu_features=("avx2",), gpus=(CARD,), cuda="12.4")
WITHOUT = Hardware("linux", "x86_64", cpu_features=("avx2",), problems=("No driver.",))


class World:
    """A machine that changes when the test says so."""

    def __init__(self, db: StateDb) -> None:
        self.db, self.hardware, self.mark, self.readings = db, WITH_CARD, "550.54", 0

    def machine(self) -> Machine:
        return Machine(self.db, self._read, lambda: self.mark)

    def _read(self) -> Hardware:
        self.readings += 1
        return self.hardware


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    db = StateDb(tmp_path / "state.db")
    yield World(db)
    db.close()


def test_a_restart_takes_what_was_read_while_no_driver_changed(world: World) -> None:
    machine = world.machine()
    assert not machine.recall(), "nothing was read yet"
    assert machine.read()
    again = world.machine()
    assert again.recall()
    assert again.stale
    assert (again.hardware, again.key, again.rungs) == (WITH_CARD, machine.key, machine.rungs)
    assert world.readings == 1
    assert not again.read(), "and read anew it is the same"
    assert not again.stale


def test_another_driver_makes_a_new_reading(world: World) -> None:
    machine = world.machine()
    machine.read()
    assert not machine.changed()
    world.mark, world.hardware = "560.1", WITHOUT
    assert machine.changed()
    assert not world.machine().recall()
    assert machine.read(), "its key is another, so runtimes are proved again"
    assert not machine.changed()


@pytest.mark.parametrize(
    "row", ["", "[]", "{", '{"mark": "550.54"}', '{"mark": "550.54", "hardware": {"x": 1}}']
)
def test_a_memory_of_another_version_is_passed_over(world: World, row: str) -> None:
    world.db.remember({"hardware": row or None})
    assert not world.machine().recall()


def test_a_memory_keeps_every_field(world: World) -> None:
    world.hardware = WITHOUT
    world.machine().read()
    assert json.loads(world.db.recall("hardware") or "")["hardware"]["problems"] == ["No driver."]
    again = world.machine()
    again.recall()
    assert again.hardware == WITHOUT


def test_backends_are_ranked_by_what_works_here_and_what_was_wished(world: World) -> None:
    machine = world.machine()
    machine.read()
    assert machine.usable()[0] == "cuda"
    assert machine.usable()[-1] == "cpu"
    assert machine.usable("vulkan")[0] == "vulkan"
    order = sorted(("cpu", "rocm", "cuda", "strange"), key=machine.rank)
    assert order == ["cuda", "cpu", "rocm", "strange"]
    assert machine.rank("cpu", wish="cpu") == 0
    assert world.machine().usable() == ["cpu"], "before anything is read"
