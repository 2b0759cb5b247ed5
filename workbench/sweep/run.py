"""Runs a sweep from experiment to report: plan, workers, blocks of seeds, outcome."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from workbench.config.schema import Experiment
from workbench.errors import Interrupted, UserError, first_line, shown
from workbench.events import (
    Counted,
    Emit,
    Event,
    Mistaken,
    Planned,
    Reported,
    Said,
    Stepped,
    Ticked,
    TrialEnded,
    TrialFailed,
    WorkerEnded,
    WorkerFailed,
)
from workbench.outage import GaveUp, Patience
from workbench.record import FILE, code_state
from workbench.stop import Stop
from workbench.sweep.describe import note, sweep_record, whole_blocks
from workbench.sweep.grid import contains, differences
from workbench.sweep.hours import Hours, held_back
from workbench.sweep.inputs import look, other_code
from workbench.sweep.launch.local import in_a_worker, run_here, run_workers, worker_specs
from workbench.sweep.launch.ray import run_on_ray
from workbench.sweep.search import Planner, planned
from workbench.sweep.summary import summary
from workbench.tracking.provenance import provenance
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.trial.cell import Ending
from workbench.trial.checkpoints import take_over
from workbench.trial.job import ATTRIBUTE, WorkerSpec, new_job, published
from workbench.trial.ledger import Gate, Ledger
from workbench.workspace import Workspace

REPORTING = 0.05  # maximum share of the time for reports after blocks of seeds
Report = Callable[[str, str], Path]  # (URI of the store, run id) -> the written page


@dataclass(frozen=True)
class Options:
    """How a sweep is run. None of the options changes a result."""

    workers: int
    cores: int
    storage: str | None = None
    study: str | None = None
    launcher: Literal["local", "ray", "here"] = "local"
    retries: int = 1
    processes: int = 1
    gpus_per_worker: float = 1.0
    notify: str | None = None
    is_smoke: bool = False
    max_hours: float | None = None
    clock: Callable[[], float] = time.monotonic
    stop: Stop = field(default_factory=Stop)  # raises KeyboardInterrupt in code that does not check it

    @property
    def threads(self) -> int:
        """Threads per trial."""
        return max(1, self.cores // self.workers)


@dataclass
class Outcome:
    """How a sweep ended. `finished`: number of trials with an outcome. `report` is None where no trial that the answer
    rests on has ended. `unreported`: why the last report could not be written."""

    run_id: str
    planned: int
    finished: int = 0
    report: Path | None = None
    failures: list[str] = field(default_factory=list)
    stopped: bool = False
    unreported: str | None = None
    held: int = 0  # trials that did not start, for lack of time


def run_sweep(experiment: Experiment, workspace: Path, options: Options, show: Emit, report: Report) -> Outcome:
    """Runs the missing trials of a sweep, with a report after each block of seeds and at the end.

    Raises UserError for errors that the user can fix. A failed trial is listed in the outcome, and the others continue.
    """
    sweep = _Sweep(experiment, workspace, options, show, report)
    with sweep.ledger.attended(os.uname().nodename):
        return _run(sweep, workspace)


def _run(sweep: "_Sweep", workspace: Path) -> Outcome:
    outcome, options = sweep.outcome, sweep.options
    events = _launched(sweep, workspace) if sweep.todo() else iter(())
    try:
        for event in events:
            sweep.hear(event)
    except KeyboardInterrupt:
        outcome.stopped = sweep.interrupted = True
    except BaseException as error:
        with contextlib.suppress(Exception):
            sweep.tracker.finish(outcome.run_id, "FAILED", {"failure": str(error)[:4000]})
        _notify(options.notify, sweep.study, outcome.run_id, "FAILED", None)
        raise
    finally:
        if isinstance(events, Generator):
            events.close()
    try:
        sweep.wind_up()
    except (KeyboardInterrupt, Interrupted):
        outcome.stopped = True  # the report is missing
    status = (
        "KILLED" if outcome.stopped else "FINISHED" if outcome.finished + outcome.held >= outcome.planned else "FAILED"
    )
    with contextlib.suppress(KeyboardInterrupt, Interrupted):
        sweep.patience(lambda: sweep.tracker.finish(outcome.run_id, status))
    _notify(options.notify, sweep.study, outcome.run_id, status, outcome.report)
    return outcome


class _Sweep:
    """The sweep's own process while workers train: it watches the ledger, shows progress, and writes reports."""

    def __init__(
        self,
        experiment: Experiment,
        workspace: Path,
        options: Options,
        show: Emit,
        report: Report,
    ) -> None:
        self.experiment, self.options, self.show, self.report = experiment, options, show, report
        self.study = options.study or experiment.name
        self.outcome = Outcome("", 0)
        # Ctrl-C ends the wait for an unreachable store; a stop of one of several workers does not.
        self.interrupted = False
        self.patience = Patience(self._say, lambda: self.interrupted)
        self.ledger = Ledger.of_workspace(workspace, self.study, options.storage)
        refuse_another_question(self.ledger, experiment, named=options.study is not None)
        self.uri = self.patience(lambda: ensure_store(workspace, self._say))
        self.tracker = Tracker(self.uri, workspace, self._say)
        self.provenance = provenance()
        self.patience(lambda: self._look_at_inputs(Workspace(workspace)))
        with Workspace(workspace).first_use(self._say):
            run_id = self.patience(lambda: _run_of(self.ledger, self.tracker, experiment))
        self.job = new_job(
            self.study,
            experiment,
            run_id,
            self.tracker.address,
            start=self.ledger.next_start(),
            retries=options.retries,
            processes=options.processes,
            threads=options.threads,
            all_threads=options.cores,
            sweep=self.ledger.sweep(),
        )
        self.planner = Planner()
        self.endings = self.ledger.endings()
        self.plan = self.planner(experiment, self.endings)
        self.hours = _hours(options, len(experiment.arms))
        self.keep_hours()  # before any worker reads the study
        self.job.publish(self.ledger)
        take_over(self.ledger, workspace, [cell.key for cell in self.plan.cells])
        self.done = set(self._ended())
        self.blocks = whole_blocks(self.plan, self.endings)
        self.not_before = 0.0
        self.outcome = Outcome(run_id, self.plan.total, len(self.done))
        self.patience(self._introduce)
        show(Planned(self.plan.total, len(self.done), options.workers, run_id))

    def _look_at_inputs(self, home: Workspace) -> None:
        """Raises UserError where finished trials used other data or weights; prints a message where they used other
        code."""
        endings = self.ledger.endings()
        tags = self.tracker.made(self.ledger.sweep(), _run_before(self.ledger)) if endings else {}
        # A trial whose run is permanently gone will run again.
        endings = {key: ending for key, ending in endings.items() if ending.run_id in tags}
        plan = planned(self.experiment, endings)
        if plan.whole and all(cell.key in endings for cell in plan.cells):
            return  # no further trials will be compared with them
        finished = [(cell, tags[endings[cell.key].run_id]) for cell in plan.cells if cell.key in endings]
        if self.options.launcher != "ray":  # Ray's machines read their own data and weights
            missing = [cell for cell in plan.cells if cell.key not in endings]
            looking = partial(look, self.study, finished, missing, home.cache)
            in_a_worker(looking) if self.options.launcher == "local" else looking()
        if sentence := other_code([then for _, then in finished], code_state(self.provenance)):
            self._say(sentence)

    def _introduce(self) -> None:
        """Records in the sweep's run its question and its provenance."""
        self._describe()
        run_id = self.outcome.run_id
        self.tracker.attach(run_id, self.provenance, "provenance.json")
        about = f"**{self.experiment.question}**\n\nThe report is under artifacts, `report/report.html`."
        self.tracker.note(run_id, about)

    def _say(self, message: str) -> None:
        self.show(Said("sweep", message))

    def todo(self) -> bool:
        return len(self.done) < len(self.plan.cells) or not self.plan.whole

    def hear(self, event: Event) -> None:
        """Handles one event of the workers. Raises UserError where a worker has met an error that the user can fix."""
        match event:
            case Mistaken(_, message):
                raise UserError(message)
            case TrialEnded():
                self._look()
            case Ticked():
                self._look()
                if self.options.launcher == "ray":
                    self.patience(self._show_running)
            case TrialFailed(trace=details) | WorkerFailed(message=details):
                self.outcome.failures.append(details)
                self.show(event)
            case WorkerEnded(_, stopped):
                self.outcome.stopped = self.outcome.stopped or stopped
            case _:
                self.show(event)

    def keep_hours(self) -> None:
        """Lets workers start the trials for which there is time."""
        if self.hours is None:
            return self.ledger.set_gate(Gate())
        endings = self.ledger.endings()
        plan = self.planner(self.experiment, endings)
        running = self.ledger.running()
        self.ledger.set_gate(
            self.hours.look(
                plan,
                self.ledger.open_cells(plan.cells, self.job.retries, self.job.start),
                {attempt.cell_key for attempt in running},
                any(attempt.step > 0 for attempt in running),
            )
        )

    def _look(self) -> None:
        """Shows trials that have ended, and writes a report after each complete block of seeds."""
        before = len(self.done)
        self.patience(self._settle)
        if self.hours is not None:
            self.patience(self.keep_hours)
        whole = whole_blocks(self.plan, self.endings)
        new = len(self.done) > before and whole - self.blocks and len(self.done) < self.plan.total
        if new and time.monotonic() > self.not_before:
            self.blocks = whole
            self._report()

    def wind_up(self) -> None:
        """Reads the ledger for the last time, and writes the last report."""
        self.patience(self._settle)
        self.patience(self._finish_open_runs)
        ended = self._ended()
        self.outcome.planned, self.outcome.finished = self.plan.total, len(ended)
        # A single stopped worker does not stop the sweep if the others can finish its trials.
        self.outcome.stopped = self.interrupted or (self.outcome.stopped and len(ended) < self.outcome.planned)
        self.outcome.held = held_back(self.plan, self.ledger.gate, ended)
        failures = self.ledger.all_failures(self.job.start)
        for cell in self.plan.cells:
            if cell.key not in ended and (reasons := failures.get(cell.key)):
                self.outcome.failures.append(f"{cell.name}: {reasons[-1]}")
        if not self.outcome.stopped and any(cell.searching is None and cell.key in ended for cell in self.plan.cells):
            self._report()

    def _finish_open_runs(self) -> None:
        """Marks runs of ended cells as finished. A worker that was suspended, or ended at the last moment, may have
        left them running."""
        ended = {ending.run_id for ending in self._ended().values()}
        for run_id in self.tracker.open_trials(self.outcome.run_id):
            if run_id in ended:
                self.tracker.finish(run_id)

    def _settle(self) -> None:
        """Shows trials that have ended since, on any machine."""
        self.endings = self.ledger.endings()
        self.plan = self.planner(self.experiment, self.endings)
        for cell in self.plan.cells:
            if cell.key in self.endings and cell.key not in self.done:
                self.done.add(cell.key)
                ending = self.endings[cell.key]
                self.show(Counted(cell.name, ending.outcome, ending.value))

    def _show_running(self) -> None:
        for attempt in self.ledger.running():
            self.show(Stepped(attempt.worker, attempt.name, attempt.step, attempt.steps))

    def _report(self) -> None:
        """Writes a report. A failure is only printed and does not end the sweep: the trials are worth more."""
        try:
            self.patience(self._write)
            self.outcome.unreported = None
        except (Interrupted, GaveUp):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            retry = f"retry with `wb report --run-id {self.outcome.run_id}`"
            self.outcome.unreported = f"the report could not be written ({reason}); {retry}"
            self.show(Said("sweep", self.outcome.unreported))

    def _write(self) -> None:
        began = time.monotonic()
        self._describe()
        run_id = self.outcome.run_id
        self.outcome.report = self.report(self.uri, run_id)
        self.tracker.attach_folder(run_id, self.outcome.report.parent, "report")
        self.tracker.note(run_id, note(self.outcome.report))
        self.tracker.log(run_id, summary(self.outcome.report), step=len(self._ended()))
        self.show(Reported(str(self.outcome.report)))
        self.not_before = time.monotonic() + (time.monotonic() - began) / REPORTING

    def _describe(self) -> None:
        record = sweep_record(self.experiment, self.plan, self.endings, self.options.is_smoke)
        self.tracker.attach(str(self.job.parent_run), record.model_dump(mode="json"), FILE)

    def _ended(self) -> dict[str, Ending]:
        return {cell.key: self.endings[cell.key] for cell in self.plan.cells if cell.key in self.endings}


def _run_of(ledger: Ledger, tracker: Tracker, experiment: Experiment) -> str:
    """Returns the id of the sweep's run, the same for all processes that start it at once. Runs from before sweeps had
    names get one."""
    about = {"study": ledger.name, "kind": "sweep"}
    params = {"preset": experiment.preset, "primary": experiment.primary}
    before = _run_before(ledger)
    sweep = ledger.sweep()
    if before is not None:
        tracker.adopt(before, about, sweep)
    run_id, again = tracker.start(
        ledger.name, {"sweep": sweep, "kind": "sweep"}, about, params, None, about if tracker.own else None
    )
    agreed = ledger.agreed(f"run in {shown(tracker.address)}", lambda: run_id)
    if agreed != run_id and not again and tracker.knows(agreed):
        tracker.client.delete_run(run_id)  # another machine was first
        run_id = agreed
    present = tracker.gather(sweep, [run_id, *([before] if before not in (run_id, None) else [])])
    lost = {ending.run_id for ending in ledger.endings().values()} - present
    if lost and (again or present):  # else they are in another store
        ledger.forget(lost)
        tracker.say(f"{len(lost)} of its trials were permanently removed from MLflow; they run again")
    return run_id


def _run_before(ledger: Ledger) -> str | None:
    """Returns the run that the study's sweep had at its last start."""
    run_id: str | None = (ledger.study.user_attrs.get(ATTRIBUTE) or {}).get("parent_run")
    return run_id


def _hours(options: Options, arms: int) -> Hours | None:
    if options.max_hours is None:
        return None
    return Hours(3600 * options.max_hours, max(1, options.workers // arms), options.clock)


def _launched(sweep: "_Sweep", workspace: Path) -> Iterator[Event]:
    study, options = sweep.study, sweep.options
    if options.launcher == "here":
        return run_here(
            study,
            WorkerSpec(workspace, options.storage, "here"),
            options.stop,
            partial(sweep.patience, sweep.keep_hours),
        )
    if options.launcher == "ray":
        where = WorkerSpec(workspace.resolve(), options.storage, "")
        needs = {"num_cpus": options.threads, "num_gpus": options.gpus_per_worker}
        return run_on_ray(study, where, options.workers, needs, options.stop)
    return run_workers(
        study, worker_specs(workspace, options.storage, options.workers, options.processes), options.stop
    )


def refuse_another_question(ledger: Ledger, experiment: Experiment, named: bool = False) -> None:
    """Raises UserError where the study holds cells that cannot be compared with this experiment's. `named`: the user
    gave the study's name explicitly."""
    if "job" not in ledger.study.user_attrs or not ledger.endings():
        return
    before = published(ledger).experiment
    phrases = differences(experiment, before)
    if phrases:
        more = f" and {len(phrases) - 3} more" if len(phrases) > 3 else ""
        raise UserError(
            f"{experiment.name}: the study `{ledger.name}` of this workspace is about other settings: "
            f"{'; '.join(phrases[:3])}{more}. "
            "Restore them to extend it, or use a separate study with `--study NAME`."
        )
    # A file may be edited; but another file of the same name with other arms asks another question.
    another = before.file not in ("", experiment.file) and Path(before.file).exists()
    if experiment.file and another and not named and not contains(experiment, before):
        raise UserError(
            f"{experiment.file}: the study `{ledger.name}` of this workspace belongs to another file of that name,"
            f" {before.file}, and neither has all arms of the other; use a separate study with `--study NAME`."
        )


def _notify(command: str | None, study: str, run_id: str, status: str, page: Path | None) -> None:
    """Runs the user's command. The values are passed in its environment, never in its text."""
    if not command:
        return
    variables = {"WB_STUDY": study, "WB_RUN_ID": run_id, "WB_STATUS": status, "WB_REPORT": str(page or "")}
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, shell=True, env=os.environ | variables, timeout=60, check=False)
