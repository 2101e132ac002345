"""Downloads as the engine's commands offer them: a whole engine against a loopback Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_maker import make_gguf, make_mmproj, make_shards
from tests.hub_server import HubServer, hub_server, says
from tests.unit.engine_kit import running_engine, wait_until
from tray_app.engine.core import Engine
from tray_app.engine.downloads import kept_plan, origins, removal
from tray_app.engine.downloads.adopt import take_settings
from tray_app.engine.downloads.bring import discard
from tray_app.engine.downloads.references import canonical, parse
from tray_app.engine.downloads.values import MODELS, Download, Plan, PlannedFile, Remote
from tray_app.engine.errors import BadRequest, EngineError, ModelNotFound, NotFound
from tray_app.engine.settings import SettingsStore
from tray_app.engine.values import Model

REPO = "herders/Small-GGUF"
FILE = "Small.Q4_K_M.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def engine(tmp_path: Path, hub: HubServer) -> Iterator[Engine]:
    with running_engine(tmp_path / "home") as engine:
        yield engine


def publish(hub: HubServer, folder: Path, repo: str = REPO, name: str = FILE) -> Path:
    path = make_gguf(folder / name)
    hub.put(repo, {name: path}, card={"license": "apache-2.0"})
    return path


def download(engine: Engine, download_id: str) -> Download:
    return engine.downloads.queue.get(download_id)


def finished(engine: Engine, reference: str) -> Download:
    """Pull it, to its end."""
    queued = engine.call("pull", {"reference": reference})
    wait_until(lambda: not download(engine, queued.id).state.unfinished)
    return download(engine, queued.id)


# -- pulling


def test_a_pulled_model_is_in_the_library_with_its_origin(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    source = publish(hub, tmp_path)
    done = finished(engine, REPO)
    assert (done.state, done.error, done.warnings) == ("done", None, ())
    assert done.title == "Small-GGUF Q4_K_M"
    assert done.done_bytes == done.total_bytes == source.stat().st_size
    target = engine.home.models / "herders" / "Small-GGUF" / FILE
    assert done.model_path == str(target)
    assert target.read_bytes() == source.read_bytes()
    (model,) = engine.snapshot().models
    assert model.path == target
    origin = engine.call("model_origin", {"model_id": model.id})
    assert origin["repo"] == REPO
    assert origin["license"] == "apache-2.0"
    assert origin["revision"] == hub.repos[REPO].refs["main"]
    assert sorted(path.name for path in target.parent.iterdir()) == [FILE, f"{FILE}.origin.json"]
    assert engine.snapshot().downloads == (done,)


def test_a_pull_of_what_is_here_fetches_nothing_again(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    publish(hub, tmp_path)
    first = finished(engine, REPO)
    fetched = len(hub.asked("cdn"))
    again = finished(engine, f"hf.co/{REPO}")
    assert again.id != first.id
    assert again.state == "done"
    assert len(hub.asked("cdn")) == fetched
    assert [each.id for each in engine.snapshot().downloads] == [again.id]


def test_a_model_that_was_deleted_comes_back_with_another_pull(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    publish(hub, tmp_path)
    target = Path(finished(engine, REPO).model_path or "")
    target.unlink()
    assert finished(engine, REPO).state == "done"
    assert target.is_file()


def test_two_ways_of_writing_a_reference_are_one_download(engine: Engine, hub: HubServer) -> None:
    hub.faults.append(lambda handler: handler.server.hub.gate.wait(30))
    one = engine.call("pull", {"reference": REPO})
    other = engine.call("pull", {"reference": f"https://huggingface.co/{REPO}"})
    assert one.id == other.id
    engine.call("cancel_download", {"download_id": one.id})
    hub.gate.set()


def test_shards_and_the_projector_come_together(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    shards = make_shards(tmp_path, "Wide.Q8_0", 3)
    projector = make_mmproj(tmp_path / "mmproj-Wide-F16.gguf")
    hub.put(REPO, {path.name: path for path in (*shards, projector)})
    assert finished(engine, REPO).state == "done"
    (model,) = engine.snapshot().models
    assert (model.shard_count, model.mmproj_path and model.mmproj_path.name) == (3, projector.name)


def test_original_weights_say_what_to_look_for(engine: Engine, hub: HubServer) -> None:
    hub.put("org/original", {"model.safetensors": b"weights", "config.json": b"{}"})
    failed = finished(engine, "org/original")
    assert failed.state == "failed"
    assert failed.error is not None
    assert "original weights" in failed.error.message
    assert failed.error.code == "needs_conversion"
    assert "llama-wrangler convert org/original" in failed.error.remedy


def test_a_plain_address_that_leads_to_a_page_leaves_nothing(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    page = tmp_path / "page.gguf"
    page.write_bytes(b"<html>Please sign in</html>")
    hub.put("org/pages", {"page.gguf": page})
    address = f"{hub.url}/org/pages/resolve/main/page.gguf"
    failed = finished(engine, address)
    assert failed.error is not None
    assert failed.error.code == "bad_gguf"
    assert "address" in failed.error.remedy
    assert not list(engine.home.models.rglob("*.gguf*"))


def test_a_plain_address_of_a_model_is_fetched(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    publish(hub, tmp_path)
    done = finished(engine, f"{hub.url}/{REPO}/resolve/main/{FILE}")
    assert done.state == "done", done.error
    assert Path(done.model_path or "").relative_to(engine.home.models).parts[0] == "downloads"


def test_a_download_that_cannot_be_planned_can_be_retried(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    failed = finished(engine, REPO)
    assert failed.error is not None
    assert failed.error.code == "not_found"
    publish(hub, tmp_path)
    engine.call("retry_download", {"download_id": failed.id})
    wait_until(lambda: download(engine, failed.id).state == "done")


def test_what_was_planned_and_is_gone_is_planned_anew(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    """The commit that was pinned may be deleted before a download goes on."""
    publish(hub, tmp_path)
    gone = f"{hub.url}/{REPO}/resolve/{'0' * 40}/{FILE}"
    remote = Remote(gone, FILE, 10, "0" * 64)
    plan = Plan(REPO, "Small", (PlannedFile(f"herders/x/{FILE}", remote),), {"hub": "huggingface"})
    queue = engine.downloads.queue
    hub.faults += [says(401, b"", X_Error_Code="RepoNotFound")]
    first = finished(engine, REPO)
    assert first.state == "failed"
    entry = queue._ledger.entries[first.id]
    import json

    entry.kept = json.dumps(kept_plan.to_memo(plan))
    engine.call("retry_download", {"download_id": first.id})
    wait_until(lambda: not download(engine, first.id).state.unfinished)
    assert download(engine, first.id).state == "done", download(engine, first.id).error


# -- looking before pulling


def test_a_preview_tells_files_sizes_and_the_disk(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    source = publish(hub, tmp_path)
    preview = engine.call("preview_download", {"reference": f"https://huggingface.co/{REPO}"})
    assert (preview.reference, preview.license, preview.model_id) == (REPO, "apache-2.0", None)
    assert [(f.path, f.size_bytes) for f in preview.files] == [
        (f"herders/Small-GGUF/{FILE}", source.stat().st_size)
    ]
    assert preview.free_bytes > 0
    assert preview.badge is not None
    assert preview.badge.weights_bytes == source.stat().st_size
    finished(engine, REPO)
    again = engine.call("preview_download", {"reference": REPO})
    assert again.model_id == engine.snapshot().models[0].id


def test_a_preview_of_nothing_is_an_error_with_a_remedy(engine: Engine, hub: HubServer) -> None:
    with pytest.raises(NotFound) as error:
        engine.call("preview_download", {"reference": "org/nothing"})
    assert error.value.remedy


# -- deleting


def test_a_deleted_model_leaves_no_file_and_no_folder(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    shards = make_shards(tmp_path, "Wide.Q8_0", 3)
    projector = make_mmproj(tmp_path / "mmproj-Wide-F16.gguf")
    hub.put(REPO, {path.name: path for path in (*shards, projector)})
    finished(engine, REPO)
    (model,) = engine.snapshot().models
    freed = engine.call("delete_model", {"model_id": model.id})["freed_bytes"]
    assert freed >= sum(path.stat().st_size for path in (*shards, projector))
    assert list(engine.home.models.iterdir()) == []
    wait_until(lambda: not engine.snapshot().models)


def test_a_model_of_the_users_own_folder_is_never_deleted(tmp_path: Path, engine: Engine) -> None:
    mine = make_gguf(tmp_path / "mine" / "Mine.Q8_0.gguf")
    engine.call("add_folder", {"path": str(mine.parent)})
    wait_until(lambda: engine.snapshot().models)
    with pytest.raises(BadRequest, match="folder of your own"):
        engine.call("delete_model", {"model_id": engine.snapshot().models[0].id})
    assert mine.is_file()


def test_a_deletion_takes_no_alias_for_a_model(engine: Engine) -> None:
    with pytest.raises(ModelNotFound):
        engine.call("delete_model", {"model_id": "default"})


def test_a_projector_of_two_models_stays_with_the_second(tmp_path: Path) -> None:
    folder = tmp_path / "org" / "repo"
    one, two = make_gguf(folder / "a.Q4_0.gguf"), make_gguf(folder / "a.Q8_0.gguf")
    projector = make_mmproj(folder / "mmproj-a.gguf")
    models = [_model(path, projector) for path in (one, two)]
    removal.delete(models[0], tmp_path, models)
    assert (one.exists(), two.exists(), projector.exists()) == (False, True, True)
    removal.delete(models[1], tmp_path, models[1:])
    assert list(tmp_path.iterdir()) == []


def _model(path: Path, projector: Path | None = None) -> Model:
    return Model(
        id=path.stem,
        name=path.stem,
        publisher=None,
        path=path,
        folder=path.parent,
        size_bytes=path.stat().st_size,
        shard_count=1,
        modified_at=0.0,
        mmproj_path=projector,
        has_chat_template=True,
    )


# -- small parts


def test_a_plan_is_kept_without_its_secrets() -> None:
    remote = Remote("https://h/x", "x.gguf", 7, "a" * 64, {"Authorization": "Bearer secret"})
    plan = Plan(
        "org/repo:Q4@0123",
        "Repo Q4",
        (PlannedFile("org/repo/x.gguf", remote),),
        {"hub": "huggingface"},
        {"extra_args": ("--temp", "1"), "context_length": 2048},
        ("a warning",),
    )
    memo = kept_plan.to_memo(plan)
    assert "secret" not in repr(memo)
    again = kept_plan.from_memo(memo)
    assert again is not None
    assert again.files[0].remote.headers == {}
    assert (again.reference, again.origin, again.settings, again.warnings) == (
        plan.reference,
        plan.origin,
        plan.settings,
        plan.warnings,
    )


@pytest.mark.parametrize("memo", [{}, {"version": 1}, {"version": 1, "files": 3}, {"version": 9}])
def test_a_memo_of_another_version_is_no_plan(memo: dict[str, Any]) -> None:
    assert kept_plan.from_memo(memo) is None


def test_a_discarded_download_takes_only_what_it_brought(tmp_path: Path) -> None:
    names = ("brought", "before", "changed")
    paths = {name: make_gguf(tmp_path / "org" / f"{name}.gguf") for name in names}
    files = tuple(PlannedFile(f"org/{n}.gguf", Remote("http://h/x", f"{n}.gguf")) for n in names)
    done = {}
    for name, path in paths.items():
        status = path.stat()
        done[f"org/{name}.gguf"] = [[status.st_size, status.st_mtime_ns], name != "before"]
    with paths["changed"].open("ab") as file:
        file.write(b"!")
    discard(tmp_path, {**kept_plan.to_memo(Plan("r", "t", files)), "done": done})
    assert [name for name, path in paths.items() if path.exists()] == ["before", "changed"]


@pytest.mark.parametrize("path", ["../up.gguf", "/etc/x.gguf", "a/../../b.gguf", "con/x.gguf"])
def test_a_kept_plan_never_leads_out_of_the_models_folder(path: str, tmp_path: Path) -> None:
    plan = Plan("r", "t", (PlannedFile(path, Remote("http://h/x", "x.gguf")),))
    with pytest.raises(BadRequest):
        kept_plan.local_parts(plan.files[0])
    discard(tmp_path, kept_plan.to_memo(plan))  # passes over it


@pytest.mark.parametrize(
    ("typed", "one"),
    [
        ("org/repo", "org/repo"),
        ("https://huggingface.co/org/repo", "org/repo"),
        ("hf.co/org/repo:q4_k_m", "org/repo:q4_k_m"),
        ("org/repo:latest", "org/repo"),
        ("org/repo@abc", "org/repo@abc"),
        ("llama3.2", "llama3.2"),
        ("llama3.2:latest", "llama3.2"),
        ("ollama:library/llama3.2:1b", "llama3.2:1b"),
        ("https://ollama.com/library/llama3.2", "llama3.2"),
        ("ollama.com/herder/model:tag", "ollama:herder/model:tag"),
        ("localhost:5000/ns/name:tag", "localhost:5000/ns/name:tag"),
        ("https://huggingface.co/org/repo/blob/main/a/x.gguf",) * 2,
        ("https://host.example/x.gguf",) * 2,
    ],
)
def test_a_reference_has_one_text(typed: str, one: str) -> None:
    assert canonical(parse(typed)) == one
    assert canonical(parse(one)) == one


def test_the_models_of_an_ollama_plan_get_its_settings_once(tmp_path: Path) -> None:
    store = SettingsStore(tmp_path / "settings.toml", tmp_path / "models.user.toml")
    model = _model(make_gguf(tmp_path / "a,b" / "x.gguf"))
    settings = {
        "extra_args": ("--lora", f"{MODELS}/a,b/x.lora-1.gguf", "--temp", "0.5"),
        "system_prompt": "You herd.",
        "unknown": 1,
    }
    plan = Plan("x", "x", (), settings=settings)
    assert take_settings(store, model, plan, tmp_path) == []
    own = store.current.models[model.id]
    assert own.system_prompt == "You herd."
    assert own.extra_args == ("--lora", f'"{tmp_path}/a,b/x.lora-1.gguf"', "--temp", "0.5")
    store.change_model(model.id, {"system_prompt": "Mine."})
    take_settings(store, model, plan, tmp_path)
    assert store.current.models[model.id].system_prompt == "Mine."


def test_settings_that_cannot_be_taken_over_are_a_warning(tmp_path: Path) -> None:
    store = SettingsStore(tmp_path / "settings.toml", tmp_path / "models.user.toml")
    model = _model(make_gguf(tmp_path / "x.gguf"))
    plan = Plan("x", "x", (), settings={"extra_args": ("--host", "0.0.0.0")})
    (warning,) = take_settings(store, model, plan, tmp_path)
    assert "--host" in warning
    assert not store.current.models


def test_a_note_of_an_origin_that_is_no_note_is_none(tmp_path: Path) -> None:
    model = tmp_path / "x.gguf"
    assert origins.read(model) is None
    origins.note_path(model).write_bytes(b"[" * 100_000)
    assert origins.read(model) is None
    origins.write(model, {"hub": "url"})
    assert origins.read(model) == {"hub": "url"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("search_models", {"limit": 0}),
        ("repo_details", {"repo": REPO, "context_length": 0}),
        ("pause_download", {"download_id": "nothing"}),
        ("pull", {"reference": "./local.gguf"}),
        ("show_window", {"page": "../x"}),
        ("show_window", {"page": "discover", "reference": "x" * 3000}),
    ],
)
def test_a_wrong_command_is_an_error(engine: Engine, name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(EngineError) as error:
        engine.call(name, arguments)
    assert error.value.remedy or error.value.message


def test_finished_downloads_are_cleared_and_failed_ones_stay(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    publish(hub, tmp_path)
    finished(engine, REPO)
    failed = finished(engine, "org/nothing")
    assert engine.call("clear_downloads", {}) == 1
    assert [each.id for each in engine.snapshot().downloads] == [failed.id]
    assert engine.call("remove_download", {"download_id": failed.id})
    assert engine.snapshot().downloads == ()


def test_the_speed_limit_holds_from_its_change_on(engine: Engine) -> None:
    engine.call("change_settings", {"changes": {"downloads.limit_bytes_s": 1 << 20}})
    assert engine.downloads.limiter.bytes_per_s == 1 << 20
    engine.call("change_settings", {"changes": {"downloads.limit_bytes_s": None}})
    assert engine.downloads.limiter.bytes_per_s is None
