"""What a report compares, as metrics of the sweep's own run, so that sweeps can be compared in MLflow."""

import re
from pathlib import Path

import polars as pl

# Of the columns of tables/ablation.csv; the interval is the simultaneous one, which the verdict is about.
COLUMNS = {"mean": "mean", "difference": "effect", "all_low": "effect_low", "all_high": "effect_high"}
LONGEST = 250  # name of a metric in MLflow
UNKNOWN_TO_MLFLOW = re.compile(r"[^\w .:/-]")


def summary(page: Path) -> dict[str, float]:
    """Returns `mean/<metric>/<arm>` for each arm and headline metric of a report, and, for each arm but the baseline,
    its `effect/...` with the ends of its interval, `effect_low/...` and `effect_high/...`.

    Empty where the report has no table of arms, as where every trial diverged. MLflow allows no `=` in a name: an arm
    `ratio=0.5` is called `ratio:0.5`.
    """
    table = page.parent / "tables" / "ablation.csv"
    if not table.is_file():
        return {}
    return {
        f"{name}/{row['metric']}/{_allowed(str(row['arm']))}"[:LONGEST]: float(row[column])
        for row in pl.read_csv(table, glob=False).iter_rows(named=True)
        for column, name in COLUMNS.items()
        if row[column] is not None
    }


def _allowed(arm: str) -> str:
    return UNKNOWN_TO_MLFLOW.sub("", arm.replace("=", ":")).strip()
