"""One child process and everything it starts, from spawn to reaped.

Leaving the `with` block, `stop()`, the end of the first process or the end of the engine
ends the whole tree. `ChildRegistry` finds what a killed engine left behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import psutil

from . import process_tree
from .child_output import OutputReader
from .child_registry import ChildRegistry, EndedOrphan
from .process_tree import TOKEN_VARIABLE, Tree, find_lifeline

__all__ = ["ChildProcess", "ChildRegistry", "EndedOrphan", "LaunchSpec", "SpawnThread"]

log = logging.getLogger(__name__)

KILL_WAIT_S = 10.0  # SIGKILL works at once except on a process stuck in the kernel
DRAIN_S = 0.5  # for output still in the pipe when the first process has ended


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What will run: a pure value. `env` changes our own environment; None takes a word out."""

    argv: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: Path | None = None
    log_path: Path | None = None  # stdout and stderr are appended here


class SpawnThread:
    """A thread that lives as long as the engine and does nothing but start children.

    Linux ties PR_SET_PDEATHSIG to the *thread* that spawned: a child started from a thread
    that ends (a job's, a pool's) is killed with it. Give this as `spawn_on` to children that
    must outlive their caller's thread.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._tasks: list[Callable[[], None]] = []
        threading.Thread(target=self._run, name="spawn", daemon=True).start()

    def __call__(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Run `start` on the thread and hand back its result or exception. Blocks (~2 ms)."""
        result: list[subprocess.Popen[bytes]] = []
        error: list[BaseException] = []
        done = threading.Event()

        def task() -> None:
            try:
                result.append(start())
            except BaseException as exc:  # noqa: BLE001 - carried to the caller's thread
                error.append(exc)
            done.set()

        with self._condition:
            self._tasks.append(task)
            self._condition.notify()
        done.wait()
        if error:
            raise error[0]
        return result[0]

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._tasks:
                    self._condition.wait()
                task = self._tasks.pop(0)
            task()


def _spawn_here(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    return start()


class ChildProcess:
    """A running child in its own session; a context manager that always ends the tree."""

    def __init__(
        self,
        spec: LaunchSpec,
        *,
        on_line: Callable[[str], None] | None = None,
        on_exit: Callable[[int], None] | None = None,
        registry: ChildRegistry | None = None,
        kind: str = "child",
        marker: str = "",
        lifeline: Sequence[str] | None = None,
        spawn_on: Callable[
            [Callable[[], subprocess.Popen[bytes]]], subprocess.Popen[bytes]
        ] = _spawn_here,
    ) -> None:
        """Start it. Takes 1-3 ms; raises OSError when the program cannot be started.

        `on_line` gets each output line on a thread of its own; a carriage return ends a line
        too, for progress bars. `on_exit` gets the exit status (negative: a signal) on another
        thread, once the whole tree is gone. `registry` records the child under `kind` with
        `marker`, a text in its argv that no other program's has (its socket path).
        `lifeline` replaces the argv prefix of `find_lifeline`.
        """
        self.spec = spec
        self._token = secrets.token_hex(16)
        self._on_exit = on_exit
        self._registry = registry
        self._exited = threading.Event()
        self._returncode: int | None = None
        self._reaping = threading.Lock()
        self._reaped = False
        self._job: Any = None
        program = _resolve(spec.argv[0], spec.env)
        prefix = tuple(find_lifeline() if lifeline is None else lifeline)
        self._reader = _reader_for(spec, on_line)
        try:
            with _opened_output(spec, self._reader) as output:
                self._popen = spawn_on(lambda: self._start((*prefix, program), output))
        except BaseException:
            if self._reader is not None:
                self._reader.close()
            raise
        self.pid: int = self._popen.pid
        self.create_time: float = _create_time(self.pid)
        self.tree = Tree(self.pid, self._token)
        if self._reader is not None:
            self._reader.start()
        waiter = threading.Thread(target=self._wait_for_end, name=f"wait-{self.pid}", daemon=True)
        try:
            if registry is not None:  # before anyone can see its end and strike it off
                registry.record(self.tree, kind=kind, exe=program, marker=marker)
        except OSError:  # a full disk: what is not written down is not left running
            waiter.start()
            self.stop(grace_s=0)
            raise
        waiter.start()

    def poll(self) -> int | None:
        """The exit status once the tree is gone, else None. Never blocks."""
        return self._returncode if self._exited.is_set() else None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Block until the tree is gone; its exit status, or None after `timeout_s`."""
        return self._returncode if self._exited.wait(timeout_s) else None

    def stop(self, grace_s: float = 5.0) -> int:
        """End the whole tree and wait for it: ask, wait `grace_s`, kill. Its exit status.

        Safe from any thread and more than once. Raises TimeoutError when a process will not
        end even by SIGKILL (it hangs in the kernel).
        """
        if grace_s > 0 and self._job is None:
            self._unless_reaped(lambda: process_tree.ask_to_end(self.pid))
            self._exited.wait(grace_s)
        self._unless_reaped(self._kill)
        if not self._exited.wait(KILL_WAIT_S) or self._returncode is None:
            raise TimeoutError(f"process {self.pid} ({self.spec.argv[0]}) does not end")
        return self._returncode

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self, program: tuple[str, ...], output: int) -> subprocess.Popen[bytes]:
        flags: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            # Suspended, so that it starts nothing before it is in the job.
            flags = {"creationflags": subprocess.CREATE_NO_WINDOW | 0x4}
        popen: Any = subprocess.Popen(
            [*program, *self.spec.argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.spec.cwd,
            env=self._environment(),
            **flags,
        )
        if sys.platform == "win32":
            self._job = process_tree.WindowsJob()
            self._job.adopt(int(popen._handle))
            psutil.Process(popen.pid).resume()
        return cast("subprocess.Popen[bytes]", popen)

    def _environment(self) -> dict[str, str]:
        wished = {**os.environ, **self.spec.env, TOKEN_VARIABLE: self._token}
        return {name: value for name, value in wished.items() if value is not None}

    def _unless_reaped(self, act: Callable[[], None]) -> None:
        with self._reaping:  # after it the pid may be a stranger's
            if not self._reaped:
                act()

    def _kill(self) -> None:
        if self._job is not None:
            self._job.end()
        process_tree.kill_group(self.pid)

    def _wait_for_end(self) -> None:
        if sys.platform == "linux":
            # Not reaped yet: while the zombie holds its pid, no other process, group or
            # session can have that number, so the sweep cannot hit a stranger.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._sweep()
            with self._reaping:
                self._returncode = self._popen.wait()
                self._reaped = True
        else:
            self._returncode = self._popen.wait()
            self._reaped = True
            self._sweep()
        if self._reader is not None:
            self._reader.finish(DRAIN_S)
        if self._registry is not None:
            try:
                self._registry.forget(self.tree)
            except OSError as exc:  # a line too many in the file does no harm
                log.warning("the list of children could not be written: %s", exc)
        self._exited.set()
        if self._on_exit is not None:
            try:
                self._on_exit(self._returncode)
            except Exception:  # barrier: our thread must not die of a listener
                log.exception("the exit listener of %s failed", self.spec.argv[0])

    def _sweep(self) -> None:
        """End what the first process left running."""
        process_tree.kill_group(self.pid)
        if self._job is not None:
            self._job.end()
            self._job.close()
        if not process_tree.kill_members(self.tree, trust_session=True):
            log.warning("a process of the tree of %s would not end", self.spec.argv[0])


def exit_text(returncode: int) -> str:
    """An exit status in words: "exit code 1", "killed by SIGKILL (out of memory?)"."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _reader_for(spec: LaunchSpec, on_line: Callable[[str], None] | None) -> OutputReader | None:
    # A Windows handle does not append by itself, so there the log goes through us too.
    if on_line is not None or (spec.log_path is not None and os.name == "nt"):
        return OutputReader(on_line, spec.log_path)
    return None


@contextlib.contextmanager
def _opened_output(spec: LaunchSpec, reader: OutputReader | None) -> Iterator[int]:
    """The descriptor for the child's stdout and stderr, closed here once it has a copy."""
    if reader is not None:
        descriptor = reader.write_end
    elif spec.log_path is not None:
        # O_APPEND: the log can be copied and truncated while the child writes on.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(spec.log_path, flags, 0o600)
    else:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _resolve(program: str, env: Mapping[str, str | None]) -> str:
    """The absolute path of `program`: the lifeline would hide that it is missing."""
    found = shutil.which(program, path=env.get("PATH"))
    if found is None:
        if Path(program).is_file():
            raise PermissionError(f"{program} may not be executed")
        raise FileNotFoundError(f"there is no program {program}")
    return str(Path(found).absolute())


def _create_time(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:  # it has ended already
        return time.time()
