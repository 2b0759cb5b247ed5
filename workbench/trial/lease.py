"""The right to work on a trial: held by one worker, renewed while it lives, and gone once another has taken the trial
over."""

import dataclasses
import time
from typing import Any, Protocol

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from workbench.trial.cell import Cell, Ending
from workbench.trial.heartbeat import Beating


class LeaseLost(Exception):
    """Another worker took the trial over, because this one gave no sign of life for too long."""


class Lease(Protocol):
    """A trial that is ours until it ends, by exactly one of `complete`, `fail` and `release`."""

    @property
    def cell(self) -> Cell: ...

    @property
    def lost(self) -> bool:
        """Whether another worker is known to have the trial now; asks the storage only after a time in which this
        process was frozen."""

    def tell(self, step: int, steps: int) -> None:
        """How far the trial is, for those who watch the study."""

    def held(self) -> None:
        """Raises LeaseLost where the trial is no longer ours, as the storage has it now."""

    def complete(self, ending: Ending) -> None:
        """Writes down how the trial ended. Raises LeaseLost where another worker has ended it before."""

    def fail(self, reason: str) -> None:
        """An error of the trial's own, which counts against its retries."""

    def release(self) -> None:
        """Gives the trial back, to be gone on with by whoever comes next."""

    def let_go(self) -> None:
        """Renews the lease no more, whatever has been written down; others find out in time."""


class Owned:
    """The lease of a worker that has claimed a trial; a thread renews it."""

    def __init__(self, storage: BaseStorage, trial_id: int, cell: Cell) -> None:
        self.storage, self.trial_id, self.cell = storage, trial_id, cell
        self.beating = Beating(self._beat)

    @property
    def lost(self) -> bool:
        if self.beating.overdue():
            self.beating.renew()
        return self.beating.lost.is_set()

    def tell(self, step: int, steps: int) -> None:
        self.beating.at = {"step": step, "steps": steps}

    def held(self) -> None:
        if self.lost or not self._beat({"beat": -int(time.time())} | self.beating.at):
            raise LeaseLost(self.cell.name)

    def complete(self, ending: Ending) -> None:
        state = TrialState.COMPLETE if ending.outcome == "finished" else TrialState.PRUNED
        if not self._end(state, ending.value, ending=dataclasses.asdict(ending)):
            raise LeaseLost(self.cell.name)

    def fail(self, reason: str) -> None:
        self._end(TrialState.FAIL, reason=reason[:2000], counts=True)

    def release(self) -> None:
        self._end(TrialState.FAIL, reason="stopped, to go on later")

    def let_go(self) -> None:
        self.beating.ended.set()

    def _beat(self, at: dict[str, Any]) -> bool:
        try:
            self.storage.set_trial_user_attr(self.trial_id, "beat", at)
        except UpdateFinishedTrialError:
            return False
        return True

    def _end(self, state: TrialState, value: float | None = None, **attributes: Any) -> bool:
        """Whether it was for us to end the trial."""
        ours = end_trial(self.storage, self.trial_id, state, value, **attributes)
        self.beating.end()
        return ours


class _EndsElsewhere:
    """What is told or ended under a lease that this process does not keep: nothing."""

    def tell(self, step: int, steps: int) -> None:
        pass

    def complete(self, ending: Ending) -> None:
        pass

    def fail(self, reason: str) -> None:
        pass

    def release(self) -> None:
        pass

    def let_go(self) -> None:
        pass


class Borrowed(_EndsElsewhere):
    """What the first of several processes of a trial works under: another process holds the lease, renews it, and
    writes the ending."""

    def __init__(self, storage: BaseStorage, trial_id: int, cell: Cell) -> None:
        self.storage, self.trial_id, self.cell = storage, trial_id, cell
        self.lost = False

    def held(self) -> None:
        if self.storage.get_trial(self.trial_id).state != TrialState.RUNNING:
            self.lost = True
            raise LeaseLost(self.cell.name)


class Unleased(_EndsElsewhere):
    """What a trial works under that nobody else could take: one run again, or the further processes of one. Nothing to
    keep or to end."""

    lost = False

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def held(self) -> None:
        pass


def end_trial(
    storage: BaseStorage, trial_id: int, state: TrialState, value: float | None = None, **attributes: Any
) -> bool:
    """Whether the trial has now ended as said, and had not ended otherwise before. Safe to repeat where an answer was
    lost."""
    try:
        for name, each in attributes.items():
            storage.set_trial_user_attr(trial_id, name, each)
        storage.set_trial_state_values(trial_id, state, None if value is None else [value])
    except UpdateFinishedTrialError:
        there = storage.get_trial(trial_id)
        return there.state == state and all(there.user_attrs.get(name) == each for name, each in attributes.items())
    return True
