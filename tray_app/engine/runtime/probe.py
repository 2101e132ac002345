"""Asks a llama-server what it is and whether it offers what we use."""

from __future__ import annotations

import errno
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import RuntimeMissing
from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec, exit_text

from .libraries import in_words, missing_at_start, where_from
from .values import BACKENDS

PROBE_TIMEOUT_S = 60.0  # the first start of a CUDA build on a cold disk takes many seconds
CHECK_S = 0.05
MAX_LINES = 4000  # --help of b11434 has 736

# Device names that are no backend's own: "MTL0", "GPUOpenCL0". Others are theirs: "CUDA0", "ROCm0".
_OTHER_NAMES = {"mtl": "metal", "gpuopencl": "opencl"}
# What the systems say of a program for another kind of machine, through whatever starts it.
_OTHER_MACHINE = re.compile(r"Exec format error|Bad CPU type|not a valid Win32 application")
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243, "ppc64le": 21}  # e_machine, elf.h
_OTHER_MACHINE_ERRORS = (errno.ENOEXEC, getattr(errno, "EBADARCH", 86))

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
        kinds = [backend_of(device) for device in self.devices]
        return next((kind for kind in kinds if kind in BACKENDS), "cpu")


def backend_of(device: str) -> str:
    """The backend of one line of --list-devices; one we do not know by its own name."""
    name = device.partition(":")[0].rstrip("0123456789").lower()
    return _OTHER_NAMES.get(name, name)


def probe(
    server: Path,
    timeout_s: float = PROBE_TIMEOUT_S,
    registry: ChildRegistry | None = None,
    check: Callable[[], None] | None = None,
) -> Probe:
    """Run `--version`, `--help` and `--list-devices`. Blocks for about 0.1 s on a CPU build.

    Raises RuntimeMissing when it cannot be run, is no llama-server or takes longer than
    `timeout_s` altogether. `registry` as in ChildProcess; `check` as in `ask`.
    """
    deadline = time.monotonic() + timeout_s

    def told(argument: str) -> str:
        left = max(0.0, deadline - time.monotonic())
        return ask(server, (argument,), left, registry, check)

    version = told("--version")
    found = re.search(r"version: .*", version)
    if found is None:
        raise RuntimeMissing(
            f"{server} is not a llama-server: it does not say its version.",
            "Choose the llama-server program of a llama.cpp build.",
        )
    text = found.group()
    # "version: 0.6.0-dev (build 11434, commit b11434)"; before: "version: 6000 (0123abc)".
    build = re.search(r"build (\d+)|^version: (\d+) \(", text)
    help_text = told("--help")
    lacking = tuple(name for name, words in FEATURES if not re.search(words, help_text))
    devices = () if lacking else _devices(told("--list-devices"))
    number = int(build.group(1) or build.group(2)) if build else 0
    return Probe(number or None, text.removeprefix("version: "), devices, lacking)


def ask(
    program: Path,
    arguments: tuple[str, ...],
    timeout_s: float,
    registry: ChildRegistry | None = None,
    check: Callable[[], None] | None = None,
) -> str:
    """Everything `program` prints, bounded. Raises RuntimeMissing when it fails or hangs.

    `check` is called every 50 ms; what it raises (Cancelled) ends the program and comes through.
    """
    lines: list[str] = []

    def keep(line: str) -> None:
        if len(lines) < MAX_LINES:
            lines.append(line)

    spec = LaunchSpec((str(program), *arguments))
    try:
        with ChildProcess(spec, on_line=keep, registry=registry, kind="probe") as child:
            status = _wait(child, timeout_s, check)
            if status is None:
                child.stop(grace_s=0)
    except OSError as exc:
        if exc.errno in _OTHER_MACHINE_ERRORS or _OTHER_MACHINE.search(str(exc)):
            raise _other_machine(program) from exc
        raise RuntimeMissing(
            f"{program} cannot be run: {exc}.", "Check the path and its permissions."
        ) from exc
    if status is None:
        raise _broken(program, f"did not answer {arguments[0]} within {timeout_s:.0f} s")
    if status != 0:
        raise _ended(program, status, lines)
    return "\n".join(lines)


def _wait(child: ChildProcess, timeout_s: float, check: Callable[[], None] | None) -> int | None:
    if check is None:
        return child.wait(timeout_s)
    deadline = time.monotonic() + timeout_s
    while (status := child.wait(CHECK_S)) is None and time.monotonic() < deadline:
        check()
    return status


def _ended(program: Path, status: int, lines: list[str]) -> RuntimeMissing:
    """Why a program that should only have printed something failed."""
    if missing := missing_at_start(lines, status):
        return RuntimeMissing(f"{program} cannot start: {in_words(missing)}.", where_from(missing))
    if _is_foreign(program) or any(_OTHER_MACHINE.search(line) for line in lines):
        return _other_machine(program)
    if status in (-signal.SIGILL, 0xC000001D):  # STATUS_ILLEGAL_INSTRUCTION
        return RuntimeMissing(
            f"{program} uses instructions that this processor does not have.",
            "Build the runtime on this machine, or choose a portable one.",
        )
    told = [line for line in lines if re.search(r"error|fail", line, re.IGNORECASE)] or lines
    reason = f": {told[-1][:300]}" if told else ""
    return _broken(program, f"ended with {exit_text(status)}{reason}")


def _is_foreign(program: Path) -> bool:
    """Whether Linux cannot run the file at all. What starts our children (setpriv) takes such a
    file for a shell script, so that the system's own word for it is lost."""
    try:
        with program.open("rb") as file:
            head = file.read(20)
    except OSError:
        return False
    if head.startswith((b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")):  # Windows, macOS
        return sys.platform == "linux"
    code = int.from_bytes(head[18:20], "little")
    own = _ELF_MACHINES.get(platform.machine(), code)
    return head.startswith(b"\x7fELF") and code != own


def _other_machine(program: Path) -> RuntimeMissing:
    here = f"{platform.system()} on {platform.machine()}"
    return RuntimeMissing(
        f"{program} is no program for this machine ({here}).",
        f"Choose a build for {here}, or build the runtime here.",
    )


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
