"""The command line's words and statuses, without an engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tray_app import cli, cli_text, links
from tray_app.client import ALREADY_RUNNING, ClientError

ROOT = Path(cli.__file__).resolve().parent.parent
ESCAPE = "\x1b[31mred\x1b[0m\u202e\r\n"


def snapshot(**changes: Any) -> dict[str, Any]:
    model = {
        "id": f"org/{ESCAPE}:Q4",
        "name": ESCAPE,
        "parameter_count": 135_000_000,
        "quantization": "Q4_1",
        "size_bytes": 98_362_432,
        "context_length": 8192,
        "available": True,
        "details_known": True,
    }
    plain = {**model, "id": "org/plain:Q8", "parameter_count": None, "context_length": None}
    return {
        "seq": 3,
        "pid": 42,
        "server_state": "ready",
        "status_text": f"{ESCAPE} is ready",
        "active_model_id": model["id"],
        "models": [model, {**plain, "available": False}],
        "statuses": [
            {"model_id": model["id"], "state": "ready", "in_flight": 1, "pid": 7, "error": None,
             "context_length": 4096},
        ],
        "gateway": {"host": "127.0.0.1", "port": 7070, "base_url": "http://127.0.0.1:7070/v1",
                    "state": "listening", "requests_total": 5},
        "runtime": {"active": {"id": "b1-cpu"}},
        "notices": [{"level": "warning", "message": f"{ESCAPE}.", "remedy": "Do.", "code": "x"}],
        "folders": [{"path": "/h/models", "is_home": True}],
        "left_out": [{"path": "/x", "reason": "y"}],
        "scanning": False,
        **changes,
    }  # fmt: skip


class Engine:
    """A client that answers from a script."""

    engine_pid = 2**22 + 5

    def __init__(self, *snapshots: Mapping[str, Any], **answers: Any) -> None:
        self.snapshots = list(snapshots) or [snapshot()]
        self.answers = answers
        self.called: list[tuple[str, dict[str, Any]]] = []

    def snapshot(self) -> Mapping[str, Any]:
        return self.snapshots.pop(0) if len(self.snapshots) > 1 else self.snapshots[0]

    def call(self, name: str, /, **args: Any) -> Any:
        self.called.append((name, args))
        answer = self.answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        return answer.pop(0) if isinstance(answer, list) and answer else answer

    def events(self, after: int) -> Any:
        yield 0, "Ping", {}
        yield after + 1, "ModelChanged", {}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return use(monkeypatch, Engine())


def use(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> Engine:
    monkeypatch.setattr(cli, "ensure_engine", lambda **_: engine)
    monkeypatch.setattr(cli, "Client", SimpleNamespace(connect=lambda: engine))
    return engine


def output(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = cli.run(words)
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\u202e" not in said.out + said.err
    return status, said.out


@pytest.mark.parametrize(
    "words", [["list"], ["status"], ["use", "x"], ["unload"], ["unload", "x", "--now"]]
)
def test_no_name_reaches_the_terminal_as_an_escape(
    engine: Engine, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    engine.answers = {"switch_model": {"model_id": engine.snapshots[0]["active_model_id"]}}
    status, said = output(words, capsys)
    assert status == 0
    assert "red" in said


def test_json_keeps_names_as_they_are_and_is_plain_ascii(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = output(["list", "--json"], capsys)
    rows = json.loads(said)
    assert status == 0
    assert rows[0]["id"] == f"org/{ESCAPE}:Q4"
    assert (rows[0]["active"], rows[0]["state"], rows[0]["requests_running"]) == (True, "ready", 1)
    assert (rows[1]["active"], rows[1]["state"]) == (False, "unloaded")
    _, said = output(["status", "--json"], capsys)
    row = json.loads(said)
    assert row["running"] is True
    assert row["model_state"] == "ready"
    assert (row["pid"], row["engine_pid"], row["context_length"]) == (7, 42, 4096)
    assert row["loaded"] == [f"org/{ESCAPE}:Q4"]


def test_a_log_is_cleaned_line_by_line(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.answers = {"read_log": {"text": "one\x1b[2J\r\n\ttwo\x07\n", "next_offset": 9}}
    assert output(["logs"], capsys) == (0, "one�[2J\n\ttwo�\n")
    engine.answers = {"list_logs": [[{"name": "a\x1b.log", "size_bytes": 5}]]}
    assert output(["logs", "--list"], capsys)[1] == "           5  a�.log\n"


def test_the_table_lines_up_and_says_what_is_missing(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = output(["list"], capsys)
    head, first, second, rest = said.splitlines()
    assert head.split() == ["MODEL", "PARAMS", "QUANT", "SIZE", "CONTEXT", "STATE"]
    assert first.startswith("*  org/")
    assert "135M" in first
    assert "98 MB" in first
    assert second.endswith("drive missing")
    assert second.index("?") == head.index("PARAMS")
    assert rest == "1 file left out; the window says why."
    engine.snapshots = [snapshot(models=[], left_out=[])]
    assert "Put a GGUF file into /h/models" in output(["list"], capsys)[1]


def test_use_follows_the_model_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def at(state: str, **more: Any) -> dict[str, Any]:
        status = {"model_id": "m", "state": state, "in_flight": 0, "pid": None, "error": None}
        row = snapshot(statuses=[{**status, **more}], active_model_id="m", notices=[])
        return {**row, "status_text": f"m is {state}"}

    calm = at("unloaded")
    answer = {"switch_model": {"model_id": "m"}}
    use(monkeypatch, Engine(calm, calm, at("loading"), at("loading"), at("ready"), **answer))
    assert output(["use", "m"], capsys) == (0, "m is unloaded\nm is loading\nm is ready\n")

    error = {"code": "bad_gguf", "message": "It is damaged.", "remedy": "Get it again."}
    use(monkeypatch, Engine(calm, at("loading"), at("failed", error=error), **answer))
    assert cli.run(["use", "m"]) == 1
    assert "It is damaged.\n  Get it again." in capsys.readouterr().err

    use(monkeypatch, Engine(calm, at("loading"), calm, **answer))
    assert cli.run(["use", "m"]) == 1
    assert "m was unloaded meanwhile." in capsys.readouterr().err

    other = {**at("loading"), "active_model_id": "other"}
    use(monkeypatch, Engine(calm, at("loading"), other, **answer))
    assert cli.run(["use", "m"]) == 1
    assert "Another model was chosen meanwhile." in capsys.readouterr().err

    back = {**other, "notices": [{"code": "switch_failed", "message": "m: no.", "remedy": "Hm."}]}
    use(monkeypatch, Engine(calm, at("loading"), back, **answer))
    assert cli.run(["use", "m"]) == 1
    assert "m: no." in capsys.readouterr().err

    engine = use(monkeypatch, Engine(calm, **answer))
    assert output(["use", "m", "--no-wait", "--now"], capsys)[0] == 0
    assert engine.called == [("switch_model", {"model_id": "m", "now": True})]


def test_an_error_of_the_engine_is_said_and_is_status_1(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answers = {"switch_model": ClientError("model_not_found", "None \x1b.", "Look.")}
    assert cli.run(["use", "x"]) == 1
    assert capsys.readouterr().err == "llama-wrangler: None �.\n  Look.\n"


def test_without_an_engine_the_status_is_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA_WRANGLER_HOME", "")
    assert cli.run(["--home", str(tmp_path), "status"]) == 3
    assert "not running" in capsys.readouterr().err
    status, said = output(["status", "--json"], capsys)
    assert (status, json.loads(said)) == (3, {"state": "stopped", "running": False})
    assert cli.run(["stop"]) == 3
    assert cli.run(["unload"]) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["nonsense"], ["use"], ["list", "--colour"], ["engine", "x"]])
def test_a_wrong_command_line_is_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(words)
    assert caught.value.code == 2


def test_help_lists_the_verbs_and_hides_the_inner_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for verb in ("tray", "serve", "window", "list", "status", "use", "unload", "stop", "logs"):
        assert f"\n    {verb} " in said
    assert "\n    engine" not in said
    with pytest.raises(SystemExit):
        cli.run(["--version"])
    assert capsys.readouterr().out.startswith("llama-wrangler ")


def test_an_engine_that_cannot_start_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tray_app import daemon

    (tmp_path / "file").write_text("")
    assert cli.run(["--home", str(tmp_path / "file"), "engine"]) == 1
    assert "The engine cannot start: " in capsys.readouterr().err
    failure = daemon.Failure("One runs.", "Stop it.", already_running=True)
    monkeypatch.setattr(daemon, "main", lambda *_: failure)
    assert cli.run(["engine"]) == ALREADY_RUNNING
    assert "One runs.\n  Stop it." in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tray_app import cli\n"
        "cli.ensure_engine = lambda **_: type('E', (), {\n"
        "    'call': lambda self, *a, **k: {'text': 'line\\n' * 200_000, 'next_offset': 1}})()\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    for words in (["logs"], ["logs", "--json"]):
        with subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "LLAMA_WRANGLER_HOME": str(tmp_path)},
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(20) == 0


def test_the_window_opens_on_every_page_that_there_is() -> None:
    router = (ROOT / "tray_app" / "web" / "router.js").read_text(encoding="utf-8")
    found = re.search(r"PAGES = .*\(\[(.*?)\]\)", router)
    assert found is not None
    assert sorted(re.findall(r"'(\w+)'", found[1])) == sorted(links.PAGES)


@pytest.mark.parametrize(
    ("number", "said"),
    [(None, "?"), (0, "0 MB"), (98_362_432, "98 MB"), (4_100_000_000, "4.1 GB")],
)
def test_sizes(number: int | None, said: str) -> None:
    assert cli_text.size(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(None, "?"), (12, "12"), (1_500, "1.5K"), (135_000_000, "135M"), (7_200_000_000, "7.2B"),
     (1_000_000_000_000, "1T")],
)  # fmt: skip
def test_parameter_counts(number: int | None, said: str) -> None:
    assert cli_text.parameters(number) == said
