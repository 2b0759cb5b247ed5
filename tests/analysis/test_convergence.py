"""Times to a target: by hand, and against lifelines."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.convergence import (
    AT_LEAST,
    AT_MOST,
    DIVERGED,
    FASTER,
    FORBIDDEN,
    INCOMPARABLE,
    LEFT,
    MISSED,
    REACHED,
    SLOWER,
    crossing,
    curve_area,
    fraction_reached,
    horizon,
    mean_curves,
    ratios,
    section,
    sentences,
    speed,
    speed_over_targets,
    target_value,
    targets,
    time_profile,
    times_to,
)
from analysis.runs import METRICS, Runs
from tests.analysis.toy import curves_of

STEPS = (10, 20, 30, 40, 50)
AUC = "val/itm_auc"


def at(runs: Runs, target: float = 0.8) -> dict[str, dict[str, Any]]:
    return {row["arm"]: row for row in speed(runs, times_to(runs, AUC, target)).iter_rows(named=True)}


@pytest.fixture(scope="module")
def runs() -> Runs:
    rng = np.random.default_rng(0)
    curves = {
        arm: [list(0.5 + 0.4 * (1 - np.exp(-np.array(STEPS) / scale)) + rng.normal(0, 0.01, 5)) for _ in range(9)]
        for arm, scale in (("base", 25), ("fast", 12), ("slow", 60))
    }
    return curves_of(curves, STEPS, 0.78)


def reached(time: float) -> tuple[str, Any]:
    return REACHED, pytest.approx(time)


def test_a_target_must_be_held_twice_and_its_time_is_interpolated() -> None:
    steps = np.array([10.0, 20, 30, 40, 50])
    assert crossing(steps, np.array([0.1, 0.9, 0.1, 0.7, 0.9]), 0.8) == reached(45.0)
    assert crossing(steps, np.array([0.1, 0.7, 0.9, 0.9, 0.9]), 0.8) == reached(25.0)
    assert crossing(steps, np.array([0.9, 0.9, 0.1, 0.1, 0.1]), 0.8) == (LEFT, 10.0)
    assert crossing(steps, np.array([0.1, 0.9, 0.1, 0.1, 0.1]), 0.8) == (MISSED, 50.0)
    assert crossing(steps, np.array([3.0, 2.0, 1.0, 1.0, 1.0]), 1.5, lower=True) == reached(25.0)


def test_the_restricted_mean_is_lifelines(runs: Runs) -> None:
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    times = times_to(runs, AUC, 0.78)
    for row in ratios(runs, times).iter_rows(named=True):
        own = times.filter(pl.col("arm") == row["arm"])["time"]
        fitter = lifelines.KaplanMeierFitter().fit(own.fill_null(50.0).to_list(), own.is_not_null().to_list())
        mean = lifelines.utils.restricted_mean_survival_time(fitter, t=horizon(times))
        assert row["time"] == pytest.approx(mean, abs=1e-6)


def test_speed_at_one_target_and_over_many(runs: Runs) -> None:
    speeds = at(runs, 0.78)
    assert speeds["fast"]["speed_up"] > 1 > speeds["slow"]["speed_up"]
    assert (speeds["fast"]["verdict"], speeds["slow"]["verdict"]) == (FASTER, SLOWER)
    many = speed_over_targets(runs, AUC)
    assert many["target"].unique().sort().to_list() == pytest.approx(sorted(targets(runs, AUC)))
    best = {arm: part["share"].to_list() for (arm,), part in time_profile(many).group_by("arm")}
    assert best["fast"][0] == 1.0
    assert best["slow"][0] < 1.0
    assert all(share == sorted(share) for share in best.values())


def test_by_hand() -> None:
    runs = curves_of(
        {"base": [[0.0, 0.6, 1.0, 0.9, 0.9], [0.0, 0.1, 0.2, 0.3, 0.4]], "arm": [[0.6, 1.0, 0.9, 0.9, 0.9]] * 2},
        STEPS,
        0.8,
    )
    rows = at(runs)
    assert (rows["base"]["reached"], rows["base"]["time"]) == (1, (25 + 50) / 2)
    assert (rows["arm"]["time"], rows["arm"]["bound"]) == (15.0, AT_LEAST)
    assert rows["arm"]["speed_up"] == pytest.approx((25 / 15 * 50 / 15) ** 0.5)
    area = curve_area(runs.curves(AUC))
    assert area.filter(arm="base", seed=1)["value"].item() == pytest.approx((0.05 + 0.15 + 0.25 + 0.35) / 4)


RISES, LATE, NEVER = [0.0, 0.6, 1.0, 1.0, 1.0], [0.0, 0.0, 0.6, 1.0, 1.0], [0.0, 0.1, 0.1, 0.1, 0.1]


def test_bounds_follow_from_which_side_misses() -> None:
    some = {"base": [RISES] * 8, "late": [LATE] * 7 + [NEVER]}
    assert (at(curves_of(some, STEPS, 0.8))["late"]["bound"], at(curves_of(some, STEPS, 0.8))["late"]["verdict"]) == (
        AT_MOST,
        SLOWER,
    )
    other = {"base": [LATE] * 7 + [NEVER], "early": [RISES] * 8}
    assert (
        at(curves_of(other, STEPS, 0.8))["early"]["bound"],
        at(curves_of(other, STEPS, 0.8))["early"]["verdict"],
    ) == (AT_LEAST, FASTER)
    both = {"base": [NEVER, *[RISES] * 7], "late": [*[LATE] * 7, NEVER]}
    assert at(curves_of(both, STEPS, 0.8))["late"]["verdict"] == INCOMPARABLE


def test_where_nobody_reaches_the_target_there_is_no_ratio() -> None:
    runs = curves_of({"base": [NEVER] * 8, "arm": [NEVER] * 8}, STEPS, 0.8)
    row = at(runs)["arm"]
    assert (row["bound"], row["speed_up"], row["low"]) == (INCOMPARABLE, None, None)
    said = sentences(speed(runs, times_to(runs, AUC, 0.8)))
    assert "0 of 8 seeds reach it; no ratio" in said[1]
    assert fraction_reached(runs, times_to(runs, AUC, 0.8))["share"].max() == 0.0


def test_a_short_arm_censors_no_other() -> None:
    """An arm that diverges at step 20 leaves the others their whole time."""
    runs = curves_of(
        {"base": [LATE] * 8, "arm": [RISES] * 8, "short": [[0.0, 0.0]] * 8},
        STEPS,
        0.8,
        tuple(f"short{seed}" for seed in range(8)),
    )
    rows = at(runs)
    assert (rows["base"]["reached"], rows["arm"]["reached"]) == (8, 8)
    assert (rows["short"]["diverged"], rows["short"]["reached"]) == (8, 0)
    assert (rows["short"]["bound"], rows["short"]["verdict"]) == (AT_MOST, SLOWER)
    assert rows["arm"]["speed_up"] == pytest.approx(35 / 25)
    assert horizon(times_to(runs, AUC, 0.8)) == 50.0
    assert "8 diverge before" in sentences(speed(runs, times_to(runs, AUC, 0.8)))[2]


def test_divergence_competes_with_reaching() -> None:
    runs = curves_of({"base": [RISES, RISES, [0.0, 0.0], NEVER]}, STEPS, 0.8, ("base2",))
    times = times_to(runs, AUC, 0.8)
    assert times["event"].to_list() == [REACHED, REACHED, DIVERGED, MISSED]
    assert fraction_reached(runs, times)["share"].max() == pytest.approx(0.5)  # Kaplan and Meier would say 2/3


def test_where_nothing_rises_there_are_no_targets() -> None:
    flat = curves_of({"base": [[0.5] * 5] * 2, "arm": [[0.5] * 5] * 2}, STEPS, 0.9)
    assert targets(flat, AUC) == []
    assert speed_over_targets(flat, AUC).is_empty()
    assert time_profile(speed_over_targets(flat, AUC)).is_empty()


def test_the_profile_gives_no_credit_where_fewer_than_half_of_the_seeds_reach() -> None:
    runs = curves_of({"base": [RISES] * 5, "arm": [[1.0] * 5, [1.0] * 5, NEVER, NEVER, NEVER]}, STEPS, 0.8)
    row = ratios(runs, times_to(runs, AUC, 0.8)).with_columns(target=pl.lit(0.8))
    shares = dict(time_profile(row).group_by("arm").agg(pl.col("share").max()).iter_rows())
    assert shares == {"base": 1.0, "arm": 0.0}


def test_time_is_read_in_steps_pairs_or_device_seconds() -> None:
    runs = curves_of({"base": [RISES] * 2, "arm": [RISES] * 2}, STEPS, 0.8)
    rate = {"base0": 1.0, "base1": 3.0, "arm0": 0.5, "arm1": 1.5}  # seconds a step
    beside = [(run, "seconds", step, rate[run] * step) for run in rate for step in STEPS]
    beside += [(run, "samples_seen", step, 8.0 * step) for run in rate for step in STEPS]
    beside += [(run, "perf/device_seconds", 50, 2 * rate[run] * 50) for run in rate]  # two devices each
    metrics = pl.concat([runs.metrics, pl.DataFrame(beside, schema=METRICS, orient="row")])
    by_pairs = replace(runs, metrics=metrics, over="pairs")
    assert [at(by_pairs)[arm]["time"] for arm in ("base", "arm")] == [200.0, 200.0]
    by_seconds = replace(runs, metrics=metrics, over="seconds")
    assert at(by_seconds)["arm"]["speed_up"] == pytest.approx(2.0)  # although the arm's runs end in half of the time
    assert at(by_seconds)["arm"]["bound"] == ""
    curve = mean_curves(by_seconds, AUC)
    assert curve.filter(pl.col("arm") == "base")["time"].to_list() == [40.0, 80.0, 120.0, 160.0, 200.0]


def test_the_baselines_target_lies_between_chance_and_its_last_value() -> None:
    runs = curves_of({"base": [[0.6, 0.7, 0.8, 0.88, 0.9], [0.6, 0.7, 0.8, 0.88, 0.94]]}, STEPS, "baseline_final")
    name, target = target_value(runs)
    assert name == AUC
    assert target == pytest.approx(0.5 + 0.8 * (0.92 - 0.5))
    losses = replace(
        runs,
        record=runs.record.model_copy(
            update={"target": runs.record.target.model_copy(update={"metric": "val/mlm_loss"})}
        ),
        metrics=runs.metrics.with_columns(metric=pl.lit("val/mlm_loss"), value=3 - pl.col("value")),
    )
    assert target_value(losses)[1] == pytest.approx(
        2.4 + 0.8 * (2.08 - 2.4)
    )  # no chance level: from the first evaluation


def test_a_diverged_seed_does_not_end_the_mean_curve_of_the_others() -> None:
    runs = curves_of({"base": [RISES, RISES, [0.0, 0.0]]}, STEPS, 0.8, ("base2",))
    curve = mean_curves(runs, AUC)
    assert curve["step"].to_list() == list(STEPS)
    assert curve["mean"].to_list() == pytest.approx(RISES)


def test_where_a_bound_leaves_the_direction_open_there_is_no_verdict_and_no_p() -> None:
    last, first = [0.0, 0.0, 0.0, 0.6, 1.0], [0.6, 1.0, 1.0, 1.0, 1.0]
    runs = curves_of({"base": [last] * 8, "arm": [*[first] * 7, NEVER]}, STEPS, 0.8)
    row = at(runs)["arm"]
    assert (row["bound"], row["verdict"], row["p_adjusted"]) == (AT_MOST, FORBIDDEN, None)
    assert (
        "no verdict, since the true ratio may lie on the other side of 1"
        in sentences(speed(runs, times_to(runs, AUC, 0.8)))[1]
    )


def test_divergence_is_later_than_whatever_was_reached() -> None:
    """Over seconds, the horizon of a fast arm is earlier than the time at which the slow baseline reaches the
    target."""
    runs = curves_of(
        {"base": [LATE] * 8, "fast": [RISES] * 8, "x": [[0.0]] * 8}, STEPS, 0.8, tuple(f"x{seed}" for seed in range(8))
    )
    rate = {"base": 2.0, "fast": 0.5, "x": 1.0}
    beside = [
        (f"{arm}{seed}", "seconds", step, rate[arm] * step) for arm in rate for seed in range(8) for step in STEPS
    ]
    runs = replace(
        runs, metrics=pl.concat([runs.metrics, pl.DataFrame(beside, schema=METRICS, orient="row")]), over="seconds"
    )
    assert at(runs)["base"]["time"] == 25.0  # the fast arm was given no more
    assert (at(runs)["x"]["bound"], at(runs)["x"]["verdict"]) == (AT_MOST, SLOWER)


def test_a_baseline_at_chance_sets_no_target() -> None:
    rng = np.random.default_rng(0)
    runs = curves_of({"base": [list(0.49 + 0.01 * rng.normal(size=5)) for _ in range(8)]}, STEPS, "baseline_final")
    assert np.isnan(target_value(runs)[1])
    told = section(runs)
    assert told is not None
    assert "no target" in told.lead[0]
