"""What differs between desktops: opening files, the clipboard, and what a tray needs to show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .self_command import is_frozen

# Linux: the D-Bus name under which panels collect tray icons.
WATCHER = "org.kde.StatusNotifierWatcher"
_DBUS = "org.freedesktop.DBus"
_THEMES_KEY = r"Software\Microsoft\Windows\CurrentVersion\Themes\Personalize"
_OPEN_S = 20.0  # xdg-open returns when the program has started

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def open_path(
    path: Path | str,
    platform: str = sys.platform,
    run: Run = subprocess.run,
    startfile: Callable[[str], Any] | None = None,
) -> None:
    """Show a file, a folder or an address in the user's own program for it.

    Blocks until that program was told (up to 20 s). Raises OSError when it was not.
    """
    if platform == "win32":
        (startfile or vars(os)["startfile"])(str(path))
        return
    program = "open" if platform == "darwin" else "xdg-open"
    try:
        done = run(
            [program, str(path)],
            env=outside_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_OPEN_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise OSError(f"{program} is not installed; open {path} yourself") from error
    except subprocess.TimeoutExpired:
        return  # some handlers stay in front of xdg-open while the program runs
    if done.returncode:
        raise OSError(f"{program} could not open {path} (exit code {done.returncode})")


def copy_text(
    text: str,
    platform: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    run: Run = subprocess.run,
    gtk_copy: Callable[[str], None] | None = None,
) -> None:
    """Put `text` on the clipboard; from any thread of a process with a GUI loop.

    Raises OSError or subprocess.SubprocessError.

    Wayland lets only a focused client set the clipboard, and a tray never has the focus:
    there `wl-copy` does it where it is installed.
    """
    if platform == "darwin":
        command, content = ["pbcopy"], text.encode()
    elif platform == "win32":
        command, content = ["clip"], text.encode("utf-16le")
    elif environ.get("WAYLAND_DISPLAY") and shutil.which("wl-copy"):
        command, content = ["wl-copy"], text.encode()
    else:
        (gtk_copy or gtk_copy_text)(text)
        return
    run(command, input=content, env=outside_environment(), timeout=5, check=True)


def gtk_copy_text(text: str) -> None:
    """`copy_text` through GTK, on the thread that runs GLib's main loop."""
    gtk = gtk_module()
    from gi.repository import Gdk, GLib

    def copy() -> bool:
        clipboard = gtk.Clipboard.get(Gdk.SELECTION_CLIPBOARD)
        clipboard.set_text(text, -1)
        clipboard.store()  # lets a clipboard program keep it after this process has ended
        return False

    GLib.idle_add(copy)


def gtk_module() -> Any:
    """GTK 3. Raises ImportError when PyGObject or its typelib is missing."""
    import gi

    try:
        gi.require_version("Gtk", "3.0")
    except ValueError as error:
        raise ImportError(str(error)) from error
    from gi.repository import Gtk

    return Gtk


def outside_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for programs that are not ours.

    A frozen build puts its own libraries into LD_LIBRARY_PATH and keeps the user's value
    under another name; other programs must not load ours.
    """
    environment = dict(environ)
    original = environment.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is not None:
        environment["LD_LIBRARY_PATH"] = original
    elif is_frozen():
        environment.pop("LD_LIBRARY_PATH", None)
    return environment


def display_available(
    platform: str = sys.platform, environ: Mapping[str, str] = os.environ
) -> bool:
    """Whether there is a screen to draw on, as far as the environment says."""
    if platform in ("darwin", "win32"):
        return True
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def tray_backend(require: Callable[[str, str], None] | None = None) -> str | None:
    """Linux: pystray's back end that has a menu here, or None.

    The plain xorg back end is never named: it has no menu.
    """
    if require is None:
        try:
            import gi
        except ImportError:
            return None
        require = gi.require_version
    try:
        require("Gtk", "3.0")
    except ValueError:
        return None
    for typelib in ("AyatanaAppIndicator3", "AppIndicator3"):
        try:
            require(typelib, "0.1")
        except ValueError:
            continue
        return "appindicator"
    return "gtk"


def tray_host_available(
    backend: str | None,
    platform: str = sys.platform,
    watcher_owned: Callable[[], bool] | None = None,
    xembed_owned: Callable[[], bool] | None = None,
) -> bool:
    """Whether some panel shows tray icons now. Blocks for a D-Bus and an X round trip."""
    if platform in ("darwin", "win32"):
        return True
    if backend is None:
        return False
    if backend == "appindicator" and (watcher_owned or _watcher_owned)():
        return True
    return (xembed_owned or _xembed_owned)()


def tray_advice(backend: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """What is missing for a tray icon on this Linux desktop, and what gives it."""
    if backend is None:
        return (
            "The tray icon needs GTK 3 for Python. Install gir1.2-gtk-3.0 and "
            "gir1.2-ayatanaappindicator3-0.1 (Debian, Ubuntu), or gtk3 and "
            "libayatana-appindicator-gtk3 (Fedora), then start Llama Wrangler again."
        )
    desktop = environ.get("XDG_CURRENT_DESKTOP", "")
    if "GNOME" in desktop.upper():
        return (
            'GNOME shows tray icons only with the extension "AppIndicator and KStatusNotifierItem '
            'Support". Install gnome-shell-extension-appindicator and log in again.'
        )
    if backend == "gtk":
        return (
            "No panel on this desktop shows old (XEmbed) tray icons. Install "
            "gir1.2-ayatanaappindicator3-0.1 for the current kind of tray icon."
        )
    return (
        "No panel on this desktop shows tray icons: nothing owns "
        f"{WATCHER} on the session bus. Add a system tray to your panel, or start one, for "
        "example waybar, xfce4-panel or trayer."
    )


def session_bus_available() -> bool:
    """Linux: whether there is a session bus. Without one pystray cannot start."""
    from gi.repository import Gio, GLib

    try:
        Gio.bus_get_sync(Gio.BusType.SESSION, None)
    except GLib.Error:
        return False
    return True


def _watcher_owned() -> bool:
    from gi.repository import Gio, GLib

    try:
        bus = Gio.bus_get_sync(Gio.BusType.SESSION, None)
        answer = bus.call_sync(
            _DBUS,
            "/org/freedesktop/DBus",
            _DBUS,
            "NameHasOwner",
            GLib.Variant("(s)", (WATCHER,)),
            None,
            Gio.DBusCallFlags.NONE,
            2000,
            None,
        )
    except GLib.Error:
        return False
    return bool(answer.unpack()[0])


def _xembed_owned() -> bool:
    """Whether an X client owns the tray of the first screen."""
    if not os.environ.get("DISPLAY"):
        return False
    # Only here: python-xlib costs 3 MB, and most desktops have answered before.
    from Xlib import error  # type: ignore[import-untyped]  # it ships no annotations
    from Xlib.display import Display  # type: ignore[import-untyped]

    try:
        display = Display()
    except (error.DisplayError, OSError):
        return False
    try:
        atom = display.intern_atom(f"_NET_SYSTEM_TRAY_S{display.get_default_screen()}")
        return bool(display.get_selection_owner(atom))
    finally:
        display.close()


def panel_is_dark(
    platform: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    run: Run = subprocess.run,
    winreg: Any = None,
) -> bool | None:
    """Whether the panel behind the icon is dark; None where nobody can tell. Never raises."""
    try:
        if platform == "win32":
            return _windows_panel_is_dark(winreg)
        if platform == "darwin":
            # The light menu bar takes its colour from the wallpaper, so only dark is certain.
            done = run(
                ["defaults", "read", "-g", "AppleInterfaceStyle"],
                capture_output=True,
                timeout=5,
                check=False,
            )
            return True if done.stdout.strip() == b"Dark" else None
        return _linux_panel_is_dark(environ, home or Path.home())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _windows_panel_is_dark(winreg: Any) -> bool:
    if winreg is None:
        import importlib

        winreg = importlib.import_module("winreg")
    with winreg.OpenKey(winreg.HKEY_CURRENT_USER, _THEMES_KEY) as key:
        return not winreg.QueryValueEx(key, "SystemUsesLightTheme")[0]


def _linux_panel_is_dark(environ: Mapping[str, str], home: Path) -> bool | None:
    desktop = environ.get("XDG_CURRENT_DESKTOP", "").upper()
    if "GNOME" in desktop or "UNITY" in desktop:
        return True  # the top bar is dark in both of GNOME's styles
    if "KDE" not in desktop:
        return None
    config = environ.get("XDG_CONFIG_HOME") or str(home / ".config")
    group = ""
    for line in (Path(config) / "kdeglobals").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            group = line.strip()
        elif group == "[Colors:Window]" and line.startswith("BackgroundNormal="):
            return _is_dark([int(part) for part in line.partition("=")[2].split(",")[:3]])
    return None


def _is_dark(rgb: Sequence[int]) -> bool:
    red, green, blue = rgb
    return 0.299 * red + 0.587 * green + 0.114 * blue < 128
