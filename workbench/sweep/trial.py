"""One cell from claim to record: its MLflow run, its training, its outcome."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from workbench.sweep.grid import Cell
from workbench.sweep.study import Ledger
from workbench.tracking.provenance import provenance
from workbench.tracking.runs import Tracker
from workbench.training.loop import Hooks, Stopped, train
from workbench.training.prepare import Prepared
from workbench.world import ALONE, World

if TYPE_CHECKING:
    from workbench.sweep.worker import Event, Job


def run_cell(
    job: "Job",
    cell: Cell,
    prepared: Prepared,
    ledger: Ledger,
    worker: int,
    emit: "Callable[[Event], None]",
    stop: threading.Event,
    world: World = ALONE,
) -> tuple[str, float]:
    """Trains a claimed cell, going on from its checkpoint; its run's id and the primary metric at its end.

    Raises Stopped where it was asked to stop. Of several processes only the first one logs and records.
    """
    checkpoint = job.workspace / "checkpoints" / f"{cell.key}.pt"
    if world.rank > 0:
        silent = Hooks(log=lambda *_: None, progress=lambda *_: None, stop=stop.is_set)
        return "", train(cell.settings, cell.seed, prepared, checkpoint, silent, world)[job.primary]
    tracker = Tracker(job.uri, job.workspace)
    tags = {"study": job.study, "cell": cell.label, "seed": str(cell.seed), "config_hash": cell.key}
    params: dict[str, Any] = dict(cell.values) | {"seed": cell.seed, "steps": cell.settings.optimisation.steps}
    if job.parent_run is None:
        tags["kind"] = "train"
    run_id = tracker.start(
        cell.name if job.parent_run else f"{job.study} · seed {cell.seed}", tags, params, job.parent_run
    )
    tracker.tag(run_id, {"data": prepared.corpus.fingerprint, "warm_start": prepared.fingerprint})
    tracker.attach(run_id, cell.settings.model_dump(), "config.json")
    tracker.attach(run_id, provenance(), "provenance.json")
    steps = cell.settings.optimisation.steps

    def on_step(step: int, figures: dict[str, float]) -> None:
        figures = figures | {"pairs": float(cell.settings.optimisation.batch_size)}
        emit(("step", {"worker": worker, "cell": cell.name, "step": step, "steps": steps, "figures": figures}))

    hooks = Hooks(log=lambda metrics, step: tracker.log(run_id, metrics, step), progress=on_step, stop=stop.is_set)
    try:
        final = train(cell.settings, cell.seed, prepared, checkpoint, hooks, world)
    except Stopped:
        tracker.finish(run_id, "KILLED")
        raise
    except Exception as error:
        tracker.tag(run_id, {"failure": f"{type(error).__name__}: {error}"[:4000]})
        tracker.finish(run_id, "FAILED")
        raise
    keep_weights(checkpoint)
    tracker.finish(run_id)
    ledger.record(cell, run_id, final[job.primary])
    checkpoint.unlink()  # only now: a trial that is killed before is finished again from its last state
    emit(("done", {"worker": worker, "cell": cell.name, "seed": cell.seed, "value": final[job.primary]}))
    return run_id, final[job.primary]


def keep_weights(checkpoint: Path) -> None:
    """Leaves of a finished trial's state the weights alone, which evaluation needs."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    half = checkpoint.with_suffix(".half")
    save_file({name: tensor.clone() for name, tensor in saved.items()}, half)
    os.replace(half, checkpoint.with_suffix(".safetensors"))
