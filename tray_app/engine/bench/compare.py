"""Measurements held against each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .values import Against, BenchRun, BenchSettings, ModelBench, Speed

_SETTINGS = {
    "threads": "threads",
    "gpu_layers": "GPU layers",
    "kv_cache_type": "KV cache",
    "flash_attention": "flash attention",
    "batch_size": "batch",
    "ubatch_size": "physical batch",
}


def by_model(runs: Sequence[BenchRun]) -> tuple[ModelBench, ...]:
    """One for each model of `runs`, which are the newest first; so are the results."""
    models: dict[str, list[BenchRun]] = {}
    for run in runs:
        models.setdefault(run.model_id, []).append(run)
    return tuple(_model(own) for own in models.values())


def _model(runs: Sequence[BenchRun]) -> ModelBench:
    newest, *earlier = runs
    # Other tests tell another speed: a long prompt is read more slowly than a short one.
    alike = [run for run in earlier if _tests(run) == _tests(newest)]
    others: dict[str, BenchRun] = {}
    for run in alike:
        if run.runtime_id != newest.runtime_id:
            others.setdefault(run.runtime_id, run)
    return ModelBench(
        newest,
        against(newest, alike[0]) if alike else None,
        tuple(against(newest, run) for run in others.values()),
    )


def against(newest: BenchRun, earlier: BenchRun) -> Against:
    """How many times as fast the newest is."""
    return Against(
        earlier,
        _ratio(newest.prompt, earlier.prompt),
        _ratio(newest.generation, earlier.generation),
        _changes(newest, earlier),
    )


def _tests(run: BenchRun) -> tuple[int, int]:
    return run.prompt_tokens, run.generated_tokens


def _ratio(newest: Speed | None, earlier: Speed | None) -> float | None:
    if newest is None or earlier is None or earlier.tokens_per_s <= 0:
        return None
    return newest.tokens_per_s / earlier.tokens_per_s


def _changes(newest: BenchRun, earlier: BenchRun) -> tuple[str, ...]:
    """What was another then, newest first: "KV cache q8_0, before f16"."""
    found = []
    if newest.runtime_id != earlier.runtime_id:
        found.append(f"{newest.runtime_id}, before {earlier.runtime_id}")
    if newest.device != earlier.device:
        found.append(f"{newest.device or 'unknown'}, before {earlier.device or 'unknown'}")
    if newest.model_size_bytes != earlier.model_size_bytes:
        found.append("another model file")
    for name, words in _SETTINGS.items():
        now, then = _word(newest.settings, name), _word(earlier.settings, name)
        if now != then:
            found.append(f"{words} {now}, before {then}")
    if newest.in_memory != earlier.in_memory:
        found.append("other models in memory")
    return tuple(found)


def _word(settings: BenchSettings, name: str) -> str:
    value = getattr(settings, name)
    return "by default" if value is None else str(value)
