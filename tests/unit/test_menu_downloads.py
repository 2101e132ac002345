"""Downloads in the tray: the menu's lines, the tool tip, the messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.tray_kit import download, failure, model, snapshot
from tests.unit.test_menu import every, find
from tray_app.engine.downloads.values import Download, DownloadState
from tray_app.menu import Item, Kind, build_menu, same_shape
from tray_app.menu_downloads import MENU_DOWNLOADS
from tray_app.tray_news import Message, News

RUNNING, QUEUED, PAUSED = DownloadState.RUNNING, DownloadState.QUEUED, DownloadState.PAUSED
WAITING, DONE, FAILED = DownloadState.WAITING, DownloadState.DONE, DownloadState.FAILED


def menu(*downloads: Download, models: bool = True) -> tuple[Item, ...]:
    known = (model("Woolly"),) if models else ()
    return build_menu(snapshot(*known, downloads=downloads), autostart=None)


def submenu(*downloads: Download) -> Item:
    return find(menu(*downloads), "Downloads — ")


def test_a_running_download_tells_how_far_it_is_and_how_long_it_takes() -> None:
    item = submenu(
        download(RUNNING, done_bytes=430_000_000, rate_bytes_s=12e6, title="Woolly Q4_K_M")
    )
    assert item.label == "Downloads — 43 %, less than a minute left"
    assert [child.label for child in item.children if child.kind is not Kind.SEPARATOR] == [
        "Woolly Q4_K_M — 43 % · 12 MB/s",
        "Pause all",
        "Open downloads…",
    ]
    assert item.children[0].args == (("page", "downloads"),)


@pytest.mark.parametrize(
    ("downloads", "label"),
    [
        ((download(PAUSED, done_bytes=10**8),), "Downloads — paused"),
        ((download(WAITING),), "Downloads — waiting for the network"),
        ((download(RUNNING, total_bytes=None, step="Asking the hub"),), "Downloads — running"),
        (
            (
                download(RUNNING, done_bytes=10**9 // 2, rate_bytes_s=10**6),
                download(QUEUED, id="2"),
            ),
            "Downloads — 25 %, 25 min left",
        ),
        (
            (
                download(RUNNING, done_bytes=10**9 // 2, rate_bytes_s=10**6),
                download(QUEUED, id="2", total_bytes=None),
            ),
            "Downloads — 50 %, 1 more queued",
        ),
        ((download(QUEUED, total_bytes=None),), "Downloads — queued"),
        ((download(PAUSED), download(QUEUED, id="2")), "Downloads — queued"),
        ((download(RUNNING, rate_bytes_s=10**4),), "Downloads — 0 %, 28 h left"),
        ((download(RUNNING, done_bytes=2 * 10**9),), "Downloads — 100 %"),
    ],
)
def test_all_together_are_told_in_one_line(downloads: tuple[Download, ...], label: str) -> None:
    assert submenu(*downloads).label == label


def test_pausing_and_resuming_are_offered_where_they_do_something() -> None:
    def offered(*downloads: Download) -> set[str]:
        return {child.action for child in submenu(*downloads).children} - {"", "open_window"}

    assert offered(download(RUNNING)) == {"pause_downloads"}
    assert offered(download(PAUSED)) == {"resume_downloads"}
    assert offered(download(WAITING)) == {"pause_downloads", "resume_downloads"}


def test_a_long_queue_stays_short_in_the_menu() -> None:
    item = submenu(*(download(QUEUED, id=str(n), title=f"Model {n}") for n in range(300)))
    rows = [child.label for child in item.children if child.label.startswith("Model")]
    assert len(rows) == MENU_DOWNLOADS
    assert find(item.children, "292 more").args == (("page", "downloads"),)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (None, "10 %"),
        (0.0, "10 %"),
        (9_000.0, "10 %"),
        (440_000.0, "10 % · 0.4 MB/s"),
        (1_234_567.0, "10 % · 1 MB/s"),
        (2.5e9, "10 % · 2500 MB/s"),
    ],
)
def test_a_speed_is_told_as_coarsely_as_is_of_use(rate: float | None, words: str) -> None:
    row = submenu(download(RUNNING, done_bytes=10**8, rate_bytes_s=rate)).children[0]
    assert row.label == f"Woolly Q4_K_M — {words}"


def test_what_failed_is_said_and_leads_to_the_page_that_says_why() -> None:
    one = menu(download(FAILED, error=failure()), download(DONE, id="2"))
    assert find(one, "⚠").label == "⚠ Woolly Q4_K_M was not downloaded…"
    assert find(one, "⚠").args == (("page", "downloads"),)
    assert find(one, "Get a model…")
    two = (download(FAILED, id=number) for number in "12")
    beside = menu(download(RUNNING, id="3"), *two, models=False)
    assert find(beside, "⚠").label == "⚠ 2 downloads failed…"
    assert find(beside, "Downloads — ")


def rebuilds(menus: Sequence[Sequence[Item]]) -> int:
    """How often the tray has to build its menu anew; else it changes words in place."""
    return sum(not same_shape(one, other) for one, other in pairwise(menus))


def test_progress_rebuilds_no_menu_and_only_the_coming_and_going_of_downloads_does() -> None:
    """A rebuild gives new ids to all entries: a click on an open menu would be lost."""

    def step(percent: int, **changes: Any) -> Download:
        facts = {"done_bytes": percent * 10**7, "rate_bytes_s": 1e6 * (5 + percent % 7)}
        return download(RUNNING, **facts, **changes)

    waits = download(QUEUED, id="2", total_bytes=None)
    first = [menu(step(percent), waits) for percent in range(101)]
    assert len({items for items in first}) == 101
    assert rebuilds(first) == 0
    asking = [menu(download(QUEUED)), menu(step(0, total_bytes=None)), menu(step(0))]
    assert rebuilds(asking) == 0
    second = [menu(step(percent, id="2"), download(DONE)) for percent in range(101)]
    whole = [menu(), *first, *second, menu(download(DONE, id="2"), download(DONE))]
    assert rebuilds(whole) == 3  # it begins, one of two ends, all have ended


def test_names_of_the_net_are_cleaned() -> None:
    item = submenu(download(RUNNING, title="\u202eevil\n\x1b[31m" + "x" * 300, step="a\nb"))
    assert all(len(child.label) < 90 for child in item.children)
    assert not any(c in item.children[0].label for c in "\u202e\n\x1b")


def test_without_a_download_the_menu_leads_to_discover() -> None:
    assert find(menu(), "Get a model…").args == (("page", "discover"),)
    labels = [item.label for item in every(menu(models=False))]
    assert "Get a model…" not in labels
    assert "Add your first model…" in labels
    assert find(menu(download(DONE)), "Get a model…")


# -- messages


def news_of(*states: dict[str, Any]) -> list[Message]:
    news = News(clock=lambda: 0.0)
    messages: list[Message] = []
    for state in states:
        messages = news.of(state)
    return messages


def test_a_model_that_has_come_is_told_once() -> None:
    woolly = model("Woolly")
    running = snapshot(downloads=(download(RUNNING),))
    done = download(DONE, done_bytes=5 * 10**9, model_path=str(woolly.path))
    after = snapshot(woolly, downloads=(done,))
    told = Message("Woolly is ready", "5.0 GB. Tick it in the tray menu to use it.")
    assert news_of(running, after) == [told]
    assert news_of(running, after, after) == []
    assert news_of(after) == []


def test_the_first_model_needs_no_click() -> None:
    woolly = model("Woolly")
    done = download(DONE, done_bytes=10**9, model_path=str(woolly.path))
    (message,) = news_of(snapshot(), snapshot(woolly, active="Woolly", downloads=(done,)))
    assert message.body == "1.0 GB. It is the active model now."


def test_several_that_came_together_are_one_message() -> None:
    downloads = tuple(download(DONE, id=str(n), title=f"Model {n}") for n in range(3))
    (message,) = news_of(snapshot(), snapshot(downloads=downloads))
    assert message == Message("3 models are ready", "Model 0, Model 1, Model 2")


def test_a_failed_download_says_why_and_a_cancelled_one_nothing() -> None:
    running = snapshot(downloads=(download(RUNNING),))
    failed = download(FAILED, error=failure("The disk is full.", "Free some."))
    assert news_of(running, snapshot(downloads=(failed,))) == [
        Message("Woolly Q4_K_M could not be downloaded", "The disk is full.\nFree some.")
    ]
    for state in (DownloadState.CANCELLED, PAUSED, WAITING):
        assert news_of(running, snapshot(downloads=(replace(failed, state=state),))) == []


def test_nothing_is_told_twice_when_the_engine_starts_again() -> None:
    news = News(clock=lambda: 0.0)
    ended = (download(DONE), download(FAILED, id="2", error=failure()))
    news.of(snapshot(downloads=(download(RUNNING), download(RUNNING, id="2"))))
    assert len(news.of(snapshot(downloads=ended))) == 2
    news.forget()
    assert news.of(snapshot(downloads=ended)) == []
    assert news.of(snapshot(downloads=ended)) == []


def test_a_message_holds_no_control_characters_of_the_net() -> None:
    evil = "\u202eevil\n\x1b[31m" + "x" * 300
    failed = download(FAILED, title=evil, error=failure(evil, evil))
    done = download(DONE, id="2", title=evil)
    messages = news_of(snapshot(), snapshot(downloads=(failed, done)))
    assert len(messages) == 2
    for message in messages:
        assert message.title.isprintable()
        assert len(message.title) < 90
        assert message.body.replace("\n", "").isprintable()
