"""Factors x levels x seeds -> cells, each keyed by the hash of its resolved configuration."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from workbench.config.load import apply, dotted_keys
from workbench.config.schema import IRRELEVANT, Experiment, Settings
from workbench.randomness import key

TINY_WIDTH = 128
# What stands for a large model in a smoke run: one of the same form, without weights and words to fetch.
SMALL_MODEL: dict[str, Any] = {
    "data.image_size": 64,
    "data.tokeniser": None,
    "model.width": 64,
    "model.vision.name": "test_vit",
    "model.vision.tokens": "final",
    "model.vision.stage": 0,
    "model.vision.pretrained": False,
    "model.vision.weights": None,
    "model.image_positions": False,
    "model.text.layers": 2,
    "model.text.heads": 4,
    "model.text.weights": None,
    "model.fusion.layers": 2,
    "model.fusion.heads": 4,
    "optimisation.compile": False,
}


@dataclass(frozen=True)
class Cell:
    """One trial to run: `values` are its factor levels, `key` the hash of all that decides its result, `arm` the levels of its arm as
    people read them, such as `hard_ratio=0.5`; `label` is the same, with its number where it is a trial of a search."""

    values: dict[str, Any]
    seed: int
    settings: Settings
    key: str
    label: str
    arm: str
    searching: int | None = None  # its number within the search of its arm; None for a trial that the answer rests on

    @property
    def name(self) -> str:
        return f"{self.label} · seed {self.seed}"


def arm_label(values: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Factor levels as people read them: the last part of each key and its level; where several settings end alike,
    such as `weight`, the last two parts. Of more than two, those that differ from the baseline's."""
    if len(values) > 2:
        values = {name: level for name, level in values.items() if level != baseline.get(name)}
        if not values:
            return "baseline"
    ends = Counter(dotted.rsplit(".", 1)[-1] for dotted in dotted_keys())

    def short(dotted: str) -> str:
        parts = dotted.split(".")
        return ".".join(parts[-2:] if ends[parts[-1]] > 1 else parts[-1:])

    return ", ".join(f"{short(dotted)}={level}" for dotted, level in values.items()) or "all fixed"


def expand(experiment: Experiment) -> list[Cell]:
    """Every arm for every seed, seed by seed, the baseline first in each block."""
    first = experiment.seeds.first
    # The settings of an arm are made and hashed once, and not for each seed anew.
    arms = [make_cell(experiment, arm, first) for arm in experiment.arms]
    hashes = [settings_key(cell.settings) for cell in arms]
    return [
        replace(cell, seed=seed, key=_cell_key(known, seed))
        for seed in range(first, first + experiment.seeds.count)
        for cell, known in zip(arms, hashes, strict=True)
    ]


def make_cell(experiment: Experiment, values: dict[str, Any], seed: int) -> Cell:
    settings = apply(experiment.settings, values)
    label = arm_label(values, experiment.baseline)
    return Cell(values, seed, settings, _cell_key(settings_key(settings), seed), label, label)


def _cell_key(settings: str, seed: int) -> str:
    return f"{key('cell', settings, seed):016x}"


def settings_key(settings: Settings) -> str:
    """A hash of the settings that can change a result."""
    return f"{key('settings', settings.model_dump_json(exclude=IRRELEVANT)):016x}"


def differences(one: Experiment, other: Experiment) -> list[str]:
    """What keeps the cells of two experiments from being compared in one study, each as a phrase; levels, seeds and further factors do
    not, nor how the question is worded."""
    free = {
        *one.factors,
        *other.factors,
        *(one.search.settings if one.search else ()),
        *(other.search.settings if other.search else ()),
    }
    here, there = (_flat(each.settings.model_dump(exclude=IRRELEVANT)) for each in (one, other))
    found = [
        f"`{name}` is {here.get(name)} here and {there.get(name)} there"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name) and name not in free
    ]
    if one.primary != other.primary:
        found.append(f"`primary` is {one.primary} here and {other.primary} there")
    if _rules(one) != _rules(other):
        found.append("`search` is another one")
    return found


def _rules(experiment: Experiment) -> dict[str, Any] | None:
    return experiment.search.model_dump(exclude={"trials"}) if experiment.search else None


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def smoke(experiment: Experiment) -> Experiment:
    """The same experiment shrunk to seconds: the whole path runs, the numbers mean nothing."""
    small: dict[str, Any] = {
        "data.train_pairs": 256,
        "data.eval_pairs": 48,
        "warm_start.steps": 8,
        "warm_start.batch_size": 16,
        "optimisation.steps": 6,
        "optimisation.batch_size": 16,
        "optimisation.checkpoint_every": 3,
        "evaluation.every": 3,
        "evaluation.pairs": 32,
        "evaluation.final_pairs": 32,
        "evaluation.robustness_pairs": 8,
    }
    seeds = experiment.seeds.model_copy(update={"count": min(2, experiment.seeds.count)})
    search = experiment.search and experiment.search.model_copy(update={"trials": 2, "batch": 2})
    settings = experiment.settings
    if settings.model.width > TINY_WIDTH:
        small |= SMALL_MODEL | {"optimisation.micro_batches": min(2, settings.optimisation.micro_batches)}
    return experiment.model_copy(
        update={
            "settings": apply(settings, small),
            "seeds": seeds,
            "search": search,
            "name": f"{experiment.name}-smoke",
        }
    )
