"""What is kept of conversations: bounded, named by what it depends on, removed when it is stale."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.engine_kit import model, on_loop
from tray_app.engine import conversations
from tray_app.engine.conversations import Conversation, Conversations, key_of, model_key
from tray_app.engine.launch import Endpoint

A, B = "a" * 40, "b" * 40
NOWHERE = Endpoint(socket_path=Path("/nowhere.sock"))


class Box:
    """A folder with a bound that a test may change."""

    def __init__(self, folder: Path) -> None:
        self.limit = 1000
        self.store = Conversations(folder / "conversations", lambda: self.limit)
        self.folder = self.store.prepare()

    def keep(self, key: str, slot: int, size: int, at: float) -> None:
        part = self.folder / f"{key}-{slot}.part"
        part.write_bytes(b"x" * size)
        os.utime(part, (at, at))
        self.store.replace(key, [(slot, part.name)])

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_the_oldest_leave_when_the_bound_is_passed(box: Box) -> None:
    box.keep(A, 0, 600, at=1.0)
    box.keep(B, 0, 600, at=2.0)
    assert box.names() == [f"{B}-0.kv"]
    assert box.store.held_bytes() == 600
    box.limit = 100
    box.store.tidy()
    assert box.names() == []


def test_what_was_kept_before_of_the_same_model_is_replaced(box: Box) -> None:
    box.keep(A, 0, 10, at=1.0)
    box.keep(A, 2, 10, at=2.0)
    assert box.names() == [f"{A}-2.kv"]
    other_arguments = A[: conversations.MODEL_LETTERS] + B[conversations.MODEL_LETTERS :]
    box.keep(other_arguments, 1, 10, at=3.0)
    assert box.names() == [f"{other_arguments}-1.kv"]
    assert box.store.kept(other_arguments) == [(1, f"{other_arguments}-1.kv")]
    assert box.store.kept(A) == []


def test_forgetting_touches_nothing_else(box: Box) -> None:
    box.keep(A, 0, 10, at=1.0)
    box.keep(B, 0, 20, at=1.0)
    (box.folder / "notes.kv").write_text("mine")
    assert box.store.forget(A) == 10
    assert box.store.forget() == 20
    assert box.names() == ["notes.kv"]


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    store = Conversations(tmp_path / "never", lambda: 1000)
    store.tidy()
    assert (store.kept(A), store.held_bytes(), store.forget()) == ([], 0, 0)
    assert not store.room_for(1)


def test_the_last_of_a_disk_is_never_taken(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    free = conversations.DISK_LEFT_BYTES + 500
    monkeypatch.setattr(conversations.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert box.store.room_for(500)
    assert not box.store.room_for(501)
    box.limit = 400
    assert not box.store.room_for(401)


def test_the_key_names_file_runtime_and_arguments(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"1")
    first = model(path=path)
    key = key_of(first, "b1-cpu", ["--ctx-size", "1"])
    assert len(key) == 40
    assert key.startswith(model_key(path))
    assert key == key_of(first, "b1-cpu", ["--ctx-size", "1"])
    others = {key_of(first, "b2-cpu", ["--ctx-size", "1"]), key_of(first, "b1-cpu", [])}
    path.write_bytes(b"22")
    others.add(key_of(first, "b1-cpu", ["--ctx-size", "1"]))
    assert len(others) == 3
    assert key not in others
    with pytest.raises(OSError, match="No such file"):
        key_of(model(path=tmp_path / "gone"), "b1-cpu", [])


class Slots:
    """A llama-server as `ask_child` sees it."""

    def __init__(self, box: Box, slots: bytes) -> None:
        self.box, self.slots = box, slots
        self.asked: list[str] = []
        self.refuses = False

    async def __call__(
        self, endpoint: Endpoint, path: str, *_: Any, body: bytes | None = None
    ) -> bytes | None:
        self.asked.append(path)
        if body is None:
            return self.slots
        if self.refuses:
            return None
        if "action=save" in path:
            name = body.decode().split('"')[3]
            (self.box.folder / name).write_bytes(b"kv")
        return b"{}"


@on_loop
async def test_only_slots_that_hold_enough_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path)
    box.limit = 10_000_000
    told = b'[{"id":0,"n_prompt_tokens":5},{"id":1,"n_prompt_tokens":300},{"id":2},7,{"id":"x"}]'
    child = Slots(box, told)
    monkeypatch.setattr(conversations, "ask_child", child)
    one = Conversation(box.store, A, bytes_per_token=1)
    await one.save(NOWHERE)
    assert box.names() == [f"{A}-1.kv"]
    await one.restore(NOWHERE)
    assert child.asked[-1] == "/slots/1?action=restore"
    assert box.names() == [f"{A}-1.kv"]
    child.refuses = True
    await one.restore(NOWHERE)
    assert box.names() == [], "what is not taken back is removed"


@on_loop
async def test_nonsense_about_slots_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path)
    for told in (b"", b"{", b"{}", b"null", b'[{"id":true,"n_prompt_tokens":9e9}]'):
        child = Slots(box, told)
        monkeypatch.setattr(conversations, "ask_child", child)
        await Conversation(box.store, A, 1).save(NOWHERE)
        assert child.asked == ["/slots"]
    assert box.names() == []


@on_loop
async def test_a_server_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any, **__: Any) -> bytes | None:
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(conversations, "ask_child", silent)
    monkeypatch.setattr(conversations, "SAVE_S", 0.01)
    box = Box(tmp_path)
    await Conversation(box.store, A, 1).save(NOWHERE)
    assert box.names() == []
