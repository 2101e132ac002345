"""Fits are measured ahead, one at a time, and never while somebody is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.unit.engine_kit import model
from tray_app.engine.errors import SettingsInvalid
from tray_app.engine.fit_ahead import FitAhead
from tray_app.engine.settings import ModelSettings, Settings
from tray_app.engine.values import ModelStatus


class Scene:
    """The part of an engine that is looked at."""

    def __init__(self, *models: Any) -> None:
        self.mode = "serve"
        self.settings = Settings()
        self.measured: list[str] = []
        self.broken: set[str] = set()
        self.statuses: dict[str, ModelStatus] = {}
        self.library = SimpleNamespace(scanning=False, models=lambda: tuple(models))
        self.residency = SimpleNamespace(statuses=lambda: self.statuses)
        self.store = SimpleNamespace(for_model=self._for_model)
        self.bench = SimpleNamespace(measuring=False)
        self.active = SimpleNamespace(id="b1-cpu", backend="cpu")
        self.runtime = SimpleNamespace(
            ready=True,
            status=lambda: SimpleNamespace(active=self.active),
            require=lambda _: None,
            place=lambda each, *_: self.measured.append(each.id),
        )
        self.ahead = FitAhead(self)  # type: ignore[arg-type]

    def _for_model(self, model_id: str) -> ModelSettings:
        if model_id in self.broken:
            raise SettingsInvalid("models.user.toml is wrong")
        return ModelSettings()

    def looks(self, times: int, before: Callable[[], object] = lambda: None) -> list[str]:
        async def look() -> None:
            for _ in range(times):
                before()
                await self.ahead.look()

        asyncio.run(look())
        return self.measured


def known(name: str, at: float, **fields: Any) -> Any:
    return model(f"org/{name}:Q4", modified_at=at, details_known=True, **fields)


def test_the_newest_comes_first_and_each_once() -> None:
    scene = Scene(known("old", 1.0), known("new", 2.0), known("gone", 3.0, available=False))
    assert scene.looks(1) == ["org/new:Q4"]
    assert scene.looks(5) == ["org/new:Q4", "org/old:Q4"]


def test_another_runtime_or_context_means_measuring_anew() -> None:
    scene = Scene(known("a", 1.0))
    scene.looks(2)
    scene.active = SimpleNamespace(id="b2-cpu", backend="cpu")
    assert len(scene.looks(2)) == 2
    scene.settings = Settings(models={"org/a:Q4": ModelSettings(context_length=512)})
    assert len(scene.looks(2)) == 3


def test_one_that_cannot_be_measured_holds_nobody_up() -> None:
    scene = Scene(known("bad", 2.0), known("good", 1.0))
    scene.broken = {"org/bad:Q4"}
    assert scene.looks(3) == ["org/good:Q4"]


def test_nothing_is_measured_while_someone_is_answered_or_nothing_is_ready() -> None:
    scene = Scene(known("a", 1.0))
    scene.statuses = {"x": ModelStatus("x", in_flight=1)}
    assert scene.looks(1) == []
    scene.statuses = {}
    scene.runtime.ready = False
    assert scene.looks(1) == []
    scene.runtime.ready, scene.library.scanning = True, True
    assert scene.looks(1) == []
    scene.library.scanning, scene.mode = False, "once"
    assert scene.looks(1) == []


def test_beside_a_model_on_the_gpu_nothing_is_measured() -> None:
    scene = Scene(known("a", 1.0))
    scene.active = SimpleNamespace(id="b1-cuda", backend="cuda")
    scene.statuses = {"b": ModelStatus("b", pid=7)}
    assert scene.looks(2) == []
    scene.statuses = {}
    assert scene.looks(2) == ["org/a:Q4"]
