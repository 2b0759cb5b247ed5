"""A contact sheet: images with lines of text below them, as one PNG."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workbench.errors import UserError

WIDTH = 34  # characters per line


def write_sheet(images: np.ndarray, lines: Sequence[Sequence[str]], title: str, path: Path, columns: int = 4) -> None:
    """Writes `images` uint8 [N, 3, H, W] to `path`, with the wrapped `lines[i]` below image i."""
    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    wrapped = [[part for line in texts for part in _wrap(line)] for texts in lines]
    deepest = max((len(parts) for parts in wrapped), default=1)
    height = 2.6 + 0.125 * deepest
    figure = Figure(figsize=(2.9 * columns, rows * height + 0.5), facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False)
    top = 1 - 0.45 / (rows * height + 0.5)
    figure.subplots_adjust(left=0.02, right=0.98, top=top, bottom=0.01, wspace=0.12, hspace=height / 2.6 - 1 + 0.04)
    figure.suptitle(title, x=0.02, y=0.995, ha="left", va="top", fontsize=11, fontweight="bold")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, parts in zip(axes.flat, images, wrapped, strict=False):
        axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axis.text(
            0,
            -0.03,
            "\n".join(parts),
            transform=axis.transAxes,
            va="top",
            fontsize=7.5,
            family="monospace",
            parse_math=False,
        )
    try:
        figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.15)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}).") from error


def _wrap(line: str) -> list[str]:
    label, colon, _ = line.partition(": ")
    indent = "  " if colon and len(label) < 10 else ""
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, max_lines=6, placeholder=" ...") or [""]
