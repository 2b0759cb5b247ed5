"""Times to a target: against lifelines, and by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.convergence import (
    curve_area,
    fraction_reached,
    mean_curves,
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
        own = times.filter(pl.col("arm") == arm)["time"]
        fitter = lifelines.KaplanMeierFitter().fit(own.fill_null(horizon).to_list(), own.is_not_null().to_list())
        for row in found.filter(pl.col("arm") == arm).iter_rows(named=True):
            assert row["share"] == pytest.approx(1 - float(fitter.predict(row["time"])), abs=1e-9)
        inner = found.filter((pl.col("arm") == arm) & (pl.col("share") > 0) & (pl.col("share") < 1))
        for row in inner.iter_rows(named=True):
            theirs = fitter.confidence_interval_.loc[row["time"]].to_list()
            assert (1 - row["high"], 1 - row["low"]) == pytest.approx(tuple(theirs), abs=1e-6)
        mean = lifelines.utils.restricted_mean_survival_time(fitter, t=horizon)
        assert speed(runs).filter(pl.col("arm") == arm)["time"].item() == pytest.approx(mean, abs=1e-6)


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
    assert (rows["base"]["reached"], rows["base"]["time"]) == (1, 40.0)  # 30 and a miss at 50
    assert (rows["arm"]["time"], rows["arm"]["speed_up"]) == (15.0, pytest.approx((30 / 10 * 50 / 20) ** 0.5))
    area = curve_area(made.curves("val/itm_auc"))
    assert area.filter(arm="base", seed=1)["value"].item() == pytest.approx((0.05 + 0.15 + 0.25 + 0.35) / 4)


def test_where_nothing_rises_there_are_no_targets() -> None:
    flat = runs_of({"base": [[0.5] * 5] * 2, "arm": [[0.5] * 5] * 2}, 0.9)
    assert targets(flat, "val/itm_auc") == []
    assert speed_over_targets(flat, "val/itm_auc").is_empty()
    assert time_profile(speed_over_targets(flat, "val/itm_auc")).is_empty()
    assert fraction_reached(flat)["share"].max() == 0.0


def test_time_is_read_in_steps_pairs_or_device_seconds() -> None:
    made = runs_of({"base": [[0.0, 0.5, 0.9, 0.9, 0.9]] * 2, "arm": [[0.9] * 5] * 2}, 0.8)
    rate = {"base0": 1.0, "base1": 3.0, "arm0": 0.5, "arm1": 0.5}  # seconds a step
    beside = [(run, "seconds", step, rate[run] * step) for run in rate for step in STEPS]
    beside += [(run, "samples_seen", step, 8.0 * step) for run in rate for step in STEPS]
    beside += [(run, "perf/device_seconds", 50, 2 * rate[run] * 50) for run in rate]  # two devices each
    metrics = pl.concat([made.metrics, pl.DataFrame(beside, schema=METRICS, orient="row")])
    by_pairs = speed(replace(made, metrics=metrics, over="pairs"))
    assert by_pairs["time"].to_list() == [240.0, 80.0]
    by_seconds = {row["arm"]: row for row in speed(replace(made, metrics=metrics, over="seconds")).to_dicts()}
    # All arms had 50 device-seconds, in which no seed of the baseline reaches the target (60 and 180).
    assert (by_seconds["base"]["reached"], by_seconds["base"]["time"]) == (0, 50.0)
    assert (by_seconds["arm"]["reached"], by_seconds["arm"]["time"]) == (2, 10.0)
    curve = mean_curves(replace(made, metrics=metrics, over="seconds"), "val/itm_auc")
    assert curve.filter(pl.col("arm") == "base")["time"].to_list() == [40.0, 80.0, 120.0, 160.0, 200.0]


def test_a_target_of_a_loss_is_reached_from_above() -> None:
    made = runs_of({"base": [[3.0, 2.0, 1.0, 1.0, 1.0]] * 2, "arm": [[3.0, 1.0, 0.9, 0.8, 0.7]] * 2}, 1.5)
    about = made.experiment | {"target": {"metric": "val/mlm_loss", "value": 1.5}}
    losses = made.metrics.with_columns(metric=pl.lit("val/mlm_loss"))
    made = replace(made, experiment=about, metrics=losses)
    assert speed(made)["time"].to_list() == [30.0, 20.0]
    assert targets(made, "val/mlm_loss")[0] > targets(made, "val/mlm_loss")[-1] > 1.0
