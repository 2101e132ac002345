"""A strip of a desktop panel with one tray icon, its menu open: for the picture of the menu.

    python -m scripts.panel BUS_NAME MENU_PATH ICON_FILE

The menu is drawn by the library that desktops draw it with, from what the tray exports.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("DbusmenuGtk3", "0.4")
from gi.repository import DbusmenuGtk3, Gdk, GdkPixbuf, GLib, Gtk  # noqa: E402 (versions first)

WIDTH, HEIGHT, ICON = 420, 30, 22
LOOK_MS = 100
STYLE = b"window.panel { background: #23262d; }"


def main(bus_name: str, menu_path: str, icon_file: str) -> None:
    """Show the strip and its menu until the process is ended."""
    style = Gtk.CssProvider()
    style.load_from_data(STYLE)
    Gtk.StyleContext.add_provider_for_screen(
        Gdk.Screen.get_default(), style, Gtk.STYLE_PROVIDER_PRIORITY_APPLICATION
    )
    panel = Gtk.Window(type=Gtk.WindowType.POPUP)
    panel.get_style_context().add_class("panel")
    panel.set_default_size(WIDTH, HEIGHT)
    picture = GdkPixbuf.Pixbuf.new_from_file_at_size(icon_file, ICON, ICON)
    icon = Gtk.Image.new_from_pixbuf(picture)
    icon.set_margin_start(12)
    icon.set_halign(Gtk.Align.START)
    panel.add(icon)
    panel.move(0, 0)
    panel.show_all()
    menu = DbusmenuGtk3.Menu.new(bus_name, menu_path)
    menu.attach_to_widget(panel, None)

    def look() -> bool:
        if not menu.get_children():
            return True
        place = Gdk.Rectangle()
        place.x, place.y, place.width, place.height = 6, 0, ICON, HEIGHT
        south, north = Gdk.Gravity.SOUTH_WEST, Gdk.Gravity.NORTH_WEST
        menu.popup_at_rect(panel.get_window(), place, south, north, None)
        return not menu.get_mapped()

    GLib.timeout_add(LOOK_MS, look)
    Gtk.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
