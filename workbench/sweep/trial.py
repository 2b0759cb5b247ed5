"""One cell from claim to ending: its MLflow run, its training, how it ended."""

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from safetensors.torch import save_file

from workbench.config.load import apply
from workbench.data.corpus import SPLITS
from workbench.objectives.plan import BLOCK
from workbench.outage import patiently
from workbench.record import EXAMPLES, TrialTags
from workbench.sweep.grid import Cell
from workbench.sweep.job import Job, Place
from workbench.sweep.search import course_metric, pruned_by, value_metric
from workbench.sweep.study import Ending, Lease, LeaseLost
from workbench.tracking.log import RunLog
from workbench.tracking.provenance import provenance
from workbench.tracking.runs import Tracker
from workbench.training.loop import Diverged, Hooks, Stopped, train
from workbench.training.prepare import Prepared
from workbench.training.state import read, remove
from workbench.world import ALONE, World

if TYPE_CHECKING:
    from workbench.sweep.worker import Emit

IDENTITY = ("study", "seed", "config_hash")  # the tags by which a trial's run is found again
SYSTEM_EVERY = 10  # seconds between two readings of processor, memory and GPU


class Pruned(Exception):
    """A trial of a search that earlier ones outdo."""


def run_cell(
    job: Job,
    place: Place,
    lease: Lease,
    prepared: Prepared,
    emit: "Emit",
    say: Callable[[str], None],
    stopped: Callable[[], bool],
    world: World = ALONE,
) -> Ending:
    """Trains a claimed cell, going on from its checkpoint, and logs it.

    Raises Stopped (or Interrupted) where it was asked to stop, LeaseLost where another worker has the trial now. Of several processes
    only the first one logs.
    """
    cell = lease.cell
    checkpoint = place.workspace / "checkpoints" / f"{cell.key}.pt"
    judged_by = value_metric(job.experiment, cell)
    if world.rank > 0:
        silent = Hooks(log=lambda *_: None, progress=lambda *_: None, stop=stopped)
        return _ending(cell, "", judged_by, prepared, checkpoint, silent, {}, world)[0]
    tracker = Tracker(job.uri, place.workspace)
    run_id, again = patiently(lambda: start_run(tracker, job, cell, prepared), say, stopped)
    endings = patiently(lease.ledger.endings, say, stopped) if cell.searching is not None else {}
    course = course_metric(job.experiment)
    # What an earlier attempt has measured before the checkpoint is not measured again.
    curve = patiently(lambda: tracker.curve(run_id, course), say, stopped) if again else {}
    steps = cell.settings.optimisation.steps

    def on_step(step: int, figures: dict[str, float]) -> None:
        lease.tell(step, steps)
        figures = figures | {"pairs": float(cell.settings.optimisation.batch_size)}
        emit(("step", {"worker": place.name, "cell": cell.name, "step": step, "steps": steps, "figures": figures}))

    with sending(tracker, run_id, place, again, say, stopped) as sent:
        curve |= {each["step"]: each["metrics"][course] for each in sent.found if course in each["metrics"]}

        def on_log(metrics: dict[str, float], step: int) -> None:
            sent.log(metrics, step)
            if course in metrics:
                curve[step] = metrics[course]
                known = {at: value for at, value in curve.items() if at <= step}
                if step < steps and pruned_by(job.experiment, cell, endings, known):
                    raise Pruned

        def stop() -> bool:
            if lease.lost:
                lease.held()  # raises, so that nothing more is written
            return stopped()

        def keep_examples(made: dict[str, Any]) -> None:
            patiently(lambda: tracker.attach(run_id, made, EXAMPLES), say, stopped)

        hooks = Hooks(on_log, on_step, stop, say, lambda action: patiently(action, say, stopped), keep_examples)
        ending, remarks = _ending(cell, run_id, judged_by, prepared, checkpoint, hooks, curve, world)
        patiently(lease.held, say, stopped)
        patiently(lambda: keep_weights(checkpoint) if ending.outcome == "finished" else None, say, stopped)
        sent.close()
    patiently(lambda: tracker.finish(run_id, tags=remarks), say, stopped)
    return ending


def start_run(tracker: Tracker, job: Job, cell: Cell, prepared: Prepared) -> tuple[str, bool]:
    """The cell's run, and whether it has been started before. Safe to repeat."""
    sizes = {split: len(getattr(prepared.corpus, split)) for split in SPLITS}
    tags = TrialTags(
        study=job.study,
        seed=cell.seed,
        config_hash=cell.key,
        cell=cell.label,
        arm=cell.arm,
        kind="train" if job.parent_run is None else "search" if cell.searching is not None else "trial",
        data=prepared.corpus.fingerprint,
        warm_start=prepared.fingerprint,
        pairs=sizes,
    ).written()
    identity = {name: tags.pop(name) for name in IDENTITY}
    # A run from before sweeps had a name of their own is the sweep's if it is a child of its run.
    old = dict(identity) | ({MLFLOW_PARENT_RUN_ID: job.parent_run} if job.parent_run else {})
    if job.sweep:
        identity |= {"sweep": job.sweep}
    params: dict[str, Any] = dict(cell.values) | {"seed": cell.seed, "steps": cell.settings.optimisation.steps}
    name = cell.name if job.parent_run else f"{job.study} · seed {cell.seed}"
    known = old if job.parent_run or tracker.own else None
    run_id, again = tracker.start(name, identity, tags, params, job.parent_run, known)
    if not again:
        source = str(cell.settings.data.path or cell.settings.data.source)
        tracker.add_input(run_id, cell.settings.data.source, prepared.corpus.fingerprint, source, sizes)
    tracker.attach(run_id, cell.settings.model_dump(), "config.json")
    tracker.attach(run_id, provenance(), "provenance.json")
    return run_id, again


@contextmanager
def sending(
    tracker: Tracker,
    run_id: str,
    place: Place,
    again: bool,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
) -> Iterator[RunLog]:
    """The run's log, with readings of the machine beside; an error or a stop is marked in the run."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    sent = RunLog(tracker, run_id, place.workspace / "spool" / f"{run_id}.jsonl", again, say, stopped)
    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=SYSTEM_EVERY, resume_logging=again, tracking_uri=tracker.uri
    )
    monitor.start()
    try:
        yield sent
    except LeaseLost:  # the run is another worker's now
        sent.drop()
        raise
    except BaseException as error:
        sent.leave()
        asked = isinstance(error, Stopped) or stopped()
        tags = {} if asked else {"failure": f"{type(error).__name__}: {error}"[:4000]}
        try:
            if not asked:
                tracker.attach_text(run_id, traceback.format_exc(), "failure.txt")
            tracker.finish(run_id, "KILLED" if asked else "FAILED", tags)
        except Exception as unsaid:
            say(f"the run could not be marked as ended ({unsaid})")
        raise
    finally:
        monitor.finish()


def _ending(
    cell: Cell,
    run_id: str,
    judged_by: str,
    prepared: Prepared,
    checkpoint: Path,
    hooks: Hooks,
    curve: dict[int, float],
    world: World,
) -> tuple[Ending, dict[str, str]]:
    """Trains, and gives the ending with what is to be remarked in the run; where the memory of the GPU does not suffice, with ever smaller micro-batches of the same batch."""
    settings = cell.settings
    remarks: dict[str, str] = {}
    while True:
        try:
            final = train(settings, cell.seed, prepared, checkpoint, hooks, world)
            return Ending(run_id, "finished", final[judged_by], curve), remarks
        except Diverged as end:
            hooks.say(f"{cell.name} diverged: {end}")
            return Ending(run_id, "diverged", None, curve), {"outcome": "diverged", "diverged_at": str(end.step)}
        except Pruned:
            return Ending(run_id, "pruned", curve[max(curve)], curve), {"outcome": "pruned"}
        except torch.OutOfMemoryError:
            parts = 2 * settings.optimisation.micro_batches
            if settings.optimisation.batch_size % (BLOCK * parts) or world.size > 1:
                raise
        # Here, where nothing holds the tensors of the failed step any more.
        torch.cuda.empty_cache()
        hooks.say(f"{cell.name}: out of GPU memory; going on with {parts} micro-batches of the same batch")
        settings = apply(settings, {"optimisation.micro_batches": parts})
        remarks = {"micro_batches": str(parts)}


def clear(place: Place, cell: Cell) -> None:
    """Removes the states of a cell that has ended; only when the ledger knows, so that a worker killed before finishes it again."""
    remove(place.workspace / "checkpoints" / f"{cell.key}.pt")


def keep_weights(checkpoint: Path) -> None:
    """Leaves of a finished trial's state the weights alone, which evaluation needs."""
    saved = read(checkpoint)["model"]
    half = checkpoint.with_suffix(".half")
    save_file({name: tensor.clone() for name, tensor in saved.items()}, half)
    os.replace(half, checkpoint.with_suffix(".safetensors"))
