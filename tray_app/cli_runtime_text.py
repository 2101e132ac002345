"""How the command line words what the engine says about llama.cpp builds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import cli_text as text
from .cli_text import say

# As in the engine's values; a test holds them together, a face does not import the engine.
BACKENDS = ("cuda", "rocm", "vulkan", "sycl", "opencl", "metal", "cpu")
RELEASES = 8  # shown to a person; JSON has all
NOTE_LINES, NOTE_LENGTH = 40, 300  # of release notes; the page has the rest
REASON = 160  # characters of a reason that a file or the net may have written
Json = dict[str, Any]


def installed(runtime: Json) -> list[Json]:
    """Every runtime that is here, the active one among them."""
    rows, active = list(runtime["installed"]), runtime["active"]
    if active and all(row["id"] != active["id"] for row in rows):
        rows.insert(0, active)
    return rows


def list_row(runtime: Json) -> Json:
    """`runtime list --json`: a RuntimeStatus with ids where it names a runtime."""
    active = (runtime["active"] or {}).get("id")
    previous = runtime["previous_id"]
    rows = [
        {**row, "active": row["id"] == active, "previous": row["id"] == previous}
        for row in installed(runtime)
    ]
    kept = (
        *("state", "on_trial", "job_id", "error", "rejected", "stepped_down", "rolled_back"),
        "update",
    )
    return {
        "active": active,
        "previous": previous,
        **{key: runtime[key] for key in kept},
        "runtimes": rows,
    }


def print_list(snapshot: Json) -> None:
    """`runtime list`: a table, then what is odd about any of them."""
    runtime = snapshot["runtime"]
    rows = installed(runtime)
    if rows:
        head = ("", "ID", "BACKEND", "ORIGIN", "SIZE", "PROOF")
        text.print_table([head, *(_table_row(row, runtime) for row in rows)])
    else:
        say("No llama.cpp yet. `llama-wrangler runtime install` gets one.")
    for job in snapshot["jobs"]:
        if job["id"] == runtime["job_id"]:
            say(f"In progress: {job['title']}, {job['step'] or job['state']}")
    if runtime["on_trial"] and runtime["active"]:
        back = runtime["previous_id"]
        say(
            f"{runtime['active']['id']} is on trial until it has answered with your model"
            + (f"; if it fails there, {back} takes over." if back else ".")
        )
    for row in rows:
        _print_proof(row)
    _print_stepped_down(runtime)
    if runtime["rejected"]:
        say("Found and of no use:")
        for rejected in runtime["rejected"]:
            say(f"  {rejected['path']}: {_short(rejected['reason'])}")
    _print_rolled_back(runtime["rolled_back"])
    _print_error(runtime["error"])
    if runtime["update"]:
        say(
            f"There is a newer release: {runtime['update']['tag']} (`llama-wrangler runtime check`)"
        )


def _table_row(row: Json, runtime: Json) -> tuple[str, ...]:
    active = runtime["active"] or {}
    mark = "previous" if row["id"] == runtime["previous_id"] else ""
    return (
        "active" if row["id"] == active.get("id") else mark,
        row["id"],
        row["backend"],
        row["origin"],
        text.size(row["size_bytes"]),
        _proof_word(row),
    )


def _proof_word(row: Json) -> str:
    proof = row["proof"]
    if proof is None:
        return "not tried"
    if not proof["ok"]:
        return "failed"
    if row["backend"] == "cpu" or not proof["layers"] or proof["layers_on_gpu"] is None:
        return "ok"
    return f"ok, {proof['layers_on_gpu']} of {proof['layers']} layers on the GPU"


def _print_proof(row: Json) -> None:
    proof = row["proof"]
    if proof is None:
        return
    if proof["error"]:
        say(f"{row['id']} was tried and may not be used: {_short(proof['error']['message'])}")
        _print_remedy(proof["error"])
    if proof["missing_libraries"]:
        say(f"{row['id']} lacks libraries: {_short(', '.join(proof['missing_libraries']))}")
    for warning in proof["warnings"]:
        say(f"{row['id']}: {_short(warning)}")


def print_available(hardware: Json | None, ladder: list[Json], offers: Json) -> None:
    """`runtime available`: the machine, what it can use, what can be got."""
    if hardware is not None:
        _print_hardware(hardware)
    if ladder:
        best = next((rung["backend"] for rung in ladder if rung["usable"]), None)
        say("Backends, most capable first:")
        text.print_table(
            [
                (
                    "  best" if rung["backend"] == best else "",
                    rung["backend"],
                    "yes" if rung["usable"] else "no",
                    _short(rung["reason"]),
                )
                for rung in ladder
            ]
        )
    _print_releases(offers)
    _print_buildable(offers)


def _print_hardware(hardware: Json) -> None:
    counts = (("cores", hardware["cpu_cores"]), ("threads", hardware["cpu_threads"]))
    parts = [
        hardware["cpu_name"] or f"unknown {hardware['arch']} processor",
        *(f"{count} {name}" for name, count in counts if count),
    ]
    if hardware["memory_bytes"]:
        parts.append(f"{text.size(hardware['memory_bytes'])} memory")
    say(f"CPU  {_short(', '.join(parts))}")
    say(f"GPU  {_short('; '.join(_gpu(gpu) for gpu in hardware['gpus'])) or 'none found'}")
    for problem in hardware["problems"]:
        say(f"     {_short(problem)}")


def _gpu(gpu: Json) -> str:
    about = [
        f"{text.size(gpu['memory_bytes'])}" if gpu["memory_bytes"] else "memory unknown",
        *(["shares main memory"] if gpu["integrated"] else []),
        *([f"driver {gpu['driver']}"] if gpu["driver"] else []),
    ]
    return f"{gpu['name']} ({', '.join(about)})"


def _print_releases(offers: Json) -> None:
    releases, error = offers["releases"], offers["error"]
    if releases:
        say(f"Releases, as of {text.day(offers['checked_at'])}:")
        text.print_table(
            [
                (f"  {release['tag']}", text.day(release["published_at"]), _choices(release))
                for release in releases[:RELEASES]
            ]
        )
        if len(releases) > RELEASES:
            say(f"  and {len(releases) - RELEASES} older ones (--json lists all)")
        for choice in releases[0]["choices"]:
            if not choice["usable"]:
                name = _choice_name(choice)
                say(f"  {releases[0]['tag']} {name} is not for here: {_short(choice['reason'])}")
    elif not error:
        say("Releases: none known yet; `--refresh` asks for them.")
    _print_error(error)


def _choices(release: Json) -> str:
    usable = [choice for choice in release["choices"] if choice["usable"]]
    named = (
        f"{_choice_name(choice)} {text.size(choice['size_bytes'])}"
        + (" (installed)" if choice["installed"] else "")
        for choice in usable
    )
    return ", ".join(named) or "nothing for this machine"


def _choice_name(choice: Json) -> str:
    return f"{choice['backend']} {choice['variant']}".strip()


def _print_buildable(offers: Json) -> None:
    if not offers["buildable"]:
        return
    say(f"From source (b{offers['source_build']}, or the BUILD you name):")
    for each in offers["buildable"]:
        if each["usable"]:
            say(f"  {each['backend']:<7} can be built")
            continue
        missing = f"missing: {', '.join(each['missing'])}" if each["missing"] else each["reason"]
        say(f"  {each['backend']:<7} {_short(missing)}")
        if each["missing"] and each["install_command"]:
            say(f"          {each['install_command']}")


def print_change(before: Json, after: Json) -> None:
    """What a job that went well has changed."""
    active, old = after["active"], before["active"] or {}
    had = {row["id"] for row in installed(before)}
    new = [row for row in installed(after) if row["id"] not in had]
    if active and active["id"] != old.get("id"):
        say(f"In use now: {active['id']} ({active['backend']}).")
        _print_devices(active)
        _print_proof(active)
        _print_stepped_down(after)
    elif new:
        for row in new:
            say(f"Installed: {row['id']}; `llama-wrangler runtime use {row['id']}` takes it.")
            _print_proof(row)
    elif active:
        say(f"In use: {active['id']} ({active['backend']}); nothing had to be changed.")
    if after["rolled_back"] != before["rolled_back"]:
        _print_rolled_back(after["rolled_back"])


def _print_stepped_down(runtime: Json) -> None:
    for line in runtime["stepped_down"]:
        say(f"Tried in vain before it: {_short(line)}")


def _print_devices(row: Json) -> None:
    proof = row["proof"]
    devices: Iterable[str] = proof["devices"] if proof and proof["devices"] else row["devices"]
    for device in devices:
        say(f"  {_short(device)}")


def removal_question(runtime_id: str, runtime: Json) -> str:
    """What `runtime remove` asks on a terminal."""
    row = next((each for each in installed(runtime) if each["id"] == runtime_id), None)
    if row is None or row["origin"] not in ("built", "downloaded"):
        return f"Forget {runtime_id}? Its files stay."
    held = f" ({text.size(row['size_bytes'])})" if row["size_bytes"] else ""
    return f"Delete {runtime_id}{held} from the disk?"


def print_update(update: Json | None, active: Json | None) -> None:
    """`runtime check`."""
    if update is None:
        here = f": {active['id']} is in use" if active else ""
        say(f"There is nothing newer{here}.")
        return
    have = f"; in use is {active['id']}" if active else ""
    held = "" if update["size_bytes"] is None else f", {text.size(update['size_bytes'])}"
    say(f"{update['tag']} of {text.day(update['published_at'])} ({update['backend']}{held}){have}.")
    lines = update["notes"].splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    for line in lines[:NOTE_LINES]:
        say(f"  {line}"[:NOTE_LENGTH])
    if len(lines) > NOTE_LINES:
        say(f"  … {len(lines) - NOTE_LINES} more lines")
    say(f"Its page: {update['url']}")
    say(f"Get it: llama-wrangler runtime install b{update['build']}")


def _print_rolled_back(rolled_back: Json | None) -> None:
    if rolled_back is None:
        return
    say(
        f"{rolled_back['runtime_id']} failed with {rolled_back['model_id']} and "
        f"{rolled_back['back_to']} took over: {_short(rolled_back['error']['message'])}"
    )
    _print_remedy(rolled_back["error"])


def _print_error(error: Json | None) -> None:
    if error is not None:
        say(f"Problem: {_short(error['message'])}")
        _print_remedy(error)


def _print_remedy(error: Json) -> None:
    if error["remedy"]:
        say(f"  {_short(error['remedy'])}")


def _short(words: str) -> str:
    line = " ".join(str(words[: 20 * REASON]).split())
    return line if len(line) <= REASON else line[: REASON - 1] + "…"
