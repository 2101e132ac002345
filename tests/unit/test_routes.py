"""What a name in a request means."""

from __future__ import annotations

import time

import pytest

from tests.unit.engine_kit import model
from tray_app.engine.errors import ModelNotFound, ModelUnavailable, NoActiveModel
from tray_app.engine.routes import find, model_rows, resolve
from tray_app.engine.values import ModelState, ModelStatus

FIRST = model("org/First-1B:Q4_K_M")
LARGE = model("org/First-1B:Q8_0")
OTHER = model("them/Other:Q2_K", available=False)
MODELS = (FIRST, LARGE, OTHER)
ALIASES = {"gpt-4o": "default", "big": "org/First-1B:Q8_0", "gone": "no/model:Q4"}


def meant(name: str | None, active: str | None = FIRST.id) -> str:
    return resolve(name, MODELS, ALIASES, active).id


@pytest.mark.parametrize("name", [None, "", "  ", "default", "gpt-4o", FIRST.id, FIRST.id.lower()])
def test_names_of_the_active_model(name: str | None) -> None:
    assert meant(name) == FIRST.id


def test_an_alias_of_a_model_and_a_unique_short_name() -> None:
    assert meant("big") == LARGE.id
    assert find("other", MODELS, {}, None).id == OTHER.id
    assert find("them/other", MODELS, {}, None).id == OTHER.id
    assert find("Other.gguf", MODELS, {}, None).id == OTHER.id


@pytest.mark.parametrize("name", ["default:latest", "gpt-4o:latest", f"{FIRST.id}:latest"])
def test_a_tag_that_ollamas_clients_add_is_dropped(name: str) -> None:
    assert meant(name) == FIRST.id


def test_a_tag_that_a_model_has_is_its_own() -> None:
    tagged = model("library/llama3:latest")
    assert find("library/llama3:latest", (tagged, FIRST), {}, None) is tagged
    assert find("x:latest", (tagged, FIRST), {"x:latest": FIRST.id}, None) is FIRST


def test_a_short_name_that_fits_two_models_means_neither() -> None:
    with pytest.raises(ModelNotFound) as caught:
        meant("First-1B")
    assert "Did you mean" in caught.value.remedy


def test_a_model_called_default_is_that_model() -> None:
    odd = model("default")
    assert resolve("default", (odd, FIRST), {}, FIRST.id).id == "default"


def test_nothing_chosen_nothing_there_and_a_missing_drive_are_told_apart() -> None:
    with pytest.raises(NoActiveModel):
        meant(None, active=None)
    with pytest.raises(ModelNotFound, match="“no/model:Q4”"):
        meant("gone")
    with pytest.raises(ModelUnavailable, match="Other"):
        meant(OTHER.id)
    with pytest.raises(ModelNotFound):
        meant("default", active="removed/model:Q4")


def test_an_endless_unknown_name_is_refused_fast() -> None:
    many = tuple(model(f"org/some-model-{number}-chat:Q4_K_M") for number in range(2000))
    began = time.perf_counter()
    with pytest.raises(ModelNotFound) as caught:
        resolve("some-model-chat:Q9" * 50_000, many, {}, None)
    assert len(caught.value.message) < 300
    with pytest.raises(ModelNotFound):
        resolve("org/some-modell-17-chat:Q4_K_N", many, {}, None)
    assert time.perf_counter() - began < 0.5


def test_rows_list_default_aliases_and_every_usable_model() -> None:
    statuses = {
        FIRST.id: ModelStatus(FIRST.id, ModelState.READY),
        LARGE.id: ModelStatus(LARGE.id, ModelState.WAITING),
    }
    rows = {row["id"]: row for row in model_rows(MODELS, statuses, ALIASES, FIRST.id)}
    assert list(rows) == ["default", "gpt-4o", "big", FIRST.id, LARGE.id]
    assert rows["default"]["stands_for"] == rows["gpt-4o"]["stands_for"] == FIRST.id
    assert rows["default"]["status"]["value"] == "loaded"
    assert rows["big"]["status"]["value"] == "loading"
    assert "stands_for" not in rows[FIRST.id]
    assert rows[FIRST.id]["object"] == "model"


def test_without_an_active_model_there_is_no_default_row() -> None:
    assert [row["id"] for row in model_rows((FIRST,), {}, {"x": "default"}, None)] == [FIRST.id]
