"""Scores of scores: ranking quality and calibration. Plain arrays in, plain numbers out."""

import numpy as np
from scipy.stats import rankdata


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive outranks a negative, ties counted half (Mann-Whitney); `nan` without either."""
    if len(positive) == 0 or len(negative) == 0:
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)].sum()
    return float((ranks - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def pairwise_accuracy(true: np.ndarray, false: np.ndarray) -> float:
    """Share of pairs whose true member scores strictly higher; ties count as wrong."""
    return float(np.mean(true > false)) if len(true) else float("nan")


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """ECE (Guo et al. 2017, eq. 3): mean gap between confidence and accuracy over equal-width bins, in [0, 1]."""
    if len(confidence) == 0:
        return float("nan")
    bucket = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[bucket == b].mean() - correct[bucket == b].mean()) * np.mean(bucket == b)
        for b in np.unique(bucket)
    ]
    return float(sum(gaps))
