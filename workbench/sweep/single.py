"""One trial outside a sweep, by this process or by several that torchrun has started."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench.config.schema import Experiment
from workbench.errors import UserError
from workbench.outage import Interrupted
from workbench.sweep.grid import make_cell
from workbench.sweep.job import Place, new_job
from workbench.sweep.launch.local import usable_cores
from workbench.sweep.study import Lease, Ledger, Unleased
from workbench.sweep.worker import Event, preparation
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
    outcome: str = "finished"


def run_single(
    experiment: Experiment, seed: int, workspace: Path, world: World, show: Callable[[Event], None]
) -> Single:
    """Trains the experiment's fixed settings once, going on from an earlier start of the same command.

    Every process of the world must call this; the first one claims, logs and shows.
    """
    import torch

    from workbench.sweep.trial import clear, run_cell
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
    cores = usable_cores()
    threads = max(1, cores // local_size())
    torch.set_num_threads(threads)
    cell = make_cell(experiment, {}, seed)
    study = f"{experiment.name}-train"
    weights = workspace / "checkpoints" / f"{cell.key}.safetensors"
    ledger = Ledger.of_workspace(workspace, study)
    ended = ledger.endings().get(cell.key)
    if world.any(world.rank == 0 and ended is not None, pick_device()):
        return (
            Single(ended.run_id, ended.value, weights, True, outcome=ended.outcome)
            if ended
            else Single("", None, weights, True)
        )
    uri = open_store(workspace) if world.rank == 0 else ""
    sweep = ledger.sweep() if world.rank == 0 else ""
    job = new_job(study, experiment, None, uri, threads=threads, all_threads=cores, sweep=sweep)
    place = Place(workspace, None, "train")
    lease: Lease = Unleased(ledger, -1, cell)
    if world.rank == 0:
        claimed = ledger.claim([cell], job.retries, job.started, place.name)
        if claimed is None:
            raise UserError(f"{experiment.name}, seed {seed}: another process is training it in this workspace.")
        lease = claimed

    def say(message: str) -> None:
        show(("say", {"worker": "train", "message": message}))

    try:
        prepared = in_turn(world, lambda: prepare(cell.settings, workspace / "cache", preparation(show, place.name)))
        preparing = False
        ending = run_cell(job, place, lease, prepared, show, say, stop.is_set, world)
        lease.complete(ending)
    except (Stopped, Interrupted):
        lease.release()
        return Single("", None, weights, stopped=True)
    except BaseException as error:
        lease.fail(f"{type(error).__name__}: {error}")
        raise
    if world.rank == 0:
        clear(place, cell)
    return Single(ending.run_id, ending.value, weights, outcome=ending.outcome)
