"""`llama-wrangler --self-test`: this installation tried for real, in a home that is thrown away.

Engine, scan worker, tray, window and a model are started as the app starts them, so a build in
which one of them is missing names it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import tomli_w

from . import __version__, desktop
from .client import Client, ClientError, ensure_engine
from .engine import EngineError
from .engine.errors import SelfTestFailed
from .self_command import is_frozen, self_command, source_root

TOTAL_S = 120.0
OVERTIME_S = 10.0  # what the watchdog gives beyond the total, for an ending in good order
ASK_EVERY_S = 0.05
LOG_LINES = 15
MODEL_FOLDER = "self-test"

Say = Callable[[str], None]
Value = TypeVar("Value")


@dataclass
class Trial:
    """One run: its home, its time, and the processes it has started."""

    home: Path
    deadline: float
    say: Say
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    engine_pid: int | None = None

    def left_s(self) -> float:
        """Seconds until the whole has to be over; never negative."""
        return max(0.0, self.deadline - time.monotonic())

    def wait_for(self, ask: Callable[[], Value | None], what: str) -> Value:
        """The first answer of `ask` that is not empty. Raises SelfTestFailed when time is up."""
        pause = threading.Event()
        while not (value := ask()):
            if self.left_s() == 0:
                raise SelfTestFailed(f"Waited in vain for {what}.", "Look at the log below.")
            pause.wait(ASK_EVERY_S)
        return value

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """A process of this program. Raises OSError."""
        process = subprocess.Popen(self_command(*words), cwd=source_root(), **options)
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Kill what is left of the run; nothing when all has ended well."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        if self.engine_pid is not None:
            _kill_tree(self.engine_pid)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be tried."""

    model: Path | None = None  # a GGUF file that has to answer
    llama_server: Path | None = None  # None: the one that the engine finds by itself
    total_s: float = TOTAL_S


def run_self_test(wish: Wish, say: Say) -> int:
    """Try everything; returns 0, or 1 after saying what failed and what the engine's log says.

    Blocks for `wish.total_s` and 10 s at most. Changes this process's environment.
    """
    how = "a frozen build" if is_frozen() else "from source"
    say(f"llama-wrangler {__version__}, {how}, Python {sys.version.split()[0]}, {sys.platform}")
    with _throwaway_home(wish) as home:
        say(f"in {home.parent}, which is removed at the end")
        trial = Trial(home, time.monotonic() + wish.total_s, say)
        watchdog = threading.Timer(wish.total_s + OVERTIME_S, _give_up, args=(trial,))
        watchdog.daemon = True
        watchdog.start()
        try:
            _try_all(trial, wish)
        except (EngineError, ClientError, OSError) as error:
            _say_failure(trial, error)
            return 1
        finally:
            trial.end()
            watchdog.cancel()
    say("The self-test passed.")
    return 0


def _try_all(trial: Trial, wish: Wish) -> None:
    seen = desktop.display_available()
    with _step(trial, "engine") as tell:
        client = ensure_engine(trial.home, "tray")
        trial.engine_pid = client.engine_pid
        tell(_engine_answers(client))
    with _step(trial, "library") as tell:
        tell(_library_reads(trial, client))
    if not seen:
        trial.say("skip  tray, window   there is no display")
    tray: subprocess.Popen[bytes] | None = None
    if seen:
        with _step(trial, "tray") as tell:
            tray = trial.start("tray", "--hidden", "--apart")
            tell(_tray_draws(trial, tray))
        with _step(trial, "window") as tell:
            tell(_window_answers(trial, client))
    if wish.model is not None:
        with _step(trial, "model") as tell:
            tell(_model_answers(trial, client))
    with _step(trial, "end") as tell:
        tell(_ends(trial, client, tray))


@contextmanager
def _step(trial: Trial, name: str) -> Iterator[Say]:
    """Time one step and say how it went."""
    began, told = time.monotonic(), [""]
    try:
        yield lambda line: told.__setitem__(0, line)
    except (EngineError, ClientError, OSError):
        trial.say(f"FAIL  {name}")
        raise
    trial.say(f"ok    {name:<8} {time.monotonic() - began:5.2f} s  {told[0]}")


def _engine_answers(client: Client) -> str:
    version = client.snapshot()["version"]
    if version != __version__:
        raise SelfTestFailed(f"The engine is version {version}, not {__version__}.")
    return f"answers, process {client.engine_pid}"


def _library_reads(trial: Trial, client: Client) -> str:
    """The file in the home was read whole, which a process of its own does."""

    def read() -> str | None:
        snapshot = client.snapshot()
        for row in snapshot["left_out"]:
            raise SelfTestFailed(f"{Path(row['path']).name} was left out: {row['reason']}")
        known = [m["name"] for m in snapshot["models"] if m["details_known"]]
        return known[0] if known else None

    return f"read the header of {trial.wait_for(read, 'the scan of the models')}"


def _tray_draws(trial: Trial, tray: subprocess.Popen[bytes]) -> str:
    """It has drawn its icons, which a build without Pillow's own library cannot."""
    icons = trial.home.parent / "cache" / "icons"

    def drawn() -> int:
        if tray.poll() is not None:
            raise SelfTestFailed(f"The tray ended by itself with status {tray.returncode}.")
        return sum(path.stat().st_size > 0 for path in icons.rglob("*.png"))

    return f"drew {trial.wait_for(drawn, 'the icons of the tray')} icons"


def _window_answers(trial: Trial, client: Client) -> str:
    window = trial.start("window", "--probe", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        said, complaints = window.communicate(timeout=trial.left_s())
    except subprocess.TimeoutExpired as error:
        raise SelfTestFailed("The window did not answer in time.", "Is the display alive?") from (
            error
        )
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line[:1] == "{"]
    if not lines:
        why = complaints.decode("utf-8", "replace").strip().splitlines()[-3:]
        raise SelfTestFailed(
            f"The window ended with status {window.returncode}: {' '.join(why) or 'no word'}",
            "On Linux it needs GTK 3 and WebKit2GTK 4.1 of the system.",
        )
    told = json.loads(lines[-1])
    if problem := told.get("problem"):
        raise SelfTestFailed(f"The window opened, but {problem}.")
    if told["pid"] != client.engine_pid:
        raise SelfTestFailed("The window's bridge answers for another engine.")
    return f"its bridge gave snapshot {told['seq']} to the page “{told['heading']}”"


def _model_answers(trial: Trial, client: Client) -> str:
    def runtime() -> Mapping[str, Any] | None:
        status = client.snapshot()["runtime"]
        if status["active"] is None and status["state"] != "searching":
            raise SelfTestFailed(
                "No llama.cpp was found that could load the model.",
                "Name one with --llama-server FILE.",
            )
        return dict(status["active"]) if status["active"] else None

    server = trial.wait_for(runtime, "llama.cpp to be found and tried")
    model_id = str(client.snapshot()["models"][0]["id"])
    client.call("switch_model", model_id=model_id)

    def ready() -> bool:
        snapshot = client.snapshot()
        status = next((s for s in snapshot["statuses"] if s["model_id"] == model_id), None)
        if status and status["state"] == "failed":
            reason = (status["error"] or {}).get("message", "it did not say why")
            raise SelfTestFailed(f"The model could not be loaded: {reason}")
        return bool(status and status["state"] == "ready")

    trial.wait_for(ready, "the model to load")
    text = _complete(client.snapshot()["gateway"]["port"], trial.left_s())
    return f"{model_id} on {server['id']} said {text!r}"


def _complete(port: int, timeout_s: float) -> str:
    """A few words of the model, asked for as any program does. Raises SelfTestFailed, OSError."""
    body = {"model": "default", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=max(1.0, timeout_s))
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read()
        text = str(json.loads(data)["choices"][0]["text"])
    except (http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise SelfTestFailed(f"The server's answer was not understood: {error!r}") from error
    finally:
        connection.close()
    if not text.strip():
        raise SelfTestFailed("The model answered without a word.")
    return text


def _ends(trial: Trial, client: Client, tray: subprocess.Popen[bytes] | None) -> str:
    if tray is not None and tray.poll() is not None:
        raise SelfTestFailed(f"The tray ended by itself with status {tray.returncode}.")
    client.call("shutdown")
    trial.wait_for(lambda: _gone(client.engine_pid), "the engine to end")
    trial.engine_pid = None
    if tray is None:
        return "the engine has ended"
    trial.wait_for(lambda: tray.poll() is not None, "the tray to end with its engine")
    if tray.returncode != 0:
        raise SelfTestFailed(f"The tray ended with status {tray.returncode}.")
    return "engine and tray have ended"


# -- the home


@contextmanager
def _throwaway_home(wish: Wish) -> Iterator[Path]:
    # Short, because the unix sockets in its run/ have to fit 103 bytes.
    folder = Path(tempfile.mkdtemp(prefix="lw-", dir="/tmp" if os.name == "posix" else None))
    try:
        home = folder / "home"
        place = home / "models" / MODEL_FOLDER
        place.mkdir(parents=True)
        if wish.model is None:
            (place / "no-weights.gguf").write_bytes(header_alone())
        else:
            _place(wish.model, place / wish.model.name)
        named = {"server_path": str(wish.llama_server)} if wish.llama_server else {}
        settings = {
            "version": 1,
            "server": {"port": _free_port(), "context_length": 512},
            "runtime": {"auto_build": False, "updates": "off", **named},
            "app": {"updates": "off"},
        }
        (home / "settings.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
        os.environ["LLAMA_WRANGLER_HOME"] = str(home)
        os.environ["LLAMA_WRANGLER_CACHE"] = str(folder / "cache")
        yield home
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def header_alone() -> bytes:
    """A GGUF file of one tensor with four numbers: enough to be read, not to be loaded."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = {"general.architecture": "llama", "general.name": "No weights"}
    rows = b"".join(text(k) + struct.pack("<I", 8) + text(v) for k, v in pairs.items())
    tensor = text("a.weight") + struct.pack("<IQIQ", 1, 4, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + rows + tensor
    return head + bytes(-len(head) % 32) + struct.pack("<4f", 1, 2, 3, 4)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# -- the end


def _say_failure(trial: Trial, error: Exception) -> None:
    trial.say(f"The self-test failed: {getattr(error, 'message', error)}")
    if remedy := getattr(error, "remedy", ""):
        trial.say(f"  {remedy}")
    with contextlib.suppress(OSError):
        log = trial.home / "logs" / "engine.log"
        for line in log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]:
            trial.say(f"  | {line}")


def _give_up(trial: Trial) -> None:
    """The watchdog: something hangs that no time limit of its own has reached."""
    _say_failure(trial, SelfTestFailed("It took too long, and was ended."))
    trial.end()
    shutil.rmtree(trial.home.parent, ignore_errors=True)
    os._exit(1)


def _gone(pid: int) -> bool:
    """Whether a process has ended; our own children are zombies until we end."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _kill_tree(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        engine = psutil.Process(pid)
        for process in [engine, *engine.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                process.kill()
