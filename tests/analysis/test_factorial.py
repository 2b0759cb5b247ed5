"""Main effects and interactions: by hand, and against statsmodels' mixed model."""

import numpy as np
import pytest

from analysis.factorial import crossed, effects
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
    found = {row["effect"]: row for row in effects(runs_of(values), "val/itm_auc").iter_rows(named=True)}
    a, b, c, d = (np.array(values[cell]) for cell in values)
    assert found["soft_labels=frozen"]["difference"] == pytest.approx(np.mean((c + d - a - b) / 2))
    assert found["hard_ratio=1.0"]["difference"] == pytest.approx(np.mean((b + d - a - c) / 2))
    both = found.get("hard_ratio=1.0 × soft_labels=frozen")
    both = both or found["soft_labels=frozen × hard_ratio=1.0"]
    assert both["difference"] == pytest.approx(np.mean(d - b - c + a))
    assert both["low"] < both["difference"] < both["high"]
    assert both["p"] == pytest.approx(2 / 64)
    assert found["hard_ratio=1.0"]["p_holm"] == pytest.approx(4 / 64)


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
    found = effects(runs, "val/itm_auc")
    ours = dict(zip(found["effect"], found["difference"], strict=True))
    assert ours["soft_labels=frozen"] == pytest.approx(model.params["soft"], abs=1e-6)
    assert ours["hard_ratio=1.0"] == pytest.approx(model.params["ratio"], abs=1e-6)
    assert found.filter(kind="interaction")["difference"].item() == pytest.approx(model.params["soft:ratio"], abs=1e-6)


def test_a_grid_with_a_hole_has_no_effects(values: dict[tuple[str, float], list[float]]) -> None:
    runs = runs_of(values, leave=1)
    assert crossed(runs) == {}
    assert effects(runs, "val/itm_auc").is_empty()
