"""Draw the application icon from the tray's own llama: `assets/` as SVG, PNG, ICO and ICNS.

Run it after a change to `tray_app/icon.py`: `python scripts/make_icons.py [FOLDER]`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tray_app.icon import EYE, HEAD, HEAD_START, Cubic, Point, outline  # noqa: E402  (path above)

PNG_SIZES = (16, 24, 32, 48, 64, 128, 256, 512)
ICO_SIZES = (16, 24, 32, 48, 64, 128, 256)

GROUND_TOP = (255, 179, 71)
GROUND_BOTTOM = (226, 92, 46)
HEAD_COLOUR = (255, 250, 240)
INK = (58, 34, 24)
ROPE = (122, 62, 24)

# In a box of 100 x 100. The rope is a lasso that hangs in the air around the llama's neck.
CORNER = 22.0
HEAD_SCALE, HEAD_SHIFT = 0.84, (11.0, 17.0)
ROPE_START: Point = (15.0, 73.0)
ROPE_FRONT: tuple[Cubic, ...] = (
    ((15, 92), (66, 94), (86, 79)),
    ((95, 72), (94, 61), (84, 57)),
)
ROPE_BACK: tuple[Cubic, ...] = (((70, 49), (15, 54), (15, 73)),)
ROPE_TAIL: tuple[Cubic, ...] = (((96, 50), (94, 34), (100, 22)),)
ROPE_WIDTH = 4.6


def main(arguments: Sequence[str]) -> int:
    """Write all files into the folder named in `arguments` (default: assets/)."""
    folder = Path(arguments[0]) if arguments else ROOT / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "llama-wrangler.svg").write_text(svg(), encoding="utf-8")
    # The page may load nothing from outside its own folder.
    (ROOT / "tray_app" / "web" / "icon.svg").write_text(svg(), encoding="utf-8")
    pictures = {size: paint(size) for size in (*PNG_SIZES, 1024)}
    for size in PNG_SIZES:
        pictures[size].save(folder / f"llama-wrangler-{size}.png", optimize=True)
    pictures[256].save(
        folder / "llama-wrangler.ico",
        sizes=[(size, size) for size in ICO_SIZES],
        append_images=[pictures[size] for size in ICO_SIZES],
    )
    pictures[1024].save(
        folder / "llama-wrangler.icns",
        append_images=[pictures[size] for size in (32, 64, 128, 256, 512)],
    )
    return 0


def paint(size: int) -> Image.Image:
    """The application icon, `size` pixels square."""
    side = size * (8 if size <= 64 else 4 if size <= 256 else 2)
    scale = side / 100
    picture = _gradient(side)
    pen = ImageDraw.Draw(picture)
    thick = 1.25 if size <= 32 else 1.0  # a thin rope is lost in small sizes
    _rope(pen, _rope_path(ROPE_BACK), scale, thick)
    pen.polygon(_placed(outline(HEAD_START, HEAD, 32), scale), fill=HEAD_COLOUR)
    x, y, r = EYE
    (left, top), (right, bottom) = _placed([(x - r, y - r), (x + r, y + r)], scale)
    pen.ellipse((left, top, right, bottom), fill=INK)
    _rope(pen, outline(ROPE_START, ROPE_FRONT, 32), scale, thick)
    _rope(pen, outline(ROPE_FRONT[-1][2], ROPE_TAIL, 32), scale, thick)
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), CORNER * scale, fill=255)
    picture.putalpha(mask)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def svg() -> str:
    """The same picture as SVG."""
    x, y, r = EYE
    rope = f'fill="none" stroke="{_hex(ROPE)}" stroke-width="{ROPE_WIDTH}" stroke-linecap="round"'
    back = _svg_path(ROPE_FRONT[-1][2], ROPE_BACK)
    front = _svg_path(ROPE_START, ROPE_FRONT)
    tail = _svg_path(ROPE_FRONT[-1][2], ROPE_TAIL)
    dx, dy = HEAD_SHIFT
    box = 'viewBox="0 0 100 100" width="512" height="512"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {box}>
  <title>Llama Wrangler</title>
  <defs>
    <linearGradient id="ground" x1="0" y1="0" x2="0" y2="1">
      <stop offset="0" stop-color="{_hex(GROUND_TOP)}"/>
      <stop offset="1" stop-color="{_hex(GROUND_BOTTOM)}"/>
    </linearGradient>
    <clipPath id="tile"><rect width="100" height="100" rx="{CORNER:g}"/></clipPath>
  </defs>
  <g clip-path="url(#tile)">
    <rect width="100" height="100" fill="url(#ground)"/>
    <path d="{back}" {rope}/>
    <g transform="translate({dx:g} {dy:g}) scale({HEAD_SCALE})">
      <path d="{_svg_path(HEAD_START, HEAD)}Z" fill="{_hex(HEAD_COLOUR)}"/>
      <circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{_hex(INK)}"/>
    </g>
    <path d="{front}" {rope}/>
    <path d="{tail}" {rope}/>
  </g>
</svg>
"""


def _rope_path(curves: Sequence[Cubic]) -> list[Point]:
    return outline(ROPE_FRONT[-1][2], curves, 32)


def _rope(pen: ImageDraw.ImageDraw, points: list[Point], scale: float, thick: float) -> None:
    radius = ROPE_WIDTH * thick * scale / 2
    placed = [(x * scale, y * scale) for x, y in points]
    pen.line(placed, fill=ROPE, width=round(2 * radius), joint="curve")
    for x, y in (placed[0], placed[-1]):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ROPE)


def _gradient(side: int) -> Image.Image:
    column = Image.new("RGB", (1, side))
    for y in range(side):
        part = y / max(1, side - 1)
        column.putpixel(
            (0, y),
            tuple(
                round(a + (b - a) * part) for a, b in zip(GROUND_TOP, GROUND_BOTTOM, strict=True)
            ),
        )
    return column.resize((side, side))


def _placed(points: Sequence[Point], scale: float) -> list[Point]:
    dx, dy = HEAD_SHIFT
    return [((x * HEAD_SCALE + dx) * scale, (y * HEAD_SCALE + dy) * scale) for x, y in points]


def _svg_path(start: Point, curves: Sequence[Cubic]) -> str:
    pieces = [f"M{start[0]:g} {start[1]:g}"]
    for c1, c2, end in curves:
        pieces.append("C" + " ".join(f"{x:g} {y:g}" for x, y in (c1, c2, end)))
    return "".join(pieces)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
