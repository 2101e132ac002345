"""llama.cpp's `llama-quantize`: what it offers, what it would make, and running it (b11434)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import ConversionFailed, EngineError, NotEnoughDisk
from tray_app.engine.jobs import JobContext
from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec, exit_text
from tray_app.engine.runtime.probe import ask

HELP_S = 15.0
DRY_RUN_S = 60.0  # 0.03 s for 272 tensors; headers of large models take a second
POLL_S = 0.1
MIB = 1 << 20

_TYPE = re.compile(r"^\s*(?:\d+\s+or\s+)?([A-Z][A-Z0-9_]+)\s*:\s*(.*)$")
_ALIAS = re.compile(r"alias for ")
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")
_FALLBACK = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")
_TENSOR = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")
_FAULT = re.compile(r"(?:\berror\b|failed to quantize|No space left)", re.IGNORECASE)


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


def run(
    tool: Path,
    model: Path,
    target: Path,
    label: str,
    threads: int,
    registry: ChildRegistry | None,
    context: JobContext,
    tell: Callable[[int, int], None],
) -> None:
    """Quantize `model` to `target`. Blocks; `tell(tensors done, tensors)` comes on the way.

    Raises ConversionFailed, NotEnoughDisk, Cancelled, OSError.
    """
    words = (str(tool), "--allow-requantize", str(model), str(target), label, str(threads))
    faults: list[str] = []

    def read(line: str) -> None:
        match = _TENSOR.match(line)
        if match:
            tell(int(match[1]), int(match[2]))
        elif _FAULT.search(line) and len(faults) < 20:
            faults.append(line.strip()[:300])

    spec = LaunchSpec(words, log_path=context.log_path)
    with ChildProcess(
        spec, on_line=read, registry=registry, kind="quantize", marker=str(target)
    ) as child:
        while (status := child.wait(POLL_S)) is None:
            context.check()
    if status != 0:
        raise _failure(label, status, faults)


def _failure(label: str, status: int, faults: list[str]) -> EngineError:
    if any("No space left" in fault for fault in faults):
        return NotEnoughDisk("The disk filled up.", "Free some space, then retry.")
    why = faults[-1] if faults else exit_text(status)
    remedy = (
        "It needs an importance matrix; choose another type."
        if any("importance matrix" in fault for fault in faults)
        else "The job's log has the details."
    )
    return ConversionFailed(f"Quantizing to {label} failed: {why}", remedy)
