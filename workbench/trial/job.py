"""The inputs of a worker's trial: the job of its study, its goal, and where it runs.

The job is stored in the study itself, so that a worker can join from any machine.
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
SET_UP_SECONDS = 60.0  # within which a sweep publishes its job


@dataclass(frozen=True)
class Job:
    """The job of a study's workers.

    `start`: the number of the sweep's start; failures of earlier starts do not count, since the user has started it
    again. `parent_run`: the sweep's run, None for a training outside a sweep. `threads` of a trial and `all_threads` of
    the preparation for all trials are the same for every worker on any machine, since rounding depends on them.
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
    sweep: str = ""  # unique to this study, a tag of all its runs; without one, runs are found by the study's name

    def publish(self, ledger: Ledger) -> None:
        """Stores the job in the study, without the password of its URI."""
        changed = {"experiment": self.experiment.model_dump(), "uri": shown(self.uri)}
        ledger.study.set_user_attr(ATTRIBUTE, dataclasses.asdict(self) | changed)


@dataclass(frozen=True)
class WorkerSpec:
    """Where a worker runs: its workspace, the study's storage, its name, and its GPU."""

    workspace: Path
    storage: str | None
    name: str
    device: str | None = None  # its only visible GPU, as CUDA_VISIBLE_DEVICES names it


def never_poor(_: dict[int, float]) -> bool:
    return False


@dataclass(frozen=True)
class Goal:
    """What a trial is judged by: the metric whose last value is its `value`, the metric whose `course` over the steps
    is kept, and whether such a course (step -> value) is so `poor` that the trial should be pruned. It is sent between
    processes."""

    value: str
    course: str
    poor: Callable[[dict[int, float]], bool] = never_poor


@dataclass(frozen=True)
class Context:
    """Where a trial runs, the receiver of its events, how it waits out outages, and the processes that train it
    together."""

    spec: WorkerSpec
    emit: Emit
    patience: Patience
    world: World = ALONE


def published(ledger: Ledger) -> Job:
    """Returns the present job of a study. Raises UserError where the study has none."""
    stored: dict[str, Any] | None = ledger.study.user_attrs.get(ATTRIBUTE)
    if stored is None:
        raise UserError(f"{ledger.name}: this study has no experiment yet; start it with `wb sweep FILE`.")
    fields = {entry.name: stored[entry.name] for entry in dataclasses.fields(Job) if entry.name in stored}
    job = Job(**fields | {"experiment": Experiment.model_validate(stored["experiment"])})
    if HIDDEN not in job.uri:
        return job
    # The password is not stored in the study: each machine has to provide it.
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if shown(uri) != job.uri:
        raise UserError(
            f"{ledger.name}: its runs are stored in {job.uri}; set MLFLOW_TRACKING_URI to it, with the password."
        )
    return replace(job, uri=uri)


def awaited(ledger: Ledger, say: Callable[[str], None], stop: Stop, seconds: float = SET_UP_SECONDS) -> Job:
    """Returns `published`, after waiting up to `seconds` for a sweep that is still being set up. Raises UserError where
    no job was published by then."""
    until, reported = time.monotonic() + seconds, False
    while ATTRIBUTE not in ledger.study.user_attrs and not stop() and time.monotonic() < until:
        if not reported:
            say(f"waiting: the sweep of {ledger.name} is being set up")
            reported = True
        stop.wait(0.5)
    return published(ledger)


def new_job(study: str, experiment: Experiment, parent_run: str | None, uri: str, **more: Any) -> Job:
    """Returns a job that is not published yet."""
    return Job(study, experiment, parent_run, uri, **more)
