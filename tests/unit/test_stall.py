"""What counts as a sign of life of a child that loads."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.engine_kit import wait_until
from tray_app.engine.process import ChildProcess, LaunchSpec
from tray_app.engine.stall import StallWatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the child is seen by /proc")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A child that does nothing, watched every two seconds of a time that the test makes pass."""

    def __init__(self, pid: int, log_path: Path) -> None:
        self.clock, self.log_path = Clock(), log_path
        self.watch = StallWatch(pid, log_path, after_s=60, clock=self.clock)

    def stalled_within(self, seconds: int) -> bool:
        for _ in range(seconds // 2):
            self.clock.now += 2
            if self.watch.stalled():
                return True
        return False


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ChildProcess(LaunchSpec(("tail", "-f", os.devnull), log_path=tmp_path / "log")) as child:
        # Once it has opened what it follows, nothing is left that it would start with.
        followed = Path(f"/proc/{child.pid}/fd/3")
        wait_until(lambda: followed.is_symlink() and os.readlink(followed) == os.devnull)
        yield Watched(child.pid, tmp_path / "log")


def test_a_child_that_does_nothing_is_stalled_when_the_time_is_over(watched: Watched) -> None:
    assert not watched.stalled_within(56)
    assert watched.stalled_within(12)


def test_a_line_in_the_log_is_a_sign_of_life(watched: Watched) -> None:
    for _ in range(5):
        assert not watched.stalled_within(40)
        with watched.log_path.open("a") as log:
            log.write("still loading\n")
    assert watched.stalled_within(70)


def test_a_machine_that_slept_is_no_child_that_hung(watched: Watched) -> None:
    assert not watched.stalled_within(50)
    watched.clock.now += 8 * 3600
    assert not watched.watch.stalled()
    assert not watched.stalled_within(50)
    assert watched.stalled_within(20)


def test_memory_or_processor_time_is_a_sign_of_life(tmp_path: Path) -> None:
    """This process is watched: it makes the signs itself."""
    watched = Watched(os.getpid(), tmp_path / "none")
    held = []
    for _ in range(5):
        assert not watched.stalled_within(40)
        held.append(mmap.mmap(-1, 4 << 20))  # nothing that was freed before is used again for it
        held[-1].write(b"x" * (4 << 20))
    used = os.times().user
    while os.times().user - used < 1.3:  # 2 % of 60 s
        pass
    assert not watched.stalled_within(40)


def test_a_child_that_ended_is_told_elsewhere(tmp_path: Path) -> None:
    with ChildProcess(LaunchSpec(("true",))) as child:
        child.wait(10)
    watched = Watched(child.pid, tmp_path / "none")
    assert not watched.stalled_within(200)
