"""Draws the example images in examples/digits: `python examples/draw_digits.py`.

Each digit is a few pen strokes; a stroke is a smooth curve through some points (a Catmull-Rom spline). Every
digit comes twice, as ink on paper and as light on black, in different sizes and with different pens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent / "digits"
OVERSAMPLING = 4
STEPS = 24
Point = tuple[float, float]

# Points x,y in percent of the side, x to the right, y down; one line a stroke.
STROKES: dict[int, tuple[str, ...]] = {
    0: ("52,20  36,30  31,52  38,74  52,80  66,70  70,48  64,28  50,20",),
    1: (
        "40,32  52,20",
        "52,20  50,50  48,80",
    ),
    2: (
        "33,34  42,21  58,21  66,34  58,52  44,68  33,79",
        "33,79  52,77  70,79",
    ),
    3: (
        "35,26  48,20  62,25  64,38  55,47  45,49",
        "45,49  60,52  67,64  60,77  46,81  33,74",
    ),
    4: (
        "42,20  36,38  31,56",
        "31,56  50,56  72,54",
        "61,22  59,52  57,82",
    ),
    5: (
        "66,21  40,22",
        "40,22  37,46",
        "37,46  52,42  66,52  66,68  54,80  35,76",
    ),
    6: ("60,19  44,32  35,54  38,74  52,81  65,73  65,58  53,51  38,62",),
    7: (
        "31,23  50,23  69,22",
        "69,22  56,48  46,81",
    ),
    8: ("62,30  52,20  40,26  42,40  55,50  66,64  60,78  47,81  37,71  42,57  56,44  63,32",),
    9: (
        "64,34  54,21  41,26  37,40  46,50  58,46  65,32",
        "65,32  63,56  56,81",
    ),
}


def smooth(stroke: str) -> list[Point]:
    """Points on the Catmull-Rom spline through a stroke's points, close enough together to draw, in 0..1."""
    points = [tuple(float(part) / 100 for part in point.split(",")) for point in stroke.split()]
    padded = [points[0], *points, points[-1]]
    xs, ys = zip(*padded, strict=True)
    return [
        (_spline(xs[first : first + 4], step / STEPS), _spline(ys[first : first + 4], step / STEPS))
        for first in range(len(points) - 1)
        for step in range(STEPS + 1)
    ]


def draw(digit: int, side: int, pen: float, ink: int, ground: int) -> Image.Image:
    """One digit as a grey image of `side` pixels, drawn with a round pen of width `pen` times the side."""
    large = side * OVERSAMPLING
    image = Image.new("L", (large, large), ground)
    canvas, radius = ImageDraw.Draw(image), pen * large / 2
    for stroke in STROKES[digit]:
        for x, y in smooth(stroke):
            canvas.ellipse((x * large - radius, y * large - radius, x * large + radius, y * large + radius), ink)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _spline(knots: Sequence[float], t: float) -> float:
    """Between the second and the third of four knots, at t in 0..1."""
    before, start, end, after = knots
    return 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )


EXAMPLES = {
    f"{digit}-{name}.png": (digit, *pen)
    for digit in STROKES
    for name, pen in {
        "dark-on-light": (160, 0.075, 30, 245),
        "light-on-dark": (112, 0.10, 240, 0),
    }.items()
}
"""By file name: digit, side in pixels, width of the pen, ink and ground."""


def draw_example(name: str) -> Image.Image:
    """One of the example images."""
    return draw(*EXAMPLES[name])


def main() -> None:
    """Draw every digit dark on light and light on dark."""
    for name in EXAMPLES:
        draw_example(name).save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()
