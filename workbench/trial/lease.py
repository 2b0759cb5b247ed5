"""The lease of a trial: the right to work on it. One worker holds and renews it; another worker takes the trial over
once the lease has expired."""

import dataclasses
import time
from typing import Any, Protocol

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from workbench.trial.cell import Cell, Ending
from workbench.trial.heartbeat import Beating


class LeaseLost(Exception):
    """Another worker took the trial over, because this one sent no heartbeat for too long."""


class Lease(Protocol):
    """A trial that is ours until exactly one of `complete`, `fail` and `release` ends it."""

    @property
    def cell(self) -> Cell: ...

    @property
    def lost(self) -> bool:
        """Whether another worker is known to have the trial now. Reads the storage only after this process was
        frozen."""

    def tell(self, step: int, steps: int) -> None:
        """Reports the progress of the trial to those who watch the study."""

    def held(self) -> None:
        """Raises LeaseLost where the trial is no longer ours, according to the storage."""

    def complete(self, ending: Ending) -> None:
        """Records how the trial ended. Raises LeaseLost where another worker has ended it before."""

    def fail(self, reason: str) -> None:
        """Records an error of the trial itself, which counts against its retries."""

    def release(self) -> None:
        """Gives the trial back, to be resumed by the next worker."""

    def let_go(self) -> None:
        """Stops renewing the lease, whatever has been recorded; other workers will find it expired."""


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
        """Ends the trial. Returns whether it was still ours."""
        ours = end_trial(self.storage, self.trial_id, state, value, **attributes)
        self.beating.end()
        return ours


class _EndsElsewhere:
    """A lease that another process keeps: reporting and ending do nothing here."""

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
    """The lease of the first of several processes of a trial: another process holds it, renews it, and records the
    ending."""

    def __init__(self, storage: BaseStorage, trial_id: int, cell: Cell) -> None:
        self.storage, self.trial_id, self.cell = storage, trial_id, cell
        self.lost = False

    def held(self) -> None:
        if self.storage.get_trial(self.trial_id).state != TrialState.RUNNING:
            self.lost = True
            raise LeaseLost(self.cell.name)


class Unleased(_EndsElsewhere):
    """The lease of a trial that no other worker could take: a reproduction, or the further processes of a trial. There
    is nothing to renew or to end."""

    lost = False

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def held(self) -> None:
        pass


def end_trial(
    storage: BaseStorage, trial_id: int, state: TrialState, value: float | None = None, **attributes: Any
) -> bool:
    """Ends a trial. Returns whether it has ended in this way now; False where it had ended differently before. Safe to
    repeat after a lost reply."""
    try:
        for name, attribute in attributes.items():
            storage.set_trial_user_attr(trial_id, name, attribute)
        storage.set_trial_state_values(trial_id, state, None if value is None else [value])
    except UpdateFinishedTrialError:
        ended = storage.get_trial(trial_id)
        same = (ended.user_attrs.get(name) == attribute for name, attribute in attributes.items())
        return ended.state == state and all(same)
    return True
