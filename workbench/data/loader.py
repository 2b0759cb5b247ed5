"""Deterministic, resumable batches: the pairs of a step depend only on the seed and the step."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from workbench.randomness import generator

T = TypeVar("T")
AHEAD = 2  # batches that a thread reads ahead
Shares = tuple[tuple[int, float], ...]  # (pairs, how often an epoch shows them) of each source


@dataclass(frozen=True)
class Order:
    """Epochs of shuffled pairs, cut into batches without remainder. Keyed by (seed, epoch), so every arm of an ablation
    sees the same pairs and a resumed run continues exactly."""

    shares: Shares
    batch_size: int
    seed: int

    @property
    def size(self) -> int:
        """Number of pairs per batch."""
        return min(self.batch_size, epoch_length(self.shares))

    def at(self, step: int) -> tuple[int, np.ndarray]:
        """The epoch (from 0) of a step, and the pairs int64 [B] that it trains on."""
        epoch, place = divmod(step, epoch_length(self.shares) // self.size)
        order = epoch_order(self.shares, self.seed, epoch)
        return epoch, order[place * self.size : (place + 1) * self.size]


def epoch_length(shares: Shares) -> int:
    return sum(round(pairs * often) for pairs, often in shares)


@lru_cache(maxsize=2)
def epoch_order(shares: Shares, seed: int, epoch: int) -> np.ndarray:
    """The pairs of an epoch int64 [E], shuffled. A source that is shown 2.5 times per epoch occurs twice in full, plus
    one half of it, which differs from epoch to epoch."""
    if len(shares) == 1 and shares[0][1] == 1.0:
        return generator("epoch", seed, epoch).permutation(shares[0][0])
    parts, start = [], 0
    for source, (pairs, often) in enumerate(shares):
        whole, rest = divmod(round(pairs * often), pairs)
        part = generator("epoch part", seed, epoch, source).permutation(pairs)[:rest]
        parts += [np.tile(np.arange(pairs), whole) + start, part + start]
        start += pairs
    return generator("epoch", seed, epoch).permutation(np.concatenate(parts))


class StepImages(Dataset[list[Tensor]]):
    """The images of each step: the parts of its batch that this process reads."""

    def __init__(self, images: Any, order: Order, parts: Sequence[slice]) -> None:
        self.images, self.order, self.parts = images, order, parts

    def __getitem__(self, step: int) -> list[Tensor]:
        _, rows = self.order.at(step)
        return [torch.from_numpy(np.ascontiguousarray(self.images[rows[part]])) for part in self.parts]


def read_ahead(
    images: Any, order: Order, parts: Sequence[slice], steps: range, workers: int, pin: bool
) -> Iterator[list[Tensor]]:
    """Yields the images of each step in turn, `images[rows]` for each part; `workers` processes read ahead."""
    loader = DataLoader(
        StepImages(images, order, parts),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
    )
    return iter(loader)


def in_background(read: Callable[[int], T], steps: Iterable[int], ahead: int = AHEAD) -> Iterator[T]:
    """Yields `read(step)` of each step in turn, while a thread reads the next ones; an error is raised at its step.
    Meant for work that is dominated by input, since the thread shares the interpreter with the others."""
    pool, waiting = ThreadPoolExecutor(1, "read ahead"), deque[Future[T]]()
    try:
        for step in steps:
            waiting.append(pool.submit(read, step))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
