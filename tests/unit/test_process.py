"""One child and its whole tree: started, read, ended; and what a killed engine leaves."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tray_app.engine import process_tree
from tray_app.engine.child_output import LineSplitter
from tray_app.engine.process import (
    ChildProcess,
    ChildRegistry,
    LaunchSpec,
    SpawnThread,
    exit_text,
)
from tray_app.engine.process_tree import Tree

posix_only = pytest.mark.skipif(os.name == "nt", reason="signals and sessions are POSIX")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")

PRELUDE = "import os, signal, subprocess, sys, time\n"


def python(script: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-c", PRELUDE + textwrap.dedent(script), *args)


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        pause.wait(0.01)


def running(pid: int) -> bool:
    return process_tree.is_running(pid)


class Lines:
    """A listener that can be waited on."""

    def __init__(self) -> None:
        self._queue: queue.Queue[str] = queue.Queue()

    def __call__(self, line: str) -> None:
        self._queue.put(line)

    def next(self) -> str:
        return self._queue.get(timeout=10)

    def rest(self) -> list[str]:
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


def test_a_child_runs_with_no_input_and_delivers_its_lines() -> None:
    lines = Lines()
    script = "print(sys.stdin.read() + 'in', flush=True); print('err', file=sys.stderr)"
    with ChildProcess(LaunchSpec(python(script)), on_line=lines) as child:
        assert child.wait(10) == 0
        assert child.poll() == 0
    assert lines.rest() == ["in", "err"]


def test_its_environment_is_ours_plus_additions_and_its_folder_the_given(tmp_path: Path) -> None:
    lines = Lines()
    script = "print(os.environ['WORD'], 'PATH' in os.environ, os.getcwd())"
    spec = LaunchSpec(python(script), env={"WORD": "llama"}, cwd=tmp_path)
    with ChildProcess(spec, on_line=lines) as child:
        child.wait(10)
    assert lines.rest() == [f"llama True {tmp_path}"]


def test_the_log_is_appended_to_and_can_be_truncated_under_a_running_child(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    log.write_text("before\n")
    go = tmp_path / "go"
    script = """
        print('one', flush=True)
        while not os.path.exists(sys.argv[1]): time.sleep(0.01)
        print('two', flush=True)
    """
    with ChildProcess(LaunchSpec(python(script, str(go)), log_path=log)) as child:
        wait_until(lambda: log.read_text() == "before\none\n")
        os.truncate(log, 0)
        go.touch()
        assert child.wait(10) == 0
    assert log.read_text() == "two\n"


def test_a_log_and_a_listener_get_the_same_output(tmp_path: Path) -> None:
    lines, log = Lines(), tmp_path / "child.log"
    with ChildProcess(LaunchSpec(python("print('x')"), log_path=log), on_line=lines) as child:
        child.wait(10)
    assert lines.rest() == ["x"]
    assert log.read_text() == "x\n"


def test_a_failing_listener_does_not_stop_the_output() -> None:
    seen: list[str] = []

    def listen(line: str) -> None:
        seen.append(line)
        raise ValueError(line)

    with ChildProcess(LaunchSpec(python("print('a'); print('b')")), on_line=listen) as child:
        assert child.wait(10) == 0
    assert seen == ["a", "b"]


def test_a_progress_bar_and_an_endless_line_come_in_pieces() -> None:
    splitter = LineSplitter(max_line_bytes=4)
    assert splitter.feed(b"10%\r20%\r\n30") == ["10%", "20%"]
    assert splitter.feed(b"%\n") == ["30%"]
    assert splitter.feed(b"abcdefghij") == ["abcd", "efgh"]
    assert splitter.feed(b"kl\xffmn\n\n\n") == ["ijkl", "\ufffdmn"]
    assert splitter.feed(b"end") == []
    assert splitter.rest() == ["end"]
    assert splitter.rest() == []


def test_a_missing_program_is_an_os_error_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        ChildProcess(LaunchSpec(("no-such-program",)), on_line=Lines())
    file = tmp_path / "plain"
    file.write_text("x")
    with pytest.raises(PermissionError):
        ChildProcess(LaunchSpec((str(file),)))
    with pytest.raises(OSError, match="gone"):
        ChildProcess(LaunchSpec(python(""), cwd=tmp_path / "gone"), on_line=Lines())
    assert threading.active_count() == before


def test_the_exit_listener_hears_once_and_after_all_output() -> None:
    heard: list[tuple[int, list[str]]] = []
    done = threading.Event()
    lines: list[str] = []

    def on_exit(status: int) -> None:
        heard.append((status, list(lines)))
        done.set()

    script = "print('last words'); sys.exit(3)"
    child = ChildProcess(LaunchSpec(python(script)), on_line=lines.append, on_exit=on_exit)
    assert done.wait(10)
    assert child.stop() == 3
    assert heard == [(3, ["last words"])]


@posix_only
def test_stop_asks_first_so_that_a_child_can_end_well() -> None:
    lines = Lines()
    script = """
        def leave(*_):
            print('bye', flush=True)
            sys.exit(7)
        signal.signal(signal.SIGTERM, leave)
        print('up', flush=True)
        time.sleep(60)
    """
    with ChildProcess(LaunchSpec(python(script)), on_line=lines) as child:
        assert lines.next() == "up"
        assert child.stop(grace_s=10) == 7
    assert lines.rest() == ["bye"]


@posix_only
def test_a_child_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    lines = Lines()
    script = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print('up', flush=True)
        time.sleep(60)
    """
    with ChildProcess(LaunchSpec(python(script)), on_line=lines) as child:
        lines.next()
        assert child.wait(0.01) is None
        started = time.monotonic()
        assert child.stop(grace_s=0.2) == -signal.SIGKILL
        assert time.monotonic() - started < 5
        assert child.stop() == -signal.SIGKILL


@posix_only
@pytest.mark.parametrize("grace_s", [0.0, 0.1])
def test_a_fork_tree_that_ignores_sigterm_ends_with_its_root(grace_s: float) -> None:
    lines = Lines()
    script = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        depth = int(sys.argv[1])
        os.write(1, f'{os.getpid()}\\n'.encode())  # one write, as seven processes share the pipe
        for _ in range(2 if depth else 0):
            subprocess.Popen([sys.executable, '-c', sys.argv[2], str(depth - 1), sys.argv[2]])
        time.sleep(60)
    """
    source = PRELUDE + textwrap.dedent(script)
    with ChildProcess(LaunchSpec((sys.executable, "-c", source, "2", source)), on_line=lines) as c:
        pids = [int(lines.next()) for _ in range(7)]
        assert all(running(pid) for pid in pids)
        c.stop(grace_s)
        assert not any(running(pid) for pid in pids)


@posix_only
@pytest.mark.parametrize("escape", ["", "os.setsid()", "os.setpgid(0, 0)"])
def test_a_double_forked_grandchild_ends_with_the_first_process(escape: str) -> None:
    lines = Lines()
    script = f"""
        if os.fork() == 0:
            {escape or "pass"}
            if os.fork():
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print(os.getpid(), flush=True)
            time.sleep(60)
        time.sleep(0.3)
    """
    with ChildProcess(LaunchSpec(python(script)), on_line=lines) as child:
        orphan = int(lines.next())
        assert child.wait(10) == 0
        assert not running(orphan)


@posix_only
def test_a_process_that_emptied_its_environment_in_our_session_ends_too() -> None:
    lines = Lines()
    script = """
        subprocess.Popen([sys.executable, '-c', 'import os,time; os.setpgid(0, 0);'
                          'print(os.getpid(), flush=True); time.sleep(60)'], env={})
        time.sleep(60)
    """
    with ChildProcess(LaunchSpec(python(script)), on_line=lines) as child:
        other = int(lines.next())
        child.stop(grace_s=0)
        assert not running(other)


@posix_only
def test_an_escaped_process_that_holds_the_pipe_cannot_hang_stop() -> None:
    lines = Lines()
    script = """
        subprocess.Popen([sys.executable, '-c', 'import os,time; print(os.getpid(), flush=True)'
                          ';time.sleep(60)'], env={}, start_new_session=True)
        time.sleep(60)
    """
    with ChildProcess(LaunchSpec(python(script)), on_line=lines) as child:
        escaped = psutil.Process(int(lines.next()))
        try:
            started = time.monotonic()
            child.stop(grace_s=0)
            assert time.monotonic() - started < 5
            assert escaped.is_running(), "nothing proves that this one is ours"
        finally:
            escaped.kill()


@posix_only
def test_stop_during_start_leaves_no_process() -> None:
    script = "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    for _ in range(5):
        child = ChildProcess(LaunchSpec(python(script)))
        child.stop(grace_s=0)
        assert not process_tree.members(child.tree, trust_session=False)
        with pytest.raises(psutil.NoSuchProcess):
            psutil.Process(child.pid)


def test_leaving_the_block_by_an_exception_ends_the_child() -> None:
    child = ChildProcess(LaunchSpec(python("time.sleep(60)")))
    with pytest.raises(ValueError, match="no"), child:
        raise ValueError("no")
    assert child.poll() is not None


def test_many_threads_may_stop_one_child() -> None:
    child = ChildProcess(LaunchSpec(python("time.sleep(60)")))
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(child.stop(grace_s=1))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 8
    assert len(set(results)) == 1


def test_no_thread_and_no_descriptor_stays_after_many_children() -> None:
    descriptors = psutil.Process().num_fds() if os.name != "nt" else 0
    threads = threading.active_count()
    for _ in range(10):
        with ChildProcess(LaunchSpec(python("print(1)")), on_line=Lines()) as child:
            child.wait(10)
    wait_until(lambda: threading.active_count() <= threads)
    if os.name != "nt":
        assert psutil.Process().num_fds() == descriptors


PARENT = """
    import queue
    from pathlib import Path
    from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec
    from tray_app.self_command import LIFELINE, part_command
    registry = ChildRegistry(Path(sys.argv[1])) if sys.argv[1] else None
    lines = queue.SimpleQueue()
    lifelines = {
        'none': (),
        'script': part_command(LIFELINE, str(os.getpid())),
        'default': None,
    }
    child = ChildProcess(
        LaunchSpec((sys.executable, '-c', sys.argv[3], 'socket-marker')),
        registry=registry, kind='llama-server', marker='socket-marker',
        lifeline=lifelines[sys.argv[2]], on_line=lines.put,
    )
    print(child.pid, lines.get(), flush=True)
    time.sleep(60)
"""
WITH_GRANDCHILD = PRELUDE + textwrap.dedent("""
    grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    print(grandchild.pid, flush=True)
    time.sleep(60)
""")


def killed_engine(registry: Path | None, lifeline: str) -> tuple[int, int]:
    """The pids of child and grandchild of an engine that has been killed by SIGKILL."""
    argv = python(PARENT, str(registry or ""), lifeline, WITH_GRANDCHILD)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        child, grandchild = map(int, engine.stdout.readline().split())
        assert running(child)
        assert running(grandchild)
        engine.kill()
        engine.wait()
    return child, grandchild


@linux_only
@pytest.mark.parametrize("lifeline", ["default", "script"])
def test_a_child_ends_when_the_engine_is_killed(lifeline: str) -> None:
    child, grandchild = killed_engine(None, lifeline)
    wait_until(lambda: not running(child))
    psutil.Process(grandchild).kill()


@linux_only
def test_a_child_spawned_on_the_spawn_thread_outlives_its_callers_thread() -> None:
    spawn_on = SpawnThread()
    children: list[ChildProcess] = []
    spec = LaunchSpec(python("print('up', flush=True); time.sleep(60)"))

    def start() -> None:
        lines = Lines()
        children.append(ChildProcess(spec, on_line=lines))
        children.append(ChildProcess(spec, on_line=lines, spawn_on=spawn_on))
        # Tied only from here on: setpriv has run.
        assert (lines.next(), lines.next()) == ("up", "up")

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    tied_to_thread, tied_to_engine = children
    try:
        assert tied_to_thread.wait(10) == -signal.SIGKILL
        assert tied_to_engine.wait(0.2) is None
    finally:
        tied_to_engine.stop(grace_s=0)


def test_the_spawn_thread_hands_errors_back(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        ChildProcess(LaunchSpec(python(""), cwd=tmp_path / "gone"), spawn_on=SpawnThread())


@posix_only
def test_orphans_of_a_killed_engine_are_ended_as_whole_trees(tmp_path: Path) -> None:
    path = tmp_path / "children.json"
    child, grandchild = killed_engine(path, "none")
    assert running(child)
    ended = ChildRegistry(path).end_orphans(grace_s=2)
    assert [(e.kind, e.marker) for e in ended] == [("llama-server", "socket-marker")]
    assert set(ended[0].pids) == {child, grandchild}
    assert not running(child)
    assert not running(grandchild)
    assert json.loads(path.read_text()) == []
    assert ChildRegistry(path).end_orphans() == ()


@linux_only
def test_a_grandchild_is_ended_even_when_its_parent_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "children.json"
    child, grandchild = killed_engine(path, "default")
    wait_until(lambda: not running(child))
    ended = ChildRegistry(path).end_orphans(grace_s=2)
    assert [e.pids for e in ended] == [(grandchild,)]
    assert not running(grandchild)


@pytest.mark.parametrize("lie", ["identity", "exe", "marker", "token"])
def test_a_process_that_is_not_provably_ours_is_never_touched(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "children.json"
    foreign = subprocess.Popen(python("time.sleep(60)", "socket-marker"))
    try:
        row = {
            "pid": foreign.pid,
            "identity": process_tree.process_identity(foreign.pid),
            "token": "0" * 32,
            "kind": "llama-server",
            "exe": os.path.realpath(sys.executable),
            "marker": "socket-marker",
        }
        row[lie] = "" if lie == "token" else "something else"
        path.write_text(json.dumps([row]))
        assert ChildRegistry(path).end_orphans(grace_s=0.2) == ()
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


@pytest.mark.parametrize("text", ["{", '[{"pid": 1}]', "null", "[3]"])
def test_a_broken_list_of_children_is_set_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run" / "children.json"
    path.parent.mkdir()
    path.write_text(text)
    assert ChildRegistry(path).end_orphans() == ()
    assert path.with_name("children.json.broken-1").read_text() == text
    assert json.loads(path.read_text()) == []


def test_a_child_that_ends_at_once_leaves_no_record(tmp_path: Path) -> None:
    registry = ChildRegistry(tmp_path / "children.json")
    for _ in range(30):
        with ChildProcess(LaunchSpec(("true",)), registry=registry, kind="x") as child:
            assert child.wait(10) == 0
        assert registry.records() == ()


def test_the_registry_holds_a_child_exactly_while_it_runs(tmp_path: Path) -> None:
    registry = ChildRegistry(tmp_path / "run" / "children.json")
    with ChildProcess(LaunchSpec(python("time.sleep(60)")), registry=registry, kind="x") as child:
        assert [(r.pid, r.kind) for r in registry.records()] == [(child.pid, "x")]
        assert abs(child.create_time - time.time()) < 60
    assert registry.records() == ()


@posix_only
def test_an_exit_status_is_named() -> None:
    assert exit_text(1) == "exit code 1"
    assert exit_text(-signal.SIGKILL) == "killed by SIGKILL (out of memory?)"
    assert exit_text(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert exit_text(-200) == "signal 200"


def test_a_child_that_cannot_be_written_down_is_not_left_running(tmp_path: Path) -> None:
    class FullDisk(ChildRegistry):
        def record(self, tree: Tree, *, kind: str, exe: str, marker: str = "") -> None:
            started.append(tree.leader_pid)
            raise OSError(28, "No space left on device")

    started: list[int] = []
    spec = LaunchSpec((sys.executable, "-c", "import signal; signal.pause()"))
    with pytest.raises(OSError, match="No space left"):
        ChildProcess(spec, registry=FullDisk(tmp_path / "children.json"))
    assert not psutil.pid_exists(started[0])
