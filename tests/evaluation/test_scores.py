import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from workbench.evaluation.scores import (
    auc,
    calibration_floor,
    expected_calibration_error,
    pairwise_accuracy,
    reliability,
    reliability_metrics,
)


def test_auc_agrees_with_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 80).astype(float), rng.integers(0, 5, 50).astype(float)
    labels = np.r_[np.ones(80), np.zeros(50)]
    assert auc(positive, negative) == pytest.approx(roc_auc_score(labels, np.r_[positive, negative]))
    assert np.isnan(auc(positive, np.empty(0)))


def test_a_tie_does_not_count_as_right() -> None:
    assert pairwise_accuracy(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])) == pytest.approx(1 / 3)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False])
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    assert expected_calibration_error(np.ones(4), np.zeros(4, dtype=bool)) == 1.0
    bins = reliability(confidence, correct, bins=10)
    assert list(bins) == [5, 9]
    assert bins[5] == pytest.approx((0.55, 0.5, 0.5))
    assert bins[9] == pytest.approx((0.95, 1.0, 0.5))
    assert reliability_metrics("itm", confidence, correct)["reliability/itm/14/share"] == 0.5


@pytest.mark.parametrize(("answers", "low", "off"), [(64, 0.5, 0.08), (512, 0.5, 0.03), (2000, 0.01, 0.03)])
def test_the_floor_of_the_calibration_error_is_what_a_calibrated_model_gets(
    answers: int, low: float, off: float
) -> None:
    rng = np.random.default_rng(answers)
    confidence = low + (1 - low) * rng.beta(2, 1, answers)
    drawn = [expected_calibration_error(confidence, rng.random(answers) < confidence) for _ in range(2000)]
    assert calibration_floor(confidence) == pytest.approx(np.mean(drawn), rel=off)


def test_the_floor_of_the_calibration_error_falls_with_the_answers_and_is_none_where_all_is_certain() -> None:
    confidence = np.linspace(0.5, 1.0, 100)
    assert calibration_floor(np.tile(confidence, 4)) == pytest.approx(calibration_floor(confidence) / 2)
    assert calibration_floor(np.ones(8)) == 0.0
    assert np.isnan(calibration_floor(np.empty(0)))
