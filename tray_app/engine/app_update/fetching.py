"""The job that brings a new version: fetch, unpack, and let it test itself on this computer."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path

from tray_app.engine.child_registry import ChildRegistry
from tray_app.engine.errors import AppUpdateFailed
from tray_app.engine.fetch import RemoteFile, fetch_file
from tray_app.engine.jobs import JobContext
from tray_app.engine.process import ChildProcess, LaunchSpec, exit_text

from .manifest import ReleaseFile
from .places import Place

KIND = "fetch_app_update"
STEPS = ("Downloading", "Unpacking", "Trying it")
TEST_S = 180.0
POLL_S = 0.2
LINES = 3


def bring(
    context: JobContext,
    place: Place,
    version: str,
    file: ReleaseFile,
    registry: ChildRegistry,
    *,
    visible: bool,
) -> None:
    """Bring `version` to where it can be used. Blocks.

    `visible`: the user waits for it, so that its test may show a window for a moment.
    Raises DownloadFailed, NotEnoughDisk, AppUpdateFailed, Cancelled, OSError.
    """
    target = place.fetch_target(file.filename)
    context.enter(0)
    fetch_file(
        RemoteFile(file.url, file.filename, file.sha256, file.size_bytes),
        target,
        progress=lambda done, total: context.progress(done, total, "bytes"),
        cancel=context.cancel,
    )
    context.enter(1)
    program = place.stage(target, version, context.check)
    context.enter(2)
    _test(context, program, version, registry, visible)
    context.check()
    place.keep(version)


def _test(
    context: JobContext, program: Path, version: str, registry: ChildRegistry, visible: bool
) -> None:
    said: deque[str] = deque(maxlen=200)
    # Without a display it leaves out tray and window; where there always is one, it cannot.
    unseen = {} if visible or sys.platform != "linux" else {"DISPLAY": "", "WAYLAND_DISPLAY": ""}
    spec = LaunchSpec(
        (str(program), "--self-test", "--within-s", str(TEST_S)), unseen, log_path=context.log_path
    )
    try:
        with ChildProcess(
            spec, on_line=said.append, registry=registry, kind="self-test", marker=str(program)
        ) as child:
            while (status := child.wait(POLL_S)) is None:
                context.check()
    except OSError as exc:
        raise AppUpdateFailed(
            f"Version {version} cannot be run on this computer: {exc.strerror or exc}.",
            "This version goes on. The next one may work: look again later.",
        ) from exc
    if status != 0:
        told = [line for line in said if line.startswith(("FAIL", "The self-test failed"))]
        why = " ".join(told[:LINES]) or exit_text(status)
        raise AppUpdateFailed(
            f"Version {version} failed its test on this computer: {why}",
            "This version goes on. The job's log has the details.",
        )
    if not any(line.startswith(f"llama-wrangler {version},") for line in said):
        raise AppUpdateFailed(
            f"What came as version {version} says that it is another.",
            "Nothing was changed. Get the new version where you got this one.",
        )
