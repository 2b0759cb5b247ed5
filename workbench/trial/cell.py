"""A cell: one trial to run, identified by the hash of its resolved configuration. And its ending."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from workbench.config.schema import Experiment, Settings
from workbench.config.settings import apply, dotted_keys, telling
from workbench.events import Outcome
from workbench.randomness import key


@dataclass(frozen=True)
class Cell:
    """One trial to run. `values` are its factor levels, `key` the hash of everything that decides its result. `arm` is
    the readable label of its arm, such as `hard_ratio=0.5`; `label` is the same, plus the number of a search trial."""

    values: dict[str, Any]
    seed: int
    settings: Settings
    key: str
    label: str
    arm: str
    searching: int | None = None  # its number in the search of its arm; None for a trial that the answer rests on

    @property
    def name(self) -> str:
        return f"{self.label} · seed {self.seed}"


@dataclass(frozen=True)
class Ending:
    """How a cell ended. `value` is the primary metric, for a search trial on the validation split; None where it
    diverged. `curve` is the primary metric on the validation split: step -> value."""

    run_id: str
    outcome: Outcome
    value: float | None
    curve: dict[int, float]


def arm_label(values: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Returns a readable label of factor levels: the last part of each key and its level. Where several settings share
    the last part, such as `weight`, it uses the last two parts. Of more than two levels, it shows those that differ
    from the baseline's."""
    if len(values) > 2:
        values = {name: level for name, level in values.items() if level != baseline.get(name)}
        if not values:
            return "baseline"
    ends = Counter(dotted.rsplit(".", 1)[-1] for dotted in dotted_keys())

    def short(dotted: str) -> str:
        parts = dotted.split(".")
        return ".".join(parts[-2:] if ends[parts[-1]] > 1 else parts[-1:])

    return ", ".join(f"{short(dotted)}={level}" for dotted, level in values.items()) or "all fixed"


def make_cell(experiment: Experiment, values: dict[str, Any], seed: int) -> Cell:
    settings = apply(experiment.settings, values)
    label = arm_label(values, experiment.baseline)
    return Cell(values, seed, settings, cell_key(settings_key(settings), seed), label, label)


def cell_key(settings: str, seed: int) -> str:
    """Returns the key of a cell from the hash of its settings and its seed."""
    return f"{key('cell', settings, seed):016x}"


def settings_key(settings: Settings) -> str:
    """Returns a hash of the settings that can change a result."""
    return f"{key('settings', telling(settings)):016x}"
