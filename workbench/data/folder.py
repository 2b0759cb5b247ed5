"""A folder of pictures with captions: a `.txt` beside each picture, or one `captions.csv` / `captions.jsonl`."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageOps

from workbench.errors import UserError

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
BACKDROP = (255, 255, 255)  # what shows through a transparent picture


@dataclass(frozen=True)
class CaptionedFile:
    picture: Path
    caption: str


def find_pairs(folder: Path, exclude: str | None = None) -> list[CaptionedFile]:
    """Every captioned picture below `folder`, sorted by path.

    Raises UserError where there is no such folder, no captioned picture, or a caption file that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"`data.path`: there is no folder {folder}; give the folder that holds the captioned pictures.")
    tables = [folder / name for name in ("captions.csv", "captions.jsonl") if (folder / name).is_file()]
    found = _from_table(tables[0]) if tables else _from_text_files(folder)
    if exclude:
        try:
            pattern = re.compile(exclude)
        except re.error as error:
            raise UserError(f"`data.exclude`: `{exclude}` is not a regular expression ({error}).") from error
        found = [pair for pair in found if not pattern.search(str(pair.picture.relative_to(folder)))]
    if not found:
        raise UserError(
            f"`data.path`: {folder} holds no captioned pictures; put a .txt with the caption beside each picture, "
            "or a captions.csv / captions.jsonl with the columns `file` and `caption`."
        )
    return sorted(found, key=lambda pair: pair.picture)


def read_picture(path: Path, side: int) -> np.ndarray:
    """The picture as uint8 [3, side, side], whole, centred on white; turned as its EXIF says.

    Raises UserError where the file is missing or broken.
    """
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except FileNotFoundError as error:
        raise UserError(f"{path}: the picture is missing; restore it or take it out of the captions.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the picture cannot be read ({error}); replace or remove it.") from error
    # Sides in proportion, because cropping could cut away what the caption names.
    upright.thumbnail((side, side), Image.Resampling.LANCZOS)
    scale = side / max(upright.size)
    if scale > 1:
        upright = upright.resize((max(1, round(upright.width * scale)), max(1, round(upright.height * scale))))
    square = Image.new("RGB", (side, side), BACKDROP)
    square.paste(upright, ((side - upright.width) // 2, (side - upright.height) // 2), upright)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _from_text_files(folder: Path) -> list[CaptionedFile]:
    pairs = []
    for picture in folder.rglob("*"):
        if picture.suffix.lower() in PICTURES and picture.with_suffix(".txt").is_file():
            lines = picture.with_suffix(".txt").read_text(encoding="utf-8", errors="replace").splitlines()
            caption = lines[0].strip() if lines else ""
            if caption:
                pairs.append(CaptionedFile(picture, caption))
    return pairs


def _from_table(table: Path) -> list[CaptionedFile]:
    try:
        frame = pl.read_csv(table) if table.suffix == ".csv" else pl.read_ndjson(table)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{table}: not a readable {table.suffix[1:]} file ({reason}).") from error
    missing = {"file", "caption"} - set(frame.columns)
    if missing:
        raise UserError(f"{table}: the column `{sorted(missing)[0]}` is missing; `file` and `caption` are needed.")
    rows = frame.select(pl.col("file", "caption").cast(pl.String)).drop_nulls().rows()
    return [CaptionedFile(table.parent / file, caption.strip()) for file, caption in rows if caption.strip()]
