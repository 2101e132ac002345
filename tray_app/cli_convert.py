"""`convert`, `converter`: original weights made into models. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import cli_text as text
from .cli_job import FAILED, WRONG, run_job, tell_end
from .cli_quantize import add_options, options_of, tell_quality
from .client import Client, ensure_engine

Json = dict[str, Any]


def add_verbs(verbs: Any) -> None:
    """Add the verbs to what `ArgumentParser.add_subparsers` returned."""
    about = "make GGUF models of original weights (no SOURCE: what has not ended)"
    sub: argparse.ArgumentParser = verbs.add_parser("convert", help=about, description=about)
    sub.set_defaults(verb=_convert)
    sub.add_argument("source", nargs="?", metavar="SOURCE", help="a folder, or org/repo")
    sub.add_argument("types", nargs="*", metavar="TYPE", help="quantizations to make of it")
    sub.add_argument("--output", default="auto", metavar="TYPE", help="auto, f32, f16, bf16, q8_0")
    sub.add_argument("--name", default="", metavar="NAME", help="of the models")
    sub.add_argument(
        "--base",
        default="",
        metavar="SOURCE",
        help="of a LoRA adapter: its base, a folder or org/repo",
    )
    sub.add_argument(
        "--drop-full", action="store_true", help="keep the quantizations alone (with TYPE)"
    )
    sub.add_argument(
        "--drop-originals", action="store_true", help="delete what was downloaded at the end"
    )
    add_options(sub)
    sub.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    sub.add_argument("--continue", dest="again", metavar="ID", help="go on with one that stopped")
    sub.add_argument("--discard", metavar="ID", help="delete what one that stopped has made")
    sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")
    about = "the converter's own Python environment"
    sub = verbs.add_parser("converter", help=about, description=about)
    sub.set_defaults(verb=_converter)
    actions = ("status", "install", "repair", "remove")
    sub.add_argument("action", nargs="?", choices=actions, default="status")
    sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")


def _convert(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    if options.discard:
        client.call("discard_conversion", conversion_id=options.discard)
        return 0
    if options.again:
        return _run(client, options, "continue_conversion", {"conversion_id": options.again})
    if options.source is None:
        return _list(client, options)
    source = _source(options.source)
    if options.plan:
        return _plan(client, source, options)
    if options.drop_full and not options.types:
        text.say_error("--drop-full would leave nothing.", "Name the quantizations to make.")
        return WRONG
    args = {
        "source": source,
        "output": options.output.lower(),
        "types": [each.upper() for each in options.types],
        "name": options.name,
        "keep_full": not options.drop_full,
        "keep_originals": not options.drop_originals,
        "base": _source(options.base) if options.base else "",
        **options_of(options),
    }
    return _run(client, options, "convert_model", args)


def _source(word: str) -> str:
    """A folder by its whole path; else a reference as it is."""
    path = Path(word).expanduser()
    return str(path.absolute()) if path.is_dir() or path.is_absolute() else word


def _run(client: Client, options: argparse.Namespace, command: str, args: Json) -> int:
    job = run_job(client, command, args, quiet=options.json)
    status = tell_end(job, str(client.snapshot()["home"]))
    if options.json:
        text.print_json(job)
    elif status == 0:
        text.say(f"{job['title']}: done, loaded and answering.")
        if options.perplexity:
            tell_quality(client, options.types)
    elif status == FAILED:
        text.say_hint("What is done stays: `llama-wrangler convert` lists it, --continue goes on.")
    return status


def _list(client: Client, options: argparse.Namespace) -> int:
    found = client.call("conversions")
    if options.json:
        return text.print_json(found)
    if not found["unfinished"]:
        text.say("No conversion is unfinished.")
    for each in found["unfinished"]:
        at = each["steps"][each["step_number"] :][:1] or ["Finish"]
        state = "running" if each["job_id"] else "stopped"
        text.say(f"{each['id']}  {each['title']} from {each['source']}")
        text.say(
            f"  {state} at: {at[0]} ({each['step_number']} of {len(each['steps'])} done,"
            f" {text.size(each['size_bytes'])} kept)"
        )
        if each["error"]:
            text.say(f"  {each['error']['message']} {each['error']['remedy']}")
    _say_converter(found["converter"])
    return 0


def _plan(client: Client, source: str, options: argparse.Namespace) -> int:
    plan = client.call("convert_plan", source=source, output=options.output.lower())
    if options.json:
        text.print_json(plan)
        return FAILED if plan["problem"] else 0
    text.say(plan["title"])
    rows = [
        ("architecture", plan["architecture"]),
        ("weights", plan["parameters"] and text.parameters(plan["parameters"])),
        ("originals", text.size(plan["original_bytes"])),
        ("to download", plan["download_bytes"] and text.size(plan["download_bytes"])),
        ("GGUF", plan["full_bytes"] and f"about {text.size(plan['full_bytes'])}"),
        ("free", text.size(plan["free_bytes"])),
        ("takes about", plan["convert_s"] and text.duration(plan["convert_s"])),
    ]
    for name, value in rows:
        if value:
            text.say(f"  {name:<13} {value}")
    for line in (*plan["warnings"], plan["remedy"]):
        if line:
            text.say(f"  {line}")
    _say_converter(plan["converter"])
    if plan["targets"]:
        table = [("TYPE", "SIZE", "BITS", "")]
        for each in plan["targets"]:
            bits = "" if each["bits_per_weight"] is None else f"{each['bits_per_weight']:.2f}"
            table.append((each["label"], text.size(each["size_bytes"]), bits, each["about"]))
        text.print_table(table)
    return FAILED if plan["problem"] else 0


def _say_converter(found: Json) -> None:
    if found["ready"]:
        text.say(f"The converter is ready ({text.size(found['size_bytes'])}).")
    elif found["installing"]:
        text.say("The converter is being installed.")
    elif found["problem"]:
        text.say(f"{found['problem']} {found['remedy']}")
    else:
        size = text.size(found["install_bytes"])
        text.say(f"The converter is installed when it is first needed: about {size}.")


def _converter(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    if options.action == "remove":
        client.call("remove_converter")
        return 0
    if options.action in ("install", "repair"):
        args = {"repair": options.action == "repair"}
        job = run_job(client, "install_converter", args, quiet=options.json)
        status = tell_end(job, str(client.snapshot()["home"]))
        if options.json:
            text.print_json(job)
        return status
    found = client.call("conversions")["converter"]
    if options.json:
        return text.print_json(found)
    _say_converter(found)
    return 0
