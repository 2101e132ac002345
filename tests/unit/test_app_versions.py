"""Which version is started: the pointer file, the base program, and what takes a version back."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from tray_app import app_versions as module
from tray_app.app_versions import (
    MAX_STARTS,
    RUNS,
    Choice,
    OwnCopy,
    environment_for_another,
    go_on,
    is_newer,
    next_program,
    read_choice,
    version_key,
    write_choice,
)
from tray_app.self_command import base_program, lasting_command

OLD, NEW, NEWEST = "0.1.0", "0.2.0", "0.10.0"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    program = tmp_path / "app" / "llama-wrangler"
    program.parent.mkdir()
    program.touch()
    return program


def add(base: Path, version: str) -> Path:
    program = base.parent / "versions" / version / base.name
    program.parent.mkdir(parents=True)
    program.touch()
    return program


def choose(base: Path, choice: Choice) -> None:
    pointer = OwnCopy(base).pointer
    pointer.parent.mkdir(exist_ok=True)
    write_choice(pointer, choice)


def test_versions_are_compared_by_their_numbers() -> None:
    assert is_newer(NEWEST, NEW)
    assert not is_newer("1.0", "1.0.0")
    assert not is_newer(NEW, "0.0.test")
    assert version_key("1.2.3.4") == (1, 2, 3, 4)
    for text in (
        "",
        "1",
        "1.2.3.4.5",
        "1.2-rc1",
        "../1.2",
        "1.2\n",
        "v1.2",
        "1.123456",
        "\u0661.\u0662",
    ):
        assert version_key(text) is None


def test_a_copy_that_was_never_updated_runs_itself(base: Path) -> None:
    assert next_program(base, OLD, []) is None


def test_the_chosen_version_is_run_and_the_base_named(base: Path) -> None:
    program = add(base, NEW)
    choose(base, Choice(NEW, OLD))
    assert next_program(base, OLD, ["status"]) == program
    assert base_program(program) == base
    assert base_program(base) == base
    assert lasting_command(True, str(program), {}) == [str(base)]


def test_a_newer_base_wins(base: Path) -> None:
    add(base, NEW)
    choose(base, Choice(NEW, OLD))
    assert next_program(base, NEWEST, []) is None
    assert next_program(base, NEW, []) is None


def test_a_version_on_trial_that_never_comes_up_is_taken_back(base: Path) -> None:
    program = add(base, NEW)
    choose(base, Choice().switched(NEW, OLD, 5.0))
    for _ in range(MAX_STARTS):
        assert next_program(base, OLD, ["tray", "--hidden"]) == program
        assert next_program(base, OLD, ["status"]) == program, "a question is no start"
    assert next_program(base, OLD, ["tray", "--hidden"]) is None
    choice = read_choice(OwnCopy(base).pointer)
    assert (choice.current, choice.failed, choice.confirmed) == (OLD, NEW, True)
    assert "3 times" in choice.reason


def test_it_goes_back_to_the_version_before_not_to_the_first(base: Path) -> None:
    before = add(base, NEW)
    choose(base, Choice().switched(NEWEST, NEW, 5.0))
    assert next_program(base, OLD, []) == before, "the files of the newest are gone"
    assert read_choice(OwnCopy(base).pointer).failed == NEWEST


def test_a_confirmed_version_is_started_as_often_as_one_likes(base: Path) -> None:
    program = add(base, NEW)
    choose(base, Choice(NEW, OLD))
    for _ in range(3 * MAX_STARTS):
        assert next_program(base, OLD, []) == program


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"current": "../../evil"}',
        b'{"current": 7}',
        b'{"current": "0.2.0", "starts": "many"}',
        b'{"current": "0.2.0", "confirmed": 1}',
        b'{"current": "' + b"1" * 100_000,
        b"[" * 5000,
    ],
)
def test_a_broken_pointer_means_the_base(base: Path, content: bytes) -> None:
    pointer = OwnCopy(base).pointer
    pointer.parent.mkdir()
    pointer.write_bytes(content)
    assert read_choice(pointer) == Choice()
    assert next_program(base, OLD, []) is None


def test_what_a_later_version_has_added_is_passed_over(base: Path) -> None:
    pointer = OwnCopy(base).pointer
    pointer.parent.mkdir()
    row = {**dataclasses.asdict(Choice(NEW, OLD)), "mirrors": [1]}
    pointer.write_text(json.dumps(row))
    assert read_choice(pointer) == Choice(NEW, OLD)


def test_a_choice_that_cannot_be_kept_leaves_the_old_one(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(base, Choice(NEW, OLD))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        choose(base, Choice(NEWEST, NEW))
    pointer = OwnCopy(base).pointer
    assert read_choice(pointer) == Choice(NEW, OLD)
    assert [path.name for path in pointer.parent.iterdir()] == [pointer.name]


def test_an_appimage_is_put_back(tmp_path: Path) -> None:
    image = tmp_path / "App.AppImage"
    image.write_text("new")
    copy = OwnCopy(image, is_image=True)
    copy.previous_image.write_text("old")
    write_choice(copy.pointer, Choice().switched(NEW, OLD, 5.0))
    copy.take_back("It did not come up.")
    assert image.read_text() == "old"
    assert read_choice(copy.pointer) == Choice(OLD, failed=NEW, reason="It did not come up.")


@pytest.fixture
def started(base: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a frozen start of the base has become."""
    became: list[list[str]] = []
    monkeypatch.setattr(module, "is_frozen", lambda: True)
    monkeypatch.setattr(module, "own_program", lambda: base)
    monkeypatch.setattr(module, "become", became.append)
    monkeypatch.delenv(RUNS, raising=False)
    return became


def test_a_start_becomes_the_chosen_version_and_its_children_stay_with_it(
    base: Path, started: list[list[str]]
) -> None:
    program = add(base, NEW)
    choose(base, Choice(NEW, OLD))
    go_on(OLD, ["status", "--json"])
    assert started == [[str(program), "status", "--json"]]
    assert os.environ[RUNS] == OLD, "and what goes on here is the old one"
    go_on(OLD, ["status"])
    assert len(started) == 1, "a child of a running version does not choose anew"


@pytest.mark.usefixtures("started")
def test_a_version_that_cannot_be_run_is_taken_back(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise OSError(8, "Exec format error")

    monkeypatch.setattr(module, "become", fails)
    add(base, NEW)
    choose(base, Choice(NEW, OLD))
    go_on(OLD, [])
    choice = read_choice(OwnCopy(base).pointer)
    assert (choice.failed, choice.current) == (NEW, OLD)
    assert "Exec format error" in choice.reason


def test_another_start_inherits_no_word_of_this_one() -> None:
    made = environment_for_another({RUNS: OLD, "APPIMAGE": "/x", "PATH": "/bin"})
    assert made == {"PATH": "/bin", "PYINSTALLER_RESET_ENVIRONMENT": "1"}
