"""`share`, `key`: who else may use the models. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
from typing import Any

from . import cli_text as text
from .cli_job import WRONG
from .client import ensure_engine

_SWITCH = {"on": True, "off": False}


def add_verbs(verbs: Any) -> None:
    """Add the verbs to what `ArgumentParser.add_subparsers` returned."""
    about = "share the models on your network, with a key"
    sub: argparse.ArgumentParser = verbs.add_parser("share", help=about, description=about)
    sub.set_defaults(verb=_share)
    sub.add_argument("switch", nargs="?", choices=tuple(_SWITCH), help="nothing: say how it is")
    sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")
    about = "the API keys of the server; from the first one on, every request needs one"
    sub = verbs.add_parser("key", help=about, description=about)
    sub.set_defaults(verb=_key)
    sub.add_argument("action", nargs="?", choices=("list", "create", "revoke"), default="list")
    sub.add_argument("name", nargs="?", metavar="NAME")
    sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")


def _share(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    if options.switch is None:
        told = client.call("sharing")
    else:
        told = client.call("share", on=_SWITCH[options.switch])
    return _tell(told, options.json)


def _key(options: argparse.Namespace) -> int:
    if options.action != "list" and not options.name:
        text.say_error(f"Which key shall be {options.action}d?", "Give its name.")
        return WRONG
    client = ensure_engine(mode="once")
    if options.action == "list":
        return _tell(client.call("sharing"), options.json)
    return _tell(client.call(f"{options.action}_api_key", name=options.name), options.json)


def _tell(told: dict[str, Any], as_json: bool) -> int:
    if as_json:
        text.print_json(told)
        return 0
    text.say("Shared on the network." if told["on"] else "Only this machine is answered.")
    for each in told["addresses"]:
        text.say(f"  {each['interface']:<10} {each['url']}")
    if told["new_key"]:
        text.say(f"Key “{told['new_key']['name']}”, shown only this once:")
        text.say(f"  {told['new_key']['key']}")
    for key in told["keys"]:
        text.say(f"  key {key['name']} (ends in {key['ending']})")
    return 0
