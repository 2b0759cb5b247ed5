"""Trains small variants and writes their curves; run by torchrun in test_distributed.py, and called there directly.

torchrun --nproc-per-node 2 several_processes.py SETTINGS.json CACHE OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.data.text import Vocabulary
from workbench.distributed import ALONE, World
from workbench.evaluation.downstream.tasks import of_scenes
from workbench.model.vilta import ViLTA
from workbench.stop import Stopped
from workbench.training.finetune import Course, Recipe, finetune, finetune_retrieval
from workbench.training.loop import Hooks
from workbench.training.parallelize import joined, spread_over
from workbench.training.prepare import Prepared, prepare
from workbench.training.pretrain import starting_model, train

TRAINED_VIT = {"model.vision.name": "test_vit", "model.vision.tokens": "final", "model.vision.stage": 0} | {
    "model.vision.frozen": False,
    "model.image_positions": False,
}
CONTRAST = {
    "objectives.itc.weight": 1.0,
    "objectives.itc.queue": 24,
    "objectives.itc.alpha": 0.4,
    "objectives.mlm.soft_labels": "ema",
    "objectives.itm.negatives": "in_batch_hard",
    "objectives.itm.hard_ratio": 0.7,
}
FSDP = {"optimisation.sharding": "fsdp"}
VARIANTS: dict[str, dict[str, Any]] = {
    "synthesized": {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.alpha": 0.5},
    "chosen words": {
        "objectives.itm.synthesis_words": "salient",
        "objectives.mlm.mask_words": "surprising",
        "objectives.itm.synthesis_mask_ratio": 0.6,
        "objectives.itm.synthesis_rounds": 2,
        "objectives.itm.hard_ratio": 1.0,
        "objectives.itm.false_negative_filter": "teacher",
    },
    "foils": {"objectives.itm.negatives": "foils"},
    "contrast": CONTRAST,
    "similarity": {"objectives.itm.negatives": "in_batch_hard", "model.fusion.kind": "merged"},
    "trained vision": TRAINED_VIT | CONTRAST,
    "micro-batches": TRAINED_VIT | {"optimisation.batch_size": 32},
    "sharded": FSDP | {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.alpha": 0.5},
    "sharded, trained vision": FSDP | TRAINED_VIT | CONTRAST,
}
LONG = ("chosen words", "foils", "similarity", "trained vision", "sharded")  # the others do most of what these do
TUNED = ("vqa", "nlvr2", "retrieval")
RESUMED = ("contrast", "sharded, trained vision")


def curve(
    settings: Settings, cache: Path, checkpoint: Path, world: World = ALONE, stop_at: int | None = None
) -> dict[str, float]:
    """Every training and validation metric at every step that logs, as `name@step`."""
    logged: dict[str, float] = {}
    seen = [0]

    def log(metrics: dict[str, float], step: int) -> None:
        logged.update({f"{name}@{step}": value for name, value in metrics.items()})

    def progress(step: int, figures: dict[str, float]) -> None:
        seen[0] = step

    # Only one process is asked to stop; the others must hear of it.
    hooks = Hooks(log, progress, lambda: world.rank == 0 and seen[0] == stop_at)
    try:
        train(settings, 0, prepare(settings, cache, lambda *_: None), checkpoint, hooks, world)
    except Stopped:
        assert stop_at
    return logged


def tuned(settings: Settings, cache: Path, checkpoint: Path, task: str, world: World = ALONE) -> list[float]:
    return tuned_for(task, settings, prepare(settings, cache, lambda *_: None), checkpoint, world)


def tuned_for(task: str, settings: Settings, prepared: Prepared, checkpoint: Path, world: World = ALONE) -> list[float]:
    """The losses of a fine-tuning, each of whose batches is cut into two micro-batches."""
    model, pairs = starting_model(settings, 0, prepared), prepared.corpus.train
    losses: list[float] = []
    hooks = Hooks(lambda *_: None, lambda _, figures: losses.append(figures["loss"]))
    recipe = Recipe(2, 8, 1e-3, 2.0, micro_batches=2)
    course = Course(recipe, 0, checkpoint, hooks, prepared.device, world=world)
    if task == "retrieval":
        ids, count = pairs.token_ids[:24].astype(np.int64), np.arange(24)
        finetune_retrieval(model, prepared.features["train"][:24], ids, count, course)
    else:
        finetune(model, prepared.corpus.tokeniser, task, of_scenes(task, pairs, prepared.features["train"], 32), course)
    return losses


def variant(base: Settings, name: str, world: World) -> Settings:
    micro_batches = {"optimisation.micro_batches": 2} if name == "micro-batches" and world.size > 1 else {}
    return apply(base, VARIANTS[name] | micro_batches)


def main() -> None:
    torch.set_num_threads(1)
    base = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    cache, out, variants = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    with joined() as world:
        spread = spread_over(ViLTA(base.model, 64, Vocabulary.plain(100), 16), "fsdp", world)
        assert all(isinstance(parameter, DTensor) for parameter in spread.parameters())
        copied = spread_over(ViLTA(base.model, 64, Vocabulary.plain(100), 16), "ddp", world)
        assert isinstance(copied, DistributedDataParallel)
        curves: dict[str, Any] = {
            name: curve(variant(base, name, world), cache, out / f"{name}.pt", world) for name in variants
        }
        for name in (name for name in RESUMED if name in variants):
            settings = variant(base, name, world)
            curve(settings, cache, out / f"{name} from two.pt", world, stop_at=3)
            curves[f"{name} from one"] = curve(settings, cache, out / f"{name} from one.pt", world)
        curves |= {task: tuned(base, cache, out / f"{task}.pt", task, world) for task in TUNED}
        if world.rank == 0:
            (out / "curves.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
