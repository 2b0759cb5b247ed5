from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.data.loader import Order
from workbench.data.text import Vocabulary
from workbench.distributed import ALONE
from workbench.objectives.batch import HARD_CAPTION, BatchKey, draw_batch
from workbench.objectives.teachers import make_teachers
from workbench.objectives.words import LEAST_DROP, entropies, salience
from workbench.training import word_choice as module
from workbench.training.prepare import Prepared
from workbench.training.pretrain import starting_model
from workbench.training.word_choice import WordChoice

SURPRISING, SALIENT = (
    {"objectives.itm.synthesis_words": kind, "objectives.mlm.mask_words": kind} for kind in ("surprising", "salient")
)


def chooser(settings: Settings, prepared: Prepared) -> WordChoice:
    model = starting_model(settings, 0, prepared)
    with torch.no_grad():  # a language encoder that knows something
        model.language.lm_head.bias.normal_(std=3.0, generator=torch.Generator().manual_seed(0))
    return WordChoice(settings, prepared, make_teachers(settings.objectives, model, prepared.corpus), ALONE)


def nothing() -> Iterator[tuple[slice, Tensor]]:
    raise AssertionError("no image is asked for")
    yield


def test_uncertainty_is_measured_once_and_belongs_to_the_caption(
    settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(prepared, cache_dir=tmp_path)
    choice = chooser(apply(settings, SURPRISING), here)
    assert len(list(tmp_path.glob("surprise-*"))) >= 1
    _, rows = Order(((256, 1.0),), 8, 3).at(5)
    ids = prepared.corpus.train.texts(rows, 0, 0)[:, :20]
    weights = choice.weigh(BatchKey(rows, 0, 0, 5), nothing, ids)
    assert choice.teachers.frozen is not None
    assert weights.mask is not None
    assert weights.mask is weights.write
    assert weights.mask == pytest.approx(
        entropies(choice.teachers.frozen, ids, choice.teachers.words.vocabulary), rel=2e-3
    )
    assert np.ptp(weights.mask[ids > 4]) > 1e-4
    monkeypatch.setattr(module, "entropies", lambda *_: pytest.fail("measured again"))
    again = chooser(apply(settings, SURPRISING), here).weigh(BatchKey(rows, 0, 0, 5), nothing, ids).mask
    assert again is not None
    assert (again == weights.mask).all()


def test_salience_is_measured_by_the_momentum_model_however_the_batch_is_cut(
    settings: Settings, prepared: Prepared
) -> None:
    choice = chooser(apply(settings, SALIENT), prepared)
    rows = np.arange(16)
    ids = prepared.corpus.train.texts(rows, 0, 0)
    features = torch.from_numpy(np.array(prepared.features["train"][rows])).float()

    def cut(parts: int) -> np.ndarray:
        size = len(rows) // parts

        def images() -> Iterator[tuple[slice, Tensor]]:
            for place in range(parts):
                own = slice(place * size, (place + 1) * size)
                yield own, features[own]

        weights = choice.weigh(BatchKey(rows, 0, 0, 5), images, ids).write
        assert weights is not None
        return weights

    model = choice.teachers.ema
    assert model is not None
    assert (cut(1) == salience(model, features, ids, rows, choice.teachers.words.vocabulary)).all()
    assert (cut(4) == cut(1)).all()


def test_only_what_is_written_over_is_looked_at(settings: Settings, prepared: Prepared) -> None:
    """Where MLM masks any words; and every caption's other half in the next epoch."""
    choice = chooser(apply(settings, {"objectives.itm.synthesis_words": "salient"}), prepared)
    rows = np.arange(16)
    ids = prepared.corpus.train.texts(rows, 0, 0)
    features = torch.from_numpy(np.array(prepared.features["train"][rows])).float()
    weights = choice.weigh(BatchKey(rows, 0, 0, 5), lambda: iter([(slice(0, 16), features)]), ids)
    plan = draw_batch(ids, None, choice.settings.objectives, Vocabulary.plain(500), BatchKey(rows, 0, 0, 5), weights)
    written = set(plan.chosen[plan.negatives == HARD_CAPTION].tolist())
    assert weights.mask is None
    assert weights.write is not None
    assert set(np.flatnonzero(weights.write.any(axis=1)).tolist()) == written
    model = choice.teachers.ema
    assert model is not None
    with torch.no_grad():
        for parameter in model.mlm_decoder.parameters():
            parameter.mul_(50)
    even, odd = (
        salience(model, features, ids, rows + turn, choice.teachers.words.vocabulary) > LEAST_DROP for turn in (0, 1)
    )
    assert even.any()
    assert odd.any()
    assert not (even & odd).any()


def test_other_words_need_no_measurement(settings: Settings, prepared: Prepared) -> None:
    choice = chooser(apply(settings, {"objectives.itm.synthesis_words": "content"}), prepared)
    weights = choice.weigh(BatchKey(np.arange(4), 0, 0, 5), nothing, prepared.corpus.train.token_ids[:4])
    assert weights.mask is None
    assert weights.write is not None
    assert set(np.unique(weights.write)) == {0.0, 1.0}
