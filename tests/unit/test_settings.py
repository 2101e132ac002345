"""settings.toml and the user's overlay: checked, merged, written whole, never lost."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tray_app.engine.errors import SettingsInvalid
from tray_app.engine.settings import RESERVED_ARGS, Settings, SettingsStore, plain_table

ID = "org/first:Q4_K_M"


@pytest.fixture
def store(tmp_path: Path) -> SettingsStore:
    return SettingsStore(tmp_path / "settings.toml", tmp_path / "models.user.toml")


def fresh(tmp_path: Path) -> SettingsStore:
    return SettingsStore(tmp_path / "settings.toml", tmp_path / "models.user.toml")


def refused(store: SettingsStore, changes: dict[str, Any]) -> SettingsInvalid:
    before = store.current
    with pytest.raises(SettingsInvalid) as caught:
        store.change(changes)
    assert store.current is before
    return caught.value


def test_without_a_file_the_defaults_hold_and_nothing_is_written(
    store: SettingsStore, tmp_path: Path
) -> None:
    assert store.current == Settings()
    assert list(tmp_path.iterdir()) == []


def test_a_change_is_on_disk_and_comes_back(store: SettingsStore, tmp_path: Path) -> None:
    keys = store.change({"server.port": 7071, "library.folders": ["/a", "/b c/ü"]})
    assert keys == ("server.port", "library.folders")
    store.change_model(ID, {"gpu_layers": 0, "extra_args": ["-ub", "64"], "mmproj": False})
    again = fresh(tmp_path)
    assert again.current == store.current
    assert again.broken is None
    assert again.current.models[ID].gpu_layers == 0
    assert (tmp_path / "settings.toml").stat().st_mode & 0o777 == 0o600


def test_none_goes_back_to_the_default(store: SettingsStore) -> None:
    store.change({"server.port": 7071, "aliases.gpt-4o": "default"})
    store.change({"server.port": None, "aliases.gpt-4o": None})
    assert store.current.server.port == 7070
    assert store.current.aliases == {}
    store.change({"server": {"port": 7072}})
    store.change({"server": None})
    assert store.current.server == Settings().server


def test_an_empty_model_setting_removes_it(store: SettingsStore) -> None:
    store.change_model(ID, {"threads": 4, "system_prompt": "Be brief."})
    store.change_model(ID, {"threads": None, "system_prompt": ""})
    assert store.current.models == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"server.port": 80}, "server.port is 80; it must be 1024 to 65535."),
        ({"server.port": True}, "server.port is True; it must be a whole number."),
        ({"server.port": "7071"}, "server.port is '7071'; it must be a whole number."),
        ({"server.port": 7071.0}, "server.port is 7071.0; it must be a whole number."),
        ({"server.context_length": 1}, "server.context_length is 1; it must be 256 to"),
        ({"server.host": "example.org"}, "server.host is 'example.org', which is no address"),
        ({"server.cors_origins": ["*"]}, "server.cors_origins holds '*', which is not the origin"),
        ({"server.cors_origins": ["https://a.org/x"]}, "holds 'https://a.org/x', which"),
        ({"server.idle_unload_s": -1}, "server.idle_unload_s is -1; it must be 0 to 2592000"),
        ({"models": {ID: {"temperature": "hot"}}}, "it must be a number."),
        ({"models": {ID: {"temperature": True}}}, "it must be a number."),
        ({"models": {ID: {"top_p": 1.5}}}, f"models.{ID}.top_p is 1.5; it must be 0 to 1."),
        ({"models": {ID: {"top_p": float("nan")}}}, "it must be 0 to 1."),
        ({"models": {ID: {"kv_cache_type": "q2"}}}, f"models.{ID}.kv_cache_type is 'q2'"),
        ({"models": {ID: {"flash_attention": "yes"}}}, "it must be on, off or auto."),
        ({"models": {ID: {"lora": {"/a.gguf": 1000}}}}, "has the scale 1000.0 for /a.gguf"),
        ({"models": {ID: {"lora": {"C:/a.gguf": 0.5}}}}, "no scale for a path with a colon"),
        ({"models": {ID: {"chat_template": "a\nb"}}}, "neither a name nor a path"),
        ({"models": {ID: {"draft_model": " "}}}, "neither a name nor a path"),
        ({"server.nonsense": 1}, "server.nonsense is not a setting."),
        ({"nonsense": 1}, "nonsense is not a setting."),
        ({"version.x": 1}, "version.x is not a setting."),
        ({"library.folders": "/a"}, "library.folders is '/a'; it must be a list of words."),
        ({"library.folders": [1]}, "library.folders is 1; it must be text."),
        ({"ui.theme": "pink"}, "ui.theme is 'pink'; it must be system, light or dark."),
        ({"runtime.auto_build": 1}, "runtime.auto_build is 1; it must be true or false."),
        ({"server": 5}, "server must be a table of keys."),
        ({"models": {ID: {"threads": 0}}}, f"models.{ID}.threads is 0; it must be 1 to 1024"),
        ({"models": {ID: {"colour": 0}}}, f"models.{ID}.colour is not a setting."),
        ({"aliases": {"default": ID}}, "aliases holds the name “default”"),
        ({"aliases": [ID]}, "it must be a table of names."),
        ({"version": 2}, "version 2; this program knows up to 1"),
        ({"library.folders": ["/\udcff"]}, "a character that no text file can"),
    ],
)
def test_a_wrong_value_is_named_and_changes_nothing(
    store: SettingsStore, changes: dict[str, Any], said: str
) -> None:
    assert said in refused(store, {"ui.theme": "dark", **changes}).message
    assert store.current.ui.theme == "system" or "ui.theme" in changes


@pytest.mark.parametrize("word", [*sorted(RESERVED_ARGS), "--port=1", "--slot_save_path"])
def test_arguments_that_we_set_ourselves_are_refused(store: SettingsStore, word: str) -> None:
    error = refused(store, {"models": {ID: {"extra_args": ["--threads", "2", word]}}})
    assert word.split("=")[0] in error.message
    assert error.remedy


def test_a_word_that_no_command_line_can_carry_is_refused(store: SettingsStore) -> None:
    refused(store, {"models": {ID: {"extra_args": ["a\0b"]}}})


def test_a_full_disk_leaves_the_old_settings(
    store: SettingsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.change({"server.port": 7071})
    text = (tmp_path / "settings.toml").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tray_app.engine.home.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.change({"server.port": 7072})
    assert store.current.server.port == 7071
    assert [path.name for path in tmp_path.iterdir()] == ["settings.toml"]
    assert (tmp_path / "settings.toml").read_text() == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("version = ", "Invalid value"),
        ("[server]\nport = 1\n", "server.port is 1"),
        ("what = 1\n", "what is not a setting"),
        ("version = 99\n", "version 99; this program knows up to 1"),
        ("version = 'x'\n", "version x"),
    ],
)
def test_a_file_that_cannot_be_read_is_kept_and_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    store = fresh(tmp_path)
    assert store.current == Settings()
    assert store.broken is not None
    kept, reason = store.broken
    assert why in reason
    assert kept.read_text() == text
    assert not (tmp_path / "settings.toml").exists()
    (tmp_path / "settings.toml").write_bytes(b"\xff\xfe")
    second = fresh(tmp_path)
    assert second.broken is not None
    assert second.broken[0] != kept
    assert kept.read_text() == text


def test_a_file_of_an_older_version_is_brought_up(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("version = 0\n[server]\nport = 7099\n")
    store = fresh(tmp_path)
    assert (store.current.version, store.current.server.port) == (1, 7099)
    store.change({"ui.theme": "dark"})
    assert tomllib.loads((tmp_path / "settings.toml").read_text())["version"] == 1


def test_the_effective_settings_are_layered(store: SettingsStore, tmp_path: Path) -> None:
    assert store.for_model(ID).context_length == 8192
    store.change({"server.context_length": 4096, "server.parallel": 2})
    assert (store.for_model(ID).context_length, store.for_model(ID).parallel) == (4096, 2)
    store.change_model(ID, {"context_length": 2048, "threads": 3})
    assert store.for_model(ID).context_length == 2048
    (tmp_path / "models.user.toml").write_text(f'["{ID}"]\ncontext_length = 1024\n')
    assert (store.for_model(ID).context_length, store.for_model(ID).threads) == (1024, 3)
    assert store.for_model("org/other:Q8").context_length == 4096


def test_a_bad_key_in_the_overlay_disables_that_model_only(
    store: SettingsStore, tmp_path: Path
) -> None:
    (tmp_path / "models.user.toml").write_text(f'["{ID}"]\ncolour = 1\n["b"]\nthreads = 2\n')
    with pytest.raises(SettingsInvalid, match=r"models\.user\.toml: org/first:Q4_K_M\.colour"):
        store.for_model(ID)
    assert store.for_model("b").threads == 2
    assert store.overlay_error is None


def test_an_overlay_that_is_no_toml_is_ignored_and_named(
    store: SettingsStore, tmp_path: Path
) -> None:
    overlay = tmp_path / "models.user.toml"
    overlay.write_text("[[[")
    assert store.for_model(ID).context_length == 8192
    assert store.overlay_error is not None
    assert store.overlay_error.startswith("models.user.toml is ignored: ")
    assert store.overlay_error.endswith(".")
    assert overlay.read_text() == "[[["
    overlay.write_text("")
    store.for_model(ID)
    assert store.overlay_error is None


def test_the_overlay_may_not_use_reserved_arguments(store: SettingsStore, tmp_path: Path) -> None:
    (tmp_path / "models.user.toml").write_text(f'["{ID}"]\nextra_args = ["--host", "x"]\n')
    with pytest.raises(SettingsInvalid, match="--host"):
        store.for_model(ID)


def test_changes_from_many_threads_all_arrive(store: SettingsStore, tmp_path: Path) -> None:
    def change(number: int) -> None:
        for step in range(5):
            store.change_model(f"org/m{number}:Q4", {"threads": step + 1})
            store.change({f"aliases.name-{number}-{step}": "default"})

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.current.models) == 6
    assert len(store.current.aliases) == 30
    assert fresh(tmp_path).current == store.current


def test_the_plain_table_shows_every_key(store: SettingsStore) -> None:
    table = plain_table(store.current)
    assert table["server"]["memory_budget_bytes"] is None
    assert table["library"]["folders"] == []


def test_numbers_and_tables_of_a_model_come_back_from_the_disk(
    store: SettingsStore, tmp_path: Path
) -> None:
    changes = {"temperature": 1, "min_p": 0.05, "lora": {"/a b.gguf": 0.5}, "never_keep": True}
    store.change_model(ID, changes)
    own = fresh(tmp_path).current.models[ID]
    assert (own.temperature, own.min_p, own.lora) == (1.0, 0.05, {"/a b.gguf": 0.5})
    assert own.never_keep
    store.change_model(ID, {"temperature": None, "min_p": None, "lora": {}, "never_keep": False})
    assert fresh(tmp_path).current.models == {}


def test_changes_can_be_tried_before_they_are_made(store: SettingsStore) -> None:
    store.change_model(ID, {"threads": 2})
    tried = store.for_model(ID, {"threads": 4, "top_k": 10})
    assert (tried.threads, tried.top_k) == (4, 10)
    assert store.for_model(ID).threads == 2
    with pytest.raises(SettingsInvalid):
        store.for_model(ID, {"threads": 0})
