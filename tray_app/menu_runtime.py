"""The part of the tray menu about llama.cpp: which build is active, and what else there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .menu_items import NAME_LENGTH, SEPARATOR, Item, Kind, clean, open_window

Json = Mapping[str, Any]

MENU_RUNTIMES = 12
BACKEND_NAMES = {
    "cuda": "CUDA",
    "rocm": "ROCm",
    "vulkan": "Vulkan",
    "sycl": "SYCL",
    "opencl": "OpenCL",
    "metal": "Metal",
    "cpu": "Processor",
}


def runtime_name(runtime: Json) -> str:
    """A llama.cpp build in a few words: "b11434 · CUDA"."""
    number = f"b{runtime['build']}" if runtime["build"] is not None else runtime["id"]
    backend = BACKEND_NAMES.get(runtime["backend"], runtime["backend"])
    return f"{clean(number, NAME_LENGTH)} · {clean(backend, NAME_LENGTH)}"


def runtime_names(runtimes: Sequence[Json]) -> dict[str, str]:
    """A label for each runtime id; those of one build and backend get their id added."""
    labels = {runtime["id"]: runtime_name(runtime) for runtime in runtimes}
    often = Counter(labels.values())
    return {
        runtime_id: f"{label} ({clean(runtime_id, NAME_LENGTH)})" if often[label] > 1 else label
        for runtime_id, label in labels.items()
    }


def runtime_items(status: Json) -> tuple[Item, ...]:
    """Which llama.cpp is active, with what else it could be below."""
    active, installed = status["active"], list(status["installed"])
    if active is None:
        if status["state"] in ("searching", "building"):
            return ()  # the first line of the menu says so
        return (open_window("Get llama.cpp…", page="runtimes"),)
    if all(each["id"] != active["id"] for each in installed):
        installed.insert(0, active)
    labels = runtime_names(installed)
    previous, update = status["previous_id"], status["update"]
    children = []
    if len(installed) > 1:
        shown = _few(installed, active["id"])
        children += [_runtime_row(each, labels, active["id"]) for each in shown]
        children.append(SEPARATOR)
    if previous in labels:
        children.append(Item(Kind.ACTION, f"Back to {labels[previous]}", "roll_back_runtime"))
    if update and update["told"]:
        children.append(open_window(f"Update to b{update['build']}…", page="runtimes"))
    children.append(open_window("Manage runtimes…", page="runtimes"))
    label = f"llama.cpp {runtime_name(active)}" + (" — on trial" if status["on_trial"] else "")
    return (Item(Kind.SUBMENU, label, children=tuple(children)),)


def _few(installed: Sequence[Json], active_id: str) -> list[Json]:
    """The newest runtimes, the active one always among them."""
    shown = list(installed[:MENU_RUNTIMES])
    if all(each["id"] != active_id for each in shown):
        shown[-1:] = [each for each in installed if each["id"] == active_id]
    return shown


def _runtime_row(runtime: Json, labels: Mapping[str, str], active_id: str) -> Item:
    failed = runtime["proof"] is not None and not runtime["proof"]["ok"]
    return Item(
        Kind.RADIO,
        labels[runtime["id"]] + (" — failed its test" if failed else ""),
        "use_runtime",
        (("name", runtime["id"]),),
        checked=runtime["id"] == active_id,
    )
