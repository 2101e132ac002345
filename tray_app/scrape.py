"""The answer to `GET /metrics`: gathered beside the loop's other work, and told at once."""

from __future__ import annotations

from .engine_side import Backend
from .http_wire import Answer
from .metrics import CONTENT_TYPE, render
from .upstream import Upstream


class Scrape:
    """In the place of an `Exchange`: it goes to no child on a client's behalf."""

    upstream: Upstream | None = None  # nothing to hold back: the answer is one piece

    def __init__(self, backend: Backend, answer: Answer) -> None:
        self._backend = backend
        self._answer = answer

    async def run(self) -> None:
        """Answer the request."""
        text = render(await self._backend.measures())
        self._answer.whole(200, CONTENT_TYPE, text.encode(), (b"Cache-Control", b"no-store"))
