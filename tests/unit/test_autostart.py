"""Start at login on the three systems, against files and a registry made for the test."""

from __future__ import annotations

import plistlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tray_app.autostart import (
    AGENT_LABEL,
    APPROVED_KEY,
    RUN_KEY,
    RUN_VALUE,
    Autostart,
    DesktopEntry,
    LaunchAgent,
    RunKey,
    autostart,
    exec_value,
)

COMMAND = ["/opt/Llama Wrangler/llama-wrangler", "tray", "--hidden"]


class FakeRegistry:
    """The part of `winreg` that is used, over a dict."""

    HKEY_CURRENT_USER = "HKCU"
    KEY_SET_VALUE = 2
    REG_SZ = 1

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, Any]] = {}

    @contextmanager
    def OpenKey(self, root: str, path: str, *_: int) -> Iterator[dict[str, Any]]:
        if path not in self.keys:
            raise FileNotFoundError(path)
        yield self.keys[path]

    @contextmanager
    def CreateKeyEx(self, root: str, path: str, *_: int) -> Iterator[dict[str, Any]]:
        yield self.keys.setdefault(path, {})

    def QueryValueEx(self, key: dict[str, Any], name: str) -> tuple[Any, int]:
        if name not in key:
            raise FileNotFoundError(name)
        return key[name], 1

    def SetValueEx(self, key: dict[str, Any], name: str, _: int, kind: int, value: Any) -> None:
        key[name] = value

    def DeleteValue(self, key: dict[str, Any], name: str) -> None:
        if name not in key:
            raise FileNotFoundError(name)
        del key[name]


def no_launchctl(command: Any) -> str:
    return ""


@pytest.fixture(params=["xdg", "launchd", "windows"])
def switch(request: pytest.FixtureRequest, tmp_path: Path) -> Autostart:
    """The switch of each system, off."""
    made: dict[str, Autostart] = {
        "xdg": DesktopEntry(COMMAND, tmp_path / "autostart"),
        "launchd": LaunchAgent(COMMAND, tmp_path / "agents", no_launchctl),
        "windows": RunKey(COMMAND, FakeRegistry()),
    }
    return made[request.param]


def test_it_is_off_until_it_is_turned_on(switch: Autostart) -> None:
    assert not switch.is_on()
    switch.turn_on()
    assert switch.is_on()


def test_turning_it_off_leaves_nothing_and_may_be_repeated(switch: Autostart) -> None:
    switch.turn_on()
    switch.turn_off()
    switch.turn_off()
    assert not switch.is_on()


def test_repair_never_turns_it_on(switch: Autostart) -> None:
    assert not switch.repair()
    assert not switch.is_on()


def test_repair_leaves_a_current_entry_alone(switch: Autostart) -> None:
    switch.turn_on()
    assert not switch.repair()


def test_an_entry_of_a_moved_installation_is_rewritten(tmp_path: Path) -> None:
    DesktopEntry(["/old/llama-wrangler", "tray"], tmp_path).turn_on()
    new = DesktopEntry(COMMAND, tmp_path)
    assert new.repair()
    assert not new.repair()
    assert "/old/" not in new.path.read_text()


@pytest.mark.parametrize("line", ["Hidden=true", "X-GNOME-Autostart-enabled=false"])
def test_a_desktop_that_switched_it_off_is_believed(tmp_path: Path, line: str) -> None:
    switch = DesktopEntry(COMMAND, tmp_path)
    switch.path.write_text(f"[Desktop Entry]\nType=Application\nExec=x\n{line}\n")
    assert not switch.is_on()
    assert not switch.repair()


def test_a_line_of_another_group_does_not_count(tmp_path: Path) -> None:
    switch = DesktopEntry(COMMAND, tmp_path)
    switch.path.write_text("[Desktop Entry]\nExec=x\n\n[Desktop Action a]\nHidden=true\n")
    assert switch.is_on()


def test_a_broken_entry_counts_as_off(tmp_path: Path) -> None:
    switch = DesktopEntry(COMMAND, tmp_path)
    switch.path.write_bytes(b"\xff\xfe\x00garbage")
    assert not switch.is_on()


def test_the_config_folder_of_the_environment_is_used_unless_it_is_relative(tmp_path: Path) -> None:
    def path(config: str) -> Path:
        entry = autostart(COMMAND, "linux", {"XDG_CONFIG_HOME": config}, tmp_path)
        assert isinstance(entry, DesktopEntry)
        return entry.path.parent

    assert path("/somewhere") == Path("/somewhere/autostart")
    assert path("relative") == path("") == tmp_path / ".config/autostart"


@pytest.mark.parametrize(
    ("command", "value"),
    [
        (["/usr/bin/llama-wrangler", "tray"], "/usr/bin/llama-wrangler tray"),
        (["/opt/My App/x"], '"/opt/My App/x"'),
        (["/a%b"], "/a%%b"),
        (['/a"b$c`d'], '"/a\\\\"b\\\\$c\\\\`d"'),
        (["/a\\b c"], '"/a\\\\\\\\b c"'),
        ([""], '""'),
    ],
)
def test_exec_is_quoted_and_escaped_as_the_specification_says(
    command: list[str], value: str
) -> None:
    assert exec_value(command) == value


def test_glib_reads_the_quoted_command_as_it_was_meant(tmp_path: Path) -> None:
    pytest.importorskip("gi")
    from gi.repository import Gio, GLib

    program = tmp_path / 'a "strange" $folder' / "llama wrangler"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    switch = DesktopEntry([str(program), "tray", "100%"], tmp_path / "autostart")
    switch.turn_on()
    info = Gio.DesktopAppInfo.new_from_filename(str(switch.path))
    assert info is not None
    assert info.get_string("TryExec") == str(program)
    _, words = GLib.shell_parse_argv(info.get_commandline().replace("%%", "%"))
    assert words == [str(program), "tray", "100%"]


def test_launchd_is_told_what_to_run_and_when(tmp_path: Path) -> None:
    switch = LaunchAgent(COMMAND, tmp_path, no_launchctl)
    switch.turn_on()
    agent = plistlib.loads(switch.path.read_bytes())
    assert (agent["ProgramArguments"], agent["RunAtLoad"]) == (COMMAND, True)


def test_an_agent_disabled_in_system_settings_is_off(tmp_path: Path) -> None:
    # Recorded form of `launchctl print-disabled` since macOS 13; older ones print "=> true".
    answers = [f'disabled services = {{\n\t"{AGENT_LABEL}" => disabled\n}}\n']
    switch = LaunchAgent(COMMAND, tmp_path, lambda command: answers[0])
    switch.turn_on()
    assert not switch.is_on()
    answers[0] = answers[0].replace("disabled\n}", "enabled\n}")
    assert switch.is_on()


def test_a_broken_property_list_counts_as_off(tmp_path: Path) -> None:
    switch = LaunchAgent(COMMAND, tmp_path, no_launchctl)
    switch.path.write_bytes(b"not a plist")
    assert not switch.is_on()


def test_windows_gets_a_quoted_command_line() -> None:
    registry = FakeRegistry()
    RunKey(COMMAND, registry).turn_on()
    line = registry.keys[RUN_KEY][RUN_VALUE]
    assert line == '"/opt/Llama Wrangler/llama-wrangler" tray --hidden'


def test_a_veto_of_the_task_manager_is_believed_and_lifted_only_by_the_user() -> None:
    registry = FakeRegistry()
    switch = RunKey(COMMAND, registry)
    switch.turn_on()
    registry.keys[APPROVED_KEY] = {RUN_VALUE: b"\x03" + bytes(11)}
    assert not switch.is_on()
    assert not switch.repair()
    switch.turn_on()
    assert switch.is_on()
