"""The command table over a whole engine that has models and no llama.cpp."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_maker import make_gguf
from tests.unit.engine_kit import running_engine, wait_until
from tray_app.engine.core import Engine
from tray_app.engine.errors import BadRequest, EngineError
from tray_app.engine.events import Event, NoticesChanged, SettingsChanged, WindowRequested
from tray_app.engine.values import GatewayState, GatewayStatus, ModelState, Snapshot, to_json


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine for the module: each test leaves it as it found it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("h")
        patch.delenv("LLAMA_WRANGLER_LLAMA_SERVER", raising=False)
        patch.setenv("LLAMA_WRANGLER_CACHE", str(folder / "cache"))
        patch.setenv("PATH", str(folder))
        for name in ("First-1B-Q4_K_M", "Other-2B-Q8_0"):
            path = folder / "models" / "org" / name.rsplit("-", 1)[0] / f"{name}.gguf"
            path.parent.mkdir(parents=True)
            make_gguf(path)
        with running_engine(folder) as made:
            assert made.library.wait(20)
            wait_until(lambda: made.runtime.status().state == "missing")
            yield made


@pytest.fixture
def first(engine: Engine) -> str:
    return next(model.id for model in engine.library.models() if "First" in model.id)


@pytest.fixture
def other(engine: Engine) -> str:
    return next(model.id for model in engine.library.models() if "Other" in model.id)


def error_of(engine: Engine, name: Any, args: Any = None) -> EngineError:
    with pytest.raises(EngineError) as caught:
        engine.call(name, {} if args is None else args)
    return caught.value


def events_since(engine: Engine, seq: int) -> list[Event]:
    return [event for number, event in engine.events._history if number > seq]


@pytest.mark.parametrize(
    "name",
    ["", "nonsense", "run", "_model", "_change", "__init__", "__class__", "_engine", None, 5,
     ["snapshot"], {"a": 1}],
)  # fmt: skip
def test_only_commands_can_be_called(engine: Engine, name: Any) -> None:
    assert isinstance(error_of(engine, name), BadRequest)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("snapshot", {"x": 1}),
        ("snapshot", []),
        ("switch_model", {}),
        ("switch_model", {"model_id": 5}),
        ("switch_model", {"model_id": None}),
        ("switch_model", {"model_id": "a", "now": 1}),
        ("switch_model", {"self": 1, "model_id": "a"}),
        ("request_history", {"limit": True}),
        ("request_history", {"limit": 1.5}),
        ("request_history", {"limit": "5"}),
        ("change_settings", {"changes": []}),
        ("read_log", {"name": ["engine.log"]}),
        ("keep_running", {"mode": "once"}),
        ("pin_model", {"model_id": "a", "pinned": "yes"}),
    ],
)
def test_wrong_arguments_are_refused(engine: Engine, name: str, args: Any) -> None:
    assert isinstance(error_of(engine, name, args), BadRequest)


def test_a_snapshot_is_json_and_holds_the_models(engine: Engine, first: str) -> None:
    snapshot = engine.call("snapshot", {})
    assert isinstance(snapshot, Snapshot)
    plain = json.loads(json.dumps(to_json(snapshot), allow_nan=False))
    assert first in [model["id"] for model in plain["models"]]
    assert plain["settings"]["server"]["port"] == 7070
    assert plain["runtime"]["state"] == "missing"
    assert "runtime_missing" in [notice["code"] for notice in plain["notices"]]


def test_a_switch_without_llama_cpp_fails_with_the_reason(engine: Engine, first: str) -> None:
    assert engine.call("switch_model", {"model_id": "first-1b"}) == {"model_id": first}
    wait_until(lambda: engine.backend.status(first).state is ModelState.FAILED)
    status = engine.backend.status(first)
    assert status.error is not None
    assert status.error.code == "runtime_missing"
    wait_until(lambda: "model_failed" in [n.code for n in engine._notices])
    engine.call("unload_model", {"model_id": first})
    assert engine.backend.status(first).state is ModelState.UNLOADED
    wait_until(lambda: "model_failed" not in [n.code for n in engine._notices])
    wait_until(lambda: engine.db.recall("active_model") == first)
    assert json.loads(engine.db.recall("recent_models") or "") == list(engine.active.recent)


def test_a_failed_switch_says_why_and_never_goes_back_to_what_did_not_work_either(
    engine: Engine, first: str, other: str
) -> None:
    for model_id in (first, other):
        engine.call("switch_model", {"model_id": model_id})
        wait_until(lambda m=model_id: engine.backend.status(m).state is ModelState.FAILED)
        snapshot = engine.snapshot()
        assert snapshot.active_model_id == model_id
        (notice,) = [n for n in snapshot.notices if n.code == "model_failed"]
        assert notice.message.startswith(f"{model_id} failed: ")


def test_models_are_loaded_unloaded_and_pinned_by_any_name(engine: Engine, other: str) -> None:
    assert engine.call("load_model", {"model_id": "other-2b"}) == {"model_id": other}
    assert engine.call("pin_model", {"model_id": other, "pinned": True}) is True
    assert engine.call("model_settings", {"model_id": other})["effective"]["pinned"] is True
    assert engine.call("pin_model", {"model_id": other, "pinned": False}) is False
    assert other not in engine.settings.models
    wait_until(lambda: engine.backend.status(other).state is ModelState.FAILED)
    assert other in engine.call("unload_model", {})
    assert engine.backend.status(other).state is ModelState.UNLOADED
    assert error_of(engine, "load_model", {"model_id": "no/such:Q4"}).code == "model_not_found"
    assert error_of(engine, "unload_model", {"model_id": "no/such:Q4"}).code == "model_not_found"


def test_a_model_of_a_missing_drive_can_be_set_and_unloaded_but_not_loaded(
    engine: Engine, tmp_path: Path
) -> None:
    away = tmp_path / "drive"
    (away / "x").mkdir(parents=True)
    make_gguf(away / "x" / "Away-3B-Q4_0.gguf")
    engine.call("add_folder", {"path": str(away)})
    try:
        assert engine.library.wait(20)
        away.rename(tmp_path / "gone")
        engine.call("rescan", {})
        assert engine.library.wait(20)
        model = next(m for m in engine.library.models() if "Away" in m.id)
        assert not model.available
        for name in ("switch_model", "load_model"):
            assert error_of(engine, name, {"model_id": model.id}).code == "model_unavailable"
        engine.call("change_model_settings", {"model_id": model.id, "changes": {"threads": 2}})
        engine.call("change_model_settings", {"model_id": model.id, "changes": {"threads": None}})
        engine.call("unload_model", {"model_id": model.id})
    finally:
        engine.call("remove_folder", {"path": str(away)})


def test_folders_are_added_once_and_removed_as_written_or_whole(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "more").mkdir()
    engine.call("change_settings", {"changes": {"library.folders": ["~/more"]}})
    engine.call("add_folder", {"path": str(tmp_path / "more")})
    assert engine.settings.library.folders == ("~/more",)
    engine.call("remove_folder", {"path": str(tmp_path / "more")})
    assert engine.settings.library.folders == ()
    engine.call("add_folder", {"path": str(engine.home.models)})
    assert engine.settings.library.folders == ()
    for path in ("relative", str(tmp_path / "no"), "~nobody-here/x", "", "/a\0b"):
        assert error_of(engine, "add_folder", {"path": path}).code == "settings_invalid"
        assert error_of(engine, "remove_folder", {"path": path}).code == "settings_invalid"


def test_folders_added_at_the_same_time_are_all_there(engine: Engine, tmp_path: Path) -> None:
    paths = [tmp_path / f"f{number}" for number in range(8)]
    for path in paths:
        path.mkdir()
    threads = [
        threading.Thread(target=engine.call, args=("add_folder", {"path": str(path)}))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(engine.settings.library.folders) == {str(path) for path in paths}
    engine.call("change_settings", {"changes": {"library.folders": None}})


def test_settings_are_changed_as_a_whole_or_not(engine: Engine) -> None:
    seq = engine.events.seq
    changes = {"ui.theme": "dark", "server.port": 1}
    assert "server.port is 1" in error_of(engine, "change_settings", {"changes": changes}).message
    assert engine.settings.ui.theme == "system"
    table = engine.call("change_settings", {"changes": {"ui.theme": "dark"}})
    assert table["ui"]["theme"] == "dark"
    assert SettingsChanged(("ui.theme",)) in events_since(engine, seq)
    engine.call("change_settings", {"changes": {"ui.theme": None}})
    lone = error_of(engine, "change_settings", {"changes": {"aliases.\ud800": "default"}})
    assert lone.code == "settings_invalid"


def test_model_settings_show_their_layers(engine: Engine, first: str) -> None:
    change = {"model_id": first, "changes": {"context_length": 1024, "extra_args": ["-ub", "64"]}}
    shown = engine.call("change_model_settings", change)
    assert (shown["own"]["context_length"], shown["own"]["threads"]) == (1024, None)
    assert shown["effective"]["context_length"] == 1024
    change["changes"] = {"context_length": None, "extra_args": None}
    engine.call("change_model_settings", change)
    assert first not in engine.settings.models


def test_logs_and_errors_of_the_disk_are_told_in_words(engine: Engine) -> None:
    (engine.home.logs / "a.log").write_text("hello\n")
    assert "a.log" in [log.name for log in engine.call("list_logs", {})]
    assert engine.call("read_log", {"name": "a.log"}).text == "hello\n"
    assert error_of(engine, "read_log", {"name": "../state.db"}).code == "bad_request"
    (engine.home.logs / "d.log").mkdir()
    told = error_of(engine, "read_log", {"name": "d.log"})
    assert told.code == "engine"
    assert "Is a directory" in told.message
    assert (
        "File name too long" in error_of(engine, "read_log", {"name": "x" * 999 + ".log"}).message
    )
    (engine.home.logs / "d.log").rmdir()


def test_diagnostics_hold_everything_and_no_secret(engine: Engine, first: str) -> None:
    (engine.home.logs / "b.log").write_text("token=abcdefgh12345678\n")
    change = {"model_id": first, "changes": {"extra_args": ["--hf-token", "hf_abcdefgh12345678"]}}
    engine.call("change_model_settings", change)
    path = Path(engine.call("copy_diagnostics", {})["path"])
    assert path.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(path) as bundle:
        names = set(bundle.namelist())
        everything = b"".join(bundle.read(name) for name in names)
        assert json.loads(bundle.read("snapshot.json"))["settings"]
    assert {"system.json", "doctor.json", "logs/b.log"} <= names
    assert b"abcdefgh12345678" not in everything
    engine.call("change_model_settings", {"model_id": first, "changes": {"extra_args": None}})
    path.unlink()
    checks = engine.call("doctor", {})
    assert {check.name for check in checks} >= {"home", "disk", "runtime", "gateway", "library"}
    assert all(check.ok or check.remedy for check in checks)


def test_small_commands(engine: Engine) -> None:
    seq = engine.events.seq
    assert engine.call("show_window", {"page": "chat"}) is True
    assert WindowRequested("chat") in events_since(engine, seq)
    assert engine.call("request_history", {"limit": 10**9}) == []
    assert error_of(engine, "cancel_job", {"job_id": "none"}).code == "job_not_found"
    assert engine.call("keep_running", {"mode": "tray"}) == "serve"
    assert isinstance(engine.call("left_out", {}), list)


def test_notices_are_told_in_the_order_of_their_causes(engine: Engine) -> None:
    seq = engine.events.seq
    for number in range(50):
        error = BadRequest(f"Port {number} is taken.").view()
        engine.set_gateway(GatewayStatus(port=7070), GatewayState.BLOCKED, error)
    wait_until(lambda: engine._notices == engine._current_notices())
    told = [event for event in events_since(engine, seq) if isinstance(event, NoticesChanged)]
    assert "Port 49 is taken." in [notice.message for notice in told[-1].notices]
    engine.set_gateway(GatewayStatus(port=7070), GatewayState.LISTENING, None)


def test_an_engine_that_ends_refuses_commands_kindly(tmp_path: Path) -> None:
    with running_engine(tmp_path) as engine:
        engine.announce_stop()
        assert error_of(engine, "snapshot").code == "engine_unreachable"
        assert engine.call("shutdown", {}) is True
    assert error_of(engine, "list_logs").code == "engine_unreachable"


def test_a_disk_that_is_full_is_told_in_words(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/home/x")

    monkeypatch.setattr("tray_app.engine.home.os.fsync", full)
    told = error_of(engine, "change_settings", {"changes": {"ui.theme": "dark"}})
    assert told.message == "No space left on device: /home/x."


def test_an_engine_of_one_question_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_WRANGLER_CACHE", str(tmp_path / "cache"))
    with running_engine(tmp_path / "h", mode="once") as engine:
        assert engine.snapshot().mode == "once"
        assert engine.call("keep_running", {"mode": "tray"}) == "tray"
        assert engine.call("keep_running", {"mode": "serve"}) == "tray"
        assert not engine.busy()
