"""Who opens `llama-wrangler://` links: told to the operating system, one function for each.

On Linux a desktop entry of ours and one line of the user's `mimeapps.list`, which is added only
where nobody has the scheme (MIME applications specification 1.0.1); on Windows a key below
HKEY_CURRENT_USER\\Software\\Classes; on macOS the bundle's Info.plist says it.
"""

from __future__ import annotations

import importlib
import os
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
    data = _base(environ.get("XDG_DATA_HOME", ""), home / ".local" / "share")
    config = _base(environ.get("XDG_CONFIG_HOME", ""), home / ".config")
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
    path = data / "applications" / ENTRY
    changed = _read(path) != entry
    if changed:
        write_file(path, entry)
    apps = config / "mimeapps.list"
    before = _read(apps)
    after = with_default((before or b"").decode("utf-8", "surrogateescape"))
    if after is not None:
        write_file(apps, after.encode("utf-8", "surrogateescape"))
        changed = True
    return changed


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
