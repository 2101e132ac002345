"""The command line: a client of the engine like tray and window. Documented in docs/cli.md.

Exit status: 0 done, 1 it failed (the reason is on stderr), 2 the command line was wrong,
3 no engine is running, 4 an engine is running already, 130 ended by Ctrl+C.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import (
    APP_NAME,
    __version__,
    cli_bench,
    cli_convert,
    cli_download,
    cli_inspect,
    cli_library,
    cli_quantize,
    cli_runtime,
    cli_share,
    cli_uninstall,
    cli_update,
)
from . import cli_text as text
from .cli_job import CANCELLED, FAILED, WRONG, await_event, settled
from .client import ALREADY_RUNNING, Client, ClientError, ensure_engine, home_path
from .links import PAGES

NOT_RUNNING = 3
ALONE_S = 60.0  # an engine that a tray or the CLI started ends this long after its last face
LOG_POLL_S = 0.5
STOP_WAIT_S = 20.0

Verb = Callable[[argparse.Namespace], int]


def run(words: Sequence[str]) -> int:
    """Run one command line; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show
            stream.reconfigure(errors="replace")
    options = build_parser().parse_args(words)
    if options.home:
        os.environ["LLAMA_WRANGLER_HOME"] = str(Path(options.home).expanduser().absolute())
    try:
        verb: Verb = _self_test if options.self_test else options.verb
        return verb(options)
    except ClientError as error:
        text.say_error(error.message, error.remedy)
        return NOT_RUNNING if error.code == "engine_unreachable" else FAILED
    except BrokenPipeError:  # `llama-wrangler list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        text.say_error(str(error))
        return FAILED
    except KeyboardInterrupt:
        return CANCELLED


def build_parser() -> argparse.ArgumentParser:
    """Every verb and option; what scripts/reference makes pages, man page and completions of."""
    parser = argparse.ArgumentParser(
        prog="llama-wrangler",
        description=f"{APP_NAME}: run large language models on this machine.",
        epilog="Without a verb the tray starts (or, if it runs, its window is shown).",
    )
    parser.add_argument("--version", action="version", version=f"llama-wrangler {__version__}")
    parser.add_argument(
        "--home", metavar="FOLDER", help="use this folder instead of ~/.llama-wrangler"
    )
    parser.add_argument(
        "--self-test", action="store_true", help="try this installation in a home of its own"
    )
    parser.add_argument(
        "--model",
        type=Path,
        dest="test_model",
        metavar="FILE",
        help="with --self-test: a GGUF that has to answer",
    )
    parser.add_argument("--llama-server", type=Path, dest="test_server", help=argparse.SUPPRESS)
    parser.add_argument("--within-s", type=float, dest="test_s", help=argparse.SUPPRESS)
    parser.set_defaults(verb=_tray, hidden=False, apart=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    def add(name: str, verb: Verb, about: str, as_json: bool = False) -> argparse.ArgumentParser:
        # A verb without a help line stays out of the list: it is for the program itself.
        extra: dict[str, Any] = {"help": about} if about else {}
        sub = verbs.add_parser(name, description=about, **extra)
        sub.set_defaults(verb=verb)
        if as_json:
            sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")
        return sub

    tray = add("tray", _tray, "start the tray")
    tray.add_argument("--hidden", action="store_true", help="open no window (used at login)")
    tray.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    add("serve", _serve, "run the engine in the foreground, without a tray")
    window = add("window", _window, "open the window")
    window.add_argument("--page", default="models", choices=PAGES)
    window.add_argument(
        "--reference", default="", metavar="REF", help="ask there about downloading this model"
    )
    window.add_argument("--owned", action="store_true", help=argparse.SUPPRESS)
    window.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    browse = add("browse", _browse, "")
    browse.add_argument("--site", choices=("huggingface", "ollama"), default="huggingface")
    browse.add_argument("--endpoint", help=argparse.SUPPRESS)
    browse.add_argument("--owned", action="store_true", help=argparse.SUPPRESS)
    link = add("open", _open, "open a llama-wrangler:// link: it only ever asks")
    link.add_argument("link", metavar="LINK")
    add("list", _list, "list the models", as_json=True)
    add("status", _status, "say what the server does", as_json=True)
    use = add("use", _use, "make a model answer to `default`, and load it", as_json=True)
    use.add_argument("model", metavar="MODEL")
    use.add_argument("--now", action="store_true", help="cut running answers if it needs room")
    use.add_argument("--no-wait", action="store_true", help="do not wait until it is ready")
    unload = add("unload", _unload, "let a model leave memory (default: all)", as_json=True)
    unload.add_argument("model", nargs="?", metavar="MODEL")
    unload.add_argument("--now", action="store_true", help="cut its running answers")
    add("stop", _stop, "end the engine, its models and the tray")
    logs = add("logs", _logs, "show a log (default: the engine's)", as_json=True)
    logs.add_argument("name", nargs="?", default="engine.log", metavar="NAME")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.add_argument("--list", action="store_true", help="list the logs")
    add("doctor", _doctor, "check this installation", as_json=True)
    cli_download.add_verbs(verbs)
    cli_library.add_verbs(verbs)
    cli_inspect.add_verbs(verbs)
    cli_convert.add_verbs(verbs)
    cli_quantize.add_verbs(verbs)
    cli_bench.add_verbs(verbs)
    cli_share.add_verbs(verbs)
    cli_uninstall.add_verbs(verbs)
    cli_update.add_verbs(verbs)
    cli_runtime.add_verbs(verbs)
    engine = add("engine", _engine, "")
    engine.add_argument("--mode", choices=("tray", "once", "serve"), default="tray")
    engine.add_argument("--alone-s", type=float, default=ALONE_S, help=argparse.SUPPRESS)
    return parser


def _tray(options: argparse.Namespace) -> int:
    from . import desktop

    if not desktop.display_available():
        text.say("There is no display, so there is no tray: serving without one.")
        return _serve(options)
    from .tray import run_tray

    return run_tray(home_path(), options.hidden, apart=options.apart)


def _self_test(options: argparse.Namespace) -> int:
    from .self_test import TOTAL_S, Wish, run_self_test

    for path in (options.test_model, options.test_server):
        if path is not None and not path.is_file():
            text.say_error(f"There is no file {path}.")
            return WRONG
    model, server = (p and p.absolute() for p in (options.test_model, options.test_server))
    return run_self_test(Wish(model, server, options.test_s or TOTAL_S), text.say)


def _serve(options: argparse.Namespace) -> int:
    return _run_engine("serve", ALONE_S, announce=True)


def _engine(options: argparse.Namespace) -> int:
    return _run_engine(options.mode, options.alone_s, announce=False)


def _run_engine(mode: str, alone_s: float, announce: bool) -> int:
    from . import daemon

    if announce:
        text.say(f"{APP_NAME} serves from {home_path()}; stop it with Ctrl+C.")
    tell = text.say if announce else lambda _: None
    failure = daemon.main(home_path(), mode, alone_s, tell)
    if failure is None:
        return 0
    text.say_error(failure.message, failure.remedy)
    return ALREADY_RUNNING if failure.already_running else FAILED


def _window(options: argparse.Namespace) -> int:
    from . import desktop

    if not desktop.display_available():
        text.say_error("There is no display to open a window on.", "Use the other verbs instead.")
        return FAILED
    from .window import run_window

    return run_window(home_path(), options.page, options.owned, options.reference, options.probe)


def _browse(options: argparse.Namespace) -> int:
    from .browse import run_browse

    return run_browse(options.site, options.endpoint, options.owned)


def _open(options: argparse.Namespace) -> int:
    from . import desktop, links

    wish = links.read(options.link)
    if isinstance(wish, links.Refused):
        text.say_error(wish.message, wish.remedy)
        return WRONG
    if not desktop.display_available():
        text.say_error("There is no display to ask on.", f"llama-wrangler pull {wish.reference}")
        return FAILED
    from .tray import run_tray  # a tray that runs already shows its window

    return run_tray(home_path(), False, wish.page, wish.reference)


def _list(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    snapshot = settled(client)
    if options.json:
        return text.print_json(text.model_rows(snapshot))
    text.print_models(snapshot)
    return 0


def _status(options: argparse.Namespace) -> int:
    try:
        snapshot = Client.connect().snapshot()
    except ClientError:
        if not options.json:
            raise
        text.print_json({"state": "stopped", "running": False})
        return NOT_RUNNING
    if options.json:
        return text.print_json(text.status_row(snapshot))
    text.print_status(snapshot)
    return 0


def _use(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="serve")
    settled(client)
    model_id = client.call("switch_model", model_id=options.model, now=options.now)["model_id"]
    if not options.no_wait:
        _wait_until_ready(client, model_id, quiet=options.json)
    snapshot = client.snapshot()
    if options.json:
        return text.print_json(text.status_row(snapshot))
    text.say(snapshot["status_text"])
    return 0


def _wait_until_ready(client: Client, model_id: str, quiet: bool) -> None:
    """Follow the model until it is ready. Raises ClientError when it fails."""
    said, coming = "", False
    while True:
        snapshot = client.snapshot()
        status = text.status_of(snapshot, model_id)
        if status["state"] == "ready":
            return
        failed = next((n for n in snapshot["notices"] if n["code"] == "switch_failed"), None)
        if failed and snapshot["active_model_id"] != model_id:
            raise ClientError("model_failed", failed["message"], failed["remedy"])
        if status["state"] == "failed" and status["error"]:
            error = status["error"]
            message = f"{model_id} could not be loaded: {error['message']}"
            raise ClientError(error["code"], message, error["remedy"])
        if snapshot["active_model_id"] not in (model_id, None):
            raise ClientError("superseded", "Another model was chosen meanwhile.")
        if coming and status["state"] == "unloaded":
            raise ClientError("superseded", f"{model_id} was unloaded meanwhile.")
        coming = status["state"] != "unloaded"
        if snapshot["status_text"] != said and not quiet:
            said = snapshot["status_text"]
            text.say(said)
        await_event(client, snapshot["seq"])


def _unload(options: argparse.Namespace) -> int:
    client = Client.connect()
    client.call("unload_model", model_id=options.model, now=options.now)
    snapshot = client.snapshot()
    if options.json:
        return text.print_json(text.status_row(snapshot))
    text.say(snapshot["status_text"])
    return 0


def _stop(options: argparse.Namespace) -> int:
    from .client import read_address

    client = Client.connect()
    client.call("shutdown")
    deadline = time.monotonic() + STOP_WAIT_S
    while _alive(client.engine_pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if _alive(client.engine_pid) or read_address(home_path()) is not None:
        text.say_error(f"The engine (pid {client.engine_pid}) did not end in {STOP_WAIT_S:.0f} s.")
        return FAILED
    text.say("Stopped.")
    return 0


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _logs(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    if options.list:
        logs = client.call("list_logs")
        if options.json:
            return text.print_json(logs)
        for log in logs:
            text.say(f"{log['size_bytes']:>12}  {log['name']}")
        return 0
    part = client.call("read_log", name=options.name)
    if options.json:
        return text.print_json(part)
    text.write(part["text"])
    while options.follow:
        time.sleep(LOG_POLL_S)
        part = client.call("read_log", name=options.name, offset=part["next_offset"])
        text.write(part["text"])
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from . import desktop

    client = ensure_engine(mode="once")
    settled(client)
    checks = [*client.call("doctor"), *text.desktop_checks(desktop)]
    if options.json:
        text.print_json(checks)
    else:
        text.print_checks(checks)
    return 0 if all(check["ok"] for check in checks) else FAILED
