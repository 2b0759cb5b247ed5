"""The plain trainer that `tests.benchmarks.reference` compares with learns, and does the same work on the same
numbers as our step."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.benchmarks.gpu import PLAIN, large_model, random_batch
from tests.benchmarks.reference import (
    IGNORED,
    Drawn,
    Savings,
    draw,
    ladder,
    reference_losses,
    reference_optimiser,
    reference_step,
    rows_of,
    speeds,
)
from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.data.text import Vocabulary
from workbench.distributed import ALONE
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import BatchKey, BatchPart, draw_batch
from workbench.objectives.matching import match_batch
from workbench.objectives.step import losses
from workbench.objectives.teachers import Teachers
from workbench.training.pretrain import optimiser_for

SMALLER = {"model.width": 32, "model.text.layers": 1, "model.fusion.layers": 1}
WORDS = Vocabulary.plain(60)
Made = tuple[Settings, ViLTA, Teachers]


def made(**changes: Any) -> Made:
    given = SMALLER | PLAIN | {"model.vision.frozen": False} | changes
    settings, model, teachers = large_model("tiny", given, WORDS)
    return settings, model.eval(), teachers  # batch norms would see other images in one forward than in two


def read(settings: Settings, padded: bool = False) -> tuple[BatchPart, Tensor, Tensor]:
    """The plan of a step, its captions int64 [B, L] and its images."""
    captions, images = random_batch(settings, WORDS, 16, padded)
    part = draw_batch(captions, None, settings.objectives, WORDS, BatchKey(np.arange(16), 0)).part()
    return part, torch.from_numpy(part.own.token_ids).to(images.device), images


def test_the_loss_falls() -> None:
    settings, model, teachers = made()
    settings = apply(settings, {"optimisation.learning_rate": 3e-3})
    step = reference_step(settings, model, teachers.words.vocabulary, 16)
    course = [float(step(number)) for number in range(24)]
    assert np.mean(course[-4:]) < np.mean(course[:4]) - 0.25


def test_both_train_the_same_sizes() -> None:
    settings, model, _ = made()
    ours, theirs = (
        sum(parameter.numel() for group in optimiser.param_groups for parameter in group["params"])
        for optimiser in (optimiser_for(model, settings), reference_optimiser(model, settings))
    )
    assert ours == theirs > 50_000


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_at_the_same_masks_and_pairs_both_have_the_same_losses(padded: bool) -> None:
    settings, model, teachers = made()
    part, token_ids, images = read(settings, padded)
    ours = losses(model, images, part, settings.objectives, teachers, alpha=0.0)
    positions = part.own.masked.positions.to(images.device)
    labels = torch.where(positions, token_ids, IGNORED)
    matching = match_batch(model, model.image_features(images), part, settings.objectives, teachers, ALONE)
    drawn = Drawn(part.own.masked.token_ids.to(images.device), labels, matching.image_rows, matching.is_match)
    mlm, _ = reference_losses(model, images, token_ids, drawn)
    _, itm = reference_losses(model, images, matching.token_ids, drawn)
    assert float(mlm) == pytest.approx(float(ours["mlm_loss"]), abs=1e-4)
    assert float(itm) == pytest.approx(float(ours["itm_loss"]), abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_savings_leave_the_losses_as_they_are(padded: bool) -> None:
    settings, model, _ = made()
    _, token_ids, images = read(settings, padded)
    drawn = draw(token_ids.cpu(), 0.3, WORDS, images.device)
    plain = reference_losses(model, images, token_ids, drawn)
    for _, savings in ladder(frozen=True)[1:]:
        given = model.image_features(images) if savings.stored else images
        saved = reference_losses(model, given, token_ids, drawn, savings)
        assert [float(loss) for loss in saved] == pytest.approx([float(loss) for loss in plain], abs=1e-4)


def test_what_is_drawn_is_what_meter_draws() -> None:
    captions, _ = random_batch(Settings(), WORDS, 512)
    token_ids = torch.from_numpy(captions)
    drawn = draw(token_ids, 0.15, WORDS, torch.device("cpu"))
    predicted = drawn.labels != IGNORED
    assert (drawn.labels == token_ids)[predicted].all()
    assert (drawn.masked == token_ids)[~predicted].all()
    ordinary = torch.from_numpy(WORDS.ordinary)[token_ids]
    assert not (predicted & ~ordinary).any()
    assert predicted.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.02)
    assert (drawn.masked == WORDS.mask)[predicted].float().mean() == pytest.approx(0.8, abs=0.05)
    assert drawn.is_match.sum() == 256
    assert ((drawn.image_rows == torch.arange(512)) == drawn.is_match).all()


def test_every_variant_is_measured() -> None:
    rows = rows_of(speeds("tiny", 8, 1, 1, compiled=False, changes=SMALLER))
    assert len(rows) == len(ladder(frozen=True)) + 2
    assert rows[0].ratio == 1.0
    assert all(row.pairs_per_second > 0 for row in rows)
    assert Savings() == ladder(frozen=False)[0][1]
