"""Several sweeps as one, so that every table and figure sets their arms side by side."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from analysis.convergence import target_value
from analysis.runs import Runs
from analysis.section import Row, Section, Table
from workbench.config.schema import Target, flattened
from workbench.errors import UserError
from workbench.record import SweepRecord

Differences = list[tuple[str, list[str]]]  # a setting, and its value in each sweep


def merged(sweeps: Sequence[Runs]) -> Runs:
    """The trials of all sweeps, each arm named after its sweep, with the first one's baseline, primary metric and
    target. An arm whose cells an earlier sweep has, too, is left out of the later one: it is the same, and no contrast
    of the family.

    Raises UserError where a sweep is given twice, or lacks the first one's primary metric.
    """
    first = sweeps[0]
    if len({each.run_id for each in sweeps}) < len(sweeps):
        raise UserError("--compare: the same run is named twice; name each sweep once.")
    primary = first.record.primary
    for each in sweeps:
        if each.final(primary).is_empty():
            raise UserError(f"--compare {each.run_id}: it has no {primary}, which the first sweep is about.")
    names = titles(sweeps)
    sweeps = _without_repeats(sweeps)
    labelled = [[f"{name}: {arm}" for arm in each.arms] for name, each in zip(names, sweeps, strict=True)]
    metric, target = target_value(first)
    about = SweepRecord(
        version=min(each.record.version for each in sweeps),
        question=f"How do {', '.join(names[:-1])} and {names[-1]} differ?",
        preset=first.record.preset,
        arms=[arm for arms in labelled for arm in arms],
        baseline_arm=f"{names[0]}: {first.baseline}",
        primary=primary,
        target=Target(metric=metric, value=target),
        margin=first.record.margin,
        smoke=any(each.record.smoke for each in sweeps),
        settings=first.record.settings,
    )
    trials = pl.concat(
        [
            each.trials.with_columns(arm=pl.format("{}: {}", pl.lit(name), "arm"))
            for name, each in zip(names, sweeps, strict=True)
        ]
    )
    metrics = pl.concat([each.metrics for each in sweeps])
    run_ids = " + ".join(each.run_id for each in sweeps)
    examples = {run: told for each in sweeps for run, told in each.examples.items()}
    tags = {run: told for each in sweeps for run, told in each.tags.items()}
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
    """The settings in which the sweeps differ."""
    found = differing_settings(sweeps)
    if not found:
        return Section(
            "settings", "Settings in which the sweeps differ", ["None, beside what one of the sweeps varies."]
        )
    note = (
        "Beside what one of the sweeps varies. Where they differ in more than one setting, no difference between the"
        " sweeps is due to one of them alone."
    )
    rows = [Row([name, *levels]) for name, levels in found]
    return Section(
        "settings", "Settings in which the sweeps differ", tables=[Table("", ("setting", *titles(sweeps)), rows, note)]
    )


def _without_repeats(sweeps: Sequence[Runs]) -> list[Runs]:
    seen: set[str] = set()
    kept = []
    for each in sweeps:
        cells: dict[str, set[str]] = {}
        for cell, arm in (each.record.cells or {}).items():
            cells.setdefault(arm, set()).add(cell)
        repeated = [arm for arm, found in cells.items() if found <= seen]
        kept.append(replace(each, trials=each.trials.filter(~pl.col("arm").is_in(repeated))))
        seen |= {cell for found in cells.values() for cell in found}
    return kept


def titles(sweeps: Sequence[Runs]) -> list[str]:
    """The sweeps' names; with the beginning of the run's id where two are called alike."""
    names = [each.name for each in sweeps]
    return [f"{each.name} {each.run_id[:6]}" if names.count(each.name) > 1 else each.name for each in sweeps]


def differing_settings(sweeps: Sequence[Runs]) -> Differences:
    """The fixed settings in which sweeps differ, by their dotted keys; what one of them varies is not among them."""
    varied = {name for each in sweeps for values in each.record.arm_values.values() for name in values}
    flat = [flattened(each.record.settings) for each in sweeps]
    found = []
    for name in dict.fromkeys(name for each in flat for name in each):
        values = [str(each.get(name, "–")) for each in flat]
        if len(set(values)) > 1 and name not in varied:
            found.append((name, values))
    return found
