import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis.convergence import steps_to_target
from analysis.statistics import holm, mean_interval, paired_contrast, ratio_interval, smallest_p


def test_the_sign_flip_p_is_the_share_of_flips_at_least_as_extreme() -> None:
    arm, base = np.array([0.9, 0.8, 0.85, 0.95, 0.7, 0.91]), np.array([0.85, 0.82, 0.8, 0.9, 0.65, 0.9])
    differences = arm - base
    flips = [abs(np.mean(differences * signs)) for signs in itertools.product([1, -1], repeat=6)]
    expected = np.mean([flip >= abs(differences.mean()) - 1e-12 for flip in flips])
    contrast = paired_contrast(arm, base)
    assert contrast.p == pytest.approx(expected)
    assert contrast.difference.mean == pytest.approx(differences.mean())
    low, high = stats.t.interval(0.95, 5, differences.mean(), stats.sem(differences))
    assert (contrast.difference.low, contrast.difference.high) == pytest.approx((low, high))


def test_six_equal_signs_give_the_smallest_p() -> None:
    assert paired_contrast(np.arange(6) + 1.0, np.zeros(6)).p == pytest.approx(smallest_p(6)) == 2 / 64


def test_intervals_cover_and_errors_stay_at_their_level() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.3, 1.0, size=(1500, 8))
    intervals = [mean_interval(sample) for sample in samples]
    assert np.mean([i.low <= 0.3 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.02)
    null = [paired_contrast(rng.normal(size=8), rng.normal(size=8)).p for _ in range(600)]
    assert np.mean(np.array(null) <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_one_seed_says_nothing_of_the_spread() -> None:
    contrast = paired_contrast(np.array([1.0]), np.array([0.5]))
    assert contrast.difference.mean == 0.5
    assert math.isnan(contrast.p)
    assert math.isnan(contrast.difference.low)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, float("nan")])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(holm([0.01, float("nan")])[1])


def test_a_target_must_be_held_twice() -> None:
    steps = np.array([10, 20, 30, 40, 50])
    assert steps_to_target(steps, np.array([0.1, 0.9, 0.1, 0.9, 0.9]), 0.8) == 40
    assert steps_to_target(steps, np.array([0.1, 0.1, 0.1, 0.1, 0.9]), 0.8) == 50
    assert steps_to_target(steps, np.array([0.1, 0.9, 0.1, 0.1, 0.1]), 0.8) is None


def test_a_ratio_of_twice_the_speed() -> None:
    ratio = ratio_interval(np.array([100.0, 120, 110, 90]), np.array([50.0, 60, 55, 45]))
    assert ratio.mean == ratio.low == ratio.high == pytest.approx(2.0)
