"""The interface of a tracking store for reading."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workbench.record import SweepRecord

PARENT = "mlflow.parentRunId"
Value = tuple[str, str, int, float]  # run, metric, step, value


@dataclass(frozen=True)
class Run:
    """A run with its tags. Times are in ms since the epoch."""

    run_id: str
    name: str
    status: str
    started: int
    ended: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Members:
    """A sweep's record and its trials, ordered by start time; for a run without children, the run itself."""

    name: str
    experiment_id: str
    record: SweepRecord | None
    children: bool
    runs: list[Run]


class Store(Protocol):
    """A tracking store for reading."""

    def members(self, run_id: str) -> Members:
        """Returns a run's trials. Raises UserError where there is no such store or run."""
        ...

    def values(self, run_ids: Sequence[str]) -> list[Value]:
        """Returns all metrics except system metrics, for each run in logging order."""
        ...

    def params(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Returns run id -> its parameters."""
        ...

    def last(self, metric: str, run_ids: Sequence[str]) -> dict[str, float]:
        """Returns run id -> its last value of a metric; runs without it are left out."""
        ...

    def all_runs(self) -> list[tuple[Run, SweepRecord | None]]:
        """Returns all runs, those of sweeps with their record."""
        ...

    def artifacts(self, run_ids: Sequence[str], name: str) -> dict[str, bytes]:
        """Returns run id -> content of its artifact of this name; runs without it are left out.

        Raises ConnectionError where a server lists an artifact but does not return it.
        """
        ...


def record_in(written: bytes | None) -> SweepRecord | None:
    """Returns the record in a sweep's artifact; None where there is none."""
    return None if written is None else SweepRecord.model_validate(json.loads(written))
