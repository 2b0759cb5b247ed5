"""No tensor of a step is made on another device than the model's. There is no GPU here: whatever is made without a
device lands on `meta`, where it meets nothing of the model without an error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.several_processes import tuned_for
from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.objectives.batch import BatchKey, Weights, draw_batch
from workbench.objectives.step import losses
from workbench.objectives.teachers import make_teachers
from workbench.objectives.words import weights_of
from workbench.training import finetune, fused_start, warm_start
from workbench.training.loop import Hooks, fit
from workbench.training.prepare import Prepared
from workbench.training.pretrain import optimiser_for, starting_model
from workbench.training.validation import Subject, validation

QUIET = Hooks(lambda *_: None, lambda *_: None)
CPU = torch.device("cpu")
STEPS = [
    {"objectives.mlm.soft_labels": "frozen_lm", "objectives.itm.false_negative_filter": "teacher"},
    {"objectives.mlm.soft_labels": "ema", "objectives.itm.generator": "ema", "objectives.itm.synthesis_rounds": 2},
    {"objectives.mlm.soft_labels": "unigram", "objectives.itm.generator": "unigram", "objectives.itm.top_p": 0.9},
    {"objectives.mlm.soft_labels": "smoothing", "objectives.mlm.top_k": 3, "objectives.itm.negatives": "in_batch_hard"},
    {"objectives.itc.weight": 1.0, "objectives.itc.alpha": 0.4, "objectives.itm.negatives": "in_batch_hard"},
    {"objectives.itm.synthesis_words": "salient", "objectives.mlm.mask_words": "surprising"},
    {"model.fusion.kind": "merged", "optimisation.length_buckets": 2, "model.text_pool": "first"},
    {"model.vision.frozen": False, "model.image_positions": False, "objectives.mlm.whole_word": True},
]


@pytest.mark.parametrize("change", STEPS, ids=lambda change: next(iter(change)))
def test_a_step_makes_every_tensor_where_the_model_is(
    change: dict[str, Any], settings: Settings, prepared: Prepared
) -> None:
    changed = apply(settings, {"objectives.itm.hard_ratio": 1.0} | change)
    model = starting_model(changed, 0, prepared)
    teachers = make_teachers(changed.objectives, model, prepared.corpus)
    pairs, rows = prepared.corpus.train, np.arange(16)
    stored = prepared.features["train"] if changed.model.vision.frozen else pairs.images
    images = torch.from_numpy(np.array(stored[:16]))
    images = images.float() if changed.model.vision.frozen else images
    ids, vocabulary = pairs.token_ids[:16], teachers.words.vocabulary
    with torch.device("meta"):
        weights = Weights()
        if changed.model.vision.frozen:
            weights = weights_of(changed.objectives, ids, teachers, images)
        part = draw_batch(ids, None, changed.objectives, vocabulary, BatchKey(rows, 0, 0, 3), weights).part()
        alpha, buckets = changed.objectives.mlm.alpha, changed.optimisation.length_buckets
        parts = losses(model, images, part, changed.objectives, teachers, alpha, length_buckets=buckets)
        parts["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser_for(model, changed).step()
        teachers.follow(model, 0.9)
    assert parts["loss"].device.type == "cpu"
    assert torch.isfinite(parts["loss"])


def test_a_validation_makes_every_tensor_where_the_model_is(settings: Settings, prepared: Prepared) -> None:
    changed = apply(settings, {"evaluation.pairs": 16})
    model = starting_model(changed, 0, prepared)
    teachers = make_teachers(changed.objectives, model, prepared.corpus)
    with torch.device("meta"), torch.no_grad():
        evaluation = validation(Subject(model, changed, prepared, teachers))
        measured = {part.name: part.measure() for part in evaluation.parts()}
    assert all(np.isfinite(value) for _, value in evaluation.metrics(measured))


def fit_on_meta(*given: Any) -> Iterator[dict[str, float]]:
    with torch.device("meta"):
        yield from fit(*given)


@pytest.mark.parametrize("trained", [True, False])
def test_a_warm_start_makes_every_tensor_where_the_model_is(
    trained: bool, settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "fit", fit_on_meta)
    changed = apply(settings, {"warm_start.train_vision": trained, "warm_start.steps": 2})
    stored = None if trained else prepared.features["train"]
    weights = warm_start.warm_start(changed, prepared.corpus, CPU, tmp_path, QUIET, stored)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_fused_start_makes_every_tensor_where_the_model_is(
    settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_start, "fit", fit_on_meta)
    phases = [{"steps": 1, "words": "relations", "batch_size": 16}, {"steps": 1, "replaced": 0.5, "batch_size": 16}]
    changed = apply(settings, {"warm_start.fusion": phases})
    weights = fused_start.fused_start(changed, prepared.corpus, CPU, tmp_path, QUIET, prepared.weights)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "retrieval"])
def test_fine_tuning_makes_every_tensor_where_the_model_is(
    task: str, settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "fit", fit_on_meta)
    losses = tuned_for(task, settings, prepared, tmp_path / "tuned.pt")
    assert len(losses) > 2
    assert np.isfinite(losses).all()
