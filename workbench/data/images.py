"""Decodes image files of any kind to upright RGB pixels of one size."""

import io
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
OPAQUE = {"1", "L", "RGB", "CMYK", "YCbCr"}
BACKDROP = (255, 255, 255)  # what shows through a transparent image
TURNS = {  # EXIF's orientation -> the operation that turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Fit = Literal["crop", "squash", "pad"]
Box = tuple[int, int, int, int]  # x, y, width, height


class BrokenImage(Exception):
    """The reason why an image cannot be read."""


def decode(data: bytes | Path, side: int, fit: Fit = "pad", box: Box | None = None) -> np.ndarray:
    """uint8 [3, side, side]: rotated as its EXIF says, on white where it is transparent, antialiased.

    `crop`: the short side becomes `side`, the middle is kept (CLIP, METER). `squash`: both sides become `side` (ALBEF's
    evaluation). `pad`: the whole image, in proportion, centred on white. `box`: only that part of the image.

    Raises BrokenImage if the file is missing, cut short or not an image; any error of a decoder counts as a broken
    image."""
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(source) as opened:
            if opened.format == "JPEG" and opened.mode in ("RGB", "L") and box is None:
                opened.draft(opened.mode, (2 * side, 2 * side))  # decodes a large photograph at reduced size
            opened.load()
            if 0 in opened.size:
                raise BrokenImage(f"the image has no pixels ({opened.width} x {opened.height})")
            upright = _upright(opened)
            opaque = upright.mode in OPAQUE and "transparency" not in upright.info
            upright = upright.convert("RGB" if opaque else "RGBA")
        return _square(upright, side, fit, box)
    except BrokenImage:
        raise
    except FileNotFoundError as error:
        raise BrokenImage("the image is missing") from error
    except Exception as error:
        # On corrupt bytes, decoders raise almost anything: struct.error, KeyError, MemoryError, ...
        raise BrokenImage(f"the image cannot be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """An error as text without the image's name or memory address, so that images can be counted by reason."""
    if isinstance(error, UnidentifiedImageError):
        return "its format is unknown, or its first bytes are damaged"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def _square(upright: Image.Image, side: int, fit: Fit, box: Box | None) -> np.ndarray:
    """uint8 [3, side, side] of an RGB or RGBA image."""
    if box is not None:
        x, y, width, height = box
        left, top = max(0, x), max(0, y)
        right, bottom = min(upright.width, x + width), min(upright.height, y + height)
        if left >= right or top >= bottom:
            raise BrokenImage("the region is outside of the image")
        upright = upright.crop((left, top, right, bottom))
    fitted = _fit(upright, side, fit)
    if fitted.mode == "RGB" and fitted.size == (side, side):
        return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))
    square = Image.new("RGB", (side, side), BACKDROP)
    transparency = fitted if fitted.mode == "RGBA" else None
    square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2), transparency)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _upright(opened: Image.Image) -> Image.Image:
    """The image rotated as its EXIF says. Nothing else of EXIF is read, so that a wrong resolution or maker's note does
    no harm."""
    try:
        turn = TURNS.get(int(opened.getexif().get(ExifTags.Base.Orientation, 1)))
    except Exception:  # of a third-party decoder: no readable EXIF
        turn = None
    eight = _eight_bit(opened)
    return eight if turn is None else eight.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    """A 16-bit image scaled to 8 bits, where PIL would clip; any other image as it is."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray((values >> (8 if values.max(initial=0) > 255 else 0)).clip(0, 255).astype(np.uint8))


def _fit(image: Image.Image, side: int, fit: Fit) -> Image.Image:
    if fit == "squash":
        size = (side, side)
    elif fit == "crop":
        return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    else:
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
