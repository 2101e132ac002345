"""The standing lines about runtimes: what is wrong, what is new, what runs slower than it could."""

from __future__ import annotations

from tray_app.engine.values import ModelStatus, Notice

from .offload import likely_cause
from .values import RuntimeState, RuntimeStatus


def runtime_notices(status: RuntimeStatus, model: ModelStatus | None) -> list[Notice]:
    """All that hold now, each with what to do. `model` is the active one's status. Pure."""
    found = []
    if status.error is not None:
        level = "error" if status.active is None else "warning"
        found.append(Notice(status.error.code, level, status.error.message, status.error.remedy))
    elif status.state is RuntimeState.MISSING:
        found.append(
            Notice(
                "runtime_missing",
                "warning",
                "llama.cpp is not installed yet, so no model can run.",
                "Install it on the Runtimes page; without a download that fits it is built,"
                " which takes about ten minutes once.",
            )
        )
    back = status.rolled_back
    if back is not None:
        found.append(
            Notice(
                "runtime_rolled_back",
                "error",
                f"The runtime {back.runtime_id} failed with {back.model_id}, so {back.back_to}"
                f" is in use again: {back.error.message}",
                back.error.remedy,
            )
        )
    if status.active is not None:
        offload = model.offload if model is not None else None
        slow = likely_cause(offload, status.active, status.hardware, status.ladder)
        if slow is not None:
            found.append(slow)
    update = status.update
    if update is not None and update.told:
        found.append(
            Notice(
                "runtime_update",
                "info",
                f"llama.cpp {update.tag} is out; {status.active.id if status.active else 'none'}"
                " is in use.",
                "Read what is new and install it on the Runtimes page.",
            )
        )
    return found
