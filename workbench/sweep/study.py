"""The Optuna study as the ledger of finished cells, and file locks as claims.

A claim is an exclusive lock on a file, which the kernel releases when its process ends, however it ends. So no cell
is ever run by two workers or left claimed by a dead one, and the study only ever holds outcomes.
"""

import fcntl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from workbench.sweep.grid import Cell


class Ledger:
    """What is known of a study's cells; every process opens its own."""

    def __init__(self, studies: Path, name: str) -> None:
        studies.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.locks = studies / f"{name}.locks"
        self.locks.mkdir(exist_ok=True)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(studies / f"{name}.journal"))),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )

    def finished(self) -> dict[str, str]:
        """Cell key -> run id of every cell that is complete."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {trial.user_attrs["cell_key"]: trial.user_attrs["run_id"] for trial in done}

    def outcome(self, cell: Cell) -> FrozenTrial | None:
        """How the cell ended, where it is complete."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return next((trial for trial in done if trial.user_attrs["cell_key"] == cell.key), None)

    def failures(self, cell: Cell, since: float = 0.0) -> list[FrozenTrial]:
        """The cell's failed attempts since a time (seconds of the epoch)."""
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [
            trial for trial in failed if trial.user_attrs["cell_key"] == cell.key and trial.user_attrs["at"] >= since
        ]

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Yields whether the cell is now ours: nobody works on it and it is not finished."""
        with open(self.locks / f"{cell.key}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield cell.key not in self.finished()

    def record(self, cell: Cell, run_id: str, value: float) -> None:
        self._add(cell, TrialState.COMPLETE, {"run_id": run_id}, value)

    def record_failure(self, cell: Cell, reason: str) -> None:
        self._add(cell, TrialState.FAIL, {"reason": reason}, None)

    def _add(self, cell: Cell, state: TrialState, attributes: dict[str, Any], value: float | None) -> None:
        axes = {name: d for name, level in cell.values.items() if (d := _distribution(level)) is not None}
        self.study.add_trial(
            create_trial(
                state=state,
                value=value,
                params={name: cell.values[name] for name in axes},
                distributions=axes,
                user_attrs=attributes
                | {"cell_key": cell.key, "cell": cell.label, "seed": cell.seed, "at": time.time()},
            )
        )


def missing(cells: Iterable[Cell], ledger: Ledger) -> list[Cell]:
    done = ledger.finished()
    return [cell for cell in cells if cell.key not in done]


def _distribution(level: Any) -> BaseDistribution | None:
    """Optuna refuses a categorical axis that grows, so levels that are words stand in `cell` alone."""
    if isinstance(level, bool) or not isinstance(level, int | float):
        return None
    if isinstance(level, int):
        return IntDistribution(level, level)
    return FloatDistribution(level, level)
