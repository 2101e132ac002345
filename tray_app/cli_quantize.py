"""`llama-wrangler quantize`: other quantizations of a model. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
from typing import Any

from . import cli_text as text
from .cli_job import run_job, tell_end
from .client import ensure_engine


def add_verbs(verbs: Any) -> None:
    """Add the verb to what `ArgumentParser.add_subparsers` returned."""
    about = "make a model into other quantizations (without TYPE: list what can be made)"
    sub = verbs.add_parser("quantize", help=about, description=about)
    sub.set_defaults(verb=_quantize)
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("types", nargs="*", metavar="TYPE")
    sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")


def _quantize(options: argparse.Namespace) -> int:
    from .cli import settled

    client = ensure_engine(mode="once")
    settled(client)
    if not options.types:
        found = client.call("quantize_targets", model_id=options.model)
        if options.json:
            return text.print_json(found)
        _print(found)
        return 0
    args = {"model_id": options.model, "types": [name.upper() for name in options.types]}
    job = run_job(client, "quantize_model", args, quiet=options.json)
    status = tell_end(job, str(client.snapshot()["home"]))
    if options.json:
        text.print_json(job)
    elif status == 0:
        text.say(f"{job['title']}: done, loaded and answering.")
    return status


def _print(found: dict[str, Any]) -> None:
    if found["warning"]:
        text.say(found["warning"])
    rows = [("TYPE", "SIZE", "")]
    for each in found["targets"]:
        notes = [each["about"]]
        if each["fallbacks"]:
            notes.append(f"{each['fallbacks']} tensors become another type.")
        if each["model_id"]:
            notes = ["It is in the library already."]
        rows.append((each["label"], text.size(each["size_bytes"]), " ".join(notes)))
    text.print_table(rows)
