"""Expands factors x levels x seeds into cells, compares two grids, and shrinks a grid for a smoke test."""

from dataclasses import replace
from typing import Any

from workbench.config.schema import IRRELEVANT, Experiment
from workbench.config.settings import apply
from workbench.trial.cell import Cell, cell_key, make_cell, settings_key

TINY_WIDTH = 128
# Replaces a large model in a smoke run: the same architecture, without weights or tokenisers to download.
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


def expand(experiment: Experiment) -> list[Cell]:
    """Returns the cells of all arms and seeds, seed by seed, the baseline first in each block."""
    first = experiment.seeds.first
    # The settings of an arm are built and hashed only once, not for each seed.
    arms = [make_cell(experiment, arm, first) for arm in experiment.arms]
    hashes = [settings_key(cell.settings) for cell in arms]
    return [
        replace(cell, seed=seed, key=cell_key(known, seed))
        for seed in range(first, first + experiment.seeds.count)
        for cell, known in zip(arms, hashes, strict=True)
    ]


def differences(one: Experiment, other: Experiment) -> list[str]:
    """Returns phrases on why the cells of two experiments cannot be compared in one study. Levels, seeds, further
    factors and the wording of the question do not matter."""
    free = {
        *one.factors,
        *other.factors,
        *(one.search.settings if one.search else ()),
        *(other.search.settings if other.search else ()),
    }
    here, there = (_flat(grid.settings.model_dump(exclude=IRRELEVANT)) for grid in (one, other))
    phrases = [
        f"`{name}` is {_told(here.get(name))} here and {_told(there.get(name))} there"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name) and name not in free
    ]
    if one.primary != other.primary:
        phrases.append(f"`primary` is {one.primary} here and {other.primary} there")
    if _rules(one) != _rules(other):
        phrases.append("`search` differs")
    return phrases


def _told(value: object) -> object:
    return "not set" if value is None else value


def contains(one: Experiment, other: Experiment) -> bool:
    """Returns whether one of two grids has all arms of the other, compared by their resolved settings."""
    here, there = ({settings_key(apply(grid.settings, arm)) for arm in grid.arms} for grid in (one, other))
    return here <= there or there <= here


def _rules(experiment: Experiment) -> dict[str, Any] | None:
    return experiment.search.model_dump(exclude={"trials"}) if experiment.search else None


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def smoke(experiment: Experiment) -> Experiment:
    """Returns the experiment shrunk to run in seconds: all steps run, but the numbers mean nothing."""
    small: dict[str, Any] = {
        "data.train_pairs": 256,
        "warm_start.fusion": (),
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
