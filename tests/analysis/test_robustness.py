"""Losses above chance, by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import logit

from analysis.families import judge
from analysis.robustness import at_floor, clean_and_disturbed, derived, losses, section, split
from analysis.summaries import with_summaries
from tests.analysis.toy import toy_findings_runs
from workbench.record import TrialTags


def scored(arm: str, clean: float, *disturbed: float, seed: int = 0) -> list[dict[str, Any]]:
    values = {("clean", 0): clean} | {(f"kind{place}", 1): value for place, value in enumerate(disturbed)}
    return [{"arm": arm, "seed": seed, "kind": k, "severity": s, "value": v} for (k, s), v in values.items()]


def of(frame: pl.DataFrame) -> dict[tuple[str, str], float]:
    return {(row["arm"], row["metric"]): row["value"] for row in derived(frame, "base").to_dicts()}


def test_summaries_by_hand() -> None:
    summaries = of(pl.DataFrame(scored("base", 0.9, 0.8, 0.6) + scored("arm", 0.8, 0.9, 0.5)))
    assert summaries["base", "corruption_error"] == pytest.approx(1.0)
    assert summaries["arm", "corruption_error"] == pytest.approx((0.1 + 0.5) / (0.2 + 0.4))
    assert summaries["base", "effective_robustness"] == pytest.approx(0.0)
    kept = (0.7 - 0.5) / (0.9 - 0.5)
    assert summaries["arm", "effective_robustness"] == pytest.approx(logit(0.7) - logit(0.5 + kept * 0.3))
    assert summaries["arm", "robustness_mean_drop"] == pytest.approx((-0.1 + 0.3) / 0.3 / 2)


def test_an_arm_that_loses_the_same_share_above_chance_is_not_called_more_robust() -> None:
    """One learned nearly nothing: at .66 it loses as much of its signal as the other at .99."""
    share = 0.6
    rows = []
    for arm, clean in (("base", 0.99), ("weak", 0.66)):
        for seed in range(8):
            here = clean - 0.002 * seed
            rows += scored(arm, here, 0.5 + share * (here - 0.5), 0.5 + share * (here - 0.5), seed=seed)
    means = derived(pl.DataFrame(rows), "base").group_by("arm", "metric").agg(pl.col("value").mean())
    by_arm = {(row["arm"], row["metric"]): row["value"] for row in means.to_dicts()}
    assert by_arm["weak", "effective_robustness"] == pytest.approx(0.0, abs=1e-9)
    assert by_arm["weak", "robustness_mean_drop"] == pytest.approx(by_arm["base", "robustness_mean_drop"])


def test_a_kind_in_which_the_baseline_makes_no_error_does_not_decide() -> None:
    summaries = of(pl.DataFrame(scored("base", 1.0, 1.0, 0.6) + scored("arm", 1.0, 0.99, 0.6)))
    assert summaries["arm", "corruption_error"] == pytest.approx(0.41 / 0.4)


def test_with_a_chance_of_zero_the_loss_is_mmi() -> None:
    frame = pl.DataFrame(scored("base", 0.8, 0.6, 0.2))
    assert losses(frame, chance=0.0)["value"].to_list() == pytest.approx([0.25, 0.75])


def test_what_is_at_chance_has_no_loss_and_is_marked() -> None:
    rows = []
    for seed in range(8):
        rows += scored("base", 0.9, 0.8, 0.5 + 0.003 * (-1) ** seed, seed=seed) + scored(
            "lost", 0.51, 0.5, 0.5, seed=seed
        )
    frame = pl.DataFrame(rows)
    assert set(losses(frame)["arm"]) == {"base"}
    floors = {(row["arm"], row["kind"]): row["floor"] for row in at_floor(frame).to_dicts()}
    assert floors == {
        ("base", "kind0"): False,
        ("base", "kind1"): True,
        ("lost", "kind0"): True,
        ("lost", "kind1"): True,
    }


def test_the_section_names_its_split_and_marks_what_differs() -> None:
    runs = toy_findings_runs(3, 8)
    robustness = section(runs)
    assert robustness is not None
    assert robustness.split == "test"
    drops = robustness.frames["robustness"]
    assert (drops.filter(pl.col("arm") != runs.baseline)["verdict"] == "higher").all()
    old = replace(runs, tags={run: TrialTags(study="s", seed=0, cell="a", arm="a") for run in runs.trials["run_id"]})
    assert split(old) == "validation"
    points = clean_and_disturbed(robustness.frames["robustness_values"])
    assert np.allclose(
        points["clean"] - points["disturbed"], [0.03 * (1 + runs.arms.index(arm)) for arm in points["arm"]]
    )


def test_effective_robustness_is_paired_so_that_its_error_rate_holds() -> None:
    """Equal retention, the arm's clean score above the baseline's: against the baseline's mean over seeds a tenth would
    be called different."""
    rng = np.random.default_rng(0)
    claimed = []
    for _ in range(150):
        rows = []
        for arm, clean in (("base", 0.7), ("arm", 0.9)):
            for seed in range(10):
                kept = 0.5 + 0.05 * rng.normal()
                rows += scored(arm, clean, 0.5 + kept * (clean - 0.5), seed=seed)
        effective = derived(pl.DataFrame(rows), "base").filter(metric="effective_robustness")
        values = effective.pivot("arm", index="seed", values="value").sort("seed")
        assert np.abs(values["base"].to_numpy()).max() < 1e-9
        claimed.append(judge((values["arm"] - values["base"]).to_numpy()[:, None]).adjusted[0] <= 0.05)
    assert np.mean(claimed) <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5


def test_a_baseline_at_chance_and_arms_that_only_diverged_are_reported() -> None:
    runs = toy_findings_runs(3, 8)
    level = replace(
        runs,
        metrics=runs.metrics.with_columns(
            value=pl.when(pl.col("metric").str.starts_with("robustness/")).then(0.5).otherwise("value")
        ),
    )
    assert section(with_summaries(level)) is not None
    for arm in runs.arms[:2]:
        outcome = pl.when(pl.col("arm") == arm).then(pl.lit("diverged")).otherwise("outcome")
        robustness = section(with_summaries(replace(runs, trials=runs.trials.with_columns(outcome=outcome))))
        assert robustness is not None
        if arm != runs.baseline:
            assert f"{arm} loses more than the baseline: diverged trials are ranked worst." in robustness.points
