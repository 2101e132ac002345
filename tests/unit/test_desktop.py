"""What each desktop is asked, with recorded answers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tray_app.desktop import (
    copy_text,
    display_available,
    open_path,
    outside_environment,
    panel_is_dark,
    tray_advice,
    tray_backend,
    tray_host_available,
)


class Runs:
    """Stands for `subprocess.run`: keeps what it was asked, gives one answer."""

    def __init__(self, code: int = 0, output: bytes = b"", error: Exception | None = None) -> None:
        self.asked: list[tuple[list[str], dict[str, Any]]] = []
        self._done = subprocess.CompletedProcess([], code, output)
        self._error = error

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        self.asked.append((command, options))
        if self._error:
            raise self._error
        return self._done


@pytest.mark.parametrize(
    ("platform", "command"),
    [("linux", ["xdg-open", "/logs"]), ("darwin", ["open", "/logs"])],
)
def test_a_folder_is_opened_by_the_systems_own_program(platform: str, command: list[str]) -> None:
    run = Runs()
    open_path(Path("/logs"), platform, run)
    assert [asked for asked, _ in run.asked] == [command]


def test_windows_opens_a_folder_by_its_shell() -> None:
    opened: list[str] = []
    open_path("C:\\logs", "win32", Runs(), opened.append)
    assert opened == ["C:\\logs"]


@pytest.mark.parametrize(
    ("run", "word"),
    [(Runs(error=FileNotFoundError()), "not installed"), (Runs(code=3), "exit code 3")],
)
def test_what_cannot_be_opened_says_why(run: Runs, word: str) -> None:
    with pytest.raises(OSError, match=word):
        open_path("/logs", "linux", run)


def test_a_viewer_that_stays_in_front_is_no_error() -> None:
    open_path("/logs", "linux", Runs(error=subprocess.TimeoutExpired("xdg-open", 20)))


@pytest.mark.parametrize(
    ("platform", "command", "content"),
    [
        ("darwin", ["pbcopy"], "é".encode()),
        ("win32", ["clip"], "é".encode("utf-16le")),
    ],
)
def test_text_is_copied_by_the_systems_own_program(
    platform: str, command: list[str], content: bytes
) -> None:
    run = Runs()
    copy_text("é", platform, {}, run)
    ((asked, options),) = run.asked
    assert (asked, options["input"]) == (command, content)


def test_linux_copies_through_gtk() -> None:
    copied: list[str] = []
    copy_text("http://x", "linux", {"DISPLAY": ":0"}, Runs(), copied.append)
    assert copied == ["http://x"]


def test_a_frozen_apps_libraries_stay_out_of_other_programs() -> None:
    frozen = {"LD_LIBRARY_PATH": "/opt/app", "LD_LIBRARY_PATH_ORIG": "/mine", "A": "b"}
    assert outside_environment(frozen) == {"LD_LIBRARY_PATH": "/mine", "A": "b"}


@pytest.mark.parametrize(
    ("platform", "environ", "there"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"DISPLAY": ""}, False),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_a_display_is_known_from_the_environment(
    platform: str, environ: dict[str, str], there: bool
) -> None:
    assert display_available(platform, environ) is there


def typelibs(*names: str) -> Callable[[str, str], None]:
    def require(name: str, version: str) -> None:
        if name not in names:
            raise ValueError(f"Namespace {name} not available")

    return require


@pytest.mark.parametrize(
    ("installed", "backend"),
    [
        (("Gtk", "AyatanaAppIndicator3"), "appindicator"),
        (("Gtk", "AppIndicator3"), "appindicator"),
        (("Gtk",), "gtk"),
        ((), None),
    ],
)
def test_the_back_end_follows_from_what_is_installed(
    installed: tuple[str, ...], backend: str | None
) -> None:
    assert tray_backend(typelibs(*installed)) == backend


@pytest.mark.parametrize(
    ("backend", "watcher", "xembed", "there"),
    [
        ("appindicator", True, False, True),
        ("appindicator", False, True, True),
        ("appindicator", False, False, False),
        ("gtk", True, False, False),  # the GTK back end speaks only XEmbed
        ("gtk", True, True, True),
        (None, True, True, False),
    ],
)
def test_a_tray_host_is_one_that_the_back_end_can_use(
    backend: str | None, watcher: bool, xembed: bool, there: bool
) -> None:
    assert tray_host_available(backend, "linux", lambda: watcher, lambda: xembed) is there


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_macos_and_windows_always_have_a_tray(platform: str) -> None:
    assert tray_host_available(None, platform)


@pytest.mark.parametrize(
    ("backend", "desktop", "word"),
    [
        (None, "", "gir1.2-ayatanaappindicator3-0.1"),
        ("gtk", "XFCE", "gir1.2-ayatanaappindicator3-0.1"),
        ("appindicator", "ubuntu:GNOME", "gnome-shell-extension-appindicator"),
        ("appindicator", "sway", "org.kde.StatusNotifierWatcher"),
    ],
)
def test_the_advice_names_what_is_missing(backend: str | None, desktop: str, word: str) -> None:
    assert word in tray_advice(backend, {"XDG_CURRENT_DESKTOP": desktop})


@pytest.mark.parametrize(("style", "dark"), [(b"Dark\n", True), (b"", None)])
def test_on_macos_only_a_dark_menu_bar_is_certain(style: bytes, dark: bool | None) -> None:
    assert panel_is_dark("darwin", {}, run=Runs(output=style)) is dark


class Themes:
    """`winreg` with one value."""

    HKEY_CURRENT_USER = "HKCU"

    def __init__(self, light: int | None) -> None:
        self._light = light

    @contextmanager
    def OpenKey(self, root: str, path: str) -> Iterator[None]:
        yield

    def QueryValueEx(self, key: None, name: str) -> tuple[int, int]:
        if self._light is None:
            raise FileNotFoundError(name)
        return self._light, 4


@pytest.mark.parametrize(("light", "dark"), [(0, True), (1, False), (None, None)])
def test_windows_tells_the_colour_of_its_taskbar(light: int | None, dark: bool | None) -> None:
    assert panel_is_dark("win32", {}, winreg=Themes(light)) is dark


def test_gnomes_top_bar_is_dark() -> None:
    assert panel_is_dark("linux", {"XDG_CURRENT_DESKTOP": "ubuntu:GNOME"}) is True


@pytest.mark.parametrize(("colour", "dark"), [("239,240,241", False), ("35,38,41", True)])
def test_kde_is_read_from_its_colours(tmp_path: Path, colour: str, dark: bool) -> None:
    (tmp_path / "kdeglobals").write_text(
        f"[Colors:View]\nBackgroundNormal=0,0,0\n[Colors:Window]\nBackgroundNormal={colour}\n"
    )
    environ = {"XDG_CURRENT_DESKTOP": "KDE", "XDG_CONFIG_HOME": str(tmp_path)}
    assert panel_is_dark("linux", environ) is dark


@pytest.mark.parametrize("content", [None, "", "[Colors:Window]\nBackgroundNormal=x\n"])
def test_a_panel_nobody_can_tell_is_unknown(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "kdeglobals").write_text(content)
    environ = {"XDG_CURRENT_DESKTOP": "KDE", "XDG_CONFIG_HOME": str(tmp_path)}
    assert panel_is_dark("linux", environ) is None
