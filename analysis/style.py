"""The common style of all figures, and their adaptation to a dark page."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008); the baseline is always black.
PALETTE = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
MOST_COLUMNS = 12  # maximum number of columns of a readable heat map
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, SOFT, PAPER = "#000000", "#666666", "#ffffff"
# The replacements on a dark page: ink and paper are swapped, and dark colours are lightened.
DARK = {
    INK: "#e6e9ec",
    SOFT: "#9aa4ae",
    PAPER: "#15191d",
    "#0072b2": "#4ba6e6",
    "#009e73": "#2fc79a",
    "#d55e00": "#f07f2e",
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.parse_math": False,  # a name may contain dollar signs
    "svg.hashsalt": "workbench",  # equal figures have equal files
}


def colour_of(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Returns colour and marker. No two of the first 64 arms share both."""
    index = list(arms).index(arm)
    cycle, colour = divmod(index, len(PALETTE))
    return PALETTE[colour], MARKERS[(colour + cycle) % len(MARKERS)]


def dash_of(arms: Sequence[str], arm: str) -> Any:
    """Returns the dash pattern of a line without markers, which distinguishes arms in print without colours."""
    return DASHES[list(arms).index(arm) % len(DASHES)]


def following(svg: str) -> str:
    """Returns a figure whose colours follow the page: each colour of `DARK` becomes a CSS variable that a dark page
    overrides."""
    for index, light in enumerate(DARK):
        svg = svg.replace(light, f"var(--c{index}, {light})")
    changed = "".join(f"--c{index}:{dark};" for index, dark in enumerate(DARK.values()))
    # Matplotlib omits the fill of black shapes.
    rule = f"<style>@media (prefers-color-scheme: dark) {{ :root {{ {changed} fill: {DARK[INK]}; }} }}</style>"
    head, bracket, rest = svg.partition("<defs>")
    return f"{head}{rule}{bracket}{rest}"


def limits(axis: Axes, values: pl.Series) -> None:
    """Sets the y-axis to the range of the data, so that a single wide band does not flatten the curves."""
    low, high = values.min(), values.max()
    if isinstance(low, float) and isinstance(high, float) and high > low:
        margin = 0.06 * (high - low)
        axis.set_ylim(low - margin, high + margin)


def legend(figure: Figure, axis: Axes, most: int = 5) -> None:
    """Draws one legend above all axes, no wider than they are. Long names use fewer columns; `most` is the maximum."""
    handles, labels = axis.get_legend_handles_labels()
    figure.tight_layout()
    inches = 0.5 + 0.075 * max((len(label) for label in labels), default=1)
    columns = max(1, min(most, len(labels), int(figure.get_figwidth() / inches)))
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
