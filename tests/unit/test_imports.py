"""Files of this computer brought into the library."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gguf_maker import make_gguf, make_mmproj, make_shards
from tests.unit.engine_kit import running_engine, wait_until
from tray_app.engine.core import Engine
from tray_app.engine.downloads import imports
from tray_app.engine.errors import BadGguf, BadRequest, EngineError, NotFound
from tray_app.engine.values import Job


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with running_engine(tmp_path / "home") as engine:
        yield engine


def imported(engine: Engine, path: Path, how: str = "auto") -> Job:
    """Import it, to the job's end."""
    job_id = engine.call("import_model", {"path": str(path), "how": how})["job_id"]
    wait_until(lambda: not engine.jobs.get(job_id).state.in_progress)
    return engine.jobs.get(job_id)


def listed(engine: Engine, count: int) -> list[Path]:
    wait_until(lambda: len(engine.snapshot().models) == count)
    return [model.path for model in engine.snapshot().models]


def test_a_file_on_the_same_disk_is_linked_and_takes_no_room(
    engine: Engine, tmp_path: Path
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    assert imported(engine, source).state == "done"
    (path,) = listed(engine, 1)
    assert path == engine.home.models / "local" / "Woolly.Q8_0" / source.name
    assert path.samefile(source)
    source.unlink()
    assert path.is_file()


def test_a_copy_is_another_file_and_a_move_leaves_none(engine: Engine, tmp_path: Path) -> None:
    source = make_gguf(tmp_path / "mine" / "Copied.Q8_0.gguf")
    assert imported(engine, source, "copy").state == "done"
    (path,) = listed(engine, 1)
    assert not path.samefile(source)
    assert path.read_bytes() == source.read_bytes()
    moved = make_gguf(tmp_path / "mine" / "Moved.Q8_0.gguf")
    assert imported(engine, moved, "move").state == "done"
    assert not moved.exists()
    listed(engine, 2)


def test_what_cannot_be_linked_is_copied(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert imported(engine, source).state == "done"
    assert not listed(engine, 1)[0].samefile(source)
    failed = imported(engine, make_gguf(tmp_path / "mine" / "Other.gguf"), "link")
    assert failed.error is not None
    assert "cross-device" in failed.error.message


def test_shards_and_projector_come_together(engine: Engine, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "mine", "Wide-Q8_0", 3)
    make_mmproj(tmp_path / "mine" / "mmproj-Wide-F16.gguf")
    make_mmproj(tmp_path / "mine" / "mmproj-Another-F16.gguf")
    assert imported(engine, shards[1]).state == "done"
    listed(engine, 1)
    (model,) = engine.snapshot().models
    assert model.shard_count == 3
    assert model.mmproj_path is not None
    assert model.mmproj_path.name == "mmproj-Wide-F16.gguf"


def test_a_missing_shard_is_named(engine: Engine, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "mine", "Wide-Q8_0", 3)
    shards[2].unlink()
    with pytest.raises(NotFound, match="Shard 3 of 3"):
        engine.call("import_model", {"path": str(shards[0])})


def test_the_same_file_twice_is_one_model_and_another_of_its_name_a_second(
    engine: Engine, tmp_path: Path
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    imported(engine, source)
    again = imported(engine, source, "copy")
    assert "already" in again.step
    from tests.gguf_maker import llama_keys

    other = make_gguf(tmp_path / "else" / source.name, llama_keys(layers=3))
    imported(engine, other)
    assert {path.parent.name for path in listed(engine, 2)} == {"Woolly.Q8_0", "Woolly.Q8_0-2"}


def test_a_model_of_the_library_is_there_already(engine: Engine) -> None:
    path = make_gguf(engine.home.models / "org" / "repo" / "In.Q8_0.gguf")
    assert "already" in imported(engine, path).step
    assert listed(engine, 1) == [path]


@pytest.mark.parametrize("kind", ["folder", "pipe", "text", "garbage", "half", "mmproj", "gone"])
def test_what_is_no_model_is_refused_at_once(engine: Engine, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        path = path.with_suffix(".txt")
        path.write_text("GGUF")
    elif kind == "garbage":
        path.write_bytes(b"GGUF" + b"\xff" * 100)
    elif kind == "half":
        make_gguf(path, keep=0.5)
    elif kind == "mmproj":
        make_mmproj(path)
    with pytest.raises((BadRequest, BadGguf, NotFound)) as error:
        engine.call("import_model", {"path": str(path)})
    assert error.value.remedy
    assert not list(engine.home.models.iterdir())


def test_a_full_disk_is_told_before_anything_is_copied(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    failed = imported(engine, source, "copy")
    assert failed.error is not None
    assert failed.error.code == "not_enough_disk"
    assert not list(engine.home.models.iterdir())


def test_a_cancelled_copy_leaves_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    monkeypatch.setattr(imports, "CHUNK_BYTES", 16)
    real = imports._copied

    def cancelled_soon(files: tuple[Path, ...], staging: Path, models: Path, context: object):  # type: ignore[no-untyped-def]
        context.cancel.set()  # type: ignore[attr-defined]
        real(files, staging, models, context)  # type: ignore[arg-type]

    monkeypatch.setattr(imports, "_copied", cancelled_soon)
    assert imported(engine, source, "copy").state == "cancelled"
    assert not list(engine.home.models.iterdir())


def test_what_a_killed_engine_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / "home" / "models" / f"{imports.STAGING}0123"
    make_gguf(left / "Half.Q8_0.gguf")
    with running_engine(tmp_path / "home") as engine:
        wait_until(lambda: not left.exists())
        assert engine.snapshot().models == ()


def test_a_model_that_is_being_imported_is_not_listed_yet(engine: Engine) -> None:
    make_gguf(engine.home.models / f"{imports.STAGING}0123" / "Half.Q8_0.gguf")
    make_gguf(engine.home.models / "org" / "repo" / "Whole.Q8_0.gguf")
    engine.call("rescan", {})
    assert [path.name for path in listed(engine, 1)] == ["Whole.Q8_0.gguf"]


def test_a_way_that_is_none_is_refused(engine: Engine, tmp_path: Path) -> None:
    source = make_gguf(tmp_path / "x.gguf")
    with pytest.raises(EngineError, match="burn"):
        engine.call("import_model", {"path": str(source), "how": "burn"})
