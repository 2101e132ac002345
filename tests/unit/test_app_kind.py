"""How this copy came here: environments of other installations, played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

from tests.app_update_kit import lay_down
from tray_app.engine.app_update.kind import Installation, Kind, Surroundings, installation


def seen(program: str, **changes: Any) -> Surroundings:
    """A frozen build on Linux that is the user's own, unless something else is said."""
    windows = changes.get("platform") == "win32"
    values: dict[str, Any] = {
        "platform": "linux",
        "machine": "x86_64",
        "frozen": True,
        "program": PureWindowsPath(program) if windows else Path(program),
        "source": None,
        "environ": {},
        "is_file": lambda path: False,
        "may_write": lambda path: True,
        **changes,
    }
    return Surroundings(**values)


def files(*names: str) -> Callable[[str], bool]:
    return lambda path: path in names


def look(program: str, **changes: Any) -> Installation:
    return installation(seen(program, **changes))


HOME = "/home/u/llama-wrangler/llama-wrangler"
SYSTEM = "/usr/lib/llama-wrangler/llama-wrangler"
DPKG = files("/var/lib/dpkg/info/llama-wrangler.list")
MOUNT = "/tmp/.mount_x/usr/lib/llama-wrangler/llama-wrangler"
IMAGE = {"APPIMAGE": "/home/u/LW.AppImage", "APPDIR": "/tmp/.mount_x"}
SITE = "/home/u/venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("program", "changes", "kind", "how"),
    [
        (HOME, {}, Kind.FOLDER, ""),
        (HOME, {"may_write": lambda path: False}, Kind.READ_ONLY, "Whoever"),
        (HOME, {"is_file": DPKG}, Kind.FOLDER, ""),  # a package is there too; this is not it
        (SYSTEM, {"is_file": DPKG}, Kind.PACKAGE, "sudo apt install --only-upgrade"),
        (SYSTEM, {"is_file": files("/usr/bin/dnf")}, Kind.PACKAGE, "sudo dnf upgrade"),
        (SYSTEM, {"is_file": files("/usr/bin/zypper")}, Kind.PACKAGE, "sudo zypper update"),
        (SYSTEM, {"is_file": files("/usr/bin/pacman")}, Kind.PACKAGE, "pacman"),
        (SYSTEM, {}, Kind.PACKAGE, "the system's packages"),
        ("/opt/lw/llama-wrangler", {}, Kind.PACKAGE, "the system's packages"),
        ("/nix/store/x/llama-wrangler", {}, Kind.PACKAGE, "Nix"),
        ("/app/lib/llama-wrangler", {"environ": {"FLATPAK_ID": "x"}}, Kind.PACKAGE, "flatpak"),
        ("/app/lib/llama-wrangler", {"is_file": files("/.flatpak-info")}, Kind.PACKAGE, "flatpak"),
        ("/snap/lw/1/llama-wrangler", {"environ": {"SNAP": "/snap/lw/1"}}, Kind.PACKAGE, "snap"),
        (HOME, {"environ": {"SNAP": "/snap/code/7"}}, Kind.FOLDER, ""),  # a terminal's own
        (MOUNT, {"environ": IMAGE}, Kind.APPIMAGE, ""),
        (MOUNT, {"environ": IMAGE, "may_write": lambda p: False}, Kind.READ_ONLY, "Whoever"),
        (HOME, {"environ": IMAGE}, Kind.FOLDER, ""),  # of a terminal that is an AppImage
        ("/Applications/LW.app/Contents/MacOS/lw", {"platform": "darwin"}, Kind.MAC_APP, "place"),
        (
            "/opt/homebrew/Caskroom/llama-wrangler/1/LW.app/lw",
            {"platform": "darwin"},
            Kind.PACKAGE,
            "brew upgrade",
        ),
        (r"C:\Program Files\LW\llama-wrangler.exe", {"platform": "win32"}, Kind.READ_ONLY, "Who"),
        (r"C:\Users\u\scoop\apps\lw\lw.exe", {"platform": "win32"}, Kind.PACKAGE, "scoop"),
        ("/usr/bin/python3", {"frozen": False, "source": Path("/home/u/lw")}, Kind.SOURCE, "git"),
        ("/v/bin/python", {"frozen": False, "source": Path(SITE)}, Kind.PIP, "-m pip install"),
        (
            "/v/bin/python",
            {"frozen": False, "source": Path("/home/u/.local/pipx/venvs/x/site-packages")},
            Kind.PIP,
            "pipx upgrade",
        ),
        (
            "/v/bin/python",
            {"frozen": False, "source": Path("/home/u/.local/share/uv/tools/x/site-packages")},
            Kind.PIP,
            "uv tool upgrade",
        ),
        (
            "/usr/bin/python3",
            {"frozen": False, "source": Path("/usr/lib/python3/dist-packages")},
            Kind.PACKAGE,
            "the system's packages",
        ),
    ],
)
def test_a_copy_is_known_by_where_it_lies(
    program: str, changes: dict[str, Any], kind: Kind, how: str
) -> None:
    found = look(program, **changes)
    assert found.kind is kind
    assert how in found.how
    assert found.words
    assert found.ours == (kind in (Kind.FOLDER, Kind.APPIMAGE))
    assert found.ours == (found.how == ""), "who may not replace it is told how"


def test_an_appimage_is_its_file() -> None:
    found = look(MOUNT, environ=IMAGE)
    assert PurePosixPath(found.program) == PurePosixPath("/home/u/LW.AppImage")
    assert found.form == "appimage"


@pytest.mark.parametrize(
    ("platform", "machine", "name"),
    [
        ("linux", "x86_64", "linux-x86_64"),
        ("linux", "aarch64", "linux-arm64"),
        ("win32", "AMD64", "windows-x86_64"),
        ("darwin", "arm64", "macos-arm64"),
    ],
)
def test_a_platform_has_one_name(platform: str, machine: str, name: str) -> None:
    assert look(HOME, platform=platform, machine=machine).platform == name


def test_a_version_that_was_switched_to_belongs_to_its_base(tmp_path: Path) -> None:
    base = lay_down(tmp_path / "app", "#!/bin/sh\n")
    inner = lay_down(tmp_path / "app" / "versions" / "0.2.0", "#!/bin/sh\n")
    assert look(str(inner)).program == base


def test_this_very_copy_is_a_source_checkout_and_nobodys_to_replace() -> None:
    found = installation()
    assert (found.kind, found.ours) == (Kind.SOURCE, False)
