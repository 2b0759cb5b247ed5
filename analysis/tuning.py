"""The results of a search, and the importance of the tuned settings. Based on Optuna."""

import json
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from analysis.runs import Runs
from analysis.section import Plot, Row, Section, Table
from analysis.style import STYLE, colour_of, legend
from analysis.wording import number, short
from workbench.config.schema import Range
from workbench.metrics import lower_is_better, metric, on_validation

IMPORTANCE = {"arm": pl.String, "setting": pl.String, "importance": pl.Float64, "trials": pl.Int64}
FEWEST = 4  # minimum number of finished trials of an arm for an importance


CAPTION = (
    "The share of the variance of the tuned metric over each arm's search that a setting explains (fANOVA, Hutter et"
    " al. 2014)."
)


def section(runs: Runs) -> Section | None:
    """Returns what each arm's search tried and selected, and the importance of the settings."""
    search = runs.record.search
    if search is None or not runs.record.tuned:
        return None
    frame = importances(runs)
    name = on_validation(runs.record.primary)
    lead = (
        f"Each arm was tuned with the same budget of {search.trials} trials ({search.sampler}, pruner: {search.pruner},"
        f" seed {search.seed}) on the validation split, then run with fresh seeds; only these are"
        " used for the answer."
    )
    rows = [
        Row([arm.arm, str(arm.tried), str(arm.pruned), str(arm.diverged), _best(arm.best), number(arm.value)])
        for arm in runs.record.tuned
    ]
    heads = ("arm", "trials", "pruned", "diverged", "best setting", f"its {metric(name).title}")
    plots = [Plot("importances", CAPTION, importance_figure(frame, runs.arms))] if frame.height else []
    return Section(
        "tuning",
        "Tuning",
        [lead],
        tables=[Table("Searches", heads, rows)],
        plots=plots,
        split="validation",
        frames={"importances": frame},
    )


def _best(best: dict[str, Any] | None) -> str:
    levels = [
        f"{short(name)}={value:.3g}" if isinstance(value, float) else f"{short(name)}={value}"
        for name, value in (best or {}).items()
    ]
    return ", ".join(levels) or "none yet"


def importances(runs: Runs) -> pl.DataFrame:
    """Returns one row per arm and tuned setting: the share of the variance of the primary metric over the arm's search
    that the setting explains (fANOVA, Hutter et al. 2014). Pruned and diverged trials are left out, since they have no
    final value."""
    search = runs.record.search
    rows = []
    for (arm,), trials in runs.searched.group_by("arm", maintain_order=True):
        if search is not None and len(trials) >= FEWEST:
            shares = _importances(search.settings, trials, on_validation(runs.record.primary))
            rows += [(arm, setting, share, len(trials)) for setting, share in shares.items()]
    return pl.DataFrame(rows, schema=IMPORTANCE, orient="row")


def _importances(ranges: dict[str, Range | list[Any]], trials: pl.DataFrame, primary: str) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if lower_is_better(primary) else "maximize")
    spaces = {name: _distribution(levels) for name, levels in ranges.items()}
    for text_of_settings, score in trials.select("settings", "score").iter_rows():
        logged = json.loads(text_of_settings).items()
        params = {name: _level(spaces[name], text) for name, text in logged if name in spaces}
        if len(params) == len(spaces):
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=score))
    values = {trial.value for trial in study.trials}
    if len(study.trials) < FEWEST or len(values) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(levels: Range | list[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(levels, list):
        return CategoricalDistribution(levels)
    if isinstance(levels.low, int) and isinstance(levels.high, int):
        return IntDistribution(levels.low, levels.high, log=levels.log)
    return FloatDistribution(levels.low, levels.high, log=levels.log)


def _level(space: Any, text: str) -> Any:
    """Returns a level, which was logged as text, as a value of its space."""
    if hasattr(space, "choices"):
        return next((choice for choice in space.choices if str(choice) == text), space.choices[0])
    return int(text) if isinstance(space.low, int) else float(text)


def importance_figure(table: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Draws the share of the variance over each arm's search that each tuned setting explains."""
    settings = table["setting"].unique().sort().to_list()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 1.2 + 0.45 * len(settings)))
        shown = [arm for arm in arms if arm in table["arm"].to_list()]
        for index, arm in enumerate(shown):
            colour, _ = colour_of(arms, arm)
            part = table.filter(pl.col("arm") == arm)
            height = 0.8 / len(shown)
            at = [settings.index(name) + (index - (len(shown) - 1) / 2) * height for name in part["setting"]]
            axis.barh(at, part["importance"], height * 0.9, color=colour, label=arm)
        axis.set_yticks(range(len(settings)), [short(name) for name in settings])
        axis.set_xlim(0, 1)
        axis.set_xlabel("share of the variance explained")
        legend(figure, axis, most=3)
        return figure
