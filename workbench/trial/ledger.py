"""The Optuna study as the ledger of cells: which worker has which cell, and how each cell ended.

Every attempt at a cell is one trial. It waits, runs, and finally ends: complete, pruned (or diverged) or failed. The
storage guarantees that only one worker takes a waiting trial, and that an ended trial never changes; everything else
follows from that. The first worker that sees a trial of a dead worker marks it as failed, and its cell is resumed from
its last checkpoint.
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

DEATHS = 5  # workers that may die on a cell without any progress
PREFIX = "wb:"
LOST = "lost"  # the attribute of a study with the runs that were permanently removed from MLflow
AGREED = "agreed:"  # prefix of the helper study that stores what a study's processes agree on
PROCESS = "process"  # the attribute of a study that names the process running its sweep
GATE = "gate"  # the attribute of a study with what may be claimed
START = "start"  # the attribute of a study that counts its starts, and of an attempt with the start it belongs to


@dataclass(frozen=True)
class Attempt:
    """A running trial. Its `worker` last reported `step` of `steps`."""

    cell_key: str
    name: str
    worker: str
    step: int
    steps: int


@dataclass(frozen=True)
class Failed:
    """A failed attempt. `start`: the start of the sweep it belongs to, 0 where starts were not counted yet. `counts`:
    an error of the trial itself. `died_at`: the last step that a dead worker reported."""

    start: int
    counts: bool
    reason: str
    died_at: int | None


@dataclass(frozen=True)
class Gate:
    """What workers may claim in a sweep that is `limited` in time: trials of seeds below `until` (None: none yet) and,
    until the gate is `closed`, search trials. A closed gate lets no further trials through."""

    until: int | None = None
    closed: bool = False
    limited: bool = False

    def lets(self, seed: int, searching: bool) -> bool:
        if not self.limited:
            return True
        return not self.closed if searching else self.until is not None and seed < self.until

    def waits(self) -> bool:
        """Returns whether it may still let more trials through."""
        return self.limited and not self.closed


class Book:
    """A study's trials by their cell. Ended trials never change, so each is read once, and updating a study of
    thousands of cells costs little more than its new trials. `lost`: runs that are gone, whose endings do not count."""

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
            elif trial.number < self.by.get(cell, trial.number + 1):  # of two endings, the older one counts everywhere
                self.by[cell], self.endings[cell] = trial.number, _ending(trial)

    def running(self) -> list[FrozenTrial]:
        return [trial for trials in self.open.values() for trial in trials if trial.state == TrialState.RUNNING]


def _ending(trial: FrozenTrial) -> Ending:
    stored = trial.user_attrs["ending"]
    return Ending(**stored | {"curve": {int(step): value for step, value in stored["curve"].items()}})


def _failed(trial: FrozenTrial) -> Failed:
    stored = trial.user_attrs
    return Failed(stored.get(START, 0), bool(stored.get("counts")), stored.get("reason", ""), stored.get("died_at"))


class Ledger:
    """The state of a study's cells. Every process opens its own instance."""

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
        """Returns a value that all processes on all machines agree on: the first proposal.

        Proposals are stored as trials of a separate helper study, since every storage orders trials identically for all
        processes.
        """
        helper = optuna.create_study(storage=self.storage, study_name=AGREED + self.name, load_if_exists=True)

        def first() -> str | None:
            proposals = [trial for trial in helper.get_trials(deepcopy=False) if what in trial.user_attrs]
            return str(min(proposals, key=lambda trial: trial.number).user_attrs[what]) if proposals else None

        if (agreed := first()) is not None:
            return agreed
        proposal = create_trial(state=TrialState.FAIL, user_attrs={what: propose()})
        self.storage.create_new_trial(helper._study_id, template_trial=proposal)
        agreed = first()
        assert agreed is not None
        return agreed

    def sweep(self) -> str:
        """Returns the sweep's unique name, which stays with the study. Sweeps of the same title have different ones."""
        if (known := self.study.user_attrs.get("sweep")) is None:
            known = self.agreed("sweep", lambda: uuid.uuid4().hex)
            self.study.set_user_attr("sweep", known)
        return str(known)

    def forget(self, run_ids: Iterable[str]) -> None:
        """Ignores ended trials whose runs are permanently gone, so that they run again."""
        self.book = Book(self.book.lost | frozenset(run_ids))
        self.study.set_user_attr(LOST, sorted(self.book.lost))

    def endings(self) -> dict[str, Ending]:
        """Returns cell key -> ending for every cell that needs no more work."""
        return dict(self._read().endings)

    def failures(self, cell: Cell, start: int = 0) -> list[str]:
        """Returns why attempts at the cell failed since this start of the sweep. Deaths of workers do not count."""
        return self.all_failures(start).get(cell.key, [])

    def all_failures(self, start: int = 0) -> dict[str, list[str]]:
        """Returns cell key -> `failures` of the cell, for the cells that have any."""
        reasons = {
            cell: [attempt.reason for attempt in failed if attempt.counts and attempt.start >= start]
            for cell, failed in self._read().failed.items()
        }
        return {cell: listed for cell, listed in reasons.items() if listed}

    def unfinished(self) -> set[str]:
        """Returns the keys of the cells that were tried and have not ended."""
        book = self._read()
        return {*book.failed, *book.open} - set(book.endings)

    def running(self, sightings: Sightings | None = None) -> list[Attempt]:
        """Returns the trials that are running, as far as it is known. `sightings` detect dead workers of other
        machines."""
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
        """Marks this process as the one that runs the study's sweep, so that others can detect when it no longer
        does."""
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
            with suppress(Exception):  # an outage: others will detect the end by the missing heartbeat
                self.study.set_user_attr(PROCESS, {})

    def is_attended(self, sightings: Sightings) -> bool | None:
        """Returns whether a process runs the study's sweep now; None where the study does not record it."""
        process = self.study.user_attrs.get(PROCESS)
        if not process:
            return None if process is None else False
        return not (
            Holder(**process["holder"]).dead()
            or sightings.silent(f"{self.name}/process {process['holder']['pid']}", process["beat"])
        )

    @property
    def gate(self) -> Gate:
        """What may be claimed; everything where no sweep has set a limit."""
        return Gate(**self.study.user_attrs.get(GATE, {}))

    def set_gate(self, gate: Gate) -> None:
        if gate != self.gate:
            self.study.set_user_attr(GATE, dataclasses.asdict(gate))

    @property
    def start(self) -> int:
        """The number of the last start, 0 where starts were not counted yet."""
        return int(self.study.user_attrs.get(START, 0))

    def next_start(self) -> int:
        """Returns the number of a new start of the sweep. From now on only its failures count. Starts are numbered,
        since the clocks of two machines cannot be compared. Two simultaneous starts may share a number and thus their
        failures."""
        start = self.start + 1
        self.study.set_user_attr(START, start)
        return start

    def claim(self, cells: Iterable[Cell], retries: int, start: int, worker: str) -> Owned | None:
        """Claims the first of `cells` that no worker has and that has neither ended nor finally failed. Returns its
        lease, or None. `start`: the number of the sweep's start."""
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
        """Returns the cells that still need work, by this worker or another one."""
        book = self._read()
        return [
            cell
            for cell in cells
            if cell.key not in book.endings and not given_up(book.failed.get(cell.key, []), retries, start)
        ]

    def _bury_the_dead(self, book: Book) -> bool:
        """Marks the trials of dead workers as failed. Returns whether there were any."""
        buried = False
        for trial in book.running():
            # A worker may die after it has taken a trial and before it has recorded itself as the holder.
            holder = Holder(**trial.user_attrs.get("holder", {"host": "", "pid": 0, "started": "", "name": ""}))
            beat = trial.user_attrs.get("beat", {})
            if self.watch.lapsed(trial._trial_id, holder, beat.get("beat", 0)):
                reason = f"its worker {holder.name} sent no more heartbeats"
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
        if waiting:  # left by a worker that died before taking it, perhaps for an earlier start
            self.storage.set_trial_user_attr(trial_id, START, start)
        self.storage.set_trial_user_attr(trial_id, "holder", dataclasses.asdict(Holder.me(worker)))
        # Two workers may have enqueued the cell at the same moment: the older trial counts.
        book = self._read()
        older = [trial for trial in book.open.get(cell.key, []) if trial._trial_id < trial_id]
        if older or cell.key in book.endings:
            end_trial(self.storage, trial_id, TrialState.FAIL, reason="another trial of this cell was first")
            return None
        return Owned(self.storage, trial_id, cell)

    def _enqueue(self, cell: Cell, start: int) -> int:
        # Text levels are only in `cell`, since Optuna refuses a categorical parameter that gets new choices.
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
    """Returns whether a cell with these failed attempts must not be tried again."""
    recent = [attempt for attempt in failed if attempt.start >= start]
    if sum(attempt.counts for attempt in recent) > retries:
        return True
    # A trial that kills its worker, for example for lack of memory, must not do so forever.
    deaths = [attempt.died_at for attempt in recent if attempt.died_at is not None]
    return len(deaths) >= DEATHS and len(set(deaths[-DEATHS:])) == 1


def _study(storage: BaseStorage, name: str) -> optuna.Study:
    """Returns Optuna's study of that name. An existing study is only read, so that it can be inspected without
    changes."""
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
    """Returns the ledger of an existing study. Raises UserError where there is none."""
    known = names_of_studies(storage)
    if name not in known:
        listed = f"there is {', '.join(known)}" if known else "there is none yet"
        raise UserError(f"{name}: no such study in this storage; {listed}. Start one with `wb sweep FILE`.")
    return Ledger(storage, name)
