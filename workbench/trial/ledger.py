"""The Optuna study as the ledger of cells: who works on which, and how each ended.

Every attempt at a cell is one trial. It waits, runs, and ends for good: complete, pruned (also: diverged) or failed.
The storage lets one worker alone take a waiting trial, and nobody change one that has ended; all else follows from
that. A trial whose worker has died is failed by whoever sees it first, and its cell is tried again from its last
checkpoint.
"""

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from workbench.errors import UserError
from workbench.trial.cell import Cell, Ending
from workbench.trial.heartbeat import Holder, Watch
from workbench.trial.lease import Owned, end_trial
from workbench.trial.storage import open_storage

DEATHS = 5  # workers that may die over a cell without getting it any further
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
OPEN = (TrialState.WAITING, TrialState.RUNNING)
PREFIX = "wb:"
LOST = "lost"  # the attribute of a study with the runs that were removed from MLflow for good
AGREED = "agreed:"  # the study beside one that keeps what its processes agree on


@dataclass(frozen=True)
class Attempt:
    """A trial that runs: at which `step` of `steps` its `worker` was last heard of."""

    cell_key: str
    name: str
    worker: str
    step: int
    steps: int


class Ledger:
    """What is known of a study's cells; every process opens its own."""

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self.name = name
        called = PREFIX + name
        try:
            self.study = optuna.load_study(storage=storage, study_name=called)  # writes nothing
        except KeyError:
            self.study = optuna.create_study(
                storage=storage, study_name=called, direction="maximize", load_if_exists=True
            )
        self.storage = self.study._storage
        self.watch = Watch()
        self.lost = frozenset(self.study.user_attrs.get(LOST, ()))

    @classmethod
    def of_workspace(cls, workspace: Path, name: str, address: str | None = None) -> "Ledger":
        return cls(open_storage(address, workspace), name)

    def agreed(self, what: str, propose: Callable[[], str]) -> str:
        """What all processes that ask for it agree on, on whatever machine: what the first of them has proposed.

        Proposals are kept beside the study, as trials of another one, since every storage sets these in one order for all.
        """
        beside = optuna.create_study(storage=self.storage, study_name=AGREED + self.name, load_if_exists=True)

        def first() -> str | None:
            made = [trial for trial in beside.get_trials(deepcopy=False) if what in trial.user_attrs]
            return str(min(made, key=lambda trial: trial.number).user_attrs[what]) if made else None

        if (found := first()) is not None:
            return found
        proposal = create_trial(state=TrialState.FAIL, user_attrs={what: propose()})
        self.storage.create_new_trial(beside._study_id, template_trial=proposal)
        found = first()
        assert found is not None
        return found

    def sweep(self) -> str:
        """The sweep's own name, which no other sweep has, however alike they are called; it stays with the study."""
        if (known := self.study.user_attrs.get("sweep")) is None:
            known = self.agreed("sweep", lambda: uuid.uuid4().hex)
            self.study.set_user_attr("sweep", known)
        return str(known)

    def forget(self, run_ids: Iterable[str]) -> None:
        """Counts trials that have ended as if they had never been, since their runs are gone for good."""
        self.lost = self.lost | frozenset(run_ids)
        self.study.set_user_attr(LOST, sorted(self.lost))

    def endings(self) -> dict[str, Ending]:
        """Cell key -> how it ended, of every cell that needs no more work."""
        found: dict[str, Ending] = {}
        for trial in self._trials(ENDED):
            told = trial.user_attrs["ending"]
            curve = {int(step): value for step, value in told["curve"].items()}
            found.setdefault(trial.user_attrs["cell_key"], Ending(**told | {"curve": curve}))
        return found

    def failures(self, cell: Cell, since: float = 0.0) -> list[str]:
        """Why attempts at the cell have failed since a time (seconds of the epoch); the deaths of workers not
        counted."""
        return [
            trial.user_attrs["reason"]
            for trial in self._trials((TrialState.FAIL,))
            if trial.user_attrs["cell_key"] == cell.key
            and trial.user_attrs.get("counts")
            and trial.user_attrs["at"] >= since
        ]

    def running(self) -> list[Attempt]:
        """The trials that somebody works on, as far as it can be told."""
        return [
            Attempt(
                trial.user_attrs["cell_key"],
                trial.user_attrs["name"],
                trial.user_attrs["holder"]["name"],
                trial.user_attrs.get("beat", {}).get("step", 0),
                trial.user_attrs.get("beat", {}).get("steps", 0),
            )
            for trial in self._trials((TrialState.RUNNING,))
            if "holder" in trial.user_attrs and not Holder(**trial.user_attrs["holder"]).dead()
        ]

    def claim(self, cells: Iterable[Cell], retries: int, since: float, worker: str) -> Owned | None:
        """The first of `cells` that nobody works on and that is neither ended nor failed for good, now ours."""
        self._bury_the_dead()
        by_cell = self._by_cell()
        for cell in cells:
            attempts = by_cell.get(cell.key, [])
            if any(trial.state in (*ENDED, TrialState.RUNNING) for trial in attempts):
                continue
            if self.given_up(attempts, retries, since):
                continue
            if (lease := self._claim(cell, attempts, worker)) is not None:
                return lease
        return None

    def open_cells(self, cells: Iterable[Cell], retries: int, since: float) -> list[Cell]:
        """The cells that still need work, ours or another's."""
        by_cell = self._by_cell()
        return [
            cell
            for cell in cells
            if not any(trial.state in ENDED for trial in by_cell.get(cell.key, []))
            and not self.given_up(by_cell.get(cell.key, []), retries, since)
        ]

    def given_up(self, attempts: list[FrozenTrial], retries: int, since: float) -> bool:
        """Whether a cell with these attempts is to be left alone."""
        failed = [t for t in attempts if t.state == TrialState.FAIL and t.user_attrs["at"] >= since]
        if sum(bool(trial.user_attrs.get("counts")) for trial in failed) > retries:
            return True
        # A trial that takes its worker down, say for lack of memory, must not do so for ever.
        deaths = [trial.user_attrs.get("died_at") for trial in failed if "died_at" in trial.user_attrs]
        return len(deaths) >= DEATHS and len(set(deaths[-DEATHS:])) == 1

    def _bury_the_dead(self) -> None:
        """Fails the trials whose workers give no more sign of life."""
        for trial in self._trials((TrialState.RUNNING,)):
            # Between taking a trial and signing it there is a moment in which the worker may die.
            there = Holder(**trial.user_attrs.get("holder", {"host": "", "pid": 0, "started": "", "name": ""}))
            beat = trial.user_attrs.get("beat", {})
            if self.watch.lapsed(trial._trial_id, there, beat.get("beat", 0)):
                reason = f"its worker {there.name} gave no more sign of life"
                end_trial(self.storage, trial._trial_id, TrialState.FAIL, reason=reason, died_at=beat.get("step", 0))

    def _claim(self, cell: Cell, attempts: list[FrozenTrial], worker: str) -> Owned | None:
        waiting = [trial._trial_id for trial in attempts if trial.state == TrialState.WAITING]
        trial_id = min(waiting) if waiting else self._enqueue(cell)
        try:
            if not self.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        self.storage.set_trial_user_attr(trial_id, "holder", dataclasses.asdict(Holder.me(worker)))
        # Two workers may have enqueued the cell at the same moment: the older trial is the one that counts.
        others = [t for t in self._trials() if t.user_attrs["cell_key"] == cell.key and t._trial_id != trial_id]
        if any(t.state in ENDED or (t.state in OPEN and t._trial_id < trial_id) for t in others):
            end_trial(self.storage, trial_id, TrialState.FAIL, reason="another trial of this cell was first")
            return None
        return Owned(self.storage, trial_id, cell)

    def _enqueue(self, cell: Cell) -> int:
        # Levels that are words stand in `cell` alone, since Optuna refuses a categorical axis that grows.
        axes = {
            name: float(level)
            for name, level in cell.values.items()
            if isinstance(level, int | float) and not isinstance(level, bool)
        }
        about = {"cell_key": cell.key, "cell": cell.label, "name": cell.name, "seed": cell.seed, "at": time.time()}
        trial = create_trial(
            state=TrialState.WAITING,
            params=axes,
            distributions={name: FloatDistribution(level, level) for name, level in axes.items()},
            user_attrs=about,
        )
        return self.storage.create_new_trial(self.study._study_id, template_trial=trial)

    def _by_cell(self) -> dict[str, list[FrozenTrial]]:
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self._trials():
            found.setdefault(trial.user_attrs["cell_key"], []).append(trial)
        return found

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=states)
            if "cell_key" in trial.user_attrs and trial.user_attrs.get("ending", {}).get("run_id") not in self.lost
        ]


def names_of_studies(storage: BaseStorage) -> list[str]:
    return sorted(
        study.study_name.removeprefix(PREFIX)
        for study in storage.get_all_studies()
        if study.study_name.startswith(PREFIX)
    )


def existing(storage: BaseStorage, name: str) -> Ledger:
    """The ledger of a study that is there; raises UserError where it is not."""
    known = names_of_studies(storage)
    if name not in known:
        listed = f"there is {', '.join(known)}" if known else "there is none yet"
        raise UserError(f"{name}: no such study in this storage; {listed}. Start one with `wb sweep FILE`.")
    return Ledger(storage, name)
