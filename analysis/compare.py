"""Merges several sweeps into one, so that every table and figure compares their arms."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from analysis.convergence import target_value
from analysis.runs import Runs
from analysis.section import Row, Section, Table
from workbench.config.schema import Target, flattened
from workbench.errors import UserError
from workbench.record import SweepRecord

Differences = list[tuple[str, list[str]]]  # (setting, its value in each sweep)


def merged(sweeps: Sequence[Runs]) -> Runs:
    """Returns the trials of all sweeps, each arm prefixed with its sweep's name, with the first sweep's baseline,
    primary metric and target. An arm whose cells an earlier sweep also has is left out of the later one: it is the same
    arm and no contrast of the family.

    Raises UserError where a sweep is given twice, or lacks the first sweep's primary metric.
    """
    first = sweeps[0]
    if len({sweep.run_id for sweep in sweeps}) < len(sweeps):
        raise UserError("--compare: the same run is named twice; name each sweep once.")
    primary = first.record.primary
    for sweep in sweeps:
        if sweep.final(primary).is_empty():
            raise UserError(f"--compare {sweep.run_id}: it has no {primary}, which the first sweep is about.")
    names = titles(sweeps)
    sweeps = _without_repeats(sweeps)
    labelled = [[f"{name}: {arm}" for arm in sweep.arms] for name, sweep in zip(names, sweeps, strict=True)]
    metric, target = target_value(first)
    about = SweepRecord(
        version=min(sweep.record.version for sweep in sweeps),
        question=f"How do {', '.join(names[:-1])} and {names[-1]} differ?",
        preset=first.record.preset,
        arms=[arm for arms in labelled for arm in arms],
        baseline_arm=f"{names[0]}: {first.baseline}",
        primary=primary,
        target=Target(metric=metric, value=target),
        margin=first.record.margin,
        smoke=any(sweep.record.smoke for sweep in sweeps),
        settings=first.record.settings,
    )
    trials = pl.concat(
        [
            sweep.trials.with_columns(arm=pl.format("{}: {}", pl.lit(name), "arm"))
            for name, sweep in zip(names, sweeps, strict=True)
        ]
    )
    metrics = pl.concat([sweep.metrics for sweep in sweeps])
    run_ids = " + ".join(sweep.run_id for sweep in sweeps)
    examples = {run: content for sweep in sweeps for run, content in sweep.examples.items()}
    tags = {run: content for sweep in sweeps for run, content in sweep.tags.items()}
    return replace(
        first,
        run_id=run_ids,
        name=" + ".join(names),
        record=about,
        trials=trials,
        metrics=metrics,
        examples=examples,
        tags=tags,
    )


def section(sweeps: Sequence[Runs]) -> Section:
    """Returns the table of settings in which the sweeps differ."""
    differences = differing_settings(sweeps)
    if not differences:
        return Section(
            "settings", "Settings in which the sweeps differ", ["None, apart from the factors that a sweep varies."]
        )
    note = (
        "Apart from the factors that a sweep varies. Where the sweeps differ in more than one setting, a difference"
        " between them cannot be attributed to one of these."
    )
    rows = [Row([name, *levels]) for name, levels in differences]
    return Section(
        "settings", "Settings in which the sweeps differ", tables=[Table("", ("setting", *titles(sweeps)), rows, note)]
    )


def _without_repeats(sweeps: Sequence[Runs]) -> list[Runs]:
    seen: set[str] = set()
    kept = []
    for sweep in sweeps:
        cells: dict[str, set[str]] = {}
        for cell, arm in (sweep.record.cells or {}).items():
            cells.setdefault(arm, set()).add(cell)
        repeated = [arm for arm, own_cells in cells.items() if own_cells <= seen]
        kept.append(replace(sweep, trials=sweep.trials.filter(~pl.col("arm").is_in(repeated))))
        seen |= {cell for own_cells in cells.values() for cell in own_cells}
    return kept


def titles(sweeps: Sequence[Runs]) -> list[str]:
    """Returns the sweeps' names, followed by the first characters of the run's id where two names are equal."""
    names = [sweep.name for sweep in sweeps]
    return [f"{sweep.name} {sweep.run_id[:6]}" if names.count(sweep.name) > 1 else sweep.name for sweep in sweeps]


def differing_settings(sweeps: Sequence[Runs]) -> Differences:
    """Returns the fixed settings in which sweeps differ, by their dotted keys, without those that a sweep varies."""
    varied = {name for sweep in sweeps for values in sweep.record.arm_values.values() for name in values}
    flat = [flattened(sweep.record.settings) for sweep in sweeps]
    differences = []
    for name in dict.fromkeys(name for settings in flat for name in settings):
        values = [str(settings.get(name, "–")) for settings in flat]
        if len(set(values)) > 1 and name not in varied:
            differences.append((name, values))
    return differences
