"""Models that nobody uses leave memory, and only those."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.engine_kit import Rig, on_loop, until
from tray_app.engine import idleness, memory
from tray_app.engine.errors import SettingsInvalid
from tray_app.engine.idleness import Idleness, least_missed, limit_s
from tray_app.engine.settings import ModelSettings, ServerSettings
from tray_app.engine.values import ModelState, ModelStatus

GIB = 1 << 30
UNLOADED, READY = ModelState.UNLOADED, ModelState.READY


@pytest.mark.parametrize(
    ("server", "own", "expected"),
    [
        ({}, {}, 300.0),
        ({"idle_unload_s": 0}, {}, None),
        ({"idle_unload_s": 60}, {"idle_unload_s": 0}, None),
        ({"idle_unload_s": 0}, {"idle_unload_s": 20}, 20.0),
        ({}, {"never_keep": True}, 0.0),
        ({}, {"pinned": True, "never_keep": True}, None),
        ({"rest_model": "a"}, {}, None),
    ],
)
def test_the_time_is_the_models_own_or_the_servers(
    server: dict[str, Any], own: dict[str, Any], expected: float | None
) -> None:
    assert limit_s("a", ServerSettings(**server), ModelSettings(**own)) == expected


def test_under_pressure_the_cheap_ones_go_first_and_the_active_one_last() -> None:
    idle = {"a": 100.0, "b": 100.0, "c": 1000.0, "new": 1.0}
    loads = {"a": 10.0, "b": 1.0, "c": 1.0, "new": 1.0}
    statuses = {name: ModelStatus(name, load_s=seconds) for name, seconds in loads.items()}
    assert least_missed(idle, statuses, "c") == ["b", "a", "c"]


class Scene:
    """The part of an engine that idleness looks at."""

    def __init__(self, rig: Rig, **server: Any) -> None:
        self.residency = rig.residency
        self.settings = SimpleNamespace(server=ServerSettings(**server))
        self.active = SimpleNamespace(model_id=None)
        self.own: dict[str, ModelSettings] = {}
        self.broken: set[str] = set()
        self.store = SimpleNamespace(for_model=self._for_model)
        self.loads: list[str] = []
        self.backend = SimpleNamespace(start_load=self.loads.append)
        self.idleness = Idleness(self)  # type: ignore[arg-type]

    def _for_model(self, model_id: str) -> ModelSettings:
        if model_id in self.broken:
            raise SettingsInvalid("models.user.toml is wrong")
        return self.own.get(model_id, ModelSettings())


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What memory there is."""
    there = {"total": 16 * GIB, "available": 8 * GIB}
    monkeypatch.setattr(memory, "total_and_available", lambda: (there["total"], there["available"]))
    return there


@on_loop
async def test_the_time_runs_from_the_end_of_the_last_request() -> None:
    async with Rig() as rig:
        scene = Scene(rig, idle_unload_s=60)
        lease = await rig.residency.acquire("a")
        rig.now = 1000.0
        await scene.idleness.look()
        assert rig.state("a") is READY, "it answers"
        lease.release()
        rig.now = 1059.0
        await scene.idleness.look()
        assert rig.state("a") is READY
        rig.now = 1060.0
        await scene.idleness.look()
        await rig.state_is("a", UNLOADED)


@on_loop
async def test_looking_is_not_using() -> None:
    async with Rig() as rig:
        scene = Scene(rig, idle_unload_s=60)
        await rig.residency.load("a")
        rig.now = 59.0
        (await rig.residency.acquire("a", counts=False)).release()
        assert rig.status("a").last_used_at is None
        rig.now = 60.0
        await scene.idleness.look()
        await rig.state_is("a", UNLOADED)


@on_loop
async def test_a_request_that_comes_meanwhile_keeps_the_model() -> None:
    async with Rig() as rig:
        scene = Scene(rig, idle_unload_s=60)
        await rig.residency.load("a")
        rig.now = 100.0
        looking = asyncio.ensure_future(scene.idleness.look())
        await asyncio.sleep(0)  # the rules are read in a thread now
        lease = await rig.residency.acquire("a")
        await looking
        assert rig.state("a") is READY
        lease.release()


@on_loop
async def test_a_request_that_comes_just_after_loads_it_anew() -> None:
    async with Rig() as rig:
        scene = Scene(rig, idle_unload_s=60)
        await rig.residency.load("a")
        rig.now = 100.0
        await scene.idleness.look()
        lease = await rig.residency.acquire("a")
        assert rig.loads == ["a", "a"]
        lease.release()


@on_loop
async def test_pinned_models_and_those_with_a_bad_overlay_stay() -> None:
    async with Rig({"a": 40, "b": 40}) as rig:
        rig.pinned = {"a"}
        scene = Scene(rig, idle_unload_s=60)
        scene.broken = {"b"}
        for name in "ab":
            await rig.residency.load(name)
        rig.now = 1e6
        await scene.idleness.look()
        assert rig.state("a") is rig.state("b") is READY


@on_loop
async def test_a_model_that_is_never_kept_leaves_at_once() -> None:
    async with Rig() as rig:
        scene = Scene(rig)
        scene.own["a"] = ModelSettings(never_keep=True)
        (await rig.residency.acquire("a")).release()
        await scene.idleness.look()
        await rig.state_is("a", UNLOADED)


@on_loop
async def test_when_memory_is_short_for_a_while_one_leaves_at_a_time(
    plenty: dict[str, int],
) -> None:
    async with Rig({"a": 40, "b": 40}) as rig:
        scene = Scene(rig, idle_unload_s=0)
        for name in "ab":
            await rig.residency.load(name)
        scene.active.model_id = "a"
        rig.now = 30.0
        plenty["available"] = GIB // 4
        for _ in range(idleness.PRESSED_LOOKS - 1):
            await scene.idleness.look()
        assert rig.state("a") is rig.state("b") is READY
        await scene.idleness.look()
        await rig.state_is("b", UNLOADED)
        assert rig.state("a") is READY
        for _ in range(idleness.PRESSED_LOOKS):
            await scene.idleness.look()
        await rig.state_is("a", UNLOADED)


@on_loop
async def test_yielding_can_be_switched_off(plenty: dict[str, int]) -> None:
    async with Rig() as rig:
        scene = Scene(rig, idle_unload_s=0, yield_memory=False)
        await rig.residency.load("a")
        rig.now, plenty["available"] = 1e6, 0
        for _ in range(2 * idleness.PRESSED_LOOKS):
            await scene.idleness.look()
        assert rig.state("a") is READY


@on_loop
async def test_the_rest_model_comes_once_idleness_has_emptied_memory() -> None:
    async with Rig({"a": 40, "b": 40}) as rig:
        scene = Scene(rig, idle_unload_s=60, rest_model="b")
        await scene.idleness.look()
        assert scene.loads == [], "nothing has left yet"
        await rig.residency.load("a")
        rig.now = 60.0
        await scene.idleness.look()
        await until(lambda: rig.status("a").pid is None)
        await scene.idleness.look()
        assert scene.loads == ["b"]
        await scene.idleness.look()
        assert scene.loads == ["b"], "a load that fails is not tried for ever"


@on_loop
async def test_unloading_by_hand_brings_no_rest_model() -> None:
    async with Rig() as rig:
        scene = Scene(rig, rest_model="b")
        await rig.residency.load("a")
        await rig.residency.unload("a")
        await scene.idleness.look()
        assert scene.loads == []
