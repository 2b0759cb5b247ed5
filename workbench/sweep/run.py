"""A sweep from experiment to report: plan, workers, blocks, outcome."""

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
from workbench.sweep.describe import describe, note, whole_blocks
from workbench.sweep.grid import contains, differences
from workbench.sweep.hours import Hours, held_back
from workbench.sweep.inputs import look, told_of_code
from workbench.sweep.launch.local import in_a_worker, places, run_here, run_workers
from workbench.sweep.launch.ray import run_on_ray
from workbench.sweep.search import Planner, planned
from workbench.sweep.summary import summary
from workbench.tracking.provenance import provenance
from workbench.tracking.runs import Tracker
from workbench.tracking.store import open_store
from workbench.trial.cell import Ending
from workbench.trial.checkpoints import take_over
from workbench.trial.job import ATTRIBUTE, Place, new_job, published
from workbench.trial.ledger import Gate, Ledger
from workbench.workspace import Workspace

REPORTING = 0.05  # largest share of the time that reports after blocks of seeds may take
Report = Callable[[str, str], Path]  # (store address, run id) -> the written page


@dataclass(frozen=True)
class Options:
    """How a sweep is run; none of it changes a number."""

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
    stop: Stop = field(default_factory=Stop)  # raises KeyboardInterrupt where nobody asks it

    @property
    def threads(self) -> int:
        """Of each trial."""
        return max(1, self.cores // self.workers)


@dataclass
class Outcome:
    """How a sweep ended. `report` is None where no trial that the answer rests on has ended; `finished` counts what has
    ended as an outcome; `unreported`: why the last report could not be written."""

    run_id: str
    planned: int
    finished: int = 0
    report: Path | None = None
    failures: list[str] = field(default_factory=list)
    stopped: bool = False
    unreported: str | None = None
    held: int = 0  # trials that were not begun, for want of time


def run_sweep(experiment: Experiment, workspace: Path, options: Options, show: Emit, report: Report) -> Outcome:
    """Runs what is missing of the sweep, with a report after each block of seeds and at the end.

    Raises UserError for what the user can mend; a trial that fails is listed in the outcome and the others go on.
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
        outcome.stopped = sweep.asked = True
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
    """What a sweep's own process knows and does while workers train: it watches the ledger, shows, and reports."""

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
        # Ctrl-C ends the wait for a store that is away; that one of several workers was stopped does not.
        self.asked = False
        self.patience = Patience(self._say, lambda: self.asked)
        self.ledger = Ledger.of_workspace(workspace, self.study, options.storage)
        refuse_another_question(self.ledger, experiment, named=options.study is not None)
        self.uri = self.patience(lambda: open_store(workspace, self._say))
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
        self.keep_hours()  # before any worker looks
        self.job.publish(self.ledger)
        take_over(self.ledger, workspace, [cell.key for cell in self.plan.cells])
        self.done = set(self._ended())
        self.blocks = whole_blocks(self.plan, self.endings)
        self.not_before = 0.0
        self.outcome = Outcome(run_id, self.plan.total, len(self.done))
        self.patience(self._introduce)
        show(Planned(self.plan.total, len(self.done), options.workers, run_id))

    def _look_at_inputs(self, home: Workspace) -> None:
        """Refuses to set trials beside others that were made from other data or weights; says where it was other
        code."""
        endings = self.ledger.endings()
        tags = self.tracker.made(self.ledger.sweep(), _run_before(self.ledger)) if endings else {}
        # One whose run is gone for good will be made again.
        endings = {key: ending for key, ending in endings.items() if ending.run_id in tags}
        plan = planned(self.experiment, endings)
        if plan.whole and all(cell.key in endings for cell in plan.cells):
            return  # nothing is set beside them
        finished = [(cell, tags[endings[cell.key].run_id]) for cell in plan.cells if cell.key in endings]
        if self.options.launcher != "ray":  # whose machines read data and weights of their own
            missing = [cell for cell in plan.cells if cell.key not in endings]
            looking = partial(look, self.study, finished, missing, home.cache)
            in_a_worker(looking) if self.options.launcher == "local" else looking()
        if told := told_of_code([then for _, then in finished], code_state(self.provenance)):
            self._say(told)

    def _introduce(self) -> None:
        """Says in the sweep's run what it is about and what it is made with."""
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
        """Takes one event of the workers. Raises UserError where one of them has met what the user can mend."""
        match event:
            case Mistaken(_, message):
                raise UserError(message)
            case TrialEnded():
                self._look()
            case Ticked():
                self._look()
                if self.options.launcher == "ray":
                    self.patience(self._show_running)
            case TrialFailed(trace=told) | WorkerFailed(message=told):
                self.outcome.failures.append(told)
                self.show(event)
            case WorkerEnded(_, stopped):
                self.outcome.stopped = self.outcome.stopped or stopped
            case _:
                self.show(event)

    def keep_hours(self) -> None:
        """Lets workers begin what there is time for."""
        if self.hours is None:
            return self.ledger.set_gate(Gate())
        endings = self.ledger.endings()
        plan = self.planner(self.experiment, endings)
        running = self.ledger.running()
        self.ledger.set_gate(
            self.hours.look(
                plan,
                self.ledger.open_cells(plan.cells, self.job.retries, self.job.start),
                {each.cell_key for each in running},
                any(each.step > 0 for each in running),
            )
        )

    def _look(self) -> None:
        """Shows what has ended, and writes a report after a whole block of seeds."""
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
        """The last look, and the last report."""
        self.patience(self._settle)
        self.patience(self._put_right)
        ended = self._ended()
        self.outcome.planned, self.outcome.finished = self.plan.total, len(ended)
        # One worker that was asked to stop stops nothing that the others can finish.
        self.outcome.stopped = self.asked or (self.outcome.stopped and len(ended) < self.outcome.planned)
        self.outcome.held = held_back(self.plan, self.ledger.gate, ended)
        failures = self.ledger.all_failures(self.job.start)
        for cell in self.plan.cells:
            if cell.key not in ended and (reasons := failures.get(cell.key)):
                self.outcome.failures.append(f"{cell.name}: {reasons[-1]}")
        if not self.outcome.stopped and any(cell.searching is None and cell.key in ended for cell in self.plan.cells):
            self._report()

    def _put_right(self) -> None:
        """A worker that woke up late, or was ended at the last moment, may have left the run of an ended cell as
        running."""
        ended = {ending.run_id for ending in self._ended().values()}
        for run_id in self.tracker.open_trials(self.outcome.run_id):
            if run_id in ended:
                self.tracker.finish(run_id)

    def _settle(self) -> None:
        """Shows what has ended since, wherever its worker is."""
        self.endings = self.ledger.endings()
        self.plan = self.planner(self.experiment, self.endings)
        for cell in self.plan.cells:
            if cell.key in self.endings and cell.key not in self.done:
                self.done.add(cell.key)
                ending = self.endings[cell.key]
                self.show(Counted(cell.name, ending.outcome, ending.value))

    def _show_running(self) -> None:
        for at in self.ledger.running():
            self.show(Stepped(at.worker, at.name, at.step, at.steps))

    def _report(self) -> None:
        """A report that fails is said in a sentence, and ends no sweep: the trials are worth more."""
        try:
            self.patience(self._write)
            self.outcome.unreported = None
        except (Interrupted, GaveUp):
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {first_line(error)}"
            again = f"`wb report --run-id {self.outcome.run_id}` tries it again"
            self.outcome.unreported = f"the report could not be written ({told}); {again}"
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
        record = describe(self.experiment, self.plan, self.endings, self.options.is_smoke)
        self.tracker.attach(str(self.job.parent_run), record.model_dump(mode="json"), FILE)

    def _ended(self) -> dict[str, Ending]:
        return {cell.key: self.endings[cell.key] for cell in self.plan.cells if cell.key in self.endings}


def _run_of(ledger: Ledger, tracker: Tracker, experiment: Experiment) -> str:
    """The sweep's run, the same for all who start it at once; those from before sweeps had a name of their own get
    one."""
    about = {"study": ledger.name, "kind": "sweep"}
    told = {"preset": experiment.preset, "primary": experiment.primary}
    before = _run_before(ledger)
    sweep = ledger.sweep()
    if before is not None:
        tracker.adopt(before, about, sweep)
    run_id, again = tracker.start(
        ledger.name, {"sweep": sweep, "kind": "sweep"}, about, told, None, about if tracker.own else None
    )
    agreed = ledger.agreed(f"run in {shown(tracker.address)}", lambda: run_id)
    if agreed != run_id and not again and tracker.knows(agreed):
        tracker.client.delete_run(run_id)  # another machine was first
        run_id = agreed
    present = tracker.gather(sweep, [run_id, *([before] if before not in (run_id, None) else [])])
    lost = {ending.run_id for ending in ledger.endings().values()} - present
    if lost and (again or present):  # else this is not the store that they are in
        ledger.forget(lost)
        tracker.say(
            f"{len(lost)} of its trials are no longer in MLflow, where they were removed for good; they run again"
        )
    return run_id


def _run_before(ledger: Ledger) -> str | None:
    """The run that the study's sweep had when it was last started."""
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
            study, Place(workspace, options.storage, "here"), options.stop, partial(sweep.patience, sweep.keep_hours)
        )
    if options.launcher == "ray":
        where = Place(workspace.resolve(), options.storage, "")
        needs = {"num_cpus": options.threads, "num_gpus": options.gpus_per_worker}
        return run_on_ray(study, where, options.workers, needs, options.stop)
    return run_workers(study, places(workspace, options.storage, options.workers, options.processes), options.stop)


def refuse_another_question(ledger: Ledger, experiment: Experiment, named: bool = False) -> None:
    """Raises UserError where the study holds cells that this experiment's could not be compared with. `named`: the
    study is one that was asked for by its name, and not by that of a file."""
    if "job" not in ledger.study.user_attrs or not ledger.endings():
        return
    before = published(ledger).experiment
    found = differences(experiment, before)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{experiment.name}: the study `{ledger.name}` of this workspace is about other settings: "
            f"{'; '.join(found[:3])}{more}. "
            "Change them back to extend it, or keep both apart with `--study NAME`."
        )
    # A file may be changed; another one of its name, which has other arms, asks something else.
    another = before.file not in ("", experiment.file) and Path(before.file).exists()
    if experiment.file and another and not named and not contains(experiment, before):
        raise UserError(
            f"{experiment.file}: the study `{ledger.name}` of this workspace belongs to another file of that name,"
            f" {before.file}, and neither has all arms of the other; keep both apart with `--study NAME`."
        )


def _notify(command: str | None, study: str, run_id: str, status: str, page: Path | None) -> None:
    """Runs the user's command; what it should tell is in its environment, never in its text."""
    if not command:
        return
    told = {"WB_STUDY": study, "WB_RUN_ID": run_id, "WB_STATUS": status, "WB_REPORT": str(page or "")}
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, shell=True, env=os.environ | told, timeout=60, check=False)
