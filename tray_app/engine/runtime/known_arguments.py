"""Which arguments a llama-server takes, read from its own `--help`."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tray_app.engine.errors import RuntimeMissing, SettingsInvalid

from .probe import ask
from .values import Runtime

HELP_TIMEOUT_S = 20.0
KEPT = 8  # runtimes whose arguments are remembered

# "-c,    --ctx-size N    size of ...": names stand at the line's begin; deeper lines are prose.
_LINE = re.compile(r"^(--?[A-Za-z][\w-]*(?:,\s+--?[A-Za-z][\w-]*)*)(.*)$")
_REMOVED = "the argument has been removed"


def names_in_help(text: str) -> dict[str, bool]:
    """Every argument that a help text names, long and short, and whether it takes a value. Pure.

    A value stands one blank after the names; what they mean stands further to the right.

    Arguments that it names only to say that they are gone are left out: llama-server ends when
    it meets one.
    """
    names: dict[str, bool] = {}
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is not None and _REMOVED not in found.group(2):
            takes_value = re.match(r" \S", found.group(2)) is not None
            names.update((name, takes_value) for name in re.split(r",\s+", found.group(1)))
    return names


class KnownArguments:
    """Asks each llama-server once for as long as its file stays the same. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[tuple[str, int], dict[str, bool]] = {}

    def of(self, server: Path) -> Mapping[str, bool]:
        """Its arguments as `names_in_help` has them; empty when it does not tell.

        Blocks for 0.05 s the first time.
        """
        try:
            mark = (str(server), server.stat().st_mtime_ns)
        except OSError:
            return {}
        with self._lock:
            if mark not in self._names:
                try:
                    names = names_in_help(ask(server, ("--help",), HELP_TIMEOUT_S))
                except RuntimeMissing:
                    return {}  # not remembered: it may only have been slow
                if len(self._names) >= KEPT:
                    self._names.clear()
                self._names[mark] = names
            return self._names[mark]

    def check(self, runtime: Runtime, words: Sequence[str], where: str) -> None:
        """Refuse an argument that this llama-server does not have. Raises SettingsInvalid.

        Without a help text nothing is refused: then the load itself tells.
        """
        known = self.of(runtime.server_path) if any(map(_is_argument, words)) else {}
        value_follows = False
        for word in words if known else ():
            name = word.split("=", 1)[0]
            is_value, value_follows = value_follows, False
            if is_value or not _is_argument(name):
                continue
            takes_value = known.get(_spelled(name))
            if takes_value is not None:
                value_follows = takes_value and "=" not in word
                continue
            close = difflib.get_close_matches(_spelled(name), list(known), n=3, cutoff=0.6)
            raise SettingsInvalid(
                f"{where} holds {name}, which {runtime.id} does not know.",
                f"Did you mean {', '.join(close)}?"
                if close
                else "See `llama-server --help` for what there is, or remove it.",
            )


def _is_argument(word: str) -> bool:
    """Whether a word is an argument's name and not the value "-1" or "-0.5" of one."""
    return re.match(r"--?[A-Za-z]", word) is not None


def _spelled(name: str) -> str:
    """llama.cpp takes --ctx_size for --ctx-size (common/arg.cpp)."""
    return name.replace("_", "-") if name.startswith("--") else name
