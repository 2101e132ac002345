"""What is tried before a model that died counts as failed: one new fit, then another runtime."""

from __future__ import annotations

import sqlite3
from typing import Any, cast

import pytest

from tray_app.engine.core import Engine
from tray_app.engine.errors import EngineError, ErrorView, ModelNotFound
from tray_app.engine.second_chances import SecondChances

SHORT = ErrorView("not_enough_memory", "There was not enough memory to load it.", "Unload another.")
CRASH = ErrorView("crashed", "llama-server crashed.", "Open its log.")


class Service:
    """The runtime service as `SecondChances` sees it; the rest of the engine too."""

    def __init__(self) -> None:
        self.runtime = self.library = self
        self.fitted = True
        self.broken: Exception | None = None
        self.forgotten: list[str] = []
        self.asked: list[str] = []
        self.heard: list[str] = []

    def get(self, model_id: str) -> str:
        return model_id

    def forget_fits(self, model: str) -> bool:
        if self.broken is not None:
            raise self.broken
        self.forgotten.append(model)
        return self.fitted

    def second_chance(self, model_id: str, runtime_id: str, error: ErrorView) -> bool:
        self.asked.append(f"{model_id} {runtime_id} {error.code}")
        return False

    def answered(self, model_id: str) -> None:
        self.heard.append(model_id)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def chances(service: Service) -> SecondChances:
    return SecondChances(cast(Engine, cast(Any, service)))


def test_a_model_that_found_too_little_memory_is_fitted_anew_once(
    service: Service, chances: SecondChances
) -> None:
    assert chances.take("a", "b1", SHORT)
    assert not chances.take("a", "b1", SHORT), "or it would be loaded for ever"
    assert service.forgotten == ["a"]
    assert service.asked == ["a b1 not_enough_memory"]
    assert chances.take("b", "b1", SHORT), "another model has its own chance"


def test_an_answer_gives_the_chance_back(service: Service, chances: SecondChances) -> None:
    chances.take("a", "b1", SHORT)
    chances.answered("a")
    assert service.heard == ["a"]
    assert chances.take("a", "b1", SHORT)


def test_where_nothing_was_fitted_another_runtime_is_asked_for(
    service: Service, chances: SecondChances
) -> None:
    service.fitted = False
    assert not chances.take("a", "b1", SHORT)
    assert service.asked == ["a b1 not_enough_memory"]


def test_another_fault_is_no_reason_to_fit_anew(service: Service, chances: SecondChances) -> None:
    assert not chances.take("a", "b1", CRASH)
    assert service.forgotten == []


@pytest.mark.parametrize(
    "broken", [sqlite3.OperationalError("disk is full"), ModelNotFound("gone", "Look.")]
)
def test_a_full_disk_or_a_model_that_is_gone_is_no_chance(
    service: Service, chances: SecondChances, broken: EngineError | sqlite3.Error
) -> None:
    service.broken = broken
    assert not chances.take("a", "b1", SHORT)
