"""Start at login, as the operating system itself keeps it.

Nothing is remembered here: each answer is read from the place where the system looks, so a
switch turned in the desktop's own settings is seen, and nothing is ever turned on again.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .self_command import lasting_command, source_root

NAME = "Llama Wrangler"
DESKTOP_FILE = "llama-wrangler.desktop"
AGENT_LABEL = "io.github.llama-wrangler"
RUN_KEY = r"Software\Microsoft\Windows\CurrentVersion\Run"
APPROVED_KEY = r"Software\Microsoft\Windows\CurrentVersion\Explorer\StartupApproved\Run"
RUN_VALUE = "LlamaWrangler"

# https://specifications.freedesktop.org/desktop-entry-spec/latest/exec-variables.html
_RESERVED = frozenset(" \t\n\"'\\><~|&;$*?#()`")


class Autostart(Protocol):
    """The switch on one platform. All methods raise OSError and do not block for long."""

    def is_on(self) -> bool:
        """Whether the system will start the tray at the next login."""

    def turn_on(self) -> None:
        """Write the entry with the command of this installation."""

    def turn_off(self) -> None:
        """Take the entry away."""

    def repair(self) -> bool:
        """Rewrite an entry that is on but runs another command; True if it did."""


def autostart(
    command: Sequence[str] | None = None,
    platform: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
) -> Autostart:
    """The switch of this platform for `command` (default: this tray, hidden)."""
    command = list(command or [*lasting_command(), "tray", "--hidden"])
    home = home or Path.home()
    if platform == "darwin":
        return LaunchAgent(command, home / "Library" / "LaunchAgents")
    if platform == "win32":
        return RunKey(command, importlib.import_module("winreg"))
    # The specification ignores a relative path here, as this does.
    config = environ.get("XDG_CONFIG_HOME", "")
    base = Path(config) if os.path.isabs(config) else home / ".config"
    return DesktopEntry(command, base / "autostart")


class DesktopEntry:
    """XDG autostart: one file that desktops may also switch off by a line inside it."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = list(command)
        self.path = folder / DESKTOP_FILE

    def is_on(self) -> bool:
        """See Autostart."""
        entry = self._read()
        return bool(
            entry.get("Exec")
            and entry.get("Hidden", "false") != "true"
            and entry.get("X-GNOME-Autostart-enabled", "true") != "false"
        )

    def turn_on(self) -> None:
        """See Autostart."""
        lines = [
            "[Desktop Entry]",
            "Type=Application",
            f"Name={NAME}",
            "Comment=Run local language models from the system tray",
            f"Exec={exec_value(self._command)}",
            f"TryExec={_escape(self._command[0])}",
            "Icon=llama-wrangler",
            "Terminal=false",
            "X-GNOME-Autostart-enabled=true",
        ]
        if self._command[1:2] == ["-m"]:
            # A source tree that is not installed is found by the folder it is in.
            lines.append(f"Path={_escape(str(source_root()))}")
        write_file(self.path, ("\n".join(lines) + "\n").encode())

    def turn_off(self) -> None:
        """See Autostart."""
        self.path.unlink(missing_ok=True)

    def repair(self) -> bool:
        """See Autostart."""
        stale = self.is_on() and self._read().get("Exec") != exec_value(self._command)
        if stale:
            self.turn_on()
        return stale

    def _read(self) -> dict[str, str]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return {}
        entry: dict[str, str] = {}
        group = ""
        for line in text.splitlines():
            if line.startswith("["):
                group = line.strip()
            elif group == "[Desktop Entry]" and "=" in line and not line.startswith("#"):
                key, _, value = line.partition("=")
                entry.setdefault(key.strip(), value.strip())
        return entry


class LaunchAgent:
    """macOS: a property list that launchd reads at login."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        run: Callable[[Sequence[str]], str] | None = None,
    ) -> None:
        self._command = list(command)
        self._run = run or _output
        self.path = folder / f"{AGENT_LABEL}.plist"

    def is_on(self) -> bool:
        """See Autostart. Also asks launchd whether the user disabled it in System Settings."""
        agent = self._read()
        if not agent.get("RunAtLoad") or agent.get("Disabled"):
            return False
        listing = self._run(["launchctl", "print-disabled", f"gui/{_user_id()}"])
        return not any(
            f'"{AGENT_LABEL}"' in line and line.rstrip().endswith(("disabled", "true"))
            for line in listing.splitlines()
        )

    def turn_on(self) -> None:
        """See Autostart."""
        import plistlib  # 1 MB with its XML parser, which no other platform needs

        agent = {
            "Label": AGENT_LABEL,
            "ProgramArguments": self._command,
            "RunAtLoad": True,
            "LimitLoadToSessionType": "Aqua",
            "ProcessType": "Interactive",
        }
        if self._command[1:2] == ["-m"]:
            agent["WorkingDirectory"] = str(source_root())
        write_file(self.path, plistlib.dumps(agent))
        self._run(["launchctl", "enable", f"gui/{_user_id()}/{AGENT_LABEL}"])

    def turn_off(self) -> None:
        """See Autostart."""
        self.path.unlink(missing_ok=True)

    def repair(self) -> bool:
        """See Autostart."""
        stale = self.is_on() and self._read().get("ProgramArguments") != self._command
        if stale:
            self.turn_on()
        return stale

    def _read(self) -> dict[str, Any]:
        import plistlib

        try:
            agent = plistlib.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (plistlib.InvalidFileException, ValueError):
            return {}
        return agent if isinstance(agent, dict) else {}


class RunKey:
    """Windows: a value under HKCU Run, which Task Manager may veto in StartupApproved."""

    def __init__(self, command: Sequence[str], winreg: Any) -> None:
        self._command_line = subprocess.list2cmdline(command)
        self._winreg = winreg

    def is_on(self) -> bool:
        """See Autostart."""
        approved = self._get(APPROVED_KEY)
        # The first byte is even for enabled (02, 06) and odd for disabled (03, 07).
        vetoed = isinstance(approved, bytes) and len(approved) > 0 and approved[0] % 2 == 1
        return self._get(RUN_KEY) is not None and not vetoed

    def turn_on(self) -> None:
        """See Autostart."""
        registry = self._winreg
        with registry.CreateKeyEx(
            registry.HKEY_CURRENT_USER, RUN_KEY, 0, registry.KEY_SET_VALUE
        ) as key:
            registry.SetValueEx(key, RUN_VALUE, 0, registry.REG_SZ, self._command_line)
        self._delete(APPROVED_KEY)

    def turn_off(self) -> None:
        """See Autostart."""
        self._delete(RUN_KEY)

    def repair(self) -> bool:
        """See Autostart."""
        stale = self.is_on() and self._get(RUN_KEY) != self._command_line
        if stale:
            self.turn_on()
        return stale

    def _get(self, path: str) -> Any:
        registry = self._winreg
        try:
            with registry.OpenKey(registry.HKEY_CURRENT_USER, path) as key:
                return registry.QueryValueEx(key, RUN_VALUE)[0]
        except FileNotFoundError:
            return None

    def _delete(self, path: str) -> None:
        registry = self._winreg
        try:
            with registry.OpenKey(
                registry.HKEY_CURRENT_USER, path, 0, registry.KEY_SET_VALUE
            ) as key:
                registry.DeleteValue(key, RUN_VALUE)
        except FileNotFoundError:
            return


def exec_value(command: Sequence[str]) -> str:
    """`command` as the value of Exec: quoted, then escaped as any string of the file is."""
    return _escape(" ".join(_quote(part) for part in command))


def _quote(part: str) -> str:
    part = part.replace("%", "%%")
    if part and not _RESERVED.intersection(part):
        return part
    for character in '\\"`$':
        part = part.replace(character, "\\" + character)
    return f'"{part}"'


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def write_file(path: Path, content: bytes) -> None:
    """Replace a file that others read, as a whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _output(command: Sequence[str]) -> str:
    """What `command` prints; waits at most 5 s. Empty when it cannot run."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _user_id() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
