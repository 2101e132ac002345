"""The frozen values of conversion. Units are in the names; `None` always means "not known"."""

from __future__ import annotations

from dataclasses import dataclass

from tray_app.engine.errors import ErrorView


@dataclass(frozen=True, slots=True)
class Options:
    """How quantizations are made."""

    imatrix: str = ""  # "": none; "compute"; a matrix, or a text to compute one from
    overrides: tuple[str, ...] = ()  # "attn_v=q8_0", for tensors whose name matches
    measure: bool = False  # compare the perplexity with that of what it was made from


@dataclass(frozen=True, slots=True)
class Target:
    """One quantization that a model can be made into."""

    label: str  # "Q4_K_M", as llama.cpp's tool calls it
    about: str  # in one plain sentence
    size_bytes: int | None  # foreseen
    bits_per_weight: float | None = None
    fallbacks: int = 0  # tensors whose rows do not fit the type and become another one
    needs_imatrix: bool = False  # the tool refuses it without an importance matrix
    model_id: str | None = None  # of the library, if this quantization of it is there already


@dataclass(frozen=True, slots=True)
class Targets:
    """What can be made of one model here."""

    model_id: str
    quantization: str | None  # what it is now
    size_bytes: int
    warning: str  # that it is quantized already; empty when it is not
    free_bytes: int
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a quantization is from what it was made of, on a short text."""

    sentence: str
    perplexity: float
    reference_perplexity: float
    reference: str  # the quantization of what it was made of


@dataclass(frozen=True, slots=True)
class ConverterStatus:
    """The converter's own Python environment."""

    ready: bool
    installing: bool
    size_bytes: int  # on the disk now
    install_bytes: int  # what it will take
    python: str | None  # version that it is, or would be, made with
    problem: str = ""  # why it cannot be made
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ConvertPlan:
    """What can be made of original weights, before anything is done."""

    source: str  # for `convert_model`
    place: str  # "folder" or "hub"
    name: str  # of the models to be
    title: str
    problem: str
    remedy: str
    warnings: tuple[str, ...]
    architecture: str | None
    parameters: int | None
    context_length: int | None
    tokenizer: str | None
    has_chat_template: bool | None
    vision: bool
    lora: bool
    base: str | None  # of a LoRA adapter
    original_bytes: int
    download_bytes: int
    full_bytes: int | None  # the GGUF before it is quantized
    free_bytes: int
    targets: tuple[Target, ...]  # the largest first
    converter: ConverterStatus
    convert_s: float | None
    quantize_s_per_gb: float | None  # for each 10^9 bytes that are read, and target
    unfinished: str | None  # a conversion of this that can be continued
    license: str | None = None
    page: str | None = None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A conversion that did not come to its end, and what it has on the disk."""

    id: str
    title: str
    source: str
    steps: tuple[str, ...]
    step_number: int  # how many are done
    error: ErrorView | None
    size_bytes: int
    updated_at: float
    job_id: str | None  # that works on it now


@dataclass(frozen=True, slots=True)
class Conversions:
    """What the Convert page shows besides jobs."""

    unfinished: tuple[Unfinished, ...]
    converter: ConverterStatus
