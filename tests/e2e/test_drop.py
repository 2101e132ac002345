"""A file dragged from another program onto the window, by a real mouse."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import kit
from tests.gguf_maker import make_gguf

pytest.importorskip("gi", reason="PyGObject is not installed")

# Another program: a window from which one file can be dragged.
SOURCE = """
import sys, gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gtk
window = Gtk.Window(title="A file to drag")
box = Gtk.EventBox()
box.add(Gtk.Label(label="drag me"))
box.drag_source_set(Gdk.ModifierType.BUTTON1_MASK, [], Gdk.DragAction.COPY)
box.drag_source_add_uri_targets()
box.connect("drag-data-get", lambda w, c, data, i, t: data.set_uris([sys.argv[1]]))
window.add(box)
window.set_default_size(120, 80)
window.move(0, 0)
window.show_all()
Gtk.main()
"""


@contextmanager
def dragged_file(path: Path, environ: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", SOURCE, path.as_uri()], env=environ)
    try:
        kit.wait_for(lambda: kit.windows(environ, "A file to drag"), "the other program")
        yield
    finally:
        process.kill()
        process.wait()


def drag(environ: dict[str, str], start: tuple[int, int], end: tuple[int, int]) -> None:
    """Press, move in steps as a hand does, release."""

    def mouse(*words: str) -> None:
        subprocess.run(["xdotool", *words], env=environ, check=True, capture_output=True)

    pause = threading.Event()
    mouse("mousemove", str(start[0]), str(start[1]), "mousedown", "1")
    for step in range(1, 21):
        x = start[0] + (end[0] - start[0]) * step // 20
        y = start[1] + (end[1] - start[1]) * step // 20
        mouse("mousemove", "--sync", str(x), str(y))
        pause.wait(0.03)
    pause.wait(0.3)
    mouse("mouseup", "1")


@pytest.mark.parametrize("gui", ["gtk", "qt"])
def test_a_dropped_model_is_brought_into_the_library(
    gui: str, home: Path, free_port: int, display: dict[str, str], tmp_path: Path
) -> None:
    if gui == "qt":
        pytest.importorskip("PySide6.QtWebEngineWidgets")
    kit.write_settings(home, server={"port": free_port}, runtime={"auto_build": False})
    source = make_gguf(tmp_path / "a folder" / "Dropped ünïcode.Q8_0.gguf")
    environ = display | {"PYWEBVIEW_GUI": gui, "QTWEBENGINE_DISABLE_SANDBOX": "1"}
    with (
        kit.running_engine(home, environ) as client,
        kit.running("window", environ=environ, stdin=subprocess.PIPE),
    ):
        kit.wait_for(lambda: kit.windows(environ), "our window", 30)
        x, y, width, height = kit.geometry(environ, kit.windows(environ)[-1])
        with dragged_file(source, environ):

            def dropped() -> list[str]:
                drag(environ, (60, 40), (x + width // 2, y + height // 2))
                threading.Event().wait(1)  # the import is a job
                return [model["path"] for model in client.snapshot()["models"]]

            (path,) = kit.wait_for(dropped, "the model", 40)
    assert Path(path).read_bytes() == source.read_bytes()
    assert Path(path).is_relative_to(home / "models" / "local")
