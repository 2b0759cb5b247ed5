"""What each figure draws, against what was looked at and found right. After a change that is meant: WB_RENEW=1 pytest
tests/analysis/test_figures.py, and look."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from analysis.runs import Runs
from analysis.section import Plot
from analysis.style import DARK, DASHES, MARKERS, PALETTE, colour_of, following
from analysis.summaries import with_summaries
from analysis.topics import sections
from tests.analysis.toy import toy_findings_runs

SEEN = Path(__file__).with_name("figures.json")


def drawn(axis: Axes) -> dict[str, Any]:
    """Words as they are, and a hash of all numbers to four digits: lines, areas, bars, dots, images."""
    numbers: list[np.ndarray] = [np.asarray(line.get_xydata(), dtype=float) for line in axis.lines]
    for collection in axis.collections:
        numbers += [np.asarray(path.vertices, dtype=float) for path in collection.get_paths()]
        numbers.append(np.asarray(collection.get_offsets(), dtype=float))
    numbers += [np.array([bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()]) for bar in axis.patches]  # type: ignore[attr-defined]
    numbers += [np.ma.getdata(np.ma.asarray(image.get_array())) for image in axis.images]
    text = ";".join(" ".join(f"{value:.4g}" for value in np.ravel(part)) for part in numbers).replace("-0 ", "0 ")
    return {
        "title": axis.get_title(loc="left"),
        "x": axis.get_xlabel(),
        "y": axis.get_ylabel(),
        "texts": [part.get_text() for part in axis.texts],
        "parts": [len(axis.lines), len(axis.collections), len(axis.patches), len(axis.images)],
        "data": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def plots(runs: Runs) -> list[Plot]:
    return [plot for section in sections(with_summaries(runs)) for plot in section.plots]


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    """Figure -> what its axes draw."""
    made = {}
    for arms in (3, 4):  # a response curve takes four levels
        for image in plots(toy_findings_runs(arms)):
            if arms == 3 or image.name == "response":
                made[image.name] = [drawn(axis) for axis in image.figure.axes if axis.get_visible()]
            plt.close(image.figure)
    return dict(sorted(made.items()))


def test_figures_draw_what_was_looked_at(found: dict[str, list[dict[str, Any]]]) -> None:
    if os.environ.get("WB_RENEW"):
        SEEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    seen = json.loads(SEEN.read_text(encoding="utf-8"))
    assert set(found) == set(seen)
    for name, axes in found.items():
        assert axes == seen[name], name


def test_all_kinds_of_figures_are_among_them(found: dict[str, list[dict[str, Any]]]) -> None:
    wanted = {
        "forest",
        "convergence",
        "speed",
        "suite_scenes",
        "aggregates",
        "reliability",
        "severity",
        "losses",
        "response",
    }
    assert set(found) == wanted | {"clean_disturbed", "cost"}


def test_arms_are_told_apart_without_colours() -> None:
    arms = [str(place) for place in range(40)]
    assert len({colour_of(arms, arm) for arm in arms}) == 40
    assert len(set(MARKERS)) == len(set(map(str, DASHES))) == len(PALETTE)
    # Luminance as a grey printer shows it; none vanishes on white.
    greys = [float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722))) for colour in PALETTE]
    assert max(greys) < 0.9


def test_a_name_with_dollars_and_more_arms_than_colours_is_drawn() -> None:
    runs = toy_findings_runs(arms=10, seeds=2)
    odd = {arm: f"cost=$5_{place}$" for place, arm in enumerate(runs.record.arms)}
    trials = runs.trials.with_columns(pl.col("arm").replace_strict(odd))
    about = runs.record.model_copy(
        update={"arms": list(odd.values()), "baseline_arm": next(iter(odd.values())), "arm_values": {}}
    )
    for image in plots(Runs("r", "r", about, trials, runs.metrics)):
        image.figure.canvas.draw()
        plt.close(image.figure)


def test_a_figure_follows_a_dark_page_in_ink_and_paper_and_can_be_told_apart_on_it() -> None:
    svg = following(
        '<svg><defs></defs><path style="fill: #ffffff; stroke: #000000"/><text style="fill: #010101"/></svg>'
    )
    assert "fill: var(--c2, #ffffff); stroke: var(--c0, #000000)" in svg
    assert "fill: #010101" in svg  # on a map's own colours nothing changes
    assert svg.index("prefers-color-scheme: dark") < svg.index("<defs>")
    paper = np.dot(to_rgb(DARK["#ffffff"]), (0.2126, 0.7152, 0.0722))
    shown = [DARK.get(colour.lower(), colour) for colour in PALETTE]
    assert min(float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722))) for colour in shown) > paper + 0.2
