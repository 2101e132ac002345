"""The bandwidth limit, the number of connections, and the pauses between attempts."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate

import pytest

from tray_app.engine.downloads.limiter import Limiter
from tray_app.engine.downloads.ramp import LOOK_AGAIN_S, WINDOW_S, Ramp
from tray_app.engine.downloads.retry import RetryPolicy, retry_after_s

NEVER = threading.Event()


def test_without_a_limit_nobody_waits() -> None:
    for limiter in (Limiter(), Limiter(0), Limiter(-1)):
        began = time.monotonic()
        limiter.take(1 << 40, NEVER)
        assert time.monotonic() - began < 0.5
        assert limiter.bytes_per_s is None


def test_all_who_take_share_one_rate() -> None:
    limiter = Limiter(1_000_000)
    began = time.monotonic()

    def take() -> None:
        for _ in range(10):
            limiter.take(10_000, NEVER)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began > 0.4 * 0.7, "400 kB at 1 MB/s, less the burst allowed"


def test_an_idle_time_is_not_saved_up() -> None:
    now = [0.0]
    limiter = Limiter(1000, clock=lambda: now[0])
    limiter.take(0, NEVER)
    now[0] = 3600.0
    limiter.take(100, NEVER)  # the burst
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    limiter.take(1000, stop)
    assert stop.is_set(), "it waited until it was stopped"


@pytest.mark.parametrize("change", [None, 1e9])
def test_a_change_reaches_those_who_wait(change: float | None) -> None:
    limiter = Limiter(1)
    waiting = threading.Thread(target=limiter.take, args=(1_000_000, NEVER))
    waiting.start()
    limiter.set(change)
    waiting.join(5)
    assert not waiting.is_alive()
    assert limiter.bytes_per_s == change


def test_a_stop_ends_the_wait() -> None:
    limiter, stop = Limiter(1), threading.Event()
    waiting = threading.Thread(target=limiter.take, args=(1_000_000, stop))
    waiting.start()
    stop.set()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_slow_limit_is_read_in_small_portions() -> None:
    assert Limiter().read_bytes == Limiter(1e12).read_bytes == 1 << 20
    assert Limiter(1_600_000).read_bytes == 100_000
    assert Limiter(10).read_bytes == 16 * 1024


class Line:
    """A line with a rate for each number of connections, watched by a ramp."""

    def __init__(self, most: int, rates: dict[int, float]) -> None:
        self.now, self.bytes = 100.0, 0
        self.rates = rates
        self.ramp = Ramp(most, clock=lambda: self.now)

    def run(self, seconds: float) -> int:
        for _ in range(int(seconds / 0.05)):
            self.now += 0.05
            self.bytes += int(0.05 * self.rates[self.ramp.wanted])
            self.ramp.observe(self.bytes, delivering=True)
        return self.ramp.wanted


def test_connections_double_while_each_brings_as_much_as_the_others() -> None:
    line = Line(8, {count: count * 20e6 for count in range(1, 9)})
    assert line.run(3 * (WINDOW_S + 0.1)) == 8


def test_connections_that_bring_nothing_are_given_back_and_tried_again_later() -> None:
    line = Line(8, dict.fromkeys(range(1, 9), 100e6))
    seen = {line.run(0.05) for _ in range(40)}
    assert seen == {2, 4}
    assert line.ramp.wanted == 2
    line.rates = {count: count * 20e6 for count in range(1, 9)}
    assert line.run(LOOK_AGAIN_S / 2) == 2
    assert line.run(LOOK_AGAIN_S) == 8


def test_a_server_that_refuses_gets_fewer_for_a_while() -> None:
    line = Line(8, {count: count * 20e6 for count in range(1, 9)})
    line.run(2)
    line.ramp.refused()
    assert line.run(LOOK_AGAIN_S - 1) == 7
    assert line.run(2) == 8
    for _ in range(9):
        line.ramp.refused()
    assert line.ramp.wanted == 1


def test_nothing_is_judged_while_a_connection_is_being_made() -> None:
    ramp = Ramp(8, clock=iter(range(10_000)).__next__)
    for count in range(50):
        ramp.observe(count * 1000, delivering=False)
    assert ramp.wanted == 2


def test_one_connection_stays_one() -> None:
    assert Line(1, {1: 1e6}).run(5) == 1


def test_pauses_double_with_jitter_and_have_bounds() -> None:
    policy = RetryPolicy()
    for failures, longest in [(1, 1), (2, 2), (5, 16), (7, 60), (10_000, 60)]:
        pauses = {policy.pause_s(failures, None) for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


@pytest.mark.parametrize(("asked", "pause"), [(0, 0), (-5, 0), (120, 120), (1e9, 300)])
def test_what_the_server_asks_for_is_done_within_bounds(asked: float, pause: float) -> None:
    assert RetryPolicy().pause_s(1, asked) == pause


def test_retry_after_comes_in_seconds_or_as_a_date() -> None:
    assert retry_after_s({"retry-after": " 7 "}) == 7
    date = formatdate(time.time() + 100, usegmt=True)
    assert 95 < (retry_after_s({"retry-after": date}) or 0) <= 101
    assert retry_after_s({"retry-after": "9" * 5000}) == 999_999_999
    for nonsense in ("", "soon", "\u00b2", "-1", "Mon, 99 Foo 99999 99:99:99 GMT"):
        assert retry_after_s({"retry-after": nonsense}) is None
