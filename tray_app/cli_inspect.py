"""`llama-wrangler inspect`: what a file or folder is. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import cli_text as text
from .cli_job import FAILED
from .client import ensure_engine

_ACTIONS = {
    "run": "it can be run",
    "import": "brought into the library (llama-wrangler import)",
    "convert": "converted to GGUF",
    "convert_lora": "converted to a GGUF adapter",
    "quantize": "quantized",
    "split": "split into shards",
    "merge": "merged from its shards",
}


def add_verbs(verbs: Any) -> None:
    """Add the verb to what `ArgumentParser.add_subparsers` returned."""
    about = "say what a file or folder of a model is"
    sub = verbs.add_parser("inspect", help=about, description=about)
    sub.set_defaults(verb=_inspect)
    sub.add_argument("path", metavar="PATH")
    sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")


def _inspect(options: argparse.Namespace) -> int:
    path = str(Path(options.path).expanduser().absolute())
    report = ensure_engine(mode="once").call("inspect_model", path=path)
    if options.json:
        text.print_json(report)
    else:
        _print(report)
    return FAILED if report["problem"] else 0


def _print(report: dict[str, Any]) -> None:
    text.say(report["title"])
    tensors, tokenizer = report["tensors"], report["tokenizer"]
    rows = [
        ("architecture", report["architecture"]),
        ("quantization", report["quantization"]),
        ("size", text.size(report["size_bytes"]) if report["size_bytes"] else None),
        ("weights", tensors and _weights(tensors)),
        ("tokenizer", tokenizer and f"{tokenizer['kind']} ({tokenizer['file']})"),
        ("context", report["context_length"] and f"{report['context_length']:,} tokens"),
        *((name.lower(), value) for name, value in report["facts"]),
    ]
    for name, value in rows:
        if value:
            text.say(f"  {name:<13} {value}")
    can = [_ACTIONS.get(action, action) for action in report["actions"]]
    if can:
        text.say(f"  possible      {', '.join(can)}")
    for line in report["warnings"]:
        text.say(f"  note          {line}")
    if report["remedy"]:
        text.say(f"  {report['remedy']}")


def _weights(tensors: dict[str, Any]) -> str:
    types = ", ".join(name for name, _ in tensors["types"][:4])
    return f"{text.parameters(tensors['parameters'])} in {tensors['count']:,} tensors ({types})"
