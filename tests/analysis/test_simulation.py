"""2,000 simulated sweeps: how often the report's rules are wrong where nothing is there, and find what is there."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from analysis.statistics import LEVEL, holm, paired_contrast, paired_ratio

SWEEPS, ARMS, SEEDS = 2000, 4, 8


def error(share: float, count: int) -> float:
    """Three standard errors of a share that is estimated from `count` draws."""
    return 3 * math.sqrt(share * (1 - share) / count)


@pytest.fixture(scope="module")
def none() -> list[tuple[bool, list[bool]]]:
    """Of each sweep without effects: whether any arm is claimed to differ, and which intervals hold 0. The seeds are common to all arms."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(SWEEPS):
        common = rng.normal(0, 2.0, SEEDS)
        base, *arms = (common + rng.normal(0, 1.0, SEEDS) for _ in range(ARMS + 1))
        made = [paired_contrast(arm, base, resampled=False) for arm in arms]
        claimed = min(holm([each.p for each in made])) <= LEVEL
        found.append((claimed, [each.difference.low <= 0 <= each.difference.high for each in made]))
    return found


def test_the_family_wise_error_is_at_most_five_per_cent(none: list[tuple[bool, list[bool]]]) -> None:
    print(f"family-wise error {np.mean([claimed for claimed, _ in none]):.4f}")
    assert np.mean([claimed for claimed, _ in none]) <= LEVEL + error(LEVEL, SWEEPS)


def test_intervals_hold_the_truth_as_often_as_they_say(none: list[tuple[bool, list[bool]]]) -> None:
    print(f"coverage {np.mean([held for _, held in none]):.4f}")
    assert 0.93 <= np.mean([held for _, held in none]) <= 0.97


def test_ratios_of_times_hold_the_truth_as_often_as_they_say() -> None:
    """Times are read at evaluations every 10 steps alone; the arm is 1.25 times as fast."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(SWEEPS):
        common = rng.normal(0, 0.3, SEEDS)
        slow, fast = (
            np.ceil(scale * np.exp(common + rng.normal(0, 0.15, SEEDS)) / 10) * 10 for scale in (250.0, 200.0)
        )
        ratio, _ = paired_ratio(slow, fast)
        held.append(ratio.low <= 1.25 <= ratio.high)
    print(f"coverage of ratios {np.mean(held):.4f}")
    assert 0.93 <= np.mean(held) <= 0.97


def test_power_rises_as_theory_says() -> None:
    """A single contrast: the paired t-test's power is what the interval that excludes 0 has, and nearly what the sign-flip test has."""
    rng = np.random.default_rng(11)
    draws = 500
    powers = []
    for effect in (0.4, 0.8, 1.2, 1.6):
        by_interval, by_signs = [], []
        for _ in range(draws):
            made = paired_contrast(effect + rng.normal(0, 1.0, SEEDS), np.zeros(SEEDS), resampled=False)
            by_interval.append(made.difference.low > 0 or made.difference.high < 0)
            by_signs.append(made.p <= LEVEL)
        theory = float(TTestPower().power(effect, SEEDS, LEVEL))
        print(f"d_z {effect}: power {np.mean(by_interval):.3f}, by signs {np.mean(by_signs):.3f}, theory {theory:.3f}")
        assert np.mean(by_interval) == pytest.approx(theory, abs=error(theory, draws))
        assert np.mean(by_signs) == pytest.approx(theory, abs=error(theory, draws) + 0.04)
        powers.append(float(np.mean(by_signs)))
    assert powers == sorted(powers)
    assert powers[-1] > 0.95
