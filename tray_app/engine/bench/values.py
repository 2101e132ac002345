"""The frozen values of measurements. Speeds are tokens a second; `None` is "not known"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BenchWish:
    """What is to be measured; 0 tokens leave a test out."""

    prompt_tokens: int = 512
    generated_tokens: int = 128
    repetitions: int = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """One test, over its repetitions."""

    tokens_per_s: float
    stddev_per_s: float | None  # None: of one repetition alone


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What the tool says it ran with, as far as it changes the speed."""

    threads: int | None = None
    gpu_layers: int | None = None  # None: as many as llama.cpp takes by default
    kv_cache_type: str | None = None  # "f16"; "q8_0/f16" where keys and values differ
    flash_attention: str | None = None  # "on", "off" or "auto"
    batch_size: int | None = None
    ubatch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run of the tool came to."""

    build: int | None
    cpu: str
    gpu: str  # "" without one
    settings: BenchSettings
    prompt: Speed | None  # None: not asked for
    generation: Speed | None


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One measurement as it is kept."""

    id: int  # grows with time
    model_id: str
    model_size_bytes: int
    measured_at: float
    runtime_id: str
    backend: str
    build: int | None
    device: str  # the name of the GPU or processor that computed
    prompt_tokens: int
    generated_tokens: int
    repetitions: int
    prompt: Speed | None
    generation: Speed | None
    settings: BenchSettings
    in_memory: tuple[str, ...] = ()  # models that were in memory meanwhile, idle
    left_out: tuple[str, ...] = ()  # what the model is served with and was not measured with
    busy_percent: float | None = None  # of the processor, by others, just before


@dataclass(frozen=True, slots=True)
class Against:
    """An earlier measurement that the newest is held against. More than 1: the newest is faster."""

    run: BenchRun
    prompt_ratio: float | None
    generation_ratio: float | None
    changes: tuple[str, ...] = ()  # what was different then, in words


@dataclass(frozen=True, slots=True)
class ModelBench:
    """The newest measurement of a model, and what it compares with."""

    newest: BenchRun
    previous: Against | None  # the last one before of the same tests
    runtimes: tuple[Against, ...]  # the newest of the same tests on each other runtime


@dataclass(frozen=True, slots=True)
class BenchRunning:
    """The measurement in progress."""

    job_id: str
    model_id: str


@dataclass(frozen=True, slots=True)
class BenchHistory:
    """What is kept, newest first."""

    runs: tuple[BenchRun, ...]
    models: tuple[ModelBench, ...]  # one for each model, the last measured first
    running: BenchRunning | None
