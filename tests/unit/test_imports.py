"""Files of this computer brought into the library."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.gguf_maker import Tensor, llama_keys, make_gguf, make_mmproj, make_shards
from tests.unit.engine_kit import running_engine, wait_until
from tray_app.engine.core import Engine
from tray_app.engine.downloads import imports
from tray_app.engine.downloads.imports import Importer
from tray_app.engine.errors import BadGguf, BadRequest, EngineError, NotFound
from tray_app.engine.jobs import JobContext
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

    def cancelled_soon(files: Iterable[Path], staging: Path, context: JobContext) -> None:
        context.cancel.set()
        real(files, staging, context)

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


BIG = [Tensor("token_embd.weight", (1024, 4096))]  # 16 MiB: the copy takes four steps
PLACE = ("local", "Woolly.Q8_0", "Woolly.Q8_0.gguf")


def changed_inside(path: Path) -> Path:
    """As another fine-tune: the same header, size, beginning and end."""
    with path.open("r+b") as file:
        file.seek(8 << 20)
        file.write(b"fine-tuned")
    return path


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


def test_a_model_in_a_hugging_face_cache_keeps_its_name(engine: Engine, tmp_path: Path) -> None:
    blob = make_gguf(tmp_path / "models--herd--Woolly" / "blobs" / "0123abc")
    link = tmp_path / "models--herd--Woolly" / "snapshots" / "1" / "Woolly.Q8_0.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert imported(engine, link).state == "done"
    (path,) = listed(engine, 1)
    assert path == engine.home.models.joinpath(*PLACE)
    assert path.samefile(blob)
    assert not path.is_symlink()


def test_a_link_to_a_model_elsewhere_brings_the_shards_that_lie_there(
    engine: Engine, tmp_path: Path
) -> None:
    shards = make_shards(tmp_path / "mine", "Wide-Q8_0", 2)
    link = tmp_path / "desktop" / "latest.gguf"
    link.parent.mkdir()
    link.symlink_to(shards[0])
    assert imported(engine, link).state == "done"
    listed(engine, 1)
    assert engine.snapshot().models[0].shard_count == 2


def test_a_link_is_not_moved(engine: Engine, tmp_path: Path) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    with pytest.raises(BadRequest, match="link"):
        engine.call("import_model", {"path": str(link), "how": "move"})
    assert source.is_file()


def test_a_link_that_leads_to_itself_is_refused(engine: Engine, tmp_path: Path) -> None:
    link = tmp_path / "circle.gguf"
    link.symlink_to(link)
    with pytest.raises(BadRequest, match="itself"):
        engine.call("import_model", {"path": str(link)})


@pytest.mark.parametrize("path", ["Woolly.gguf", "/no\0where.gguf", ""])
def test_a_path_that_is_none_is_refused(engine: Engine, path: str) -> None:
    with pytest.raises(BadRequest):
        engine.call("import_model", {"path": path})


def test_a_projector_without_a_name_comes_along_when_it_can_only_mean_this_model(
    engine: Engine, tmp_path: Path
) -> None:
    for repo in ("one", "two"):
        make_mmproj(tmp_path / repo / "mmproj-F16.gguf")
    make_mmproj(tmp_path / "one" / "mmproj-BF16.gguf")  # the other precision stays
    source = make_gguf(tmp_path / "one" / "Sees-Q8_0.gguf")
    make_gguf(tmp_path / "one" / "Sees-Q4_0.gguf")  # another quantization of the same model
    imported(engine, source)
    assert names_in(engine, "Sees-Q8_0") == ["Sees-Q8_0.gguf", "mmproj-F16.gguf"]
    make_gguf(tmp_path / "two" / "Other-Q8_0.gguf")
    imported(engine, make_gguf(tmp_path / "two" / "Blind-Q8_0.gguf"))
    assert names_in(engine, "Blind-Q8_0") == ["Blind-Q8_0.gguf"]


def names_in(engine: Engine, folder: str) -> list[str]:
    return sorted(path.name for path in (engine.home.models / "local" / folder).iterdir())


@pytest.mark.parametrize("kind", ["half", "pipe", "other"])
def test_every_shard_is_looked_at(engine: Engine, tmp_path: Path, kind: str) -> None:
    shards = make_shards(tmp_path / "mine", "Wide-Q8_0", 2)
    if kind == "half":
        os.truncate(shards[1], shards[1].stat().st_size - 500)
    elif kind == "pipe":
        shards[1].unlink()
        os.mkfifo(shards[1])
    else:
        shutil.copyfile(make_shards(tmp_path / "else", "Wide-Q8_0", 3)[1], shards[1])
    with pytest.raises(BadGguf, match=r"00002-of-00002|Shard 2"):
        engine.call("import_model", {"path": str(shards[0])})


@pytest.mark.parametrize(
    ("name", "keys", "options", "reason"),
    [
        ("x.gguf", llama_keys(), {"order": ">"}, "big-endian"),
        ("x.gguf", llama_keys(), {"tensors": []}, "vocabulary only"),
        ("x.gguf", llama_keys(more={"general.type": "adapter"}), {}, "LoRA"),
        ("x.gguf", llama_keys(more={"general.type": "imatrix"}), {}, "importance matrix"),
        ("imatrix.gguf", llama_keys(), {}, "importance matrix"),
        ("x.gguf", {"general.name": "x"}, {}, "architecture"),
    ],
)
def test_what_the_library_would_not_list_is_not_brought_there(
    engine: Engine,
    tmp_path: Path,
    name: str,
    keys: dict[str, object],
    options: dict[str, object],
    reason: str,
) -> None:
    path = make_gguf(tmp_path / name, keys, **options)  # type: ignore[arg-type]
    with pytest.raises(BadGguf, match=reason) as error:
        engine.call("import_model", {"path": str(path)})
    assert error.value.remedy


def test_a_fine_tune_that_differs_in_the_middle_only_is_another_model(
    engine: Engine, tmp_path: Path
) -> None:
    source = make_gguf(tmp_path / "a" / "Woolly.Q8_0.gguf", tensors=BIG)
    imported(engine, source)
    tuned = changed_inside(make_gguf(tmp_path / "b" / source.name, tensors=BIG))
    assert "already" not in imported(engine, tuned).step
    assert len(listed(engine, 2)) == 2


def test_what_is_in_a_library_folder_is_not_brought_again(engine: Engine, tmp_path: Path) -> None:
    source = make_gguf(tmp_path / "library" / "Woolly.Q8_0.gguf")
    done = threading.Event()
    importer = Importer(engine.jobs, engine.home.models, done.set, lambda: [tmp_path / "library"])
    job = importer.start(str(source), "move")
    assert done.wait(10)
    wait_until(lambda: not engine.jobs.get(job.id).state.in_progress)
    assert engine.jobs.get(job.id).step == imports.ALREADY
    assert source.is_file()
    assert not list(engine.home.models.iterdir())


def test_a_move_on_one_disk_moves_the_file_itself(engine: Engine, tmp_path: Path) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    inode = source.stat().st_ino
    imported(engine, source, "move")
    assert engine.home.models.joinpath(*PLACE).stat().st_ino == inode
    assert not source.exists()


def test_a_move_to_another_disk_copies_and_then_deletes(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    content, written_at = source.read_bytes(), source.stat().st_mtime_ns
    without_links(monkeypatch)
    assert imported(engine, source, "move").state == "done"
    target = engine.home.models.joinpath(*PLACE)
    assert target.read_bytes() == content
    assert target.stat().st_mtime_ns == written_at
    assert not source.exists()


@pytest.mark.parametrize("how", ["copy", "move"])
def test_a_file_that_changes_while_it_is_copied_is_neither_taken_nor_deleted(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf", tensors=BIG)
    without_links(monkeypatch)
    real = imports._written

    def meanwhile(target: object, chunk: bytes) -> None:
        real(target, chunk)  # type: ignore[arg-type]
        with source.open("ab") as file:  # a program goes on writing it
            file.write(b"more")

    monkeypatch.setattr(imports, "_written", meanwhile)
    monkeypatch.setattr(imports, "CHUNK_BYTES", 8 << 20)
    failed = imported(engine, source, how)
    assert failed.error is not None
    assert "changed" in failed.error.message
    assert source.is_file()
    assert not list(engine.home.models.iterdir())


def test_a_copy_that_went_wrong_costs_no_original(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    without_links(monkeypatch)
    real = imports._written
    monkeypatch.setattr(imports, "_written", lambda file, chunk: real(file, bytes(len(chunk))))
    assert imported(engine, source, "move").state == "failed"
    assert source.is_file()
    assert not list(engine.home.models.iterdir())


def test_an_original_that_cannot_be_deleted_is_told(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    real = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == source:
            raise PermissionError(13, "Permission denied")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    job = imported(engine, source, "move")
    assert (job.state, "Permission denied" in job.step) == ("done", True)
    listed(engine, 1)


def test_imports_take_turns_and_a_waiting_one_can_be_cancelled(
    engine: Engine, tmp_path: Path
) -> None:
    importer = engine.downloads.importer
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf")
    with importer._turn:
        job = importer.start(str(source))
        wait_until(lambda: "Waiting" in engine.jobs.get(job.id).step)
        engine.jobs.cancel(job.id)
        wait_until(lambda: not engine.jobs.get(job.id).state.in_progress)
    assert engine.jobs.get(job.id).state == "cancelled"
    assert imported(engine, source).state == "done"


_KILLED = """
import os, signal, sys, threading
from pathlib import Path
from tray_app.engine.downloads import imports
from tray_app.engine.jobs import JobRunner
from tray_app.engine.state import StateDb

models, source = Path(sys.argv[1]), sys.argv[2]
real, count = imports._written, iter(range(100))
def written(file, chunk):
    real(file, chunk)
    file.flush()
    if next(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
imports._written = written
jobs = JobRunner(StateDb(Path(sys.argv[3])), lambda event: None)
done = threading.Event()
imports.Importer(jobs, models, done.set).start(source, "copy")
done.wait(60)
"""


def test_an_engine_killed_in_a_copy_leaves_only_what_the_next_one_removes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    source = make_gguf(tmp_path / "mine" / "Woolly.Q8_0.gguf", tensors=BIG)
    (home / "models").mkdir(parents=True)
    words = [str(home / "models"), str(source), str(tmp_path / "state.db")]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *words], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (home / "models").iterdir()
    assert left.name.startswith(imports.STAGING)
    assert 0 < (left / source.name).stat().st_size < source.stat().st_size
    with running_engine(home) as engine:
        wait_until(lambda: not left.exists())
        assert imported(engine, source, "copy").state == "done"
        assert listed(engine, 1) == [engine.home.models.joinpath(*PLACE)]
