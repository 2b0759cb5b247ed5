from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.response import curve, points, section, trend, trend_sentence, varied
from analysis.runs import Runs
from tests.analysis.toy import toy_runs

NAME = "objectives.mlm.temperature"


def runs_of(levels: Sequence[Any], truth: Callable[[Any], float], noise: float, seeds: int = 8) -> Runs:
    rng = np.random.default_rng(0)
    arms = {f"temperature={level}": {NAME: level} for level in levels}
    return toy_runs(arms, seeds, lambda at, _: float(truth(at[NAME]) + rng.normal(0, noise)))


@pytest.mark.parametrize("levels", [[0.0, 0.25, 0.5, 0.75, 1.0], [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]])
def test_the_curve_follows_the_truth_and_the_points_lie_on_it(levels: list[float]) -> None:
    def truth(level: float) -> float:
        return 0.8 - 0.1 * (np.log(level) if min(levels) > 0 else level - 0.4) ** 2

    runs = runs_of(levels, truth, 0.01)
    setting = varied(runs)
    assert setting is not None
    assert setting[0] == NAME
    table = points(runs, "val/itm_auc", setting[1])
    assert table["level"].to_list() == levels
    fitted = curve(table)
    assert all(abs(row["fit"] - truth(row["level"])) < 0.03 for row in fitted.iter_rows(named=True))
    assert fitted["fit"].max() == pytest.approx(table["mean"].max(), abs=1e-3)  # it does not overshoot
    for row in table.iter_rows(named=True):
        near = fitted.sort((pl.col("level") - row["level"]).abs()).row(0, named=True)
        assert near["fit"] == pytest.approx(row["mean"], abs=0.003)


def test_words_few_levels_and_single_seeds_have_no_curve() -> None:
    assert varied(runs_of([0.0, 1.0], lambda x: x, 0.1)) is None
    words = runs_of(["none", "ema", "frozen_lm", "unigram"], lambda _: 0.5, 0.1)
    assert varied(words) is None
    alone = runs_of([0.0, 0.25, 0.5, 1.0], lambda x: x, 0.1, seeds=1)
    setting = varied(alone)
    assert setting is not None
    assert curve(points(alone, "val/itm_auc", setting[1])).is_empty()


def test_a_trend_is_one_test_over_all_levels() -> None:
    """Least squares within each seed; over wide levels per factor of ten."""
    levels = [0.0, 0.25, 0.5, 1.0]
    falling = runs_of(levels, lambda x: 0.8 - 0.1 * x, 0.005)
    fitted = trend(falling, "val/itm_auc", {f"temperature={level}": level for level in levels})
    assert fitted.difference.mean == pytest.approx(-0.1, abs=0.01)
    assert fitted.p == 2 / 2**8
    slopes = [
        np.polyfit(
            levels,
            [
                falling.final("val/itm_auc").filter(arm=f"temperature={level}", seed=seed)["value"].item()
                for level in levels
            ],
            1,
        )[0]
        for seed in range(8)
    ]
    assert fitted.difference.mean == pytest.approx(np.mean(slopes))
    assert "falls with temperature" in trend_sentence(
        fitted, "val/itm_auc", NAME, {str(level): level for level in levels}
    )
    flat = runs_of(levels, lambda x: 0.8, 0.05)
    told = section(flat)
    assert told is not None
    assert "is undecided" in told.lead[0]
    wide = runs_of([0.1, 1.0, 10.0], lambda x: 0.5 + 0.05 * np.log10(x), 0.001)
    fitted = trend(wide, "val/itm_auc", {f"temperature={level}": level for level in (0.1, 1.0, 10.0)})
    assert fitted.difference.mean == pytest.approx(0.1, abs=0.002)  # two factors of ten
    few = runs_of(levels, lambda x: x, 0.01, seeds=3)
    told = section(few)
    assert told is not None
    assert "too few seeds" in told.lead[0]
