"""What all figures have in common."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008); the baseline is always black.
PALETTE = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
MOST_COLUMNS = 12  # of a heat map that still reads on a page
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a name may hold dollars
    "svg.hashsalt": "workbench",  # equal figures, equal files
}


def colour_of(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Colour and marker; no two of the first 64 arms share both."""
    place = list(arms).index(arm)
    again, colour = divmod(place, len(PALETTE))
    return PALETTE[colour], MARKERS[(colour + again) % len(MARKERS)]


def dash_of(arms: Sequence[str], arm: str) -> Any:
    """The dashes of a line without markers, which tell arms apart in print without colours."""
    return DASHES[list(arms).index(arm) % len(DASHES)]


def limits(axis: Axes, values: pl.Series) -> None:
    """The range of the data, so that a single wide band does not flatten the curves."""
    low, high = values.min(), values.max()
    if isinstance(low, float) and isinstance(high, float) and high > low:
        margin = 0.06 * (high - low)
        axis.set_ylim(low - margin, high + margin)


def legend(figure: Figure, axis: Axes, most: int = 5) -> None:
    """One legend for all axes, above them and no wider than they are; long names take fewer columns, `most` at most."""
    handles, labels = axis.get_legend_handles_labels()
    figure.tight_layout()
    inches = 0.5 + 0.075 * max((len(label) for label in labels), default=1)
    columns = max(1, min(most, len(labels), int(figure.get_figwidth() / inches)))
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
