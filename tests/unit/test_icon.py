"""The tray icon at the sizes panels use. `python -m tests.unit.test_icon FILE` draws a sheet."""

from __future__ import annotations

import io
import itertools
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from tray_app.engine.values import ServerState
from tray_app.icon import STATES, IconFiles, PngFile, draw

SIZES = (16, 22, 24, 32, 48, 64)
PANELS = {True: (30, 30, 34), False: (240, 240, 240)}


def on_panel(state: str, size: int, dark: bool | None, panel: tuple[int, int, int]) -> Image.Image:
    """The icon as it looks on a panel of this colour."""
    picture = draw(state, size, dark)
    ground = Image.new("RGB", picture.size, panel)
    ground.paste(picture, mask=picture)
    return ground


def contrast(picture: Image.Image, panel: tuple[int, int, int]) -> float:
    """The mean difference in lightness between icon and panel, over the whole square."""
    ground = Image.new("RGB", picture.size, panel)
    return ImageStat.Stat(ImageChops.difference(picture, ground).convert("L")).mean[0]


def test_every_state_of_the_engine_has_an_icon() -> None:
    assert set(STATES) == {state.value for state in ServerState}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", STATES)
def test_an_icon_is_square_transparent_at_the_corner_and_drawn(state: str, size: int) -> None:
    picture = draw(state, size, True)
    assert (picture.mode, picture.size) == ("RGBA", (size, size))
    assert picture.getpixel((0, 0)) == (0, 0, 0, 0)
    assert ImageStat.Stat(picture.getchannel("A")).mean[0] > 40


@pytest.mark.parametrize("panel", PANELS.values(), ids=["dark", "light"])
@pytest.mark.parametrize("state", STATES)
def test_an_icon_for_an_unknown_panel_can_be_seen_on_both(
    state: str, panel: tuple[int, int, int]
) -> None:
    assert contrast(on_panel(state, 22, None, panel), panel) > 15


@pytest.mark.parametrize("dark", PANELS)
@pytest.mark.parametrize("state", STATES)
def test_an_icon_for_a_known_panel_stands_out(state: str, dark: bool) -> None:
    assert contrast(on_panel(state, 16, dark, PANELS[dark]), PANELS[dark]) > 25


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(STATES, 2)))
def test_two_states_differ_in_shape_not_only_in_colour(one: str, other: str) -> None:
    shapes = [draw(state, 16, True).getchannel("A") for state in (one, other)]
    assert ImageStat.Stat(ImageChops.difference(*shapes)).mean[0] > 2


def test_an_unknown_state_is_named() -> None:
    with pytest.raises(ValueError, match="sleeping"):
        draw("sleeping", 16, True)


def test_a_file_is_drawn_once(tmp_path: Path) -> None:
    icons = IconFiles(tmp_path)
    path = icons.path("ready", True)
    before = path.stat()
    assert icons.path("ready", True) == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_an_empty_file_of_an_earlier_crash_is_drawn_again(tmp_path: Path) -> None:
    icons = IconFiles(tmp_path)
    icons.path("ready", True).write_bytes(b"")
    with Image.open(icons.path("ready", True)) as picture:
        assert picture.size == (64, 64)


def test_all_files_can_be_drawn_ahead(tmp_path: Path) -> None:
    IconFiles(tmp_path).draw_all(None)
    assert len(list(tmp_path.iterdir())) == len(STATES)


def test_a_picture_outlives_its_file(tmp_path: Path) -> None:
    path = IconFiles(tmp_path).path("busy", None)
    picture = PngFile(path)
    content = path.read_bytes()
    path.unlink()
    copy = io.BytesIO()
    picture.save(copy, "PNG")
    assert copy.getvalue() == content


def test_a_picture_can_only_be_saved_as_what_it_is(tmp_path: Path) -> None:
    picture = PngFile(IconFiles(tmp_path).path("busy", None))
    with pytest.raises(ValueError, match="ICO"):
        picture.save(io.BytesIO(), "ICO")


def contact_sheet() -> Image.Image:
    """Every state at every size on a dark, a light and an unknown panel, to look at."""
    columns: list[tuple[bool | None, tuple[int, int, int]]] = list(PANELS.items())
    columns += [(None, PANELS[True]), (None, PANELS[False])]
    width = sum(size + 8 for size in SIZES)
    sheet = Image.new("RGB", (width * len(columns), 72 * len(STATES)))
    for column, (dark, panel) in enumerate(columns):
        sheet.paste(panel, (width * column, 0, width * (column + 1), sheet.height))
        for row, state in enumerate(STATES):
            x = width * column + 4
            for size in SIZES:
                sheet.paste(on_panel(state, size, dark, panel), (x, 72 * row + (72 - size) // 2))
                x += size + 8
    return sheet


if __name__ == "__main__":
    contact_sheet().save(sys.argv[1])
