"""Fixtures that every test folder shares: real parts, throw-away homes, and a leak guard."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tomli_w

from tests import parts
from tests.converting import kit as converting

TESTS = Path(__file__).parent
FOLDER_MARKS = {"engine": pytest.mark.real, "e2e": pytest.mark.e2e}
# Engine, runner and window notice an end by a pipe or a signal: all of that is quick.
GONE_WITHIN_S = 15.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder says what it needs, so nobody has to mark each one."""
    for item in items:
        mark = FOLDER_MARKS.get(item.path.relative_to(TESTS).parts[0])
        if mark is not None:
            item.add_marker(mark)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the parts that the chosen tests name, before any test's clock runs.

    A llama.cpp build takes minutes; within a fixture it would count against the first test's
    timeout. What cannot be had is told by the fixture, in the test that wanted it.
    """
    if session.config.option.collectonly:
        return
    named = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for name, get in parts.PARTS.items():
        if name in named:
            with contextlib.suppress(parts.PartMissing):
                get()


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """A real `llama-server`."""
    return parts.require(parts.llama_server)


@pytest.fixture(scope="session")
def llama_quantize() -> Path:
    """The `llama-quantize` of the same build."""
    return parts.require(parts.llama_quantize)


@pytest.fixture(scope="session")
def vulkan_server() -> Path:
    """A real `llama-server` with a GPU backend, and the software device that stands for a GPU."""
    if parts.in_ci() and not shutil.which("vulkaninfo"):
        pytest.fail("not installed: vulkan-tools, mesa-vulkan-drivers", pytrace=False)
    return parts.require(parts.vulkan_server)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real instruct model of 98 MB. Shared by everyone: never written to."""
    return parts.require(parts.smollm2)


@pytest.fixture(scope="session")
def smollm2_q2() -> Path:
    """A second real model of 88 MB. Shared by everyone: never written to."""
    return parts.require(parts.smollm2_q2)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real embedding model in its original form. Never written to."""
    return parts.require(parts.minilm)


@pytest.fixture(scope="session")
def converter() -> Path:
    """What `converter/` of a home is to link to for having a converter."""
    return parts.require(parts.converter)


@pytest.fixture(scope="session")
def small_llama(converter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2.9 M weights in original form, in two shards, with a SentencePiece tokenizer.

    Made by transformers, and trained a little. Never written to.
    """
    folder = tmp_path_factory.mktemp("original") / "small-llama"
    converting.script(converter, "make_llama.py", folder, converting.TEXT, "80")
    return folder


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody held a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, set in the environment. After the test no process of it may be left.

    Its path is short, because the unix sockets in its `run/` have to fit 103 bytes.
    """
    path = Path(tempfile.mkdtemp(prefix="lw-", dir="/tmp" if os.name == "posix" else None))
    monkeypatch.setenv("LLAMA_WRANGLER_HOME", str(path))
    try:
        yield path
        left = _wait_until_gone(path)
    finally:
        _kill(_processes_of(path))
        shutil.rmtree(path, ignore_errors=True)
    assert not left, "processes of the test's home were left running:\n" + "\n".join(left)


@pytest.fixture
def two_models_home(home: Path, llama_server: Path, smollm2: Path, smollm2_q2: Path) -> Path:
    """A home with two real models (`parts.FIRST_MODEL`, `parts.SECOND_MODEL`) and a runtime."""
    parts.place(smollm2, home / "models" / parts.FIRST_MODEL)
    parts.place(smollm2_q2, home / "models" / parts.SECOND_MODEL)
    settings = {"version": 1, "runtime": {"server_path": str(llama_server), "auto_build": False}}
    (home / "settings.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    return home


@pytest.fixture
def display(home: Path) -> Iterator[dict[str, str]]:
    """The environment of a private X display and session bus, with the test's home in it."""
    from tests.e2e.sni_host import private_session

    if parts.in_ci() and (missing := [p for p in ("Xvfb", "dbus-daemon") if not shutil.which(p)]):
        pytest.fail(f"not installed: {', '.join(missing)}", pytrace=False)
    with private_session() as environ:
        yield environ


def _processes_of(home: Path) -> list[psutil.Process]:
    """Every process but this one whose command line or environment names `home`."""
    text = str(home)
    found = []
    for process in psutil.process_iter():
        # Gone, a zombie, or another user's: none of them can be one that we left.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and (
                any(text in argument for argument in process.cmdline())
                or any(text in value for value in process.environ().values())
            ):
                found.append(process)
    return found


def _wait_until_gone(home: Path) -> list[str]:
    """What is left of `home`'s processes after a short wait, in words."""
    deadline = time.monotonic() + GONE_WITHIN_S
    pause = threading.Event()
    while left := _processes_of(home):
        if time.monotonic() > deadline:
            return [_in_words(process) for process in left]
        pause.wait(0.05)
    return []


def _in_words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"  {process.pid}: {' '.join(process.cmdline())}"
    return f"  {process.pid}"


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=GONE_WITHIN_S)
