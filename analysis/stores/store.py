"""What a tracking store gives to its reader, whichever kind it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workbench.record import SweepRecord

PARENT = "mlflow.parentRunId"
Value = tuple[str, str, int, float]  # run, metric, step, value


@dataclass(frozen=True)
class Run:
    """A run with its tags; times in ms of the epoch."""

    run_id: str
    name: str
    status: str
    started: int
    ended: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Members:
    """A sweep's record and trials, by their start; of a run without children, itself."""

    name: str
    experiment_id: str
    record: SweepRecord | None
    children: bool
    runs: list[Run]


class Store(Protocol):
    """A tracking store for reading."""

    def members(self, run_id: str) -> Members:
        """A run's trials. Raises UserError where there is no such store or run."""
        ...

    def values(self, run_ids: Sequence[str]) -> list[Value]:
        """All metrics but those of the machine, each run's in the order in which they were logged."""
        ...

    def params(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Run id -> its parameters."""
        ...

    def last(self, metric: str, run_ids: Sequence[str]) -> dict[str, float]:
        """Run id -> its last value of a metric; runs without it are left out."""
        ...

    def all_runs(self) -> list[tuple[Run, SweepRecord | None]]:
        """All runs, those of sweeps with their record."""
        ...

    def artifacts(self, run_ids: Sequence[str], name: str) -> dict[str, bytes]:
        """Run id -> what its artifact of this name holds; runs without it are left out.

        Raises ConnectionError where a server lists one that it does not give.
        """
        ...


def record_in(written: bytes | None) -> SweepRecord | None:
    """The record that a sweep's artifact holds; None where there is none."""
    return None if written is None else SweepRecord.model_validate(json.loads(written))
