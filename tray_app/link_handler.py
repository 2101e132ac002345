"""Who opens `llama-wrangler://` links: told to the operating system, one function for each.

On Linux a desktop entry of ours and one line of the user's `mimeapps.list`, which is added only
where nobody has the scheme (MIME applications specification 1.0.1); on Windows a key below
HKEY_CURRENT_USER\\Software\\Classes; on macOS the bundle's Info.plist says it.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .autostart import NAME, exec_value, write_file
from .links import SCHEME
from .self_command import lasting_command, source_root

ENTRY = "llama-wrangler-link.desktop"
MIME = f"x-scheme-handler/{SCHEME}"
CLASS_KEY = rf"Software\Classes\{SCHEME}"


def register(
    command: Sequence[str] | None = None,
    platform: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    registry: Any = None,
) -> bool:
    """Have links opened by this installation; True when something had to be changed.

    A scheme that the user has given to another program stays with it. Blocks for small reads.
    Raises OSError.
    """
    command = list(command or [*lasting_command(), "open"])
    if platform == "darwin":
        return False
    if platform == "win32":
        return _windows(command, registry or importlib.import_module("winreg"))
    return _linux(command, environ, home or Path.home())


def _linux(command: Sequence[str], environ: Mapping[str, str], home: Path) -> bool:
    path, apps = _places(environ, home)
    if _installed_for_all(command, environ):
        # A package has told the system. An older entry of the user's would hide that one.
        return _forget(path, apps)
    lines = [
        "[Desktop Entry]",
        "Type=Application",
        f"Name={NAME}",
        f"Exec={exec_value(command)} %u",
        "NoDisplay=true",
        "Terminal=false",
        f"MimeType={MIME};",
    ]
    if command[1:2] == ["-m"]:
        # A source tree that is not installed is found by the folder it is in.
        lines.append(f"Path={source_root()}")
    entry = ("\n".join(lines) + "\n").encode()
    changed = _read(path) != entry
    if changed:
        write_file(path, entry)
    before = _read(apps)
    after = with_default((before or b"").decode("utf-8", "surrogateescape"))
    if after is not None:
        write_file(apps, after.encode("utf-8", "surrogateescape"))
        changed = True
    return changed


def unregister(
    platform: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    registry: Any = None,
) -> bool:
    """Take back what `register` has written for this user; True when there was something.

    Raises OSError.
    """
    if platform == "darwin":
        return False
    if platform == "win32":
        return _forget_keys(registry or importlib.import_module("winreg"))
    return _forget(*_places(environ, home or Path.home()))


def _places(environ: Mapping[str, str], home: Path) -> tuple[Path, Path]:
    """The user's entry, and the list of the user's defaults."""
    data = _base(environ.get("XDG_DATA_HOME", ""), home / ".local" / "share")
    config = _base(environ.get("XDG_CONFIG_HOME", ""), home / ".config")
    return data / "applications" / ENTRY, config / "mimeapps.list"


def _installed_for_all(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether a package has an entry of the same name that runs this very program."""
    for base in (environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"):
        text = (_read(Path(base, "applications", ENTRY)) or b"").decode("utf-8", "replace")
        line = next((row for row in text.splitlines() if row.startswith("Exec=")), "Exec=")
        program = shutil.which(line.removeprefix("Exec=").partition(" ")[0])
        if program and os.path.realpath(program) == os.path.realpath(command[0]):
            return True
    return False


def _forget(path: Path, apps: Path) -> bool:
    ours = f"{MIME}={ENTRY}"
    there = path.exists()
    path.unlink(missing_ok=True)
    before = (_read(apps) or b"").decode("utf-8", "surrogateescape")
    lines = before.splitlines()
    if ours not in lines:
        return there
    lines.remove(ours)
    if [line for line in lines if line.strip()] in ([], ["[Default Applications]"]):
        apps.unlink()  # it was made for this line
    else:
        write_file(apps, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    return True


def _forget_keys(registry: Any) -> bool:
    inner = (r"\shell\open\command", r"\shell\open", r"\shell", "")
    found = False
    for rest in inner:  # a key goes when it has no keys below
        try:
            registry.DeleteKey(registry.HKEY_CURRENT_USER, CLASS_KEY + rest)
            found = True
        except FileNotFoundError:
            continue
    return found


def with_default(text: str) -> str | None:
    """`mimeapps.list` with our line in it; None when the scheme has a program already."""
    lines = text.splitlines()
    group = ""
    for line in lines:
        if line.startswith("["):
            group = line.strip()
        elif group == "[Default Applications]" and line.partition("=")[0].strip() == MIME:
            return None
    ours = f"{MIME}={ENTRY}"
    heads = [i for i, line in enumerate(lines) if line.strip() == "[Default Applications]"]
    if heads:
        lines.insert(heads[0] + 1, ours)
    else:
        lines += [*([""] if lines else []), "[Default Applications]", ours]
    return "\n".join(lines) + "\n"


def _windows(command: Sequence[str], registry: Any) -> bool:
    """`winreg` or its like. The form of protocol handlers: "URL Protocol" and shell\\open."""
    line = " ".join(f'"{part}"' for part in command) + ' "%1"'
    wanted = {
        (CLASS_KEY, ""): f"URL:{NAME}",
        (CLASS_KEY, "URL Protocol"): "",
        (rf"{CLASS_KEY}\shell\open\command", ""): line,
    }
    changed = False
    for (key, name), value in wanted.items():
        with registry.CreateKey(registry.HKEY_CURRENT_USER, key) as handle:
            try:
                if registry.QueryValueEx(handle, name)[0] == value:
                    continue
            except FileNotFoundError:
                pass
            registry.SetValueEx(handle, name, 0, registry.REG_SZ, value)
            changed = True
    return changed


def _base(given: str, default: Path) -> Path:
    # The specification ignores a relative path here, as this does.
    return Path(given) if os.path.isabs(given) else default


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
