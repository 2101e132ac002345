"""The tray menu as a pure function of the engine's snapshot.

Model names, job titles and messages come from files and the net: whatever ends up in a label
has passed `clean`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .menu_downloads import download_items
from .menu_items import (
    LINE_LENGTH,
    NAME_LENGTH,
    SEPARATOR,
    Item,
    Kind,
    clean,
    escape_label,
    heading,
    open_window,
    same_shape,
)
from .menu_runtime import runtime_items

__all__ = [
    "LINE_LENGTH",
    "NAME_LENGTH",
    "SEPARATOR",
    "Item",
    "Kind",
    "build_menu",
    "build_offline_menu",
    "clean",
    "escape_label",
    "names_of",
    "same_shape",
]

Json = Mapping[str, Any]

# A menu longer than a laptop's screen scrolls, and nobody finds anything in it.
TOP_LEVEL_MODELS = 8
SUBMENU_MODELS = 40
# A GTK menu item costs about 18 kB; past this the window's search is the better list.
MENU_MODELS = 200
NOTICES = 3

_LOADED = ("ready", "loading", "waiting", "backoff")
_STATE_WORDS = {
    "ready": "loaded",
    "loading": "loading…",
    "waiting": "waiting",
    "stopping": "unloading…",
    "backoff": "retrying",
    "failed": "failed",
}


def build_menu(snapshot: Json, *, autostart: bool | None) -> tuple[Item, ...]:
    """The menu for a running engine. `autostart` None leaves "Start at login" out."""
    return (
        heading(snapshot["status_text"]),
        *_notices(snapshot),
        *_jobs(snapshot["jobs"]),
        SEPARATOR,
        *_models(snapshot),
        *_switch_now(snapshot),
        *_unload(snapshot),
        *download_items(snapshot["downloads"], models=bool(snapshot["models"])),
        SEPARATOR,
        open_window("Open window", default=True),
        Item(
            Kind.ACTION,
            "Copy API address",
            "copy_address",
            (("text", snapshot["gateway"]["base_url"]),),
        ),
        *runtime_items(snapshot["runtime"]),
        *_app_update(snapshot["app_update"]),
        Item(Kind.ACTION, "Open logs", "open_logs"),
        SEPARATOR,
        *_autostart(autostart),
        Item(Kind.ACTION, "Quit", "quit"),
    )


def build_offline_menu(text: str, *, autostart: bool | None, can_restart: bool) -> tuple[Item, ...]:
    """The menu while no engine answers; `text` says why. `can_restart` offers a new try."""
    restart = Item(Kind.ACTION, "Restart the engine", "restart_engine", default=True)
    return (
        heading(text),
        *((restart,) if can_restart else ()),
        SEPARATOR,
        Item(Kind.ACTION, "Open logs", "open_logs"),
        SEPARATOR,
        *_autostart(autostart),
        Item(Kind.ACTION, "Quit", "quit"),
    )


def names_of(models: Iterable[Json]) -> dict[str, str]:
    """A label for each model id; models of one name get what tells them apart added."""
    labels = {model["id"]: clean(model["name"], NAME_LENGTH) or "(no name)" for model in models}
    groups: dict[str, list[Json]] = {}
    for model in models:
        groups.setdefault(labels[model["id"]].casefold(), []).append(model)
    for group in groups.values():
        if len(group) > 1:
            tags = _telling_apart(group)
            for model, tag in zip(group, tags, strict=True):
                labels[model["id"]] = f"{labels[model['id']]} ({tag})"
    return labels


def _telling_apart(group: Sequence[Json]) -> list[str]:
    readings: tuple[Callable[[Json], str], ...] = (
        lambda m: m.get("quantization") or "?",
        lambda m: m.get("publisher") or "?",
        lambda m: f"{m.get('publisher') or '?'}, {m.get('quantization') or '?'}",
        lambda m: m["id"],
    )
    for reading in readings:
        tags = [clean(reading(model), NAME_LENGTH) for model in group]
        if len(set(tags)) == len(tags):
            return tags
    return [f"{tag} #{number}" for number, tag in enumerate(tags, 1)]


def _models(snapshot: Json) -> tuple[Item, ...]:
    models: Sequence[Json] = snapshot["models"]
    if not models:
        if snapshot["scanning"]:
            return (heading("Looking for models…"),)
        return (open_window("Add your first model…", page="discover"),)
    labels = names_of(models)
    states = {status["model_id"]: status["state"] for status in snapshot["statuses"]}
    top, rest = _choose(snapshot, labels, states)

    def row(model: Json) -> Item:
        return _model_row(model, labels[model["id"]], states.get(model["id"]), snapshot)

    items = [row(model) for model in top]
    if rest:
        shown = rest[: MENU_MODELS - len(top)]
        children = list(_chunked([(labels[model["id"]], row(model)) for model in shown]))
        if len(shown) < len(rest):
            children.append(SEPARATOR)
            children.append(open_window(f"{len(rest) - len(shown)} more in the window…"))
        items.append(Item(Kind.SUBMENU, "More models", children=tuple(children)))
    return tuple(items)


def _choose(
    snapshot: Json, labels: Mapping[str, str], states: Mapping[str, str]
) -> tuple[list[Json], list[Json]]:
    """The models of the top level and the rest: what is in use is never hidden."""
    active = snapshot["active_model_id"]
    recent = {model_id: rank for rank, model_id in enumerate(snapshot["recent_model_ids"])}

    def position(model: Json) -> tuple[int, str, str]:
        model_id = model["id"]
        return recent.get(model_id, len(recent)), labels[model_id].casefold(), model_id

    def in_use(model: Json) -> int:
        if model["id"] == active:
            return 0
        return 1 if states.get(model["id"], "unloaded") not in ("unloaded", "failed") else 2

    ranked = sorted(snapshot["models"], key=lambda model: (in_use(model), position(model)))
    top = sorted(ranked[:TOP_LEVEL_MODELS], key=position)
    rest = sorted(ranked[TOP_LEVEL_MODELS:], key=lambda m: (labels[m["id"]].casefold(), m["id"]))
    return top, rest


def _model_row(model: Json, label: str, state: str | None, snapshot: Json) -> Item:
    if model["kind"] == "embedding":
        label += " · embedding"
    word = _STATE_WORDS.get(state or "")
    if not model["available"]:
        word = "drive missing"
    return Item(
        Kind.RADIO,
        f"{label} — {word}" if word else label,
        "switch_model",
        (("model_id", model["id"]),),
        enabled=model["available"],
        checked=model["id"] == snapshot["active_model_id"],
    )


def _chunked(rows: Sequence[tuple[str, Item]]) -> tuple[Item, ...]:
    """`rows` in submenus of at most SUBMENU_MODELS each, named by their first and last row."""
    if len(rows) <= SUBMENU_MODELS:
        return tuple(item for _, item in rows)
    groups = -(-len(rows) // SUBMENU_MODELS)
    size = -(-len(rows) // groups)
    pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    return tuple(
        Item(
            Kind.SUBMENU,
            f"{clean(piece[0][0], 16)} to {clean(piece[-1][0], 16)}",
            children=tuple(item for _, item in piece),
        )
        for piece in pieces
    )


def _switch_now(snapshot: Json) -> tuple[Item, ...]:
    """The offer to end other models' requests, only while a switch waits for them."""
    active = snapshot["active_model_id"]
    waits = any(s["model_id"] == active and s["state"] == "waiting" for s in snapshot["statuses"])
    cut = sum(s["in_flight"] for s in snapshot["statuses"] if s["model_id"] != active)
    if not waits or not cut:
        return ()
    requests = "1 request" if cut == 1 else f"{cut} requests"
    return (
        Item(
            Kind.ACTION,
            f"Switch now (cuts {requests})",
            "switch_model",
            (("model_id", active), ("now", True)),
        ),
    )


def _unload(snapshot: Json) -> tuple[Item, ...]:
    loaded = [s["model_id"] for s in snapshot["statuses"] if s["state"] in _LOADED]
    if not loaded:
        return ()
    labels = names_of(snapshot["models"])

    def entry(model_id: str, prefix: str = "") -> Item:
        # A file that was deleted while its model runs has no row any more, but can be unloaded.
        label = labels.get(model_id) or clean(model_id, NAME_LENGTH)
        return Item(Kind.ACTION, prefix + label, "unload_model", (("model_id", model_id),))

    if len(loaded) == 1:
        return (entry(loaded[0], "Unload "),)
    everything = Item(Kind.ACTION, "All idle models", "unload_model", (("model_id", None),))
    children = (*(entry(model_id) for model_id in loaded), SEPARATOR, everything)
    return (Item(Kind.SUBMENU, "Unload", children=children),)


def _notices(snapshot: Json) -> tuple[Item, ...]:
    """The worst few of the standing notices; a click opens the window, which has the remedy."""
    ranks = {"error": 0, "warning": 1}
    news = [n for n in snapshot["notices"] if n["message"] != snapshot["status_text"]]
    ranked = sorted(news, key=lambda notice: ranks.get(notice["level"], len(ranks)))
    return tuple(
        open_window(
            f"{'⚠ ' if notice['level'] in ranks else ''}{clean(notice['message'], LINE_LENGTH)}",
            page=_page_of(notice, snapshot["runtime"]),
        )
        for notice in ranked[:NOTICES]
    )


def _page_of(notice: Json, runtime: Json) -> str:
    """The window's page that can do something about a notice."""
    code, error = notice["code"], runtime["error"]
    if code.startswith("app_"):
        return "settings"
    about_runtime = code.startswith("runtime_") or code in ("cpu_fallback", "gpu_unused")
    # A download or a disk that is full has no code of its own for runtimes.
    if about_runtime or (error is not None and error["message"] == notice["message"]):
        return "runtimes"
    return "models" if "model" in code or "switch" in code else "server"


def _app_update(status: Json) -> tuple[Item, ...]:
    """A newer version that the app can bring by itself; others are told by a notice."""
    release = status["release"]
    if release is None or release["size_bytes"] is None or status["how"]:
        return ()
    return (open_window(f"Update to {clean(release['version'], NAME_LENGTH)}…", page="settings"),)


def _jobs(jobs: Sequence[Json]) -> tuple[Item, ...]:
    return tuple(
        heading(f"{clean(job['title'], NAME_LENGTH)} — {_progress(job)}")
        for job in jobs
        if job["state"] in ("queued", "running")
    )


def _progress(job: Json) -> str:
    if job["state"] == "queued":
        return "waiting"
    if job["total"]:
        return f"{min(100, 100 * job['done'] // job['total'])} %"
    return clean(job["step"], NAME_LENGTH) or "running"


def _autostart(autostart: bool | None) -> tuple[Item, ...]:
    if autostart is None:
        return ()
    wanted = (("enabled", not autostart),)
    return (Item(Kind.CHECK, "Start at login", "set_autostart", wanted, checked=autostart),)
