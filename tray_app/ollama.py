"""Ollama's API on the gateway's port, for clients that speak only that.

A request is translated (ollama_requests.py), goes to the model as any other does, with its
polite waiting, its retry and its record, and its answer is told in Ollama's words
(ollama_answers.py). What would change the library is refused: that is the window's and the
command line's, not that of whoever reaches the port.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from . import ollama_models as models
from . import ollama_requests as requests
from .engine.errors import BadRequest, EngineError
from .engine_side import Backend
from .http_wire import Answer, AnswerState, Framing, Headers, Request, json_bytes
from .named_model import INLINE_BYTES
from .ollama_answers import (
    MOST_BYTES,
    NDJSON,
    ChatTeller,
    EmbedTeller,
    Events,
    Teller,
    TextTeller,
    Times,
    error_text,
    now_text,
    object_in,
)
from .proxy import Exchange, Patience, http_error
from .upstream import Upstream

_TRANSLATORS = {
    "/api/chat": requests.chat,
    "/api/generate": requests.generate,
    "/api/embed": requests.embed,
    "/api/embeddings": requests.embed,
}
_TAKES_TIME = frozenset((*_TRANSLATORS, "/api/show", "/api/pull"))
_NOT_HERE = frozenset(("/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs"))
_CUT_OFF = "The answer was broken off; try again."
_NO_END = "llama-server's answer has no end; its log says more."


def answer_at_once(backend: Backend, request: Request, answer: Answer) -> bool:
    """Answer what needs no model; False when it is not Ollama's, or takes time."""
    path = request.path
    if path == "/":
        return _answer_root(request, answer)
    if not path.startswith("/api/") or path in _TAKES_TIME:
        return False
    reads = request.method in (b"GET", b"HEAD")
    if path == "/api/version" and reads:
        answer.json(200, {"version": models.API_VERSION})
    elif path == "/api/tags" and reads:
        answer.json(200, models.tags(backend.model_list(), backend.library()))
    elif path == "/api/ps" and reads:
        answer.json(200, models.running(backend.running(), time.time()))
    elif path in _NOT_HERE or path.startswith("/api/blobs/"):
        said = "Models are added and removed in Llama Wrangler's window or on its command line."
        answer.json(501, {"error": said})
    else:
        answer.json(404, {"error": f"{path} is not served here."})
    return True


def speaks(request: Request) -> bool:
    """Whether an `OllamaExchange` answers the request."""
    return request.path in _TAKES_TIME


def _answer_root(request: Request, answer: Answer) -> bool:
    """Clients look here for Ollama; browsers get llama-server's own page instead."""
    if request.method not in (b"GET", b"HEAD") or b"text/html" in (request.get(b"accept") or b""):
        return False
    answer.whole(200, "text/plain; charset=utf-8", b"Ollama is running")
    return True


class OllamaExchange:
    """One request in Ollama's form, in the place of an `Exchange`."""

    def __init__(
        self,
        backend: Backend,
        request: Request,
        answer: Answer,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._request = request
        self._answer = answer
        self._patience = patience
        self._clock = clock
        self._start = clock()
        self._inner: Exchange | None = None

    @property
    def upstream(self) -> Upstream | None:
        """The connection to the model's child, for the client's back pressure."""
        return self._inner.upstream if self._inner is not None else None

    async def run(self) -> None:
        """Answer the request. Whatever goes wrong is told to the client, not raised."""
        try:
            await self._run()
        except EngineError as error:
            status, body = http_error(error)
            self._answer.json(status, {"error": error_text(body, error.message)})

    async def _run(self) -> None:
        if self._request.method != b"POST":
            self._answer.json(405, {"error": f"{self._request.path} wants a POST."})
            return
        raw, self._request.body = self._request.body, bytearray()
        # Pictures make bodies large; see named_model.py on why those leave the loop.
        read = object_in if len(raw) <= INLINE_BYTES else None
        body = read(raw) if read else await asyncio.to_thread(object_in, raw)
        if body is None:
            raise BadRequest("The request is not a JSON object.", "See Ollama's docs/api.md.")
        name = requests.model_in(body)
        model_id = self._backend.resolve(name)
        path = self._request.path
        if path == "/api/show":
            self._answer.json(200, models.shown(await self._backend.details(model_id)))
        elif path == "/api/pull":  # it is here: many clients make sure before they ask
            self._tell_whole({"status": "success"}, stream=body.get("stream") is not False)
        else:
            await self._ask(path, body, name, model_id)
            if requests.leaves_at_once(body):
                self._backend.retire(model_id)

    async def _ask(self, path: str, body: Mapping[str, Any], name: str, model_id: str) -> None:
        asked = _TRANSLATORS[path](body)
        if asked.path is None:
            await self._load(path, body, name, model_id)
            return
        times = Times(lambda: self._clock() - self._start, self._waited_s)
        words = asked.body | {"model": model_id}
        inside = Request(
            b"POST",
            asked.path,
            "1.1",
            [*self._kept_headers(), (b"content-type", b"application/json")],
            keep_alive=False,
            body=bytearray(await self._text_of(words)),
        )
        ear = _Ear(inside, self._answer, _teller(path, asked, name, times), stream=asked.stream)
        self._inner = Exchange(self._backend, inside, ear, self._patience, self._clock, path)
        await self._inner.run()
        ear.over()

    async def _text_of(self, words: dict[str, Any]) -> bytes:
        large = sum(map(len, map(str, words.get("messages", ())))) > INLINE_BYTES
        return await asyncio.to_thread(json_bytes, words) if large else json_bytes(words)

    def _waited_s(self) -> float:
        return self._inner.wait_s if self._inner is not None else 0.0

    def _kept_headers(self) -> Headers:
        dropped = (b"content-type", b"content-length", b"transfer-encoding", b"accept")
        return [(key, value) for key, value in self._request.headers if key not in dropped]

    async def _load(self, path: str, body: Mapping[str, Any], name: str, model_id: str) -> None:
        """A request without a question loads its model, or lets it leave."""
        leaves = requests.leaves_at_once(body)
        started = self._clock()
        if not leaves:
            (await self._backend.acquire(model_id)).release()
        row: dict[str, Any] = {"model": name, "created_at": now_text()}
        if path == "/api/chat":
            row["message"] = {"role": "assistant", "content": ""}
        elif path == "/api/generate":
            row["response"] = ""
        else:
            row = {"model": name, "embeddings": []} if path == "/api/embed" else {"embedding": []}
        if "created_at" in row:
            row |= {"done": True, "done_reason": "unload" if leaves else "load"}
            row["load_duration"] = round((self._clock() - started) * 1e9)
        self._tell_whole(row, stream=False)

    def _tell_whole(self, row: dict[str, Any], *, stream: bool) -> None:
        if stream:
            self._answer.whole(200, NDJSON, json_bytes(row) + b"\n")
        else:
            self._answer.json(200, row)


class _Ear(Answer):
    """In the client's place: hears llama-server's answer, and tells it to the real one."""

    def __init__(self, inside: Request, outer: Answer, teller: Teller, *, stream: bool) -> None:
        super().__init__(inside, self._hear, ())
        self._outer, self._teller, self._stream = outer, teller, stream
        self._events = Events()
        self._kept = bytearray()  # of an answer in one piece, or of an error
        self._kept_headers: Headers = []
        self._failed = ""

    @property
    def stream_framing(self) -> Framing:
        """Without chunks: what is heard is content."""
        return Framing.CLOSE

    def open(self, status: int, headers: Headers, framing: Framing) -> None:
        """The head: the client hears its own once there is something to say."""
        self.state, self.status, self.framing = AnswerState.OPEN, status, framing
        wanted = (b"retry-after", b"x-llama-wrangler-model")
        self._kept_headers = [(k, v) for k, v in headers if k.lower() in wanted]

    def piece(self, body: bytes) -> None:
        """A part of the body."""
        self._hear(body)

    def end(self) -> None:
        """The body is complete."""
        self.state = AnswerState.ENDED

    def _hear(self, body: bytes) -> None:
        if self._failed:
            return
        if self.status != 200 or not self._stream:
            self._kept += body
            if len(self._kept) > MOST_BYTES:
                self._kept, self._failed = bytearray(), _NO_END
            return
        for event in self._events.feed(body):
            if "error" in event:
                self._failed = error_text(event, _CUT_OFF)
                return
            for row in self._teller.event(event):
                self._say(row)
        if self._events.rest_bytes > MOST_BYTES:
            self._failed = _NO_END

    def _say(self, row: dict[str, Any]) -> None:
        if self._outer.state is AnswerState.UNSENT:
            headers: Headers = [(b"Content-Type", NDJSON.encode()), *self._kept_headers]
            self._outer.open(200, headers, self._outer.stream_framing)
        self._outer.piece(json_bytes(row) + b"\n")

    def over(self) -> None:
        """The exchange has ended, well or not: say the last word."""
        if self.status != 200 or self.state is not AnswerState.ENDED or self._failed:
            self._tell_failure()
        elif self._stream:
            self._say(self._teller.last())
            self._outer.end()
        else:
            answer = object_in(self._kept)
            if answer is None:
                self._outer.json(502, {"error": _CUT_OFF})
            else:
                self._outer.json(200, self._teller.whole(answer), *self._kept_headers)

    def _tell_failure(self) -> None:
        """As Ollama does: a status while nothing is out, else a line that ends the stream."""
        kept = object_in(self._kept) if self.status != 200 else None
        said = self._failed or error_text(kept, _CUT_OFF)
        if self._outer.state is AnswerState.UNSENT:
            status = self.status if self.status >= 400 else 502
            self._outer.json(status, {"error": said}, *self._kept_headers)
        else:
            self._outer.piece(json.dumps({"error": said}).encode() + b"\n")
            self._outer.end()


def _teller(path: str, asked: requests.Asked, name: str, times: Times) -> Teller:
    if asked.path == requests.EMBEDDINGS_PATH:
        return EmbedTeller(name, times, single=path == "/api/embeddings")
    if asked.path == requests.CHAT_PATH:
        return ChatTeller(name, times, flat=path == "/api/generate")
    return TextTeller(name, times)
