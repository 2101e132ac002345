"""What an operating system knows about a family of processes: who belongs to it, and its end.

Each tree carries a random token in its environment, which children inherit. A process is
ours when it carries that token, or sits in the session of a first process known to be ours:
the token survives double forks, new sessions and the death of the tree's first process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tray_app.self_command import LIFELINE, part_command

TOKEN_VARIABLE = "LLAMA_WRANGLER_TREE"
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Tree:
    """One process tree: its first process and the token all its members inherit."""

    leader_pid: int
    token: str


def process_identity(pid: int) -> str | None:
    """What tells this process from any other that ever had or will have its pid.

    On Linux the boot id and the kernel's start tick, because `create_time` there moves with
    the wall clock; elsewhere the creation time. None when there is no such process.
    """
    try:
        if sys.platform == "linux":
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            # The command name in field 2 may hold spaces and brackets: count from its end.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
            return f"{boot}:{fields.split()[19]}"
        else:  # noqa: RET505 - mypy takes what follows a platform test for unreachable
            return f"{psutil.Process(pid).create_time():.3f}"
    except (OSError, IndexError, psutil.Error):
        return None


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie (a zombie holds nothing any more)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def members(tree: Tree, *, trust_session: bool) -> list[psutil.Process]:
    """Every running process of `tree`, this process left out.

    `trust_session` also counts the session of `leader_pid`, for processes that emptied their
    environment: only for a leader whose identity the caller knows.
    """
    found: list[psutil.Process] = []
    own = os.getpid()
    for pid in psutil.pids():
        if pid != own and _belongs(pid, tree, trust_session) and is_running(pid):
            try:
                found.append(psutil.Process(pid))
            except psutil.Error:
                continue
    return found


def ask_to_end(leader_pid: int) -> None:
    """SIGTERM to the leader's whole group. Windows has no such request: nothing happens."""
    if sys.platform != "win32":
        _signal_group(leader_pid, signal.SIGTERM)


def kill_group(leader_pid: int) -> None:
    """SIGKILL to the leader's group: the fast first strike before `kill_members`."""
    if sys.platform != "win32":
        _signal_group(leader_pid, signal.SIGKILL)


def kill_members(tree: Tree, *, trust_session: bool, timeout_s: float = 5.0) -> bool:
    """End every member at once and wait until none runs. False when one would not go.

    Looks again after each round: a member may have forked between being seen and ending.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while alive := members(tree, trust_session=trust_session):
        _kill(alive)
        if time.monotonic() > deadline:
            return False
        pause.wait(POLL_S)
    return True


@functools.cache  # a fact about the machine, and 2 ms to find out
def find_lifeline() -> tuple[str, ...]:
    """The argv prefix that ties a child to the life of the thread that spawns it.

    On Linux PR_SET_PDEATHSIG through util-linux `setpriv` (1.3 ms to start a child against
    0.6 bare) or our own small wrapper (8 ms, 90 in a frozen build); both exec, so the pid stays
    the same. Elsewhere empty: a job object does it on Windows, `ChildRegistry` at the next start
    on macOS.
    """
    if sys.platform != "linux":
        return ()
    else:  # noqa: RET505 - mypy takes what follows a platform test for unreachable
        setpriv = shutil.which("setpriv")
        # busybox and util-linux before 2.33 lack the option: try it.
        prefix = (setpriv or "", "--pdeathsig", "KILL", "--")
        if setpriv is not None and _works([*prefix, setpriv, "--version"]):
            return prefix
        return tuple(part_command(LIFELINE, str(os.getpid())))


def _works(argv: list[str]) -> bool:
    quiet = subprocess.DEVNULL
    return (
        subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=quiet, check=False).returncode == 0
    )


def _belongs(pid: int, tree: Tree, trust_session: bool) -> bool:
    if trust_session and sys.platform != "win32":
        try:
            if os.getsid(pid) == tree.leader_pid:
                return True
        except OSError:
            return False
    return _carries_token(pid, tree.token)


def _carries_token(pid: int, token: str) -> bool:
    try:
        if sys.platform == "linux":
            wanted = f"{TOKEN_VARIABLE}={token}".encode()
            return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        else:  # noqa: RET505 - mypy takes what follows a platform test for unreachable
            return bool(psutil.Process(pid).environ().get(TOKEN_VARIABLE) == token)
    except (OSError, psutil.Error):
        return False


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()  # psutil checks that the pid still is the same process
        except psutil.Error:
            continue


def _signal_group(leader_pid: int, number: int) -> None:
    if sys.platform != "win32":
        try:
            os.killpg(leader_pid, number)
        except (ProcessLookupError, PermissionError):
            return  # gone already; macOS says "not permitted" for a group of zombies


if sys.platform == "win32":
    from ctypes import wintypes

    class _BasicLimits(ctypes.Structure):
        _fields_ = [
            ("PerProcessUserTimeLimit", ctypes.c_int64),
            ("PerJobUserTimeLimit", ctypes.c_int64),
            ("LimitFlags", wintypes.DWORD),
            ("MinimumWorkingSetSize", ctypes.c_size_t),
            ("MaximumWorkingSetSize", ctypes.c_size_t),
            ("ActiveProcessLimit", wintypes.DWORD),
            ("Affinity", ctypes.c_size_t),
            ("PriorityClass", wintypes.DWORD),
            ("SchedulingClass", wintypes.DWORD),
        ]

    class _ExtendedLimits(ctypes.Structure):
        _fields_ = [
            ("BasicLimitInformation", _BasicLimits),
            ("IoInfo", ctypes.c_uint64 * 6),
            ("ProcessMemoryLimit", ctypes.c_size_t),
            ("JobMemoryLimit", ctypes.c_size_t),
            ("PeakProcessMemoryUsed", ctypes.c_size_t),
            ("PeakJobMemoryUsed", ctypes.c_size_t),
        ]

    class WindowsJob:
        """A job object: its processes end when its last handle closes, however we end."""

        KILL_ON_JOB_CLOSE = 0x2000
        EXTENDED_LIMIT_INFORMATION = 9

        def __init__(self) -> None:
            """Raises OSError when Windows refuses."""
            self._kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)
            self._kernel.CreateJobObjectW.restype = wintypes.HANDLE
            self._handle = wintypes.HANDLE(self._kernel.CreateJobObjectW(None, None))
            limits = _ExtendedLimits()
            limits.BasicLimitInformation.LimitFlags = self.KILL_ON_JOB_CLOSE
            self._check(
                self._handle.value
                and self._kernel.SetInformationJobObject(
                    self._handle,
                    self.EXTENDED_LIMIT_INFORMATION,
                    ctypes.byref(limits),
                    ctypes.sizeof(limits),
                )
            )

        def adopt(self, process_handle: int) -> None:
            """Put a process, best a suspended one, and all its children to come in here."""
            handle = wintypes.HANDLE(process_handle)
            self._check(self._kernel.AssignProcessToJobObject(self._handle, handle))

        def end(self) -> None:
            """End all processes in the job."""
            self._kernel.TerminateJobObject(self._handle, 1)

        def close(self) -> None:
            """Give the handle back; what still runs in the job ends."""
            self._kernel.CloseHandle(self._handle)

        def _check(self, ok: object) -> None:
            if not ok:
                raise ctypes.WinError(ctypes.get_last_error())
