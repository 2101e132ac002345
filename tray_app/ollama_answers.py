"""llama-server's answers in the words of Ollama's API: one object a line, durations in ns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

NDJSON = "application/x-ndjson"
# More than the longest answer: 100 texts of 4,096 numbers each take 9 MB.
MOST_BYTES = 64 * 1024 * 1024


class Teller(Protocol):
    """Turns llama-server's events, or its one object, into Ollama's."""

    def event(self, event: Mapping[str, Any]) -> Iterator[dict[str, Any]]: ...
    def last(self) -> dict[str, Any]: ...
    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]: ...


def now_text(at: float | None = None) -> str:
    """A time (seconds since 1970; now) as RFC 3339, as Go writes it."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return moment.isoformat().replace("+00:00", "Z")


@dataclass
class Times:
    """What the last object tells of counts and durations."""

    elapsed_s: Callable[[], float]
    wait_s: Callable[[], float]  # until the model was ready
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> None:
        """Remember counts, where the event has some."""
        self.usage = _table(event, "usage") or self.usage
        self.timings = _table(event, "timings") or self.timings

    def told(self) -> dict[str, int]:
        """The durations are nanoseconds."""
        prompt = self.usage.get("prompt_tokens")
        if prompt is None:  # llama-server's own endpoints tell timings alone
            prompt = self.timings.get("prompt_n", 0) + self.timings.get("cache_n", 0)
        made = self.usage.get("completion_tokens", self.timings.get("predicted_n", 0))
        return {
            "total_duration": _ns(self.elapsed_s()),
            "load_duration": _ns(self.wait_s()),
            "prompt_eval_count": int(prompt),
            "prompt_eval_duration": _ns(self.timings.get("prompt_ms", 0) / 1000),
            "eval_count": int(made),
            "eval_duration": _ns(self.timings.get("predicted_ms", 0) / 1000),
        }


class ChatTeller:
    """Answers of the chat endpoint, for `/api/chat`, or flat for `/api/generate`."""

    def __init__(self, model: str, times: Times, *, flat: bool) -> None:
        self._model, self._times, self._flat = model, times, flat
        self._reason = "stop"
        self._calls: dict[int, dict[str, str]] = {}

    def event(self, event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects for one event of the stream; tool calls are told once they are whole."""
        self._times.take(event)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            for call in delta.get("tool_calls") or ():
                self._collect(call)
            told = self._row(delta)
            if choice.get("finish_reason"):
                self._reason = _reason(choice["finish_reason"])
                if self._calls:
                    yield self._row({"tool_calls": list(self._calls.values())})
            if delta.get("content") or delta.get("reasoning_content"):
                yield told | _logprobs(choice)

    def last(self) -> dict[str, Any]:
        """The object that ends a stream."""
        return self._row({}) | self._end()

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The one object of an answer that is no stream."""
        self._times.take(answer)
        choice = (answer.get("choices") or [{}])[0]
        message = dict(choice.get("message") or {})
        message["tool_calls"] = [call.get("function") for call in message.get("tool_calls") or ()]
        self._reason = _reason(choice.get("finish_reason"))
        return self._row(message) | _logprobs(choice) | self._end()

    def _collect(self, call: Mapping[str, Any]) -> None:
        """Arguments come in pieces of JSON text."""
        function = call.get("function") or {}
        made = self._calls.setdefault(call.get("index") or 0, {"name": "", "arguments": ""})
        made["name"] += function.get("name") or ""
        made["arguments"] += function.get("arguments") or ""

    def _row(self, message: Mapping[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {"model": self._model, "created_at": now_text(), "done": False}
        text, thinking = message.get("content") or "", message.get("reasoning_content")
        if self._flat:
            return row | {"response": text} | ({"thinking": thinking} if thinking else {})
        told: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            told["thinking"] = thinking
        if message.get("tool_calls"):
            told["tool_calls"] = [_call(call) for call in message["tool_calls"]]
        return row | {"message": told}

    def _end(self) -> dict[str, Any]:
        return {"done": True, "done_reason": self._reason, **self._times.told()}


class TextTeller:
    """Answers of `/completion` and `/infill`, for `/api/generate`."""

    def __init__(self, model: str, times: Times) -> None:
        self._model, self._times = model, times
        self._reason = "stop"

    def event(self, event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The object for one event, when it has text."""
        self._times.take(event)
        if event.get("stop"):
            self._reason = "length" if event.get("stop_type") == "limit" else "stop"
        if event.get("content"):
            yield self._row(event["content"])

    def last(self) -> dict[str, Any]:
        """The object that ends a stream."""
        return self._row("") | self._end()

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The one object of an answer that is no stream."""
        rows = list(self.event({**answer, "stop": True}))
        return (rows[0] if rows else self._row("")) | self._end()

    def _row(self, text: str) -> dict[str, Any]:
        at = now_text()
        return {"model": self._model, "created_at": at, "response": text, "done": False}

    def _end(self) -> dict[str, Any]:
        return {"done": True, "done_reason": self._reason, **self._times.told()}


class EmbedTeller:
    """Answers of the embeddings endpoint, which are no streams."""

    def __init__(self, model: str, times: Times, *, single: bool) -> None:
        self._model, self._times, self._single = model, times, single

    def event(self, event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """There are none."""
        yield from ()

    def last(self) -> dict[str, Any]:
        """There is none."""
        return {}

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """`/api/embeddings` tells one vector and nothing else."""
        self._times.take(answer)
        rows = sorted(answer.get("data") or (), key=lambda row: int(row.get("index", 0)))
        vectors = [row.get("embedding") for row in rows]
        if self._single:
            return {"embedding": vectors[0] if vectors else []}
        times = self._times.told()
        kept = ("total_duration", "load_duration", "prompt_eval_count")
        return {"model": self._model, "embeddings": vectors, **{key: times[key] for key in kept}}


class Events:
    """The objects in a stream of server-sent events, from pieces that may be cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def rest_bytes(self) -> int:
        """How much is kept of an event that is not complete."""
        return len(self._rest)

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The objects that are complete now. Comments and the closing [DONE] are none."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            value = object_in(line[5:]) if line.startswith(b"data:") else None
            if value is not None:
                yield value


def object_in(text: bytes | bytearray) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def error_text(value: Mapping[str, Any] | None, otherwise: str) -> str:
    """The one line of text that Ollama's clients show for an error of ours or llama-server's."""
    error = value.get("error") if value else None
    if not isinstance(error, Mapping):
        return otherwise
    return f"{error.get('message') or otherwise} {error.get('remedy') or ''}".strip()


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments are an object; text that is none is handed on as it is."""
    arguments = object_in((call.get("arguments") or "{}").encode())
    if arguments is None:
        arguments = {"arguments": call.get("arguments")}
    return {"function": {"name": call.get("name") or "", "arguments": arguments}}


def _logprobs(choice: Mapping[str, Any]) -> dict[str, Any]:
    found = (choice.get("logprobs") or {}).get("content")
    return {"logprobs": found} if found else {}


def _reason(finish_reason: Any) -> str:
    return "length" if finish_reason == "length" else "stop"


def _table(event: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = event.get(key)
    return value if isinstance(value, Mapping) else {}


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
