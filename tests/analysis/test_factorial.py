"""Main effects and interactions: by hand, and against statsmodels' mixed model."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.factorial import crossed, effects, sentences
from analysis.runs import Runs
from tests.analysis.toy import toy_runs

SOFT, RATIO = "objectives.mlm.soft_labels", "objectives.itm.hard_ratio"


def runs_of(values: dict[tuple[str, float], list[float]], leave: int = 0) -> Runs:
    arms = {f"{soft}, {ratio}": {SOFT: soft, RATIO: ratio} for soft, ratio in list(values)[leave:]}
    return toy_runs(arms, 6, lambda at, seed: values[at[SOFT], at[RATIO]][seed])


@pytest.fixture(scope="module")
def values() -> dict[tuple[str, float], list[float]]:
    rng = np.random.default_rng(0)
    means = {("none", 0.0): 0.5, ("none", 1.0): 0.6, ("frozen", 0.0): 0.55, ("frozen", 1.0): 0.75}
    seeds = rng.normal(0, 0.02, 6)
    return {cell: list(mean + seeds + rng.normal(0, 0.01, 6)) for cell, mean in means.items()}


def test_effects_by_hand(values: dict[tuple[str, float], list[float]]) -> None:
    by_effect = {row["effect"]: row for row in effects(runs_of(values), "val/itm_auc").iter_rows(named=True)}
    a, b, c, d = (np.array(values[cell]) for cell in values)
    assert by_effect["soft labels=frozen"]["difference"] == pytest.approx(np.mean((c + d - a - b) / 2))
    assert by_effect["hard ratio=1.0"]["difference"] == pytest.approx(np.mean((b + d - a - c) / 2))
    both = by_effect.get("hard ratio=1.0 × soft labels=frozen")
    both = both or by_effect["soft labels=frozen × hard ratio=1.0"]
    assert both["difference"] == pytest.approx(np.mean(d - b - c + a))
    assert both["low"] < both["difference"] < both["high"]
    assert both["p"] == pytest.approx(2 / 64)
    assert by_effect["hard ratio=1.0"]["p_adjusted"] == pytest.approx(2 / 64)


def test_estimates_are_those_of_a_mixed_model(values: dict[tuple[str, float], list[float]]) -> None:
    import statsmodels.formula.api as smf

    runs = runs_of(values)
    rows = [
        {"y": y, "soft": 1.0 * (soft == "frozen") - 0.5, "ratio": ratio - 0.5, "seed": seed}
        for (soft, ratio), seeds in values.items()
        for seed, y in enumerate(seeds)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    model = smf.mixedlm("y ~ soft * ratio", columns, groups=np.array(columns["seed"])).fit()
    estimates = effects(runs, "val/itm_auc")
    ours = dict(zip(estimates["effect"], estimates["difference"], strict=True))
    assert ours["soft labels=frozen"] == pytest.approx(model.params["soft"], abs=1e-6)
    assert ours["hard ratio=1.0"] == pytest.approx(model.params["ratio"], abs=1e-6)
    assert estimates.filter(kind="interaction")["difference"].item() == pytest.approx(
        model.params["soft:ratio"], abs=1e-6
    )


def test_a_grid_with_a_hole_has_no_effects(values: dict[tuple[str, float], list[float]]) -> None:
    runs = runs_of(values, leave=1)
    assert crossed(runs) == {}
    assert effects(runs, "val/itm_auc").is_empty()


def test_no_interaction_is_said_only_where_a_larger_one_is_excluded() -> None:
    rng = np.random.default_rng(1)
    cells = {("none", 0.0): 0.5, ("none", 1.0): 0.6, ("frozen", 0.0): 0.55, ("frozen", 1.0): 0.65}
    for noise, said in ((0.001, "larger than 2.0 points is excluded"), (0.03, "is undecided")):
        runs = runs_of({cell: list(mean + rng.normal(0, noise, 6)) for cell, mean in cells.items()})
        runs = replace(runs, record=runs.record.model_copy(update={"margin": 0.02}))
        told = sentences(effects(runs, "val/itm_auc"), 0.02, "val/itm_auc")
        assert len(told) == 1
        assert said in told[0]
    three = runs_of({cell: list(mean + rng.normal(0, 0.001, 6)) for cell, mean in cells.items()})
    three = replace(three, trials=three.trials.filter(pl.col("seed") < 3))
    assert "too few seeds" in sentences(effects(three, "val/itm_auc"), 0.02, "val/itm_auc")[0]
