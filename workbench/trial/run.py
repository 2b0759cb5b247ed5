"""One cell from claim to ending: its MLflow run, its training, how it ended."""

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from safetensors.torch import save_file

from workbench.config.settings import apply
from workbench.data.corpus import SPLITS
from workbench.distributed import World
from workbench.errors import Interrupted, UserError
from workbench.events import Outcome, Stepped
from workbench.first_error import first_failure
from workbench.metrics import bare
from workbench.objectives.batch import BLOCK
from workbench.outage import Patience
from workbench.record import EXAMPLES, TrialTags, code_state, is_start, read_tags
from workbench.stop import Either, Stopped, at_last, saving
from workbench.tracking.log import RunLog
from workbench.tracking.provenance import provenance
from workbench.tracking.runs import Tracker
from workbench.training.loop import Diverged, Hooks, Pruned
from workbench.training.prepare import Prepared
from workbench.training.pretrain import train
from workbench.training.state import Damaged, read_undamaged, remove
from workbench.trial.cell import Cell, Ending
from workbench.trial.checkpoints import checkpoint_of
from workbench.trial.job import Context, Goal, Job, Place
from workbench.trial.lease import Lease, LeaseLost
from workbench.workspace import Workspace

IDENTITY = ("study", "seed", "config_hash")  # the tags by which a trial's run is found again
SYSTEM_EVERY = 10  # seconds between two readings of processor, memory and GPU


@dataclass
class Course:
    """Step -> the metric that a trial is judged by on its way, also what an earlier attempt has measured beyond its
    checkpoint; `step`: the last one that this attempt has logged."""

    metric: str
    curve: dict[int, float]
    step: int = 0

    def take(self, metrics: Mapping[str, float], step: int) -> None:
        if self.metric in metrics:
            self.curve[step], self.step = metrics[self.metric], step

    def known(self) -> dict[int, float]:
        """As far as this attempt has come."""
        return {step: value for step, value in self.curve.items() if step <= self.step}

    @property
    def last(self) -> float | None:
        return self.curve[max(self.curve)] if self.curve else None


@dataclass(frozen=True)
class Trained:
    """What training came to: the `final` metrics where it is finished; `remarks` are tags for the run."""

    outcome: Outcome
    final: dict[str, float]
    remarks: dict[str, str]

    def ending(self, run_id: str, goal: Goal, course: Course) -> Ending:
        value = {"finished": self.final.get(goal.value), "pruned": course.last, "diverged": None}[self.outcome]
        if self.outcome == "finished" and value is None:
            raise KeyError(goal.value)
        return Ending(run_id, self.outcome, value, course.curve)


def _refuse_unmeasured(goal: Goal, prepared: Prepared) -> None:
    """Before anything is trained: only the captions tell whether there are foils."""
    if bare(goal.value) == "foil_accuracy" and not prepared.corpus.val.foil_kinds:
        raise UserError(
            f"`primary`: `{goal.value}` cannot be measured, since too few foils can be made of the held-out captions;"
            " give more pairs (`data.eval_pairs`) with English captions, or take another metric, such as"
            " `test/itm_auc`."
        )


def run_cell(
    job: Job, goal: Goal, lease: Lease, prepared: Prepared, context: Context, micro_batches: int = 0
) -> Ending:
    """Trains a claimed cell, going on from its checkpoint, and logs it.

    Raises Stopped (or Interrupted) where it was asked to stop, LeaseLost where another worker has the trial now. Of
    several processes only the first one logs. `micro_batches`: into so many the batch is cut for want of memory, 0 as
    the settings have it.
    """
    cell, place, patience, world = lease.cell, context.place, context.patience, context.world
    _refuse_unmeasured(goal, prepared)
    checkpoint = checkpoint_of(place.workspace, job.study, cell.key)
    if world.rank > 0:
        silent = Hooks(log=lambda *_: None, progress=lambda *_: None, stop=patience.stopped)
        given = (cell, micro_batches, prepared, checkpoint)
        return train_cell(*given, silent, world).ending("", goal, Course(goal.course, {}))
    tracker = Tracker(job.uri, place.workspace)
    patience(lease.held)  # before the run is said to be running: it may have ended elsewhere
    run_id, again = patience(lambda: start_run(tracker, job, cell, prepared))
    if not again:
        remove(checkpoint)  # what an earlier run has measured before it is not in this one
    # What an earlier attempt has measured before the checkpoint is not measured again.
    course = Course(goal.course, patience(lambda: tracker.curve(run_id, goal.course)) if again else {})
    steps = cell.settings.optimisation.steps

    with sending(tracker, run_id, place, again, patience) as sent:
        for entry in sent.found:
            if goal.course in entry["metrics"]:
                course.curve[entry["step"]] = entry["metrics"][goal.course]

        def on_step(step: int, figures: dict[str, float]) -> None:
            lease.tell(step, steps)
            pairs = {"pairs": float(cell.settings.optimisation.batch_size)}
            context.emit(Stepped(place.name, cell.name, step, steps, figures | pairs))

        def on_log(metrics: dict[str, float], step: int) -> None:
            if not lease.lost:  # else another worker logs the same, at another time
                sent.log(metrics, step)
            course.take(metrics, step)

        def persist(action: Callable[[], None]) -> None:
            if not lease.lost:  # the checkpoint is another worker's now
                with saving(patience.stopped):
                    patience(action)

        hooks = Hooks(
            log=on_log,
            progress=on_step,
            stop=Either(patience.stopped, lambda: lease.lost),
            say=patience.say,
            persist=persist,
            keep_examples=lambda made: patience(lambda: tracker.attach(run_id, made, EXAMPLES)),
            prune=lambda: goal.poor(course.known()),
        )
        try:
            trained = train_cell(cell, micro_batches, prepared, checkpoint, hooks, world)
        except Stopped:
            if lease.lost:
                raise LeaseLost(cell.name) from None
            raise
        ending = trained.ending(run_id, goal, course)
        patience(lease.held)
        patience(lambda: keep_weights(checkpoint) if ending.outcome == "finished" else None)
        sent.close()
    patience(lambda: tracker.finish(run_id, tags=trained.remarks))
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
    )
    made = provenance()
    written = tags.written()
    identity = {name: written.pop(name) for name in IDENTITY}
    # A run from before sweeps had a name of their own is the sweep's if it is a child of its run.
    old = dict(identity) | ({MLFLOW_PARENT_RUN_ID: job.parent_run} if job.parent_run else {})
    if job.sweep:
        identity |= {"sweep": job.sweep}
    params: dict[str, Any] = dict(cell.values) | {"seed": cell.seed, "steps": cell.settings.optimisation.steps}
    name = cell.name if job.parent_run else f"{job.study} · seed {cell.seed}"
    known = old if job.parent_run or tracker.own else None
    before = tracker.known(identity, known)
    then = read_tags(before.data.tags) if before else None
    if before and then and not _same_inputs(tags, then):  # what it has measured is of other data, or from another start
        tracker.retire(before)
        then = None
    written["code"] = ", ".join(dict.fromkeys([*(then.codes if then else []), code_state(made)]))
    run_id, again = tracker.start(name, identity, written, params, job.parent_run, known)
    if not again:
        source = str(cell.settings.data.path or cell.settings.data.source)
        tracker.add_input(run_id, cell.settings.data.source, prepared.corpus.fingerprint, source, sizes)
    tracker.attach(run_id, cell.settings.model_dump(), "config.json")
    tracker.attach(run_id, made, "provenance.json")
    return run_id, again


def _same_inputs(now: TrialTags, then: TrialTags) -> bool:
    """What was not recorded counts as equal."""
    return then.data in ("", now.data) and (not then.warm_start or is_start(now.warm_start, then.warm_start))


@contextmanager
def sending(tracker: Tracker, run_id: str, place: Place, again: bool, patience: Patience) -> Iterator[RunLog]:
    """The run's log, with readings of the machine beside; an error or a stop is marked in the run."""
    sent = RunLog(tracker, run_id, Workspace(place.workspace).spool / f"{run_id}.jsonl", again, patience)
    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=SYSTEM_EVERY, resume_logging=again, tracking_uri=tracker.uri
    )
    monitor.start()
    try:
        with at_last(patience.stopped, lambda: tracker.finish(run_id, "KILLED")):
            yield sent
    except LeaseLost:  # the run is another worker's now
        sent.drop()
        raise
    except BaseException as error:
        sent.leave()
        asked = isinstance(error, Stopped | Interrupted) or patience.stopped()
        first = first_failure()  # of this process's peers, from which its own error has come
        reason, trace = (first.reason, first.trace) if first else (f"{type(error).__name__}: {error}", "")
        tags = {} if asked else {"failure": reason[:4000]}
        try:
            if not asked:
                tracker.attach_text(run_id, trace or traceback.format_exc(), "failure.txt")
            tracker.finish(run_id, "KILLED" if asked else "FAILED", tags)
        except Exception as unsaid:
            patience.say(f"the run could not be marked as ended ({unsaid})")
        raise
    finally:
        monitor.finish()


def train_cell(
    cell: Cell, micro_batches: int, prepared: Prepared, checkpoint: Path, hooks: Hooks, world: World
) -> Trained:
    """Trains; where the memory of the GPU does not suffice, with ever smaller micro-batches of the same batch. Of
    several processes one may lack memory alone: they are started anew, which is for whoever has started them."""
    settings = cell.settings
    remarks: dict[str, str] = {}
    if micro_batches:
        settings = apply(settings, {"optimisation.micro_batches": micro_batches})
        remarks = {"micro_batches": str(micro_batches)}
    while True:
        try:
            return Trained("finished", train(settings, cell.seed, prepared, checkpoint, hooks, world), remarks)
        except Diverged as end:
            hooks.say(f"{cell.name} diverged: {end}")
            return Trained("diverged", {}, {"outcome": "diverged", "diverged_at": str(end.step)})
        except Pruned:
            return Trained("pruned", {}, {"outcome": "pruned"})
        except torch.OutOfMemoryError:
            parts = 2 * settings.optimisation.micro_batches
            if settings.optimisation.batch_size % (BLOCK * parts) or world.size > 1:
                raise
        # Here, where nothing holds the tensors of the failed step any more.
        torch.cuda.empty_cache()
        hooks.say(f"{cell.name}: out of GPU memory; going on with {parts} micro-batches of the same batch")
        settings = apply(settings, {"optimisation.micro_batches": parts})
        remarks = {"micro_batches": str(parts)}


def clear(place: Place, study: str, cell: Cell) -> None:
    """Removes the states of a cell that has ended; only when the ledger knows, so that a worker killed before finishes
    it again."""
    remove(checkpoint_of(place.workspace, study, cell.key))


def keep_weights(checkpoint: Path) -> None:
    """Leaves of a finished trial's state the weights alone, which evaluation needs."""
    state = read_undamaged(checkpoint)
    if state is None:
        raise Damaged(f"{checkpoint} is gone, or damaged")
    saved = state["model"]
    half = checkpoint.with_suffix(".half")
    save_file({name: tensor.clone() for name, tensor in saved.items()}, half)
    os.replace(half, checkpoint.with_suffix(".safetensors"))
