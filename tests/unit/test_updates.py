"""When newer releases are asked for, told, and installed without asking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tray_app.engine.runtime.updates import CHECK_S, IDLE_S, RETRY_S, TELL_S, Updates
from tray_app.engine.state import StateDb
from tray_app.engine.values import Asset, Prebuilt, Release, Runtime, Update

DAY_S = 24 * 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[StateDb]:
    made = StateDb(tmp_path / "state.db")
    yield made
    made.close()


def in_use(build: int | None = 100, backend: str = "cpu") -> Runtime:
    return Runtime(f"b{build}-{backend}", build, backend, Path("/r/llama-server"), "built", "")


def offer(build: int) -> tuple[Release, Prebuilt]:
    asset = Asset(f"llama-b{build}-bin-ubuntu-x64.tar.gz", 30_000_000, "00", "https://example.org")
    release = Release(f"b{build}", build, 5.0, "notes", "https://example.org", (asset,))
    return release, Prebuilt("cpu", "", (asset,))


def test_the_feed_is_asked_once_a_day_and_sooner_after_a_failure(db: StateDb, clock: Clock) -> None:
    updates = Updates(db, clock)
    assert updates.due("notify")
    assert not updates.due("off")
    updates.checked(failed=False)
    clock.now += CHECK_S - 1
    assert not updates.due("auto")
    assert not Updates(db, clock).due("auto"), "a restart does not ask again"
    clock.now += 1
    assert updates.due("auto")
    updates.checked(failed=True)
    clock.now += RETRY_S
    assert updates.due("notify")
    clock.now -= 10 * CHECK_S
    assert updates.due("notify"), "a clock set back does not silence it for ever"


def test_the_newest_beyond_the_one_in_use_is_offered(db: StateDb, clock: Clock) -> None:
    updates = Updates(db, clock)
    offers = [offer(120), offer(130), offer(90)]
    found = updates.consider(in_use(), offers, "notify")
    assert found is not None
    assert (found.build, found.tag, found.size_bytes, found.told) == (130, "b130", 30_000_000, True)
    assert updates.consider(in_use(130), offers, "notify") is None
    assert updates.consider(in_use(None), offers, "notify") is None, "its build is not known"
    assert updates.consider(None, offers, "notify") is None
    assert updates.consider(in_use(), offers, "off") is None
    assert updates.consider(in_use(), [], "auto") is None


def test_a_release_is_told_at_most_once_a_week(db: StateDb, clock: Clock) -> None:
    updates = Updates(db, clock)

    def told(build: int, active: int = 100) -> bool:
        found = updates.consider(in_use(active), [offer(build)], "notify")
        return found is not None and found.told

    assert told(110)
    clock.now += DAY_S
    assert told(120), "the notice of this week goes on, for what is newest"
    assert not told(121, active=120), "installed this week: the next is not told before the week"
    clock.now += TELL_S
    assert told(125, active=120)


def test_a_skipped_build_is_not_spoken_of_again(db: StateDb, clock: Clock) -> None:
    updates = Updates(db, clock)
    updates.skip(120)
    assert updates.consider(in_use(), [offer(120)], "notify") is None
    assert Updates(db, clock).consider(in_use(), [offer(120)], "notify") is None
    newer = updates.consider(in_use(), [offer(121), offer(120)], "notify")
    assert newer is not None
    assert newer.build == 121


@pytest.mark.parametrize(
    ("mode", "idle_s", "busy", "metered", "may"),
    [
        ("auto", IDLE_S, False, None, True),
        ("auto", IDLE_S, False, False, True),
        ("auto", IDLE_S, False, True, False),
        ("auto", IDLE_S, True, False, False),
        ("auto", IDLE_S - 1, False, False, False),
        ("notify", IDLE_S, False, False, False),
        ("off", IDLE_S, False, False, False),
    ],
)
def test_nothing_is_installed_by_itself_at_a_bad_moment(
    db: StateDb, clock: Clock, mode: str, idle_s: float, busy: bool, metered: bool | None, may: bool
) -> None:
    update = Update(130, "b130", "cpu", None, "", "")
    updates = Updates(db, clock)
    assert updates.may_install(update, mode, idle_s=idle_s, busy=busy, metered=metered) is may


def test_what_failed_by_itself_is_not_tried_again(db: StateDb, clock: Clock) -> None:
    updates = Updates(db, clock)
    updates.failed_by_itself(130)
    again = Updates(db, clock)
    for build, may in ((130, False), (129, False), (131, True)):
        update = Update(build, f"b{build}", "cpu", None, "", "")
        assert again.may_install(update, "auto", idle_s=IDLE_S, busy=False, metered=None) is may


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"checked_at": "soon"}', '{"more": 1}'])
def test_a_memory_that_cannot_be_read_is_begun_anew(db: StateDb, clock: Clock, text: str) -> None:
    db.remember({"runtime_updates": text})
    updates = Updates(db, clock)
    assert updates.due("notify")
    assert updates.consider(in_use(), [offer(110)], "notify") is not None
