"""What `update` prints, and what it makes of a version that comes up or does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tray_app import cli, cli_update
from tray_app.client import ClientError

ESCAPE = "\x1b[31mred\u202e"


def status(**changes: Any) -> dict[str, Any]:
    values = {
        "state": "none", "kind": "folder", "installed_as": "a folder of yours", "how": "",
        "release": None, "asks": True, "checked_at": None, "error": None, "job_id": None,
        "waiting": False, "taken_back": None,
    }  # fmt: skip
    return {**values, **changes}


def release(**changes: Any) -> dict[str, Any]:
    values = {"version": "0.2.0", "released_at": 1.8e9, "notes_url": "", "size_bytes": 38_000_000}
    return {**values, **changes}


class Client:
    """Answers what a test says; `connect` gives the engine of afterwards."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.called: list[str] = []
        self.later: list[Any] = []

    def snapshot(self) -> dict[str, Any]:
        return {"version": "0.1.0", "home": "/h", "app_update": self.answers["app_update_status"]}

    def call(self, name: str, /, **args: Any) -> Any:
        self.called.append(name)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def connect(self) -> Any:
        found = self.later.pop(0) if len(self.later) > 1 else self.later[0]
        if isinstance(found, Exception):
            raise found
        after = Client()
        after.snapshot = lambda: found  # type: ignore[method-assign]
        return after


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(client: Client, *words: str) -> tuple[int, str]:
        monkeypatch.setattr(cli_update, "ensure_engine", lambda **_: client)
        monkeypatch.setattr(cli_update, "Client", client)
        monkeypatch.setattr(cli_update, "POLL_S", 0.0)
        code = cli.run(["update", *words])
        told = capsys.readouterr()
        assert "\x1b" not in told.out + told.err
        assert "\u202e" not in told.out + told.err
        return code, told.out + told.err

    return run


def test_without_a_word_nobody_is_asked(said: Any) -> None:
    client = Client(app_update_status=status())
    code, told = said(client)
    assert (code, client.called) == (0, ["app_update_status"])
    assert "Llama Wrangler 0.1.0, a folder of yours." in told
    assert "No newer version is known." in told
    assert "no place" in said(Client(app_update_status=status(asks=False)))[1]


def test_a_copy_of_a_package_manager_is_told_how(said: Any) -> None:
    how = status(kind="package", how="Update it with: sudo apt", release=release())
    client = Client(check_app_update=how, app_update_status=how)
    code, told = said(client, "--check")
    assert (code, client.called) == (0, ["check_app_update"])
    assert "Version 0.2.0 is out, 38 MB." in told
    assert told.strip().endswith("sudo apt")


def test_words_from_elsewhere_are_cleaned(said: Any) -> None:
    gone = {"version": ESCAPE, "back_to": ESCAPE, "reason": ESCAPE}
    error = {"code": "x", "message": ESCAPE, "remedy": ESCAPE}
    odd = status(
        installed_as=ESCAPE,
        release=release(version=ESCAPE, notes_url=ESCAPE),
        taken_back=gone,
        error=error,
    )
    said(Client(app_update_status=odd))


def test_a_ready_version_is_used_and_waited_for(said: Any) -> None:
    ready = status(state="ready", release=release())
    client = Client(check_app_update=ready, apply_app_update={"applied": True})
    gone = ClientError("engine_unreachable", "Gone.")
    new = {"version": "0.2.0", "app_update": status()}
    client.later = [{"version": "0.1.0", "app_update": ready}, gone, new]
    code, told = said(client, "--apply")
    assert (code, client.called) == (0, ["check_app_update", "apply_app_update"])
    assert "Version 0.2.0 is in use." in told


def test_a_version_that_was_taken_back_is_a_failure(said: Any) -> None:
    ready = status(state="ready", release=release())
    client = Client(check_app_update=ready, apply_app_update={"applied": True})
    gone = {"version": "0.2.0", "back_to": "0.1.0", "reason": f"It ended at once. {ESCAPE}"}
    client.later = [{"version": "0.1.0", "app_update": status(taken_back=gone)}]
    code, told = said(client, "--apply", "--json")
    assert code == 1
    assert "was taken back: It ended at once." in told


def test_an_update_that_has_to_wait_says_so(said: Any) -> None:
    ready = status(state="ready", release=release())
    client = Client(
        check_app_update=ready, apply_app_update={"applied": False}, app_update_status=ready
    )
    code, told = said(client, "--apply")
    assert (code, "as soon as nothing runs" in told) == (0, True)
    assert json.loads(said(client, "--apply", "--json")[1])["state"] == "ready"
