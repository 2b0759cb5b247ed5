"""The description of a sweep in its MLflow run: the record for the report, and a note for readers."""

from pathlib import Path
from typing import Any

from workbench.config.schema import Experiment
from workbench.record import VERSION, SweepRecord, Tuned
from workbench.sweep.search import Plan, search_of
from workbench.trial.cell import Ending, arm_label


def sweep_record(experiment: Experiment, plan: Plan, endings: dict[str, Ending], is_smoke: bool) -> SweepRecord:
    """Returns the record of a sweep that the report needs."""
    labels = [arm_label(arm, experiment.baseline) for arm in experiment.arms]  # the baseline comes first
    return SweepRecord(
        version=VERSION,
        name=experiment.name,
        question=experiment.question,
        preset=experiment.preset,
        settings=experiment.settings.model_dump(mode="json"),
        arms=labels,
        baseline_arm=labels[0],
        arm_values=dict(zip(labels, experiment.arms, strict=True)),
        cells={cell.key: cell.arm for cell in plan.cells if cell.searching is None},
        planned=_compared(experiment, plan),
        seeds=experiment.seeds,
        search=experiment.search,
        tuned=[_tuned(experiment, arm, endings) for arm in experiment.arms] if experiment.search else [],
        target=experiment.target,
        primary=experiment.primary,
        margin=experiment.margin,
        smoke=is_smoke,
    )


def _compared(experiment: Experiment, plan: Plan) -> int:
    """Returns the number of trials that the answer rests on. An arm without any finished search trial has none."""
    if plan.whole:
        return sum(cell.searching is None for cell in plan.cells)
    return len(experiment.arms) * experiment.seeds.count


def _tuned(experiment: Experiment, arm: dict[str, Any], endings: dict[str, Ending]) -> Tuned:
    search = search_of(experiment, arm, endings)
    ended = [ending.outcome for *_, ending in search.tried if ending is not None]
    value = next(
        (e.value for _, settings, e in search.tried if e and settings == search.best and e.outcome == "finished"), None
    )
    return Tuned(
        arm=arm_label(arm, experiment.baseline),
        tried=len(ended),
        pruned=ended.count("pruned"),
        diverged=ended.count("diverged"),
        best=search.best,
        value=value,
    )


def whole_blocks(plan: Plan, endings: dict[str, Ending]) -> set[int]:
    """Returns the seeds for which all cells have ended."""
    compared = [cell for cell in plan.cells if cell.searching is None]
    return {cell.seed for cell in compared} - {cell.seed for cell in compared if cell.key not in endings}


def note(page: Path) -> str:
    """Returns the report's answer and first tables, as the description of the sweep's run in MLflow."""
    text = page.with_suffix(".md").read_text(encoding="utf-8").partition("\n![")[0]
    title, _, rest = text.partition("\n")
    shown = rest if len(rest) <= 6000 else rest[:6000].rpartition("\n\n")[0]
    # Bold instead of a heading, because the lines of a long heading overlap in the MLflow UI.
    return f"**{title.removeprefix('# ')}**\n{shown}\n\nThe whole report is under artifacts: `report/{page.name}`."
