"""What a trial is given: the job of its study, its goal, and where it runs.

The job is kept in the study itself, so that a worker can join from any machine.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.config.schema import Experiment
from workbench.distributed import ALONE, World
from workbench.errors import HIDDEN, UserError, shown
from workbench.events import Emit
from workbench.outage import Patience
from workbench.stop import Stop
from workbench.trial.ledger import Ledger

ATTRIBUTE = "job"
SET_UP_SECONDS = 60.0  # within which a sweep has told its workers what to do


@dataclass(frozen=True)
class Job:
    """`start`: the number of the sweep's start; failures of earlier ones are forgiven, since the user has started it
    again. `parent_run` is the sweep's run, None for a training outside a sweep. `threads` of a trial and `all_threads`
    of what is prepared for all of them are the same for every worker, wherever it is, since rounding depends on them.
    """

    study: str
    experiment: Experiment
    parent_run: str | None
    uri: str
    retries: int = 1
    start: int = 0
    processes: int = 1
    threads: int = 1
    all_threads: int = 1
    sweep: str = ""  # which no other study has; a tag of all runs. Without one, runs are told apart by the study's name

    def publish(self, ledger: Ledger) -> None:
        told = {"experiment": self.experiment.model_dump(), "uri": shown(self.uri)}
        ledger.study.set_user_attr(ATTRIBUTE, dataclasses.asdict(self) | told)


@dataclass(frozen=True)
class Place:
    """Where a worker works: its workspace, the study's storage, and its GPU."""

    workspace: Path
    storage: str | None
    name: str
    device: str | None = None  # the one GPU that it may see, as CUDA_VISIBLE_DEVICES names it


def never_poor(_: dict[int, float]) -> bool:
    return False


@dataclass(frozen=True)
class Goal:
    """What a trial is judged by: the metric whose last value is its `value`; the one whose `course` over the steps is
    kept; and whether such a course (step -> value) is so `poor` that the trial should end. Travels between
    processes."""

    value: str
    course: str
    poor: Callable[[dict[int, float]], bool] = never_poor


@dataclass(frozen=True)
class Context:
    """Where a trial runs, who hears of it, how it waits out what is no fault of its own, and the processes that train
    it together."""

    place: Place
    emit: Emit
    patience: Patience
    world: World = ALONE


def published(ledger: Ledger) -> Job:
    """The job of a study as it stands now. Raises UserError where the study has none."""
    told: dict[str, Any] | None = ledger.study.user_attrs.get(ATTRIBUTE)
    if told is None:
        raise UserError(f"{ledger.name}: this study has no experiment yet; start it with `wb sweep FILE`.")
    known = {each.name: told[each.name] for each in dataclasses.fields(Job) if each.name in told}
    job = Job(**known | {"experiment": Experiment.model_validate(told["experiment"])})
    if HIDDEN not in job.uri:
        return job
    # A password does not travel with the study: each machine brings its own.
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if shown(uri) != job.uri:
        raise UserError(
            f"{ledger.name}: its runs are kept in {job.uri}; set MLFLOW_TRACKING_URI to it, with the password."
        )
    return replace(job, uri=uri)


def awaited(ledger: Ledger, say: Callable[[str], None], stop: Stop, seconds: float = SET_UP_SECONDS) -> Job:
    """`published`, but waits for a sweep that is only just being set up. Raises UserError where that does not end."""
    until, said = time.monotonic() + seconds, False
    while ATTRIBUTE not in ledger.study.user_attrs and not stop() and time.monotonic() < until:
        if not said:
            say(f"waiting: the sweep of {ledger.name} is being set up")
            said = True
        stop.wait(0.5)
    return published(ledger)


def new_job(study: str, experiment: Experiment, parent_run: str | None, uri: str, **more: Any) -> Job:
    """A job that is not published yet."""
    return Job(study, experiment, parent_run, uri, **more)
