"""Synthetic data: small compositional scenes, rendered from facts that are known exactly.

A scene depends only on (seed, split, index). Its captions and foils are in `scene_captions`.
"""

import math
import os
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from workbench.data.lexicon import COLOURS, KINDS
from workbench.randomness import generator, key

# Increase it whenever a change alters a rendered image or a caption: cached renderings are keyed by it.
VERSION = 2
SUPERSAMPLING = 4
HELD_OUT_SHARE = 10  # one (kind, colour) combination in ten is kept for the test split
LIGHT = (0.75, 1.1)  # gains of red, green and blue over the whole image: colours are only recognisable in context


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene. `x`, `y` are its centre as a share of the image's side; y grows downwards."""

    kind: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    angle: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The facts of an image."""

    things: tuple[Thing, ...]
    background: str
    key: int


def held_out(kind: str, colour: str) -> bool:
    """Whether the combination is kept out of the training and validation splits."""
    return key("held-out combination", kind, colour) % HELD_OUT_SHARE == 0


def relation(first: Thing, second: Thing) -> str | None:
    """`first` is left of / right of / above / below `second`; None where neither axis clearly dominates."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > 1.6 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > 1.6 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def sample_scene(seed: int, split: str, index: int, largest: int = 3) -> Scene:
    """Draws scene `index` of `split`, with two to `largest` things; the first two always have a clear relation.

    Test scenes contain at least one (kind, colour) combination that training never shows.
    """
    rng = generator("scene", seed, split, index)
    kinds = rng.choice(list(KINDS), size=int(rng.integers(2, largest + 1)), replace=False)
    colours = [_sample_colour(rng, str(kind), split == "test" and place == 0) for place, kind in enumerate(kinds)]
    sizes = [str(rng.choice(["small", "large"])) for _ in kinds]
    textures = [str(rng.choice(["solid", "striped", "dotted"], p=[0.4, 0.3, 0.3])) for _ in kinds]
    positions = _place(rng, sizes)
    things = tuple(
        Thing(str(kind), colour, size, texture, x, y, float(rng.uniform(-12, 12)))
        for kind, colour, size, texture, (x, y) in zip(kinds, colours, sizes, textures, positions, strict=True)
    )
    return Scene(things, str(rng.choice(["plain", "gradient", "noise", "lines"])), key("picture", seed, split, index))


def render(scene: Scene, side: int) -> np.ndarray:
    """The scene as uint8 [3, side, side]."""
    rng = generator("render", scene.key)
    canvas = _background(rng, scene.background, side)
    _clutter(rng, canvas)
    for thing in scene.things:
        _draw(rng, canvas, thing)
    canvas *= rng.uniform(*LIGHT, size=3)
    return np.ascontiguousarray(canvas.clip(0, 255).astype(np.uint8).transpose(2, 0, 1))


def extent(size: str) -> float:
    """The side of a thing as a share of the image's side."""
    return 0.28 if size == "small" else 0.50


def _sample_colour(rng: np.random.Generator, kind: str, want_held_out: bool) -> str:
    unseen = [colour for colour in COLOURS if held_out(kind, colour)]
    seen = [colour for colour in COLOURS if not held_out(kind, colour)]
    return str(rng.choice(unseen if want_held_out and unseen else seen))


def _place(rng: np.random.Generator, sizes: list[str]) -> list[tuple[float, float]]:
    """Draws centres that keep things inside the image and mostly apart, with a clear relation of the first two."""
    half = [extent(size) / 2 for size in sizes]
    for attempt in range(1000):
        centres = [(float(rng.uniform(h, 1 - h)), float(rng.uniform(h, 1 - h))) for h in half]
        slack = 0.9 if attempt < 200 else 0.7
        apart = all(
            math.dist(centres[a], centres[b]) > slack * (half[a] + half[b]) for a in range(len(half)) for b in range(a)
        )
        (ax, ay), (bx, by) = centres[:2]
        dx, dy = abs(ax - bx), abs(ay - by)
        if apart and (dx > 1.6 * dy or dy > 1.6 * dx):
            return centres
    raise RuntimeError("No placement found for the things of a scene.")  # pragma: no cover


def _background(rng: np.random.Generator, kind: str, side: int) -> np.ndarray:
    base = rng.uniform(195, 245, size=3)
    canvas = np.broadcast_to(base, (side, side, 3)).astype(np.float32)
    if kind == "gradient":
        ramp = np.linspace(-25, 25, side, dtype=np.float32)
        canvas = canvas + (ramp[:, None, None] if rng.random() < 0.5 else ramp[None, :, None])
    elif kind == "noise":
        canvas = canvas + rng.normal(0, 9, size=(side, side, 1)).astype(np.float32)
    elif kind == "lines":
        stripes = np.sin(np.arange(side, dtype=np.float32) * rng.uniform(0.3, 0.9)) * 9
        canvas = canvas + stripes[:, None, None]
    return canvas.copy()


def _clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    side = canvas.shape[0]
    for _ in range(int(rng.integers(0, 6))):
        extent_px = max(1, int(side * rng.uniform(0.02, 0.06)))
        x, y = rng.integers(0, side - extent_px, size=2)
        canvas[y : y + extent_px, x : x + extent_px] = rng.uniform(120, 200)


def _draw(rng: np.random.Generator, canvas: np.ndarray, thing: Thing) -> None:
    side = canvas.shape[0]
    mask = outline(thing.kind, max(4, round(extent(thing.size) * side)), round(thing.angle / 6) * 6)
    height, width = mask.shape
    top = int(np.clip(round(thing.y * side - height / 2), 0, side - height))
    left = int(np.clip(round(thing.x * side - width / 2), 0, side - width))
    colour = np.array(COLOURS[thing.colour][0], dtype=np.float32) + rng.uniform(-14, 14, size=3)
    fill = np.broadcast_to(colour, (height, width, 3)).astype(np.float32)
    pattern = _pattern(thing.texture, height, width)
    if pattern is not None:
        fill = np.where(pattern[..., None], colour * 0.55 + 255 * 0.45, fill)
    region = canvas[top : top + height, left : left + width]
    region += (fill - region) * mask[..., None]


def _pattern(texture: str, height: int, width: int) -> np.ndarray | None:
    rows, columns = np.mgrid[:height, :width]
    pitch = max(3, height // 4)
    if texture == "striped":
        return (rows + columns) % pitch < pitch / 2
    if texture == "dotted":
        return (rows % pitch < pitch / 2) & (columns % pitch < pitch / 2)
    return None


@cache
def outline(kind: str, side: int, angle: int) -> np.ndarray:
    """The coverage of the kind's outline, float32 [side, side] in [0, 1]."""
    big = side * SUPERSAMPLING
    glyph = KINDS[kind][0]
    drawn = _shape(kind, big) if glyph is None else _glyph(glyph, big)
    drawn = drawn.rotate(angle, resample=Image.Resampling.BILINEAR)
    return np.asarray(drawn.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255


def _glyph(character: str, side: int) -> Image.Image:
    """The character, its strokes thickened so that they survive small sizes, fitted into a square."""
    font = ImageFont.truetype(_font_path(), side)
    stroke = max(1, side // 40)
    left, top, right, bottom = font.getbbox(character, stroke_width=stroke)
    drawn = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), character, fill=255, font=font, stroke_width=stroke)
    scale = 0.96 * side / max(drawn.size)
    drawn = drawn.resize((max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))))
    square = Image.new("L", (side, side))
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square


def _shape(kind: str, side: int) -> Image.Image:
    square = Image.new("L", (side, side))
    draw = ImageDraw.Draw(square)
    low, high, middle = side * 0.06, side * 0.94, side / 2
    if kind == "circle":
        draw.ellipse((low, low, high, high), fill=255)
    elif kind == "ring":
        draw.ellipse((low, low, high, high), outline=255, width=round(side * 0.16))
    elif kind == "square":
        draw.rectangle((side * 0.12, side * 0.12, side * 0.88, side * 0.88), fill=255)
    elif kind == "plus":
        draw.rectangle((low, side * 0.36, high, side * 0.64), fill=255)
        draw.rectangle((side * 0.36, low, side * 0.64, high), fill=255)
    elif kind == "diamond":
        draw.polygon([(middle, low), (side * 0.8, middle), (middle, high), (side * 0.2, middle)], fill=255)
    else:
        corners = {"triangle": 3, "pentagon": 5}[kind]
        draw.regular_polygon((middle, middle, side * 0.47), corners, fill=255)
    return square


@cache
def _font_path() -> str:
    import matplotlib

    return os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
