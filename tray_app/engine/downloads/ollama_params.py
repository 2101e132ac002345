"""What Ollama's `params` layer asks for, as settings of a model. Pure; bad values fall away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tray_app.engine.errors import SettingsInvalid
from tray_app.engine.settings import ModelSettings, parse_table

MAX_STOPS = 32
MAX_STOP_CHARS = 256
INT32 = 2**31 - 1  # llama.cpp reads whole numbers with std::stoi and ends when they are larger


@dataclass(frozen=True, slots=True)
class _Number:
    """Where a number goes, and what is believed of it."""

    target: str  # an argument of llama-server, or the name of a setting
    low: float
    high: float
    whole: bool = False


# Names: Ollama's api.Options. Arguments: `llama-server --help` of b11434, run with each of them.
# use_mmap is not here: --no-mmap is gone there (--load-mode came instead), and an argument that
# a runtime does not know keeps the model from loading.
_ARGUMENTS = {
    "temperature": _Number("--temp", 0, 100),
    "top_k": _Number("--top-k", 0, INT32, whole=True),
    "top_p": _Number("--top-p", 0, 1),
    "min_p": _Number("--min-p", 0, 1),
    "typical_p": _Number("--typical-p", 0, 1),
    "repeat_last_n": _Number("--repeat-last-n", -1, INT32, whole=True),
    "repeat_penalty": _Number("--repeat-penalty", 0, 100),
    "presence_penalty": _Number("--presence-penalty", -100, 100),
    "frequency_penalty": _Number("--frequency-penalty", -100, 100),
    "seed": _Number("--seed", -1, 2**32 - 1, whole=True),
    "num_predict": _Number("--predict", -1, INT32, whole=True),
    "num_keep": _Number("--keep", -1, INT32, whole=True),
    "num_batch": _Number("--batch-size", 1, 65_536, whole=True),
    "main_gpu": _Number("--main-gpu", 0, 255, whole=True),
}
# The bounds are those of engine/settings.py. -1 and 0 mean "decide yourself" to Ollama, but for
# num_gpu, where 0 means the processor.
_SETTINGS = {
    "num_ctx": _Number("context_length", 256, 16_777_216, whole=True),
    "num_gpu": _Number("gpu_layers", 0, 10_000, whole=True),
    "num_thread": _Number("threads", 1, 1024, whole=True),
}


def read_params(params: Mapping[str, Any]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Settings of the model (ModelSettings' names), and the known keys that fell away.

    Keys that are not known are passed over: Ollama has many that mean nothing here.
    """
    settings: dict[str, object] = {}
    words: list[str] = []
    dropped: list[str] = []
    for key, value in params.items():
        if key in _SETTINGS:
            number = _number(value, _SETTINGS[key])
            if number is not None:
                settings[_SETTINGS[key].target] = number
            elif value not in (-1, 0):
                dropped.append(key)
        elif key in _ARGUMENTS:
            number = _number(value, _ARGUMENTS[key])
            if number is None:
                dropped.append(key)
            else:
                words += [_ARGUMENTS[key].target, str(number)]
        elif key == "stop":
            stops, all_kept = _stops(value)
            words += [word for stop in stops for word in ("--reverse-prompt", stop)]
            dropped += [] if all_kept else [key]
        elif key == "use_mmap" and value is False:
            dropped.append(key)
    if words:
        settings["extra_args"] = tuple(words)
    return settings, tuple(dropped)


def _number(value: Any, rule: _Number) -> int | float | None:
    """`value` if it is a number within the rule's bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not rule.low <= value <= rule.high:  # false for NaN too
        return None
    if rule.whole and value != int(value):
        return None
    return int(value) if rule.whole else value


def _stops(value: Any) -> tuple[list[str], bool]:
    """The stop words as --reverse-prompt takes them, and whether all could be kept."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        return [], False
    kept = [_escaped(word) for word in given[:MAX_STOPS] if _can_be_said(word)]
    return list(dict.fromkeys(kept)), len(kept) == len(given)


def _can_be_said(word: Any) -> bool:
    """Whether settings and command line carry the word: not a NUL, not an argument of ours."""
    if not isinstance(word, str) or not 0 < len(word) <= MAX_STOP_CHARS:
        return False
    try:
        word.encode("utf-8")  # JSON can spell half of a surrogate pair
        parse_table(ModelSettings, {"extra_args": [_escaped(word)]})
    except (UnicodeEncodeError, SettingsInvalid):
        return False
    return True


def _escaped(word: str) -> str:
    """llama.cpp reads backslash escapes in the value (common.cpp, string_process_escapes)."""
    return word.replace("\\", "\\\\")
