"""The state word, the sentence and the notices read well in every combination that matters."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.engine_kit import model
from tray_app.engine.errors import ErrorView
from tray_app.engine.summary import count, label, notices, server_state, status_text
from tray_app.engine.values import (
    GatewayState,
    GatewayStatus,
    ModelState,
    ModelStatus,
    Notice,
    RolledBack,
    Runtime,
    RuntimeState,
    RuntimeStatus,
    ServerState,
    Update,
)

ONE = model("org/Tiny:Q4")
TWO = model("org/Huge:Q8")
OPEN = GatewayStatus(GatewayState.LISTENING)
TAKEN = ErrorView("port_taken", "Port 7070 is in use by nginx (pid 7).", "Stop it.")
BLOCKED = GatewayStatus(GatewayState.BLOCKED, error=TAKEN)
BUILD = Runtime("b1-cpu", 1, "cpu", Path("/opt/llama-server"), "built", "b1")
RUNTIME = RuntimeStatus(RuntimeState.READY, BUILD)
BROKEN = ErrorView("runtime_missing", "No usable llama.cpp was found.", "Install one.")
BACK = RolledBack("b2-cpu", "org/Tiny:Q4", BROKEN, "b1-cpu", 5.0)
NEWER = Update(3, "b3", "cpu", None, "", "https://example.org", told=True)
DAMAGED = ErrorView("bad_gguf", "The model file is damaged or incomplete.", "Download it again.")


def status(state: ModelState, in_flight: int = 0, model_id: str = ONE.id) -> ModelStatus:
    error = DAMAGED if state is ModelState.FAILED else None
    return ModelStatus(model_id, state, in_flight, error=error)


def said(*statuses: ModelStatus) -> str:
    by_id = {each.model_id: each for each in statuses}
    return status_text(ONE, (ONE, TWO), by_id, OPEN, RUNTIME)


def word(*statuses: ModelStatus) -> ServerState:
    by_id = {each.model_id: each for each in statuses}
    return server_state(ONE.id, by_id, OPEN, RUNTIME)


def test_every_state_of_the_active_model_has_its_sentence() -> None:
    busy = status(ModelState.READY, 2, TWO.id)
    assert said() == "Tiny loads on the first request"
    assert said(status(ModelState.LOADING)) == "Loading Tiny…"
    assert said(status(ModelState.READY)) == "Tiny is ready"
    assert said(status(ModelState.READY, 1)) == "Tiny: answering 1 request"
    assert said(status(ModelState.READY, 3)) == "Tiny: answering 3 requests"
    assert said(status(ModelState.READY, 1), busy) == "Models: answering 3 requests"
    assert said(busy) == "Models: answering 2 requests"
    waiting = status(ModelState.WAITING)
    assert said(waiting, busy) == "Switching to Tiny when idle (2 requests)"
    assert said(waiting) == "Making room for Tiny…"
    assert said(status(ModelState.BACKOFF)) == "Tiny ended; starting it again…"
    assert said(status(ModelState.STOPPING)) == "Unloading Tiny…"
    failed = said(status(ModelState.FAILED))
    assert failed == "Tiny failed: The model file is damaged or incomplete."


@pytest.mark.parametrize(
    ("in_flight", "speed", "text"),
    [
        (2, 41.4, "Tiny: answering 2 requests, lately 41 tokens/s"),
        (1, 3.24, "Tiny: answering 1 request, lately 3.2 tokens/s"),
        (1, None, "Tiny: answering 1 request"),
        (0, 41.4, "Tiny is ready"),
    ],
)
def test_while_it_answers_the_last_speed_is_said(
    in_flight: int, speed: float | None, text: str
) -> None:
    statuses = {ONE.id: status(ModelState.READY, in_flight)}
    assert status_text(ONE, (ONE, TWO), statuses, OPEN, RUNTIME, speed) == text
    if in_flight:  # of several models, whose speed would it be
        both = {**statuses, TWO.id: status(ModelState.READY, 1, TWO.id)}
        assert "tokens/s" not in status_text(ONE, (ONE, TWO), both, OPEN, RUNTIME, speed)


def test_what_is_missing_is_said_before_any_model() -> None:
    def text(gateway: GatewayStatus = OPEN, runtime: RuntimeState = RuntimeState.READY) -> str:
        status = RUNTIME if runtime is RuntimeState.READY else RuntimeStatus(runtime)
        return status_text(ONE, (ONE,), {}, gateway, status)

    assert text(BLOCKED) == "Port 7070 is in use by nginx (pid 7)."
    assert text(runtime=RuntimeState.SEARCHING) == "Looking for llama.cpp…"
    assert text(runtime=RuntimeState.MISSING) == "llama.cpp is not installed yet"
    assert text(runtime=RuntimeState.BUILDING) == "Installing llama.cpp for this machine…"
    assert text(runtime=RuntimeState.FAILED) == "llama.cpp could not be installed"
    searching = replace(RUNTIME, state=RuntimeState.SEARCHING)
    assert status_text(ONE, (ONE,), {}, OPEN, searching) == "Tiny loads on the first request"
    assert status_text(None, (), {}, OPEN, RUNTIME) == "No models yet"
    assert status_text(None, (ONE,), {}, OPEN, RUNTIME) == "No model chosen"


def test_two_models_of_one_name_are_told_apart() -> None:
    twin = model("org/Tiny:Q8")
    assert label(ONE, (ONE, TWO)) == "Tiny"
    assert label(ONE, (ONE, twin)) == "Tiny Q4"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((), ServerState.STOPPED),
        ((status(ModelState.READY),), ServerState.READY),
        ((status(ModelState.READY, 1),), ServerState.BUSY),
        ((status(ModelState.LOADING),), ServerState.STARTING),
        ((status(ModelState.WAITING),), ServerState.STARTING),
        ((status(ModelState.BACKOFF),), ServerState.STARTING),
        ((status(ModelState.FAILED),), ServerState.ERROR),
        ((status(ModelState.FAILED, model_id=TWO.id),), ServerState.STOPPED),
        ((status(ModelState.FAILED), status(ModelState.READY, 1, TWO.id)), ServerState.BUSY),
        ((status(ModelState.STOPPING),), ServerState.STOPPED),
    ],
)
def test_the_word_for_the_icon(statuses: tuple[ModelStatus, ...], expected: ServerState) -> None:
    assert word(*statuses) is expected


def test_a_blocked_port_and_a_failed_build_are_errors() -> None:
    ready = {ONE.id: status(ModelState.READY, 1)}
    assert server_state(ONE.id, ready, BLOCKED, RUNTIME) is ServerState.ERROR
    failed = RuntimeStatus(RuntimeState.FAILED)
    assert server_state(ONE.id, ready, OPEN, failed) is ServerState.ERROR
    building = RuntimeStatus(RuntimeState.BUILDING)
    assert server_state(ONE.id, {}, OPEN, building) is ServerState.STARTING


def test_no_combination_reads_badly() -> None:
    failure = (TWO.id, DAMAGED)
    standing = [Notice("settings_broken", "warning", "It was set aside.", "It is kept.")]
    for gateway, state, kind, flight in itertools.product(
        (OPEN, BLOCKED, GatewayStatus()), RuntimeState, ModelState, (0, 1, 5)
    ):
        runtime = RuntimeStatus(state, error=BROKEN if state is RuntimeState.FAILED else None)
        if state is RuntimeState.READY:
            runtime = replace(RUNTIME, rolled_back=BACK, update=NEWER)
        current = status(kind, flight)
        text = status_text(ONE, (ONE, TWO), {ONE.id: current}, gateway, runtime)
        found = notices(gateway, runtime, failure, current, standing)
        lines = [text, *(notice.message for notice in found), *(n.remedy for n in found)]
        for line in lines:
            assert not re.search(r"\.\.|\.,|  |None| 1 requests|\(0 |:$", line), line
        codes = [notice.code for notice in found]
        assert len(codes) == len(set(codes))
        for notice in found:
            assert notice.message.endswith(".")
            assert notice.remedy.endswith(".")


def test_a_failed_switch_and_a_failed_model_are_told_once() -> None:
    failed = status(ModelState.FAILED)
    (only,) = notices(OPEN, RUNTIME, None, failed, [])
    assert (only.code, only.level) == ("model_failed", "error")
    assert only.message == f"{ONE.id} failed: The model file is damaged or incomplete."
    (switch,) = notices(OPEN, RUNTIME, (TWO.id, DAMAGED), failed, [])
    assert switch.code == "switch_failed"
    assert notices(OPEN, RUNTIME, None, None, []) == ()


def test_plurals() -> None:
    assert [count(number, "request") for number in (0, 1, 2)] == [
        "0 requests",
        "1 request",
        "2 requests",
    ]


def test_runtimes_speak_up_only_when_there_is_something_to_say() -> None:
    def codes(runtime: RuntimeStatus) -> list[str]:
        return [notice.code for notice in notices(OPEN, runtime, None, None, [])]

    assert codes(RUNTIME) == []
    assert codes(RuntimeStatus(RuntimeState.MISSING)) == ["runtime_missing"]
    assert codes(RuntimeStatus(RuntimeState.SEARCHING)) == []
    assert codes(replace(RUNTIME, rolled_back=BACK)) == ["runtime_rolled_back"]
    assert codes(replace(RUNTIME, update=NEWER)) == ["runtime_update"]
    assert codes(replace(RUNTIME, update=replace(NEWER, told=False))) == []
    chosen_is_gone = notices(OPEN, replace(RUNTIME, error=BROKEN), None, None, [])
    assert [notice.level for notice in chosen_is_gone] == ["warning"]
