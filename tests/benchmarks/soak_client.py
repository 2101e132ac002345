"""What `bench_soak` asks with: one streamed chat answer, read to its end and judged."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass

HUNG_S = 90.0  # a switch behind eight answers takes 5 s
GENERATED = re.compile(rb'"predicted_n":(\d+)')
WHOLE, LEFT, BROKEN, SHORT, HUNG = "whole", "left", "broken", "short", "hung"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended. `end` is one of the words above, or the code of the error told."""

    began: float
    ended: float
    model: str
    status: int
    end: str
    first_s: float | None
    pieces: int

    @property
    def told(self) -> bool:
        """Whether the client was told an error, as an answer or as an event."""
        return self.end not in (WHOLE, LEFT, BROKEN, SHORT, HUNG)


class Asking:
    """One request on a connection of its own. With `leave_after` it hangs up in mid-answer."""

    def __init__(self, port: int, model: str, prompt: str, tokens: int, leave_after: int = 0):
        self._port, self._model, self._tokens = port, model, tokens
        self._leave_after = leave_after
        self._body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        self._began = self._first = 0.0
        self._answered_by, self._status, self._pieces, self._generated = "", 0, 0, 0

    async def run(self) -> Outcome:
        """Ask and read; every way it can end is an outcome."""
        self._began = time.monotonic()
        try:
            async with asyncio.timeout(HUNG_S):
                end = await self._ask()
        except TimeoutError:
            end = HUNG
        except (OSError, asyncio.IncompleteReadError, ValueError):
            end = BROKEN
        return Outcome(
            self._began,
            time.monotonic(),
            self._answered_by,
            self._status,
            end,
            self._first - self._began if self._first else None,
            self._pieces,
        )

    async def _ask(self) -> str:
        payload = json.dumps(self._body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                % len(payload)
                + payload
            )
            return await self._read(reader)
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self._status = int(head[0].split(" ")[1])
        fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:])}
        self._answered_by = fields.get("x-llama-wrangler-model", "")
        if self._status != 200:
            answer = json.loads(await reader.readexactly(int(fields["content-length"])))
            return str(answer["error"]["code"])
        end, kept, finished = "", b"", False
        while size := int(await reader.readuntil(b"\r\n"), 16):
            kept += (await reader.readexactly(size + 2))[:-2]
            *events, kept = kept.split(b"\n\n")
            for event in events:
                end = self._event(event) or end
                finished = finished or event == b"data: [DONE]"
            if self._leave_after and self._pieces >= self._leave_after:
                return LEFT
        # Pieces are no measure: a token may be a part of a letter. The child's own count is.
        return end or (WHOLE if finished and self._generated == self._tokens else SHORT)

    def _event(self, event: bytes) -> str:
        """Count a piece; the code when it is an error."""
        if event.startswith(b'data: {"error"'):
            return str(json.loads(event[6:])["error"]["code"])
        if b'"delta":{"content"' in event:
            self._first = self._first or time.monotonic()
            self._pieces += 1
        elif found := GENERATED.search(event):
            self._generated = int(found[1])
        return ""
