"""Runs one cell from its claim to its ending: its MLflow run, its training, and its result."""

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
from workbench.trial.job import Context, Goal, Job, WorkerSpec
from workbench.trial.lease import Lease, LeaseLost
from workbench.workspace import Workspace

IDENTITY = ("study", "seed", "config_hash")  # the tags by which a trial's run is found again
SYSTEM_EVERY = 10  # seconds between two readings of processor, memory and GPU


@dataclass
class Course:
    """The curve (step -> value) of the metric that a trial is judged by during training, including what an earlier
    attempt measured after its checkpoint. `step`: the last one that this attempt has logged."""

    metric: str
    curve: dict[int, float]
    step: int = 0

    def take(self, metrics: Mapping[str, float], step: int) -> None:
        if self.metric in metrics:
            self.curve[step], self.step = metrics[self.metric], step

    def known(self) -> dict[int, float]:
        """Returns the curve up to the last step of this attempt."""
        return {step: value for step, value in self.curve.items() if step <= self.step}

    @property
    def last(self) -> float | None:
        return self.curve[max(self.curve)] if self.curve else None


@dataclass(frozen=True)
class Trained:
    """The result of training: the `final` metrics where it finished; `remarks` are tags for the run."""

    outcome: Outcome
    final: dict[str, float]
    remarks: dict[str, str]

    def ending(self, run_id: str, goal: Goal, course: Course) -> Ending:
        value = {"finished": self.final.get(goal.value), "pruned": course.last, "diverged": None}[self.outcome]
        if self.outcome == "finished" and value is None:
            raise KeyError(goal.value)
        return Ending(run_id, self.outcome, value, course.curve)


def _refuse_unmeasured(goal: Goal, prepared: Prepared) -> None:
    """Raises UserError before any training where the primary metric needs foils and the captions yield too few."""
    if bare(goal.value) == "foil_accuracy" and not prepared.corpus.val.foil_kinds:
        raise UserError(
            f"`primary`: `{goal.value}` cannot be measured, since the held-out captions yield too few foils;"
            " use more pairs (`data.eval_pairs`) with English captions, or another metric, such as"
            " `test/itm_auc`."
        )


def run_cell(
    job: Job, goal: Goal, lease: Lease, prepared: Prepared, context: Context, micro_batches: int = 0
) -> Ending:
    """Trains a claimed cell, resuming from its checkpoint, and logs it. Returns its ending.

    Raises Stopped (or Interrupted) on a stop request, LeaseLost where another worker has the trial now. Of several
    processes only the first one logs. `micro_batches`: number of micro-batches per batch, for lack of memory; 0: as in
    the settings.
    """
    cell, spec, patience, world = lease.cell, context.spec, context.patience, context.world
    _refuse_unmeasured(goal, prepared)
    checkpoint = checkpoint_of(spec.workspace, job.study, cell.key)
    if world.rank > 0:
        silent = Hooks(log=lambda *_: None, progress=lambda *_: None, stop=patience.stopped)
        trained = train_cell(cell, micro_batches, prepared, checkpoint, silent, world)
        return trained.ending("", goal, Course(goal.course, {}))
    tracker = Tracker(job.uri, spec.workspace)
    patience(lease.held)  # before the run is marked as running: the trial may have ended elsewhere
    run_id, again = patience(lambda: start_run(tracker, job, cell, prepared))
    if not again:
        remove(checkpoint)  # this run lacks what an earlier run measured before the checkpoint
    # What an earlier attempt measured before the checkpoint is not measured again.
    course = Course(goal.course, patience(lambda: tracker.curve(run_id, goal.course)) if again else {})
    steps = cell.settings.optimisation.steps

    with sending(tracker, run_id, spec, again, patience) as log:
        for entry in log.entries:
            if goal.course in entry["metrics"]:
                course.curve[entry["step"]] = entry["metrics"][goal.course]

        def on_step(step: int, figures: dict[str, float]) -> None:
            lease.tell(step, steps)
            pairs = {"pairs": float(cell.settings.optimisation.batch_size)}
            context.emit(Stepped(spec.name, cell.name, step, steps, figures | pairs))

        def on_log(metrics: dict[str, float], step: int) -> None:
            if not lease.lost:  # else another worker logs the same, at another time
                log.log(metrics, step)
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
            keep_examples=lambda examples: patience(lambda: tracker.attach(run_id, examples, EXAMPLES)),
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
        log.close()
    patience(lambda: tracker.finish(run_id, tags=trained.remarks))
    return ending


def start_run(tracker: Tracker, job: Job, cell: Cell, prepared: Prepared) -> tuple[str, bool]:
    """Starts the cell's run. Returns its id and whether it had been started before. Safe to repeat."""
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
    now = provenance()
    written = tags.written()
    identity = {name: written.pop(name) for name in IDENTITY}
    # A run from before sweeps had names belongs to the sweep if it is a child of the sweep's run.
    old = dict(identity) | ({MLFLOW_PARENT_RUN_ID: job.parent_run} if job.parent_run else {})
    if job.sweep:
        identity |= {"sweep": job.sweep}
    params: dict[str, Any] = dict(cell.values) | {"seed": cell.seed, "steps": cell.settings.optimisation.steps}
    name = cell.name if job.parent_run else f"{job.study} · seed {cell.seed}"
    known = old if job.parent_run or tracker.own else None
    before = tracker.known(identity, known)
    then = read_tags(before.data.tags) if before else None
    if before and then and not _same_inputs(tags, then):  # it was measured on other data, or from another start
        tracker.retire(before)
        then = None
    written["code"] = ", ".join(dict.fromkeys([*(then.codes if then else []), code_state(now)]))
    run_id, again = tracker.start(name, identity, written, params, job.parent_run, known)
    if not again:
        source = str(cell.settings.data.path or cell.settings.data.source)
        tracker.add_input(run_id, cell.settings.data.source, prepared.corpus.fingerprint, source, sizes)
    tracker.attach(run_id, cell.settings.model_dump(), "config.json")
    tracker.attach(run_id, now, "provenance.json")
    return run_id, again


def _same_inputs(now: TrialTags, then: TrialTags) -> bool:
    """Returns whether two trials have the same data and start. Fingerprints that were not recorded count as equal."""
    return then.data in ("", now.data) and (not then.warm_start or is_start(now.warm_start, then.warm_start))


@contextmanager
def sending(tracker: Tracker, run_id: str, spec: WorkerSpec, again: bool, patience: Patience) -> Iterator[RunLog]:
    """Yields the run's log, while system metrics are logged, too. An error or a stop is recorded in the run."""
    log = RunLog(tracker, run_id, Workspace(spec.workspace).spool / f"{run_id}.jsonl", again, patience)
    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=SYSTEM_EVERY, resume_logging=again, tracking_uri=tracker.uri
    )
    monitor.start()
    try:
        with at_last(patience.stopped, lambda: tracker.finish(run_id, "KILLED")):
            yield log
    except LeaseLost:  # the run is another worker's now
        log.drop()
        raise
    except BaseException as error:
        log.leave()
        stopped = isinstance(error, Stopped | Interrupted) or patience.stopped()
        first = first_failure()  # among this process's peers; it has caused the error here
        reason, trace = (first.reason, first.trace) if first else (f"{type(error).__name__}: {error}", "")
        tags = {} if stopped else {"failure": reason[:4000]}
        try:
            if not stopped:
                tracker.attach_text(run_id, trace or traceback.format_exc(), "failure.txt")
            tracker.finish(run_id, "KILLED" if stopped else "FAILED", tags)
        except Exception as unrecorded:
            patience.say(f"the run could not be marked as ended ({unrecorded})")
        raise
    finally:
        monitor.finish()


def train_cell(
    cell: Cell, micro_batches: int, prepared: Prepared, checkpoint: Path, hooks: Hooks, world: World
) -> Trained:
    """Trains a cell. Where GPU memory is insufficient, it retries with smaller micro-batches of the same batch. With
    several processes, a single one may run out of memory: the error is raised, and their parent restarts them all."""
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
        # Outside the `except` block, where nothing references the tensors of the failed step any more.
        torch.cuda.empty_cache()
        hooks.say(f"{cell.name}: out of GPU memory; continuing with {parts} micro-batches of the same batch")
        settings = apply(settings, {"optimisation.micro_batches": parts})
        remarks = {"micro_batches": str(parts)}


def clear(spec: WorkerSpec, study: str, cell: Cell) -> None:
    """Removes the states of an ended cell. Call it after the ledger has the ending: a worker killed before that resumes
    the cell."""
    remove(checkpoint_of(spec.workspace, study, cell.key))


def keep_weights(checkpoint: Path) -> None:
    """Saves the weights from a finished trial's state, for evaluation. Raises Damaged where the state cannot be
    read."""
    state = read_undamaged(checkpoint)
    if state is None:
        raise Damaged(f"{checkpoint} is gone, or damaged")
    saved = state["model"]
    half = checkpoint.with_suffix(".half")
    save_file({name: tensor.clone() for name, tensor in saved.items()}, half)
    os.replace(half, checkpoint.with_suffix(".safetensors"))
