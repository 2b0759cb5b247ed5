"""Times to a target: against lifelines, and by hand."""

import numpy as np
import polars as pl
import pytest

from analysis.convergence import (
    curve_area,
    fraction_reached,
    speed,
    speed_over_targets,
    target_value,
    targets,
    time_profile,
)
from analysis.runs import METRICS, TRIALS, Runs

STEPS = (10, 20, 30, 40, 50)


def runs_of(curves: dict[str, list[list[float]]], target: float) -> Runs:
    trials = [(f"{arm}{seed}", "n", "FINISHED", arm, seed) for arm, rows in curves.items() for seed in range(len(rows))]
    rows = [
        (f"{arm}{seed}", "val/itm_auc", step, value)
        for arm, seeds in curves.items()
        for seed, curve in enumerate(seeds)
        for step, value in zip(STEPS, curve, strict=False)
    ]
    about = {
        "arms": list(curves),
        "baseline_arm": next(iter(curves)),
        "target": {"metric": "val/itm_auc", "value": target},
    }
    frames = pl.DataFrame(trials, schema=TRIALS, orient="row"), pl.DataFrame(rows, schema=METRICS, orient="row")
    return Runs("r", "r", about, *frames)


@pytest.fixture(scope="module")
def runs() -> Runs:
    rng = np.random.default_rng(0)
    curves = {
        arm: [list(0.5 + 0.4 * (1 - np.exp(-np.array(STEPS) / scale)) + rng.normal(0, 0.01, 5)) for _ in range(9)]
        for arm, scale in (("base", 25), ("fast", 12), ("slow", 60))
    }
    return runs_of(curves, 0.78)


def test_the_share_that_has_reached_it_is_kaplan_and_meiers(runs: Runs) -> None:
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    from analysis.convergence import times_to

    found = fraction_reached(runs)
    times, horizon = times_to(runs.curves("val/itm_auc"), 0.78)
    for arm in runs.arms:
        own = times.filter(pl.col("arm") == arm)["steps"]
        fitter = lifelines.KaplanMeierFitter().fit(own.fill_null(horizon).to_list(), own.is_not_null().to_list())
        for row in found.filter(pl.col("arm") == arm).iter_rows(named=True):
            assert row["share"] == pytest.approx(1 - float(fitter.predict(row["step"])), abs=1e-9)
        inner = found.filter((pl.col("arm") == arm) & (pl.col("share") > 0) & (pl.col("share") < 1))
        for row in inner.iter_rows(named=True):
            theirs = fitter.confidence_interval_.loc[row["step"]].to_list()
            assert (1 - row["high"], 1 - row["low"]) == pytest.approx(tuple(theirs), abs=1e-6)
        mean = lifelines.utils.restricted_mean_survival_time(fitter, t=horizon)
        assert speed(runs).filter(pl.col("arm") == arm)["steps"].item() == pytest.approx(mean, abs=1e-6)


def test_speed_at_one_target_and_over_many(runs: Runs) -> None:
    at_one = {row["arm"]: row for row in speed(runs).iter_rows(named=True)}
    assert at_one["fast"]["speed_up"] > 1 > at_one["slow"]["speed_up"]
    many = speed_over_targets(runs, "val/itm_auc")
    levels = targets(runs, "val/itm_auc")
    assert many["target"].unique().sort().to_list() == pytest.approx(sorted(levels))
    assert all(many.filter(pl.col("arm") == "fast")["speed_up"].to_numpy() >= 1)
    profile = time_profile(many)
    best = {arm: part["share"].to_list() for (arm,), part in profile.group_by("arm")}
    assert best["fast"][0] == 1.0
    assert best["slow"][0] < 1.0
    assert all(share == sorted(share) for share in best.values())


def test_by_hand() -> None:
    made = runs_of(
        {"base": [[0.0, 0.5, 0.9, 0.9, 0.9], [0.0, 0.1, 0.2, 0.3, 0.4]], "arm": [[0.9] * 5, [0.0, 0.9, 0.9, 0.9, 0.9]]},
        0.8,
    )
    assert target_value(made) == ("val/itm_auc", 0.8)
    rows = {row["arm"]: row for row in speed(made).iter_rows(named=True)}
    assert (rows["base"]["reached"], rows["base"]["steps"]) == (1, 40.0)  # 30 and a miss at 50
    assert (rows["arm"]["steps"], rows["arm"]["speed_up"]) == (15.0, pytest.approx(40 / 15))
    area = curve_area(made.curves("val/itm_auc"))
    assert area.filter(arm="base", seed=1)["value"].item() == pytest.approx((0.05 + 0.15 + 0.25 + 0.35) / 4)


def test_where_nothing_rises_there_are_no_targets() -> None:
    flat = runs_of({"base": [[0.5] * 5] * 2, "arm": [[0.5] * 5] * 2}, 0.9)
    assert targets(flat, "val/itm_auc") == []
    assert speed_over_targets(flat, "val/itm_auc").is_empty()
    assert time_profile(speed_over_targets(flat, "val/itm_auc")).is_empty()
    assert fraction_reached(flat)["share"].max() == 0.0
