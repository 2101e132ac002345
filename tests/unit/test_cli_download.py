"""`pull`, `downloads`, `search`, `show`, `delete`, `login`: words, JSON, statuses."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.tray_kit import download, failure, model, snapshot
from tests.unit.test_cli_runtime import Engine
from tray_app import cli, cli_download, cli_library
from tray_app.client import ClientError
from tray_app.engine.downloads.values import (
    Badge,
    Download,
    DownloadState,
    Fits,
    HubAccount,
    Offer,
    RepoDetails,
)
from tray_app.engine.values import to_json

ESCAPE = "\x1b[31mred\x1b[0m\u202e"
RUNNING, QUEUED, PAUSED = DownloadState.RUNNING, DownloadState.QUEUED, DownloadState.PAUSED
DONE, FAILED = DownloadState.DONE, DownloadState.FAILED


class Said:
    """What a verb wrote, and its exit status."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        status = cli.run(list(words))
        self.out, self.err = self._capsys.readouterr()
        for forbidden in ("\x1b", "\u202e"):
            assert forbidden not in self.out + self.err
        return status


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(engine: Engine) -> Engine:
        for module in (cli_download, cli_library):
            monkeypatch.setattr(module, "ensure_engine", lambda **_: engine)
        return engine

    return install


def tell(engine: Engine, *told: Download | BaseException) -> Engine:
    """The events of the next listening."""
    rows: list[tuple[str, Any]] = [
        ("", each)
        if isinstance(each, BaseException)
        else ("DownloadChanged", {"download": each, "removed": False})
        for each in told
    ]
    engine.events_told.append(rows)
    return engine


def pulling(*ends: Download, **changes: Any) -> Engine:
    """An engine in which a download runs, and then is as `ends` says."""
    running = tuple(replace(end, state=RUNNING, error=None, done_bytes=0) for end in ends)
    engine = Engine(
        snapshot(downloads=running), snapshot(downloads=ends, **changes), pull=running[0]
    )
    half = [replace(each, done_bytes=5 * 10**8, rate_bytes_s=10**7, eta_s=50) for each in running]
    return tell(engine, *half, *ends)


def test_a_pull_shows_its_way_and_says_how_to_use_the_model(use: Any, run: Said) -> None:
    woolly = model("Woolly")
    done = download(DONE, done_bytes=10**9, model_path=str(woolly.path))
    engine = use(pulling(done))
    engine.snapshots[-1] = snapshot(woolly, downloads=(done,))
    assert run("pull", "herd/Woolly-GGUF") == 0
    assert engine.called == [("pull", {"reference": "herd/Woolly-GGUF"})]
    assert "Woolly Q4_K_M: Downloading: 50%" in run.out
    assert run.out.endswith("Use it: llama-wrangler use herd/Woolly\n")


def test_a_pull_that_fails_says_why_and_is_status_1(use: Any, run: Said) -> None:
    use(pulling(download(FAILED, title=ESCAPE, error=failure("No room.", "Free some."))))
    assert run("pull", "x") == 1
    assert "No room." in run.err
    assert "Free some." in run.err


def test_a_pull_that_somebody_pauses_ends_with_a_word(use: Any, run: Said) -> None:
    use(pulling(download(PAUSED)))
    assert run("pull", "x") == 1
    assert "is paused" in run.err


def test_a_pull_as_json_is_a_line_for_each_change(use: Any, run: Said) -> None:
    done = download(DONE, done_bytes=10**9, model_path="/m.gguf", warnings=("A word.",))
    use(pulling(done))
    assert run("pull", "x", "--json") == 0
    events = [json.loads(line) for line in run.out.splitlines()]
    assert [each["event"] for each in events] == ["progress"] * 3 + ["end"]
    assert [each["done_bytes"] for each in events[:3]] == [0, 5 * 10**8, 10**9]
    assert (events[-1]["model_path"], events[-1]["warnings"]) == ("/m.gguf", ["A word."])
    assert events[-1]["model"] is None


def test_what_was_missed_is_asked_for(use: Any, run: Said) -> None:
    done = download(DONE, done_bytes=10**9)
    running = replace(done, state=RUNNING)
    engine = Engine(snapshot(downloads=(running,)), snapshot(downloads=(done,)), pull=running)
    engine.events_told.append([("Missed", {})])
    use(engine)
    assert run("pull", "x") == 0


def test_ctrl_c_leaves_the_download_running(use: Any, run: Said) -> None:
    running = download(RUNNING)
    engine = tell(Engine(snapshot(downloads=(running,)), pull=running), KeyboardInterrupt())
    use(engine)
    assert run("pull", "x") == 130
    assert "goes on in the background" in run.err
    assert [name for name, _ in engine.called] == ["pull"]


def test_an_engine_that_ends_is_told(use: Any, run: Said) -> None:
    running = download(RUNNING)
    use(tell(Engine(snapshot(downloads=(running,)), pull=running)))
    assert run("pull", "x") == 3
    assert "ended" in run.err


def test_a_pull_need_not_be_waited_for(use: Any, run: Said) -> None:
    queued = download(QUEUED, done_bytes=10**8)
    use(Engine(snapshot(downloads=(queued,)), pull=queued))
    assert run("pull", "x", "--no-wait") == 0
    assert run.out.splitlines()[1].split()[-4:] == ["queued", "10", "%", "1.0", "GB"][-4:]


@pytest.mark.parametrize("name", ["./x.gguf", "~/x.gguf", "/x.gguf", "C:\\x.gguf", "..\\x.gguf"])
def test_a_file_of_this_computer_is_imported_and_not_pulled(use: Any, run: Said, name: str) -> None:
    engine = use(Engine(snapshot()))
    assert run("pull", name) == 2
    assert "llama-wrangler import" in run.err
    assert engine.called == []


# -- the queue


def test_the_queue_is_a_table(use: Any, run: Said) -> None:
    rows = (
        download(RUNNING, id="download-aa11", done_bytes=43 * 10**7, eta_s=75),
        download(FAILED, id="download-bb22", title="Bad", error=failure("Why.", "What.")),
    )
    use(Engine(snapshot(downloads=rows)))
    assert run("downloads") == 0
    assert "aa11  Woolly Q4_K_M  running  43 %  1.0 GB  1 min 15 s" in run.out
    assert "Bad: Why. What." in run.out


def test_an_empty_queue_says_how_to_get_a_model(use: Any, run: Said) -> None:
    use(Engine(snapshot()))
    assert run("downloads") == 0
    assert "llama-wrangler pull" in run.out


@pytest.mark.parametrize("name", ["aa11", "aa", "download-aa11", "herd/Woolly-GGUF"])
def test_a_download_is_named_by_its_id_or_by_what_was_pulled(
    use: Any, run: Said, name: str
) -> None:
    rows = (
        download(RUNNING, id="download-aa11"),
        download(RUNNING, id="download-bb22", reference="other"),
    )
    engine = use(Engine(snapshot(downloads=rows)))
    assert run("downloads", "pause", name) == 0
    assert engine.called == [("pause_download", {"download_id": "download-aa11"})]


@pytest.mark.parametrize("name", ["zz", "a"])
def test_a_name_that_is_not_clear_changes_nothing(use: Any, run: Said, name: str) -> None:
    rows = (download(RUNNING, id="download-aa11"), download(RUNNING, id="download-ab22"))
    engine = use(Engine(snapshot(downloads=rows)))
    assert run("downloads", "cancel", name) == 1
    assert engine.called == []
    assert name in run.err


def test_all_means_all_that_it_can_be_done_to(use: Any, run: Said) -> None:
    rows = tuple(download(s, id=f"download-{s}") for s in (RUNNING, PAUSED, DONE, FAILED))
    engine = use(Engine(snapshot(downloads=rows)))
    run("downloads", "resume", "--all")
    assert engine.called == [("resume_download", {"download_id": "download-paused"})]
    assert run("downloads", "retry") == 2
    run("downloads", "clear")
    assert engine.called[-1] == ("clear_downloads", {})


# -- looking around


def offer(label: str, **changes: Any) -> Offer:
    base = Offer(
        f"herd/Woolly-GGUF:{label}",
        label,
        label,
        "About 4.9 bits per weight.",
        (f"{label}.gguf",),
        10**9,
        None,
        True,
        Badge(Fits.PROCESSOR, "Runs on the processor.", 8192),
    )
    return replace(base, **changes)


def test_a_repository_is_shown_with_how_each_offer_would_run(use: Any, run: Said) -> None:
    details = RepoDetails(
        "herd/Woolly-GGUF",
        "0123",
        "https://page",
        "mit",
        "manual",
        (offer("Q4_K_M", recommended=True), offer("Q8_0", projector_bytes=10**8, complete=False)),
        context_length=131072,
    )
    engine = use(Engine(snapshot(), repo_details=details))
    assert run("show", "herd/Woolly-GGUF", "--context", "4096") == 0
    args = {"repo": "herd/Woolly-GGUF", "context_length": 4096}
    assert engine.called == [("repo_details", args)]
    assert "* Q4_K_M" in run.out
    assert "1.0 GB + 100 MB projector" in run.out
    assert "llama-wrangler pull herd/Woolly-GGUF:Q4_K_M" in run.out
    assert "Parts of it are missing" in run.out
    assert "gated" in run.out


def test_a_search_is_a_table_and_nothing_found_helps(use: Any, run: Said) -> None:
    found = {"id": "org/x", "parameters": None, "downloads": 1234567, "likes": 12}
    found |= {"modified_at": None, "license": None, "gated": "auto"}
    engine = use(Engine(snapshot(), search_models={"models": [found], "asked_at": 0.0}))
    assert run("search", "two", "words", "--sort", "likes", "--limit", "5") == 0
    args = {"query": "two words", "sort": "likes", "limit": 5}
    assert engine.called == [("search_models", args)]
    assert "1.2M" in run.out
    assert "gated" in run.out
    use(Engine(snapshot(), search_models={"models": [], "asked_at": 0.0}))
    run("search", "x")
    assert "Fewer words" in run.out


# -- the library and the account


def test_a_deletion_is_confirmed_and_takes_the_whole_id(
    use: Any, run: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(
        Engine(snapshot(model("Woolly", details_known=True)), delete_model={"freed_bytes": 10**9})
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("delete", "herd/Woolly") == 2
    assert "--yes" in run.err
    assert run("delete", "Woolly", "--yes") == 1
    assert engine.called == []
    assert run("delete", "herd/Woolly", "--yes") == 0
    assert "1.0 GB are free again" in run.out


def test_a_token_is_read_from_stdin_and_never_printed(
    use: Any, run: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(Engine(snapshot(), set_hub_token=HubAccount("keychain", "Some")))
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_secret_token\n"))
    assert run("login") == 0
    assert engine.called == [("set_hub_token", {"token": "hf_secret_token"})]
    assert "hf_secret" not in run.out + run.err
    assert run("login") == 2  # nothing more on stdin
    assert run("logout") == 0
    assert engine.called[-1] == ("set_hub_token", {"token": None})


def test_the_account_says_where_the_token_is_and_what_is_wrong(use: Any, run: Said) -> None:
    account = HubAccount("none", None, "this system has none.")
    use(Engine(snapshot(), hub_account=account))
    assert run("account") == 0
    assert "There is no Hugging Face token" in run.out
    assert "this system has none" in run.out
    assert run("account", "--json") == 0
    assert json.loads(run.out) == to_json(account)


def test_an_engines_refusal_is_told(use: Any, run: Said) -> None:
    refusal = ClientError("bad_request", "No model is named.", "Name one.")
    use(Engine(snapshot(), pull=refusal))
    assert run("pull", " ") == 1
    assert "Name one." in run.err
