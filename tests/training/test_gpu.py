"""On a CUDA device: a trial learns what it learns on a CPU, goes on with the same bits, and survives too little
memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.courses import Logged, run, steady
from workbench.config.schema import Experiment, Settings
from workbench.config.settings import apply
from workbench.distributed import ALONE
from workbench.objectives.batch import BatchKey, draw_batch
from workbench.objectives.step import losses
from workbench.objectives.teachers import make_teachers
from workbench.stop import Stopped
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared, pick_device
from workbench.training.pretrain import optimiser_for, starting_model
from workbench.trial.cell import make_cell
from workbench.trial.run import train_cell

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LONGER = {
    "optimisation.deterministic": True,
    "optimisation.steps": 24,
    "evaluation.every": 6,
    "optimisation.checkpoint_every": 6,
}
METHODS = [
    {"objectives.mlm.soft_labels": "frozen_lm", "objectives.itm.negatives": "synthesized"},
    {"objectives.mlm.soft_labels": "ema", "objectives.itc.weight": 1.0, "objectives.itm.negatives": "in_batch_hard"},
    {"model.vision.frozen": False, "model.fusion.dropout": 0.1},
]


def course(settings: Settings, prepared: Prepared, path: Path, stop_at: int | None = None) -> Logged:
    return steady(run(settings, prepared, path, stop_at)[1])


@pytest.fixture
def on_gpu(prepared: Prepared) -> Prepared:
    return replace(prepared, device=pick_device())


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_stopped_on_a_gpu_ends_with_the_same_bits(
    settings: Settings, on_gpu: Prepared, tmp_path: Path, method: dict[str, Any]
) -> None:
    settings = apply(settings, LONGER | method)
    prepared = on_gpu if settings.model.vision.frozen else replace(on_gpu, features={})
    whole = course(settings, prepared, tmp_path / "whole.pt")
    with pytest.raises(Stopped):
        course(settings, prepared, tmp_path / "cut.pt", stop_at=10)
    resumed = course(settings, prepared, tmp_path / "cut.pt")
    assert {key: whole[key] for key in resumed} == resumed
    assert len(resumed) > 60


@pytest.mark.parametrize("method", METHODS[:1])
def test_the_losses_on_a_gpu_are_those_on_a_cpu(
    settings: Settings, on_gpu: Prepared, tmp_path: Path, method: dict[str, Any]
) -> None:
    settings = apply(settings, LONGER | method | {"optimisation.precision": "float32"})
    there = course(settings, on_gpu, tmp_path / "gpu.pt")
    here = course(settings, replace(on_gpu, device=torch.device("cpu")), tmp_path / "cpu.pt")
    assert there.keys() == here.keys()
    losses = [key for key in here if key[0] in ("train/loss", "val/mlm_loss")]
    assert len(losses) >= 4
    for key in losses:
        assert there[key] == pytest.approx(here[key], rel=0.01), key


def test_bfloat16_follows_float32(settings: Settings, on_gpu: Prepared, tmp_path: Path) -> None:
    exact = course(apply(settings, LONGER | {"optimisation.precision": "float32"}), on_gpu, tmp_path / "32.pt")
    half = course(apply(settings, LONGER | {"optimisation.precision": "bfloat16"}), on_gpu, tmp_path / "16.pt")
    losses = [key for key in exact if key[0] == "train/loss"]
    assert losses
    for key in losses:
        assert half[key] == pytest.approx(exact[key], rel=0.05), key


@pytest.mark.parametrize("method", METHODS[::2])
def test_a_step_does_not_wait_for_the_gpu(settings: Settings, on_gpu: Prepared, method: dict[str, Any]) -> None:
    """Until its losses are read, so that the host always has the next kernels ready."""
    changed = apply(settings, {"objectives.itm.hard_ratio": 1.0} | method)
    model = starting_model(changed, 0, on_gpu)
    teachers = make_teachers(changed.objectives, model, on_gpu.corpus)
    optimiser, rows = optimiser_for(model, changed), np.arange(16)
    ids = on_gpu.corpus.train.token_ids[:16]
    stored = on_gpu.features["train"] if changed.model.vision.frozen else on_gpu.corpus.train.images
    images = torch.from_numpy(np.array(stored[:16])).to(on_gpu.device)
    images = images.float() if changed.model.vision.frozen else images

    def step() -> None:
        part = draw_batch(ids, None, changed.objectives, teachers.words.vocabulary, BatchKey(rows, 0, 0, 3)).part()
        losses(model, images, part, changed.objectives, teachers, changed.objectives.mlm.alpha)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    step()  # makes the optimiser's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_too_little_memory_halves_the_micro_batch(experiment: Experiment, on_gpu: Prepared, tmp_path: Path) -> None:
    large = {"optimisation.batch_size": 256, "optimisation.steps": 3, "evaluation.every": 3}
    cell = replace(make_cell(experiment, {}, 0), settings=apply(experiment.settings, large))
    said: list[str] = []
    hooks = Hooks(log=lambda *_: None, progress=lambda *_: None, say=said.append)

    def end(name: str) -> dict[str, str]:
        return train_cell(cell, 0, on_gpu, tmp_path / name, hooks, ALONE).remarks

    torch.cuda.reset_peak_memory_stats()
    assert end("enough.pt") == {}
    needed = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.7 * needed / torch.cuda.get_device_properties(0).total_memory)
    try:
        remarks = end("scarce.pt")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert int(remarks["micro_batches"]) >= 2
    assert "out of GPU memory" in said[0]
