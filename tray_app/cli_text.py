"""How the command line words and lays out what the engine says."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Sequence
from types import ModuleType
from typing import Any

Json = dict[str, Any]


def say(line: str) -> None:
    """One line on stdout."""
    sys.stdout.write(clean(line) + "\n")
    sys.stdout.flush()


def say_error(message: str, remedy: str = "") -> None:
    """What happened, and what to do, on stderr."""
    sys.stderr.write(f"llama-wrangler: {clean(message)}\n")
    if remedy:
        say_hint(remedy)


def say_hint(line: str) -> None:
    """A line on stderr that belongs to the one before."""
    sys.stderr.write(f"  {clean(line)}\n")
    sys.stderr.flush()


def write(lines: str) -> None:
    """A piece of a log on stdout, its lines cleaned."""
    pieces = lines.split("\n")
    sys.stdout.write("\n".join(clean(piece.rstrip("\r")) for piece in pieces))
    sys.stdout.flush()


def print_json(value: Any) -> int:
    """`value` on stdout; returns the exit status of a verb that is done."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()  # here, so that a broken pipe is met where it is handled
    return 0


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of as many cells each, lined up."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cleaned) for i in range(len(cleaned[0]))]
    for row in cleaned:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(cells).rstrip())


def clean(line: str) -> str:
    """`line` without control characters: model names may hold terminal escapes."""
    return "".join(c if unicodedata.category(c)[0] != "C" or c == "\t" else "�" for c in line)


def status_of(snapshot: Json, model_id: str | None) -> Json:
    """One model's status; an untouched model is unloaded."""
    for status in snapshot["statuses"]:
        if status["model_id"] == model_id:
            return dict(status)
    return {"model_id": model_id, "state": "unloaded", "in_flight": 0, "pid": None, "error": None}


def model_rows(snapshot: Json) -> list[Json]:
    """`list --json`: every model with what it does now."""
    rows = []
    for model in snapshot["models"]:
        status = status_of(snapshot, model["id"])
        rows.append(
            {
                **model,
                "active": model["id"] == snapshot["active_model_id"],
                "state": status["state"],
                "requests_running": status["in_flight"],
            }
        )
    return rows


def status_row(snapshot: Json) -> Json:
    """`status --json`: the server in one object."""
    active = status_of(snapshot, snapshot["active_model_id"])
    return {
        "running": True,
        "state": snapshot["server_state"],
        "status_text": snapshot["status_text"],
        "model": snapshot["active_model_id"],
        "model_state": active["state"],
        "context_length": active.get("context_length"),
        "pid": active["pid"],
        "engine_pid": snapshot["pid"],
        "host": snapshot["gateway"]["host"],
        "port": snapshot["gateway"]["port"],
        "base_url": snapshot["gateway"]["base_url"],
        "gateway": snapshot["gateway"]["state"],
        "requests_running": sum(s["in_flight"] for s in snapshot["statuses"]),
        "requests_total": snapshot["gateway"]["requests_total"],
        "loaded": [s["model_id"] for s in snapshot["statuses"] if s["state"] == "ready"],
        "runtime": (snapshot["runtime"]["active"] or {}).get("id"),
        "notices": snapshot["notices"],
    }


def size(count: int | None) -> str:
    """Bytes in the unit of the field: "98 MB", "4.1 GB"."""
    if count is None:
        return "?"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """ "45 s", "2 min 10 s", "1 h 05 min"; at most 99 h."""
    whole = max(0, round(min(seconds, 99 * 3600)))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def day(at: float | None) -> str:
    """A Unix time as "2026-11-20", UTC; "?" when there is none."""
    try:
        return "?" if at is None else time.strftime("%Y-%m-%d", time.gmtime(at))
    except (OverflowError, OSError, ValueError):  # a number that is no time
        return "?"


def parameters(count: int | None) -> str:
    """ "135M", "7.2B"."""
    if count is None:
        return "?"
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g}{unit}"
    return str(count)


def print_models(snapshot: Json) -> None:
    """`list`: a table, the active model marked."""
    rows = [("", "MODEL", "PARAMS", "QUANT", "SIZE", "CONTEXT", "STATE")]
    for model in model_rows(snapshot):
        context = model["context_length"]
        state = model["state"] if model["available"] else "drive missing"
        rows.append(
            (
                "*" if model["active"] else "",
                model["id"],
                parameters(model["parameter_count"]),
                model["quantization"] or "?",
                size(model["size_bytes"]),
                str(context) if context else "?",
                state,
            )
        )
    if len(rows) == 1:
        home = next((f["path"] for f in snapshot["folders"] if f["is_home"]), "")
        say(f"No models yet. Put a GGUF file into {home}, or add a folder in the window.")
        return
    print_table(rows)
    if snapshot["left_out"]:
        left = len(snapshot["left_out"])
        say(f"{left} file{'' if left == 1 else 's'} left out; the window says why.")


def print_status(snapshot: Json) -> None:
    """`status`: a few lines for a person."""
    row = status_row(snapshot)
    say(row["status_text"])
    say(f"  state     {row['state']}")
    say(f"  address   {row['base_url']} ({row['gateway']})")
    say(f"  model     {row['model'] or 'none'}" + (f" (pid {row['pid']})" if row["pid"] else ""))
    say(f"  loaded    {', '.join(row['loaded']) or 'none'}")
    say(f"  requests  {row['requests_running']} running, {row['requests_total']} answered")
    say(f"  runtime   {row['runtime'] or 'none'}")
    for notice in row["notices"]:
        say(f"  {notice['level']}: {notice['message']} {notice['remedy']}")


def desktop_checks(desktop: ModuleType) -> list[Json]:
    """What this face can see and the engine cannot: display and tray host."""
    display = bool(desktop.display_available())
    found = [
        {
            "name": "display",
            "ok": True,
            "message": "There is a display." if display else "No display: runs without a tray.",
            "remedy": "",
        }
    ]
    if display:
        backend = desktop.tray_backend()
        hosted = bool(desktop.tray_host_available(backend))
        advice = "" if hosted else str(desktop.tray_advice(backend))
        message = "The desktop shows tray icons." if hosted else "No tray icon can be shown."
        found.append({"name": "tray", "ok": hosted, "message": message, "remedy": advice})
    return found


def print_checks(checks: list[Json]) -> None:
    """`doctor`: a line a check, the remedy under what failed."""
    for check in checks:
        say(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['name']:<16} {check['message']}")
        if not check["ok"] and check["remedy"]:
            say(f"      {'':<16} {check['remedy']}")
