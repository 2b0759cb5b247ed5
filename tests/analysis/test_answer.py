"""What the answer says: one sentence that follows from the table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.contrasts import answer, divergence, planning_table, section
from analysis.paired import compare
from analysis.power import seeds_needed
from analysis.report import render
from analysis.runs import Runs
from analysis.summaries import with_summaries
from analysis.topics import sections
from analysis.wording import amount
from tests.analysis.toy import sweep_of
from workbench.metrics import metric

RATIO = "objectives.itm.hard_ratio"
NOISE = np.array([0.004, -0.003, 0.002, -0.004, 0.001, 0.003, -0.002, -0.001])
BASE = 0.75 + 0.01 * np.arange(8) / 8


def swept(shifts: dict[float, float | None], seeds: int = 8, noise: float = 1.0, **about: Any) -> Runs:
    """One factor; each level's values are the baseline's with a shift and some noise; None: all trials diverged."""
    rows: dict[str, list[float | str | None]] = {"hard_ratio=0.0": list(BASE[:seeds])}
    for level, shift in shifts.items():
        own = [float(value) for value in BASE + (shift or 0.0) + noise * np.roll(NOISE, int(100 * level))]
        rows[f"hard_ratio={level}"] = list(own[:seeds]) if shift is not None else ["diverged"] * seeds
    values = {arm: {RATIO: float(arm.partition("=")[2])} for arm in rows}
    return sweep_of(rows, "test/foil_accuracy", arm_values=values, **about)


def said(runs: Runs) -> str:
    return answer(runs, compare(runs, [runs.record.primary], runs.record.margin))


def test_the_answer_is_one_sentence() -> None:
    runs = swept({0.25: 0.0, 0.75: -0.025, 1.0: -0.165}, margin=0.02)
    assert (
        said(runs)
        == "No hard ratio is shown to raise foil accuracy; 0.75 and 1 lower it by 2.5 and 16.5 points; 0.25 is"
        " equivalent to the baseline within 2.0 points."
    )


@pytest.mark.parametrize(
    ("shifts", "about", "wanted"),
    [
        ({0.5: 0.03}, {}, "0.5 raises foil accuracy by 3.0 points."),
        ({0.5: 0.03, 1.0: -0.04}, {}, "0.5 raises foil accuracy by 3.0 points; 1 lowers it by 4.0 points."),
        ({0.5: 0.01}, {"margin": 0.02}, "0.5 raises foil accuracy by 1.0 points, less than the margin."),
        ({0.5: 0.0}, {}, "No hard ratio is shown to change foil accuracy; 0.5 is undecided."),
        (
            {0.5: 0.0},
            {"margin": 0.02},
            "No hard ratio is shown to change foil accuracy; 0.5 is equivalent to the baseline within 2.0 points.",
        ),
        (
            {0.5: None},
            {},
            "No hard ratio is shown to raise foil accuracy; 0.5 lowers it with diverged trials ranked worst.",
        ),
    ],
)
def test_each_verdict_in_words(shifts: dict[float, float | None], about: dict[str, Any], wanted: str) -> None:
    assert said(swept(shifts, **about)) == wanted


def test_too_few_seeds_are_named_and_nothing_is_claimed() -> None:
    runs = swept({0.5: -0.2}, seeds=4)
    assert said(runs) == "0.5 has 4 paired seeds of foil accuracy, too few for a verdict (6 are needed)."
    assert "1 paired seed of" in said(swept({0.5: -0.2}, seeds=1))


def test_a_baseline_with_half_of_its_seeds_gives_no_verdict_of_eight() -> None:
    runs = swept({0.5: -0.2})
    runs = sweep_of({"base": [*BASE[:4], *[None] * 4], "arm": list(BASE - 0.2)}, "test/foil_accuracy")
    row = compare(runs, ["test/foil_accuracy"]).row(1, named=True)
    assert (row["seeds"], row["paired"], row["verdict"]) == (8, 4, "too few seeds")
    assert "4 paired seeds" in said(runs)


def test_a_baseline_without_a_value_is_told_as_that() -> None:
    rows: dict[str, list[float | str | None]] = {"base": ["diverged"] * 8, "arm": list(BASE)}
    told = said(sweep_of(rows, "test/foil_accuracy"))
    assert "Only the baseline" not in told
    assert (
        told == "The baseline base diverged in every trial; arm raises foil accuracy with diverged trials ranked worst."
    )
    few = said(sweep_of({"base": ["diverged"] * 3, "arm": [0.5, 0.6, 0.7]}, "test/foil_accuracy"))
    assert few.startswith("The baseline base diverged in every trial; arm has 0 paired seeds")
    alone = said(sweep_of({"base": ["diverged"] * 8}, "test/foil_accuracy"))
    assert alone == "base has no final value of foil accuracy: 8 of 8 trials diverged."
    missing = said(sweep_of({"base": [None] * 8, "arm": list(BASE)}, "test/foil_accuracy"))
    assert "not compared" in missing


@pytest.mark.parametrize("metric", ["test/foil_accuracy", "val/mlm_loss"])
@pytest.mark.parametrize("arms", [2, 4])
def test_a_sweep_all_of_which_diverged_has_a_report(metric: str, arms: int, tmp_path: Path) -> None:
    rate = "optimisation.learning_rate"
    levels = {f"learning_rate={place + 1}": {rate: float(place + 1)} for place in range(arms)}
    runs = with_summaries(sweep_of({arm: ["diverged"] * 6 for arm in levels}, metric, arm_values=levels))
    page = render(sections(runs), runs, tmp_path)
    assert f"Every trial diverged, {6 * arms} trials in all" in page.with_suffix(".md").read_text()


def test_divergence_is_told_with_a_sensitivity_row() -> None:
    rows: dict[str, list[float | str | None]] = {
        "base": list(BASE),
        "arm": [*(BASE[:6] + 0.02 + NOISE[:6]), "diverged", "diverged"],
    }
    runs = sweep_of(rows, "test/foil_accuracy")
    assert divergence(runs) == ["2 of 8 trials of arm diverged, without a final value."]
    made = section(runs)
    table = next(table for table in made.tables if table.caption == "Sensitivity to divergence")
    assert len(table.rows) == 2
    row = made.frames["contrasts"].row(1, named=True)
    assert row["ranked"]
    assert row["verdict"] == "undecided"  # six of eight are better, the two that diverged are worse than all


def test_planning_is_about_the_margin_and_not_about_what_was_seen() -> None:
    one, other = (swept({0.5: shift, 1.0: 0.0}, margin=0.01) for shift in (0.0, -0.1))
    tables = [planning_table(compare(runs, [runs.record.primary]).slice(1), 0.01) for runs in (one, other)]
    assert tables[0].equals(tables[1])
    row = tables[0].row(0, named=True)
    assert row["seeds_needed"] == seeds_needed(round(0.01 / row["spread"], 2), 2)
    assert 0 <= row["power"] <= 1
    two = swept({0.5: 0.0}, seeds=2, margin=0.01)
    assert planning_table(compare(two, [two.record.primary]).slice(1), 0.01)["power"].to_list() == [0.0]
    assert planning_table(compare(one, [one.record.primary]).slice(1), None).is_empty()


def test_metrics_of_which_less_is_better_rank_divergence_as_much() -> None:
    rows: dict[str, list[float | str | None]] = {"base": list(1 + BASE), "arm": ["diverged"] * 8}
    row = compare(sweep_of(rows, "val/mlm_loss"), ["val/mlm_loss"]).row(1, named=True)
    assert row["verdict"] == "higher"


def test_a_family_is_what_is_compared_at_once() -> None:
    rng = np.random.default_rng(0)
    runs = sweep_of({"base": list(rng.normal(0.7, 0.01, 8)), "arm": list(rng.normal(0.71, 0.01, 8))})
    noise = [rng.normal(0.7, 0.01, 16) for _ in range(30)]
    more = pl.concat(
        [
            runs.metrics,
            *(
                runs.metrics.with_columns(metric=pl.lit(f"val/m{k}"), value=pl.Series(values_of_metric))
                for k, values_of_metric in enumerate(noise)
            ),
        ]
    )
    runs = replace(runs, metrics=more)
    alone = compare(runs, ["val/itm_auc"]).row(1, named=True)
    among = (
        compare(runs, ["val/itm_auc", *(f"val/m{k}" for k in range(30))])
        .filter(metric="val/itm_auc")
        .row(1, named=True)
    )
    assert alone["p"] == among["p"]
    assert alone["p_adjusted"] < among["p_adjusted"]
    assert alone["all_high"] - alone["all_low"] < among["all_high"] - among["all_low"]


def test_divergence_ranks_nothing_where_a_side_does_not_have_the_metric() -> None:
    rows: dict[str, list[float | str | None]] = {
        "base": list(BASE),
        "x": [0.7, 0.7, *["diverged"] * 6],
        "y": list(BASE),
    }
    runs = sweep_of(rows)
    others = runs.metrics.filter(~pl.col("run_id").str.starts_with("base")).with_columns(
        metric=pl.lit("test/synthesized_accuracy")
    )
    frame = compare(replace(runs, metrics=others), ["test/synthesized_accuracy"])
    assert dict(zip(frame["arm"], frame["verdict"], strict=True)) == {
        "base": "baseline",
        "x": "no value",
        "y": "no value",
    }


def test_a_ranked_row_has_no_interval_over_all_arms_and_no_planning() -> None:
    rows: dict[str, list[float | str | None]] = {
        "base": list(BASE),
        "x": [*(BASE[:7] - 0.1), "diverged"],
        "y": list(BASE + 0.01 + NOISE),
    }
    frame = compare(sweep_of(rows), ["val/itm_auc"], 0.02)
    x = frame.row(by_predicate=pl.col("arm") == "x", named=True)
    assert (x["ranked"], x["verdict"], x["all_low"]) == (True, "lower", None)
    assert planning_table(frame.slice(1), 0.02)["arm"].to_list() == ["y"]


@pytest.mark.parametrize(
    ("value", "name", "wanted"),
    [
        (0.0002, "val/itm_auc", "0.02 points"),
        (0.00004, "val/mlm_loss", "4e-05 nats"),
        (1.07, "val/generator_perplexity", "1.070"),
    ],
)
def test_a_small_amount_is_never_zero(value: float, name: str, wanted: str) -> None:
    assert amount(value, metric(name)) == wanted
