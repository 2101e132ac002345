"""The tray menu for every kind of state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tray_kit import failure, job, model, snapshot, status
from tray_app.engine.app_update.values import AppRelease, AppUpdateState, AppUpdateStatus
from tray_app.engine.values import (
    BACKENDS,
    JobState,
    ModelKind,
    ModelState,
    Notice,
    Proof,
    Runtime,
    RuntimeState,
    RuntimeStatus,
    Update,
)
from tray_app.links import PAGES
from tray_app.menu import (
    LINE_LENGTH,
    MENU_MODELS,
    SUBMENU_MODELS,
    TOP_LEVEL_MODELS,
    Item,
    Kind,
    build_menu,
    build_offline_menu,
    clean,
    escape_label,
    same_shape,
)
from tray_app.menu_runtime import BACKEND_NAMES, MENU_RUNTIMES


def menu(*args: Any, autostart: bool | None = False, **changes: Any) -> tuple[Item, ...]:
    return build_menu(snapshot(*args, **changes), autostart=autostart)


def every(items: Sequence[Item]) -> Iterator[Item]:
    for item in items:
        yield item
        yield from every(item.children)


def find(items: Sequence[Item], start: str) -> Item:
    found = [item for item in every(items) if item.label.startswith(start)]
    assert found, f"no {start!r} in {[item.label for item in every(items)]}"
    return found[0]


def radios(items: Sequence[Item]) -> list[str]:
    return [item.label for item in items if item.kind is Kind.RADIO]


def test_the_first_line_says_the_state_and_cannot_be_clicked() -> None:
    first = menu(status_text="SmolLM2 is ready")[0]
    assert (first.label, first.kind, first.enabled) == ("SmolLM2 is ready", Kind.HEADING, False)


def test_the_active_model_is_ticked_and_a_click_switches() -> None:
    items = menu(model("Alpha"), model("Beta"), active="Beta")
    assert [(i.label, i.checked) for i in items if i.kind is Kind.RADIO] == [
        ("Alpha", False),
        ("Beta", True),
    ]
    alpha = find(items, "Alpha")
    assert (alpha.action, alpha.args) == ("switch_model", (("model_id", "herd/Alpha"),))


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (ModelState.READY, "loaded"),
        (ModelState.LOADING, "loading…"),
        (ModelState.WAITING, "waiting"),
        (ModelState.STOPPING, "unloading…"),
        (ModelState.BACKOFF, "retrying"),
        (ModelState.FAILED, "failed"),
    ],
)
def test_a_model_in_use_says_what_it_does(state: ModelState, word: str) -> None:
    assert radios(menu(model("Alpha"), statuses=(status("Alpha", state),))) == [f"Alpha — {word}"]


def test_every_state_of_a_model_has_a_menu() -> None:
    for state in ModelState:
        menu(model("Alpha"), active="Alpha", statuses=(status("Alpha", state),))


def test_recent_models_come_first_and_the_rest_by_name() -> None:
    names = ("delta", "Alpha", "charlie", "Bravo")
    items = menu(*map(model, names), recent_model_ids=("herd/delta", "herd/Bravo", "herd/gone"))
    assert radios(items) == ["delta", "Bravo", "Alpha", "charlie"]


def test_a_long_library_keeps_what_is_in_use_at_the_top_level() -> None:
    models = [model(f"M{number:02}") for number in range(30)]
    items = menu(*models, active="M29", statuses=(status("M28", ModelState.READY),))
    top = radios(items)
    assert len(top) == TOP_LEVEL_MODELS
    assert {"M29", "M28 — loaded"} <= set(top)
    assert len(radios(find(items, "More models").children)) == 30 - TOP_LEVEL_MODELS


def test_no_submenu_of_a_huge_library_is_longer_than_a_screen() -> None:
    items = menu(*[model(f"M{number:04}") for number in range(5000)])
    more = find(items, "More models")
    submenus = [item for item in every([more]) if item.kind is Kind.SUBMENU]
    assert all(len(item.children) <= SUBMENU_MODELS for item in submenus)
    assert sum(item.kind is Kind.RADIO for item in every(items)) == MENU_MODELS
    assert more.children[-1].label == f"{5000 - MENU_MODELS} more in the window…"
    assert more.children[0].label == "M0008 to M0046"


def test_models_of_one_name_are_told_apart_by_quantization() -> None:
    items = menu(
        model("Alpha", id="1", quantization="Q4_K_M"), model("alpha", id="2", quantization="Q8_0")
    )
    assert radios(items) == ["Alpha (Q4_K_M)", "alpha (Q8_0)"]


def test_models_of_one_name_and_quantization_are_told_apart_by_publisher() -> None:
    items = menu(model("Alpha", id="1", publisher="a"), model("Alpha", id="2", publisher="b"))
    assert radios(items) == ["Alpha (a)", "Alpha (b)"]


def test_models_that_differ_in_nothing_readable_still_get_two_labels() -> None:
    assert len(set(radios(menu(model("A", id="x/1"), model("A", id="x/2"))))) == 2


def test_a_model_on_a_missing_drive_is_greyed() -> None:
    gone = find(menu(model("Alpha", available=False)), "Alpha")
    assert (gone.label, gone.enabled) == ("Alpha — drive missing", False)


def test_an_embedding_model_says_that_it_is_one() -> None:
    assert radios(menu(model("E5", kind=ModelKind.EMBEDDING))) == ["E5 · embedding"]


def test_an_empty_library_invites_to_add_a_model() -> None:
    add = find(menu(), "Add your first model")
    assert (add.action, add.args) == ("open_window", (("page", "discover"),))


def test_an_empty_library_that_is_being_read_says_so() -> None:
    assert not find(menu(scanning=True), "Looking for models").enabled


def test_one_loaded_model_is_unloaded_by_name() -> None:
    items = menu(model("SmolLM2"), statuses=(status("SmolLM2", ModelState.READY),))
    unload = find(items, "Unload")
    assert unload.label == "Unload SmolLM2"
    assert (unload.action, unload.args) == ("unload_model", (("model_id", "herd/SmolLM2"),))


def test_several_loaded_models_get_a_submenu() -> None:
    ready = tuple(status(name, ModelState.READY) for name in "AB")
    unload = find(menu(model("A"), model("B"), statuses=ready), "Unload")
    assert [item.label for item in unload.children] == ["A", "B", "", "All idle models"]
    assert unload.children[-1].args == (("model_id", None),)


def test_a_loaded_model_whose_file_is_gone_can_be_unloaded() -> None:
    assert find(menu(statuses=(status("X", ModelState.READY),)), "Unload").label == "Unload herd/X"


def test_nothing_loaded_offers_no_unload() -> None:
    items = menu(model("A"), statuses=(status("A", ModelState.FAILED),))
    assert not [item for item in every(items) if item.action == "unload_model"]


def test_a_polite_switch_that_waits_says_what_switching_now_cuts() -> None:
    waiting = (status("B", ModelState.WAITING), status("A", ModelState.READY, in_flight=2))
    now = find(menu(model("A"), model("B"), active="B", statuses=waiting), "Switch now")
    assert now.label == "Switch now (cuts 2 requests)"
    assert now.args == (("model_id", "herd/B"), ("now", True))


@pytest.mark.parametrize("state", [s for s in ModelState if s is not ModelState.WAITING])
def test_switch_now_is_not_offered_when_no_switch_waits(state: ModelState) -> None:
    statuses = (status("B", state), status("A", ModelState.READY, in_flight=2))
    items = menu(model("A"), model("B"), active="B", statuses=statuses)
    assert not [item for item in items if item.label.startswith("Switch now")]


def test_a_running_build_shows_its_percentage() -> None:
    items = menu(jobs=(job(JobState.RUNNING, done=42), job(JobState.DONE, done=100)))
    assert [i.label for i in items if "llama.cpp" in i.label] == ["Building llama.cpp — 42 %"]


def test_a_job_without_a_total_shows_its_step() -> None:
    items = menu(jobs=(job(JobState.RUNNING, total=None, step="Unpacking"),))
    assert find(items, "Building").label == "Building llama.cpp — Unpacking"


def test_the_worst_notices_come_first_and_are_few() -> None:
    notices = tuple(Notice("x", level, level) for level in ("info", "warning", "error", "info"))
    assert [item.label for item in menu(notices=notices)[1:4]] == ["⚠ error", "⚠ warning", "info"]
    assert menu(notices=notices)[4].kind is Kind.SEPARATOR


@pytest.mark.parametrize(
    ("code", "page"),
    [
        ("runtime_update", "runtimes"),
        ("runtime_rolled_back", "runtimes"),
        ("runtime_missing", "runtimes"),
        ("cpu_fallback", "runtimes"),
        ("gpu_unused", "runtimes"),
        ("model_failed", "models"),
        ("switch_failed", "models"),
        ("port_taken", "server"),
    ],
)
def test_a_notice_opens_the_page_that_can_do_something_about_it(code: str, page: str) -> None:
    item = menu(notices=(Notice(code, "error", "Something."),))[1]
    assert (item.action, item.args) == ("open_window", (("page", page),))


def test_a_download_of_llama_cpp_that_failed_opens_the_page_of_runtimes() -> None:
    error = failure("The disk is full.")
    items = menu(
        runtime=RuntimeStatus(RuntimeState.FAILED, error=error),
        notices=(Notice("not_enough_disk", "error", "The disk is full."),),
    )
    assert items[1].args == (("page", "runtimes"),)


def test_a_notice_that_is_the_status_line_is_not_said_twice() -> None:
    items = menu(notices=(Notice("x", "error", "Port taken"),), status_text="Port taken")
    assert [item.label for item in items].count("⚠ Port taken") == 0


def test_open_window_is_the_only_default() -> None:
    assert [item.label for item in every(menu()) if item.default] == ["Open window"]


def test_the_address_to_copy_is_the_gateways() -> None:
    assert find(menu(), "Copy").args == (("text", "http://127.0.0.1:7070/v1"),)


@pytest.mark.parametrize("on", [True, False])
def test_start_at_login_shows_the_state_and_asks_for_the_other(on: bool) -> None:
    item = find(menu(autostart=on), "Start at login")
    assert (item.kind, item.checked, item.args) == (Kind.CHECK, on, (("enabled", not on),))


def test_start_at_login_is_left_out_where_it_is_not_known() -> None:
    assert not [item for item in menu(autostart=None) if item.label.startswith("Start at")]


def test_a_hostile_name_becomes_one_short_harmless_line() -> None:
    name = "a\x00\x1b[31m\nb\u202e\ud800" + "x" * 1_000_000 + "tail.gguf"
    (label,) = radios(menu(model(name, id="1")))
    assert len(label) <= LINE_LENGTH
    assert label.startswith("a[31m b")
    assert label.isprintable()


def test_a_name_of_nothing_but_control_characters_gets_a_label() -> None:
    assert radios(menu(model("\x00\x01", id="1"))) == ["(no name)"]


def test_too_long_a_line_loses_its_middle() -> None:
    assert clean("Model-With-A-Long-Name-Q4_K_M", 20) == "Model-With-A-…Q4_K_M"


def test_a_mnemonic_mark_shows_as_itself() -> None:
    assert escape_label("R&D_model", "&") == "R&&D_model"
    assert escape_label("R&D_model", "") == "R&D_model"


def test_other_words_keep_the_shape_and_another_tick_does_not() -> None:
    plain = menu(model("A"), model("B"), active="A")
    loading = menu(model("A"), model("B"), active="A", statuses=(status("A", ModelState.FAILED),))
    other = menu(model("A"), model("B"), active="B")
    assert same_shape(plain, loading)
    assert not same_shape(plain, other)


def test_without_an_engine_the_menu_says_so_and_offers_a_restart() -> None:
    items = build_offline_menu("It ended.", autostart=True, can_restart=True)
    assert items[0].label == "It ended."
    assert find(items, "Restart the engine").action == "restart_engine"
    assert find(items, "Quit").action == "quit"


def test_while_the_engine_starts_no_restart_is_offered() -> None:
    items = build_offline_menu("Starting…", autostart=None, can_restart=False)
    assert "restart_engine" not in [item.action for item in items]


def build(runtime_id: str, **changes: Any) -> Runtime:
    """The runtime of an id such as "b11434-cpu"."""
    number, backend = runtime_id.split("-")[:2]
    base = Runtime(runtime_id, int(number[1:]), backend, Path("/r/llama-server"), "built", "")
    return replace(base, **changes)


def with_runtimes(*ids: str, active: str = "", **changes: Any) -> tuple[Item, ...]:
    """The menu with these runtimes installed, the first of them active if none is named."""
    installed = tuple(build(each) for each in ids)
    chosen = next(each for each in installed if each.id == (active or ids[0]))
    status = RuntimeStatus(RuntimeState.READY, chosen, installed=installed, **changes)
    return menu(runtime=status)


def runtime_menu(items: Sequence[Item]) -> Item:
    return next(item for item in items if item.label.startswith("llama.cpp "))


def test_the_active_runtime_is_told_at_the_top_level() -> None:
    assert runtime_menu(with_runtimes("b11434-cuda")).label == "llama.cpp b11434 · CUDA"
    assert runtime_menu(with_runtimes("b11434-cpu")).label == "llama.cpp b11434 · Processor"
    on_trial = runtime_menu(with_runtimes("b11500-vulkan", on_trial=True))
    assert on_trial.label == "llama.cpp b11500 · Vulkan — on trial"


def test_a_runtime_of_unknown_build_is_called_by_its_id() -> None:
    status = RuntimeStatus(RuntimeState.READY, build("b1-metal", build=None, id="found-4f2a"))
    assert runtime_menu(menu(runtime=status)).label == "llama.cpp found-4f2a · Metal"


def test_every_backend_has_a_name() -> None:
    assert tuple(BACKEND_NAMES) == BACKENDS


def test_one_runtime_is_nothing_to_choose_from() -> None:
    assert [i.label for i in runtime_menu(with_runtimes("b1-cpu")).children] == ["Manage runtimes…"]


def test_the_installed_runtimes_can_be_chosen_and_the_active_one_is_ticked() -> None:
    children = runtime_menu(with_runtimes("b3-cuda", "b2-cpu", active="b2-cpu")).children
    assert [(i.label, i.checked) for i in children if i.kind is Kind.RADIO] == [
        ("b3 · CUDA", False),
        ("b2 · Processor", True),
    ]
    assert (children[0].action, children[0].args) == ("use_runtime", (("name", "b3-cuda"),))


def test_runtimes_of_one_build_and_backend_are_told_apart_by_id() -> None:
    children = runtime_menu(with_runtimes("b3-cpu", "b3-cpu-portable", "b2-cpu")).children
    assert radios(children) == [
        "b3 · Processor (b3-cpu)",
        "b3 · Processor (b3-cpu-portable)",
        "b2 · Processor",
    ]


def test_a_runtime_that_failed_its_proof_says_so() -> None:
    bad = build("b3-cuda", proof=Proof(False, 1.0, error=failure()))
    good = build("b2-cpu", proof=Proof(True, 1.0))
    status = RuntimeStatus(RuntimeState.READY, good, installed=(bad, good))
    children = runtime_menu(menu(runtime=status)).children
    assert radios(children) == ["b3 · CUDA — failed its test", "b2 · Processor"]


def test_many_runtimes_fit_a_screen_and_the_active_one_is_among_them() -> None:
    ids = [f"b{number}-cpu" for number in range(40, 0, -1)]
    shown = radios(runtime_menu(with_runtimes(*ids, active="b1-cpu")).children)
    assert len(shown) == MENU_RUNTIMES
    assert shown[0] == "b40 · Processor"
    assert shown[-1] == "b1 · Processor"


def test_an_active_runtime_that_is_not_in_the_list_is_shown_and_costs_no_other_its_place() -> None:
    status = RuntimeStatus(RuntimeState.READY, build("b9-cpu"), installed=(build("b8-cpu"),))
    shown = radios(runtime_menu(menu(runtime=status)).children)
    assert shown == ["b9 · Processor", "b8 · Processor"]


def test_the_previous_runtime_is_one_click_away() -> None:
    items = with_runtimes("b3-cuda", "b2-cpu", previous_id="b2-cpu")
    back = find(items, "Back to")
    assert (back.label, back.action, back.args) == (
        "Back to b2 · Processor",
        "roll_back_runtime",
        (),
    )
    gone = with_runtimes("b3-cuda", "b2-cpu", previous_id="b1-cpu")
    assert not [item for item in every(gone) if item.label.startswith("Back to")]


@pytest.mark.parametrize("told", [True, False])
def test_an_update_is_offered_when_it_is_to_be_told(told: bool) -> None:
    update = Update(11500, "b11500", "cpu", None, "notes", "https://x", told=told)
    items = with_runtimes("b3-cpu", update=update)
    offers = [item for item in every(items) if item.label == "Update to b11500…"]
    assert [item.args for item in offers] == ([(("page", "runtimes"),)] if told else [])


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        (RuntimeState.MISSING, True),
        (RuntimeState.FAILED, True),
        (RuntimeState.SEARCHING, False),
        (RuntimeState.BUILDING, False),
    ],
)
def test_without_llama_cpp_the_page_that_gets_it_is_offered(
    state: RuntimeState, offered: bool
) -> None:
    items = menu(runtime=RuntimeStatus(state))
    got = [item.args for item in items if item.label == "Get llama.cpp…"]
    assert got == ([(("page", "runtimes"),)] if offered else [])


def test_every_page_that_the_menu_opens_is_one_of_the_window() -> None:
    notices = tuple(Notice(code, "error", code) for code in ("runtime_x", "model_x", "port_x"))
    items = with_runtimes("b3-cuda", "b2-cpu", previous_id="b2-cpu")
    for item in (*every(items), *every(menu(notices=notices))):
        if item.action == "open_window":
            assert dict(item.args)["page"] in PAGES


def test_a_hostile_runtime_id_becomes_one_short_harmless_line() -> None:
    name = "a\x1b[31m\nb\u202e" + "x" * 100_000
    bad = [build("b1-cpu", id=name + end, build=None, backend=name) for end in "12"]
    status = RuntimeStatus(RuntimeState.READY, bad[0], installed=tuple(bad), previous_id=name + "2")
    for item in every(menu(runtime=status)):
        assert item.label.isprintable()
        assert len(item.label) <= 4 * LINE_LENGTH


@pytest.mark.parametrize(
    ("size_bytes", "how", "offered"),
    [(38_000_000, "", True), (None, "", False), (38_000_000, "Update it with: apt", False)],
)
def test_a_newer_version_of_the_app_is_offered_where_the_app_can_bring_it(
    size_bytes: int | None, how: str, offered: bool
) -> None:
    release = AppRelease("0.2.0", 1.8e9, "https://example.org", size_bytes)
    status = AppUpdateStatus(AppUpdateState.AVAILABLE, how=how, release=release)
    items = menu(app_update=status)
    rows = [item for item in items if item.label == "Update to 0.2.0…"]
    assert [dict(item.args) for item in rows] == ([{"page": "settings"}] if offered else [])
