"""The one ordered stream."""

from __future__ import annotations

import itertools
import threading

from tray_app.engine.events import ActiveModelChanged, Event, EventStream, Missed


def number(event: Event | None) -> str | None:
    assert isinstance(event, ActiveModelChanged)
    return event.model_id


def test_a_listener_gets_what_comes_after_its_number() -> None:
    stream = EventStream()
    assert stream.seq == 0
    for name in "abc":
        stream.publish(ActiveModelChanged(name))
    got = list(itertools.islice(stream.listen(after=1), 2))
    assert [(seq, number(event)) for seq, event in got] == [(2, "b"), (3, "c")]
    assert stream.seq == 3


def test_silence_is_broken_by_heartbeats() -> None:
    stream = EventStream()
    listener = stream.listen(heartbeat_s=0.01)
    assert next(listener) == (0, None)
    stream.publish(ActiveModelChanged("a"))
    assert number(next(listener)[1]) == "a"
    assert next(listener) == (1, None)


def test_a_listener_that_falls_behind_is_told_so_and_goes_on() -> None:
    stream = EventStream(history=3)
    for name in range(10):
        stream.publish(ActiveModelChanged(str(name)))
    listener = stream.listen(after=2)
    assert next(listener) == (10, Missed())
    stream.publish(ActiveModelChanged("new"))
    assert number(next(listener)[1]) == "new"


def test_a_number_of_an_earlier_engine_is_answered_with_missed() -> None:
    stream = EventStream()
    assert next(stream.listen(after=99)) == (0, Missed())
    stream.publish(ActiveModelChanged("a"))
    assert next(stream.listen(after=99)) == (1, Missed())


def test_all_threads_see_the_same_order_without_gaps() -> None:
    stream = EventStream(history=5000)
    seen: list[list[int]] = []

    def listen() -> None:
        got = [seq for seq, _ in itertools.islice(stream.listen(after=0), 800)]
        seen.append(got)

    def publish(name: str) -> None:
        for _ in range(200):
            stream.publish(ActiveModelChanged(name))

    threads = [threading.Thread(target=listen) for _ in range(3)]
    threads += [threading.Thread(target=publish, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [list(range(1, 801))] * 3
