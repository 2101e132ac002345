"""`bench`: how fast a model reads and writes here. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
from typing import Any

from . import cli_text as text
from .cli_job import run_job, settled, tell_end
from .client import ensure_engine

BUSY_PERCENT = 20.0  # of the processor: from here on a measurement is told to be disturbed
Json = dict[str, Any]


def add_verbs(verbs: Any) -> None:
    """Add the verb to what `ArgumentParser.add_subparsers` returned."""
    about = "measure how fast a model reads and writes (no MODEL: what was measured)"
    bench: argparse.ArgumentParser = verbs.add_parser("bench", help=about, description=about)
    bench.set_defaults(verb=_bench)
    bench.add_argument("model", metavar="MODEL", nargs="?")
    bench.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens read (512)")
    bench.add_argument("--generate", type=int, default=128, metavar="N", help="written (128)")
    bench.add_argument("--repetitions", type=int, default=3, metavar="N", help="of each (3)")
    bench.add_argument("--runtime", metavar="ID", help="another llama.cpp than the model's own")
    bench.add_argument("--history", action="store_true", help="measure nothing: what is known")
    bench.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")


def _bench(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    settled(client)
    if options.history or options.model is None:
        found = client.call("bench_history", model_id=options.model)
        return text.print_json(found) if options.json else _print_history(found)
    args = {
        "model_id": options.model,
        "prompt_tokens": options.prompt,
        "generated_tokens": options.generate,
        "repetitions": options.repetitions,
        "runtime_id": options.runtime,
    }
    job = run_job(client, "bench_model", args, quiet=options.json)
    status = tell_end(job, str(client.snapshot()["home"]))
    models = client.call("bench_history", model_id=options.model)["models"] if status == 0 else []
    measured = models[0] if models else None
    if options.json:
        text.print_json({"job": job, "bench": measured})
    elif measured:
        print_measured(measured)
    return status


def print_measured(measured: Json) -> None:
    """The newest measurement beside the one before, and beside those of other runtimes."""
    newest, previous = measured["newest"], measured["previous"]
    text.say(f"{newest['model_id']} on {newest['runtime_id']}, {newest['device']}")
    rows = [("", "TOKENS/S", "", "BEFORE", "RATIO")]
    for name, key in (("prompt", "prompt"), ("generation", "generation")):
        if newest[key] is None:
            continue
        tokens = newest["prompt_tokens" if key == "prompt" else "generated_tokens"]
        before = previous["run"][key] if previous else None
        rows.append(
            (
                f"{name} ({tokens})",
                rate(newest[key]),
                spread(newest[key]),
                rate(before),
                ratio(previous[f"{key}_ratio"] if previous else None),
            )
        )
    text.print_table(rows)
    if previous:
        changes = "; ".join(previous["changes"]) or "all else the same"
        text.say(f"Before: {text.day(previous['run']['measured_at'])}. Now: {changes}.")
    for other in measured["runtimes"]:
        ratios = (
            f"{ratio(other['prompt_ratio'])} prompt, {ratio(other['generation_ratio'])} generation"
        )
        text.say(f"Against {other['run']['runtime_id']}: {ratios}.")
    for note in notes(newest):
        text.say(note)


def notes(run: Json) -> list[str]:
    """What has to be known to read a measurement rightly."""
    found = []
    if run["in_memory"]:
        found.append(f"In memory meanwhile, idle: {', '.join(run['in_memory'])}.")
    if (run["busy_percent"] or 0) >= BUSY_PERCENT:
        found.append(f"Other programs used {run['busy_percent']:.0f} % of the processor.")
    if run["left_out"]:
        found.append(f"Measured without {', '.join(run['left_out'])}.")
    return found


def _print_history(found: Json) -> int:
    if not found["runs"]:
        text.say("Nothing was measured yet: llama-wrangler bench MODEL")
        return 0
    rows = [("WHEN", "MODEL", "RUNTIME", "PROMPT", "TOKENS/S", "GENERATION", "TOKENS/S")]
    for run in found["runs"]:
        rows.append(
            (
                text.day(run["measured_at"]),
                run["model_id"],
                run["runtime_id"],
                str(run["prompt_tokens"] or ""),
                rate(run["prompt"]),
                str(run["generated_tokens"] or ""),
                rate(run["generation"]),
            )
        )
    text.print_table(rows)
    return 0


def rate(speed: Json | None) -> str:
    """ "466", "17.3", "-" where nothing was measured."""
    if speed is None:
        return "-"
    value = float(speed["tokens_per_s"])
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def spread(speed: Json) -> str:
    """The standard deviation, in percent of the mean."""
    if speed["stddev_per_s"] is None:
        return ""
    return f"± {100 * speed['stddev_per_s'] / speed['tokens_per_s']:.1f} %"


def ratio(value: float | None) -> str:
    """ "1.04x"."""
    return "-" if value is None else f"{value:.2f}x"
