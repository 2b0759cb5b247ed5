"""One trial outside a sweep, by this process or by several that torchrun has started."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workbench.config.schema import Experiment
from workbench.cores import usable_cores
from workbench.errors import Interrupted, UserError
from workbench.events import preparation
from workbench.faults import outage
from workbench.metrics import on_validation
from workbench.stop import Stopped, at_last, guard
from workbench.tracking.runs import Tracker
from workbench.tracking.store import open_store
from workbench.trial.cell import Cell, make_cell
from workbench.trial.checkpoints import take_over, weights_of
from workbench.trial.job import Context, Goal, new_job
from workbench.trial.lease import Lease, LeaseLost, Unleased
from workbench.trial.ledger import Ledger
from workbench.workspace import Workspace


@dataclass(frozen=True)
class Single:
    """`value` is the primary metric at the end, known to the first process; `again`: it was finished before."""

    run_id: str
    value: float | None
    weights: Path
    again: bool = False
    stopped: bool = False
    outcome: str = "finished"


def run_single(experiment: Experiment, seed: int, context: Context) -> Single:
    """Trains the experiment's fixed settings once, going on from an earlier start of the same command.

    Every process of the world must call this; the first one claims, logs and tells.
    """
    import torch

    from workbench.training.parallelize import in_turn, local_size
    from workbench.training.prepare import pick_device, prepare
    from workbench.trial.run import clear, run_cell

    place, world = context.place, context.world
    torch.set_flush_denormal(True)
    cores = usable_cores()
    threads = max(1, cores // local_size())
    torch.set_num_threads(threads)
    cell = make_cell(experiment, {}, seed)
    study = f"{experiment.name}-train"
    weights = weights_of(place.workspace, study, cell.key)
    ledger = Ledger.of_workspace(place.workspace, study)
    ended = ledger.endings().get(cell.key)
    if world.any(world.rank == 0 and ended is not None, pick_device()):
        if ended and world.rank == 0:
            _tell_of_changes(ended.run_id, cell, context)
        return (
            Single(ended.run_id, ended.value, weights, True, outcome=ended.outcome)
            if ended
            else Single("", None, weights, True)
        )
    uri = open_store(place.workspace) if world.rank == 0 else ""
    sweep, start = (ledger.sweep(), ledger.next_start()) if world.rank == 0 else ("", 0)
    job = new_job(study, experiment, None, uri, start=start, threads=threads, all_threads=cores, sweep=sweep)
    lease: Lease = Unleased(cell)
    if world.rank == 0:
        take_over(ledger, place.workspace, [cell.key])
        claimed = ledger.claim([cell], job.retries, job.start, place.name)
        if claimed is None:
            raise UserError(f"{experiment.name}, seed {seed}: another process is training it in this workspace.")
        lease = claimed

    try:
        stop, told = context.patience.stopped, preparation(context.emit, place.name)
        with at_last(stop, lease.release), guard(stop, lambda: lease.lost):
            prepared = in_turn(world, lambda: prepare(cell.settings, Workspace(place.workspace).cache, told, stop))
            goal = Goal(experiment.primary, on_validation(experiment.primary))
            ending = run_cell(job, goal, lease, prepared, context)
            lease.complete(ending)
    except (Stopped, Interrupted):
        lease.release()
        return Single("", None, weights, stopped=True)
    except LeaseLost as lost:
        raise UserError(f"{experiment.name}, seed {seed}: another process has taken it over.") from lost
    except BaseException as error:
        lease.fail(f"{type(error).__name__}: {error}")
        raise
    if world.rank == 0:
        clear(place, study, cell)
    return Single(ending.run_id, ending.value, weights, outcome=ending.outcome)


def _tell_of_changes(run_id: str, cell: Cell, context: Context) -> None:
    """Says where a training that is finished was made from something else than there is now."""
    from workbench.trial.inputs import Inputs

    home = context.place.workspace
    try:
        _, tags = Tracker(open_store(home, context.patience.say), home).settings_of(run_id)
    except Exception as error:
        if isinstance(error, UserError) or outage(error):
            return  # it is finished all the same
        raise
    with suppress(UserError):  # what cannot be read any more was something else
        if found := Inputs(Workspace(home).cache).changes(cell.settings, tags):
            context.patience.say(
                f"it was made from other inputs than there are now: {'; '.join(found)}; to train anew, give the file"
                " another name, or name another --workspace"
            )
