"""What a step does with its batch: drawn on the host from (seed, step) alone, so that every process, and every way to
cut the batch into parts, agrees on it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Itm, Objectives
from workbench.data.masking import Masked, hide_tokens, mask_tokens
from workbench.data.text import Vocabulary
from workbench.distributed import ALONE, World
from workbench.randomness import RowRandom, generator

# A random negative is another image of the same block of rows: a part of whole blocks has all the images it needs.
BLOCK = 8
RANDOM_PICTURE, HARD_CAPTION, HARD_PICTURE = range(3)


@dataclass(frozen=True)
class Weights:
    """How likely each token of a batch of captions is to be masked for MLM, and written over for ITM: float [B, L] of
    any scale, 0 for never; None: all alike."""

    mask: np.ndarray | None = None
    write: np.ndarray | None = None


@dataclass(frozen=True)
class BatchKey:
    """What the random numbers of a batch are keyed by: its pairs `rows` int64 [B], and where in training it is
    drawn."""

    rows: np.ndarray
    seed: int
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Rewriting:
    """Captions to be written anew: `hidden` as the generator reads them, `draws` float32 [B, L] in [0, 1), each of
    which chooses a word, and `rounds` int64 [B, L], in which of the rounds it is written."""

    hidden: Masked
    draws: Tensor
    rounds: Tensor

    def rows(self, rows: np.ndarray) -> "Rewriting":
        """That of some of the captions."""
        hidden = Masked(self.hidden.token_ids[rows], self.hidden.positions[rows])
        return Rewriting(hidden, self.draws[rows], self.rounds[rows])

    def cut(self, rows: slice, columns: slice) -> "Rewriting":
        hidden = Masked(self.hidden.token_ids[rows, columns], self.hidden.positions[rows, columns])
        return Rewriting(hidden, self.draws[rows, columns], self.rounds[rows, columns])


@dataclass(frozen=True)
class Batch:
    """`token_ids` int64 [B, L] padded; `masked` the captions of MLM; `foil_ids` int64 [B, L] (a true foil of each
    caption, or the caption itself where there is none).

    ITM takes the pairs `chosen` int64 [K], as they are and made false: `negatives` int64 [K] says how, and `others`
    int64 [K] names the image that a random negative gets. `draws` float32 [B, 2] choose in-batch hard captions and
    images.
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
        """What this process does in a micro-batch: the batch is cut into micro-batches, and each of them by rank."""
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
        own = Batch(
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
            own,
            rows,
            self.token_ids[in_pool, columns],
            self.draws[in_pool],
            world.rank * size,
            int(self.masked.positions.sum()),
            1 / micro_batches,
        )


@dataclass(frozen=True)
class BatchPart:
    """A process's share of a micro-batch: `own` is the plan of its `rows`. Of the micro-batch as all processes together
    see it: `pool_ids` int64 [P, L], `pool_draws` [P, 2], and `first`, where the own rows begin in it. `masked_in_step`
    counts the positions that MLM predicts in the whole step; `share` is the micro-batch's share of the step."""

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
    """The plan of a whole batch of captions int64 [B, L] of the pairs `rows` int64 [B].

    Half of the pairs take part in ITM (METER's share of true pairs), as they are and made false, so that the two
    classes differ in nothing but the falsehood. `hard_ratio` of the false ones get a hard negative, the rest another
    image. Which pairs take part, and which are hard, is keyed by (seed, step): a larger ratio only turns more of the
    same random negatives into hard ones. What is masked and written anew is keyed by (seed, epoch, pair), and drawn
    with `weights`.
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
    """`chosen`, `others` and `negatives` of a plan for so many rows, int64 [K] each."""
    chosen, others = _falsify(rows, generator("itm negatives", seed, step))
    hard = 0 if itm.negatives == "random_image" else round(itm.hard_ratio * len(chosen))
    negatives = np.full(len(chosen), RANDOM_PICTURE)
    negatives[:hard] = HARD_CAPTION
    if itm.negatives == "in_batch_hard":
        # By turns a wrong caption for the image, and a wrong image for the caption.
        negatives[1:hard:2] = HARD_PICTURE
    return chosen, others, negatives


def draw_rewriting(
    token_ids: np.ndarray,
    itm: Itm,
    key: BatchKey,
    vocabulary: Vocabulary,
    weights: np.ndarray | None = None,
) -> Rewriting:
    """Where captions int64 [B, L] are written anew, drawn with `weights` float [B, L], and the
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
    """Half of the rows of each block, and for each of them another row of its block."""
    row = np.arange(rows)
    start = row - row % BLOCK
    size = np.minimum(BLOCK, rows - start)
    order = np.lexsort((rng.random(rows), start))  # shuffled within each block
    other = start + (row - start + rng.integers(1, np.maximum(2, size))) % size
    place = row - start
    # The first of every block, then the second of every block: whatever is taken from the front is spread over the
    # blocks.
    taken = np.lexsort((row, place))
    taken = taken[place[taken] < size[taken] // 2]
    return order[taken], other[order[taken]]
