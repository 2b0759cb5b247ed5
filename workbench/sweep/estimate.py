"""How long a sweep will take, from a few measured steps."""

import contextlib
import tempfile
import time
from pathlib import Path

import torch

from workbench.config.schema import Experiment, Settings
from workbench.stop import Stopped
from workbench.training.features import Room, features_name, room_of
from workbench.training.loop import Hooks
from workbench.training.prepare import prepare
from workbench.training.pretrain import train
from workbench.trial.cell import make_cell
from workbench.trial.inputs import Inputs
from workbench.workspace import Workspace


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
            "warm_start": settings.warm_start.model_copy(update={"steps": 4, "fusion": ()}),
        }
    )
    torch.set_num_threads(max(1, cores // workers))
    torch.set_flush_denormal(True)
    moments: list[float] = []

    def stop() -> bool:
        moments.append(time.perf_counter())
        return len(moments) > 12

    cell = make_cell(experiment, experiment.baseline, 0)
    shared = prepare(small, Workspace(workspace).cache, lambda *_: None)
    arm = cell.settings.model_copy(update={"data": small.data, "warm_start": small.warm_start})
    hooks = Hooks(log=lambda *_: None, progress=lambda *_: None, stop=stop)
    states = Workspace(workspace).checkpoints
    states.mkdir(parents=True, exist_ok=True)
    # In the workspace, where there is room for a state; a folder of its own, since another estimate may be under way.
    with tempfile.TemporaryDirectory(prefix="estimate-", dir=states) as folder, contextlib.suppress(Stopped):
        train(arm, 0, shared, Path(folder) / "estimate.pt", hooks)
    step = (moments[-1] - moments[2]) / (len(moments) - 3)
    trial = step * settings.optimisation.steps
    return {"step": step, "trial": trial}


def rooms(experiment: Experiment, workspace: Path) -> list[Room]:
    """What the stored features of all arms take, each store once. Raises UserError as `room_of`."""
    cache_dir = Workspace(workspace).cache
    inputs, found = Inputs(cache_dir), dict[str, Settings]()
    for arm in experiment.arms:
        settings = make_cell(experiment, arm, 0).settings
        if settings.model.vision.frozen:
            found.setdefault(features_name(settings, *inputs.read(settings)), settings)
    return [room_of(settings, cache_dir / name) for name, settings in found.items()]
