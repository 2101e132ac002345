"""llama.cpp's `llama-quantize`: what it offers, and what it would make (b11434)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.process import ChildProcess, LaunchSpec
from tray_app.engine.runtime.probe import ask

HELP_S = 15.0
DRY_RUN_S = 60.0  # 0.03 s for 272 tensors; headers of large models take a second
MIB = 1 << 20

_TYPE = re.compile(r"^\s*(?:\d+\s+or\s+)?([A-Z][A-Z0-9_]+)\s*:\s*(.*)$")
_ALIAS = re.compile(r"alias for ")
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")
_FALLBACK = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")
_TENSOR = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a dry run said."""

    size_bytes: int | None
    fallbacks: int = 0
    needs_imatrix: bool = False


def offered(tool: Path) -> tuple[str, ...]:
    """The types that the tool lists, aliases and plain copying left out. Blocks for 0.02 s.

    Raises RuntimeMissing when it cannot be run.
    """
    text = _tolerant(tool, ("--help",), HELP_S)
    _, _, listed = text.partition("allowed quantization types")
    found = []
    for line in listed.splitlines():
        match = _TYPE.match(line)
        if match and match[1] != "COPY" and not _ALIAS.match(match[2]):
            found.append(match[1])
    return tuple(dict.fromkeys(found))


def foresee(tool: Path, model: Path, label: str) -> Foreseen:
    """What quantizing would come to; nothing is written. Blocks for 0.03 s and more."""
    text = _tolerant(tool, ("--allow-requantize", "--dry-run", str(model), label), DRY_RUN_S)
    size, fallback = _SIZE.search(text), _FALLBACK.search(text)
    return Foreseen(
        round(float(size[1]) * MIB) if size else None,
        int(fallback[1]) if fallback else 0,
        "requires an importance matrix" in text or "importance matrix is needed" in text,
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
