"""The standing lines about newer versions of the app. Pure."""

from __future__ import annotations

from tray_app.engine.values import Notice

from .values import AppUpdateStatus


def app_update_notices(status: AppUpdateStatus) -> list[Notice]:
    """What stays to be told: a version that was taken back, and one that is for others to bring."""
    found = []
    if status.taken_back is not None:
        gone = status.taken_back
        message = f"Llama Wrangler {gone.version} was taken back: {gone.reason}"
        remedy = f"Version {gone.back_to} is in use again. A later version may work."
        found.append(Notice("app_taken_back", "warning", message, remedy))
    if status.release is not None and status.how:
        message = f"Llama Wrangler {status.release.version} is out."
        found.append(Notice("app_update", "info", message, status.how))
    return found
