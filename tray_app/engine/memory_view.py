"""What a model takes, part by part: as measured, or estimated at once for settings not yet kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import launch
from .fit import FitResult, estimate
from .settings import ModelSettings
from .values import Model

if TYPE_CHECKING:
    from .core import Engine

# Bytes of a block of 32 values against their 64 bytes at F16 (ggml-common.h, block_q8_0 and so on).
KV_RATIO: Mapping[str, float] = {
    "f32": 2.0,
    "f16": 1.0,
    "bf16": 1.0,
    "q8_0": 34 / 64,
    "q5_1": 24 / 64,
    "q5_0": 22 / 64,
    "q4_1": 20 / 64,
    "q4_0": 18 / 64,
    "iq4_nl": 18 / 64,
}


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """All devices together, in bytes; context in tokens."""

    context_wished: int
    context_length: int  # what it comes to
    gpu_layers: int | None
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    beside_bytes: int  # projector, draft model, adapters
    total_bytes: int
    budget_bytes: int  # what models may hold together now
    measured: bool


def model_memory(engine: Engine, model: Model, changes: Mapping[str, Any]) -> ModelMemory:
    """For the model's settings with `changes`. Blocks for some ms; measures nothing.

    Raises SettingsInvalid, RuntimeMissing.
    """
    settings = engine.store.for_model(model.id, changes)
    runtime = engine.runtime.require(settings.runtime)
    wished = launch.context_wished(settings, model)
    fit = engine.runtime.known_fit(model, settings, runtime)
    if fit is None:
        own = engine.store.for_model(model.id)
        fit = _estimated(model, settings, wished, engine.runtime.known_fit(model, own, runtime))
    beside = sum(
        path.stat().st_size
        for path in launch.files_beside(settings, model, engine.planner.draft_path(model, settings))
        if path.is_file()
    )
    return ModelMemory(
        context_wished=wished,
        context_length=fit.context_length,
        gpu_layers=settings.gpu_layers if settings.gpu_layers is not None else fit.gpu_layers,
        weights_bytes=sum(part.weights_bytes for part in fit.memory),
        kv_cache_bytes=sum(part.kv_cache_bytes for part in fit.memory),
        compute_bytes=sum(part.compute_bytes for part in fit.memory),
        beside_bytes=beside,
        total_bytes=fit.memory_bytes + beside,
        budget_bytes=engine.memory_now().budget_bytes,
        measured=fit.measured,
    )


def _estimated(
    model: Model, settings: ModelSettings, context: int, known: FitResult | None
) -> FitResult:
    """From the header, with the compute buffer of a measurement where there is one."""
    fit = estimate(model, context, settings.gpu_layers)
    (part,) = fit.memory
    ratio = KV_RATIO.get(settings.kv_cache_type or "f16", 1.0)
    part = replace(part, kv_cache_bytes=int(part.kv_cache_bytes * ratio))
    if known is not None:
        part = replace(
            part,
            compute_bytes=sum(each.compute_bytes for each in known.memory),
            weights_bytes=sum(each.weights_bytes for each in known.memory),
        )
    return replace(fit, memory=(part,))
