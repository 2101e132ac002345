"""Runs the programs of a build: logged, watched, and ended whole by a cancel."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tray_app.engine.errors import EngineError, NotEnoughDisk, RuntimeBuildFailed
from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec, exit_text

from .reporter import Reporter

POLL_S = 0.2  # how soon a cancel is seen
MAX_FAULTS = 20

_FAULT = re.compile(r"(?:\berror:|CMake Error|\bfatal:|No space left)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Step:
    """How the programs of one build are run."""

    reporter: Reporter
    marker: str  # a path that shows in the command lines of what is started
    env: Mapping[str, str] = field(default_factory=dict)
    registry: ChildRegistry | None = None
    what: str = "Building llama.cpp"  # for the message

    def run(self, argv: tuple[str, ...], follow: Callable[[str], None] = lambda line: None) -> None:
        """Run one program to its end. Blocks.

        Raises RuntimeBuildFailed with the first line that looks like an error, NotEnoughDisk,
        Cancelled, OSError.
        """
        faults: list[str] = []

        def read(line: str) -> None:
            follow(line)
            if _FAULT.search(line) and len(faults) < MAX_FAULTS:
                faults.append(line.strip()[:300])

        spec = LaunchSpec(argv, env=self.env, log_path=self.reporter.log_path)
        with ChildProcess(
            spec, on_line=read, registry=self.registry, kind="build", marker=self.marker
        ) as child:
            while (status := child.wait(POLL_S)) is None:
                self.reporter.check()
        if status != 0:
            raise _failure(self.what, status, faults)


def _failure(what: str, status: int, faults: list[str]) -> EngineError:
    if any("No space left" in fault for fault in faults):
        return NotEnoughDisk("The disk filled up during the build.", "Free some space, then retry.")
    # A compiler that the system ended shows in the words of the compiler driver.
    killed = status == -9 or any("Killed" in fault for fault in faults)
    return RuntimeBuildFailed(
        f"{what} failed ({faults[0] if faults else exit_text(status)}).",
        "Memory ran out: close other programs, then retry."
        if killed
        else "The job's log has the details.",
    )
