"""Aggregates against the rliable package, and by hand."""

import numpy as np
import polars as pl
import pytest

from analysis import aggregates
from analysis.runs import METRICS, TRIALS, Runs

library = pytest.importorskip("rliable.library", reason="rliable is not installed")
reference = pytest.importorskip("rliable.metrics", reason="rliable is not installed")


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.beta(a, 3, size=(7, 5)) for name, a in (("base", 3.0), ("arm", 4.0))}


def test_aggregates_are_those_of_rliable(scores: dict[str, np.ndarray]) -> None:
    for each in scores.values():
        assert aggregates.iqm(each) == pytest.approx(reference.aggregate_iqm(each), abs=1e-9)
        assert aggregates.mean(each) == pytest.approx(reference.aggregate_mean(each), abs=1e-9)
        assert aggregates.median(each) == pytest.approx(reference.aggregate_median(each), abs=1e-9)
    ours = aggregates.probability_of_improvement(scores["arm"], scores["base"])
    assert ours == pytest.approx(reference.probability_of_improvement(scores["arm"], scores["base"]), abs=1e-9)
    thresholds = np.linspace(0, 1, 21)
    theirs, _ = library.create_performance_profile({"arm": scores["arm"]}, thresholds, reps=10)
    assert aggregates.performance_profile(scores["arm"], thresholds) == pytest.approx(theirs["arm"], abs=1e-9)


def test_intervals_are_those_of_rliable_but_for_chance(scores: dict[str, np.ndarray]) -> None:
    _, theirs = library.get_interval_estimates(
        {"arm": scores["arm"]}, lambda x: np.array([reference.aggregate_iqm(x)]), reps=4000,
        random_state=np.random.RandomState(1),
    )  # fmt: skip
    ours = aggregates.stratified_interval(scores["arm"], aggregates.iqm, 4000)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs["arm"][:, 0]), abs=0.012)
    _, theirs = library.get_interval_estimates(
        {"x": (scores["arm"], scores["base"])}, reference.probability_of_improvement, reps=2000,
        random_state=np.random.RandomState(1),
    )  # fmt: skip
    found = aggregates.improvement_interval(scores["arm"], scores["base"], 2000)
    assert (found.low, found.high) == pytest.approx(tuple(np.ravel(theirs["x"])), abs=0.03)


def test_the_middle_half_by_hand() -> None:
    assert aggregates.iqm(np.array([[0.0, 0.2], [0.4, 9.0]])) == pytest.approx(0.3)
    assert aggregates.probability_of_improvement(np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]])) == 7 / 8


def test_tables_take_whole_seeds_only() -> None:
    trials = pl.DataFrame(
        [(f"{arm}{seed}", "n", "FINISHED", arm, seed) for arm in ("base", "arm") for seed in range(3)],
        schema=TRIALS,
        orient="row",
    )
    rows = [
        (f"{arm}{seed}", f"val/foil/{kind}", 9, 0.5 + 0.1 * (arm == "arm") + 0.01 * seed)
        for arm in ("base", "arm")
        for seed in range(3)
        for kind in ("swap", "add")
        if (arm, seed, kind) != ("arm", 2, "swap")
    ]
    runs = Runs("r", "r", {"baseline_arm": "base"}, trials, pl.DataFrame(rows, schema=METRICS, orient="row"))
    arrays = aggregates.score_arrays(runs)
    assert {arm: each.shape for arm, each in arrays.items()} == {"base": (3, 2), "arm": (2, 2)}
    table = aggregates.aggregate_table(arrays, "base")
    assert table.filter(aggregate="probability of improvement", arm="arm")["value"].item() == 1.0
    assert table.filter(aggregate="IQM", arm="base")["value"].item() == pytest.approx(0.51)
    profile = aggregates.profile_table(arrays, 11)
    assert profile.group_by("arm").agg(pl.col("share").first())["share"].max() == 1.0
    assert profile.height == 22
