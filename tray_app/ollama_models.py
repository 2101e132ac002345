"""The library in the words of Ollama's API: `/api/tags`, `/api/ps` and `/api/show`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from .engine.values import Model, ModelDetails, ModelKind, ModelStatus, Running
from .ollama_answers import now_text

# The release whose API this is; clients ask for 0.6.4 at least, and read three bare numbers.
API_VERSION = "0.12.6"
_LATEST = ":latest"
# What chat templates of thinking models speak of.
_THINKING = ("enable_thinking", "<think>", "reasoning_effort")
_MOST_ITEMS = 64  # of a list in `model_info`; Ollama leaves longer ones out too
# When a model that stays will leave: 292 years from now, the longest that Go can count in ns.
_NEVER_S = 292 * 365 * 86400.0


def tags(rows: Iterable[Mapping[str, Any]], models: Iterable[Model]) -> dict[str, Any]:
    """`/api/tags`, from the rows of `/v1/models`: aliases are models here."""
    by_id = {model.id: model for model in models}
    found = ((str(row["id"]), by_id.get(row.get("stands_for") or row["id"])) for row in rows)
    return {"models": [_tag(name, model) for name, model in found if model is not None]}


def running(models: Iterable[Running], now: float) -> dict[str, Any]:
    """`/api/ps`."""
    rows = []
    for row in models:
        status, model = row.status, row.model
        size = status.memory_bytes or model.size_bytes
        leaves_at = now + _NEVER_S if row.leaves_at is None else row.leaves_at
        rows.append(
            {
                **_named(_tagged(model.id)),
                "size": size,
                "digest": digest(model),
                "details": details(model),
                "expires_at": now_text(leaves_at),
                "size_vram": _on_gpu(status, size),
                "context_length": status.context_length or 0,
            }
        )
    return {"models": rows}


def shown(found: ModelDetails) -> dict[str, Any]:
    """`/api/show`."""
    model = found.model
    told = {key: value for key, value in found.header.items() if _plain(value)}
    return {
        "modelfile": f"FROM {model.id}\n",
        "parameters": "\n".join(f"{key} {value}" for key, value in found.answering.items()),
        "template": found.chat_template,
        "license": model.license or "",
        "details": details(model),
        "model_info": told,
        "capabilities": capabilities(found),
        "modified_at": now_text(model.modified_at),
    }


def capabilities(found: ModelDetails) -> list[str]:
    """What the model is able to do, by Ollama's words."""
    if found.model.kind is ModelKind.EMBEDDING:
        return ["embedding"]
    able = ["completion"]
    if "tools" in found.chat_template:
        able.append("tools")
    if any(word in found.chat_template for word in _THINKING):
        able.append("thinking")
    if found.model.mmproj_path is not None:
        able.append("vision")
    if any(key.startswith("tokenizer.ggml.fim_") for key in found.header):
        able.append("insert")
    return able


def details(model: Model) -> dict[str, Any]:
    """What lists show beside a name."""
    family = model.architecture or ""
    size = model.size_label or _size_label(model.parameter_count)
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": size,
        "quantization_level": model.quantization or "",
    }


def digest(model: Model) -> str:
    """Tells one version of a model from another, as clients use it.

    It is no hash of the content: that would mean to read every file.
    """
    text = f"{model.id}\n{model.size_bytes}\n{model.modified_at}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _tag(name: str, model: Model) -> dict[str, Any]:
    return {
        **_named(_tagged(name)),
        "modified_at": now_text(model.modified_at),
        "size": model.size_bytes,
        "digest": digest(model),
        "details": details(model),
    }


def _named(name: str) -> dict[str, str]:
    return {"name": name, "model": name}


def _tagged(name: str) -> str:
    """Names have a tag in Ollama's lists, and its clients compare them with it."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def _size_label(parameters: int | None) -> str:
    if parameters is None:
        return ""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M"


def _on_gpu(status: ModelStatus, size: int) -> int:
    offload = status.offload
    if offload is None or not offload.total:
        return 0
    return size * offload.actual // offload.total


def _plain(value: Any) -> bool:
    """Whether JSON can carry it, in a size that a client wants."""
    if isinstance(value, float):
        return math.isfinite(value)
    return len(value) <= _MOST_ITEMS if isinstance(value, tuple) else True
