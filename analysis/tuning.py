"""Which of the settings that a search tuned mattered: runs in, frames out. The mathematics is Optuna's."""

import json
from typing import Any

import polars as pl

from analysis.runs import Runs
from workbench.config.schema import lower_is_better

IMPORTANCE = {"arm": pl.String, "setting": pl.String, "importance": pl.Float64, "trials": pl.Int64}
FEWEST = 4  # finished trials of an arm, below which an importance says nothing


def importances(runs: Runs) -> pl.DataFrame:
    """A row an arm and tuned setting: the share of the variance of the primary metric over the arm's search that the setting explains (fANOVA,
    Hutter et al. 2014). Pruned and diverged trials are left out, having no final value."""
    search: dict[str, Any] = runs.experiment.get("search") or {}
    rows = []
    for (arm,), trials in runs.searched.group_by("arm", maintain_order=True):
        if search and len(trials) >= FEWEST:
            found = _importances(search["settings"], trials, str(runs.experiment.get("primary", "")))
            rows += [(arm, setting, share, len(trials)) for setting, share in found.items()]
    return pl.DataFrame(rows, schema=IMPORTANCE, orient="row")


def _importances(ranges: dict[str, Any], trials: pl.DataFrame, primary: str) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if lower_is_better(primary) else "maximize")
    spaces = {name: _distribution(given) for name, given in ranges.items()}
    for told, score in trials.select("settings", "score").iter_rows():
        given = {name: _level(spaces[name], text) for name, text in json.loads(told).items() if name in spaces}
        if len(given) == len(spaces):
            study.add_trial(optuna.trial.create_trial(params=given, distributions=spaces, value=score))
    values = {trial.value for trial in study.trials}
    if len(study.trials) < FEWEST or len(values) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(given: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(given, list):
        return CategoricalDistribution(given)
    whole = all(isinstance(given[end], int) for end in ("low", "high"))
    kind = IntDistribution if whole else FloatDistribution
    return kind(given["low"], given["high"], log=bool(given.get("log")))


def _level(space: Any, text: str) -> Any:
    """A level as it was logged, which is as text, back in its space."""
    if hasattr(space, "choices"):
        return next((choice for choice in space.choices if str(choice) == text), space.choices[0])
    return int(text) if isinstance(space.low, int) else float(text)
