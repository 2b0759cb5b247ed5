"""How long a sweep will take, from a few measured steps."""

import contextlib
import time
from pathlib import Path

import torch

from workbench.config.schema import Experiment
from workbench.stop import Stopped
from workbench.training.loop import Hooks
from workbench.training.prepare import prepare
from workbench.training.pretrain import train
from workbench.training.state import remove
from workbench.trial.cell import make_cell


def estimate(experiment: Experiment, workspace: Path, workers: int, cores: int) -> dict[str, float]:
    """Seconds of one training step and of one trial, from a few measured steps of the baseline.

    Measured on a model with a fresh start, and the tokens and pictures of a small sample, so that nothing has to be
    prepared first.
    """
    settings = experiment.settings
    small = settings.model_copy(
        update={
            "data": settings.data.model_copy(
                update={"train_pairs": 4 * settings.optimisation.batch_size, "eval_pairs": 64}
            ),
            "warm_start": settings.warm_start.model_copy(update={"steps": 4}),
        }
    )
    torch.set_num_threads(max(1, cores // workers))
    torch.set_flush_denormal(True)
    moments: list[float] = []

    def stop() -> bool:
        moments.append(time.perf_counter())
        return len(moments) > 12

    cell = make_cell(experiment, experiment.baseline, 0)
    shared = prepare(small, workspace / "cache", lambda *_: None)
    checkpoint = workspace / "checkpoints" / "estimate.pt"
    remove(checkpoint)
    arm = cell.settings.model_copy(update={"data": small.data, "warm_start": small.warm_start})
    with contextlib.suppress(Stopped):
        train(arm, 0, shared, checkpoint, Hooks(log=lambda *_: None, progress=lambda *_: None, stop=stop))
    remove(checkpoint)
    step = (moments[-1] - moments[2]) / (len(moments) - 3)
    trial = step * settings.optimisation.steps
    return {"step": step, "trial": trial}
