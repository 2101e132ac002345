"""`update`: newer versions of this app. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
import threading
import time
from typing import Any

from . import cli_text as text
from .cli_job import FAILED, run_job, tell_end
from .client import Client, ClientError, ensure_engine

# The engine ends its answers first, then the new version has 90 s to come up.
COMES_UP_S = 150.0
POLL_S = 0.2
Json = dict[str, Any]


def add_verbs(verbs: Any) -> None:
    """Add the verb to what `ArgumentParser.add_subparsers` returned."""
    about = "newer versions of this app (without a word: what is known of them)"
    sub: argparse.ArgumentParser = verbs.add_parser("update", help=about, description=about)
    sub.set_defaults(verb=_update)
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="ask for newer versions now")
    how.add_argument("--apply", action="store_true", help="ask, download, try it, and use it")
    sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")


def _update(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    command = "check_app_update" if options.check or options.apply else "app_update_status"
    status = client.call(command)
    if options.apply and status["release"] is not None:
        return _apply(client, status, options.json)
    if options.json:
        return text.print_json(status)
    _tell(status, str(client.snapshot()["version"]))
    return 0


def _tell(status: Json, version: str) -> None:
    release, taken_back = status["release"], status["taken_back"]
    text.say(f"Llama Wrangler {version}, {text.clean(status['installed_as'])}.")
    if taken_back:
        why = text.clean(taken_back["reason"])
        text.say(f"Version {text.clean(taken_back['version'])} was taken back: {why}")
    if not status["asks"]:
        text.say("There is no place where newer versions are asked for (app.manifest_url).")
    elif release is None:
        text.say("No newer version is known.")
    else:
        size = f", {text.size(release['size_bytes'])}" if release["size_bytes"] else ""
        text.say(f"Version {text.clean(release['version'])} is out{size}.")
        if release["notes_url"]:
            text.say(text.clean(release["notes_url"]))
        text.say(status["how"] or "Use it with: llama-wrangler update --apply")
    if status["error"]:
        text.say_hint(text.clean(status["error"]["message"]))


def _apply(client: Client, status: Json, as_json: bool) -> int:
    version = str(status["release"]["version"])
    if status["state"] == "available":
        job = run_job(client, "fetch_app_update", {}, quiet=as_json)
        ended = tell_end(job, str(client.snapshot()["home"]))
        if ended != 0:
            return ended
    if not client.call("apply_app_update")["applied"]:
        if as_json:
            return text.print_json(client.call("app_update_status"))
        text.say(f"Version {text.clean(version)} is used as soon as nothing runs.")
        return 0
    if not as_json:
        text.say(f"Changing to version {text.clean(version)}…")
    return _follow(version, as_json)


def _follow(version: str, as_json: bool) -> int:
    """Wait until the new version has come up, or the old one is back."""
    pause, deadline = threading.Event(), time.monotonic() + COMES_UP_S
    while time.monotonic() < deadline:
        pause.wait(POLL_S)
        try:
            snapshot = Client.connect().snapshot()
        except ClientError:  # between the two
            continue
        now = snapshot["app_update"]
        taken_back = now["taken_back"]
        back = taken_back is not None and taken_back["version"] == version
        if not back and snapshot["version"] != version:
            continue
        if as_json:
            text.print_json(now)
        if back:
            text.say_error(f"Version {version} was taken back: {taken_back['reason']}")
            return FAILED
        if not as_json:
            text.say(f"Version {text.clean(version)} is in use.")
        return 0
    text.say_error(f"Version {version} did not answer in time.", "See version-trial.log.")
    return FAILED
