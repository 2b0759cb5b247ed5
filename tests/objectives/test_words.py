"""Which words are masked and written over."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from workbench.config.schema import Itm, Settings
from workbench.config.settings import apply
from workbench.data.masking import choose_positions, hide_tokens
from workbench.data.text import MASK, PAD, SPECIAL, Vocabulary, trim
from workbench.objectives.batch import BatchKey, draw_rewriting
from workbench.objectives.matching import written_captions
from workbench.objectives.teachers import language_logits, make_teachers
from workbench.objectives.words import LEAST_DROP, entropies, salience, weights_of, word_weights
from workbench.randomness import RowRandom, generator
from workbench.training.prepare import Prepared
from workbench.training.pretrain import starting_model

VOCABULARY = Vocabulary.plain(30)
IDS = np.array([[0, 10, 11, 12, 13, 14, 15, 16, 17, 2, 1, 1]] * 2000)


def test_equal_weights_choose_what_no_weights_choose() -> None:
    plain, equal = (
        choose_positions(IDS, 0.25, RowRandom(np.arange(2000), "t"), VOCABULARY, weights=weights)
        for weights in (None, np.full(IDS.shape, 3.0))
    )
    assert (plain == equal).all()
    # The first three of them, by hand: the smallest draws.
    draws = RowRandom(np.arange(2000), "t").random(IDS.shape)[:, 1:9]
    assert (plain[:, 1:9] == (draws <= np.sort(draws, axis=1)[:, 1:2])).all()


def test_the_ratio_counts_the_tokens_that_have_a_weight() -> None:
    weights = np.zeros(IDS.shape)
    weights[:, [2, 4, 6]] = 1.0
    weights[:, 0] = 9.0  # never a special token
    for ratio, count in ((0.01, 1), (0.5, 2), (1.0, 3)):
        chosen = choose_positions(IDS, ratio, generator("t"), VOCABULARY, weights=weights)
        assert (chosen.sum(axis=1) == count).all()
        assert not chosen[:, [0, 1, 3, 5, 7, 8, 9, 10, 11]].any()


def test_a_caption_without_an_eligible_token_takes_any() -> None:
    weights = np.zeros((2, 12))
    weights[0, 3] = 1.0
    chosen = choose_positions(IDS[:2], 0.25, generator("t"), VOCABULARY, weights=weights)
    assert chosen[0].nonzero()[0].tolist() == [3]
    assert chosen[1, 1:9].sum() == 2


def test_weights_are_odds() -> None:
    weights = np.zeros(IDS.shape)
    weights[:, 1], weights[:, 2], weights[:, 3] = 1.0, 2.0, 5.0
    first = choose_positions(IDS, 0.01, generator("t"), VOCABULARY, weights=weights).mean(axis=0)
    assert first[1:4] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)
    pairs = choose_positions(IDS, 0.7, generator("t"), VOCABULARY, weights=weights)
    # Without replacement: the two heavier ones are drawn in either order.
    assert np.mean(pairs[:, 2] & pairs[:, 3]) == pytest.approx(2 / 8 * 5 / 6 + 5 / 8 * 2 / 3, abs=0.03)


def test_a_word_weighs_as_much_as_its_heaviest_piece() -> None:
    starts = np.ones(30, dtype=bool)
    starts[[11, 12]] = False
    weights = np.zeros(IDS.shape)
    weights[:, 3] = 1.0
    chosen = choose_positions(IDS, 0.5, generator("t"), replace(VOCABULARY, word_starts=starts), True, weights)
    assert (chosen[:, 1:9] == [True, True, True, False, False, False, False, False]).all()


def kinds_of(settings: Settings, kind: str, **itm: object) -> Settings:
    changes = {f"objectives.itm.{name}": value for name, value in itm.items()}
    return apply(settings, {"objectives.itm.synthesis_words": kind, "objectives.mlm.mask_words": kind} | changes)


def test_content_words_of_scenes_are_written_over_and_others_stay(settings: Settings, prepared: Prepared) -> None:
    changed = kinds_of(settings, "content", synthesis_mask_ratio=1.0, false_negative_filter="none")
    corpus = prepared.corpus
    model = starting_model(changed, 0, prepared).eval()
    teachers = make_teachers(changed.objectives, model, corpus)
    captions = corpus.train.token_ids[:200]
    weights = word_weights("content", captions, teachers, torch.empty(0))
    rewriting = draw_rewriting(
        captions, changed.objectives.itm, BatchKey(np.arange(200), 0), teachers.words.vocabulary, weights
    )
    written = written_captions(model, torch.from_numpy(captions), rewriting, changed.objectives, teachers).numpy()
    kept = corpus.tokeniser.decode([token for row in captions[written == captions].reshape(-1, 1) for token in row])
    function = "a an the one there is are picture of to and with near beside above below over under beneath atop"
    assert set(kept.split()) <= set(function.split())
    replaced = set(corpus.tokeniser.decode(captions[written != captions].tolist()).split())
    assert {"red", "left", "cat", "small", "striped"} <= replaced


def test_entropies_are_those_of_each_word_hidden(settings: Settings, prepared: Prepared) -> None:
    model = starting_model(settings, 0, prepared).eval()
    ids = trim(prepared.corpus.train.token_ids[:3], PAD)
    measured = entropies(model.language, ids, prepared.corpus.tokeniser.vocabulary)
    assert (measured[ids < len(SPECIAL)] == 0).all()
    for row, column in ((0, 1), (2, 4)):
        hidden = torch.from_numpy(ids[row : row + 1].copy())
        hidden[0, column] = MASK
        with torch.no_grad():
            p = model.predict_words(model.encode_text(hidden))[0, column].softmax(dim=-1)
        assert measured[row, column] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-4)


def test_salience_is_what_a_grey_image_takes_away(settings: Settings, prepared: Prepared) -> None:
    model = starting_model(settings, 0, prepared).eval()
    ids, words = trim(prepared.corpus.train.token_ids[:6], PAD), prepared.corpus.tokeniser.vocabulary
    features = torch.from_numpy(np.array(prepared.features["train"][:6])).float()
    with torch.no_grad():  # a fusion that heeds the image
        for parameter in model.mlm_decoder.parameters():
            parameter.mul_(30)
    measured = salience(model, features, ids, np.arange(6), words)
    assert (measured[ids < len(SPECIAL)] == 0).all()
    assert (measured[ids >= len(SPECIAL)] >= LEAST_DROP).all()
    assert measured.max() > LEAST_DROP
    # Of the image itself no grey one takes anything away.
    side = settings.data.image_size
    grey = model.image_features(torch.full((1, 3, side, side), 128, dtype=torch.uint8)).detach()
    none = salience(model, grey.expand(6, -1, -1), ids, np.arange(6), words)
    assert np.unique(none).tolist() == pytest.approx([0, LEAST_DROP])
    # A batch in parts has the same numbers.
    parts = [salience(model, features[at : at + 2], ids[at : at + 2], np.arange(at, at + 2), words) for at in (0, 2, 4)]
    assert (np.concatenate(parts) == measured).all()
    with torch.no_grad():
        hidden = torch.from_numpy(ids[:1].copy())
        hidden[0, 2 : int((ids[0] > 4).sum()) + 1 : 2] = MASK
        by_hand = []
        for image in (features[:1], grey):
            fused, _ = model.fuse(model.encode_text(hidden), model.adapt_image(image), hidden)
            by_hand.append(model.mlm_logits(fused)[0, 2].log_softmax(dim=-1)[ids[0, 2]].item())
    assert measured[0, 2] == pytest.approx(max(LEAST_DROP, by_hand[0] - by_hand[1]), abs=1 / 64)
    assert (measured[0, [1, 3]] == np.float32(LEAST_DROP)).all()


def test_known_weights_are_not_measured_again(settings: Settings, prepared: Prepared) -> None:
    changed = kinds_of(settings, "surprising")
    teachers = make_teachers(changed.objectives, starting_model(changed, 0, prepared), prepared.corpus)
    ids, table = trim(prepared.corpus.train.token_ids[:4], PAD), np.full((4, 12), 7.0)
    weights = weights_of(changed.objectives, ids, teachers, torch.empty(0), {"surprising": table})
    assert weights.mask is table
    assert weights.write is table
    assert teachers.frozen is not None
    any_word = kinds_of(settings, "any").objectives
    assert weights_of(any_word, ids, teachers, torch.empty(0)).mask is None


def rewritten(settings: Settings, prepared: Prepared, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    changed = apply(settings, {"objectives.itm.synthesis_mask_ratio": 0.6, "objectives.itm.synthesis_rounds": rounds})
    model = starting_model(changed, 0, prepared).eval()
    teachers = make_teachers(changed.objectives, model, prepared.corpus)
    captions = prepared.corpus.train.token_ids[:64]
    rewriting = draw_rewriting(captions, changed.objectives.itm, BatchKey(np.arange(64), 0), teachers.words.vocabulary)
    written = written_captions(model, torch.from_numpy(captions), rewriting, changed.objectives, teachers)
    return rewriting.hidden.positions.numpy(), written.numpy()


def test_every_round_writes_its_part_knowing_those_before(
    settings: Settings, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.objectives import matching

    read: list[torch.Tensor] = []

    def heard(language: PreTrainedModel, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        read.append(token_ids.clone())
        return language_logits(language, token_ids, positions)

    monkeypatch.setattr(matching, "language_logits", heard)
    hidden, written = rewritten(settings, prepared, 3)
    assert len(read) == 3
    masked = [int((ids == MASK).sum()) for ids in read]
    assert masked[0] == hidden.sum()
    assert masked[0] > masked[1] > masked[2] > 0
    done = read[2].numpy() != MASK
    assert (read[2].numpy()[done] == written[done]).all()
    assert not (written == MASK).any()
    once = rewritten(settings, prepared, 1)
    assert (once[0] == hidden).all()
    assert (once[1] != written).any()


def test_rounds_split_the_hidden_places_evenly() -> None:
    rewriting = draw_rewriting(
        IDS[:50], Itm(synthesis_mask_ratio=0.75, synthesis_rounds=3), BatchKey(np.arange(50), 0), VOCABULARY
    )
    for row, places in zip(rewriting.rounds, rewriting.hidden.positions, strict=True):
        assert torch.bincount(row[places], minlength=3).tolist() == [2, 2, 2]
    assert (
        len(
            {
                tuple(row[places].tolist())
                for row, places in zip(rewriting.rounds, rewriting.hidden.positions, strict=True)
            }
        )
        > 5
    )
    assert (
        hide_tokens(IDS[:50], 0.75, RowRandom(np.arange(50), "synthesis masks", 0, 0), VOCABULARY).positions
        == rewriting.hidden.positions
    ).all()
