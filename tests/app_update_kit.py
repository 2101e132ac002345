"""Stand-ins for frozen builds: folders that behave as one, run from this source, of any version.

`Publisher` is the place where releases are published: signed manifests and archives over HTTP.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from scripts.release import manifest, new_key, sign
from tests.file_server import FileServer, file_server
from tray_app.client import Client, ClientError
from tray_app.engine.app_update.kind import Installation, installation

ROOT = Path(__file__).parent.parent
NAME = "llama-wrangler"
PATIENCE_S = 60.0

# What a fault does where the version is really used, and not in the home that its own test makes.
FAULTS = {
    "none": "",
    "dies": "sys.exit(7)",
    "hangs": "import threading; threading.Event().wait()",
    "fails_its_test": "",
}
_PROGRAM = """\
#!{python}
import os, sys
sys.frozen = True
sys.executable = os.path.realpath(__file__)
if {image!r}:  # as the runtime of AppImages does; what is mounted is the file itself here
    os.environ.update(APPIMAGE=sys.executable, APPDIR=os.path.dirname(sys.executable))
sys.path.insert(0, {root!r})
import tray_app
tray_app.__version__ = {version!r}
words = sys.argv[1:]
if {fault!r} == "fails_its_test" and "--self-test" in words:
    print("FAIL  engine")
    sys.exit(1)
if os.environ.get("LLAMA_WRANGLER_HOME") == {home!r} and words[:1] in (["engine"], ["serve"]):
    {act}
from tray_app.engine.app_update import trust
trust.PUBLIC_KEYS = {keys!r}
if __name__ == "__main__":
    from tray_app.__main__ import main
    sys.exit(main())
"""


def program_text(
    version: str, home: Path, keys: tuple[str, ...], fault: str = "none", image: bool = False
) -> str:
    """The program of a version, which runs from this source; `image`: it plays an AppImage."""
    return _PROGRAM.format(
        python=sys.executable,
        root=str(ROOT),
        version=version,
        home=str(home),
        keys=keys,
        fault=fault,
        image=image,
        act=FAULTS[fault] or "pass",
    )


def lay_down(folder: Path, text: str) -> Path:
    """A folder as the user has unpacked it; its program."""
    folder.mkdir(parents=True)
    program = folder / NAME
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    (folder / "_internal").mkdir()
    (folder / "_internal" / "library.bin").write_bytes(b"x" * 1000)
    return program


def archive_of(version: str, text: str, padding: int = 200_000) -> bytes:
    """A .tar.gz as `make package` makes it, with some bytes that do not compress."""
    made = io.BytesIO()
    top = f"{NAME}-{version}-{platform()}"
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, data, mode in (
            (NAME, text.encode(), 0o755),
            ("_internal/library.bin", os.urandom(padding), 0o644),
        ):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def platform() -> str:
    """This machine, as a manifest names it."""
    return installation().platform


class Publisher:
    """Where releases are published."""

    def __init__(self, folder: Path, server: FileServer) -> None:
        self.private, self.public = new_key()
        self.server = server
        self._folder = folder
        self.url = server.url("/manifest.json")

    def publish(self, version: str, text: str, image: bool = False, **changes: Any) -> None:
        """A release of one file; `changes` are made to the manifest before it is signed."""
        for path in self._folder.glob("*"):
            path.unlink()
        self._folder.mkdir(exist_ok=True)
        machine = platform().replace("arm64", "aarch64")
        name = f"{NAME}-{version}-{machine}.{'AppImage' if image else 'tar.gz'}"
        (self._folder / name).write_bytes(text.encode() if image else archive_of(version, text))
        row = json.loads(manifest(self._folder, version, int(time.time()), 30))
        data = json.dumps({**row, **changes}).encode()
        self.server.put(f"/{name}", (self._folder / name).read_bytes())
        self.server.put("/manifest.json", data)
        self.server.put("/manifest.json.sig", sign(data, [self.private]))


@contextmanager
def publisher(folder: Path) -> Iterator[Publisher]:
    """A place that serves on this machine until the block is left."""
    with file_server() as server:
        yield Publisher(folder, server)


def write_settings(home: Path, port: int, url: str, updates: str = "notify") -> None:
    """The settings of a home that builds nothing."""
    settings = {
        "version": 1,
        "server": {"port": port},
        "runtime": {"auto_build": False, "updates": "off", "server_path": "/nowhere/llama-server"},
        "app": {"updates": updates, "manifest_url": url},
    }
    (home / "settings.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")


def start(program: Path, *words: str, **environ: str) -> subprocess.Popen[bytes]:
    """A process of a stand-in, as the user starts it."""
    # Without a display its test leaves out tray and window.
    dropped = ("DISPLAY", "WAYLAND_DISPLAY", "LLAMA_WRANGLER_RUNS")
    env = {k: v for k, v in os.environ.items() if k not in dropped} | environ
    silent = subprocess.DEVNULL
    return subprocess.Popen([str(program), *words], env=env, stdin=silent, stdout=silent)


def until(ask: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first answer that is not empty; asks that fail because nobody is there count as none."""
    pause, deadline = threading.Event(), time.monotonic() + patience_s
    while True:
        try:
            found = ask()
        except ClientError:
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        pause.wait(0.05)


def engine_of(home: Path, version: str) -> Client:
    """The running engine, once it is of this version."""

    def look() -> Client | None:
        client = Client.connect(home)
        return client if client.snapshot()["version"] == version else None

    return until(look, f"an engine of version {version}")


def played(program: Path) -> Installation:
    """A folder of the user's, without asking how this test runs."""
    from tray_app.engine.app_update.kind import Kind

    return Installation(Kind.FOLDER, "a folder of yours", "", program, platform())
