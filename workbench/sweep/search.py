"""Tuning of nuisance settings before the comparison: the same budget for each arm, then fresh seeds for its best
setting.

Which trials a search consists of follows from the experiment and from how earlier trials ended, and from nothing else:
each worker works it out for itself and comes to the same, however many there are and whenever they were stopped. For
that, suggestions come in rounds of `batch` trials that know of earlier rounds alone, and pruning compares a trial with
earlier rounds alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from workbench.config.schema import Experiment, Range, Search
from workbench.metrics import lower_is_better, on_validation
from workbench.randomness import key
from workbench.sweep.grid import expand
from workbench.trial.cell import Cell, Ending, arm_label, make_cell
from workbench.trial.job import Goal

Tried = tuple[dict[str, Any], Ending]  # what a trial of a search was given, and how it ended


@dataclass(frozen=True)
class Plan:
    """The cells that are known by now, in the order of work; `whole` when no more will come. `total`: how many there
    will be."""

    cells: list[Cell]
    whole: bool
    total: int


@dataclass(frozen=True)
class Found:
    """What the search of an arm came to: `tried` in order; `best` is None while it goes on, or where nothing was
    finished."""

    arm: dict[str, Any]
    tried: list[tuple[Cell, dict[str, Any], Ending | None]]
    best: dict[str, Any] | None

    @property
    def over(self) -> bool:
        """Whether all trials have ended; no more are suggested while one has not."""
        return None not in [ending for *_, ending in self.tried]


@dataclass(frozen=True)
class _Arm:
    """An arm of a search: what its search came to, and the cells that confirm it, none before that is over."""

    found: Found
    confirming: list[Cell]

    def moved(self, endings: Mapping[str, Ending]) -> bool:
        """Whether one of its trials has ended since."""
        return any(ending is None and cell.key in endings for cell, _, ending in self.found.tried)


def planned(experiment: Experiment, endings: Mapping[str, Ending]) -> Plan:
    """The cells of a grid; of a search its trials as far as they follow from what has ended, then those that confirm.
    An arm whose search has finished nothing has none that confirm."""
    return Planner()(experiment, endings)


class Planner:
    """`planned`, asked again and again while a study goes on: works out only what may have changed since. What has
    ended once must stay so."""

    def __init__(self) -> None:
        self.experiment: Experiment | None = None
        self.known = -1  # how many had ended
        self.arms: list[_Arm] = []
        self.plan = Plan([], True, 0)

    def __call__(self, experiment: Experiment, endings: Mapping[str, Ending]) -> Plan:
        if self.experiment != experiment:
            self.experiment, self.known, self.arms = experiment, -1, []
            if experiment.search is None:
                cells = expand(experiment)
                self.plan = Plan(cells, True, len(cells))
        if experiment.search is not None and self.known != len(endings):
            self.known = len(endings)
            if not self.arms:
                self.arms = [_arm(experiment, arm, endings) for arm in experiment.arms]
            self.arms = [
                _arm(experiment, each.found.arm, endings) if each.moved(endings) else each for each in self.arms
            ]
            self.plan = _together(experiment, self.arms)
        return self.plan


def _arm(experiment: Experiment, arm: dict[str, Any], endings: Mapping[str, Ending]) -> _Arm:
    found = search_of(experiment, arm, endings)
    first, count = experiment.seeds.first, experiment.seeds.count
    seeds = range(first, first + count) if found.best is not None else ()
    return _Arm(found, [confirming_cell(experiment, found, seed) for seed in seeds])


def _together(experiment: Experiment, arms: list[_Arm]) -> Plan:
    """The plan of a search: the trials of all arms, then what confirms, seed by seed."""
    assert experiment.search is not None
    searching = [cell for each in arms for cell, _, _ in each.found.tried]
    blocks = zip(*(each.confirming for each in arms if each.confirming), strict=True)
    distinct = list({cell.key: cell for cell in [*searching, *(cell for block in blocks for cell in block)]}.values())
    going_on = [each.found for each in arms if not each.found.over]
    to_come = [experiment.search.trials - len(found.tried) + experiment.seeds.count for found in going_on]
    return Plan(distinct, not going_on, len(distinct) + sum(to_come))


def confirming_cell(experiment: Experiment, found: Found, seed: int) -> Cell:
    assert found.best is not None
    label = arm_label(found.arm, experiment.baseline)
    return replace(make_cell(experiment, found.arm | found.best, seed), label=label, arm=label)


def search_of(experiment: Experiment, arm: dict[str, Any], endings: Mapping[str, Ending]) -> Found:
    search = experiment.search
    assert search is not None
    label = arm_label(arm, experiment.baseline)
    tried: list[tuple[Cell, dict[str, Any], Ending | None]] = []
    while len(tried) < search.trials and all(ending is not None for *_, ending in tried):
        known = [(given, _upwards(experiment, ending)) for _, given, ending in tried if ending is not None]
        size = min(search.batch, search.trials - len(tried))
        for given in _suggested(search, experiment.settings.optimisation.steps, known, size):
            cell = make_cell(experiment, arm | given, search.seed)
            number = len(tried)
            cell = replace(cell, label=f"{label} · search {number + 1}", arm=label, searching=number)
            tried.append((cell, given, endings.get(cell.key)))
    all_ended = [(given, _upwards(experiment, e)) for _, given, e in tried if e is not None]
    ended = [(given, e) for given, e in all_ended if e.outcome == "finished" and e.value is not None]
    over = len(tried) == search.trials and all(ending is not None for *_, ending in tried)
    best = max(ended, key=lambda each: each[1].value or 0.0)[0] if over and ended else None  # the first of equals
    return Found(arm, tried, best)


def course_metric(experiment: Experiment) -> str:
    """The metric by which trials of a search are pruned and chosen: the primary one on the validation split, so that no
    search ever sees the test split."""
    return on_validation(experiment.primary)


def value_metric(experiment: Experiment, cell: Cell) -> str:
    """The metric whose last value is a trial's: the primary one, for a trial of a search on the validation split."""
    return experiment.primary if cell.searching is None else course_metric(experiment)


def goal_of(experiment: Experiment, cell: Cell, endings: Mapping[str, Ending]) -> Goal:
    """What a trial is judged by, given how others had ended when it was claimed: pruning looks at earlier rounds alone,
    which have."""
    goal = Goal(value_metric(experiment, cell), course_metric(experiment))
    if cell.searching is None:
        return goal
    return replace(goal, poor=partial(pruned_by, experiment, cell, dict(endings)))


def pruned_by(experiment: Experiment, cell: Cell, endings: Mapping[str, Ending], curve: Mapping[int, float]) -> bool:
    """Whether a trial of a search should end after `curve` (step -> `course_metric`). Trials that confirm never do."""
    search = experiment.search
    if search is None or cell.searching is None or search.pruner == "none":
        return False
    arm = {name: cell.values[name] for name in experiment.factors}
    tried = search_of(experiment, arm, endings).tried[: cell.searching // search.batch * search.batch]
    known = [(given, _upwards(experiment, ending)) for _, given, ending in tried if ending is not None]
    study = _study(search, experiment.settings.optimisation.steps, known)
    trial = study.ask(fixed_distributions=_space(search))
    own = _upwards(experiment, Ending("", "pruned", None, dict(curve)))
    return _reported(study, trial.number, own.curve)


def _upwards(experiment: Experiment, ending: Ending) -> Ending:
    """The ending with its values turned so that more is better."""
    if not lower_is_better(course_metric(experiment)):
        return ending
    value = None if ending.value is None else -ending.value
    return replace(ending, value=value, curve={step: -each for step, each in ending.curve.items()})


@dataclass(frozen=True)
class Asked:
    """What the next `size` trials of a search follow from. Told apart by its `text`, since settings and curves cannot
    be hashed."""

    text: str
    search: Search = field(compare=False)
    steps: int = field(compare=False)
    known: list[Tried] = field(compare=False)
    size: int = field(compare=False)


def _suggested(search: Search, steps: int, known: list[Tried], size: int) -> list[dict[str, Any]]:
    """What the next `size` trials are given."""
    return _made(Asked(f"{search.model_dump_json()} {steps} {known} {size}", search, steps, known, size))


@lru_cache(maxsize=4096)
def _made(asked: Asked) -> list[dict[str, Any]]:
    """Remembered, since it is asked for again whenever something has ended; as many rounds as the largest searches have
    over all arms."""
    study = _study(asked.search, asked.steps, asked.known)
    return [study.ask(fixed_distributions=_space(asked.search)).params for _ in range(asked.size)]


def _study(search: Search, steps: int, known: list[Tried]) -> optuna.Study:
    """An Optuna study in memory that has seen the earlier trials, in their order."""
    # The first points are alike in every arm: the seed does not depend on it.
    sampler = _sampler(search, key("search", search.seed, len(known)) % 2**32)
    # Of several rungs and brackets, those of a trial depend on the study's name.
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=_pruner(search, steps), study_name="s")
    space = _space(search)
    for given, ending in known:
        study.enqueue_trial(given)
        trial = study.ask(fixed_distributions=space)
        _reported(study, trial.number, ending.curve)
        if ending.outcome == "finished" and ending.value is not None:
            study.tell(trial, ending.value)
        else:
            study.tell(trial, state=TrialState.PRUNED if ending.curve else TrialState.FAIL)
    return study


def _reported(study: optuna.Study, number: int, curve: Mapping[int, float]) -> bool:
    """Reports a curve to a running trial; whether it should be pruned after its last point."""
    stops = False
    for step, value in sorted(curve.items()):
        trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        study._storage.set_trial_intermediate_value(trial_id, step, value)
        frozen: FrozenTrial = study._storage.get_trial(trial_id)
        stops = study.pruner.prune(study, frozen)
    return stops


def _space(search: Search) -> dict[str, BaseDistribution]:
    return {name: _distribution(levels) for name, levels in search.settings.items()}


def _distribution(levels: Range | list[Any]) -> BaseDistribution:
    if isinstance(levels, list):
        return CategoricalDistribution(levels)
    if isinstance(levels.low, int) and isinstance(levels.high, int):
        return IntDistribution(levels.low, levels.high, log=levels.log)
    return FloatDistribution(float(levels.low), float(levels.high), log=levels.log)


def _sampler(search: Search, seed: int) -> BaseSampler:
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    if search.sampler == "gp":
        return GPSampler(seed=seed, n_startup_trials=search.batch)
    return TPESampler(seed=seed, n_startup_trials=search.batch, constant_liar=True, multivariate=True)


def _pruner(search: Search, steps: int) -> BasePruner:
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=min(search.batch, 4))
    if search.pruner == "hyperband":
        return HyperbandPruner(min_resource=max(1, steps // 9), max_resource=steps, reduction_factor=3)
    return NopPruner()
