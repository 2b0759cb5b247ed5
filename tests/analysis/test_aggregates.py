"""Aggregates against the rliable package, and by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis import aggregates
from analysis.foils import at_chance, suite_table
from analysis.runs import METRICS, TRIALS, Runs
from tests.analysis.toy import toy_findings_runs
from workbench.record import SweepRecord

library = pytest.importorskip("rliable.library", reason="rliable is not installed")
reference = pytest.importorskip("rliable.metrics", reason="rliable is not installed")


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.beta(a, 3, size=(7, 5)) for name, a in (("base", 3.0), ("arm", 4.0))}


def test_aggregates_are_those_of_rliable(scores: dict[str, np.ndarray]) -> None:
    for of_arm in scores.values():
        assert aggregates.iqm(of_arm) == pytest.approx(reference.aggregate_iqm(of_arm), abs=1e-9)
        assert aggregates.mean(of_arm) == pytest.approx(reference.aggregate_mean(of_arm), abs=1e-9)
        assert aggregates.median(of_arm) == pytest.approx(reference.aggregate_median(of_arm), abs=1e-9)
    ours = aggregates.probability_of_improvement(scores["arm"], scores["base"])
    assert ours == pytest.approx(reference.probability_of_improvement(scores["arm"], scores["base"]), abs=1e-9)
    thresholds = np.linspace(0, 1, 21)
    theirs, _ = library.create_performance_profile({"arm": scores["arm"]}, thresholds, reps=10)
    assert aggregates.performance_profile(scores["arm"], thresholds) == pytest.approx(theirs["arm"], abs=1e-9)


def test_intervals_are_those_of_rliable_where_there_is_one_kind(scores: dict[str, np.ndarray]) -> None:
    """Of one kind rliable draws whole seeds, too; ours are widened for few seeds."""
    one = {name: np.repeat(of_arm[:, :1], 40, axis=0) for name, of_arm in scores.items()}
    _, theirs = library.get_interval_estimates(
        {"arm": one["arm"]}, lambda x: np.array([reference.aggregate_iqm(x)]), reps=4000,
        random_state=np.random.RandomState(1),
    )  # fmt: skip
    ours = aggregates.seed_interval(one["arm"], aggregates.iqm, 4000)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs["arm"][:, 0]), abs=0.012)
    _, theirs = library.get_interval_estimates(
        {"x": (one["arm"], one["base"])}, reference.probability_of_improvement, reps=2000,
        random_state=np.random.RandomState(1),
    )  # fmt: skip
    interval = aggregates.improvement_interval(one["arm"], one["base"], 2000)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.ravel(theirs["x"])), abs=0.03)


def test_the_middle_half_by_hand() -> None:
    assert aggregates.iqm(np.array([[0.0, 0.2], [0.4, 9.0]])) == pytest.approx(0.3)
    assert aggregates.probability_of_improvement(np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]])) == 7 / 8


def test_tables_take_whole_seeds_only() -> None:
    trials = pl.DataFrame(
        [(f"{arm}{seed}", "n", "FINISHED", arm, seed, "finished") for arm in ("base", "arm") for seed in range(3)],
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
    runs = Runs("r", "r", SweepRecord(baseline_arm="base"), trials, pl.DataFrame(rows, schema=METRICS, orient="row"))
    arrays = aggregates.score_arrays(runs, runs.names("val/foil/"))
    assert {arm: array.shape for arm, array in arrays.items()} == {"base": (3, 2), "arm": (2, 2)}
    table = aggregates.aggregate_table(arrays, "base")
    assert table.filter(aggregate="probability of improvement", arm="arm")["value"].item() == 1.0
    assert table.filter(aggregate="IQM", arm="base")["value"].item() == pytest.approx(0.51)
    profile = aggregates.profile_table(arrays, 11)
    assert profile.group_by("arm").agg(pl.col("share").first())["share"].max() == 1.0
    assert profile.height == 22


def test_kinds_that_every_arm_guesses_are_shown_apart_and_do_not_enter_the_mean() -> None:
    runs = toy_findings_runs(3, 4)
    even = pl.col("run_id").str.slice(-1).cast(pl.Int64) % 2 == 0
    coin = pl.when(even).then(0.51).otherwise(0.49)
    guessed = runs.metrics.with_columns(
        value=pl.when(pl.col("metric") == "compositional/scenes/swap_arguments").then(coin).otherwise("value")
    )
    runs = replace(runs, metrics=guessed)
    assert at_chance(suite_table(runs, "scenes")) == ["swap_arguments"]
    section = aggregates.section(runs)
    assert section is not None
    assert "left out, since at chance in every arm: swap arguments" in section.lead[0]
    shown = section.frames["aggregates"].filter(aggregate="mean", arm=runs.baseline)["value"].item()
    kept = [
        runs.final(f"compositional/scenes/{kind}").filter(arm=runs.baseline)["value"].to_numpy().mean()
        for kind in ("replace_colour", "replace_object")
    ]
    assert shown == pytest.approx(np.mean(kept))


def test_a_kind_is_not_called_guessed_for_want_of_seeds() -> None:
    table = pl.DataFrame(
        {
            "arm": ["a", "b"] * 2,
            "kind": ["wide", "wide", "near", "near"],
            "low": [0.3, 0.4, 0.48, 0.47],
            "high": [0.9, 0.8, 0.52, 0.51],
            "chance": [0.5] * 4,
        }
    )
    assert at_chance(table) == ["near"]
