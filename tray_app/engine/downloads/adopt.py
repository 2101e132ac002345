"""What a hub says of a model's settings becomes the model's own, unless the user has set some."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tray_app.engine.errors import SettingsInvalid
from tray_app.engine.settings import ModelSettings, SettingsStore
from tray_app.engine.values import Model

from .values import MODELS, Hub, Plan

_KNOWN = frozenset(field.name for field in dataclasses.fields(ModelSettings))


def take_settings(store: SettingsStore, model: Model, plan: Plan, models: Path) -> list[str]:
    """Set what the plan brings; a sentence for what could not be.

    Nothing happens for a model that has settings of its own: a second pull must not undo what
    the user has chosen. Raises OSError.
    """
    wished = {key: value for key, value in plan.settings.items() if key in _KNOWN}
    if not wished or model.id in store.current.models:
        return []
    if "extra_args" in wished:
        wished["extra_args"] = _words(wished["extra_args"], models)
    try:
        store.change_model(model.id, wished)
    except SettingsInvalid as error:
        return [f"Its settings could not be taken over: {error.message}"]
    return []


def take_alias(store: SettingsStore, model: Model, plan: Plan) -> str | None:
    """Let a model of Ollama's answer to the name it was pulled by too; the new alias, or None.

    Clients that were set up for Ollama ask for "llama3.2:1b". A name that means something already
    is left alone. Raises OSError.
    """
    if plan.origin.get("hub") != Hub.OLLAMA or plan.title in (model.id, model.name):
        return None
    aliases = dict(store.current.aliases)
    if plan.title in aliases:
        return None
    try:
        store.change({"aliases": {**aliases, plan.title: model.id}})
    except SettingsInvalid:
        return None
    return plan.title


def drop_aliases(store: SettingsStore, model_id: str) -> bool:
    """Forget the aliases of a model that is gone; whether there were any. Raises OSError."""
    left = {name: target for name, target in store.current.aliases.items() if target != model_id}
    if len(left) == len(store.current.aliases):
        return False
    store.change({"aliases": left})
    return True


def _words(words: Any, models: Path) -> list[str]:
    """Arguments with the models folder put in. llama-server splits `--lora` at commas (b11434)."""
    prefix = f"{MODELS}/"
    placed = []
    for word in words:
        if word.startswith(prefix):
            word = str(models.joinpath(*word[len(prefix) :].split("/")))
            if "," in word:
                word = '"' + word.replace('"', '""') + '"'
        placed.append(word)
    return placed
