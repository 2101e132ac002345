"""What `bench` prints."""

from __future__ import annotations

from typing import Any

import pytest

from tray_app import cli, cli_bench
from tray_app.client import ClientError

ESCAPE = "\x1b[31mred\u202e"


def run_of(**changes: Any) -> dict[str, Any]:
    values = {
        "id": 2, "model_id": "org/m:Q4", "measured_at": 1.8e9, "runtime_id": "b2-cpu",
        "device": ESCAPE, "prompt_tokens": 512, "generated_tokens": 128,
        "prompt": {"tokens_per_s": 466.0, "stddev_per_s": 4.66},
        "generation": {"tokens_per_s": 17.34, "stddev_per_s": None},
        "in_memory": [], "left_out": [], "busy_percent": None,
    }  # fmt: skip
    return {**values, **changes}


def against(**changes: Any) -> dict[str, Any]:
    before = run_of(runtime_id="b1-cpu", prompt={"tokens_per_s": 400.0, "stddev_per_s": 1.0})
    values = {"run": before, "prompt_ratio": 1.165, "generation_ratio": None, "changes": []}
    return {**values, **changes}


class Client:
    """Answers what a test says."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.called: list[tuple[str, dict[str, Any]]] = []

    def snapshot(self) -> dict[str, Any]:
        return {"home": "/h", "scanning": False, "models": []}

    def call(self, name: str, /, **args: Any) -> Any:
        self.called.append((name, args))
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(client: Client, *words: str) -> tuple[int, str]:
        monkeypatch.setattr(cli_bench, "ensure_engine", lambda **_: client)
        status = cli.run(["bench", *words])
        told = capsys.readouterr()
        assert "\x1b" not in told.out + told.err
        assert "\u202e" not in told.out + told.err
        return status, told.out + told.err

    return run


def test_a_measurement_stands_beside_the_one_before(
    said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = run_of(in_memory=["org/x"], left_out=["its draft model"], busy_percent=35.0)
    bench = {"newest": newest, "previous": against(), "runtimes": [against(prompt_ratio=0.5)]}
    client = Client(bench_history={"models": [bench]})
    monkeypatch.setattr(cli_bench, "run_job", lambda *_, **__: {"title": "t", "state": "done"})
    status, text = said(client, "m")
    assert status == 0
    assert "prompt (512)      466       ± 1.0 %  400     1.17x" in text
    assert "generation (128)  17.3               17.3    -" in text
    assert "Before: 2027-01-15. Now: all else the same." in text
    assert "Against b1-cpu: 0.50x prompt, - generation." in text
    for note in ("idle: org/x", "used 35 %", "without its draft model"):
        assert note in text


def test_without_a_model_the_history_is_told(said: Any) -> None:
    rows = [run_of(), run_of(generation=None, generated_tokens=0, model_id=ESCAPE)]
    client = Client(bench_history={"runs": rows, "models": [], "running": None})
    status, text = said(client)
    assert status == 0
    assert text.splitlines()[1].split()[:4] == ["2027-01-15", "org/m:Q4", "b2-cpu", "512"]
    assert client.called == [("bench_history", {"model_id": None})]
    assert said(client, "--history", "m")[0] == 0
    assert client.called[-1] == ("bench_history", {"model_id": "m"})
    nothing = Client(bench_history={"runs": [], "models": [], "running": None})
    assert "Nothing was measured yet" in said(nothing, "--history")[1]


def test_a_refusal_is_told_with_its_remedy(said: Any) -> None:
    refusal = ClientError("bad_request", "The speed of x is being measured.", "Wait for its end.")
    status, text = said(Client(bench_model=refusal), "m", "--prompt", "5")
    assert status == 1
    assert "Wait for its end." in text
