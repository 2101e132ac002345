"""llama.cpp's `llama-quantize`: what it offers, and what it would make (b11434)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import BadRequest
from tray_app.engine.process import ChildProcess, LaunchSpec
from tray_app.engine.runtime.probe import ask

HELP_S = 15.0
DRY_RUN_S = 60.0  # 0.03 s for 272 tensors; headers of large models take a second
MIB, GIB = 1 << 20, 1 << 30
MOST_OVERRIDES = 200
# The models that its help measures types with, in weights (their cards).
_MEASURED = {"Llama-3-8B": 8.03e9, "Mistral-7B": 7.24e9, "7B": 6.74e9}

_TYPE = re.compile(r"^\s*(?:\d+\s+or\s+)?([A-Z][A-Z0-9_]+)\s*:\s*(.*)$")
_ALIAS = re.compile(r"alias for ")
_BITS = re.compile(r"^([\d.]+)\s+bpw")
_MODEL_SIZE = re.compile(r"^([\d.]+)G\b.*@\s*(\S+)\s*$")
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")
_FALLBACK = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")
_TENSOR = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")
_FAULT = re.compile(r"invalid|error|failed to", re.IGNORECASE)
_OVERRIDE = re.compile(r"([A-Za-z0-9_.\[\](){}|*+?^$\\-]{1,120})=([A-Za-z][A-Za-z0-9_]{1,15})")
_OWN_OPTIONS = {"token_embd": "--token-embedding-type", "output": "--output-tensor-type"}


@dataclass(frozen=True, slots=True)
class Offered:
    """A type of the tool's list."""

    label: str
    bits_per_weight: float | None  # of a large model; of a small one it is more


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a dry run said."""

    size_bytes: int | None
    fallbacks: int = 0
    needs_imatrix: bool = False
    problem: str = ""


def offered(tool: Path) -> tuple[Offered, ...]:
    """The types that the tool lists, aliases and plain copying left out. Blocks for 0.02 s.

    Raises RuntimeMissing when it cannot be run.
    """
    return read_types(_tolerant(tool, ("--help",), HELP_S))


def read_types(text: str) -> tuple[Offered, ...]:
    """The types in the tool's help."""
    _, _, listed = text.partition("allowed quantization types")
    found: dict[str, Offered] = {}
    for line in listed.splitlines():
        match = _TYPE.match(line)
        if match and match[1] != "COPY" and not _ALIAS.match(match[2]):
            found.setdefault(match[1], Offered(match[1], _bits(match[1], match[2])))
    return tuple(found.values())


def _bits(label: str, told: str) -> float | None:
    if label in ("F16", "BF16", "F32"):
        return 32.0 if label == "F32" else 16.0
    plain, sized = _BITS.match(told), _MODEL_SIZE.match(told)
    if plain:
        return float(plain[1])
    weights = _MEASURED.get(sized[2]) if sized else None
    return round(float(sized[1]) * GIB * 8 / weights, 2) if sized and weights else None


def override_words(overrides: Sequence[str]) -> tuple[str, ...]:
    """The tool's arguments for "attn_v=q8_0" and its like. Raises BadRequest."""
    if len(overrides) > MOST_OVERRIDES:
        raise BadRequest(f"{len(overrides)} overrides are too many.", "Use patterns.")
    words: list[str] = []
    for each in overrides:
        match = _OVERRIDE.fullmatch(each.strip())
        if match is None:
            raise BadRequest(
                f"{each[:80]!r} is no override of a tensor's type.",
                "Write a tensor's name or pattern and a type: attn_v=q8_0, token_embd=q6_k.",
            )
        name, kind = match[1], match[2].lower()
        own = _OWN_OPTIONS.get(name.removesuffix(".weight"))
        words += (own, kind) if own else ("--tensor-type", f"{name}={kind}")
    return tuple(words)


def foresee(tool: Path, model: Path, label: str, options: tuple[str, ...] = ()) -> Foreseen:
    """What quantizing would come to; nothing is written. Blocks for 0.03 s and more."""
    words = ("--allow-requantize", *options, "--dry-run", str(model), label)
    text = _tolerant(tool, words, DRY_RUN_S)
    size, fallback = _SIZE.search(text), _FALLBACK.search(text)
    faults = [line for line in text.splitlines() if _FAULT.search(line)]
    faults.sort(key=lambda line: "imatrix" not in line)  # a bad matrix is told by two lines
    return Foreseen(
        round(float(size[1]) * MIB) if size else None,
        int(fallback[1]) if fallback else 0,
        "requires an importance matrix" in text or "importance matrix is needed" in text,
        faults[0].strip()[:200] if faults and not size else "",
    )


def _tolerant(tool: Path, arguments: tuple[str, ...], timeout_s: float) -> str:
    """What the tool prints; `--help` ends with status 1, which `ask` takes for a failure."""
    lines: list[str] = []
    spec = LaunchSpec((str(tool), *arguments))
    try:
        with ChildProcess(spec, on_line=lines.append, kind="probe") as child:
            if child.wait(timeout_s) is None:
                child.stop(grace_s=0)
    except OSError:
        return ask(tool, arguments, timeout_s)  # says why it cannot be run
    return "\n".join(lines[:20_000])


def tensors_done(line: str) -> tuple[int, int] | None:
    """(tensors done, tensors) that a line of its work tells."""
    match = _TENSOR.match(line)
    return (int(match[1]), int(match[2])) if match else None
