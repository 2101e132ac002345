"""What a request in Ollama's form asks of llama-server.

Ollama's form is its docs/api.md and the `ollama` Python client's types (0.6.3); llama-server's is
tools/server/README.md. What only a load can change (`num_ctx`, `num_gpu`, ...) is left to the
settings of the model: a client must not cost everybody else a reload.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .engine.errors import BadRequest

CHAT_PATH = b"/v1/chat/completions"
COMPLETION_PATH = b"/completion"
INFILL_PATH = b"/infill"
EMBEDDINGS_PATH = b"/v1/embeddings"

# Options that both know by the same name.
_SAME_NAME = (
    "frequency_penalty",
    "min_p",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "presence_penalty",
    "repeat_last_n",
    "repeat_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
)
# The beginnings of base64, as in RFC 4648, of each format's first bytes.
_PICTURES = (("/9j/", "jpeg"), ("iVBOR", "png"), ("R0lGOD", "gif"), ("UklGR", "webp"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What goes to llama-server. Without a path the model is only to be loaded, or to leave."""

    path: bytes | None
    body: dict[str, Any]
    stream: bool


def model_in(body: Mapping[str, Any]) -> str:
    """The name of the model. Raises BadRequest."""
    name = body.get("model") or body.get("name")
    if not isinstance(name, str):
        raise BadRequest("The request names no model.", 'Send {"model": "..."}.')
    return name


def leaves_at_once(body: Mapping[str, Any]) -> bool:
    """Whether the model is to leave memory after this request (`keep_alive` of zero)."""
    wish = body.get("keep_alive")
    if isinstance(wish, str):
        wish = wish.strip().rstrip("hmsuµn")
        return wish.replace(".", "").strip("0") == "" and wish != ""
    return isinstance(wish, int | float) and not isinstance(wish, bool) and wish == 0


def chat(body: Mapping[str, Any]) -> Asked:
    """`/api/chat`. Raises BadRequest."""
    messages = body.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("`messages` is not a list of objects.", "See Ollama's /api/chat.")
    if not messages:
        return Asked(None, {}, _streams(body))
    asked = _common(body) | {"messages": _messages(messages)}
    if body.get("tools"):
        asked["tools"] = body["tools"]
    return Asked(CHAT_PATH, _as_chat(asked, body), _streams(body))


def generate(body: Mapping[str, Any]) -> Asked:
    """`/api/generate`: a chat of one message, a bare prompt with `raw`, or a gap to fill.

    Raises BadRequest.
    """
    prompt, suffix = _text(body, "prompt"), _text(body, "suffix")
    if _text(body, "template"):
        raise BadRequest(
            "A prompt template is not taken from a request.",
            "Set the chat template in the model's settings, or send `raw` with a whole prompt.",
        )
    images = body.get("images") or []
    if not prompt and not suffix and not images:
        return Asked(None, {}, _streams(body))
    asked = _common(body)
    if suffix:
        asked |= {"input_prefix": prompt, "input_suffix": suffix}
        return Asked(INFILL_PATH, asked | _bare(body), _streams(body))
    if body.get("raw"):
        return Asked(COMPLETION_PATH, asked | {"prompt": prompt} | _bare(body), _streams(body))
    system = _text(body, "system")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt, "images": images})
    asked["messages"] = _messages(messages)
    return Asked(CHAT_PATH, _as_chat(asked, body), _streams(body))


def embed(body: Mapping[str, Any]) -> Asked:
    """`/api/embed` with `input`, or the older `/api/embeddings` with `prompt`.

    Raises BadRequest.
    """
    wanted = body.get("input", body.get("prompt"))
    texts = wanted if isinstance(wanted, list) else [wanted]
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest("`input` is neither a text nor a list of texts.", "See /api/embed.")
    if not any(texts):
        return Asked(None, {}, stream=False)
    return Asked(EMBEDDINGS_PATH, {"input": texts}, stream=False)


def _streams(body: Mapping[str, Any]) -> bool:
    return body.get("stream") is not False


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"`{key}` is not a text.", "See Ollama's docs/api.md.")
    return value or ""


def _common(body: Mapping[str, Any]) -> dict[str, Any]:
    """Stream and sampling, under names that all of llama-server's endpoints read."""
    options = body.get("options") or {}
    if not isinstance(options, Mapping):
        raise BadRequest("`options` is not an object.", "See Ollama's docs/api.md.")
    asked: dict[str, Any] = {"stream": _streams(body)}
    asked |= {name: options[name] for name in _SAME_NAME if options.get(name) is not None}
    if isinstance(options.get("num_keep"), int):
        asked["n_keep"] = options["num_keep"]
    tokens = options.get("num_predict")
    if isinstance(tokens, int) and tokens >= 0:  # below zero: until the model ends it
        asked["n_predict"] = tokens
    return asked


def _as_chat(asked: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """What llama-server's chat endpoint names in OpenAI's way."""
    if "n_predict" in asked:
        asked["max_tokens"] = asked.pop("n_predict")
    if asked["stream"]:
        asked["stream_options"] = {"include_usage": True}
    form = body.get("format")
    if form == "json":
        asked["response_format"] = {"type": "json_object"}
    elif isinstance(form, Mapping):
        schema = {"name": "answer", "schema": form}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    if body.get("logprobs"):
        asked |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    think = body.get("think")
    if isinstance(think, bool):
        asked["chat_template_kwargs"] = {"enable_thinking": think}
    elif isinstance(think, str):  # "low", "medium", "high"
        asked["chat_template_kwargs"] = {"enable_thinking": True, "reasoning_effort": think}
    return asked


def _bare(body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer's form for llama-server's own endpoints; an empty schema is any JSON."""
    form = body.get("format")
    if form == "json":
        return {"json_schema": {}}
    return {"json_schema": form} if isinstance(form, Mapping) else {}


def _messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as OpenAI has them: pictures as parts, tool calls with ids and JSON arguments."""
    told: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # (function, id) that wait for their tool's answer
    for number, message in enumerate(messages):
        row: dict[str, Any] = {"role": message.get("role") or "user", "content": _content(message)}
        if message.get("thinking"):
            row["reasoning_content"] = message["thinking"]
        calls = message.get("tool_calls") or []
        if calls:
            row["tool_calls"] = [_call(call, f"call_{number}_{n}") for n, call in enumerate(calls)]
            open_calls += [(c["function"]["name"], c["id"]) for c in row["tool_calls"]]
        if row["role"] == "tool":
            row["tool_call_id"] = _answered(open_calls, message.get("tool_name"))
        told.append(row)
    return told


def _content(message: Mapping[str, Any]) -> Any:
    text, pictures = message.get("content") or "", message.get("images") or []
    if not pictures:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for picture in pictures:
        if not isinstance(picture, str):
            raise BadRequest("A picture is not base64 text.", "Send it as Ollama's clients do.")
        url = picture if picture.startswith("data:") else _data_url(picture)
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _data_url(picture: str) -> str:
    kind = next((kind for start, kind in _PICTURES if picture.startswith(start)), "png")
    return f"data:image/{kind};base64,{picture}"


def _call(call: Any, call_id: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRequest("A tool call names no function.", "See Ollama's docs/api.md.")
    arguments = function.get("arguments") or {}
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    named = {"name": function["name"], "arguments": arguments}
    return {"id": call_id, "type": "function", "function": named}


def _answered(open_calls: list[tuple[str, str]], name: Any) -> str:
    """The id of the oldest call that a tool's message can belong to."""
    if not open_calls:
        return "call_0"
    at = next((n for n, (called, _) in enumerate(open_calls) if called == name), 0)
    return open_calls.pop(at)[1]
