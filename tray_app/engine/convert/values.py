"""The frozen values of conversion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One quantization that a model can be made into."""

    label: str  # "Q4_K_M", as llama.cpp's tool calls it
    about: str  # in one plain sentence
    size_bytes: int | None  # what the tool says beforehand; None: it could not say
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
