"""Which model a name in a request means, and what `/v1/models` lists: the gateway's questions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ModelNotFound, ModelUnavailable, NoActiveModel
from .values import Model, ModelState, ModelStatus

DEFAULT = "default"
LATEST = ":latest"


def resolve(
    name: str | None,
    models: Sequence[Model],
    aliases: Mapping[str, str],
    active_id: str | None,
) -> Model:
    """The model that `name` means, its file being there.

    Raises as `find`, and ModelUnavailable.
    """
    found = find(name, models, aliases, active_id)
    if not found.available:
        raise ModelUnavailable(
            f"The file of {found.id} is not there now.", f"Connect the drive of {found.path}."
        )
    return found


def find(
    name: str | None,
    models: Sequence[Model],
    aliases: Mapping[str, str],
    active_id: str | None,
) -> Model:
    """The model that `name` means.

    No name, `default` and aliases of it mean the active model; otherwise an id, then an id
    without regard to case, then a name or id without its quantization if only one fits.
    A tag `:latest` is dropped where no model has it: Ollama's lists and clients add it.
    Raises NoActiveModel, ModelNotFound.
    """
    wanted = (name or "").strip() or DEFAULT
    by_id = {model.id: model for model in models}
    if wanted not in by_id and wanted not in aliases:
        wanted = wanted.removesuffix(LATEST)
    if wanted not in by_id:
        wanted = aliases.get(wanted, wanted)
    if wanted == DEFAULT and DEFAULT not in by_id:
        if active_id is None:
            raise NoActiveModel(
                "No model is chosen yet.", "Choose one in the tray menu, or name it in the request."
            )
        wanted = active_id
    found = by_id.get(wanted) or _only(wanted, models)
    if found is None:
        close = difflib.get_close_matches(wanted, list(by_id), n=3, cutoff=0.4)
        raise ModelNotFound(
            f"There is no model “{wanted[:200]}”.",
            f"Did you mean {', '.join(close)}?" if close else "See /v1/models for what there is.",
        )
    return found


def _only(wanted: str, models: Sequence[Model]) -> Model | None:
    """The one model that goes by this name; an exact id beats a name without quantization."""
    folded = wanted.casefold()
    by_id = [m for m in models if m.id.casefold() == folded]
    by_name = [m for m in models if folded in _names(m)]
    for found in (by_id, by_name):
        if len(found) == 1:
            return found[0]
    return None


def _names(model: Model) -> set[str]:
    names = (model.name, model.id.rsplit(":", 1)[0], model.path.name, model.path.stem)
    return {name.casefold() for name in names}


def model_rows(
    models: Sequence[Model],
    statuses: Mapping[str, ModelStatus],
    aliases: Mapping[str, str],
    active_id: str | None,
) -> list[dict[str, Any]]:
    """The `data` of OpenAI's `/v1/models`: `default` and aliases first, then every usable model."""
    by_id = {model.id: model for model in models if model.available}
    rows = []
    if active_id in by_id:
        rows.append(_row(DEFAULT, by_id[active_id], statuses, active_id))
    for alias, target in aliases.items():
        meant = by_id.get(active_id or "") if target == DEFAULT else by_id.get(target)
        if meant is not None:
            rows.append(_row(alias, meant, statuses, meant.id))
    rows += [_row(model.id, model, statuses, None) for model in by_id.values()]
    return rows


def _row(
    name: str, model: Model, statuses: Mapping[str, ModelStatus], stands_for: str | None
) -> dict[str, Any]:
    status = statuses.get(model.id, ModelStatus(model.id))
    row: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": int(model.modified_at),
        "owned_by": "llama-wrangler",
        "status": {"value": _WORDS.get(status.state, "unloaded")},
        "meta": {
            "architecture": model.architecture,
            "quantization": model.quantization,
            "n_params": model.parameter_count,
            "n_ctx_train": model.context_length,
            "size": model.size_bytes,
        },
    }
    if stands_for is not None:
        row["stands_for"] = stands_for
    return row


# The words llama-server's own router uses, so that its clients understand ours.
_WORDS = {
    ModelState.READY: "loaded",
    ModelState.LOADING: "loading",
    ModelState.WAITING: "loading",
    ModelState.BACKOFF: "loading",
    ModelState.FAILED: "failed",
}
