import numpy as np
import pytest

from workbench.config.schema import Objectives
from workbench.data.text import Vocabulary
from workbench.distributed import World
from workbench.objectives.batch import BLOCK, HARD_CAPTION, Batch, BatchKey, draw_batch


def plan_of(rows: int, ratio: float, step: int = 0) -> Batch:
    token_ids = np.tile(np.array([[0, 7, 8, 9, 10, 2, 1, 1]]), (rows, 1))
    token_ids[:, 1] += np.arange(rows)
    objectives = Objectives.model_validate({"itm": {"hard_ratio": ratio}})
    return draw_batch(token_ids, None, objectives, Vocabulary.plain(200), BatchKey(np.arange(rows), 0, 0, step))


@pytest.mark.parametrize("rows", [4, 16, 21, 64])
def test_half_of_every_block_takes_part_and_gets_another_image_of_its_block(rows: int) -> None:
    plan = plan_of(rows, 0.5)
    assert len(set(plan.chosen)) == len(plan.chosen)
    sizes = np.bincount(np.arange(rows) // BLOCK)
    assert np.bincount(plan.chosen // BLOCK, minlength=len(sizes)).tolist() == (sizes // 2).tolist()
    assert (plan.chosen != plan.others).all()
    assert (plan.chosen // BLOCK == plan.others // BLOCK).all()


def test_hard_negatives_are_nested_in_the_ratio_and_spread_over_the_blocks() -> None:
    hard = {
        ratio: set(plan_of(64, ratio).chosen[plan_of(64, ratio).negatives == HARD_CAPTION]) for ratio in (0.25, 0.5)
    }
    assert hard[0.25] < hard[0.5]
    assert np.bincount(np.array(sorted(hard[0.25])) // BLOCK, minlength=8).tolist() == [1] * 8


def test_the_parts_are_the_whole() -> None:
    plan = plan_of(64, 0.5, step=3)
    parts = [plan.part(micro, 2, World(rank, 2)) for micro in range(2) for rank in range(2)]
    assert (np.concatenate([part.own.token_ids for part in parts]) == plan.token_ids[:, :6]).all()
    masked = np.concatenate([part.own.masked.positions.numpy() for part in parts])
    assert (masked == plan.masked.positions.numpy()[:, :6]).all()
    assert sum(part.own.masked.positions.sum().item() for part in parts) == parts[0].masked_in_step
    chosen = [row + part.rows.start for part in parts for row in part.own.chosen]
    assert sorted(chosen) == sorted(plan.chosen)
    assert [part.first for part in parts] == [0, 16, 0, 16]
    assert [len(part.pool_ids) for part in parts] == [32] * 4


def test_masks_belong_to_the_pair_and_not_to_its_batch() -> None:
    token_ids = np.tile(np.array([[0, 7, 8, 9, 10, 11, 12, 2]]), (6, 1))
    words, about = Vocabulary.plain(200), Objectives()
    one = draw_batch(token_ids, None, about, words, BatchKey(np.array([5, 6, 7, 8, 9, 4]), 0, 2, 30))
    wide = np.pad(token_ids[:4], ((0, 0), (0, 4)), constant_values=1)
    two = draw_batch(wide, None, about, words, BatchKey(np.array([7, 5, 3, 2]), 0, 2, 99))
    assert (one.masked.token_ids[[2, 0]] == two.masked.token_ids[:2, :8]).all()
    assert one.rewriting is not None
    assert two.rewriting is not None
    assert (one.rewriting.draws[[2, 0]] == two.rewriting.draws[:2, :8]).all()
    later = draw_batch(token_ids, None, about, words, BatchKey(np.array([5, 6, 7, 8, 9, 4]), 0, 3, 30))
    assert (one.masked.token_ids != later.masked.token_ids).any()


def test_images_are_drawn_anew_at_every_step() -> None:
    assert (plan_of(64, 0.5, 0).chosen != plan_of(64, 0.5, 1).chosen).any()
    assert (plan_of(64, 0.5, 0).others == plan_of(64, 0.5, 0).others).all()
