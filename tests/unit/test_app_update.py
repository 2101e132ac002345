"""The states of an update with a clock and a played engine; and how versions change places."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.app_update_kit import archive_of, lay_down, platform, played
from tests.unit.engine_kit import wait_until
from tests.unit.test_app_manifest import file_row
from tray_app.app_versions import Choice, OwnCopy, read_choice, write_choice
from tray_app.engine.app_update import fetching, service
from tray_app.engine.app_update.kind import Installation, Kind
from tray_app.engine.app_update.manifest import Manifest, read_manifest
from tray_app.engine.app_update.memory import CHECK_S, IDLE_S, RETRY_S
from tray_app.engine.app_update.notices import app_update_notices
from tray_app.engine.app_update.places import FolderPlace, ImagePlace
from tray_app.engine.app_update.service import AppUpdates
from tray_app.engine.app_update.values import AppUpdateState
from tray_app.engine.errors import (
    AppUpdateFailed,
    AppUpdateRefused,
    BadRequest,
    DownloadFailed,
    EngineError,
)
from tray_app.engine.jobs import JobRunner
from tray_app.engine.state import StateDb
from tray_app.engine.values import JobState

OLD, NEW, NEWEST = "0.1.0", "0.2.0", "0.3.0"
NOW = 1_800_000_000.0
NONE, AVAILABLE, FETCHING, READY, APPLYING = AppUpdateState


class Rig:
    """An engine that is only what updates ask of one, and a place that says what the test says."""

    def __init__(self, path: Path, kind: Kind = Kind.FOLDER) -> None:
        self.now = NOW
        self.asked = 0
        self.answer: Manifest | EngineError = self.manifest(NEW)
        self.is_metered: bool | None = False
        self.is_busy = False
        self.shut_down = 0
        self.trials: list[tuple[Any, ...]] = []
        self.program = path / "app" / "llama-wrangler"
        if not self.program.exists():
            lay_down(path / "app", "#!/bin/sh\n")
        ours = kind is Kind.FOLDER
        self.installed = (
            played(self.program)
            if ours
            else Installation(kind, "a Debian package", "Use apt.", self.program, platform())
        )
        (path / "logs").mkdir(exist_ok=True)
        app = SimpleNamespace(updates="notify", manifest_url="https://example.org/manifest.json")
        self.db = StateDb(path / "state.db")
        self.jobs = JobRunner(self.db, lambda event: None)
        self.events: list[Any] = []
        self.engine: Any = SimpleNamespace(
            db=self.db,
            jobs=self.jobs,
            settings=SimpleNamespace(app=app),
            version=OLD,
            mode="tray",
            closing=False,
            started_at=NOW - 10_000,
            history=SimpleNamespace(last=None),
            home=SimpleNamespace(path=path, logs=path / "logs"),
            registry=None,
            busy=lambda: self.is_busy,
            publish=self.events.append,
            notices_changed=lambda: None,
            on_shutdown=self._shut_down,
        )
        self.updates = self.anew()

    def anew(self) -> AppUpdates:
        """As after a restart of the engine."""
        self.updates = AppUpdates(
            self.engine,
            installed=lambda: self.installed,
            ask=self._ask,
            metered=lambda: self.is_metered,
            clock=lambda: self.now,
        )
        return self.updates

    def _ask(self, url: str) -> Manifest:
        self.asked += 1
        if isinstance(self.answer, EngineError):
            raise self.answer
        return self.answer

    def _shut_down(self) -> None:
        self.shut_down += 1

    @property
    def mode(self) -> str:
        return str(self.engine.settings.app.updates)

    @mode.setter
    def mode(self, mode: str) -> None:
        self.engine.settings.app.updates = mode

    @property
    def state(self) -> AppUpdateState:
        return self.updates.status.state

    def manifest(self, version: str, released_at: float = NOW, **files: Any) -> Manifest:
        row = {
            "format": 1,
            "product": "llama-wrangler",
            "version": version,
            "released_at": int(released_at),
            "expires_at": int(released_at + 90 * 86_400),
            "notes_url": "https://example.org/notes",
            "files": files or {platform(): {"folder": file_row()}},
        }
        return read_manifest(json.dumps(row).encode(), "https://example.org/manifest.json")

    def fetched(self) -> None:
        """The version that was told of is here."""
        self.updates.fetch()
        wait_until(lambda: self.state is not FETCHING)
        assert self.state is READY


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path)

    def bring(context: Any, place: Any, version: str, *_: object, **__: object) -> None:
        """What the job does, without a network and without a test."""
        place.stage(_packed(tmp_path, version), version, lambda: None)
        place.keep(version)

    def start_trial(*words: Any) -> Any:
        made.trials.append(words)
        return None

    monkeypatch.setattr(fetching, "bring", bring)
    monkeypatch.setattr(service, "start_trial", start_trial)
    yield made
    made.jobs.close()
    made.db.close()


def _packed(folder: Path, version: str) -> Path:
    path = folder / f"{version}.tar.gz"
    path.write_bytes(archive_of(version, "#!/bin/sh\n"))
    return path


# -- asking


def test_it_is_asked_once_a_day_and_sooner_after_a_failure(rig: Rig) -> None:
    rig.updates.look()
    assert (rig.asked, rig.state) == (1, AVAILABLE)
    rig.now += CHECK_S - 1
    rig.updates.look()
    assert rig.asked == 1
    rig.anew().look()
    assert rig.asked == 1, "a restart does not ask again"
    assert rig.state is AVAILABLE, "and knows what was told"
    rig.now += 1
    rig.answer = DownloadFailed("Nobody answers.", "Later.")
    rig.updates.look()
    assert rig.asked == 2
    assert rig.state is AVAILABLE
    assert rig.updates.status.error is not None
    rig.now += RETRY_S
    rig.answer = rig.manifest(NEW)
    rig.updates.look()
    assert rig.asked == 3
    assert rig.updates.status.error is None


def test_nobody_is_asked_when_it_is_off_or_there_is_no_place(rig: Rig) -> None:
    rig.mode = "off"
    rig.updates.look()
    rig.mode = "auto"
    rig.engine.settings.app.manifest_url = None
    rig.updates.look()
    rig.engine.mode, rig.engine.settings.app.manifest_url = "once", "https://example.org/m"
    rig.updates.look()
    assert rig.asked == 0
    rig.engine.settings.app.manifest_url = None
    with pytest.raises(AppUpdateRefused, match="no place"):
        rig.updates.check()


def test_what_is_told_is_not_fetched_by_itself(rig: Rig) -> None:
    for _ in range(50):
        rig.updates.look()
        rig.now += 3600
    assert rig.state is AVAILABLE
    assert rig.jobs.list() == ()


@pytest.mark.parametrize("version", [OLD, "0.0.9"])
def test_what_is_not_newer_is_no_update(rig: Rig, version: str) -> None:
    rig.answer = rig.manifest(version)
    assert rig.updates.check().release is None
    assert rig.state is NONE


def test_an_older_word_than_before_is_refused_after_a_restart_too(rig: Rig) -> None:
    rig.answer = rig.manifest(NEWEST, released_at=NOW)
    rig.updates.look()
    rig.anew()
    rig.answer = rig.manifest(NEW, released_at=NOW - 1)
    with pytest.raises(EngineError, match="an older one") as caught:
        rig.updates.check()
    assert caught.value.code == "app_update_refused"
    release = rig.updates.status.release
    assert release is None or release.version == NEWEST


def test_an_offer_runs_out(rig: Rig) -> None:
    rig.updates.look()
    rig.answer = DownloadFailed("Nobody answers.", "Later.")
    rig.now += 91 * 86_400
    rig.updates.look()
    assert rig.state is NONE


def test_a_skipped_version_is_not_told_again_but_the_next_one_is(rig: Rig) -> None:
    rig.updates.look()
    rig.updates.skip(NEW)
    assert rig.state is NONE
    rig.anew().look()
    assert rig.state is NONE
    assert rig.updates.check().state is AVAILABLE, "who asks is told"
    rig.updates.skip(NEW)
    rig.answer = rig.manifest(NEWEST)
    rig.now += CHECK_S
    rig.updates.look()
    assert rig.state is AVAILABLE


# -- copies that are not ours


def test_a_package_is_told_how_and_left_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Kind.PACKAGE)
    rig.mode = "auto"
    rig.updates.look()
    assert rig.state is AVAILABLE
    (notice,) = app_update_notices(rig.updates.status)
    assert (notice.level, notice.remedy) == ("info", "Use apt.")
    with pytest.raises(AppUpdateRefused, match="Debian package"):
        rig.updates.fetch()
    rig.now += 10 * IDLE_S
    rig.updates.look()
    assert rig.jobs.list() == ()
    assert rig.updates.change_versions() == []
    rig.jobs.close()
    rig.db.close()


def test_a_release_without_a_file_for_this_machine_is_told_and_not_fetched(rig: Rig) -> None:
    rig.answer = rig.manifest(NEW, **{"windows-arm64": {"folder": file_row()}})
    rig.updates.look()
    release = rig.updates.status.release
    assert release is not None
    assert release.size_bytes is None
    with pytest.raises(AppUpdateRefused, match="no file for"):
        rig.updates.fetch()


# -- fetching


def test_a_fetched_version_is_ready_also_after_a_restart(rig: Rig) -> None:
    with pytest.raises(AppUpdateRefused, match="No newer version"):
        rig.updates.fetch()
    rig.updates.look()
    rig.fetched()
    assert read_choice(OwnCopy(rig.program).pointer) == Choice(), "it is not used yet"
    with pytest.raises(AppUpdateRefused, match="is here already"):
        rig.updates.fetch()
    rig.anew().look()
    assert rig.state is READY
    assert rig.shut_down == 0


def test_a_failed_fetch_says_why_and_can_be_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = fetching.bring

    def fails(*_: object, **__: object) -> None:
        raise AppUpdateFailed("It failed its test.", "Later.")

    monkeypatch.setattr(fetching, "bring", fails)
    rig.updates.look()
    rig.updates.fetch()
    wait_until(lambda: rig.state is AVAILABLE)
    error = rig.updates.status.error
    assert error is not None
    assert error.message == "It failed its test."
    wait_until(lambda: rig.jobs.list()[0].state is JobState.FAILED)
    rig.mode = "auto"
    rig.updates.look()
    assert len(rig.jobs.list()) == 1, "what fails its test is not tried again unasked"
    monkeypatch.setattr(fetching, "bring", good)
    rig.fetched()
    assert rig.updates.status.error is None


def test_a_cancelled_fetch_is_available_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(context: Any, *_: object, **__: object) -> None:
        context.cancel.wait(20)
        context.check()

    monkeypatch.setattr(fetching, "bring", waits)
    rig.updates.look()
    job = rig.updates.fetch()
    assert rig.updates.fetch().id == job.id, "who asks twice joins"
    with pytest.raises(BadRequest):
        rig.updates.skip(NEW)
    rig.jobs.cancel(job.id)
    wait_until(lambda: rig.state is AVAILABLE)
    assert rig.updates.status.job_id is None


# -- by itself


def test_by_itself_it_is_fetched_and_used_when_nothing_runs(rig: Rig) -> None:
    rig.mode, rig.is_busy = "auto", True
    rig.updates.look()
    assert rig.jobs.list() == (), "something runs"
    rig.is_busy = False
    rig.engine.history.last = SimpleNamespace(started_at=rig.now - 100, duration_s=10)
    rig.updates.look()
    assert rig.jobs.list() == (), "somebody was answered a moment ago"
    rig.now += IDLE_S
    rig.is_metered = True
    rig.updates.look()
    assert rig.jobs.list() == (), "the line is metered"
    rig.is_metered = None
    rig.updates.look()
    wait_until(lambda: rig.state is READY)
    rig.is_busy = True
    rig.updates.look()
    assert rig.shut_down == 0
    rig.is_busy = False
    rig.updates.look()
    assert (rig.shut_down, rig.state, rig.updates.leaving) == (1, APPLYING, True)
    rig.updates.look()
    assert (rig.shut_down, len(rig.trials)) == (1, 1)


def test_a_fetch_by_itself_that_was_cancelled_waits_a_day(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise DownloadFailed("The line broke.", "Later.")

    monkeypatch.setattr(fetching, "bring", fails)
    rig.mode = "auto"
    rig.updates.look()
    wait_until(lambda: rig.state is AVAILABLE)
    for _ in range(5):
        rig.updates.look()
    assert len(rig.jobs.list()) == 1
    rig.now += CHECK_S
    rig.updates.look()
    wait_until(lambda: len(rig.jobs.list()) == 2 and rig.state is AVAILABLE)


# -- applying


def test_it_waits_for_what_runs_and_then_comes(rig: Rig) -> None:
    with pytest.raises(AppUpdateRefused, match="is ready"):
        rig.updates.apply(show=True)
    rig.updates.look()
    rig.fetched()
    rig.is_busy = True
    assert rig.updates.apply(show=True) is False
    assert rig.updates.status.waiting
    rig.updates.look()
    assert rig.shut_down == 0
    rig.is_busy = False
    rig.updates.look()
    assert rig.shut_down == 1
    assert rig.trials[0][-1] is True, "the window that was asked for opens then"
    # Nothing is switched before the engine has ended in good order.
    assert read_choice(OwnCopy(rig.program).pointer) == Choice()
    assert rig.updates.change_versions() == []
    choice = read_choice(OwnCopy(rig.program).pointer)
    assert (choice.current, choice.previous, choice.confirmed) == (NEW, OLD, False)


def test_an_engine_that_serves_becomes_the_new_one_itself(rig: Rig) -> None:
    rig.engine.mode = "serve"
    rig.updates.look()
    rig.fetched()
    assert rig.updates.apply(show=False)
    assert rig.updates.change_versions() == [str(rig.program), "serve"]


def test_a_newer_release_ends_the_waiting_for_the_one_before(rig: Rig) -> None:
    rig.updates.look()
    rig.fetched()
    rig.is_busy = True
    rig.updates.apply(show=False)
    rig.answer = rig.manifest(NEWEST)
    rig.now += CHECK_S
    rig.updates.look()
    assert (rig.state, rig.updates.status.waiting) == (AVAILABLE, False)
    rig.is_busy = False
    rig.updates.look()
    assert rig.shut_down == 0


def test_a_trial_that_cannot_be_watched_is_not_begun(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    rig.updates.look()
    rig.fetched()
    monkeypatch.setattr(service, "start_trial", fails)
    with pytest.raises(AppUpdateFailed, match="could not be put to use"):
        rig.updates.apply(show=False)
    assert (rig.state, rig.shut_down, rig.updates.leaving) == (READY, 0, False)


def test_the_new_version_says_that_it_has_come_up_and_tidies(rig: Rig) -> None:
    versions = rig.program.parent / "versions"
    for version in ("0.0.8", OLD, NEW):
        lay_down(versions / version, "#!/bin/sh\n")
    (versions / "notes.txt").touch()
    write_choice(OwnCopy(rig.program).pointer, Choice().switched(NEW, OLD, NOW))
    rig.engine.version = NEW
    rig.anew().look()
    assert read_choice(OwnCopy(rig.program).pointer).confirmed
    left = {path.name for path in versions.iterdir()}
    assert left == {OLD, NEW, "notes.txt", "current.json"}


def test_an_engine_that_is_quit_at_once_had_come_up(rig: Rig) -> None:
    (rig.program.parent / "versions").mkdir()
    write_choice(OwnCopy(rig.program).pointer, Choice().switched(NEW, OLD, NOW))
    rig.engine.version = NEW
    assert rig.anew().change_versions() == []
    assert read_choice(OwnCopy(rig.program).pointer).confirmed


def test_a_version_that_was_taken_back_is_told_and_not_tried_again_unasked(rig: Rig) -> None:
    rig.mode = "auto"
    (rig.program.parent / "versions").mkdir()
    pointer = OwnCopy(rig.program).pointer
    write_choice(pointer, Choice(OLD, failed=NEW, reason="It did not come up."))
    rig.updates.look()
    taken_back = rig.updates.status.taken_back
    assert taken_back is not None
    assert (taken_back.version, taken_back.back_to) == (NEW, OLD)
    (notice,) = app_update_notices(rig.updates.status)
    assert "It did not come up." in notice.message
    rig.now += 10 * CHECK_S
    rig.updates.look()
    assert rig.jobs.list() == ()
    rig.updates.skip(NEW)
    assert app_update_notices(rig.updates.status) == []
    assert read_choice(pointer).failed == ""


# -- places


def test_an_appimage_changes_places_with_the_new_one(tmp_path: Path) -> None:
    image = tmp_path / "LW.AppImage"
    image.write_bytes(b"old")
    place = ImagePlace(image)
    target = place.fetch_target("llama-wrangler-0.2.0-linux-x86_64.AppImage")
    target.parent.mkdir(parents=True)
    target.write_bytes(b"new")
    program = place.stage(target, NEW, lambda: None)
    assert os.access(program, os.X_OK)
    place.keep(NEW)
    assert place.staged(NEW)
    assert image.read_bytes() == b"old"
    place.switch(NEW, OLD, NOW)
    assert (image.read_bytes(), place.copy.previous_image.read_bytes()) == (b"new", b"old")
    assert read_choice(place.copy.pointer).current == NEW
    place.copy.take_back("It did not come up.")
    assert image.read_bytes() == b"old"


def test_an_image_that_cannot_be_linked_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    test_an_appimage_changes_places_with_the_new_one(tmp_path)


def bad_tar(name: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: bad_tar("../../evil"), "leads out of its folder"),
        (lambda: bad_tar("/etc/evil"), "absolute path"),
        (lambda: bad_tar("llama-wrangler-0.2.0/other"), "holds no program"),
        (lambda: bad_tar("llama-wrangler-0.2.0/llama-wrangler"), "holds no program"),  # not to run
        (lambda: archive_of(NEW, "x")[:5000], "ends too early"),
        (lambda: b"nothing", "cannot be used"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be_leaves_nothing(
    tmp_path: Path, content: Callable[[], bytes], reason: str
) -> None:
    program = lay_down(tmp_path / "app", "#!/bin/sh\n")
    place = FolderPlace(program)
    target = place.fetch_target("x.tar.gz")
    target.parent.mkdir(parents=True)
    target.write_bytes(content())
    with pytest.raises(AppUpdateFailed, match=reason):
        place.stage(target, NEW, lambda: None)
    assert not place.staged(NEW)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app"]
    place.tidy(frozenset())
    assert {path.name for path in target.parent.parent.iterdir()} <= {".fetch"}


def test_a_zip_is_as_good(tmp_path: Path) -> None:
    place = FolderPlace(lay_down(tmp_path / "app", "#!/bin/sh\n"))
    target = place.fetch_target("x.zip")
    target.parent.mkdir(parents=True)
    with zipfile.ZipFile(target, "w") as whole:
        info = zipfile.ZipInfo("llama-wrangler")  # without a folder around it
        info.external_attr, info.create_system = 0o100755 << 16, 3
        whole.writestr(info, "#!/bin/sh\n")
        whole.writestr("library.dll", "x")
    place.stage(target, NEW, lambda: None)
    place.keep(NEW)
    assert place.staged(NEW)
    assert not target.exists()
