"""What the gateway and its answers ask of the engine: the seam that tests put their own behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .engine.errors import ErrorView
from .engine.values import Measures, Model, ModelDetails, ModelStatus, RequestRecord, Running


class Lease(Protocol):
    """The right to send one request to a model that is ready."""

    @property
    def model_id(self) -> str: ...
    @property
    def socket_path(self) -> str | None: ...
    @property
    def host_port(self) -> tuple[str, int] | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def wait_s(self) -> float: ...
    @property
    def died(self) -> asyncio.Future[ErrorView]: ...
    def release(self) -> None: ...


class Backend(Protocol):
    """What the gateway asks of the engine; everything on the gateway's own loop."""

    def resolve(self, name: str | None) -> str:
        """The model id for a name; raises ModelNotFound or NoActiveModel."""
        ...

    async def acquire(self, model_id: str, counts: bool = True) -> Lease:
        """Waits until the model is ready; raises EngineError. Cancelling leaves the queue.

        Without `counts` the request does not keep the model from being idle.
        """
        ...

    def status(self, model_id: str) -> ModelStatus: ...
    def model_list(self) -> list[dict[str, Any]]: ...
    def health(self) -> dict[str, Any]: ...
    async def measures(self) -> Measures: ...
    def library(self) -> Sequence[Model]: ...
    def running(self) -> Sequence[Running]: ...

    async def details(self, model_id: str) -> ModelDetails:
        """Reads the model's header from its file; raises EngineError."""
        ...

    def retire(self, model_id: str) -> None:
        """Lets a model that nobody uses leave memory now."""
        ...

    def record(self, record: RequestRecord) -> None: ...
