"""A folder of small colour pictures of ten classes, which the tests draw themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {"red": (200, 40, 40), "blue": (40, 60, 200)}
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def draw_picture(name: str, side: int, generator: np.random.Generator) -> Image.Image:
    """A shape of a class, somewhere on a noisy ground."""
    colour, shape = name.split()
    ground = generator.integers(90, 190, size=3) + generator.integers(-25, 26, size=(side, side, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    radius = side * generator.uniform(0.22, 0.34)
    x, y = generator.uniform(0.4, 0.6, size=2) * side
    box = (x - radius, y - radius, x + radius, y + radius)
    red, green, blue = np.clip(COLOURS[colour] + generator.integers(-30, 31, 3), 0, 255).tolist()
    paint, line = (red, green, blue), side // 7
    match shape:
        case "circle":
            canvas.ellipse(box, paint)
        case "square":
            canvas.rectangle(box, paint)
        case "triangle":
            canvas.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], paint)
        case "cross":
            canvas.line([(x - radius, y), (x + radius, y)], paint, line)
            canvas.line([(x, y - radius), (x, y + radius)], paint, line)
        case "ring":
            canvas.ellipse(box, outline=paint, width=line)
    return image


def write_pictures(folder: Path, count_per_class: int, side: int = 32, seed: int = 0) -> Path:
    """Draw pictures into one subfolder a class, as PNG."""
    generator = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(count_per_class):
            draw_picture(name, side, generator).save(folder / name / f"{number}.png")
    return folder
