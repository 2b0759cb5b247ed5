"""What is counted from shapes against what is there."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.initialization import meta_device_safe_creation_ops

from workbench.config.schema import Objectives, Settings
from workbench.config.settings import apply
from workbench.objectives.batch import BatchKey, draw_batch
from workbench.objectives.step import losses
from workbench.objectives.teachers import make_teachers
from workbench.training.prepare import Prepared
from workbench.training.shapes import copies_of, count, memory, outline, state_bytes, vocabulary_of
from workbench.training.warm_start import new_model

FORM: dict[str, Any] = {
    "model.vision.name": "test_vit",
    "model.vision.tokens": "final",
    "model.vision.stage": 0,
    "model.vision.frozen": False,
    "model.image_positions": False,
}


@pytest.fixture(scope="module")
def formed(settings: Settings, prepared: Prepared) -> Settings:
    vocabulary = prepared.corpus.tokeniser.vocabulary.size
    return apply(settings, FORM | {"data.vocabulary": vocabulary, "objectives.mlm.soft_labels": "none"})


def saved_by_a_step(settings: Settings, prepared: Prepared, batch: int) -> int:
    """Bytes that a real step keeps for its backward pass, without the parameters."""
    model = new_model(settings, prepared.corpus, 0)
    teachers = make_teachers(settings.objectives, model, prepared.corpus)
    rows = np.arange(batch)
    ids = prepared.corpus.train.texts(rows, 0, 0)  # as long as the longest caption
    plan = draw_batch(ids, None, settings.objectives, teachers.words.vocabulary, BatchKey(rows, 0))
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage
        return tensor

    images = torch.from_numpy(np.array(prepared.corpus.train.images[:batch]))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        parts = losses(model, images, plan.part(), settings.objectives, teachers, 0.0)
        parts["loss"].backward()
    return sum(storage.nbytes() for storage in storages.values())


def test_parameters_are_those_of_the_model(formed: Settings, prepared: Prepared) -> None:
    model = new_model(formed, prepared.corpus, 0)
    shapes = outline(formed)
    assert shapes.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shapes.language == sum(parameter.numel() for parameter in model.language.parameters())
    assert (shapes.tokens, shapes.channels) == (model.vision.tokens, model.vision.channels)


def test_what_a_step_keeps_is_counted_within_a_quarter(formed: Settings, prepared: Prepared) -> None:
    length = prepared.corpus.train.token_ids.shape[1]
    counted = count(apply(formed, {"data.max_length": length}), low_precision=False)
    real = saved_by_a_step(formed, prepared, 16)
    assert 16 * counted.saved_bytes == pytest.approx(real, rel=0.25)
    assert counted.operations > 0


def test_recomputed_layers_keep_less(formed: Settings) -> None:
    whole = count(formed, low_precision=False).saved_bytes
    assert count(apply(formed, {"optimisation.activation_checkpointing": True}), False).saved_bytes < whole


def test_stored_features_leave_the_vision_encoder_out(formed: Settings) -> None:
    frozen = outline(apply(formed, {"model.vision.frozen": True}))
    assert frozen.trained < outline(formed).trained
    assert frozen.parameters == outline(formed).parameters


def test_activations_alone_shrink_with_the_batch_and_shards_with_the_processes(formed: Settings) -> None:
    shapes = count(formed, low_precision=False)
    whole = memory(formed, shapes, False)
    assert whole["activations"] == shapes.saved_bytes * formed.optimisation.batch_size
    assert whole["optimiser"] == 2 * whole["gradients"] == 8 * shapes.trained
    parts = memory(apply(formed, {"optimisation.micro_batches": 2}), shapes, False)
    assert parts == whole | {"activations": whole["activations"] // 2}
    spread = memory(apply(formed, {"optimisation.sharding": "fsdp"}), shapes, False, processes=2)
    assert spread["weights"] == whole["weights"] // 2
    assert state_bytes(formed, shapes) == 4 * (shapes.parameters + 2 * shapes.trained)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objectives.mlm.soft_labels": "ema"},
        {"objectives.mlm.soft_labels": "frozen_lm"},
        {"objectives.itm.generator": "frozen"},
        {"objectives.itm.generator": "ema"},
        {"objectives.itm.false_negative_filter": "teacher"},
        {"objectives.itm.synthesis_words": "surprising"},
        {"objectives.mlm.mask_words": "salient"},
        {"objectives.itm.negatives": "in_batch_hard", "objectives.itm.generator": "ema"},
        {"objectives.itc.weight": 1.0},
    ],
)
def test_copies_are_those_that_training_makes(formed: Settings, prepared: Prepared, changes: dict[str, Any]) -> None:
    settings = apply(formed, changes)
    objectives: Objectives = settings.objectives
    teachers = make_teachers(objectives, new_model(settings, prepared.corpus, 0), prepared.corpus)
    assert copies_of(objectives) == (teachers.frozen is not None, teachers.ema is not None)


def test_a_well_known_tokeniser_is_as_large_as_it_is(settings: Settings) -> None:
    assert vocabulary_of(apply(settings, {"data.tokeniser": "FacebookAI/roberta-base"})) == 50265
    assert vocabulary_of(apply(settings, {"data.tokeniser": "bert-base-uncased"})) == 30522
    assert vocabulary_of(settings) == settings.data.vocabulary


def test_the_model_stands_on_paper_also_after_weights_were_loaded(formed: Settings) -> None:
    constructors = torch.utils._device._device_constructors  # what `with torch.device(...)` acts on, looked up once
    constructors.cache_clear()
    try:
        with meta_device_safe_creation_ops(), torch.device("meta"):  # as in transformers' `from_pretrained`
            torch.zeros(1)
        assert outline(formed).parameters > 0
    finally:
        constructors.cache_clear()
