"""The plan of a training step: what is masked, and which pairs become negatives.

It is drawn on the host from (seed, step) alone, so that all processes agree on it, however the batch is split.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Itm, Objectives
from workbench.data.masking import Masked, hide_tokens, mask_tokens
from workbench.data.text import Vocabulary
from workbench.distributed import ALONE, World
from workbench.randomness import RowRandom, generator

# A random negative uses another image from the same block of rows, so a part made of whole blocks holds all the images
# that it needs.
BLOCK = 8
RANDOM_PICTURE, HARD_CAPTION, HARD_PICTURE = range(3)


@dataclass(frozen=True)
class Weights:
    """Sampling weights of the tokens of a batch of captions, for MLM masking (`mask`) and for ITM rewriting (`write`).

    float [B, L] of any scale; 0 means never chosen. None: all tokens have the same weight.
    """

    mask: np.ndarray | None = None
    write: np.ndarray | None = None


@dataclass(frozen=True)
class BatchKey:
    """The key of a batch's random numbers: its pairs `rows` int64 [B], and when in training it is drawn."""

    rows: np.ndarray
    seed: int
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Rewriting:
    """Captions to be rewritten.

    `hidden`: the captions as the generator reads them. `draws` float32 [B, L] in [0, 1): one random number per word to
    choose. `rounds` int64 [B, L]: the round in which each word is written.
    """

    hidden: Masked
    draws: Tensor
    rounds: Tensor

    def rows(self, rows: np.ndarray) -> "Rewriting":
        """The rewriting of some of the captions."""
        hidden = Masked(self.hidden.token_ids[rows], self.hidden.positions[rows])
        return Rewriting(hidden, self.draws[rows], self.rounds[rows])

    def cut(self, rows: slice, columns: slice) -> "Rewriting":
        hidden = Masked(self.hidden.token_ids[rows, columns], self.hidden.positions[rows, columns])
        return Rewriting(hidden, self.draws[rows, columns], self.rounds[rows, columns])


@dataclass(frozen=True)
class Batch:
    """A batch of captions with its plan.

    `token_ids` int64 [B, L]: padded captions. `masked`: the captions as MLM reads them. `foil_ids` int64 [B, L]: a true
    foil of each caption, or the caption itself if it has none.

    ITM uses the pairs `chosen` int64 [K] twice: unchanged, and turned into negatives. `negatives` int64 [K] is the kind
    of each negative, and `others` int64 [K] is the image that a random negative gets. `draws` float32 [B, 2] choose
    in-batch hard captions and images.
    """

    token_ids: np.ndarray
    masked: Masked
    chosen: np.ndarray
    others: np.ndarray
    negatives: np.ndarray
    draws: np.ndarray
    rewriting: Rewriting | None
    foil_ids: np.ndarray | None
    pad: int

    def part(self, micro_batch: int = 0, micro_batches: int = 1, world: World = ALONE) -> "BatchPart":
        """This process's share of a micro-batch. The batch is split into micro-batches, and each of these by rank."""
        pool = len(self.token_ids) // micro_batches
        rows = world.part(len(self.token_ids), micro_batch, micro_batches)
        start, size = rows.start, rows.stop - rows.start
        assert size == len(self.token_ids) or size % BLOCK == 0
        in_pool = slice(micro_batch * pool, (micro_batch + 1) * pool)
        longest = int((self.token_ids[in_pool] != self.pad).sum(axis=1).max())
        if self.foil_ids is not None:
            longest = max(longest, int((self.foil_ids[in_pool] != self.pad).sum(axis=1).max()))
        columns = slice(0, longest)

        ours = (self.chosen >= start) & (self.chosen < start + size)
        plan = Batch(
            token_ids=self.token_ids[rows, columns],
            masked=Masked(self.masked.token_ids[rows, columns], self.masked.positions[rows, columns]),
            chosen=self.chosen[ours] - start,
            others=self.others[ours] - start,
            negatives=self.negatives[ours],
            draws=self.draws[rows],
            rewriting=self.rewriting and self.rewriting.cut(rows, columns),
            foil_ids=None if self.foil_ids is None else self.foil_ids[rows, columns],
            pad=self.pad,
        )
        return BatchPart(
            plan,
            rows,
            self.token_ids[in_pool, columns],
            self.draws[in_pool],
            world.rank * size,
            int(self.masked.positions.sum()),
            1 / micro_batches,
        )


@dataclass(frozen=True)
class BatchPart:
    """A process's share of a micro-batch: `own` is the plan of its `rows`.

    Three fields describe the micro-batch over all processes: `pool_ids` int64 [P, L], `pool_draws` [P, 2], and `first`,
    the position in it at which this process's rows begin. `masked_in_step` counts the positions that MLM predicts in
    the whole step. `share` is the micro-batch's fraction of the step.
    """

    own: Batch
    rows: slice
    pool_ids: np.ndarray
    pool_draws: np.ndarray
    first: int
    masked_in_step: int
    share: float


def draw_batch(
    token_ids: np.ndarray,
    foil_ids: np.ndarray | None,
    objectives: Objectives,
    vocabulary: Vocabulary,
    key: BatchKey,
    weights: Weights = Weights(),
) -> Batch:
    """The plan of a whole batch of captions int64 [B, L], whose pairs are `key.rows` int64 [B].

    Half of the pairs take part in ITM (METER's share of true pairs). Each appears unchanged and as a negative, so that
    the two classes differ only in whether the pair matches. A fraction `hard_ratio` of the negatives are hard; the
    others get another image. The choice of pairs, and of hard ones among them, is keyed by (seed, step), so a larger
    ratio only turns more of the same random negatives into hard ones. Masking and rewriting are keyed by (seed, epoch,
    pair) and drawn with `weights`.
    """
    mlm, itm = objectives.mlm, objectives.itm
    masked = mask_tokens(
        token_ids,
        mlm.mask_ratio,
        RowRandom(key.rows, "mlm masks", key.seed, key.epoch),
        vocabulary,
        mlm.whole_word,
        weights.mask,
    )
    chosen, others, negatives = false_pairs(itm, len(token_ids), key.seed, key.step)
    writes = itm.negatives == "synthesized" and bool((negatives == HARD_CAPTION).any())
    return Batch(
        token_ids,
        masked,
        chosen,
        others,
        negatives,
        generator("hard pairs", key.seed, key.step).random((len(token_ids), 2), dtype=np.float32),
        draw_rewriting(token_ids, itm, key, vocabulary, weights.write) if writes else None,
        foil_ids,
        vocabulary.pad,
    )


def false_pairs(itm: Itm, rows: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`chosen`, `others` and `negatives` of a plan for `rows` pairs, int64 [K] each."""
    chosen, others = _falsify(rows, generator("itm negatives", seed, step))
    hard = 0 if itm.negatives == "random_image" else round(itm.hard_ratio * len(chosen))
    negatives = np.full(len(chosen), RANDOM_PICTURE)
    negatives[:hard] = HARD_CAPTION
    if itm.negatives == "in_batch_hard":
        # Alternate between a wrong caption for the image and a wrong image for the caption.
        negatives[1:hard:2] = HARD_PICTURE
    return chosen, others, negatives


def draw_rewriting(
    token_ids: np.ndarray,
    itm: Itm,
    key: BatchKey,
    vocabulary: Vocabulary,
    weights: np.ndarray | None = None,
) -> Rewriting:
    """The plan for rewriting captions int64 [B, L]: the positions, drawn with `weights` float [B, L], and the random
    numbers that choose the words."""
    hidden = hide_tokens(
        token_ids,
        itm.synthesis_mask_ratio,
        RowRandom(key.rows, "synthesis masks", key.seed, key.epoch),
        vocabulary,
        weights=weights,
    )
    draws = RowRandom(key.rows, "synthesis", key.seed, key.epoch).random(token_ids.shape).astype(np.float32)
    rounds = np.zeros(token_ids.shape, dtype=np.int64)
    if itm.synthesis_rounds > 1:
        order = RowRandom(key.rows, "synthesis rounds", key.seed, key.epoch).random(token_ids.shape)
        places = np.where(hidden.positions.numpy(), order, 2.0).argsort(axis=1).argsort(axis=1)
        rounds = places % itm.synthesis_rounds
    return Rewriting(hidden, torch.from_numpy(draws).clamp(max=1 - 2**-24), torch.from_numpy(rounds))


def _falsify(rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half of the rows of each block, and for each of them another row of the same block."""
    row = np.arange(rows)
    start = row - row % BLOCK
    size = np.minimum(BLOCK, rows - start)
    order = np.lexsort((rng.random(rows), start))  # shuffled within each block
    other = start + (row - start + rng.integers(1, np.maximum(2, size))) % size
    place = row - start
    # The first row of every block, then the second of every block, and so on: any prefix is spread over all blocks.
    taken = np.lexsort((row, place))
    taken = taken[place[taken] < size[taken] // 2]
    return order[taken], other[order[taken]]
