"""Links, and the addresses of hubs' pages: what comes from anywhere only ever asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tray_app import browse_process, link_handler, window_drop
from tray_app.browse_address import Seen, model_of
from tray_app.engine.downloads.references import parse
from tray_app.link_handler import ENTRY, MIME, register, unregister, with_default
from tray_app.links import Refused, Wish, read


@pytest.mark.parametrize(
    ("link", "wish"),
    [
        ("llama-wrangler://pull/org%2Frepo%3AQ4_K_M", Wish("discover", "org/repo:Q4_K_M")),
        ("llama-wrangler://pull/org/repo", Wish("discover", "org/repo")),
        ("LLAMA-WRANGLER://pull/llama3.2:1b", Wish("discover", "llama3.2:1b")),
        (
            "llama-wrangler://pull/https%3A%2F%2Fh.example%2Fx.gguf%3Fa%3D1",
            Wish("discover", "https://h.example/x.gguf?a=1"),
        ),
        ("llama-wrangler://open/downloads", Wish("downloads")),
    ],
)
def test_a_link_names_a_page_and_a_model_to_ask_about(link: str, wish: Wish) -> None:
    assert read(link) == wish


@pytest.mark.parametrize(
    "link",
    [
        "",
        "https://example.org/",
        "llama-wrangler://",
        "llama-wrangler://pull/",
        "llama-wrangler://pull/%0Arm",
        "llama-wrangler://pull/%20x",
        "llama-wrangler://pull/" + "x" * 2500,
        "llama-wrangler://delete/org%2Frepo",
        "llama-wrangler://open/../etc",
        "llama-wrangler://open/nothing",
        "llama-wrangler://[half",
        "x" * 4000,
    ],
)
def test_any_other_link_is_refused_with_what_a_link_may_be(link: str) -> None:
    refused = read(link)
    assert isinstance(refused, Refused)
    assert refused.message
    assert "llama-wrangler://pull/NAME" in refused.remedy


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("https://huggingface.co/org/repo", Seen("org/repo", "org/repo")),
        ("https://huggingface.co/org/repo/tree/main", Seen("org/repo", "org/repo")),
        ("https://huggingface.co/org/repo/discussions/3#x", Seen("org/repo", "org/repo")),
        (
            "https://huggingface.co/org/repo/blob/main/a%20b/x.Q4_0.gguf",
            Seen(
                "org/repo: x.Q4_0.gguf",
                "https://huggingface.co/org/repo/blob/main/a%20b/x.Q4_0.gguf",
            ),
        ),
        (
            "https://huggingface.co/org/repo?show_file_info=x.gguf",
            Seen("org/repo: x.gguf", "https://huggingface.co/org/repo?show_file_info=x.gguf"),
        ),
        ("https://ollama.com/library/llama3.2", Seen("llama3.2", "ollama:llama3.2")),
        ("https://ollama.com/library/llama3.2:1b", Seen("llama3.2:1b", "ollama:llama3.2:1b")),
        ("https://ollama.com/library/x/tags", Seen("x", "ollama:x")),
        ("https://ollama.com/herder/model", Seen("herder/model", "ollama:herder/model")),
    ],
)
def test_the_page_of_a_model_is_known_by_its_address(address: str, seen: Seen) -> None:
    assert model_of(address) == seen
    parse(seen.reference)  # the engine can read it


@pytest.mark.parametrize(
    "address",
    [
        "",
        "about:blank",
        "https://huggingface.co/",
        "https://huggingface.co/models?library=gguf",
        "https://huggingface.co/docs/hub",
        "https://huggingface.co/datasets/org/data",
        "https://huggingface.co/org",
        "https://huggingface.co/org/%0Arepo",
        "https://huggingface.co.evil.example/org/repo",
        "https://user@huggingface.co/org/repo",
        "https://huggingface.co:8443/org/repo",
        "file:///org/repo",
        "https://ollama.com/library",
        "https://ollama.com/search?q=x",
        "https://ollama.com/blog/x",
        "https://example.org/org/repo",
        "https://[half/org/repo",
        "https://huggingface.co/org/" + "x" * 3000,
    ],
)
def test_every_other_page_offers_nothing(address: str) -> None:
    assert model_of(address) is None


def test_a_mirror_of_the_hub_is_known_by_its_endpoint() -> None:
    mirror = "http://127.0.0.1:8090"
    assert model_of(f"{mirror}/org/repo", mirror) == Seen("org/repo", "org/repo")
    assert model_of(f"{mirror}/org/repo") is None


@pytest.mark.parametrize(
    ("line", "reference"),
    [
        (b'{"reference": "org/repo"}\n', "org/repo"),
        (b'{"reference": ""}', None),
        (b'{"reference": 3}', None),
        (b'{"reference": "a\\nb"}', None),
        (b'{"reference": "' + b"x" * 3000 + b'"}', None),
        (b"[" * 100_000, None),
        (b"\xff\xfe", None),
        (b"null", None),
    ],
)
def test_a_line_of_the_browse_window_is_read_without_trust(
    line: bytes, reference: str | None
) -> None:
    assert browse_process.read_wish(line) == reference


def test_dropped_paths_reach_the_page_as_data() -> None:
    files = [{"pywebviewFullPath": '/a/"x"</script>\u2028.gguf'}, {"name": "no path"}, "odd"]
    paths = window_drop.paths_of({"dataTransfer": {"files": files}})
    assert paths == ['/a/"x"</script>\u2028.gguf']
    script = window_drop.script(paths)
    assert script.isascii()
    told = script.partition('llama-wrangler:drop", ')[2].removesuffix("))")
    assert json.loads(told) == {"detail": {"paths": paths}}
    uris = ["file:///a%20b/x.gguf", " file://localhost/y ", "file://else/z", "https://h/x.gguf"]
    assert window_drop.paths_of_uris(uris) == ["/a b/x.gguf", "/y"]
    assert window_drop.paths_of({}) == window_drop.paths_of({"dataTransfer": {}}) == []


# -- who opens links


def linux(tmp_path: Path, *command: str) -> bool:
    environ = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    return register(command or ("/opt/lw", "open"), "linux", environ, tmp_path)


def test_on_linux_links_get_a_desktop_entry_and_a_default(tmp_path: Path) -> None:
    assert linux(tmp_path)
    entry = (tmp_path / "data" / "applications" / ENTRY).read_text()
    assert "Exec=/opt/lw open %u\n" in entry
    assert f"MimeType={MIME};\n" in entry
    apps = tmp_path / "config" / "mimeapps.list"
    assert apps.read_text() == f"[Default Applications]\n{MIME}={ENTRY}\n"
    assert not linux(tmp_path)
    assert linux(tmp_path, "/new/lw", "open")
    assert "Exec=/new/lw" in (tmp_path / "data" / "applications" / ENTRY).read_text()


def test_what_was_written_for_links_is_taken_back(tmp_path: Path) -> None:
    environ = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert not unregister("linux", environ, tmp_path)
    linux(tmp_path)
    assert unregister("linux", environ, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    apps = tmp_path / "config" / "mimeapps.list"
    kept = "[Default Applications]\ntext/html=x.desktop\n"
    apps.write_text(kept)
    linux(tmp_path)
    assert apps.read_text() != kept
    assert unregister("linux", environ, tmp_path)
    assert apps.read_text() == kept


def test_a_package_that_has_told_the_system_is_not_told_again(tmp_path: Path) -> None:
    program = tmp_path / "lib" / "llama-wrangler"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    link = tmp_path / "bin" / "llama-wrangler"
    link.parent.mkdir()
    link.symlink_to(program)
    entry = tmp_path / "share" / "applications" / ENTRY
    entry.parent.mkdir(parents=True)
    entry.write_text(f"[Desktop Entry]\nExec={link} open %u\n")
    own = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environ = {**own, "XDG_DATA_DIRS": f"/nowhere:{tmp_path / 'share'}"}
    assert linux(tmp_path, str(program), "open")  # from before there was a package
    assert register((str(program), "open"), "linux", environ, tmp_path)
    assert not register((str(program), "open"), "linux", environ, tmp_path)
    assert not (tmp_path / "data" / "applications" / ENTRY).exists()
    other = tmp_path / "other"
    assert register((str(other), "open"), "linux", environ, tmp_path)


def test_what_the_user_has_chosen_for_links_stays(tmp_path: Path) -> None:
    apps = tmp_path / "config" / "mimeapps.list"
    apps.parent.mkdir()
    kept = f"# mine\n[Default Applications]\ntext/html=x.desktop\n{MIME}=other.desktop\n"
    apps.write_text(kept)
    linux(tmp_path)
    assert apps.read_text() == kept


def test_other_lines_of_the_list_stay_as_they_are() -> None:
    before = "[Added Associations]\na=b\n\n[Default Applications]\ntext/html=x.desktop\n"
    after = with_default(before)
    assert after is not None
    assert [line for line in after.splitlines() if line != f"{MIME}={ENTRY}"] == before.splitlines()
    assert with_default(after) is None


class Registry:
    """`winreg` with what it was told."""

    HKEY_CURRENT_USER, REG_SZ = "HKCU", 1

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], str] = {}
        self.key = ""

    def CreateKey(self, root: str, key: str) -> Registry:
        self.key = key
        return self

    def __enter__(self) -> str:
        return self.key

    def __exit__(self, *_: object) -> None: ...

    def QueryValueEx(self, key: str, name: str) -> tuple[str, int]:
        if (key, name) not in self.values:
            raise FileNotFoundError
        return self.values[key, name], 1

    def DeleteKey(self, root: str, key: str) -> None:
        if not any(name == key for name, _ in self.values):
            raise FileNotFoundError
        self.values = {at: value for at, value in self.values.items() if at[0] != key}

    def SetValueEx(self, key: str, name: str, _: int, kind: int, value: str) -> None:
        self.values[key, name] = value


def test_on_windows_links_get_a_key_of_the_user() -> None:
    registry: Any = Registry()
    command = (r"C:\Program Files\lw.exe", "open")
    assert register(command, "win32", {}, Path(), registry)
    key = link_handler.CLASS_KEY
    assert registry.values[key, "URL Protocol"] == ""
    line = registry.values[rf"{key}\shell\open\command", ""]
    assert line == r'"C:\Program Files\lw.exe" "open" "%1"'
    assert not register(command, "win32", {}, Path(), registry)


def test_on_windows_the_key_goes_again() -> None:
    registry: Any = Registry()
    register((r"C:\lw.exe", "open"), "win32", {}, Path(), registry)
    assert unregister("win32", {}, Path(), registry)
    assert registry.values == {}
    assert not unregister("win32", {}, Path(), registry)


def test_on_macos_the_bundle_says_it() -> None:
    assert not register(("/x", "open"), "darwin", {}, Path("/nowhere"))
