"""`pull`, `downloads`, `search`, `show`: models from elsewhere. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from . import cli_download_text as words
from . import cli_text as text
from .cli_job import CANCELLED, FAILED, WRONG, Progress
from .client import Client, ClientError, ensure_engine

UNFINISHED = ("queued", "running", "paused", "waiting")
MOVING = ("queued", "running", "waiting")
SORTS = {
    "trending": "trendingScore",
    "downloads": "downloads",
    "likes": "likes",
    "recent": "lastModified",
}
# What `downloads VERB` calls, and the states in which it has something to do.
CHANGES = {
    "pause": ("pause_download", ("queued", "running", "waiting")),
    "resume": ("resume_download", ("paused", "waiting")),
    "cancel": ("cancel_download", (*UNFINISHED, "failed")),
    "retry": ("retry_download", ("failed", "cancelled")),
    "remove": ("remove_download", ("done", "failed", "cancelled")),
}
Json = dict[str, Any]


def add_verbs(verbs: Any) -> None:
    """Add the verbs to what `ArgumentParser.add_subparsers` returned."""

    def add(name: str, verb: Any, about: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
        sub.set_defaults(verb=verb)
        sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")
        return sub

    pull = add("pull", _pull, "download a model")
    pull.add_argument("references", nargs="+", metavar="REF", help="org/repo:QUANT, name:tag, URL")
    pull.add_argument("--no-wait", action="store_true", help="do not wait until it is here")
    downloads = add("downloads", _downloads, "list the downloads, or change some")
    downloads.add_argument("change", nargs="?", choices=(*CHANGES, "clear"))
    downloads.add_argument("names", nargs="*", metavar="ID", help="or what was pulled")
    downloads.add_argument("--all", action="store_true", help="all that it can be done to")
    search = add("search", _search, "search Hugging Face for models")
    search.add_argument("query", nargs="*", metavar="WORD")
    search.add_argument("--sort", choices=tuple(SORTS), default="trending")
    search.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (20)")
    show = add("show", _show, "what a repository offers, and how it would run here")
    show.add_argument("repo", metavar="ORG/REPO")
    show.add_argument(
        "--context", type=int, metavar="TOKENS", help="of context (default: the setting)"
    )


# -- pull


def _pull(options: argparse.Namespace) -> int:
    for reference in options.references:
        if _is_local(reference):
            text.say_error(
                f"{reference} is on this computer already.",
                f"Bring it into the library: llama-wrangler import {reference}",
            )
            return WRONG
    client = ensure_engine(mode="once")
    asked = [dict(client.call("pull", reference=each)) for each in options.references]
    ids = list(dict.fromkeys(each["id"] for each in asked))
    if options.no_wait:
        return _print_queued(client, ids, options.json)
    show = words.JsonEvents().show if options.json else _Bar(len(ids)).show
    try:
        ended = _follow(client, ids, show)
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        text.say_error(
            "The download goes on in the background.",
            "`llama-wrangler downloads` shows it; `llama-wrangler downloads pause --all` stops it.",
        )
        return CANCELLED
    return _tell_ends(client, ended, options.json)


def _is_local(reference: str) -> bool:
    path = Path(reference).expanduser()
    looks = reference.startswith((".", "~", "/", "\\")) or reference[1:3] in (":\\", ":/")
    return looks or (reference.lower().endswith(".gguf") and path.is_file())


def _print_queued(client: Client, ids: Sequence[str], as_json: bool) -> int:
    rows = [each for each in client.snapshot()["downloads"] if each["id"] in ids]
    if as_json:
        return text.print_json(rows)
    words.print_downloads(rows)
    return 0


def _follow(client: Client, ids: Sequence[str], show: Callable[[list[Json]], None]) -> list[Json]:
    """Follow downloads until none moves any more; how they are then. Raises ClientError."""
    while True:
        snapshot = client.snapshot()
        rows = {each["id"]: each for each in snapshot["downloads"] if each["id"] in ids}
        show([rows[each] for each in ids if each in rows])
        if not any(each["state"] in MOVING for each in rows.values()):
            return [rows[each] for each in ids if each in rows]
        with contextlib.closing(_changes(client, snapshot["seq"])) as changes:
            for changed, removed in changes:
                if changed["id"] not in rows:
                    continue
                rows[changed["id"]] = changed
                if removed or changed["state"] not in MOVING:
                    break  # a snapshot tells what is left
                show([rows[each] for each in ids if each in rows])


def _changes(client: Client, after: int) -> Generator[tuple[Json, bool], None, None]:
    """Each download that changes; ends when some changes were missed. Raises ClientError."""
    for _, name, values in client.events(after):
        if name == "Missed":
            return
        if name == "DownloadChanged":
            yield values["download"], bool(values.get("removed"))
    raise ClientError("engine_unreachable", "The engine ended meanwhile.", "See its log.")


class _Bar:
    """The line that shows the first download that runs, of several."""

    def __init__(self, count: int) -> None:
        self._progress = Progress(sys.stdout)
        self._count = count

    def show(self, rows: list[Json]) -> None:
        moving = [each for each in rows if each["state"] in MOVING]
        if not moving:
            self._progress.end()
            return
        first = next((each for each in moving if each["state"] == "running"), moving[0])
        number = f"{self._count - len(moving) + 1} of {self._count}: " if self._count > 1 else ""
        self._progress.show(words.as_job(first, number))


def _tell_ends(client: Client, ended: Sequence[Json], as_json: bool) -> int:
    models = {model["path"]: model["id"] for model in client.snapshot()["models"]}
    for download in ended:
        model_id = models.get(download["model_path"] or "")
        if as_json:
            words.print_end(download, model_id)
        else:
            words.say_end(download, model_id)
    return 0 if ended and all(each["state"] == "done" for each in ended) else FAILED


# -- downloads


def _downloads(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    if options.change == "clear":
        client.call("clear_downloads")
    elif options.change is not None:
        if not options.names and not options.all:
            text.say_error("No download is named.", "Name one from the list, or give --all.")
            return WRONG
        command, states = CHANGES[options.change]
        rows = client.snapshot()["downloads"]
        chosen = [each for each in rows if options.all and each["state"] in states]
        chosen += [_named(rows, name) for name in options.names]
        for each in chosen:
            client.call(command, download_id=each["id"])
    rows = client.snapshot()["downloads"]
    if options.json:
        return text.print_json(rows)
    words.print_downloads(rows)
    return 0


def _named(rows: Sequence[Json], name: str) -> Json:
    """The download of an id, of the beginning of one, or of a reference. Raises ClientError."""
    for key in ("id", "reference"):
        exact = [each for each in rows if each[key] == name]
        if exact:
            return exact[0]
    found = [each for each in rows if each["id"].removeprefix("download-").startswith(name)]
    found = found or [each for each in rows if each["id"].startswith(name)]
    if len(found) != 1:
        problem = "is not clear" if found else "is none of the downloads"
        raise ClientError("not_found", f"{name} {problem}.", "See `llama-wrangler downloads`.")
    return found[0]


# -- looking around


def _search(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    query, sort = " ".join(options.query), SORTS[options.sort]
    models = client.call("search_models", query=query, sort=sort, limit=options.limit)["models"]
    if options.json:
        return text.print_json(models)
    words.print_models(models)
    return 0


def _show(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    details = client.call("repo_details", repo=options.repo, context_length=options.context)
    if options.json:
        return text.print_json(details)
    words.print_details(details)
    return 0
