"""Asks a llama-server what it is and whether it offers what we use."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import RuntimeMissing
from tray_app.engine.process import ChildProcess, LaunchSpec, exit_text

PROBE_TIMEOUT_S = 30.0  # the first start of a CUDA build on a cold disk takes many seconds
MAX_LINES = 4000  # --help of b11434 has 736

# What launch.py passes, and the words of --help by which a build shows that it knows it.
FEATURES: tuple[tuple[str, str], ...] = (
    ("a unix socket as --host", r"UNIX socket|\.sock\b"),
    ("--fit", r"--fit\b"),
    ("--slot-save-path", r"--slot-save-path\b"),
    ("--alias", r"--alias\b"),
    ("--cors-origins", r"--cors-origins\b"),
    ("--cache-ram", r"--cache-ram\b"),
    ("--no-warmup", r"--no-warmup\b"),
    ("--offline", r"--offline\b"),
    ("--metrics", r"--metrics\b"),
    ("--mmproj", r"--mmproj\b"),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a llama-server said about itself."""

    build: int | None
    version_text: str
    devices: tuple[str, ...]  # "CUDA0: NVIDIA H100 (81000 MiB, 80000 MiB free)"
    lacking: tuple[str, ...]  # features we use and it does not name

    @property
    def backend(self) -> str:
        """The kind of its first device ("cuda", "metal", "vulkan", ...), else "cpu"."""
        name = (
            self.devices[0].partition(":")[0].rstrip("0123456789").lower() if self.devices else ""
        )
        return {"": "cpu", "mtl": "metal"}.get(name, name)


def probe(server: Path, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Run `--version`, `--help` and `--list-devices`. Blocks for about 0.1 s on a CPU build.

    Raises RuntimeMissing when it cannot be run or is no llama-server.
    """
    version = ask(server, ("--version",), timeout_s)
    found = re.search(r"version: .*", version)
    if found is None:
        raise RuntimeMissing(
            f"{server} is not a llama-server: it does not say its version.",
            "Choose the llama-server program of a llama.cpp build.",
        )
    text = found.group()
    # "version: 0.6.0-dev (build 11434, commit b11434)"; before: "version: 6000 (0123abc)".
    build = re.search(r"build (\d+)|^version: (\d+) \(", text)
    help_text = ask(server, ("--help",), timeout_s)
    lacking = tuple(name for name, words in FEATURES if not re.search(words, help_text))
    devices = () if lacking else _devices(ask(server, ("--list-devices",), timeout_s))
    number = int(build.group(1) or build.group(2)) if build else 0
    return Probe(number or None, text.removeprefix("version: "), devices, lacking)


def ask(program: Path, arguments: tuple[str, ...], timeout_s: float) -> str:
    """Everything `program` prints, bounded. Raises RuntimeMissing when it fails or hangs."""
    lines: list[str] = []

    def keep(line: str) -> None:
        if len(lines) < MAX_LINES:
            lines.append(line)

    try:
        with ChildProcess(LaunchSpec((str(program), *arguments)), on_line=keep) as child:
            status = child.wait(timeout_s)
            if status is None:
                child.stop(grace_s=0)
    except OSError as exc:
        raise RuntimeMissing(
            f"{program} cannot be run: {exc}.", "Check the path and its permissions."
        ) from exc
    if status is None:
        raise _broken(program, f"did not answer {arguments[0]} within {timeout_s:.0f} s")
    if status != 0:
        told = [line for line in lines if re.search(r"error|fail", line, re.IGNORECASE)] or lines
        reason = f": {told[-1][:300]}" if told else ""
        raise _broken(program, f"ended with {exit_text(status)}{reason}")
    return "\n".join(lines)


def _devices(text: str) -> tuple[str, ...]:
    """The lines below "Available devices:"."""
    _, found, rest = text.partition("Available devices:")
    lines = [line.strip() for line in rest.splitlines()] if found else []
    return tuple(line for line in lines if line and line != "(none)")


def _broken(program: Path, what: str) -> RuntimeMissing:
    return RuntimeMissing(
        f"{program} {what}.", "Its libraries may be missing or made for another system: rebuild it."
    )


class ProbeCache:
    """Probes by (path, size, modification time). Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, int], Probe] = {}

    def probe(self, server: Path) -> Probe:
        """As `probe`, and at once for a file seen before. Failures are not remembered."""
        status = server.stat()
        key = (str(server), status.st_size, status.st_mtime_ns)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = probe(server)
            with self._lock:
                self._known[key] = known
        return known
