"""How this copy of the app came onto this computer, and so who may replace it.

What a package manager installed is left to it. A copy that the user unpacked is replaced by us.
"""

from __future__ import annotations

import os
import platform as system
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from tray_app.self_command import base_program, is_frozen, own_program, source_root

PACKAGE = "llama-wrangler"
PIP_PACKAGE = "llama-wrangler-tray"
FLATPAK_ID = "io.github.llama_wrangler"
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}


class Kind(StrEnum):
    """Ways to have the app. Only the first two are replaced by the app itself."""

    FOLDER = "folder"  # unpacked by the user (on Windows: installed for the user alone)
    APPIMAGE = "appimage"
    SOURCE = "source"
    PIP = "pip"
    PACKAGE = "package"  # deb, rpm, Flatpak, Snap, Homebrew, ...
    MAC_APP = "mac_app"
    READ_ONLY = "read_only"  # it belongs to someone else


OURS = (Kind.FOLDER, Kind.APPIMAGE)


@dataclass(frozen=True, slots=True)
class Installation:
    """This copy. `program` is what the system's entries start: a program, or an AppImage."""

    kind: Kind
    words: str
    how: str  # to update it, where that is not for us
    program: Path
    platform: str  # as a manifest names it: "linux-x86_64"

    @property
    def ours(self) -> bool:
        """Whether the app replaces it itself."""
        return self.kind in OURS

    @property
    def form(self) -> str:
        """As a manifest names it."""
        return "appimage" if self.kind is Kind.APPIMAGE else "folder"


def _may_write(path: Path) -> bool:
    """Whether what lies at `path` is the user's own, and can be changed."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return False
    own = not hasattr(os, "getuid") or owner == os.getuid()
    return own and os.access(path, os.W_OK)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is looked at, so that tests can play other installations."""

    platform: str = sys.platform
    machine: str = field(default_factory=system.machine)
    frozen: bool = field(default_factory=is_frozen)
    program: PurePath = field(default_factory=own_program)
    source: PurePath | None = field(default_factory=source_root)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    is_file: Callable[[str], bool] = os.path.isfile
    may_write: Callable[[Path], bool] = _may_write


def installation(seen: Surroundings | None = None) -> Installation:
    """How this copy was installed. Blocks for a few looks at the disk."""
    seen = seen or Surroundings()
    name = {"win32": "windows", "darwin": "macos"}.get(seen.platform, "linux")
    machine = _MACHINES.get(seen.machine.lower(), seen.machine.lower())
    kind, words, how, program = _look(seen)
    return Installation(kind, words, how, Path(program), f"{name}-{machine}")


_Found = tuple[Kind, str, str, PurePath]


def _look(seen: Surroundings) -> _Found:
    if not seen.frozen:
        return _from_source(seen)
    if seen.platform == "darwin":
        return _on_mac(seen)
    if seen.platform == "win32":
        return _on_windows(seen)
    return _on_linux(seen)


def _from_source(seen: Surroundings) -> _Found:
    parts = seen.source.parts if seen.source else ()
    program = seen.program
    if "dist-packages" in parts:
        return _package("a package of this system", "Update it with the system's packages.", seen)
    if "site-packages" not in parts:
        how = "Update it where it is: git pull, then make run."
        return Kind.SOURCE, "a source checkout", how, program
    if "pipx" in parts:
        return Kind.PIP, "pipx", f"Update it with: pipx upgrade {PIP_PACKAGE}", program
    if "uv" in parts and "tools" in parts:
        return Kind.PIP, "uv", f"Update it with: uv tool upgrade {PIP_PACKAGE}", program
    how = f"Update it with: {program} -m pip install --upgrade {PIP_PACKAGE}"
    return Kind.PIP, "pip", how, program


def _on_linux(seen: Surroundings) -> _Found:
    environ, program = seen.environ, PurePosixPath(seen.program)
    if environ.get("FLATPAK_ID") or seen.is_file("/.flatpak-info"):
        return _package("Flatpak", f"Update it with: flatpak update {FLATPAK_ID}", seen)
    if environ.get("SNAP") and program.is_relative_to(environ["SNAP"]):
        return _package("Snap", f"Update it with: snap refresh {PACKAGE}", seen)
    image, mount = environ.get("APPIMAGE", ""), environ.get("APPDIR", "")
    # Another AppImage that started a terminal leaves its own names there.
    if os.path.isabs(image) and mount and program.is_relative_to(mount):
        file = PurePosixPath(image)
        if seen.may_write(Path(file)) and seen.may_write(Path(file.parent)):
            return Kind.APPIMAGE, "an AppImage", "", file
        return _read_only(file)
    if program.is_relative_to("/nix"):
        return _package("Nix", "Update it with Nix.", seen)
    if program.is_relative_to("/usr") or program.is_relative_to("/opt"):
        return _of_system(seen)
    return _unpacked(seen)


def _of_system(seen: Surroundings) -> _Found:
    if seen.is_file(f"/var/lib/dpkg/info/{PACKAGE}.list"):
        how = f"Update it with: sudo apt install --only-upgrade {PACKAGE}"
        return _package("a Debian package", how, seen)
    if seen.is_file("/usr/bin/dnf"):
        return _package("an RPM package", f"Update it with: sudo dnf upgrade {PACKAGE}", seen)
    if seen.is_file("/usr/bin/zypper"):
        return _package("an RPM package", f"Update it with: sudo zypper update {PACKAGE}", seen)
    if seen.is_file("/usr/bin/pacman"):
        return _package("a pacman package", "Update it with: sudo pacman -Syu", seen)
    return _package("a package of this system", "Update it with the system's packages.", seen)


def _on_mac(seen: Surroundings) -> _Found:
    if "Caskroom" in seen.program.parts or seen.is_file(f"/opt/homebrew/Caskroom/{PACKAGE}"):
        how = f"Update it with: brew upgrade --cask {PACKAGE}"
        return _package("Homebrew", how, seen)
    # Its signature covers the whole bundle, and a bundle cannot be exchanged in one step.
    how = "Put the new Llama Wrangler.app in the place of this one."
    return Kind.MAC_APP, "an app bundle", how, seen.program


def _on_windows(seen: Surroundings) -> _Found:
    program = PureWindowsPath(seen.program)
    parts = [part.lower() for part in program.parts]
    if "scoop" in parts:
        return _package("Scoop", f"Update it with: scoop update {PACKAGE}", seen)
    if "chocolatey" in parts:
        return _package("Chocolatey", f"Update it with: choco upgrade {PACKAGE}", seen)
    if "winget" in parts:
        return _package("winget", f"Update it with: winget upgrade {PACKAGE}", seen)
    if any(part.startswith("program files") for part in parts):
        return _read_only(program)
    return _unpacked(seen)


def _unpacked(seen: Surroundings) -> _Found:
    program = base_program(Path(seen.program))
    if not seen.may_write(program.parent):
        return _read_only(program)
    return Kind.FOLDER, "a folder of yours", "", program


def _package(words: str, how: str, seen: Surroundings) -> _Found:
    return Kind.PACKAGE, words, how, seen.program


def _read_only(program: PurePath) -> _Found:
    how = "Whoever put it there can replace it."
    return Kind.READ_ONLY, f"{program.parent}, which is not yours", how, program
