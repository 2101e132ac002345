"""What could be had, asked of a loopback feed: offers, updates, and installing without asking."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.release_server import ReleaseServer, release_server, status
from tray_app.engine import network
from tray_app.engine.errors import RuntimeMissing
from tray_app.engine.runtime import updates
from tray_app.engine.runtime.ladder import ladder
from tray_app.engine.runtime.offers import Offers
from tray_app.engine.settings import RuntimeSettings
from tray_app.engine.state import StateDb
from tray_app.engine.values import Hardware, Runtime, RuntimeStatus

HARDWARE = Hardware("linux", "x86_64")
ACTIVE = Runtime("b100-cpu", 100, "cpu", Path("/r/llama-server"), "built", "")
FILES = {"llama-b130-bin-ubuntu-x64.tar.gz": b"x" * 30, "llama-b130-bin-win-cpu-x64.zip": b"y"}


class Service:
    """What of the runtime service the offers use."""

    def __init__(self, db: StateDb, cache: Path, feed_url: str) -> None:
        self.settings = RuntimeSettings(updates="notify", feed_url=feed_url)
        self.cache = cache
        self.machine = SimpleNamespace(hardware=HARDWARE, rungs=ladder(HARDWARE))
        self.told = RuntimeStatus(active=ACTIVE)
        self.runtimes = SimpleNamespace(status=lambda: self.told, note=self._note)
        self.installed: list[tuple[str | None, int | None, bool]] = []
        self.acquisition = SimpleNamespace(install=self._install)
        self.busy = False
        self.engine = SimpleNamespace(
            db=db,
            mode="serve",
            closing=False,
            started_at=time.time() - 1000,
            history=SimpleNamespace(last=None),
            busy=lambda: self.busy,
            notices_changed=lambda: None,
        )

    def _install(
        self, backend: str | None, build: int | None, activate: bool, from_source: bool
    ) -> None:
        assert not from_source, "nobody asked for ten minutes of compiling"
        self.installed.append((backend, build, activate))

    def _note(self, **changes: Any) -> None:
        self.told = replace(self.told, **changes)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("LLAMA_WRANGLER_FEED", raising=False)
    monkeypatch.setattr(network, "metered", lambda: None)
    with release_server() as running:
        running.add("b130", FILES)
        yield running


@pytest.fixture
def service(server: ReleaseServer, tmp_path: Path) -> Iterator[Service]:
    db = StateDb(tmp_path / "state.db")
    yield Service(db, tmp_path / "cache", server.feed_url)
    db.close()


@pytest.fixture
def offers(service: Service) -> Offers:
    return Offers(cast(Any, service))


def test_a_release_is_offered_with_what_of_it_fits(offers: Offers, service: Service) -> None:
    found = offers.available(refresh=False)
    assert found.error is None
    assert found.checked_at is not None
    (release,) = found.releases
    (choice,) = release.choices
    assert (release.build, choice.backend, choice.runtime_id) == (130, "cpu", "b130-cpu-release")
    assert (choice.size_bytes, choice.usable, choice.installed) == (30, True, False)
    assert [b.backend for b in found.buildable] == [r.backend for r in service.machine.rungs]
    assert service.told.update is None, "a look at the page asks for no update"
    service.told = replace(service.told, installed=(replace(ACTIVE, id="b130-cpu-release"),))
    assert offers.available(False).releases[0].choices[0].installed


def test_a_check_tells_the_update_and_a_look_finds_it_by_itself(
    offers: Offers, service: Service, server: ReleaseServer
) -> None:
    offers.look()
    update = service.told.update
    assert update is not None
    assert (update.build, update.told) == (130, True)
    asked = len(server.seen)
    offers.look()
    assert len(server.seen) == asked, "once a day"
    offers.skip(130)
    assert service.told.update is None
    assert offers.check() is None
    assert service.installed == []


def test_an_engine_of_one_question_asks_nobody(offers: Offers, service: Service) -> None:
    service.engine.mode = "once"
    offers.look()
    assert service.told.update is None


def test_updates_that_are_switched_off_are_forgotten(
    offers: Offers, service: Service, server: ReleaseServer
) -> None:
    offers.look()
    service.settings = replace(service.settings, updates="off")
    offers.look()
    assert service.told.update is None


def test_with_auto_it_is_installed_once_when_nothing_runs(
    offers: Offers, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.settings = replace(service.settings, updates="auto")
    service.busy = True
    offers.look()
    assert service.installed == []
    service.busy = False
    monkeypatch.setattr(network, "metered", lambda: True)
    offers.look()
    assert service.installed == [], "not on a metered link"
    monkeypatch.setattr(network, "metered", lambda: None)
    recent = SimpleNamespace(started_at=time.time() - 5, duration_s=1.0)
    service.engine.history.last = recent
    offers.look()
    assert service.installed == [], "somebody asked a moment ago"
    recent.started_at -= updates.IDLE_S
    service.told = replace(service.told, active=replace(ACTIVE, origin="settings"))
    offers.look()
    assert service.installed == [], "the user named the one in use"
    service.told = replace(service.told, active=ACTIVE)
    offers.look()
    offers.look()
    assert service.installed == [("cpu", 130, True)]


def test_a_feed_that_is_down_is_told_and_what_was_known_stays(
    offers: Offers, service: Service, server: ReleaseServer
) -> None:
    offers.check()
    server.faults[server.list_path] = [status(500)] * 10
    with pytest.raises(RuntimeMissing, match="feed"):
        offers.check()
    assert [release.build for release in offers.available(False).releases] == [130]
    assert [release.build for release in offers.releases(None)] == [130]
    assert service.told.update is not None


def test_no_release_at_all_is_an_error_with_a_remedy(offers: Offers, server: ReleaseServer) -> None:
    server.faults[server.list_path] = [status(500)] * 10
    with pytest.raises(RuntimeMissing) as refused:
        offers.releases(None)
    assert "build it from source" in refused.value.remedy
    with pytest.raises(RuntimeMissing, match="b77"):
        offers.releases(77)


def test_after_the_engine_has_ended_nothing_is_written(offers: Offers, service: Service) -> None:
    service.engine.closing = True
    offers.look()
    assert service.told.update is None
