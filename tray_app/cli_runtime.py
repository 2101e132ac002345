"""`llama-wrangler runtime …`: the verbs about llama.cpp builds. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from . import cli_runtime_text as words
from . import cli_text as text
from .cli_job import FAILED, WRONG, run_job, tell_end
from .client import Client, ensure_engine

SEARCH_S = 30.0  # the engine's first look for llama.cpp, at most
Json = dict[str, Any]


def add_verbs(verbs: Any) -> None:
    """Add `runtime` and its verbs to what `ArgumentParser.add_subparsers` returned."""
    about = "list, install, build, choose and remove llama.cpp builds"
    runtime = verbs.add_parser("runtime", help=about, description=about)
    inner = runtime.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(name: str, verb: Any, about: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = inner.add_parser(name, help=about, description=about)
        sub.set_defaults(verb=verb)
        sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")
        return sub

    def add_getting(name: str, verb: Any, about: str) -> argparse.ArgumentParser:
        sub = add(name, verb, about)
        sub.add_argument("build", nargs="?", type=build_number, metavar="BUILD")
        sub.add_argument("--backend", choices=words.BACKENDS, help="default: the best one here")
        sub.add_argument("--no-use", action="store_true", help="leave the active one in use")
        return sub

    add("list", _list, "list the builds that are here")
    add("available", _available, "say what this machine can use and get").add_argument(
        "--refresh", action="store_true", help="look at hardware and releases anew"
    )
    add_getting("install", _install, "install a released build (default: the newest)")
    add_getting("build", _build, "build one from source").add_argument(
        "--portable", action="store_true", help="for any machine, not for this CPU alone"
    )
    add("use", _use, "make a build active").add_argument(
        "name", metavar="ID_OR_PATH", help="from the list, or where a llama-server is"
    )
    add("rollback", _rollback, "go back to the build before")
    remove = add("remove", _remove, "delete a build from the disk, or forget one of yours")
    remove.add_argument("runtime_id", metavar="ID")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    add("check", _check, "ask for a newer release")
    add("doctor", _doctor, "check the builds and what they need")


def build_number(word: str) -> int:
    """ "b11434" or "11434". Raises ArgumentTypeError."""
    found = re.fullmatch(r"b?([0-9]{1,9})", word, re.ASCII)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{word!r} is no build; give one like b11434")
    return int(found[1])


def _list(options: argparse.Namespace) -> int:
    snapshot = _found(ensure_engine(mode="once"))
    if options.json:
        return text.print_json(words.list_row(snapshot["runtime"]))
    words.print_list(snapshot)
    return 0


def _found(client: Client) -> Json:
    """A snapshot after the search that a fresh engine makes."""
    deadline = time.monotonic() + SEARCH_S
    while True:
        snapshot = client.snapshot()
        if snapshot["runtime"]["state"] != "searching" or time.monotonic() > deadline:
            return snapshot
        time.sleep(0.02)


def _available(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    runtime = _found(client)["runtime"]
    hardware = runtime["hardware"]
    if options.refresh or hardware is None:
        hardware = client.call("read_hardware")
    offers = client.call("available_runtimes", refresh=options.refresh)
    runtime = client.snapshot()["runtime"]  # the ladder is of the hardware just read
    if options.json:
        return text.print_json({"hardware": hardware, "ladder": runtime["ladder"], **offers})
    words.print_available(hardware, runtime["ladder"], offers)
    return 0


def _install(options: argparse.Namespace) -> int:
    wish = {"backend": options.backend, "build": options.build}
    return _job(options, "install_runtime", {**wish, "activate": not options.no_use})


def _build(options: argparse.Namespace) -> int:
    wish = {"backend": options.backend, "build": options.build, "portable": options.portable}
    return _job(options, "build_runtime", {**wish, "activate": not options.no_use})


def _use(options: argparse.Namespace) -> int:
    return _job(options, "use_runtime", {"name": id_or_path(options.name)})


def id_or_path(word: str) -> str:
    """A word with a separator is a path, made whole: the engine runs in another folder."""
    if word.startswith(("~", ".")) or os.sep in word or (os.altsep or os.sep) in word:
        return str(Path(word).expanduser().absolute())
    return word


def _rollback(options: argparse.Namespace) -> int:
    return _job(options, "roll_back_runtime", {})


def _job(options: argparse.Namespace, command: str, args: Json) -> int:
    """Start a job about runtimes, follow it, and say what has changed."""
    client = ensure_engine(mode="once")
    before = _found(client)["runtime"]
    job = run_job(client, command, args, quiet=options.json)
    snapshot = client.snapshot()
    status = tell_end(job, str(snapshot["home"]))
    after = snapshot["runtime"]
    if options.json:
        text.print_json({"job": job, "runtime": words.list_row(after)})
    elif status == 0:
        words.print_change(before, after)
    return status


def _remove(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    runtime_id = options.runtime_id
    if not options.yes:
        if not sys.stdin.isatty():
            text.say_error(f"{runtime_id} would be removed.", "Confirm it with --yes.")
            return WRONG
        if not _confirmed(words.removal_question(runtime_id, _found(client)["runtime"])):
            text.say_error("Nothing was removed.")
            return FAILED
    value = client.call("remove_runtime", runtime_id=runtime_id)
    if options.json:
        return text.print_json({"removed": runtime_id, **value})
    freed = value["freed_bytes"]
    kept = "its files stay where they are"
    text.say(f"Removed {runtime_id}: {f'{text.size(freed)} are free again' if freed else kept}.")
    return 0


def _confirmed(question: str) -> bool:
    # On stderr, so that stdout stays JSON alone where it is piped.
    sys.stderr.write(f"{text.clean(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _check(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    runtime = _found(client)["runtime"]
    update = client.call("check_updates")
    if options.json:
        return text.print_json(update)
    words.print_update(update, runtime["active"])
    return 0


def _doctor(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    _found(client)
    checks = client.call("runtime_doctor")
    if options.json:
        text.print_json(checks)
    else:
        text.print_checks(checks)
    return 0 if all(check["ok"] for check in checks) else FAILED
