"""The Optuna study as the ledger of cells: who works on which, and how each ended.

Every attempt at a cell is one trial. It waits, runs, and ends for good: complete, pruned (also: diverged) or failed.
The storage lets one worker alone take a waiting trial, and nobody change one that has ended; all else follows from
that. A trial whose worker has died is failed by whoever sees it first, and its cell is tried again from its last
checkpoint.
"""

import dataclasses
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from workbench.errors import UserError
from workbench.trial.cell import Cell, Ending
from workbench.trial.heartbeat import Beating, Holder, Sightings, Watch
from workbench.trial.lease import Owned, end_trial
from workbench.trial.storage import open_storage

DEATHS = 5  # workers that may die over a cell without getting it any further
PREFIX = "wb:"
LOST = "lost"  # the attribute of a study with the runs that were removed from MLflow for good
AGREED = "agreed:"  # the study beside one that keeps what its processes agree on
PROCESS = "process"  # the attribute of a study that names the process which runs its sweep
GATE = "gate"  # the attribute of a study with what may be claimed
START = "start"  # the attribute of a study that counts its starts, and of an attempt that says for which it was made


@dataclass(frozen=True)
class Attempt:
    """A trial that runs: at which `step` of `steps` its `worker` was last heard of."""

    cell_key: str
    name: str
    worker: str
    step: int
    steps: int


@dataclass(frozen=True)
class Failed:
    """An attempt that came to nothing. `start`: for which start of the sweep it was made, 0 where that was not yet
    counted; `counts`: by an error of the trial's own; `died_at`: the step at which a worker that died was last heard
    of."""

    start: int
    counts: bool
    reason: str
    died_at: int | None


@dataclass(frozen=True)
class Gate:
    """What workers may claim where the sweep is `limited` in time: trials of seeds below `until`, none yet where it is
    None, and, until the gate is `closed`, those of a search. A closed gate lets nothing through that it has not let
    through before."""

    until: int | None = None
    closed: bool = False
    limited: bool = False

    def lets(self, seed: int, searching: bool) -> bool:
        if not self.limited:
            return True
        return not self.closed if searching else self.until is not None and seed < self.until

    def waits(self) -> bool:
        """Whether it may yet let more through."""
        return self.limited and not self.closed


class Book:
    """A study's trials by their cell. What has ended never changes, so that it is taken in once, and a look at a study
    of thousands of cells costs little more than what is new. `lost`: runs that are gone, so that their endings do not
    count."""

    def __init__(self, lost: frozenset[str] = frozenset()) -> None:
        self.lost = lost
        self.endings: dict[str, Ending] = {}
        self.failed: dict[str, list[Failed]] = {}
        self.open: dict[str, list[FrozenTrial]] = {}
        self.taken: set[int] = set()  # numbers of trials that have ended
        self.by: dict[str, int] = {}  # cell key -> number of the trial that ended it

    def take(self, trials: list[FrozenTrial]) -> None:
        self.open = {}
        for trial in trials:
            if trial.number in self.taken:
                continue
            if trial.state.is_finished():
                self.taken.add(trial.number)
            if (cell := trial.user_attrs.get("cell_key")) is None:
                continue
            if not trial.state.is_finished():
                self.open.setdefault(cell, []).append(trial)
            elif trial.state == TrialState.FAIL:
                self.failed.setdefault(cell, []).append(_failed(trial))
            elif trial.user_attrs["ending"]["run_id"] in self.lost:
                continue
            elif trial.number < self.by.get(cell, trial.number + 1):  # of two, every process means the older one
                self.by[cell], self.endings[cell] = trial.number, _ending(trial)

    def running(self) -> list[FrozenTrial]:
        return [trial for trials in self.open.values() for trial in trials if trial.state == TrialState.RUNNING]


def _ending(trial: FrozenTrial) -> Ending:
    told = trial.user_attrs["ending"]
    return Ending(**told | {"curve": {int(step): value for step, value in told["curve"].items()}})


def _failed(trial: FrozenTrial) -> Failed:
    told = trial.user_attrs
    return Failed(told.get(START, 0), bool(told.get("counts")), told.get("reason", ""), told.get("died_at"))


class Ledger:
    """What is known of a study's cells; every process opens its own."""

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self.name = name
        self.study = _study(storage, PREFIX + name)
        self.storage = self.study._storage
        self.watch = Watch()
        self.book = Book(frozenset(self.study.user_attrs.get(LOST, ())))

    @classmethod
    def of_workspace(cls, workspace: Path, name: str, address: str | None = None) -> "Ledger":
        return cls(open_storage(address, workspace), name)

    def agreed(self, what: str, propose: Callable[[], str]) -> str:
        """What all processes that ask for it agree on, on whatever machine: what the first of them has proposed.

        Proposals are kept beside the study, as trials of another one, since every storage sets these in one order for
        all.
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
        self.book = Book(self.book.lost | frozenset(run_ids))
        self.study.set_user_attr(LOST, sorted(self.book.lost))

    def endings(self) -> dict[str, Ending]:
        """Cell key -> how it ended, of every cell that needs no more work."""
        return dict(self._read().endings)

    def failures(self, cell: Cell, start: int = 0) -> list[str]:
        """Why attempts at the cell have failed since this start of the sweep; the deaths of workers not counted."""
        return self.all_failures(start).get(cell.key, [])

    def all_failures(self, start: int = 0) -> dict[str, list[str]]:
        """Cell key -> what `failures` says of it, of the cells that have any."""
        reasons = {
            cell: [each.reason for each in failed if each.counts and each.start >= start]
            for cell, failed in self._read().failed.items()
        }
        return {cell: told for cell, told in reasons.items() if told}

    def unfinished(self) -> set[str]:
        """The keys of the cells that were tried and have not ended."""
        book = self._read()
        return {*book.failed, *book.open} - set(book.endings)

    def running(self, sightings: Sightings | None = None) -> list[Attempt]:
        """The trials that somebody works on, as far as it can be told: of workers of other machines by `sightings`."""
        return [
            Attempt(
                trial.user_attrs["cell_key"],
                trial.user_attrs["name"],
                trial.user_attrs["holder"]["name"],
                trial.user_attrs.get("beat", {}).get("step", 0),
                trial.user_attrs.get("beat", {}).get("steps", 0),
            )
            for trial in self._read().running()
            if "holder" in trial.user_attrs
            and not Holder(**trial.user_attrs["holder"]).dead()
            and not (
                sightings
                and sightings.silent(
                    f"{self.name}/trial {trial.number}", trial.user_attrs.get("beat", {}).get("beat", 0)
                )
            )
        ]

    @contextmanager
    def attended(self, name: str) -> Iterator[None]:
        """While this process runs the study's sweep, so that others can tell when it no longer does."""
        holder = dataclasses.asdict(Holder.me(name))

        def beat(at: dict[str, Any]) -> bool:
            self.study.set_user_attr(PROCESS, {"holder": holder, "beat": at["beat"]})
            return True

        beat({"beat": 0})
        beating = Beating(beat)
        try:
            yield
        finally:
            beating.end()
            with suppress(Exception):  # an outage: the process will be missed all the same
                self.study.set_user_attr(PROCESS, {})

    def is_attended(self, sightings: Sightings) -> bool | None:
        """Whether a process runs the study's sweep now; None where that was not yet written down."""
        told = self.study.user_attrs.get(PROCESS)
        if not told:
            return None if told is None else False
        return not (
            Holder(**told["holder"]).dead()
            or sightings.silent(f"{self.name}/process {told['holder']['pid']}", told["beat"])
        )

    @property
    def gate(self) -> Gate:
        """What may be claimed; everything where no sweep has said otherwise."""
        return Gate(**self.study.user_attrs.get(GATE, {}))

    def set_gate(self, gate: Gate) -> None:
        if gate != self.gate:
            self.study.set_user_attr(GATE, dataclasses.asdict(gate))

    @property
    def start(self) -> int:
        """The number of the last start, 0 where starts were not yet counted."""
        return int(self.study.user_attrs.get(START, 0))

    def next_start(self) -> int:
        """The number of a new start of the sweep, whose failures alone count from now on. Starts are counted, since the
        clocks of two machines cannot be compared. Two starts at the same moment may share a number, and then failures,
        too."""
        start = self.start + 1
        self.study.set_user_attr(START, start)
        return start

    def claim(self, cells: Iterable[Cell], retries: int, start: int, worker: str) -> Owned | None:
        """The first of `cells` that nobody works on and that is neither ended nor failed for good, now ours. `start`:
        the number of the sweep's start that this is for."""
        book = self._read()
        if self._bury_the_dead(book):
            book = self._read()
        for cell in cells:
            if cell.key in book.endings or given_up(book.failed.get(cell.key, []), retries, start):
                continue
            attempts = book.open.get(cell.key, [])
            if any(trial.state == TrialState.RUNNING for trial in attempts):
                continue
            if (lease := self._claim(cell, attempts, start, worker)) is not None:
                return lease
        return None

    def open_cells(self, cells: Iterable[Cell], retries: int, start: int) -> list[Cell]:
        """The cells that still need work, ours or another's."""
        book = self._read()
        return [
            cell
            for cell in cells
            if cell.key not in book.endings and not given_up(book.failed.get(cell.key, []), retries, start)
        ]

    def _bury_the_dead(self, book: Book) -> bool:
        """Fails the trials whose workers give no more sign of life; whether there were any."""
        buried = False
        for trial in book.running():
            # Between taking a trial and signing it there is a moment in which the worker may die.
            there = Holder(**trial.user_attrs.get("holder", {"host": "", "pid": 0, "started": "", "name": ""}))
            beat = trial.user_attrs.get("beat", {})
            if self.watch.lapsed(trial._trial_id, there, beat.get("beat", 0)):
                reason = f"its worker {there.name} gave no more sign of life"
                end_trial(self.storage, trial._trial_id, TrialState.FAIL, reason=reason, died_at=beat.get("step", 0))
                buried = True
        return buried

    def _claim(self, cell: Cell, attempts: list[FrozenTrial], start: int, worker: str) -> Owned | None:
        waiting = [trial._trial_id for trial in attempts if trial.state == TrialState.WAITING]
        trial_id = min(waiting) if waiting else self._enqueue(cell, start)
        try:
            if not self.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        if waiting:  # left behind by a worker that died before it took it, perhaps for an earlier start
            self.storage.set_trial_user_attr(trial_id, START, start)
        self.storage.set_trial_user_attr(trial_id, "holder", dataclasses.asdict(Holder.me(worker)))
        # Two workers may have enqueued the cell at the same moment: the older trial is the one that counts.
        book = self._read()
        older = [trial for trial in book.open.get(cell.key, []) if trial._trial_id < trial_id]
        if older or cell.key in book.endings:
            end_trial(self.storage, trial_id, TrialState.FAIL, reason="another trial of this cell was first")
            return None
        return Owned(self.storage, trial_id, cell)

    def _enqueue(self, cell: Cell, start: int) -> int:
        # Levels that are words stand in `cell` alone, since Optuna refuses a categorical axis that grows.
        axes = {
            name: float(level)
            for name, level in cell.values.items()
            if isinstance(level, int | float) and not isinstance(level, bool)
        }
        about = {"cell_key": cell.key, "cell": cell.label, "name": cell.name, "seed": cell.seed, START: start}
        trial = create_trial(
            state=TrialState.WAITING,
            params=axes,
            distributions={name: FloatDistribution(level, level) for name, level in axes.items()},
            user_attrs=about,
        )
        return self.storage.create_new_trial(self.study._study_id, template_trial=trial)

    def _read(self) -> Book:
        self.book.take(self.study.get_trials(deepcopy=False))
        return self.book


def given_up(failed: list[Failed], retries: int, start: int) -> bool:
    """Whether a cell with these attempts is to be left alone."""
    recent = [each for each in failed if each.start >= start]
    if sum(each.counts for each in recent) > retries:
        return True
    # A trial that takes its worker down, say for lack of memory, must not do so for ever.
    deaths = [each.died_at for each in recent if each.died_at is not None]
    return len(deaths) >= DEATHS and len(set(deaths[-DEATHS:])) == 1


def _study(storage: BaseStorage, name: str) -> optuna.Study:
    """Optuna's study of that name; one that is there is not written to, so that it can be looked at."""
    with suppress(KeyError):
        return optuna.load_study(study_name=name, storage=storage)
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


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
