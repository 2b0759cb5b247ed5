"""Sparse targets over many classes, of which each example has few; converted to dense arrays one batch at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Targets:
    """A float32 [N, C] matrix in compressed sparse row (CSR) form.

    The values of example n and their classes lie from `starts[n]` to `starts[n + 1]`. `starts` int64 [N + 1], `columns`
    int32 and `values` float32 [number of nonzero values].
    """

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    classes: int

    @classmethod
    def of(cls, scores: Iterable[Sequence[tuple[int, float]]], classes: int) -> "Targets":
        """The targets of each example's (class, score) pairs, in which no class occurs twice."""
        counts, columns, values = [0], list[int](), list[float]()
        for example in scores:
            counts.append(len(example))
            for column, value in example:
                columns.append(column)
                values.append(value)
        return cls(np.cumsum(counts), np.array(columns, np.int32), np.array(values, np.float32), classes)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """The dense targets float32 [n, C] of the examples `rows` int64 [n]."""
        counts, places = self._places(rows)
        matrix = np.zeros((len(rows), self.classes), np.float32)
        matrix[np.repeat(np.arange(len(rows)), counts), self.columns[places]] = self.values[places]
        return matrix

    def take(self, rows: np.ndarray) -> "Targets":
        """The targets of only the examples `rows` int64 [n]."""
        counts, places = self._places(rows)
        return Targets(
            np.concatenate([[0], np.cumsum(counts)]), self.columns[places], self.values[places], self.classes
        )

    def totals(self) -> np.ndarray:
        """The sums over all examples, float64 [C]."""
        return np.bincount(self.columns, weights=self.values, minlength=self.classes)

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of values of each example, and their indices."""
        counts = self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(counts)
        shifts = np.repeat(self.starts[rows] - (ends - counts), counts)
        return counts, shifts + np.arange(len(shifts))
