"""Why a llama-server ended, read from its log and exit status and said in plain words.

The patterns are lines of llama.cpp b11434, seen by making it fail, or read in its source.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ErrorView


@dataclass(frozen=True, slots=True)
class Fault:
    """One reading. `permanent` faults come again at once, so no retry is made."""

    error: ErrorView
    permanent: bool


@dataclass(frozen=True, slots=True)
class _Pattern:
    expression: re.Pattern[str]
    code: str
    message: str  # may use the expression's groups as {0}, {1}
    remedy: str
    permanent: bool = True


_PATTERNS = tuple(
    _Pattern(re.compile(expression, re.IGNORECASE), *rest)
    for expression, *rest in (
        (
            r"data is not within the file bounds|corrupted or incomplete|invalid magic characters",
            "bad_gguf",
            "The model file is damaged or incomplete.",
            "Download it again.",
        ),
        (
            r"unknown model architecture: '([^']{1,60})'",
            "unsupported_architecture",
            "This llama.cpp does not know the architecture “{0}”.",
            "Use a newer llama.cpp runtime, or another model.",
        ),
        (
            r"out of memory|failed to allocate|unable to allocate|bad_alloc|cannot allocate memory"
            r"|ErrorOutOfDeviceMemory|insufficient memory",
            "not_enough_memory",
            "There was not enough memory to load it.",
            "Choose a smaller context length or quantization, or unload another model.",
        ),
        (
            r"error: (?:invalid|unknown) argument: (\S{1,80})",
            "bad_argument",
            "This llama.cpp does not know the argument {0}.",
            "Remove it from the model's extra arguments.",
        ),
        (
            r"error while (?:handling|parsing) argument \"?(\S{1,80}?)\"?:",
            "bad_argument",
            "The value of the argument {0} is not accepted.",
            "Correct it in the model's extra arguments.",
        ),
        (
            r"error while loading shared libraries: (\S{1,120}):",
            "missing_library",
            "The library {0} is missing, so llama.cpp cannot start.",
            "Install it, or build the runtime again on the Server page.",
        ),
        (
            r"couldn't bind HTTP server socket",
            "socket_taken",
            "Its private socket could not be opened.",
            "It is tried again by itself.",
            False,
        ),
        (
            r"(?:failed|unable) to (?:parse|apply) (?:the )?chat template"
            r"|chat template.{0,40}(?:invalid|error)",
            "bad_template",
            "The model's chat template cannot be used by this llama.cpp.",
            "Give another with the extra arguments --chat-template NAME.",
        ),
        (
            r"failed to load (?:mmproj|multimodal|clip)"
            r"|mmproj.{0,60}(?:fail|mismatch|incompatible)",
            "bad_mmproj",
            "The projector (mmproj) beside the model does not fit it.",
            "Switch the projector off in the model's settings.",
        ),
        (
            r"failed to open .{0,300}No such file|failed to open GGUF file",
            "model_unavailable",
            "The model file could not be opened.",
            "Check that its drive is there, then scan again.",
        ),
        (
            r"(GGML_ASSERT\([^\n]{1,160})",
            "crashed",
            "llama.cpp stopped at an internal check: {0}.",
            "Try another runtime or quantization; the log has the details.",
            False,
        ),
    )
)

_STAMP = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} ")
_ERROR_LINE = re.compile(r"^(?:E\s+(?:\w+\s+)?\S*?:?\s*|error:\s*)(.+)$")


def stalled(after_s: float) -> Fault:
    """A load that does nothing any more; it would hang again at once."""
    return Fault(
        ErrorView(
            "load_stalled",
            f"llama-server did nothing for {after_s:.0f} seconds while it loaded, and was ended.",
            "Open its log on the Server page; another runtime may work.",
        ),
        True,
    )


def read_fault(lines: Sequence[str], returncode: int | None) -> Fault:
    """The most telling reason in a log's last lines; the exit status when there is none."""
    plain = [_STAMP.sub("", line) for line in lines]
    text = "\n".join(plain)
    for pattern in _PATTERNS:
        match = pattern.expression.search(text)
        if match:
            groups = match.groups()
            message = pattern.message.format(*groups) if groups else pattern.message
            return Fault(ErrorView(pattern.code, message, pattern.remedy), pattern.permanent)
    return _from_status(plain, returncode)


def _from_status(lines: Sequence[str], returncode: int | None) -> Fault:
    look = "Open its log on the Server page."
    if returncode is not None and returncode < 0:
        number = -returncode
        if number == signal.SIGKILL:
            return Fault(
                ErrorView(
                    "killed",
                    "It was killed from outside; when memory runs out, the system does that.",
                    "Choose a smaller context length or quantization if it happens again.",
                ),
                False,
            )
        if number == signal.SIGILL:
            return Fault(
                ErrorView(
                    "wrong_cpu",
                    "This llama.cpp uses instructions that this processor does not have.",
                    "Build the runtime on this machine (Server page).",
                ),
                True,
            )
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return Fault(ErrorView("crashed", f"llama-server crashed ({name}).", look), False)
    for line in reversed(lines):
        match = _ERROR_LINE.match(line)
        if match and "exiting due to" not in line:
            return Fault(
                ErrorView("model_failed", f"llama-server said: {match[1][:300]}", look), False
            )
    code = "" if returncode is None else f" with exit code {returncode}"
    return Fault(ErrorView("crashed", f"llama-server ended{code}.", look), False)
