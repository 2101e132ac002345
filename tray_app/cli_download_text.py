"""How the command line words downloads and what a hub offers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from . import cli_text as text

Json = dict[str, Any]
# What a progress event tells; the whole download is in `downloads --json`.
PROGRESS_KEYS = (
    *("id", "reference", "title", "state", "step", "done_bytes", "total_bytes"),
    *("rate_bytes_s", "eta_s"),
)
END_KEYS = (*PROGRESS_KEYS[:4], "done_bytes", "model_path", "error", "warnings")
STATES = {"waiting": "waits for the network", "done": "here"}


def as_job(download: Mapping[str, Any], number: str = "") -> Json:
    """A download as `cli_job.Progress` shows jobs."""
    waits = download["state"] == "waiting"
    step = STATES["waiting"] if waits else download["step"] or "Downloading"
    return {
        "title": download["title"],
        "state": "queued" if download["state"] == "queued" else "running",
        "step": f"{number}{download['title']}: {step}",
        "done": download["done_bytes"],
        "total": download["total_bytes"],
        "unit": "bytes",
        "rate_per_s": download["rate_bytes_s"],
        "eta_s": download["eta_s"],
    }


class JsonEvents:
    """`pull --json`: one line of JSON for each change."""

    def __init__(self) -> None:
        self._told: dict[str, Json] = {}

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            event = {"event": "progress", **{key: row[key] for key in PROGRESS_KEYS}}
            if self._told.get(row["id"]) != event:
                self._told[row["id"]] = event
                _print_line(event)


def print_end(download: Mapping[str, Any], model_id: str | None) -> None:
    """The last line of `pull --json` for a download."""
    _print_line({"event": "end", **{key: download[key] for key in END_KEYS}, "model": model_id})


def _print_line(value: Json) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def say_end(download: Mapping[str, Any], model_id: str | None) -> None:
    """How a download ended, for a person."""
    title, error = download["title"], download["error"]
    for warning in download["warnings"]:
        text.say_hint(f"{title}: {warning}")
    if download["state"] == "done":
        use = f" Use it: llama-wrangler use {model_id}" if model_id else ""
        text.say(f"{title} is here, {text.size(download['done_bytes'])}.{use}")
    elif error is not None:
        text.say_error(f"{title}: {error['message']}", error["remedy"])
    else:
        text.say_error(
            f"{title} is {download['state']}.",
            f"Go on with: llama-wrangler pull {download['reference']}",
        )


def print_downloads(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for a person, and what went wrong below it."""
    if not rows:
        text.say("No downloads. Get a model: llama-wrangler pull ORG/REPO")
        return
    table = [("ID", "MODEL", "STATE", "DONE", "SIZE", "LEFT")]
    for row in rows:
        total = row["total_bytes"]
        share = f"{min(100, 100 * row['done_bytes'] // total)} %" if total else "?"
        eta = text.duration(row["eta_s"]) if row["eta_s"] is not None else ""
        state = STATES.get(row["state"], row["state"])
        short = row["id"].removeprefix("download-")
        table.append((short, row["title"], state, share, text.size(total), eta))
    text.print_table(table)
    for row in rows:
        if row["error"] is not None:
            text.say(f"{row['title']}: {row['error']['message']} {row['error']['remedy']}")


def print_models(models: Sequence[Mapping[str, Any]]) -> None:
    """`search`: a line a repository."""
    if not models:
        text.say("Nothing was found. Fewer words find more.")
        return
    table = [("MODEL", "PARAMETERS", "DOWNLOADS", "LIKES", "UPDATED", "LICENSE", "")]
    for model in models:
        updated = model["modified_at"]
        table.append(
            (
                model["id"],
                text.parameters(model["parameters"]),
                _count(model["downloads"]),
                _count(model["likes"]),
                time.strftime("%Y-%m-%d", time.gmtime(updated)) if updated else "?",
                model["license"] or "?",
                "gated" if model["gated"] else "",
            )
        )
    text.print_table(table)
    text.say("What one of them offers: llama-wrangler show MODEL")


def print_details(details: Mapping[str, Any]) -> None:
    """`show`: what a repository is, and each of its offers."""
    facts = [details["architecture"], details["license"]]
    if details["context_length"]:
        facts.append(f"{details['context_length']:,} tokens of context")
    known = ", ".join(fact for fact in facts if fact)
    text.say(f"{details['id']}{f' ({known})' if known else ''}")
    if details["gated"]:
        text.say(f"  gated: ask for access at {details['page']}")
    for offer in details["offers"]:
        mark = "*" if offer["recommended"] else " "
        here = "  in the library" if offer["model_id"] else ""
        size = text.size(offer["size_bytes"])
        more = offer["projector_bytes"]
        plus = f" + {text.size(more)} projector" if more else ""
        text.say(f"{mark} {offer['label']:<12} {size}{plus}{here}")
        text.say(f"    {offer['badge']['sentence']}")
        text.say(f"    {offer['about']}")
        if not offer["complete"]:
            text.say("    Parts of it are missing at the hub.")
        text.say(f"    llama-wrangler pull {offer['reference']}")
    if details["problem"]:
        text.say(f"{details['problem']['message']} {details['problem']['remedy']}")


def _count(value: int | None) -> str:
    if value is None:
        return "?"
    if value >= 1_000_000:
        return f"{value / 1e6:.1f}M"
    return f"{value / 1000:.1f}k" if value >= 1000 else str(value)
