"""The frozen values of format detection. `None` always means "not known"."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Format(StrEnum):
    """What something is."""

    GGUF = "gguf"
    GGML = "ggml"  # the files before GGUF
    SAFETENSORS = "safetensors"  # one file by itself
    PICKLE = "pickle"  # PyTorch's .bin and .pt
    HUGGINGFACE = "huggingface"  # a folder with config, tokenizer and weights
    LORA = "lora"  # an adapter's folder
    MLX = "mlx"
    ONNX = "onnx"
    OLLAMA = "ollama"  # a blob of Ollama's store
    UNKNOWN = "unknown"


class Action(StrEnum):
    """What can be done with it."""

    RUN = "run"
    IMPORT = "import"
    CONVERT = "convert"
    CONVERT_LORA = "convert_lora"
    QUANTIZE = "quantize"
    SPLIT = "split"
    MERGE = "merge"


@dataclass(frozen=True, slots=True)
class Tensors:
    """What the headers of weights say together."""

    count: int
    parameters: int
    bytes: int
    types: tuple[tuple[str, int], ...] = ()  # ("BF16", parameters), the most first

    @property
    def main_type(self) -> str | None:
        """The type that most parameters have."""
        return self.types[0][0] if self.types else None


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What turns text into tokens."""

    kind: str  # "bpe", "unigram", "wordpiece", "sentencepiece", "tiktoken"
    file: str
    has_chat_template: bool | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What was found at a path. `problem` and `remedy` say why nothing can be done, if so."""

    path: Path
    format: Format
    title: str  # one plain sentence
    actions: tuple[Action, ...] = ()
    files: tuple[str, ...] = ()  # below the path, those that matter
    size_bytes: int = 0
    architecture: str | None = None  # "LlamaForCausalLM", or GGUF's "llama"
    quantization: str | None = None  # "Q4_K_M", "GPTQ 4 bit", "FP8"
    tensors: Tensors | None = None
    tokenizer: Tokenizer | None = None
    context_length: int | None = None
    vision: bool = False  # it sees pictures, through a projector of its own
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""
    facts: tuple[tuple[str, str], ...] = field(default=())  # for showing: ("Version", "3")
