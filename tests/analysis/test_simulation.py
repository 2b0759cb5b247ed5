"""Simulated sweeps: how often the report's rules are wrong where nothing is there, and find what is there.

`pytest -rP tests/analysis/test_simulation.py` prints the figures.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from analysis.aggregates import mean, seed_interval
from analysis.convergence import AT_MOST, SLOWER, ratios, speed, target_value, times_to
from analysis.families import judge, worst_ranks
from analysis.paired import HIGHER, LOWER, compare
from analysis.power import power
from analysis.runs import Runs
from analysis.statistics import mean_interval
from tests.analysis.toy import curves_of, sweep_of
from workbench.significance import LEVEL

DRAWS = 160
NORMAL, T3, EXPONENTIAL = "normal", "t3", "exponential"


def error(share: float, count: int) -> float:
    """Three standard errors of a share that is estimated from `count` draws."""
    return 3 * math.sqrt(share * (1 - share) / count)


def values(rng: np.random.Generator, shape: tuple[int, ...], kind: str = NORMAL) -> np.ndarray:
    draw: dict[str, Callable[..., Any]] = {
        NORMAL: rng.normal,
        T3: lambda size: rng.standard_t(3, size),
        EXPONENTIAL: lambda size: rng.exponential(size=size),
    }
    return np.asarray(draw[kind](size=shape))


def null_differences(rng: np.random.Generator, seeds: int, arms: int, kind: str) -> np.ndarray:
    """Arms that all equal a baseline, which they share."""
    return values(rng, (seeds, arms), kind) - values(rng, (seeds, 1), kind)


def troubled(rng: np.random.Generator, differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same with ties, missing trials, and trials that diverge whatever the arm; and what is tested then."""
    tied = np.round(2 * differences) / 2
    arm, base = rng.random(tied.shape) < 0.15, rng.random((len(tied), 1)) < 0.15
    gone = rng.random(tied.shape) < 0.1
    tests = np.stack([worst_ranks(tied[:, k], arm[:, k], base[:, 0], False) for k in range(tied.shape[1])], axis=1)
    tests[gone] = np.nan
    return np.where(arm | base | gone, np.nan, tied), tests


@pytest.mark.parametrize("seeds", [2, 5, 6, 8, 12])
@pytest.mark.parametrize("arms", [1, 4, 8])
def test_without_effects_an_arm_is_claimed_in_at_most_five_per_cent(seeds: int, arms: int) -> None:
    rng = np.random.default_rng([seeds, arms])
    claimed: dict[str, list[bool]] = {"clean": [], "troubled": []}
    held = []
    for draw in range(DRAWS):
        differences = null_differences(rng, seeds, arms, (NORMAL, T3, EXPONENTIAL)[draw % 3])
        judged = judge(differences)
        claimed["clean"].append(bool((judged.adjusted <= LEVEL).any()))
        held.append(bool(((judged.low <= 0) & (judged.high >= 0)).all()))
        claimed["troubled"].append(bool((judge(*troubled(rng, differences)).adjusted <= LEVEL).any()))
    print(
        f"{seeds} seeds, {arms} arms: error {np.mean(claimed['clean']):.3f}, with trouble"
        f" {np.mean(claimed['troubled']):.3f}, coverage {np.mean(held):.3f}"
    )
    for claims in claimed.values():
        assert np.mean(claims) <= LEVEL + error(LEVEL, DRAWS)
    assert np.mean(held) >= 0.95 - error(0.05, DRAWS)


@pytest.mark.parametrize("seeds", [2, 4, 6, 7, 8, 12])
def test_simultaneous_intervals_hold_all_truths_as_often_as_they_say(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    held = []
    for _ in range(2 * DRAWS):
        truth = np.array([0.0, 1.5, -1.0, 0.0])
        judged = judge(null_differences(rng, seeds, 4, NORMAL) + truth)
        held.append(bool(((judged.low <= truth) & (judged.high >= truth)).all()))
    print(f"{seeds} seeds, 4 arms of which 2 differ: coverage {np.mean(held):.3f}")
    assert 0.93 - error(0.05, 2 * DRAWS) / 3 <= np.mean(held) <= 0.97 + error(0.05, 2 * DRAWS) / 3


@pytest.mark.parametrize(("seeds", "wanted"), [(6, 0.36), (7, 0.65), (8, 0.76)])
def test_six_seeds_can_reach_a_verdict_with_four_arms(seeds: int, wanted: float) -> None:
    """An effect of 1.5 standard deviations of the differences in one of four arms; Holm's adjustment has 0, 0 and
    .56."""
    rng = np.random.default_rng(seeds)
    claimed = []
    for _ in range(4 * DRAWS):
        differences = null_differences(rng, seeds, 4, NORMAL) / math.sqrt(2)
        differences[:, 0] += 1.5
        claimed.append(judge(differences).adjusted[0] <= LEVEL)
    print(f"{seeds} seeds: power {np.mean(claimed):.3f}")
    assert np.mean(claimed) >= wanted - error(wanted, 4 * DRAWS)
    assert power(1.5, seeds, 4) == pytest.approx(np.mean(claimed), abs=0.09)


def test_true_nulls_beside_true_effects_are_claimed_in_at_most_five_per_cent() -> None:
    rng = np.random.default_rng(1)
    wrong = []
    for _ in range(2 * DRAWS):
        differences = null_differences(rng, 8, 4, NORMAL)
        differences[:, :2] += 4.0
        wrong.append(bool((judge(differences).adjusted[2:] <= LEVEL).any()))
    print(f"partial null: error {np.mean(wrong):.3f}")
    assert np.mean(wrong) <= LEVEL + error(LEVEL, 2 * DRAWS)


def test_an_equal_arm_whose_worst_seeds_diverge_is_not_called_better() -> None:
    """Of twelve seeds the worst 27 % diverge; where these are left out, more than a tenth of the sweeps call the arm
    better."""
    rng = np.random.default_rng(3)
    better, left_out = [], []
    for _ in range(DRAWS):
        base, arm = rng.normal(0.7, 0.02, 12), rng.normal(0.7, 0.02, 12)
        told: list[float | str | None] = ["diverged" if value < 0.7 - 0.612 * 0.02 else float(value) for value in arm]
        row = compare(sweep_of({"base": list(base), "arm": told}), ["val/itm_auc"]).row(1, named=True)
        better.append(row["verdict"] == HIGHER)
        kept = np.array([value if isinstance(value, float) else np.nan for value in told]) - base
        adjusted = judge(kept[:, None]).adjusted[0]
        left_out.append(adjusted <= LEVEL and np.nanmean(kept) > 0)
    print(f"called better {np.mean(better):.3f}; with the diverged left out {np.mean(left_out):.3f}")
    assert np.mean(better) <= 0.025 < 0.08 < np.mean(left_out)


def test_ratios_of_interpolated_times_hold_the_truth_as_often_as_they_say() -> None:
    """Evaluations every 50 steps, the arm 1.25 times as fast; times rounded up to evaluations hold it in .71 of
    sweeps."""
    rng = np.random.default_rng(3)
    held = []
    at = np.arange(50, 601, 50)
    for _ in range(DRAWS):
        common = rng.normal(0, 0.05, 8)
        curves: dict[str, list[np.ndarray]] = {"base": [], "arm": []}
        for arm, scale in (("base", 100.0), ("arm", 80.0)):
            for seed in range(8):
                tau = scale * np.exp(common[seed] + rng.normal(0, 0.04))
                curves[arm].append(1 - np.exp(-at / tau))
        runs = curves_of(curves, at, 0.8)
        row = ratios(runs, times_to(runs, "val/itm_auc", 0.8)).row(1, named=True)
        held.append(row["low"] <= 1.25 <= row["high"])
    print(f"coverage of ratios at evaluations every 50 steps {np.mean(held):.3f}")
    assert np.mean(held) >= 0.89 - error(0.1, DRAWS) / 3


def test_a_twice_slower_arm_is_seen_at_the_target_that_the_baseline_sets() -> None:
    rng = np.random.default_rng(4)
    at = np.arange(50, 401, 50)
    said = []
    for _ in range(60):
        curves = {
            arm: [0.5 + 0.49 * (1 - np.exp(-at / (tau * np.exp(rng.normal(0, 0.1))))) for _ in range(8)]
            for arm, tau in (("base", 100.0), ("slow", 200.0))
        }
        runs = curves_of(curves, at, "baseline_final")
        name, target = target_value(runs)
        row = speed(runs, times_to(runs, name, target)).row(1, named=True)
        said.append((row["speed_up"], row["verdict"], row["bound"]))
    assert np.mean([ratio for ratio, _, _ in said]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([verdict == SLOWER for _, verdict, _ in said]) > 0.95
    assert {bound for _, _, bound in said} <= {"", AT_MOST}


def test_aggregates_hold_the_truth_where_one_run_scores_all_kinds() -> None:
    """Scores of a run correlate at .8 over kinds; a bootstrap of each kind's seeds on its own holds the truth in .53 of
    sweeps."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(DRAWS):
        scores = 0.7 + 0.05 * (math.sqrt(0.8) * rng.normal(size=(8, 1)) + math.sqrt(0.2) * rng.normal(size=(8, 8)))
        interval = seed_interval(scores, mean, 500)
        held.append(interval.low <= 0.7 <= interval.high)
    print(f"coverage of aggregates {np.mean(held):.3f}")
    assert np.mean(held) >= 0.95 - error(0.05, DRAWS)


def test_a_section_without_any_effect_has_a_bold_row_in_at_most_five_per_cent() -> None:
    """Twenty metrics of which some correlate, four arms; with one family per metric half of the pages have a bold
    row."""
    rng = np.random.default_rng(6)
    bold = []
    for _ in range(DRAWS):
        common = rng.normal(size=(8, 5, 1))
        scores = 0.7 * common + rng.normal(size=(8, 5, 20))
        differences = (scores[:, 1:] - scores[:, :1]).reshape(8, -1)
        bold.append(bool((judge(differences).adjusted <= LEVEL).any()))
    print(f"pages with a bold row {np.mean(bold):.3f}")
    assert np.mean(bold) <= LEVEL + error(LEVEL, DRAWS)


def test_intervals_of_one_arm_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_interval(sample) for sample in rng.normal(0.3, 1.0, size=(1500, 8))]
    assert np.mean([interval.low <= 0.3 <= interval.high for interval in intervals]) == pytest.approx(0.95, abs=0.02)


def test_one_arm_never_changes_what_is_said_of_another() -> None:
    """Beside a clear effect, an arm of which 7 of 8 trials diverged, one with two trials, and one that always
    diverges."""
    rng = np.random.default_rng(7)
    base = list(rng.normal(0.7, 0.01, 8))
    clear: list[float | str | None] = [float(value) - 0.05 for value in base]
    odd: dict[str, list[float | str | None]] = {
        "mostly": [0.7, *["diverged"] * 7],
        "few": [0.7, 0.7, *[None] * 6],
        "always": ["diverged"] * 8,
    }

    def of(more: dict[str, list[float | str | None]]) -> tuple[dict[str, str], Runs]:
        runs = sweep_of({"base": list(base), "clear": clear, **more})
        frame = compare(runs, ["val/itm_auc"])
        return dict(zip(frame["arm"], frame["verdict"], strict=True)), runs

    assert of({})[0]["clear"] == LOWER
    for name, row in odd.items():
        assert of({name: row})[0]["clear"] == LOWER
    verdicts, _ = of(odd)
    assert verdicts == {"base": "baseline", "clear": LOWER, "mostly": LOWER, "few": "too few seeds", "always": LOWER}
