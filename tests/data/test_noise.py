from dataclasses import replace

import numpy as np
import pytest

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.data.corpus import load_corpus, with_noise
from workbench.data.noise import CaptionNoise
from workbench.data.text import END, PAD, SPECIAL, START, Vocabulary
from workbench.training.batches import FoilTable
from workbench.training.prepare import Prepared, prepare

CAPTIONS = np.array([[START, *range(10, 20), END, PAD, PAD]] * 600)
STARTS = np.ones(60, dtype=bool)


def noise_of(rate: float, starts: np.ndarray = STARTS) -> CaptionNoise:
    return CaptionNoise(rate, np.arange(40, 60), replace(Vocabulary.plain(60), word_starts=starts), "test")


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.6])
def test_noise_has_the_stated_rate_half_of_it_missing_words(rate: float) -> None:
    disturbed, wrong = noise_of(rate).disturb(CAPTIONS, np.arange(600))
    kept = np.isin(disturbed, range(10, 20)).sum(axis=1).mean() / 10
    assert kept == pytest.approx(1 - rate, abs=0.03)
    assert wrong.sum(axis=1).mean() / 10 == pytest.approx(rate / 2, abs=0.03)
    assert (disturbed[wrong] >= 40).all()
    assert not (disturbed[~wrong] >= 40).any()
    assert (disturbed[:, 0] == START).all()
    assert ((disturbed == END).sum(axis=1) == 1).all()
    # What is left is in its order, and padding comes last.
    for row in disturbed:
        left = [token for token in row if token in range(10, 20)]
        assert left == sorted(left)
        assert (row[list(row).index(END) + 1 :] == PAD).all()


def test_noise_belongs_to_the_caption_and_not_to_its_batch() -> None:
    numbers = np.arange(600)
    whole, _ = noise_of(0.4).disturb(CAPTIONS, numbers)
    wider = np.pad(CAPTIONS[7:9], ((0, 0), (0, 5)), constant_values=PAD)
    again, _ = noise_of(0.4).disturb(wider, numbers[7:9])
    assert (again[:, :14] == whole[7:9]).all()
    assert (noise_of(0.4).disturb(CAPTIONS[:9], numbers[:9] + 1)[0] != whole[:9]).any()


def test_a_word_in_pieces_goes_whole_or_becomes_one_other_word() -> None:
    starts = STARTS.copy()
    starts[[11, 12, 15]] = False  # 10 11 12 and 14 15 are words
    disturbed, _ = noise_of(0.5, starts).disturb(CAPTIONS, np.arange(600))
    for row in disturbed.tolist():
        assert (10 in row) == (11 in row) == (12 in row)
        assert (14 in row) == (15 in row)


def test_a_caption_never_loses_its_last_word() -> None:
    one = np.array([[START, 10, END, PAD]] * 200)
    disturbed, _ = noise_of(1.0).disturb(one, np.arange(200))
    assert ((disturbed >= len(SPECIAL)).sum(axis=1) == 1).all()


def test_noise_reaches_the_trials_captions_and_neither_words_nor_encoders(
    settings: Settings, prepared: Prepared
) -> None:
    noisy = apply(settings, {"data.caption_noise": 0.4})
    shared = prepare(noisy, prepared.cache_dir, lambda *_: None)
    assert shared.fingerprint == prepared.fingerprint
    assert shared.corpus.fingerprint == load_corpus(noisy.data, prepared.cache_dir).fingerprint
    rows = np.arange(64)
    clean, disturbed = (source.corpus.train.texts(rows, 0, 0) for source in (prepared, shared))
    assert (clean != disturbed).any(axis=1).mean() > 0.9
    assert (shared.corpus.train.texts(rows, 0, 5) == disturbed).all()
    assert (shared.corpus.train.firsts()[:64] == disturbed).all()
    assert (shared.corpus.val.texts(rows[:8], 0, 0) == prepared.corpus.val.texts(rows[:8], 0, 0)).all()
    said = shared.corpus.tokeniser.decode(disturbed[0].tolist()).split()
    assert len(said) > 2
    noise = shared.corpus.train.noise
    assert noise is not None
    words = set(shared.corpus.tokeniser.decode(noise.words.tolist()).split())
    assert {"red", "cat", "striped", "left"} <= words
    assert not {"a", "the", "of", "picture", "above"} & words
    assert with_noise(prepared.corpus, 0.0) is prepared.corpus


def test_a_noisy_caption_without_a_foil_stands_for_itself(settings: Settings, prepared: Prepared) -> None:
    """Else its clean form would be trained as false."""
    noisy = with_noise(prepared.corpus, 0.4).train
    table = FoilTable(noisy)
    table.present[:] = False
    rows = np.arange(20)
    captions = noisy.texts(rows, 0, 0)
    drawn = table.draw(rows, captions, 0, 1)
    assert (drawn[:, : captions.shape[1]] == captions).all()


def test_of_several_captions_each_has_its_own_noise(prepared: Prepared) -> None:
    one = with_noise(prepared.corpus, 0.5).train
    ids = np.repeat(one.token_ids[:10], 2, axis=0).astype(np.int32)
    pairs = replace(one, caption_ids=ids, starts=np.arange(0, 22, 2))
    drawn = pairs.captions_at(np.arange(20))
    assert (drawn[::2] != drawn[1::2]).any(axis=1).sum() >= 8
    rows = np.arange(10)
    numbers = pairs.draw(rows, 0, 3)
    assert set((numbers - 2 * rows).tolist()) == {0, 1}
    assert (pairs.texts(rows, 0, 3) == drawn[numbers]).all()
    assert pairs.count == 20
