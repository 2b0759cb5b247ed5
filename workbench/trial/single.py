"""A single training outside a sweep, by this process or by several processes that torchrun started."""

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
from workbench.tracking.store import ensure_store
from workbench.trial.cell import Cell, make_cell
from workbench.trial.checkpoints import take_over, weights_of
from workbench.trial.job import Context, Goal, new_job
from workbench.trial.lease import Lease, LeaseLost, Unleased
from workbench.trial.ledger import Ledger
from workbench.workspace import Workspace


@dataclass(frozen=True)
class Single:
    """The result of a single training. `value`: the final primary metric, known to the first process. `again`: it had
    finished before."""

    run_id: str
    value: float | None
    weights: Path
    again: bool = False
    stopped: bool = False
    outcome: str = "finished"


def run_single(experiment: Experiment, seed: int, context: Context) -> Single:
    """Trains the experiment's fixed settings once, resuming an earlier run of the same command.

    Every process of the world must call this; the first one claims the trial, logs and prints.
    """
    import torch

    from workbench.training.parallelize import in_turn, local_size
    from workbench.training.prepare import pick_device, prepare
    from workbench.trial.run import clear, run_cell

    spec, world = context.spec, context.world
    torch.set_flush_denormal(True)
    cores = usable_cores()
    threads = max(1, cores // local_size())
    torch.set_num_threads(threads)
    cell = make_cell(experiment, {}, seed)
    study = f"{experiment.name}-train"
    weights = weights_of(spec.workspace, study, cell.key)
    ledger = Ledger.of_workspace(spec.workspace, study)
    ended = ledger.endings().get(cell.key)
    if world.any(world.rank == 0 and ended is not None, pick_device()):
        if ended and world.rank == 0:
            _report_changes(ended.run_id, cell, context)
        return (
            Single(ended.run_id, ended.value, weights, True, outcome=ended.outcome)
            if ended
            else Single("", None, weights, True)
        )
    uri = ensure_store(spec.workspace) if world.rank == 0 else ""
    sweep, start = (ledger.sweep(), ledger.next_start()) if world.rank == 0 else ("", 0)
    job = new_job(study, experiment, None, uri, start=start, threads=threads, all_threads=cores, sweep=sweep)
    lease: Lease = Unleased(cell)
    if world.rank == 0:
        take_over(ledger, spec.workspace, [cell.key])
        claimed = ledger.claim([cell], job.retries, job.start, spec.name)
        if claimed is None:
            raise UserError(f"{experiment.name}, seed {seed}: another process is training it in this workspace.")
        lease = claimed

    try:
        stop, show = context.patience.stopped, preparation(context.emit, spec.name)
        with at_last(stop, lease.release), guard(stop, lambda: lease.lost):
            prepared = in_turn(world, lambda: prepare(cell.settings, Workspace(spec.workspace).cache, show, stop))
            goal = Goal(experiment.primary, on_validation(experiment.primary))
            ending = run_cell(job, goal, lease, prepared, context)
            lease.complete(ending)
    except (Stopped, Interrupted):
        lease.release()
        return Single("", None, weights, stopped=True)
    except LeaseLost as lost:
        raise UserError(f"{experiment.name}, seed {seed}: another process has taken over this training.") from lost
    except BaseException as error:
        lease.fail(f"{type(error).__name__}: {error}")
        raise
    if world.rank == 0:
        clear(spec, study, cell)
    return Single(ending.run_id, ending.value, weights, outcome=ending.outcome)


def _report_changes(run_id: str, cell: Cell, context: Context) -> None:
    """Prints a message where a finished training used other inputs than the present ones."""
    from workbench.trial.inputs import Inputs

    home = context.spec.workspace
    try:
        _, tags = Tracker(ensure_store(home, context.patience.say), home).settings_of(run_id)
    except Exception as error:
        if isinstance(error, UserError) or outage(error):
            return  # it is finished anyway
        raise
    with suppress(UserError):  # inputs that cannot be read now cannot be compared
        if changes := Inputs(Workspace(home).cache).changes(cell.settings, tags):
            context.patience.say(
                f"it was made from other inputs than there are now: {'; '.join(changes)}; to train again, rename the"
                " file, or name another --workspace"
            )
