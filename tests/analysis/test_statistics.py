"""Intervals, exact tests, families and power: by hand, and against scipy, statsmodels and lifelines."""

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from analysis.families import judge, reference, worst_ranks
from analysis.power import power, seeds_needed
from analysis.statistics import incidence, mean_interval, paired_contrast, ratio_interval, signs
from workbench.significance import LEVEL, fewest_seeds, smallest_p

NAN = float("nan")


def test_the_sign_flip_p_is_the_share_of_flips_at_least_as_extreme() -> None:
    arm, base = np.array([0.9, 0.8, 0.85, 0.95, 0.7, 0.91]), np.array([0.85, 0.82, 0.8, 0.9, 0.65, 0.9])
    differences = arm - base
    flips = [abs(np.mean(differences * flip)) for flip in itertools.product([1, -1], repeat=6)]
    expected = np.mean([flip >= abs(differences.mean()) - 1e-12 for flip in flips])
    contrast = paired_contrast(arm, base)
    assert contrast.p == pytest.approx(expected)
    assert contrast.difference.mean == pytest.approx(differences.mean())
    low, high = stats.t.interval(0.95, 5, differences.mean(), stats.sem(differences))
    assert (contrast.difference.low, contrast.difference.high) == pytest.approx((low, high))
    assert contrast.p == pytest.approx(
        stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=10_000).pvalue
    )


def test_equal_signs_give_the_smallest_p() -> None:
    assert paired_contrast(np.arange(6) + 1.0, np.zeros(6)).p == pytest.approx(smallest_p(6)) == 2 / 64
    assert fewest_seeds() == 6
    assert paired_contrast(np.zeros(6), np.zeros(6)).p == 1.0


def test_one_seed_or_a_value_that_is_no_number_says_nothing() -> None:
    alone = paired_contrast(np.array([1.0]), np.array([0.5]))
    assert alone.difference.mean == 0.5
    assert math.isnan(alone.p)
    assert math.isnan(alone.difference.low)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken = paired_contrast(np.array([1.0, NAN, 2.0]), np.zeros(3))
        empty = paired_contrast(np.empty(0), np.empty(0))
    assert math.isnan(broken.p)
    assert math.isnan(broken.difference.mean)
    assert empty.seeds == 0
    assert math.isnan(empty.difference.mean)


def test_an_interval_ends_where_the_quantity_does() -> None:
    wide = mean_interval(np.array([0.1, 0.9]), (0.0, 1.0))
    assert (wide.low, wide.high) == (0.0, 1.0)
    times = mean_interval(np.array([1.0, 50.0]), (0.0, math.inf))
    assert times.low == 0.0 < times.high


def test_the_interval_of_a_ratio_is_about_the_ratio() -> None:
    shares, right = np.array([0.3, 0.5, 0.1, 0.4]), np.array([0.9, 0.6, 0.2, 0.7])
    interval = ratio_interval(shares * right, shares, (0.0, 1.0))
    assert interval.mean == pytest.approx((shares * right).sum() / shares.sum())
    assert interval.low < interval.mean < interval.high
    equal = ratio_interval(right * 0.25, np.full(4, 0.25), (-math.inf, math.inf))
    plain = mean_interval(right)
    assert (equal.low, equal.high) == pytest.approx((plain.low, plain.high))


def test_all_sign_flips_are_taken_where_they_are_few() -> None:
    assert {tuple(row) for row in signs(4)} | {tuple(-row) for row in signs(4)} == set(
        itertools.product([1.0, -1.0], repeat=4)
    )
    assert (signs(4)[0] == 1).all()
    assert signs(20).shape == (8192, 20)
    assert (signs(20)[0] == 1).all()


def test_the_step_down_test_by_hand() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(size=(6, 3)) + np.array([1.5, 0.6, 0.0])
    every = np.array(list(itertools.product([1, -1], repeat=6)))
    t = np.abs(every @ d) / np.sqrt((d**2).sum(axis=0))
    order = np.argsort(-t[0])
    wanted, last = np.empty(3), 0.0
    for place, column in enumerate(order):
        last = max(last, float(np.mean(t[:, order[place:]].max(axis=1) >= t[0, column] - 1e-12)))
        wanted[column] = last
    judged = judge(d)
    assert judged.adjusted == pytest.approx(wanted)
    alone = [paired_contrast(d[:, column], np.zeros(6)).p for column in range(3)]
    assert judged.p == pytest.approx(alone)
    assert (judged.adjusted >= judged.p - 1e-12).all()


def test_a_single_contrast_is_not_adjusted() -> None:
    d = np.random.default_rng(1).normal(0.5, 1.0, (9, 1))
    judged = judge(d)
    assert judged.adjusted[0] == judged.p[0] == pytest.approx(paired_contrast(d[:, 0], np.zeros(9)).p)


@pytest.mark.parametrize("seed", range(40))
def test_an_interval_holds_zero_exactly_where_the_test_does_not_reject_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(int(rng.integers(6, 11)), 4)) + rng.normal(0, 1.2, 4)
    if seed % 2:
        d[rng.random(d.shape) < 0.2] = NAN
    judged = judge(d)
    for adjusted, low, high in zip(judged.adjusted, judged.low, judged.high, strict=True):
        if not math.isnan(adjusted):
            assert (low < 0 < high) == (adjusted > LEVEL)


def test_too_few_seeds_have_no_adjusted_p_and_do_not_count_among_the_others() -> None:
    rng = np.random.default_rng(2)
    d = rng.normal(0.8, 1.0, (8, 3))
    d[3:, 2] = NAN
    judged, without = judge(d), judge(d[:, :2])
    assert math.isnan(judged.adjusted[2])
    assert judged.adjusted[:2] == pytest.approx(without.adjusted)
    assert judged.seeds.tolist() == [8, 8, 3]
    assert judged.low[2] < np.nanmean(d[:, 2]) < judged.high[2]


def test_contrasts_with_unequal_seeds_are_compared_on_one_scale() -> None:
    rng = np.random.default_rng(3)
    d = np.stack([rng.normal(0, 1, 12), np.concatenate([rng.normal(3, 0.3, 6), np.full(6, NAN)])], axis=1)
    judged = judge(d)
    assert judged.p[1] == pytest.approx(2 / 64)
    assert judged.p[1] <= judged.adjusted[1] <= 0.06


def test_the_reference_for_few_seeds_is_students_and_dunnetts() -> None:
    assert reference(5, 1) == pytest.approx(stats.t.ppf(0.975, 4), rel=0.03)
    assert stats.t.ppf(0.975, 4) < reference(5, 4) < stats.t.ppf(1 - 0.05 / 8, 4)


def test_equal_differences_of_few_seeds_have_no_interval() -> None:
    judged = judge(np.full((3, 1), 0.25))
    assert math.isnan(judged.low[0])


def test_worst_ranks_by_hand() -> None:
    d = np.array([0.1, -0.3, 0.2, NAN, NAN, NAN])
    arm, base = np.array([0, 0, 0, 1, 0, 1], bool), np.array([0, 0, 0, 0, 1, 1], bool)
    ranks = worst_ranks(d, arm, base, lower=False)
    assert ranks.tolist() == [2.0, -4.0, 3.0, -5.5, 5.5, 0.0]
    assert worst_ranks(d, arm, base, lower=True)[3:].tolist() == [5.5, -5.5, 0.0]
    missing = worst_ranks(np.array([0.1, NAN]), np.zeros(2, bool), np.zeros(2, bool), lower=False)
    assert missing[0] == 1.0
    assert math.isnan(missing[1])


def test_power_follows_from_the_rule_and_never_gives_up() -> None:
    assert power(5.0, 5, 1) == 0.0  # five seeds cannot reach the level
    assert power(50.0, 6, 4) == 1.0
    assert power(0.0, 8, 1) <= 0.09
    assert seeds_needed(50.0, 4) == 6
    assert seeds_needed(0.01, 4) is None
    needed = seeds_needed(1.0, 4)
    assert needed is not None
    assert power(1.0, needed, 4) >= 0.8 > power(1.0, needed - 2, 4)
    rises = [power(effect, 8, 4) for effect in (0.4, 0.8, 1.2, 1.6, 2.4)]
    assert rises == sorted(rises)


def test_incidence_with_competing_divergence_is_lifelines() -> None:
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    rng = np.random.default_rng(4)
    times = np.round(rng.exponential(100, 14), 3)
    kinds = rng.choice([0, 1, 1, 2], 14)
    kinds[np.argmax(times)] = 0
    fitter = lifelines.AalenJohansenFitter(calculate_variance=False).fit(times, kinds, event_of_interest=1)
    theirs = fitter.cumulative_density_.iloc[:, 0]
    for time, share, low, high in incidence(times, kinds):
        assert share == pytest.approx(float(theirs.loc[time]), abs=1e-9)
        assert low < share < high


def test_incidence_without_competition_is_kaplan_and_meiers_with_greenwoods_interval() -> None:
    times, kinds = np.array([3.0, 5.0, 5.0, 8.0, 10.0, 12.0]), np.array([1, 1, 1, 0, 1, 0])
    curve = stats.ecdf(stats.CensoredData(uncensored=times[kinds == 1], right=times[kinds == 0])).sf
    for time, share, _, _ in incidence(times, kinds):
        assert share == pytest.approx(1 - float(curve.evaluate(time)))
    *_, low, high = incidence(np.arange(1.0, 21.0), np.repeat([1, 0], 10))[-1]
    # Of a plain share the variance is that of a binomial; the log-log interval of it by hand.
    half = stats.norm.ppf(0.975) * math.sqrt(0.5 * 0.5 / 20) / abs(0.5 * math.log(0.5))
    assert (low, high) == pytest.approx((0.5 ** math.exp(half), 0.5 ** math.exp(-half)))
