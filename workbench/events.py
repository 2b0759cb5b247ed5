"""Events that workers and a sweep emit. Events cross process boundaries, so each one is a plain value."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["finished", "diverged", "pruned"]


@dataclass(frozen=True)
class Planned:
    """A sweep starts: `cells` in total, `finished` of them earlier, on `workers` workers; `run_id` in MLflow."""

    cells: int
    finished: int
    workers: int
    run_id: str


@dataclass(frozen=True)
class Preparing:
    """A worker prepares what several trials share: `done` of `total` units of a `stage`, with `figures` such as the
    loss."""

    worker: str
    stage: str
    done: int
    total: int
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stepped:
    """A trial has done `step` of `steps` training steps. `figures` are those of this step, including its number of
    `pairs`."""

    worker: str
    cell: str
    step: int
    steps: int
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialEnded:
    """A worker has ended a trial and recorded the outcome in the ledger. `value` is None where it diverged."""

    worker: str
    cell: str
    outcome: Outcome
    value: float | None


@dataclass(frozen=True)
class Counted:
    """The sweep has read an outcome from the ledger, whichever worker recorded it."""

    cell: str
    outcome: Outcome
    value: float | None


@dataclass(frozen=True)
class TrialFailed:
    """A trial has raised an error: its message and its traceback. The worker continues with other trials."""

    worker: str
    cell: str
    reason: str
    trace: str


@dataclass(frozen=True)
class WorkerFailed:
    """A worker has ended with an error that is not a trial's: its traceback, or a sentence."""

    worker: str
    message: str


@dataclass(frozen=True)
class Mistaken:
    """A worker has met an error that only the user can fix."""

    worker: str
    message: str


@dataclass(frozen=True)
class WorkerEnded:
    """A worker's last event. `stopped`: it ended on a stop request."""

    worker: str
    stopped: bool


@dataclass(frozen=True)
class Said:
    """A sentence for the user."""

    worker: str
    message: str


@dataclass(frozen=True)
class Reported:
    """A report has been written to `path`."""

    path: str


@dataclass(frozen=True)
class Ticked:
    """Time has passed: emitted twice per second while workers work, so that the sweep reads the ledger."""


Event = (
    Planned
    | Preparing
    | Stepped
    | TrialEnded
    | Counted
    | TrialFailed
    | WorkerFailed
    | Mistaken
    | WorkerEnded
    | Said
    | Reported
    | Ticked
)
Emit = Callable[[Event], None]


def preparation(emit: Emit, worker: str) -> Callable[[str, int, int, dict[str, float]], None]:
    """Returns a callback that emits the progress of what trials share."""
    return lambda stage, done, total, figures: emit(Preparing(worker, stage, done, total, figures))
