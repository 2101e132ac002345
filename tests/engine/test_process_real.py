"""A real llama-server as our child: on its unix socket, and ended when the engine is."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec
from tray_app.engine.process_tree import is_running

pytestmark = pytest.mark.skipif(os.name == "nt", reason="unix sockets")


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        pause.wait(0.02)


def healthy(path: Path) -> bool:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@pytest.fixture
def command(llama_server: Path, smollm2: Path, home: Path) -> tuple[str, ...]:
    socket_path = str(home / "m.sock")
    words = ("-m", str(smollm2), "--host", socket_path, "-c", "512", "--fit", "off")
    return (str(llama_server), *words, "--no-warmup", "--offline")


@pytest.fixture
def socket_path(home: Path) -> Iterator[Path]:
    return home / "m.sock"


def test_a_real_server_is_started_used_and_ended(
    command: tuple[str, ...], socket_path: Path, home: Path
) -> None:
    log = home / "server.log"
    with ChildProcess(LaunchSpec(command, log_path=log)) as child:
        wait_until(lambda: healthy(socket_path) or child.poll() is not None)
        assert healthy(socket_path)
        os.truncate(log, 0)
        started = time.monotonic()
        assert child.stop(grace_s=5) == 0, "it ends well when asked"
        assert time.monotonic() - started < 3
    assert not is_running(child.pid)
    assert log.stat().st_size < 100_000, "appended after the cut, not written at an old offset"


ENGINE = """
    import sys, time
    from pathlib import Path
    from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec
    registry = ChildRegistry(Path(sys.argv[1]))
    child = ChildProcess(
        LaunchSpec(tuple(sys.argv[4:])), registry=registry, kind="llama-server",
        marker=sys.argv[2], lifeline=() if sys.argv[3] == "untied" else None,
    )
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("tie", ["tied", "untied"])
def test_a_real_server_does_not_outlive_a_killed_engine(
    command: tuple[str, ...], socket_path: Path, home: Path, tie: str
) -> None:
    if tie == "tied" and sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux")
    children = home / "children.json"
    script = textwrap.dedent(ENGINE)
    argv = [sys.executable, "-c", script, str(children), str(socket_path), tie, *command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        pid = int(engine.stdout.readline())
        wait_until(lambda: healthy(socket_path))
        engine.kill()
    if tie == "tied":
        wait_until(lambda: not is_running(pid), timeout_s=2)
        assert ChildRegistry(children).end_orphans() == ()
    else:
        assert healthy(socket_path), "a plain child lives on"
        (ended,) = ChildRegistry(children).end_orphans()
        assert (ended.kind, ended.marker, ended.pids) == ("llama-server", str(socket_path), (pid,))
    assert not is_running(pid)
