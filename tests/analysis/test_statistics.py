import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis.convergence import time_to_target
from analysis.statistics import (
    bca_interval,
    detectable,
    holm,
    mean_interval,
    paired_contrast,
    paired_ratio,
    seeds_needed,
    smallest_p,
)


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
    assert time_to_target(steps, np.array([0.1, 0.9, 0.1, 0.9, 0.9]), 0.8) == 40
    assert time_to_target(steps, np.array([0.1, 0.1, 0.1, 0.1, 0.9]), 0.8) == 50
    assert time_to_target(steps, np.array([0.1, 0.9, 0.1, 0.1, 0.1]), 0.8) is None


def test_a_ratio_of_twice_the_speed() -> None:
    ratio, p = paired_ratio(np.array([100.0, 120, 110, 90]), np.array([50.0, 60, 55, 45]))
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert p == pytest.approx(2 / 16)


def test_the_bootstrap_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(0.3, 1.0, size=(400, 8))
    held = [i.low <= 0.3 <= i.high for i in (bca_interval(sample, 999) for sample in samples)]
    assert np.mean(held) == pytest.approx(0.945, abs=3 * math.sqrt(0.05 * 0.95 / 400))
    plain = [
        stats.bootstrap((s,), np.mean, method="BCa", n_resamples=999, rng=np.random.default_rng(0)).confidence_interval
        for s in samples[:100]
    ]
    wide = [bca_interval(sample, 999) for sample in samples[:100]]
    assert all(w.low <= p.low and w.high >= p.high for w, p in zip(wide, plain, strict=True))


def test_power_is_what_it_says_when_it_is_simulated() -> None:
    rng = np.random.default_rng(2)
    for contrasts in (1, 4):
        size = detectable(2.0, 8, contrasts)
        found = stats.ttest_1samp(rng.normal(size, 2.0, size=(4000, 8)), 0, axis=1).pvalue <= 0.05 / contrasts
        assert np.mean(found) == pytest.approx(0.8, abs=0.025)
        seeds = seeds_needed(0.9, contrasts)
        assert seeds is not None
        for count, enough in ((seeds, True), (seeds - 1, False)):
            power = np.mean(
                stats.ttest_1samp(rng.normal(0.9, 1, size=(20000, count)), 0, axis=1).pvalue <= 0.05 / contrasts
            )
            assert (power > 0.79) if enough else (power < 0.81)
    assert seeds_needed(50.0) == 6  # a sign-flip test of fewer cannot reach .05
    assert seeds_needed(0.001) is None


def test_equivalence_excludes_what_two_one_sided_tests_exclude() -> None:
    arm, base = np.array([0.52, 0.49, 0.51, 0.5, 0.53, 0.48]), np.full(6, 0.5)
    contrast = paired_contrast(arm, base)
    differences = arm - base
    for margin, shown in ((contrast.margin * 1.001, True), (contrast.margin * 0.999, False)):
        above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
        assert bool(max(above, below) <= 0.05) is shown
    assert contrast.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
