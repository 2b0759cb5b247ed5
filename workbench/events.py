"""What workers tell while they work, and a sweep of itself. Events cross processes, so each is a plain value."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["finished", "diverged", "pruned"]


@dataclass(frozen=True)
class Planned:
    """A sweep begins: so many `cells`, `finished` before, for so many `workers`; its run in MLflow."""

    cells: int
    finished: int
    workers: int
    run_id: str


@dataclass(frozen=True)
class Preparing:
    """A worker makes what trials share: `done` of `total` units of a `stage`, with figures such as its loss."""

    worker: str
    stage: str
    done: int
    total: int
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stepped:
    """A trial has done `step` of `steps` training steps; `figures` are those of this step, and its number of
    `pairs`."""

    worker: str
    cell: str
    step: int
    steps: int
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialEnded:
    """A worker has brought a trial to an outcome, which the ledger now has; `value` is None where it diverged."""

    worker: str
    cell: str
    outcome: Outcome
    value: float | None


@dataclass(frozen=True)
class Counted:
    """The sweep has found an outcome in the ledger, whoever brought it there."""

    cell: str
    outcome: Outcome
    value: float | None


@dataclass(frozen=True)
class TrialFailed:
    """A trial has raised an error: what it said, and its traceback. The worker goes on."""

    worker: str
    cell: str
    reason: str
    trace: str


@dataclass(frozen=True)
class WorkerFailed:
    """A worker has ended by an error that is not a trial's: its traceback, or a sentence."""

    worker: str
    message: str


@dataclass(frozen=True)
class Mistaken:
    """A worker has met what the user alone can mend."""

    worker: str
    message: str


@dataclass(frozen=True)
class WorkerEnded:
    """A worker's last event; `stopped` where it was asked to stop."""

    worker: str
    stopped: bool


@dataclass(frozen=True)
class Said:
    """A sentence for people."""

    worker: str
    message: str


@dataclass(frozen=True)
class Reported:
    """A report has been written to `path`."""

    path: str


@dataclass(frozen=True)
class Ticked:
    """Time has passed: twice a second while workers work, for a look at the ledger."""


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
    """What tells of the progress of what trials share."""
    return lambda stage, done, total, figures: emit(Preparing(worker, stage, done, total, figures))
