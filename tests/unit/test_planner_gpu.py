"""A model's first fit to a GPU: room is made before it is measured, because it is remembered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.engine_kit import model
from tray_app.engine.launch import Placement
from tray_app.engine.planner import Planner
from tray_app.engine.settings import ModelSettings
from tray_app.engine.values import ModelStatus, Runtime

CUDA = "CUDA0: NVIDIA GeForce RTX 3060 (12288 MiB, 12000 MiB free)"
GPU_BYTES = (12288 - 768) << 20


class Scene:
    """An engine with a GPU runtime, as far as a planner asks it."""

    def __init__(self, folder: Path, **own: Any) -> None:
        path = folder / "m.gguf"
        path.write_bytes(b"x" * 10)
        self.made_way = 0
        self.fitted = False
        self.placed = 0
        self.statuses: dict[str, ModelStatus] = {}
        found = model("org/a:Q4", path=path, folder=folder)
        settings = ModelSettings(keep_conversations=False, **own)
        self.runtime_used = Runtime("b1-cuda", 1, "cuda", folder / "s", "built", "", (CUDA,))
        engine: Any = SimpleNamespace(
            bench=SimpleNamespace(make_way=self._make_way),
            library=SimpleNamespace(get=lambda _: found),
            store=SimpleNamespace(for_model=lambda _: settings),
            residency=SimpleNamespace(statuses=lambda: self.statuses),
            runtime=SimpleNamespace(
                require=lambda _: self.runtime_used,
                machine=SimpleNamespace(hardware=None),
                known_fit=lambda *_: object() if self.fitted else None,
                place=self._place,
            ),
        )
        self.planner = Planner(engine)
        self.planner._known_arguments = SimpleNamespace(check=lambda *_: None)  # type: ignore[assignment]

    def _make_way(self) -> None:
        self.made_way += 1

    def _place(self, *_: Any) -> Placement:
        self.placed += 1
        return Placement(4096, 33, (), 9_000, {"CUDA0": 8_000, "CPU_Mapped": 500})


def test_room_is_made_first_and_then_it_is_measured(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.statuses = {"b": ModelStatus("b", pid=7)}
    wide = scene.planner.plan("org/a:Q4")
    assert scene.placed == 0
    assert wide.needs["CUDA0"] == GPU_BYTES
    assert wide.needs["Host"] == 0
    assert wide.measure is not None
    with pytest.raises(RuntimeError):
        wide.start()
    real = wide.measure()
    assert real.measure is None
    assert real.needs == {"all": 9_000, "Host": 1_000, "CUDA0": 8_000}
    assert real.gpu_layers is None
    assert scene.made_way == 1


def test_a_known_fit_a_free_gpu_and_chosen_layers_need_none_of_that(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.planner.plan("org/a:Q4").measure is None, "nobody else is in memory"
    scene.statuses = {"b": ModelStatus("b", pid=7), "org/a:Q4": ModelStatus("org/a:Q4")}
    scene.fitted = True
    assert scene.planner.plan("org/a:Q4").measure is None
    chosen = Scene(tmp_path, gpu_layers=10)
    chosen.statuses = scene.statuses
    assert chosen.planner.plan("org/a:Q4").measure is None
