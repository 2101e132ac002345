"""The models touched so far, and the statuses that faces and gateway read of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .launch import Endpoint
from .resident import Resident
from .values import ModelStatus


class ResidentSet:
    """Grows by name; changed on the event loop alone, read from any thread."""

    def __init__(self, publish: Callable[[ModelStatus], None]) -> None:
        self._publish = publish
        self._residents: dict[str, Resident] = {}
        self._statuses: Mapping[str, ModelStatus] = {}

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._residents.values())

    def __getitem__(self, model_id: str) -> Resident:
        """The model's place, made when it is asked for the first time."""
        if model_id not in self._residents:
            self._residents[model_id] = Resident(model_id, self.changed)
        return self._residents[model_id]

    def get(self, model_id: str) -> Resident | None:
        """The model's place, if it was ever asked for."""
        return self._residents.get(model_id)

    def changed(self, resident: Resident) -> None:
        """Tell it if its status is another than before."""
        status = resident.status()
        if self._statuses.get(resident.model_id) != status:
            self._statuses = {**self._statuses, resident.model_id: status}
            self._publish(status)

    def statuses(self) -> Mapping[str, ModelStatus]:
        """The status of every model touched so far; a fresh mapping each change, any thread."""
        return self._statuses

    def held_bytes(self) -> int:
        """Estimated bytes that resident models hold."""
        return sum(r.memory_bytes for r in list(self) if r.occupies)

    def command(self, model_id: str) -> tuple[str, ...] | None:
        """The argument vector that runs the model now; None when it is not up. Any thread."""
        resident = self._residents.get(model_id)
        child = resident.child if resident is not None else None
        return child.process.spec.argv if child is not None else None

    def endpoint(self, model_id: str) -> Endpoint | None:
        """Where the model's child listens; None when it is not up. Any thread."""
        resident = self._residents.get(model_id)
        child = resident.child if resident is not None else None
        return child.endpoint if child is not None else None
