"""Doctor's checks, and one redacted bundle to send along with a question."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .errors import NotFound
from .home import Home
from .logs import list_logs, read_log, redact
from .summary import count
from .values import FolderState, GatewayState, RuntimeState, Snapshot, to_json

DEFLATED = zipfile.ZIP_DEFLATED
LOW_DISK_BYTES = 5 * 10**9
BUNDLE_LOG_BYTES = 500_000


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `remedy` is empty when it is fine."""

    name: str
    ok: bool
    message: str
    remedy: str = ""


def checks(snapshot: Snapshot, home: Home) -> list[Check]:
    """Everything the engine can know about its own health. Blocks for a few file reads."""
    return [
        _home_check(home),
        _disk_check(home),
        _runtime_check(snapshot),
        _gateway_check(snapshot),
        *_library_checks(snapshot),
        _memory_check(snapshot),
        *(Check(n.code, n.level == "info", n.message, n.remedy) for n in snapshot.notices),
    ]


def _home_check(home: Home) -> Check:
    try:
        with tempfile.TemporaryFile(dir=home.path):
            return Check("home", True, f"{home.path} can be written.")
    except OSError as error:
        return Check("home", False, f"{home.path} cannot be written: {error}", "Check its owner.")


def _disk_check(home: Home) -> Check:
    free = shutil.disk_usage(home.path).free
    message = f"{free / 1e9:.1f} GB are free for models."
    if free < LOW_DISK_BYTES:
        return Check("disk", False, message, "Models take 1 to 50 GB each: make room first.")
    return Check("disk", True, message)


def _runtime_check(snapshot: Snapshot) -> Check:
    runtime = snapshot.runtime
    if runtime.state is RuntimeState.READY and runtime.active:
        active = runtime.active
        return Check("runtime", True, f"llama.cpp {active.id} at {active.server_path}.")
    message = runtime.error.message if runtime.error else f"llama.cpp: {runtime.state}."
    remedy = runtime.error.remedy if runtime.error else "Build it on the Server page."
    return Check("runtime", runtime.state is RuntimeState.BUILDING, message, remedy)


def _gateway_check(snapshot: Snapshot) -> Check:
    gateway = snapshot.gateway
    if gateway.state is GatewayState.LISTENING:
        return Check("gateway", True, f"Answering at {gateway.base_url}.")
    if gateway.error is not None:
        return Check("gateway", False, gateway.error.message, gateway.error.remedy)
    return Check("gateway", False, "The API is not open.", "Look again in a moment.")


def _library_checks(snapshot: Snapshot) -> list[Check]:
    usable = sum(1 for model in snapshot.models if model.available)
    left = len(snapshot.left_out)
    remedy = "" if usable else "Put a GGUF file into the models folder, or add a folder."
    message = f"{count(usable, 'model')}, {count(left, 'file')} left out."
    found = [Check("library", usable > 0, message, remedy)]
    for folder in snapshot.folders:
        if folder.state is not FolderState.OK:
            message = f"{folder.path} is {folder.state}."
            found.append(Check("folder", False, message, "Connect its drive, or remove it."))
    return found


def _memory_check(snapshot: Snapshot) -> Check:
    memory = snapshot.memory
    text = f"Models may hold {memory.budget_bytes / 1e9:.1f} of {memory.total_bytes / 1e9:.1f} GB."
    small = memory.budget_bytes < 1 << 30
    return Check("memory", not small, text, "Close other programs." if small else "")


def write_bundle(snapshot: Snapshot, found: list[Check], home: Home) -> Path:
    """A zip of state, checks, settings and log tails, secrets redacted. Raises OSError."""
    path = home.path / f"diagnostics-{time.strftime('%Y%m%d-%H%M%S')}.zip"
    system = {
        "platform": platform.platform(),
        "python": sys.version,
        "cpus": os.cpu_count(),
        "version": snapshot.version,
    }
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)  # never readable by others
    with os.fdopen(handle, "w+b") as file, zipfile.ZipFile(file, "w", DEFLATED) as bundle:
        bundle.writestr("system.json", json.dumps(system, indent=1))
        bundle.writestr("snapshot.json", redact(json.dumps(to_json(snapshot), indent=1)))
        bundle.writestr("doctor.json", json.dumps(to_json(found), indent=1))
        for log in list_logs(home.logs)[:20]:
            with contextlib.suppress(NotFound):  # rotated away meanwhile
                part = read_log(home.logs, log.name, None, BUNDLE_LOG_BYTES)
                bundle.writestr(f"logs/{log.name}", part.text)
    return path
