"""The few ways in which we look at a machine, in one place, so that tests can give recorded ones.

Nothing here raises: what cannot be read, run or found is `None`, empty or False.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

OUTPUT_LIMIT_BYTES = 1 << 20  # a full vulkaninfo of three GPUs is 300 KB
READ_LIMIT_BYTES = 4 << 20  # pci.ids, the largest file that we read, has 1.6 MB in 2026
GLOB_LIMIT = 4096
REAP_WAIT_S = 1.0  # a killed tool that hangs in a driver is left to the kernel

PLATFORMS = {"win32": "windows", "darwin": "darwin"}
MACHINES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}


class System:
    """This machine. Reading a file takes microseconds; `run` blocks up to its limit."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.platform = PLATFORMS.get(sys.platform, "linux")
        machine = platform.machine()
        self.machine = MACHINES.get(machine.lower(), machine)
        self.environ = environ
        self._loader_cache: bytes | None = None

    def find(self, program: str) -> str | None:
        """The absolute path of a program, or None. System folders come before PATH on Windows."""
        suffix = ".exe" if self.platform == "windows" else ""
        for folder in self._program_folders():
            path = os.path.join(folder, program + suffix)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        found = shutil.which(program)
        return found if found is None or os.path.isabs(found) else None

    def run(self, argv: Sequence[str], timeout_s: float) -> str | None:
        """What the program wrote to stdout, whatever its exit status; at most 1 MiB.

        None when it is not there, cannot be started or does not end in time. Never a shell.
        """
        program = self.find(argv[0])
        if program is None:
            return None
        try:
            child = subprocess.Popen(
                [program, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**self.environ, "LC_ALL": "C"},
                start_new_session=os.name == "posix",
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError):
            return None
        return _read_output(child, timeout_s)

    def read(self, path: str) -> str | None:
        """A file's text, at most 4 MiB of it; bytes that are no UTF-8 become U+FFFD."""
        try:
            with open(path, "rb") as file:
                return file.read(READ_LIMIT_BYTES).decode("utf-8", errors="replace")
        except (OSError, ValueError):
            return None

    def glob(self, pattern: str) -> list[str]:
        """The paths that match, sorted, at most 4,096."""
        try:
            return sorted(glob.glob(pattern)[:GLOB_LIMIT])
        except (OSError, ValueError, re.error):
            return []

    def exists(self, path: str) -> bool:
        """Whether something is at that path."""
        return os.path.exists(path)

    def writable(self, path: str) -> bool:
        """Whether this user may open that (device) file for reading and writing."""
        return os.access(path, os.R_OK | os.W_OK)

    def stamp(self, path: str) -> int | None:
        """When that file was last changed, in nanoseconds."""
        try:
            return os.stat(path).st_mtime_ns
        except (OSError, ValueError):
            return None

    def library(self, name: str) -> bool:
        """Whether the loader would find a shared library of this file name. Nothing is loaded."""
        if self.platform == "linux" and b"\0" + name.encode() + b"\0" in self._known_to_loader():
            return True
        return any(os.path.exists(os.path.join(folder, name)) for folder in self._library_folders())

    def processor_features(self) -> frozenset[int]:
        """Windows: the PF_… numbers that IsProcessorFeaturePresent affirms; elsewhere none."""
        if sys.platform == "win32":
            import ctypes

            present = ctypes.windll.kernel32.IsProcessorFeaturePresent
            return frozenset(number for number in range(64) if present(number))
        return frozenset()

    def _known_to_loader(self) -> bytes:
        """ld.so.cache (glibc): its names stand between NUL bytes, whatever its format."""
        if self._loader_cache is None:
            self._loader_cache = b""
            with contextlib.suppress(OSError):
                self._loader_cache = Path("/etc/ld.so.cache").read_bytes()[:READ_LIMIT_BYTES]
        return self._loader_cache

    def _program_folders(self) -> tuple[str, ...]:
        if self.platform == "windows":
            system32 = os.path.join(self.environ.get("SYSTEMROOT", r"C:\Windows"), "System32")
            return (system32, os.path.join(system32, "WindowsPowerShell", "v1.0"))
        # Where Windows puts NVIDIA's tools into a WSL machine; often not on PATH.
        return ("/usr/lib/wsl/lib",) if self.platform == "linux" else ("/usr/sbin",)

    def _library_folders(self) -> list[str]:
        if self.platform == "windows":
            return [self._program_folders()[0], *self.environ.get("PATH", "").split(os.pathsep)]
        if self.platform == "darwin":
            return ["/usr/lib", "/usr/local/lib", "/opt/homebrew/lib"]
        # For loaders without that cache: musl, NixOS, WSL; LD_LIBRARY_PATH as everywhere.
        asked = [path for path in self.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
        plain = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/wsl/lib", "/opt/rocm/lib"]
        return [*asked, *plain, "/run/opengl-driver/lib", *glob.glob("/usr/lib/*-linux-gnu*")]


def _read_output(child: subprocess.Popen[bytes], timeout_s: float) -> str | None:
    """Read in a thread: a tool's own child may hold the pipe open after the tool was killed."""
    output: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            assert child.stdout is not None
            output.append(child.stdout.read(OUTPUT_LIMIT_BYTES))

    reader = threading.Thread(target=read, name="hardware-tool", daemon=True)
    reader.start()
    reader.join(timeout_s)
    answered = not reader.is_alive()
    # It closed its output, wrote too much, or took too long: in each case it has to go.
    with contextlib.suppress(subprocess.TimeoutExpired):
        if answered and len(output[0] if output else b"") < OUTPUT_LIMIT_BYTES:
            child.wait(REAP_WAIT_S)
    if child.poll() is None:
        _kill(child)
    reader.join(REAP_WAIT_S)
    if not reader.is_alive() and child.stdout is not None:
        child.stdout.close()
    if not answered or not output:
        return None
    return output[0].decode("utf-8", errors="replace")


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(REAP_WAIT_S)
