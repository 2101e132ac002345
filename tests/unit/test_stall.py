"""What counts as a sign of life of a child that loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tray_app.engine.stall import StallWatch

# Does what it is told on its input, and nothing else.
SCRIPT = """
import os, sys
held = []
print("done", flush=True)
for line in sys.stdin:
    if line == "memory\\n":
        held.append(b"x" * (4 << 20))
    used = os.times().user
    while line == "work\\n" and os.times().user - used < 0.3:
        pass
    print("done", flush=True)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A child, looked at every two seconds of a time that the test makes pass."""

    def __init__(self, child: subprocess.Popen[str], log_path: Path) -> None:
        self.child, self.clock, self.log_path = child, Clock(), log_path
        self.watch = StallWatch(child.pid, log_path, after_s=10, clock=self.clock)

    def do(self, what: str) -> None:
        """Have it done; the child waits again when this returns."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        print(what, file=self.child.stdin, flush=True)
        assert self.child.stdout.readline() == "done\n"

    def stalled_within(self, seconds: int) -> bool:
        for _ in range(seconds // 2):
            self.clock.now += 2
            if self.watch.stalled():
                return True
        return False


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    argv = (sys.executable, "-I", "-S", "-c", SCRIPT)
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        yield Watched(child, tmp_path / "log")


def test_a_child_that_does_nothing_is_stalled_when_the_time_is_over(watched: Watched) -> None:
    assert not watched.stalled_within(8)
    assert watched.stalled_within(4)


def test_a_line_in_the_log_is_a_sign_of_life(watched: Watched) -> None:
    for _ in range(5):
        assert not watched.stalled_within(8)
        with watched.log_path.open("a") as log:
            log.write("still loading\n")
    assert watched.stalled_within(14)


@pytest.mark.parametrize("sign", ["memory", "work"])
def test_memory_and_processor_time_are_signs_of_life(watched: Watched, sign: str) -> None:
    for _ in range(3):
        assert not watched.stalled_within(8)
        watched.do(sign)
    assert not watched.stalled_within(8)
    watched.do("nothing")
    assert watched.stalled_within(6)


def test_a_machine_that_slept_is_no_child_that_hung(watched: Watched) -> None:
    assert not watched.stalled_within(8)
    watched.clock.now += 8 * 3600
    assert not watched.watch.stalled()
    assert not watched.stalled_within(8)
    assert watched.stalled_within(4)


def test_a_child_that_ended_is_told_elsewhere(watched: Watched) -> None:
    watched.child.kill()
    watched.child.wait()
    assert not watched.stalled_within(200)
