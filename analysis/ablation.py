"""The ablation table: arms by headline metrics, in the form of a paper."""

from typing import Any

import polars as pl

from analysis.paired import BASELINE, compare, sure
from analysis.runs import Runs
from analysis.section import Row, Section, Table
from analysis.wording import DASH, listed, number
from workbench.metrics import METRICS, SPLITS, metric, split_of

BETTER, WORSE, OTHER, GUESS = "▲", "▼", "◆", "†"
NOTE = (
    f"Mean over seeds. {BETTER} better and {WORSE} worse than the baseline, {OTHER} different from it: the adjusted p"
    " is at most .05. It is adjusted over the arms for the metric that the answer is about, and over all contrasts of"
    f" the other columns together. {GUESS} some trials diverged and have no value. Arrows in the head point to better"
    " values."
)


def section(runs: Runs) -> Section | None:
    """Returns the table of arms by headline metrics."""
    names = headlines(runs)
    if not names:
        return None
    primary = runs.record.primary
    first = compare(runs, [primary]) if primary in names else None
    rest = compare(runs, [name for name in names if name != primary])
    frame = pl.concat([part for part in (first, rest) if part is not None])
    known = {(row["arm"], row["metric"]): row for row in frame.iter_rows(named=True)}
    rows = [Row([arm, *(_cell(known.get((arm, name)), name) for name in names)]) for arm in runs.arms]
    heads = [_head(name) for name in names]
    splits = sorted({SPLITS[split] for name in names if (split := split_of(name))})
    table = Table(
        "",
        ("arm", *heads),
        rows,
        NOTE,
        paper=True,
        paper_heads=(
            "",
            *(f"{metric(name).brief or metric(name).title} {metric(name).arrow}".strip() for name in names),
        ),
        paper_rows=[Row([_short(runs, row.cells[0]), *row.cells[1:]]) for row in rows],
    )
    return Section(
        "ablation", "Ablation table", tables=[table], split=listed(splits) if splits else "", frames={"ablation": frame}
    )


def headlines(runs: Runs) -> list[str]:
    """Returns the primary metric and the measured headline metrics, on the test split where they were measured
    there."""
    names = [runs.record.primary]
    for row in METRICS:
        if row.headline:
            logged = next(
                (
                    name
                    for name in (f"test/{row.name}", row.name, f"val/{row.name}")
                    if runs.names(name) and not runs.final(name).is_empty()
                ),
                None,
            )
            if logged and metric(logged).name not in {metric(name).name for name in names}:
                names.append(logged)
    return [name for name in names if not runs.final(name).is_empty()]


def _head(name: str) -> str:
    row = metric(name)
    return f"{row.title} {row.arrow}".strip()


def _cell(row: dict[str, Any] | None, name: str) -> str:
    if row is None:
        return DASH
    mark = ""
    if row["verdict"] != BASELINE and sure(row):
        better = {"higher": row["verdict"] == "higher", "lower": row["verdict"] == "lower"}.get(metric(name).better)
        mark = OTHER if better is None else BETTER if better else WORSE
    return number(row["mean"]) + mark + (GUESS if row["diverged"] else "")


def _short(runs: Runs, arm: object) -> str:
    """Returns an arm's label without the part that all arms share."""
    label = str(arm)
    values = runs.record.arm_values.get(label, {})
    return label.rpartition("=")[2] if len(values) == 1 and label.count("=") == 1 else label
