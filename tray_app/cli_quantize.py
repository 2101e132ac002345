"""`quantize`, `split`, `merge`, `verify`: models made from models. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from . import cli_text as text
from .cli_job import run_job, settled, tell_end
from .client import Client, ensure_engine

_UNITS = {"M": 10**6, "G": 10**9}
Json = dict[str, Any]


def add_verbs(verbs: Any) -> None:
    """Add the verbs to what `ArgumentParser.add_subparsers` returned."""

    def add(name: str, verb: Any, about: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
        sub.set_defaults(verb=verb)
        sub.add_argument("model", metavar="MODEL")
        sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")
        return sub

    quantize = add("quantize", _quantize, "make other quantizations of a model (no TYPE: list)")
    quantize.add_argument("types", nargs="*", metavar="TYPE")
    add_options(quantize)
    split = add("split", _split, "cut a model into shards")
    split.add_argument(
        "--size", type=shard_size, default=4 * 10**9, metavar="SIZE", help="of one: 500M, 4G (4G)"
    )
    add("merge", _merge, "make one file of a model's shards")
    add("verify", _verify, "check a model: its header, a load, an answer")


def add_options(parser: argparse.ArgumentParser) -> None:
    """How quantizations are made; `options_of` reads them."""
    parser.add_argument(
        "--imatrix",
        metavar="FILE",
        default="",
        help="an importance matrix, a text to compute it from, or `compute`: from the app's text",
    )
    parser.add_argument(
        "--tensor-type",
        metavar="NAME=TYPE",
        action="append",
        default=[],
        help="another type for tensors of that name or pattern; may be repeated",
    )
    parser.add_argument(
        "--perplexity", action="store_true", help="compare each with what it is made from"
    )


def options_of(options: argparse.Namespace) -> Json:
    """The arguments of the engine's command."""
    imatrix = options.imatrix
    if imatrix not in ("", "compute"):
        imatrix = str(Path(imatrix).expanduser().absolute())
    told = {"overrides": options.tensor_type, "measure": options.perplexity}
    return {"imatrix": imatrix, **told}


def shard_size(word: str) -> int:
    """ "500M", "4G". Raises ArgumentTypeError."""
    found = re.fullmatch(r"([0-9]{1,6})([MG])B?", word.upper(), re.ASCII)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{word!r} is no size; give one like 500M or 4G")
    return int(found[1]) * _UNITS[found[2]]


def _quantize(options: argparse.Namespace) -> int:
    if options.types:
        types = [name.upper() for name in options.types]
        args = {"types": types, **options_of(options)}
        return _job(options, "quantize_model", args)
    client = ensure_engine(mode="once")
    settled(client)
    found = client.call("quantize_targets", model_id=options.model)
    if options.json:
        return text.print_json(found)
    _print(found)
    return 0


def _split(options: argparse.Namespace) -> int:
    return _job(options, "split_model", {"shard_bytes": options.size})


def _merge(options: argparse.Namespace) -> int:
    return _job(options, "merge_model", {})


def _verify(options: argparse.Namespace) -> int:
    return _job(options, "verify_model", {})


def _job(options: argparse.Namespace, command: str, args: Json) -> int:
    client = ensure_engine(mode="once")
    settled(client)
    job = run_job(client, command, {"model_id": options.model, **args}, quiet=options.json)
    status = tell_end(job, str(client.snapshot()["home"]))
    if options.json:
        text.print_json(job)
    elif status == 0:
        text.say(f"{job['title']}: done, loaded and answering.")
        if job["kind"] == "quantize_model" and options.perplexity:
            tell_quality(client, options.types)
    return status


def tell_quality(client: Client, types: list[str]) -> None:
    """Say what `--perplexity` found."""
    wished = {label.upper() for label in types}
    for model in settled(client)["models"]:
        if (model["quantization"] or "").upper() not in wished:
            continue
        found = client.call("model_quality", model_id=model["id"])
        if found:
            text.say(f"{model['id']}: {found['sentence']}")


def _print(found: Json) -> None:
    if found["warning"]:
        text.say(found["warning"])
    rows = [("TYPE", "SIZE", "BITS", "")]
    for each in found["targets"]:
        notes = [each["about"]]
        if each["fallbacks"]:
            notes.append(f"{each['fallbacks']} tensors become another type.")
        if each["model_id"]:
            notes = ["It is in the library already."]
        bits = "" if each["bits_per_weight"] is None else f"{each['bits_per_weight']:.2f}"
        rows.append((each["label"], text.size(each["size_bytes"]), bits, " ".join(notes)))
    text.print_table(rows)
