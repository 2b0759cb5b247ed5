"""One trial outside a sweep, by this process or by several that torchrun has started."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from workbench.config.schema import Experiment
from workbench.errors import UserError
from workbench.sweep.grid import make_cell, study_name
from workbench.sweep.study import Ledger
from workbench.sweep.worker import Event, Job
from workbench.tracking.store import open_store
from workbench.world import World


@dataclass(frozen=True)
class Single:
    """`value` is the primary metric at the end, known to the first process; `again`: it was finished before."""

    run_id: str
    value: float | None
    weights: Path
    again: bool = False
    stopped: bool = False


def run_single(
    experiment: Experiment, seed: int, workspace: Path, world: World, show: Callable[[Event], None]
) -> Single:
    """Trains the experiment's fixed settings once, going on from an earlier start of the same command.

    Every process of the world must call this; the first one claims, logs and shows.
    """
    import torch

    from workbench.sweep.trial import run_cell
    from workbench.training.distributed import in_turn, local_size
    from workbench.training.loop import Stopped
    from workbench.training.prepare import pick_device, prepare

    stop, preparing = threading.Event(), True

    def on_signal(number: int, _: object) -> None:
        if preparing:
            os._exit(128 + number)  # nothing to save: what is half prepared is never seen and made anew
        stop.set()

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, on_signal)
    torch.set_flush_denormal(True)
    cores = os.cpu_count() or 1
    threads = max(1, cores // local_size())
    torch.set_num_threads(threads)
    cell = make_cell(experiment, {}, seed)
    study = f"{study_name(experiment)}-train"
    ledger = Ledger(workspace / "studies", study)
    weights = workspace / "checkpoints" / f"{cell.key}.safetensors"
    with ledger.claim(cell) if world.rank == 0 else nullcontext(True) as ours:
        done = ledger.outcome(cell)
        if world.any(world.rank == 0 and done is not None, pick_device()):
            return (
                Single(done.user_attrs["run_id"], done.value, weights, True)
                if done
                else Single("", None, weights, True)
            )
        if not ours:
            raise UserError(f"{experiment.name}, seed {seed}: another process is training it in this workspace.")
        uri = open_store(workspace) if world.rank == 0 else ""
        job = Job(workspace, study, None, uri, [cell], threads, cores, experiment.primary, time.time())

        def on_prepare(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
            show(("prepare", {"worker": 0, "stage": stage, "done": done, "total": total, "figures": figures}))

        prepared = in_turn(world, lambda: prepare(cell.settings, workspace / "cache", on_prepare))
        preparing = False
        try:
            run_id, value = run_cell(job, cell, prepared, ledger, 0, show, stop, world)
        except Stopped:
            return Single("", None, weights, stopped=True)
    return Single(run_id, value, weights)
