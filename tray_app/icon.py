"""The tray icon: a llama's head, with a badge that tells the state by shape as well as colour.

Pictures are kept as PNG files under a name made of what decides their look, so that Pillow
(about 8 MB in the process) is imported only when a picture is missing.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Point = tuple[float, float]
Cubic = tuple[Point, Point, Point]

STATES = ("stopped", "starting", "ready", "busy", "error")

# Raised whenever the drawing changes, so that old files in the cache are not taken for it.
DRAWING = 1

# A head in profile in a box of 100 x 100, y downwards. It looks left, which leaves the
# lower left corner free for the badge.
HEAD_START: Point = (45, 100)
HEAD: tuple[Cubic, ...] = (
    ((50, 88), (55, 74), (50, 58)),  # the throat
    ((42, 60), (28, 60), (17, 55)),  # the jaw
    ((9, 51), (9, 40), (17, 37)),  # the blunt nose
    ((27, 34), (37, 32), (43, 24)),  # up to the forehead
    ((38, 14), (40, 5), (46, 0)),  # the front ear
    ((54, 4), (58, 10), (58, 18)),
    ((60, 17), (62, 17), (64, 18)),
    ((65, 10), (71, 4), (79, 2)),  # the rear ear
    ((83, 10), (82, 19), (77, 27)),
    ((87, 44), (82, 72), (92, 100)),  # the long neck
)
EYE: tuple[float, float, float] = (50, 37, 5.0)  # centre and radius

_BADGE = (24.0, 78.0, 22.0)  # centre and radius, in the same box
_GAP = 6.5  # the clear ring between glyph and badge
_STROKE = 9.0  # the line of the hollow glyph
_RIM = 7.0  # the outline that makes a glyph readable on any panel
_OVERSAMPLE = 8  # below 6 the ears are ragged at 16 px

_LIGHT = (246, 246, 246, 255)
_DARK = (38, 40, 46, 255)
_COLOURS = {
    "starting": (245, 166, 35, 255),
    "ready": (52, 199, 89, 255),
    "busy": (64, 156, 255, 255),
    "error": (255, 69, 58, 255),
}
# Darker, so that a badge keeps a contrast of 3 : 1 against a white panel.
_COLOURS_ON_LIGHT = {
    "starting": (196, 113, 0, 255),
    "ready": (22, 138, 58, 255),
    "busy": (0, 102, 214, 255),
    "error": (205, 24, 24, 255),
}


def outline(start: Point, curves: Iterable[Cubic], steps: int = 12) -> list[Point]:
    """The closed path of cubic Bezier `curves` from `start` as straight pieces."""
    points = [start]
    for c1, c2, end in curves:
        x0, y0 = points[-1]
        for i in range(1, steps + 1):
            t = i / steps
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            points.append(
                (
                    a * x0 + b * c1[0] + c * c2[0] + d * end[0],
                    a * y0 + b * c1[1] + c * c2[1] + d * end[1],
                )
            )
    return points


def draw(state: str, size: int, dark_panel: bool | None) -> Image.Image:
    """The icon for `state`, `size` pixels square, RGBA.

    `dark_panel` None draws a light glyph with a dark rim, which reads on any panel.
    Raises ValueError for a state that is not in STATES.
    """
    from PIL import Image, ImageChops

    if state not in STATES:
        raise ValueError(f"no icon for the state {state!r}; there are {', '.join(STATES)}")
    scale = size * _OVERSAMPLE / 100
    glyph = _head_mask(scale, hollow=state == "stopped")
    picture = Image.new("RGBA", glyph.size, (0, 0, 0, 0))
    clear = _badge_mask(scale, state, grow=_GAP) if state != "stopped" else None
    if dark_panel is None:
        rim = _head_mask(scale, hollow=False, grow=_RIM)
        if state == "stopped":
            rim = ImageChops.subtract(rim, _head_mask(scale, hollow=False, grow=-1))
        picture.paste(_DARK, mask=_without(rim, clear))
    picture.paste(_DARK if dark_panel is False else _LIGHT, mask=_without(glyph, clear))
    if state != "stopped":
        colours = _COLOURS_ON_LIGHT if dark_panel is False else _COLOURS
        if dark_panel is None:
            picture.paste(_DARK, mask=_badge_mask(scale, state, grow=_RIM - 2))
        picture.paste(colours[state], mask=_badge_mask(scale, state))
        if state == "error":
            picture.paste((255, 255, 255, 255), mask=_exclamation_mask(scale))
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def _without(mask: Image.Image, hole: Image.Image | None) -> Image.Image:
    from PIL import ImageChops

    return mask if hole is None else ImageChops.subtract(mask, hole)


def _canvas(scale: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    from PIL import Image, ImageDraw

    side = round(100 * scale)
    mask = Image.new("L", (side, side), 0)
    return mask, ImageDraw.Draw(mask)


def _fit(points: Iterable[Point], scale: float) -> list[Point]:
    # 0.92: the rim and the antialiasing need a little room at the edge.
    return [((x * 0.92 + 4) * scale, (y * 0.92 + 5) * scale) for x, y in points]


def _head_mask(scale: float, *, hollow: bool, grow: float = 0) -> Image.Image:
    """The head as a mask; `grow` widens it on all sides, in units of the box."""
    from PIL import ImageChops

    points = _fit(outline(HEAD_START, HEAD), scale)
    mask, pen = _canvas(scale)
    pen.polygon(points, fill=255)
    if grow or hollow:
        line, line_pen = _canvas(scale)
        width = 2 * abs(grow or _STROKE) * scale
        line_pen.line([*points, points[0]], fill=255, width=round(width), joint="curve")
        if hollow:
            return ImageChops.multiply(mask, line)
        return ImageChops.lighter(mask, line) if grow > 0 else ImageChops.subtract(mask, line)
    x, y, r = EYE
    pen.ellipse([*_fit([(x - r, y - r)], scale)[0], *_fit([(x + r, y + r)], scale)[0]], fill=0)
    return mask


def _badge_mask(scale: float, state: str, grow: float = 0) -> Image.Image:
    """The badge of `state`: a ring, a disc, a triangle that points on, or a warning sign."""
    mask, pen = _canvas(scale)
    x, y, r = _BADGE
    r += grow
    box = [(x - r) * scale, (y - r) * scale, (x + r) * scale, (y + r) * scale]
    if state == "starting":
        pen.ellipse(box, fill=255)
        if not grow:
            hole = r * 0.5
            pen.ellipse([v * scale for v in (x - hole, y - hole, x + hole, y + hole)], fill=0)
    elif state == "ready":
        pen.ellipse(box, fill=255)
    elif state == "busy":
        pen.polygon(_triangle(x - 1, y, r * 1.12, scale, pointing="right"), fill=255)
    else:
        pen.polygon(_triangle(x, y - 1, r * 1.25, scale, pointing="up"), fill=255)
    return mask


def _triangle(x: float, y: float, r: float, scale: float, pointing: str) -> list[Point]:
    corners = [(0.0, -r), (r * 0.95, r * 0.75), (-r * 0.95, r * 0.75)]
    if pointing == "right":
        corners = [(-dy, dx) for dx, dy in corners]
    return [((x + dx) * scale, (y + dy) * scale) for dx, dy in corners]


def _exclamation_mask(scale: float) -> Image.Image:
    mask, pen = _canvas(scale)
    x, y, r = _BADGE
    pen.rectangle([v * scale for v in (x - 3.2, y - r * 0.55, x + 3.2, y + r * 0.22)], fill=255)
    pen.rectangle([v * scale for v in (x - 3.2, y + r * 0.42, x + 3.2, y + r * 0.7)], fill=255)
    return mask


class IconFiles:
    """The tray icons as PNG files in `folder`, drawn when they are first asked for."""

    def __init__(self, folder: Path, size: int = 64) -> None:
        self._folder = folder
        self._size = size

    def path(self, state: str, dark_panel: bool | None) -> Path:
        """The file for `state`; draws and writes it (about 30 ms) if it is not there.

        Raises OSError when the folder cannot be written, ValueError for an unknown state.
        """
        path = self._file(state, dark_panel)
        if not path.is_file() or path.stat().st_size == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            _save_atomically(draw(state, self._size, dark_panel), path)
        return path

    def draw_all(self, dark_panel: bool | None) -> None:
        """Make every file that is missing, so that no later change of state has to draw.

        Blocks for about 0.2 s when all are missing. Raises OSError.
        """
        for state in STATES:
            self.path(state, dark_panel)

    def draw_all_apart(self, dark_panel: bool | None) -> None:
        """`draw_all` in a child process where that is cheap, so that Pillow stays out of this one.

        Call it before there are threads. It never raises: `path` tries again.
        """
        if sys.platform != "linux" or all(
            self._file(state, dark_panel).is_file() for state in STATES
        ):
            return
        child = os.fork()
        if child == 0:
            code = 1
            try:
                self.draw_all(dark_panel)
                code = 0
            finally:
                os._exit(code)
        os.waitpid(child, 0)

    def _file(self, state: str, dark_panel: bool | None) -> Path:
        return self._folder / f"tray-{_key(state, self._size, dark_panel)}.png"


class PngFile:
    """The part of an image that pystray's Linux back ends use, without Pillow behind it.

    They only call `save(file, "PNG")`. The bytes are read at once, so that a cache that is
    emptied later does not take the icon along.
    """

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()

    def save(self, file: BinaryIO, format: str = "PNG") -> None:
        """Write the picture to `file`. Raises ValueError for any format but PNG."""
        if format.upper() != "PNG":
            raise ValueError(f"this picture can only be saved as PNG, not as {format}")
        file.write(self._content)


def _key(state: str, size: int, dark_panel: bool | None) -> str:
    panel = {True: "dark", False: "light", None: "any"}[dark_panel]
    look = repr((DRAWING, HEAD, EYE, _BADGE, _COLOURS, _COLOURS_ON_LIGHT, size))
    return f"{state}-{panel}-{hashlib.sha256(look.encode()).hexdigest()[:12]}"


def _save_atomically(picture: Image.Image, path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            picture.save(file, "PNG")
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
