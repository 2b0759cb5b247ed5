"""Metrics of ranking and calibration, from plain arrays to plain numbers."""

import numpy as np


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive outranks a negative; ties count half (Mann-Whitney). `nan` if either is empty."""
    from scipy.stats import rankdata  # the import takes a second, which most commands need not spend

    if len(positive) == 0 or len(negative) == 0:
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)].sum()
    return float((ranks - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def pairwise_accuracy(true: np.ndarray, false: np.ndarray) -> float:
    """Fraction of pairs whose true member scores strictly higher; ties count as wrong."""
    return float(np.mean(true > false)) if len(true) else float("nan")


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> dict[int, tuple[float, float, float]]:
    """The bins of a reliability diagram (Guo et al. 2017): mean confidence, accuracy and share of all answers.

    Bins have equal width; empty bins are omitted.
    """
    bucket = _bucket(confidence, bins)
    return {
        int(b): (
            float(confidence[bucket == b].mean()),
            float(correct[bucket == b].mean()),
            float(np.mean(bucket == b)),
        )
        for b in np.unique(bucket)
    }


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """ECE (Guo et al. 2017, eq. 3): the mean gap between confidence and accuracy over the bins, in [0, 1]."""
    if len(confidence) == 0:
        return float("nan")
    return sum(abs(mean - right) * share for mean, right, share in reliability(confidence, correct).values())


def calibration_floor(confidence: np.ndarray, bins: int = 15) -> float:
    """The expected ECE of a perfectly calibrated model with these confidences.

    It is above 0, and larger with fewer answers: answers that are right with exactly the stated probability still
    deviate from it by chance. Over a bin's n answers, the mean of `correct - confidence` has the standard deviation
    sqrt(sum p (1 - p)) / n. The mean absolute value of a normal variable is sqrt(2 / pi) times its standard deviation.
    """
    if len(confidence) == 0:
        return float("nan")
    variance = np.bincount(_bucket(confidence, bins), weights=confidence * (1 - confidence), minlength=bins)
    return float(np.sqrt(2 / np.pi) * np.sqrt(variance).sum() / len(confidence))


def _bucket(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((confidence * bins).astype(int), bins - 1)


def reliability_metrics(head: str, confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """The metrics `reliability/<head>/<bin>/confidence`, `.../accuracy` and `.../share`."""
    return {
        f"reliability/{head}/{place:02d}/{name}": value
        for place, row in reliability(confidence, correct).items()
        for name, value in zip(("confidence", "accuracy", "share"), row, strict=True)
    }
