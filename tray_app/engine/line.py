"""The models that are wished for and not up, in the order of asking."""

from __future__ import annotations

from collections.abc import Callable

from .resident import Resident
from .values import ModelState


class Line:
    """Each model stands in it once; a hurried one goes first. `on_change` must not block."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._waiting: list[Resident] = []
        self._on_change = on_change

    def __contains__(self, resident: Resident) -> bool:
        return resident in self._waiting

    def join(self, resident: Resident) -> None:
        """Have it loaded in its turn; while it loads or pauses after a death, it comes anyway."""
        coming = resident.state in (ModelState.LOADING, ModelState.BACKOFF)
        if resident not in self._waiting and not coming:
            self._add(resident)

    def come_back(self, resident: Resident) -> None:
        """Its pause after a death is over."""
        if resident not in self._waiting:
            self._add(resident)

    def hurry(self, resident: Resident) -> None:
        """Its wish, there or to come, goes before all others."""
        resident.hurried = True
        if resident in self._waiting:
            self._waiting.remove(resident)
            self._add(resident)

    def leave(self, resident: Resident) -> None:
        """It is not wished for any more, or its turn has come."""
        if resident in self._waiting:
            self._waiting.remove(resident)
            self._on_change()

    def first(self) -> Resident | None:
        """The first that can be worked on now; one that is still ending lets others by."""
        return next((resident for resident in self._waiting if resident.workable), None)

    def _add(self, resident: Resident) -> None:
        self._waiting.insert(0 if resident.hurried else len(self._waiting), resident)
        self._on_change()
