"""The Windows loop against the part of pystray's icon that it touches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tray_app.tray_loops import WindowsLoop

WM_NOTIFY = 0x0400 + 11


class Icon:
    """pystray's win32 icon: a table of message handlers and a window."""

    def __init__(self, on_notify: Callable[[int, int], None]) -> None:
        self._hwnd: int | None = None
        self._message_handlers: dict[int, Any] = {WM_NOTIFY: on_notify}

    def deliver(self, message: int) -> None:
        self._message_handlers[message](0, 0)


def test_posted_work_runs_when_its_message_arrives() -> None:
    sent: list[tuple[int, int]] = []
    done: list[str] = []
    loop, icon = WindowsLoop(lambda *message: sent.append(message)), Icon(lambda w, p: None)
    loop.prepare(icon)
    icon._hwnd = 7
    loop.post(lambda: done.append("work"))
    assert done == []
    ((window, message),) = sent
    icon.deliver(message)
    assert (window, done) == (7, ["work"])


def test_work_posted_while_the_menu_is_open_waits_until_it_is_closed() -> None:
    sent: list[int] = []
    order: list[str] = []
    loop = WindowsLoop(lambda window, message: sent.append(message))

    def open_menu(wparam: int, lparam: int) -> None:
        loop.post(lambda: order.append("work"))
        icon.deliver(sent[-1])  # the menu's own loop hands messages on
        order.append("closed")

    icon = Icon(open_menu)
    loop.prepare(icon)
    icon._hwnd = 7
    icon.deliver(WM_NOTIFY)
    assert order == ["closed", "work"]


def test_work_posted_before_there_is_a_window_is_kept() -> None:
    done: list[str] = []
    loop, icon = WindowsLoop(lambda window, message: None), Icon(lambda w, p: None)
    loop.prepare(icon)
    loop.post(lambda: done.append("early"))
    icon.deliver(WM_NOTIFY)
    assert done == ["early"]
