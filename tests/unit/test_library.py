"""The library as a whole: folders come and go, files change, and what was read is kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gguf_maker import llama_keys, make_gguf, make_mmproj, make_shards
from tray_app.engine import library_scan
from tray_app.engine.errors import ModelNotFound
from tray_app.engine.gguf import read_summary
from tray_app.engine.gguf_cache import Keep, MetadataCache
from tray_app.engine.library import Library
from tray_app.engine.scan_worker import Reading, read_one, reading_from
from tray_app.engine.values import FolderState, ModelKind

WAIT_S = 10.0


class InlineReader:
    """Reads whole headers in this process, and remembers which."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.answers: dict[str, Reading] = {}
        self.closed = False

    def read(self, path: str) -> Reading:
        self.gate.wait(WAIT_S)
        self.paths.append(path)
        return self.answers.get(os.path.basename(path)) or reading_from(read_one(path))

    def stop(self) -> int | None:
        return None

    def close(self) -> None:
        self.closed = True
        self.gate.set()


class Shelf:
    """A library under test with its folder, cache file and reader."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "models"
        self.root.mkdir(exist_ok=True)
        self.db = tmp_path / "state.db"
        self.reader = InlineReader()
        self.changes = 0

    def count_change(self) -> None:
        self.changes += 1

    @contextmanager
    def open(self, *folders: Path, home: Path | None = None) -> Iterator[Library]:
        """A started engine's library: scanned once."""
        cache = MetadataCache(self.db)
        library = Library(
            folders or (self.root,), cache, self.count_change, home=home, reader=self.reader
        )
        try:
            with library:
                rescan(library)
                yield library
        finally:
            cache.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def summaries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all summaries read from files."""
    paths: list[str] = []

    def counted(path: str) -> object:
        paths.append(path)
        return read_summary(path)

    monkeypatch.setattr(library_scan, "read_summary", counted)
    return paths


def rescan(library: Library) -> None:
    library.rescan()
    assert library.wait(WAIT_S)


def ids(library: Library) -> list[str]:
    return [model.id for model in library.models()]


def reasons(library: Library) -> dict[str, str]:
    return {row.path.name: row.reason for row in library.left_out()}


def test_a_model_is_listed_with_everything_its_header_says(shelf: Shelf) -> None:
    path = make_gguf(shelf.root / "org" / "tiny-GGUF" / "tiny-F32.gguf")
    with shelf.open() as library:
        (model,) = library.models()
    assert model.id == "org/tiny-GGUF:F32"
    assert (model.name, model.publisher) == ("tiny", "org")
    assert (model.path, model.folder) == (path, shelf.root)
    assert model.size_bytes == path.stat().st_size
    assert model.parameter_count == 256 * 8 + 64
    assert model.kind is ModelKind.CHAT
    assert model.details_known
    assert model.available


def test_models_are_listed_before_their_details_are_read(shelf: Shelf) -> None:
    make_gguf(shelf.root / "a-Q4_0.gguf")
    shelf.reader.gate.clear()
    seen = threading.Event()
    cache = MetadataCache(shelf.db)

    def note() -> None:
        if library.models():
            seen.set()

    library = Library([shelf.root], cache, note, reader=shelf.reader)
    with library:
        library.rescan()
        assert seen.wait(WAIT_S)
        (model,) = library.models()
        assert not model.details_known
        assert model.kind is ModelKind.UNKNOWN
        assert model.context_length == 4096
        assert not library.scanning
        assert not library.wait(0)
        shelf.reader.gate.set()
        assert library.wait(WAIT_S)
        assert library.get("a:Q4_0").details_known
    cache.close()


def test_a_second_start_reads_no_header_again(shelf: Shelf, summaries: list[str]) -> None:
    for number in range(5):
        make_gguf(shelf.root / f"m{number}-Q4_0.gguf")
    with shelf.open() as library:
        before = library.models()
    assert len(summaries) == len(shelf.reader.paths) == 5
    with shelf.open() as library:
        assert library.models() == before
    assert len(summaries) == len(shelf.reader.paths) == 5


def test_a_renamed_file_is_not_read_again(shelf: Shelf, summaries: list[str]) -> None:
    path = make_gguf(shelf.root / "old-Q4_0.gguf")
    with shelf.open() as library:
        path.rename(shelf.root / "new-Q4_0.gguf")
        rescan(library)
        assert ids(library) == ["new:Q4_0"]
        assert library.models()[0].details_known
    assert len(summaries) == len(shelf.reader.paths) == 1


def test_a_changed_file_is_read_again_and_keeps_its_id(shelf: Shelf) -> None:
    path = make_gguf(shelf.root / "a-Q4_0.gguf")
    with shelf.open() as library:
        make_gguf(path, llama_keys(context=777, template=None))
        rescan(library)
        (model,) = library.models()
        assert (model.id, model.context_length) == ("a:Q4_0", 777)
        assert model.kind is ModelKind.COMPLETION


def test_a_removed_file_is_gone_from_list_and_cache(shelf: Shelf) -> None:
    path = make_gguf(shelf.root / "a-Q4_0.gguf")
    make_gguf(shelf.root / "b-Q4_0.gguf")
    with shelf.open() as library:
        path.unlink()
        rescan(library)
        assert ids(library) == ["b:Q4_0"]
    assert list(MetadataCache(shelf.db).load()) == [str(shelf.root / "b-Q4_0.gguf")]


def test_models_of_a_missing_drive_stay_listed_and_come_back(shelf: Shelf, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    make_gguf(drive / "org" / "big-GGUF" / "big-Q8_0.gguf")
    make_shards(drive / "org" / "split", "split-Q8_0", 2)
    make_gguf(shelf.root / "a-Q4_0.gguf")
    with shelf.open(shelf.root, drive):
        pass
    drive.rename(tmp_path / "unplugged")
    with shelf.open(shelf.root, drive) as library:  # an engine that starts without the drive
        known = {model.id: model.available for model in library.models()}
        assert known == {"a:Q4_0": True, "org/big-GGUF:Q8_0": False, "org/split:Q8_0": False}
        assert library.get("org/big-GGUF:Q8_0").details_known
        assert [folder.state for folder in library.folders()] == [
            FolderState.OK,
            FolderState.MISSING,
        ]
        assert library.folders()[1].model_count == 2
        (tmp_path / "unplugged").rename(drive)
        assert library.changed()
        rescan(library)
        assert all(model.available for model in library.models())
        assert library.folders()[1].state is FolderState.OK
    assert len(shelf.reader.paths) == 4


def test_an_empty_mount_point_counts_as_a_missing_drive(shelf: Shelf) -> None:
    path = make_gguf(shelf.root / "a-Q4_0.gguf")
    with shelf.open() as library:
        # The rows remember another device, as if the folder had been a mounted drive.
        rows = library._rows or {}
        for key, row in rows.items():
            rows[key] = replace(row, device=row.device + 1)
        path.unlink()
        rescan(library)
        assert [model.available for model in library.models()] == [False]
        assert library.folders()[0].state is FolderState.MISSING


def test_a_folder_that_cannot_be_opened_is_unreadable(shelf: Shelf) -> None:
    loop = shelf.root / "loop"
    loop.symlink_to(loop)
    with shelf.open(loop) as library:
        assert library.folders()[0].state is FolderState.UNREADABLE


def test_an_unreadable_folder_inside_is_named_and_its_models_are_kept(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gguf(shelf.root / "in" / "a-Q4_0.gguf")
    make_gguf(shelf.root / "b-Q4_0.gguf")
    with shelf.open() as library:
        real = os.scandir

        def refusing(path: str) -> object:
            if str(path).endswith("in"):
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", refusing)
        rescan(library)
        assert reasons(library) == {"in": "This folder cannot be read: Permission denied."}
        assert {m.id: m.available for m in library.models()} == {"a:Q4_0": False, "b:Q4_0": True}


def test_library_folders_are_never_written_to(shelf: Shelf) -> None:
    make_gguf(shelf.root / "deep" / "er" / "a-Q4_0.gguf")
    make_shards(shelf.root / "s", "s-Q8_0", 3)

    def picture() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in [shelf.root, *shelf.root.rglob("*")]
        }

    before = picture()
    for path in sorted(shelf.root.rglob("*"), reverse=True):
        path.chmod(0o444 if path.is_file() else 0o555)
    shelf.root.chmod(0o555)
    try:
        with shelf.open() as library:
            rescan(library)
            assert len(library.models()) == 2
        assert picture() == before
    finally:
        for path in [shelf.root, *shelf.root.rglob("*")]:
            path.chmod(0o755)


def test_folders_are_walked_deep_and_once_whatever_links_say(shelf: Shelf) -> None:
    path = make_gguf(shelf.root / "a" / "b" / "c" / "d" / "deep-Q4_0.gguf")
    (shelf.root / "a" / "up").symlink_to(shelf.root)
    (shelf.root / "again").symlink_to(shelf.root / "a")
    (shelf.root / "self").symlink_to(shelf.root / "self")
    (shelf.root / "self.gguf").symlink_to(shelf.root / "self.gguf")
    (shelf.root / "gone.gguf").symlink_to(shelf.root / "nothing")
    (shelf.root / "same-Q4_0.gguf").symlink_to(path)
    os.link(path, shelf.root / "zz-Q4_0.gguf")
    with shelf.open(shelf.root, shelf.root / "a") as library:
        (model,) = library.models()
        assert model.path == path
        assert [folder.model_count for folder in library.folders()] == [1, 1]
        left = reasons(library)
    assert left["same-Q4_0.gguf"] == left["zz-Q4_0.gguf"] == f"It is the same file as {path}."
    assert "leads back to itself" in left["self.gguf"]
    assert "not there" in left["gone.gguf"]


def test_a_hugging_face_cache_is_read_through_its_links(shelf: Shelf) -> None:
    repo = shelf.root / "models--Qwen--Qwen3-8B-GGUF"
    blob = make_gguf(repo / "blobs" / "0a1b2c")
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "Qwen3-8B-Q4_K_M.gguf").symlink_to(os.path.relpath(blob, snapshot))
    with shelf.open() as library:
        (model,) = library.models()
    assert (model.id, model.publisher) == ("Qwen/Qwen3-8B-GGUF:Q4_K_M", "Qwen")
    assert model.path == snapshot / "Qwen3-8B-Q4_K_M.gguf"
    assert model.size_bytes == blob.stat().st_size


def test_files_that_are_no_models_are_left_out_with_a_reason(shelf: Shelf) -> None:
    root = shelf.root
    make_gguf(root / "good-Q4_0.gguf")
    make_gguf(root / "ggml-vocab-x.gguf", tensors=[])
    make_gguf(root / "tokens-only.gguf", tensors=[])
    make_gguf(root / "imatrix.gguf")
    make_gguf(root / "lora.gguf", llama_keys(more={"general.type": "adapter"}))
    make_gguf(root / "nameless.gguf", llama_keys(more={"general.architecture": None}))
    make_gguf(root / "big.gguf", order=">")
    make_gguf(root / "half-Q4_0.gguf", keep=0.5)
    make_gguf(root / "busy.gguf")
    (root / "busy.gguf.aria2").write_bytes(b"x")
    (root / "next.gguf.part").write_bytes(b"x")
    (root / "empty.gguf").touch()
    (root / "page.gguf").write_text("<html>a page that says 404, as long as a header</html>")
    (root / "folder.gguf").mkdir()
    (root / "notes.txt").write_text("no model")
    (root / "._good-Q4_0.gguf").write_bytes(b"mac")
    os.mkfifo(root / "pipe.gguf")
    make_gguf(root / "mmproj-alone.gguf")
    make_gguf(root / "odd.gguf", llama_keys(more={"split.count": 3}))
    make_gguf(root / ".Trash-1000" / "files" / "old-Q4_0.gguf")
    with shelf.open() as library:
        assert ids(library) == ["good:Q4_0"]
        left = reasons(library)
    expected = {
        "ggml-vocab-x.gguf": "vocabulary",
        "tokens-only.gguf": "vocabulary only",
        "imatrix.gguf": "importance matrix",
        "lora.gguf": "LoRA adapter",
        "nameless.gguf": "architecture",
        "big.gguf": "big-endian",
        "half-Q4_0.gguf": "incomplete",
        "busy.gguf": "download",
        "next.gguf.part": "download",
        "empty.gguf": "empty",
        "page.gguf": "web page",
        "pipe.gguf": "regular file",
        "mmproj-alone.gguf": "projector",
        "odd.gguf": "one of 3 shards",
    }
    assert set(left) == set(expected)
    for name, words in expected.items():
        assert words in left[name], name


def test_a_download_that_ends_is_noticed_without_a_new_folder_time(shelf: Shelf) -> None:
    path = make_gguf(shelf.root / "a-Q4_0.gguf", keep=0.5)
    with shelf.open() as library:
        assert "incomplete" in reasons(library)["a-Q4_0.gguf"]
        assert not library.changed()
        folder_time = shelf.root.stat().st_mtime_ns
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size * 3)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        assert shelf.root.stat().st_mtime_ns == folder_time
        assert library.changed()
        rescan(library)
        assert not library.changed()
        assert ids(library) == ["a:Q4_0"]
        assert reasons(library) == {}


def test_a_new_file_is_noticed_and_quiet_folders_are_not_rescanned(shelf: Shelf) -> None:
    (shelf.root / "sub").mkdir()
    with shelf.open() as library:
        assert not library.changed()
        make_gguf(shelf.root / "sub" / "a-Q4_0.gguf")
        assert library.changed()
        rescan(library)
        assert not library.changed()
        shutil.rmtree(shelf.root)
        assert library.changed()


def test_a_file_that_fails_the_reader_does_not_stop_the_others(shelf: Shelf) -> None:
    for name in ("a", "b", "c"):
        make_gguf(shelf.root / f"{name}-Q4_0.gguf")
    shelf.reader.answers["b-Q4_0.gguf"] = Reading(None, "The process died.", Keep.SESSION)
    with shelf.open() as library:
        assert ids(library) == ["a:Q4_0", "c:Q4_0"]
        assert reasons(library) == {"b-Q4_0.gguf": "The process died."}
        rescan(library)
        assert reasons(library) == {"b-Q4_0.gguf": "The process died."}
        assert len(shelf.reader.paths) == 3
    shelf.reader.answers.clear()
    with shelf.open() as library:  # the next start tries once more
        assert ids(library) == ["a:Q4_0", "b:Q4_0", "c:Q4_0"]
    assert len(shelf.reader.paths) == 4


def test_summaries_do_when_no_worker_can_be_started(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> Reading:
        raise OSError("no more processes")

    monkeypatch.setattr(shelf.reader, "read", refuse)
    make_gguf(shelf.root / "a-Q4_0.gguf")
    with shelf.open() as library:
        assert ids(library) == ["a:Q4_0"]
        assert not library.models()[0].details_known


def test_folders_can_be_replaced(shelf: Shelf, tmp_path: Path) -> None:
    make_gguf(shelf.root / "a-Q4_0.gguf")
    other = tmp_path / "other"
    make_gguf(other / "b-Q4_0.gguf")
    with shelf.open() as library:
        library.set_folders([other])
        assert library.wait(WAIT_S)
        assert ids(library) == ["b:Q4_0"]
        assert [folder.path for folder in library.folders()] == [other]


def test_the_home_folder_is_marked(shelf: Shelf, tmp_path: Path) -> None:
    make_gguf(shelf.root / "org" / "things" / "stories-Q4_0.gguf")
    with shelf.open(shelf.root, tmp_path / "none", home=shelf.root) as library:
        assert [folder.is_home for folder in library.folders()] == [True, False]
        assert ids(library) == ["org/things:stories-Q4_0"]


def test_asking_for_an_unknown_model_names_the_closest(shelf: Shelf) -> None:
    make_gguf(shelf.root / "SmolLM2-135M.Q4_1.gguf")
    with shelf.open() as library:
        assert library.get("SmolLM2-135M:Q4_1").name == "SmolLM2-135M"
        with pytest.raises(ModelNotFound) as caught:
            library.get("smollm2-135m:q4_0")
        assert "SmolLM2-135M:Q4_1" in caught.value.remedy
        with pytest.raises(ModelNotFound):
            library.get("zzz")


def test_one_file_arriving_later_does_not_take_the_id_of_another(shelf: Shelf) -> None:
    old = make_gguf(shelf.root / "z" / "a-Q4_0.gguf")
    with shelf.open() as library:
        assert ids(library) == ["a:Q4_0"]
        make_gguf(shelf.root / "b" / "a-Q4_0.gguf")
        rescan(library)
        assert library.get("a:Q4_0").path == old
        assert len(set(ids(library))) == 2
        both = ids(library)
    with shelf.open() as library:
        assert ids(library) == both
        assert library.get("a:Q4_0").path == old


def test_changes_are_told_on_the_librarys_thread_and_not_for_each_file(shelf: Shelf) -> None:
    for number in range(40):
        make_gguf(shelf.root / f"m{number}-Q4_0.gguf")
    with shelf.open() as library:
        assert len(library.models()) == 40
    assert 2 <= shelf.changes <= 8


def break_file(db: Path) -> None:
    db.write_bytes(b"this is no database" * 100)


def break_table(db: Path) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE gguf_cache SET header = '{\"what\": 1}'")
    connection.close()


def break_json(db: Path) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE gguf_cache SET header = '{'")
    connection.close()


def outdate(db: Path) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE gguf_cache SET schema = 0")
    connection.close()


@pytest.mark.parametrize("break_it", [break_file, break_table, break_json, outdate])
def test_a_cache_that_cannot_be_used_means_reading_again(
    shelf: Shelf, break_it: Callable[[Path], None]
) -> None:
    make_gguf(shelf.root / "a-Q4_0.gguf")
    with shelf.open():
        pass
    break_it(shelf.db)
    with shelf.open() as library:
        assert library.get("a:Q4_0").details_known
    assert len(shelf.reader.paths) == 2


def test_a_cache_in_a_place_that_cannot_be_written_is_no_error(shelf: Shelf) -> None:
    make_gguf(shelf.root / "a-Q4_0.gguf")
    shelf.db = shelf.root / "none" / "state.db"
    with shelf.open() as library:
        assert library.get("a:Q4_0").details_known


def test_names_that_are_not_text_are_listed_and_cached(shelf: Shelf) -> None:
    make_gguf(Path(os.fsdecode(os.fsencode(shelf.root) + b"/bad\xff-Q4_0.gguf")))
    for _ in range(2):
        with shelf.open() as library:
            assert ids(library) == ["bad-:Q4_0"]
            assert library.models()[0].details_known
    assert len(shelf.reader.paths) == 1


def test_closing_ends_the_thread_while_a_header_is_read(shelf: Shelf) -> None:
    make_gguf(shelf.root / "a-Q4_0.gguf")
    shelf.reader.gate.clear()
    cache = MetadataCache(shelf.db)
    library = Library([shelf.root], cache, lambda: None, reader=shelf.reader)
    library.rescan()
    started = time.monotonic()
    library.close()
    library.rescan()
    assert library.wait(WAIT_S)
    assert time.monotonic() - started < WAIT_S
    assert shelf.reader.closed
    assert not any(thread.name == "library" for thread in threading.enumerate())
    cache.close()


def test_a_projector_is_checked_but_not_listed(shelf: Shelf) -> None:
    make_gguf(shelf.root / "org" / "see-GGUF" / "see-Q4_0.gguf")
    projector = make_mmproj(shelf.root / "org" / "see-GGUF" / "mmproj-F16.gguf")
    with shelf.open() as library:
        assert ids(library) == ["org/see-GGUF:Q4_0"]
        assert library.models()[0].mmproj_path == projector
        with projector.open("r+b") as file:
            file.truncate(projector.stat().st_size - 100)
        rescan(library)
        assert library.models()[0].mmproj_path is None
        assert "incomplete" in reasons(library)["mmproj-F16.gguf"]
