"""The self-test's pieces: what the page's answer means, and the file it makes by itself."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tray_app import window_probe
from tray_app.engine.errors import SelfTestFailed
from tray_app.self_test import Trial, header_alone
from tray_app.window_probe import probe, read


class Window:
    """A window that loads, or not, and answers with `answer`."""

    def __init__(self, loads: bool, answer: Any = None) -> None:
        loaded = threading.Event()
        if loads:
            loaded.set()
        self.events = SimpleNamespace(loaded=loaded)
        self._answer = answer

    def evaluate_js(self, script: str, callback: Any) -> None:
        if self._answer is not None:
            callback(self._answer)


def told(window: Window, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    closed: list[bool] = []
    probe(window, lambda: closed.append(True))
    assert closed == [True]
    return dict(json.loads(capsys.readouterr().out))


def test_the_windows_answer_is_one_line_and_then_it_closes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(Window(True, '{"pid": 7, "seq": 1}'), capsys) == {"pid": 7, "seq": 1}
    monkeypatch.setattr(window_probe, "ANSWER_S", 0.02)
    assert "showed no page" in told(Window(False), capsys)["problem"]
    assert "did not answer" in told(Window(True), capsys)["problem"]


def test_an_error_of_the_page_is_a_problem() -> None:
    assert "TypeError" in read({"name": "TypeError"})["problem"]
    assert read("[1]") == {"problem": "the page answered [1]"}
    assert read(None) == {"problem": "the page answered None"}


def test_the_file_it_makes_is_a_whole_gguf(tmp_path: Path) -> None:
    from tray_app.engine.gguf import read_details

    path = tmp_path / "a.gguf"
    path.write_bytes(header_alone())
    assert read_details(str(path)).name == "No weights"


def test_waiting_ends_with_the_time(tmp_path: Path) -> None:
    trial = Trial(tmp_path, 0.0, lambda line: None)
    assert trial.wait_for(lambda: "there", "it") == "there"
    with pytest.raises(SelfTestFailed, match="Waited in vain for the moon"):
        trial.wait_for(lambda: None, "the moon")
