"""Tunes nuisance settings before the comparison: the same budget for each arm, then fresh seeds for its best setting.

The trials of a search depend only on the experiment and on how earlier trials ended. Each worker computes them itself
and gets the same result, for any number of workers and after any stop. To achieve this, suggestions are made in rounds
of `batch` trials that use only earlier rounds, and pruning compares a trial only with earlier rounds.
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

Tried = tuple[dict[str, Any], Ending]  # the settings of a search trial, and its ending


@dataclass(frozen=True)
class Plan:
    """The cells that are known so far, in the order of work. `whole`: no more will be added. `total`: the final number
    of cells."""

    cells: list[Cell]
    whole: bool
    total: int


@dataclass(frozen=True)
class ArmSearch:
    """The search of an arm: its trials `tried` in order. `best` is None while the search is running, or where no trial
    finished."""

    arm: dict[str, Any]
    tried: list[tuple[Cell, dict[str, Any], Ending | None]]
    best: dict[str, Any] | None

    @property
    def over(self) -> bool:
        """Whether all trials have ended. No more are suggested before that."""
        return None not in [ending for *_, ending in self.tried]


@dataclass(frozen=True)
class _Arm:
    """An arm with its search, and the cells that confirm its best setting; none before the search is over."""

    search: ArmSearch
    confirming: list[Cell]

    def moved(self, endings: Mapping[str, Ending]) -> bool:
        """Returns whether one of its trials has ended since."""
        return any(ending is None and cell.key in endings for cell, _, ending in self.search.tried)


def planned(experiment: Experiment, endings: Mapping[str, Ending]) -> Plan:
    """Returns the cells of a grid. For a search, these are its trials as far as they are determined by now, then the
    confirming ones. An arm without any finished search trial has no confirming cells."""
    return Planner()(experiment, endings)


class Planner:
    """Computes `planned` repeatedly while a study runs, and recomputes only what may have changed. Cells that have
    ended must not become open again."""

    def __init__(self) -> None:
        self.experiment: Experiment | None = None
        self.known = -1  # number of ended cells at the last call
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
            self.arms = [_arm(experiment, arm.search.arm, endings) if arm.moved(endings) else arm for arm in self.arms]
            self.plan = _together(experiment, self.arms)
        return self.plan


def _arm(experiment: Experiment, arm: dict[str, Any], endings: Mapping[str, Ending]) -> _Arm:
    search = search_of(experiment, arm, endings)
    first, count = experiment.seeds.first, experiment.seeds.count
    seeds = range(first, first + count) if search.best is not None else ()
    return _Arm(search, [confirming_cell(experiment, search, seed) for seed in seeds])


def _together(experiment: Experiment, arms: list[_Arm]) -> Plan:
    """Returns the plan of a search: the search trials of all arms, then the confirming cells, seed by seed."""
    assert experiment.search is not None
    searching = [cell for arm in arms for cell, _, _ in arm.search.tried]
    blocks = zip(*(arm.confirming for arm in arms if arm.confirming), strict=True)
    distinct = list({cell.key: cell for cell in [*searching, *(cell for block in blocks for cell in block)]}.values())
    running = [arm.search for arm in arms if not arm.search.over]
    to_come = [experiment.search.trials - len(search.tried) + experiment.seeds.count for search in running]
    return Plan(distinct, not running, len(distinct) + sum(to_come))


def confirming_cell(experiment: Experiment, search: ArmSearch, seed: int) -> Cell:
    """Returns the cell of an arm's best setting with a fresh seed."""
    assert search.best is not None
    label = arm_label(search.arm, experiment.baseline)
    return replace(make_cell(experiment, search.arm | search.best, seed), label=label, arm=label)


def search_of(experiment: Experiment, arm: dict[str, Any], endings: Mapping[str, Ending]) -> ArmSearch:
    """Returns the search of an arm as far as it is determined by the cells that have ended."""
    search = experiment.search
    assert search is not None
    label = arm_label(arm, experiment.baseline)
    tried: list[tuple[Cell, dict[str, Any], Ending | None]] = []
    while len(tried) < search.trials and all(ending is not None for *_, ending in tried):
        known = [(values, _upwards(experiment, ending)) for _, values, ending in tried if ending is not None]
        size = min(search.batch, search.trials - len(tried))
        for values in _suggested(search, experiment.settings.optimisation.steps, known, size):
            cell = make_cell(experiment, arm | values, search.seed)
            number = len(tried)
            cell = replace(cell, label=f"{label} · search {number + 1}", arm=label, searching=number)
            tried.append((cell, values, endings.get(cell.key)))
    all_ended = [(values, _upwards(experiment, e)) for _, values, e in tried if e is not None]
    ended = [(values, e) for values, e in all_ended if e.outcome == "finished" and e.value is not None]
    over = len(tried) == search.trials and all(ending is not None for *_, ending in tried)
    best = max(ended, key=lambda trial: trial[1].value or 0.0)[0] if over and ended else None  # the first of equals
    return ArmSearch(arm, tried, best)


def course_metric(experiment: Experiment) -> str:
    """Returns the metric by which search trials are pruned and selected: the primary metric on the validation split, so
    that no search ever uses the test split."""
    return on_validation(experiment.primary)


def value_metric(experiment: Experiment, cell: Cell) -> str:
    """Returns the metric whose last value is a trial's value: the primary metric, for a search trial on the validation
    split."""
    return experiment.primary if cell.searching is None else course_metric(experiment)


def goal_of(experiment: Experiment, cell: Cell, endings: Mapping[str, Ending]) -> Goal:
    """Returns what a trial is judged by. `endings`: how others had ended when it was claimed. Pruning uses only earlier
    rounds, which have all ended by then."""
    goal = Goal(value_metric(experiment, cell), course_metric(experiment))
    if cell.searching is None:
        return goal
    return replace(goal, poor=partial(pruned_by, experiment, cell, dict(endings)))


def pruned_by(experiment: Experiment, cell: Cell, endings: Mapping[str, Ending], curve: Mapping[int, float]) -> bool:
    """Returns whether a search trial should be pruned after `curve` (step -> `course_metric`). Confirming trials are
    never pruned."""
    search = experiment.search
    if search is None or cell.searching is None or search.pruner == "none":
        return False
    arm = {name: cell.values[name] for name in experiment.factors}
    tried = search_of(experiment, arm, endings).tried[: cell.searching // search.batch * search.batch]
    known = [(values, _upwards(experiment, ending)) for _, values, ending in tried if ending is not None]
    study = _study(search, experiment.settings.optimisation.steps, known)
    trial = study.ask(fixed_distributions=_space(search))
    turned = _upwards(experiment, Ending("", "pruned", None, dict(curve)))
    return _reported(study, trial.number, turned.curve)


def _upwards(experiment: Experiment, ending: Ending) -> Ending:
    """Returns the ending with its sign changed if needed, so that higher is better."""
    if not lower_is_better(course_metric(experiment)):
        return ending
    value = None if ending.value is None else -ending.value
    return replace(ending, value=value, curve={step: -height for step, height in ending.curve.items()})


@dataclass(frozen=True)
class _Request:
    """The inputs that determine the next `size` trials of a search. Compared by its `text`, since settings and curves
    cannot be hashed."""

    text: str
    search: Search = field(compare=False)
    steps: int = field(compare=False)
    known: list[Tried] = field(compare=False)
    size: int = field(compare=False)


def _suggested(search: Search, steps: int, known: list[Tried], size: int) -> list[dict[str, Any]]:
    """Returns the settings of the next `size` trials."""
    return _drawn(_Request(f"{search.model_dump_json()} {steps} {known} {size}", search, steps, known, size))


@lru_cache(maxsize=4096)
def _drawn(request: _Request) -> list[dict[str, Any]]:
    """Returns suggested settings. They are cached, since they are requested again whenever a trial has ended; the cache
    holds as many rounds as the largest searches have over all arms."""
    study = _study(request.search, request.steps, request.known)
    return [study.ask(fixed_distributions=_space(request.search)).params for _ in range(request.size)]


def _study(search: Search, steps: int, known: list[Tried]) -> optuna.Study:
    """Returns an in-memory Optuna study with the earlier trials, in their order."""
    # The first points are the same in every arm: the seed does not depend on the arm.
    sampler = _sampler(search, key("search", search.seed, len(known)) % 2**32)
    # The rungs and brackets of a trial depend on the study's name.
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=_pruner(search, steps), study_name="s")
    space = _space(search)
    for values, ending in known:
        study.enqueue_trial(values)
        trial = study.ask(fixed_distributions=space)
        _reported(study, trial.number, ending.curve)
        if ending.outcome == "finished" and ending.value is not None:
            study.tell(trial, ending.value)
        else:
            study.tell(trial, state=TrialState.PRUNED if ending.curve else TrialState.FAIL)
    return study


def _reported(study: optuna.Study, number: int, curve: Mapping[int, float]) -> bool:
    """Reports a curve to a running trial. Returns whether it should be pruned after the last point."""
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
