"""From a picture file, of whatever kind, to upright RGB pixels of one size."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
OPAQUE = {"1", "L", "RGB", "CMYK", "YCbCr"}
BACKDROP = (255, 255, 255)  # what shows through a transparent picture
Fit = Literal["crop", "squash", "pad"]
Box = tuple[int, int, int, int]  # x, y, width, height


class BrokenPicture(Exception):
    """The reason why a picture cannot be read."""


def decode(data: bytes | Path, side: int, fit: Fit = "pad", box: Box | None = None) -> np.ndarray:
    """uint8 [3, side, side], turned as its EXIF says, on white where it is transparent, antialiased.

    `crop`: the short side becomes `side`, the middle is kept (CLIP, METER). `squash`: both sides become `side` (ALBEF's
    evaluation). `pad`: all of it, in proportion, centred on white. `box`: that part of the picture alone.

    Raises BrokenPicture where the picture is missing, cut short or no picture.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
            if opened.format == "JPEG" and opened.mode in ("RGB", "L") and box is None:
                opened.draft(opened.mode, (2 * side, 2 * side))  # decodes a large photograph at a fraction of its size
            opened.load()
            upright = ImageOps.exif_transpose(_eight_bit(opened))
            opaque = upright.mode in OPAQUE and "transparency" not in upright.info
            upright = upright.convert("RGB" if opaque else "RGBA")
    except FileNotFoundError as error:
        raise BrokenPicture("the picture is missing") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BrokenPicture(f"the picture cannot be read ({' '.join(str(error).split())})") from error
    if box is not None:
        x, y, width, height = box
        left, top = max(0, x), max(0, y)
        right, bottom = min(upright.width, x + width), min(upright.height, y + height)
        if left >= right or top >= bottom:
            raise BrokenPicture("the region is outside of the picture")
        upright = upright.crop((left, top, right, bottom))
    fitted = _fit(upright, side, fit)
    if fitted.mode == "RGB" and fitted.size == (side, side):
        return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))
    square = Image.new("RGB", (side, side), BACKDROP)
    transparency = fitted if fitted.mode == "RGBA" else None
    square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2), transparency)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """A 16-bit picture scaled to 8 bits, which PIL would clip; any other as it is."""
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    return Image.fromarray((values >> (8 if values.max(initial=0) > 255 else 0)).clip(0, 255).astype(np.uint8))


def _fit(picture: Image.Image, side: int, fit: Fit) -> Image.Image:
    if fit == "squash":
        size = (side, side)
    elif fit == "crop":
        return ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)
    else:
        scale = side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)
