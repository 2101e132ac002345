"""llama.cpp's `llama-bench`: how it is run, what it tells meanwhile and at its end (b11434)."""

from __future__ import annotations

import json
import math
import re
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tray_app.engine.errors import BadRequest, BenchFailed
from tray_app.engine.faults import read_fault
from tray_app.engine.launch import Placement
from tray_app.engine.process import exit_text
from tray_app.engine.settings import ModelSettings
from tray_app.engine.values import Model, ModelKind

from .values import BenchSettings, BenchWish, Measured, Speed

TOOL = "llama-bench"
MOST_TOKENS = 65_536
MOST_REPETITIONS = 50  # a result line with their samples stays far below a line's limit
FASTEST_PER_S = 1e8  # what is told beyond is no speed
MOST_ROWS, LAST_LINES = 16, 60
LONGEST_NAME = 200

_PROGRESS = re.compile(
    r"^llama-bench: benchmark (\d{1,3})/(\d{1,3}): (warmup )?(prompt|generation) run"
    r"(?: (\d{1,4})/(\d{1,4}))?$"
)
_FAULT = re.compile(r"\berror\b|failed to|\babort", re.IGNORECASE)
_UNKNOWN_ARGUMENT = re.compile(r"invalid parameter for argument: (\S{1,40})")
_DETAILS = "The job's log has the details."


def check(model: Model, wish: BenchWish) -> None:
    """Raises BadRequest for what cannot be measured."""
    if "," in str(model.path):  # it takes several models, with commas between them
        raise BadRequest(
            f"llama-bench takes no path with a comma: {model.path}.",
            "Rename the file or folder, then measure again.",
        )
    for what, tokens in (
        ("prompt", wish.prompt_tokens),
        ("generated", wish.generated_tokens),
    ):
        if not 0 <= tokens <= MOST_TOKENS:
            raise BadRequest(
                f"{tokens} {what} tokens cannot be measured.", f"Give 0 to {MOST_TOKENS}."
            )
    if not wish.prompt_tokens and not wish.generated_tokens:
        raise BadRequest(
            "Nothing is to be measured.", "Give prompt tokens, generated ones, or both."
        )
    if not 1 <= wish.repetitions <= MOST_REPETITIONS:
        raise BadRequest(
            f"{wish.repetitions} repetitions are not possible.", f"Give 1 to {MOST_REPETITIONS}."
        )


def arguments(
    tool: Path, model: Model, settings: ModelSettings, placement: Placement, wish: BenchWish
) -> tuple[str, ...]:
    """The argument vector: the model as it is served, where that changes its speed."""
    words = [str(tool), "-m", str(model.path), "-o", "jsonl", "--progress"]
    words += ["-p", str(wish.prompt_tokens), "-n", str(wish.generated_tokens)]
    words += ["-r", str(wish.repetitions)]
    layers = settings.gpu_layers if settings.gpu_layers is not None else placement.gpu_layers
    if layers is not None and layers >= 0:
        words += ["-ngl", str(layers)]
    words += _placed(placement.extra_args)
    for name, value in (
        ("-t", settings.threads),
        ("-b", settings.batch_size),
        ("-ub", settings.ubatch_size),
        ("-ctk", settings.kv_cache_type),
        ("-ctv", settings.kv_cache_type),
        # "auto" is its default, and a word that older ones do not know.
        ("-fa", {"on": "1", "off": "0"}.get(settings.flash_attention or "")),
    ):
        if value is not None:
            words += [name, str(value)]
    if model.kind is ModelKind.EMBEDDING:
        words += ["-embd", "1"]
    return tuple(words)


def _placed(extra_args: Sequence[str]) -> list[str]:
    """The fit's `-ts` and `-ot`: commas separate whole values here, not their parts."""
    words: list[str] = []
    for name, value in zip(extra_args[::2], extra_args[1::2], strict=True):
        words += [name, value.replace(",", "/" if name == "-ts" else ";")]
    return words


def left_out(settings: ModelSettings) -> tuple[str, ...]:
    """What changes how fast the model is served, and cannot be measured with this tool."""
    found = []
    if settings.draft_model is not None:
        found.append("its draft model")
    if settings.lora:
        found.append("its LoRA adapters")
    if settings.extra_args:
        found.append("its extra arguments")
    return tuple(found)


class Output:
    """Takes the tool's lines as they come; not thread-safe, as one thread reads."""

    def __init__(
        self, wish: BenchWish, tell: Callable[[int, int, str], object] = lambda *_: None
    ) -> None:
        """`tell` gets the runs that are done, all runs, and what is done now in words."""
        self._wish, self._tell = wish, tell
        self._rows: list[str] = []
        self._others: deque[str] = deque(maxlen=LAST_LINES)
        self.lines = 0

    def take(self, line: str) -> None:
        """One line, of whatever kind."""
        self.lines += 1
        if line.startswith("{"):
            if len(self._rows) < MOST_ROWS:
                self._rows.append(line)
        elif match := _PROGRESS.match(line):
            self._tell_run(match)
        else:
            self._others.append(line)

    def _tell_run(self, match: re.Match[str]) -> None:
        each = self._wish.repetitions + 1  # with the one that warms up
        number, tests = int(match[1]), int(match[2])
        run = 0 if match[3] else int(match[5] or 0)
        prompt = match[4] == "prompt"
        tokens = self._wish.prompt_tokens if prompt else self._wish.generated_tokens
        what = "Reading a prompt of" if prompt else "Writing"
        which = "warming up" if match[3] else f"run {run} of {self._wish.repetitions}"
        total = max(1, tests) * each
        done = min(total, max(0, number - 1) * each + run)
        self._tell(done, total, f"{what} {tokens} tokens, {which}")

    def result(self, status: int) -> Measured:
        """What it came to. Raises BenchFailed."""
        if status != 0:
            raise failure(status, list(self._others))
        return read_result(self._rows, self._wish)


def read_result(rows: Iterable[str], wish: BenchWish) -> Measured:
    """The tests of the wish in lines of JSON. Raises BenchFailed when one is not there."""
    tables = [table for row in rows if (table := _table(row)) is not None]
    prompt = _test(tables, wish.prompt_tokens, 0)
    generation = _test(tables, 0, wish.generated_tokens)
    told = prompt or generation
    lacking = (wish.prompt_tokens and not prompt) or (wish.generated_tokens and not generation)
    if told is None or lacking:
        raise BenchFailed("llama-bench ended without its figures.", _DETAILS)
    return Measured(
        build=_whole(told, "build_number"),
        cpu=_name(told, "cpu_info"),
        gpu=_name(told, "gpu_info"),
        settings=_settings(told),
        prompt=_speed(prompt, wish.repetitions),
        generation=_speed(generation, wish.repetitions),
    )


def _table(row: str) -> dict[str, Any] | None:
    try:
        table = json.loads(row)
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def _test(tables: list[dict[str, Any]], prompt: int, generated: int) -> dict[str, Any] | None:
    if not prompt and not generated:
        return None
    wanted = prompt, generated
    return next((t for t in tables if (t.get("n_prompt"), t.get("n_gen")) == wanted), None)


def _speed(table: dict[str, Any] | None, repetitions: int) -> Speed | None:
    if table is None:
        return None
    mean = _number(table, "avg_ts")
    if mean is None or not 0 < mean < FASTEST_PER_S:
        raise BenchFailed(f"llama-bench told {table.get('avg_ts')!r:.40} tokens/s.", _DETAILS)
    spread = _number(table, "stddev_ts") if repetitions > 1 else None
    return Speed(mean, spread if spread is not None and 0 <= spread < FASTEST_PER_S else None)


def _settings(table: dict[str, Any]) -> BenchSettings:
    layers = _whole(table, "n_gpu_layers")
    keys, values = _name(table, "type_k"), _name(table, "type_v")
    attention = table.get("flash_attn")
    attention = int(attention) if isinstance(attention, bool) else attention
    return BenchSettings(
        threads=_whole(table, "n_threads"),
        # Older ones tell 99 for "all", newer ones -1.
        gpu_layers=layers if layers is not None and layers >= 0 else None,
        kv_cache_type=(keys if keys == values else f"{keys}/{values}") or None,
        flash_attention={-1: "auto", 0: "off", 1: "on"}.get(attention)
        if isinstance(attention, int)
        else None,
        batch_size=_whole(table, "n_batch"),
        ubatch_size=_whole(table, "n_ubatch"),
    )


def _number(table: dict[str, Any], key: str) -> float | None:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _whole(table: dict[str, Any], key: str) -> int | None:
    value = table.get(key)
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31
    return value if whole else None


def _name(table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        return ""
    return "".join(c for c in value[:LONGEST_NAME] if c.isprintable()).strip()


def failure(status: int, lines: Sequence[str]) -> BenchFailed:
    """Why it ended with this exit status (negative: a signal), by its last lines."""
    if status == -int(getattr(signal, "SIGKILL", 9)):
        return BenchFailed(
            "llama-bench was killed from outside; when memory runs out, the system does that.",
            "Unload models or close other programs, then measure again.",
        )
    fault = read_fault(lines, status).error
    if "llama-server" not in fault.message:  # a reason that its words tell, whoever says them
        return BenchFailed(fault.message, fault.remedy)
    for line in reversed(lines):
        if unknown := _UNKNOWN_ARGUMENT.search(line):
            return BenchFailed(
                f"This llama-bench does not take {unknown[1]} as it is set.",
                "Use a newer llama.cpp, or change that setting of the model.",
            )
    told = next((line.strip() for line in lines if _FAULT.search(line)), "")
    if any("failed to create context" in line for line in lines):
        return BenchFailed(
            "llama-bench could not make a context for the model.",
            "A quantized KV cache needs flash attention; see the model's settings.",
        )
    return BenchFailed(f"llama-bench failed: {told[:300] or exit_text(status)}", _DETAILS)
