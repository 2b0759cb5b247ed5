import numpy as np
import pytest
import torch

from workbench.config.load import apply
from workbench.config.schema import Settings
from workbench.data.text import MASK, SPECIAL
from workbench.objectives.masking import hide_tokens, mask_tokens
from workbench.objectives.negatives import synthesize
from workbench.objectives.step import Batch, banned_words, losses, match_batch
from workbench.randomness import generator
from workbench.training.prepare import Prepared
from workbench.training.warm_start import new_model

IDS = np.array([[0, 10, 11, 12, 13, 14, 15, 16, 17, 2, 1, 1]] * 2000)


def test_masking_takes_the_stated_share_of_ordinary_tokens_80_10_10() -> None:
    masked = mask_tokens(IDS, 0.25, 100, generator("t"))
    chosen = masked.positions.numpy()
    assert (chosen.sum(axis=1) == 2).all()
    assert not chosen[:, [0, 9, 10, 11]].any()
    after = masked.token_ids.numpy()
    assert (after[~chosen] == IDS[~chosen]).all()
    assert np.mean(after[chosen] == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(after[chosen] == IDS[chosen]) == pytest.approx(0.1 + 0.1 / 95, abs=0.02)


def test_a_caption_of_one_word_still_loses_it() -> None:
    hidden = hide_tokens(np.array([[0, 9, 2, 1]]), 0.1, generator("t"))
    assert hidden.token_ids.tolist() == [[0, MASK, 2, 1]]


def test_a_written_word_is_never_special_never_the_original_never_banned() -> None:
    vocabulary = 12
    original = torch.tensor([[0, 6, 7, 2]] * 3000)
    positions = torch.tensor([[False, True, True, False]] * 3000)
    banned = torch.arange(vocabulary)[:, None].repeat(1, 2)
    banned[6, 1], banned[7, 1] = 8, 9
    written = synthesize(
        torch.zeros(3000, 4, vocabulary), original, positions, 1.0, banned, torch.Generator().manual_seed(0)
    )
    assert (written[:, [0, 3]] == original[:, [0, 3]]).all()
    assert set(written[:, 1].tolist()) == set(range(len(SPECIAL), vocabulary)) - {6, 8}
    assert set(written[:, 2].tolist()) == set(range(len(SPECIAL), vocabulary)) - {7, 9}


def test_sampling_follows_the_temperature() -> None:
    original = torch.tensor([[6]] * 4000)
    logits = torch.zeros(4000, 1, 9)
    logits[..., 7] = 1.0
    for temperature in (0.5, 2.0):
        written = synthesize(
            logits,
            original,
            torch.ones(4000, 1, dtype=torch.bool),
            temperature,
            torch.arange(9)[:, None],
            torch.Generator().manual_seed(0),
        )
        odds = np.exp(1 / temperature)
        assert (written == 7).float().mean().item() == pytest.approx(odds / (odds + 2), abs=0.03)


@pytest.fixture(scope="module")
def batch(prepared: Prepared) -> Batch:
    pairs = prepared.corpus.train
    rows = slice(0, 16)
    return Batch(torch.from_numpy(np.array(prepared.features["train"][rows])).float(), pairs.token_ids[rows], None)


def step_losses(settings: Settings, prepared: Prepared, batch: Batch, **changes: object) -> dict[str, float]:
    changed = apply(settings, {f"objectives.{name.replace('__', '.')}": value for name, value in changes.items()})
    model = new_model(changed, prepared.corpus, 0)
    model.load_state_dict(prepared.weights, strict=False)
    banned = banned_words(changed.objectives, prepared.corpus.synonyms, torch.device("cpu"))
    return losses(model.eval(), batch, changed.objectives, None, banned, seed=0, step=3).parts


def test_a_hard_ratio_of_zero_is_exactly_the_random_baseline(
    settings: Settings, prepared: Prepared, batch: Batch
) -> None:
    random = step_losses(settings, prepared, batch, itm__negatives="random_image", itm__hard_ratio=0.5)
    none = step_losses(settings, prepared, batch, itm__negatives="synthesized", itm__hard_ratio=0.0)
    half = step_losses(settings, prepared, batch, itm__negatives="synthesized", itm__hard_ratio=0.5)
    assert none == random
    assert half["itm_loss"] != random["itm_loss"]
    assert half["mlm_loss"] == random["mlm_loss"]


def test_a_larger_ratio_turns_more_of_the_same_negatives_into_hard_ones(
    settings: Settings, prepared: Prepared, batch: Batch
) -> None:
    model = new_model(settings, prepared.corpus, 0).eval()
    token_ids = torch.from_numpy(batch.token_ids)
    hard_rows = {}
    for ratio in (0.25, 0.5, 1.0):
        changed = apply(settings, {"objectives.itm.hard_ratio": ratio})
        banned = banned_words(changed.objectives, prepared.corpus.synonyms, torch.device("cpu"))
        made = match_batch(model, batch, token_ids, changed.objectives, banned, 0, 3)
        own = made.image_rows[:8]
        changed_text = (made.token_ids[8:] != token_ids[own]).any(dim=1)
        assert made.is_match.tolist() == [True] * 8 + [False] * 8
        assert (made.token_ids[:8] == token_ids[own]).all()
        assert ((made.image_rows[8:] == own) == changed_text).all()
        hard_rows[ratio] = set(own[changed_text].tolist())
        assert len(hard_rows[ratio]) == round(8 * ratio)
    assert hard_rows[0.25] < hard_rows[0.5] < hard_rows[1.0]


def test_a_foil_that_is_the_caption_itself_leaves_the_loss(
    settings: Settings, prepared: Prepared, batch: Batch
) -> None:
    changed = apply(settings, {"objectives.itm.negatives": "foils", "objectives.itm.hard_ratio": 1.0})
    model = new_model(changed, prepared.corpus, 0).eval()
    same = Batch(batch.features, batch.token_ids, batch.token_ids)
    banned = banned_words(changed.objectives, prepared.corpus.synonyms, torch.device("cpu"))
    made = match_batch(model, same, torch.from_numpy(batch.token_ids), changed.objectives, banned, 0, 3)
    assert made.valid.tolist() == [True] * 8 + [False] * 8


def test_the_filter_bans_synonyms(settings: Settings, prepared: Prepared) -> None:
    word = prepared.corpus.tokeniser.word_id
    for kind, expected in (
        ("none", {word("plane")}),
        ("synonyms", {word("plane"), word("aeroplane"), word("aircraft")}),
    ):
        changed = apply(settings, {"objectives.itm.false_negative_filter": kind})
        banned = banned_words(changed.objectives, prepared.corpus.synonyms, torch.device("cpu"))
        assert set(banned[word("plane")].tolist()) == expected - {None}
