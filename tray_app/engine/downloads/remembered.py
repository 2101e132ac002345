"""Answers that are kept for a while, bounded, and asked for once however many want them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """The last `most` answers, each for `keep_s` (None: for as long as there is room).

    From any thread. Failures are told to all who wait and are not kept.
    """

    def __init__(self, most: int, keep_s: float | None, clock: Callable[[], float]) -> None:
        self._most, self._keep_s, self._clock = most, keep_s, clock
        self._kept: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._asked: dict[Key, Future[tuple[float, Value]]] = {}
        self._lock = threading.Lock()
        self._era = 0  # an answer to a question from before `forget` is not kept

    def get(self, key: Key, ask: Callable[[], Value]) -> tuple[float, Value]:
        """(when it was answered, the answer), kept or from `ask`.

        Blocks as `ask` does, or until somebody else's `ask` for the same has ended. Raises what
        that raises.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and self._is_fresh(kept[0]):
                self._kept.move_to_end(key)
                return kept
            asked = self._asked.get(key)
            mine = asked is None
            if asked is None:
                asked = self._asked[key] = Future()
            era = self._era
        if mine:
            self._ask(key, ask, asked, era)
        return asked.result()

    def forget(self) -> None:
        """Whatever is asked from now on is asked anew."""
        with self._lock:
            self._era += 1
            self._kept.clear()
            self._asked.clear()

    def _is_fresh(self, since: float) -> bool:
        return self._keep_s is None or 0 <= self._clock() - since < self._keep_s

    def _ask(
        self, key: Key, ask: Callable[[], Value], asked: Future[tuple[float, Value]], era: int
    ) -> None:
        try:
            value = ask()
        except BaseException as exc:  # noqa: BLE001  `result` raises it, here and for who waits
            with self._lock:
                self._leave(key, asked)
            asked.set_exception(exc)
            return
        # The time of the answer: what the hub's client keeps is then never the younger one.
        answered = self._clock(), value
        with self._lock:
            self._leave(key, asked)
            if era == self._era:
                self._kept[key] = answered
                self._kept.move_to_end(key)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        asked.set_result(answered)

    def _leave(self, key: Key, asked: Future[tuple[float, Value]]) -> None:
        if self._asked.get(key) is asked:
            del self._asked[key]
