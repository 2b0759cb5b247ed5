"""All metrics that were measured at the end, compared with the baseline."""

import polars as pl

from analysis.paired import BOLD, RANKED, compare, contrast_table
from analysis.runs import Runs
from analysis.section import Section
from workbench.metrics import METRICS, OWN_SUITES


def section(runs: Runs) -> Section | None:
    """Returns one table per metric, the test split first. All contrasts are one family."""
    names = [name for name in _known(runs) if name != runs.record.primary]
    if not names:
        return None
    frame = compare(runs, names)
    tables = [contrast_table(runs, part, folded=True) for (_,), part in frame.group_by("metric", maintain_order=True)]
    ranked = [RANKED] if frame["ranked"].any() else []
    return Section("metrics", "All metrics", tables=tables, notes=[BOLD, *ranked], frames={"metrics": frame})


def _known(runs: Runs) -> list[str]:
    """Returns the logged names of the known metrics that some trial has, then kinds of foils."""
    logged = set(runs.names(""))
    singles = [row.name for row in METRICS if not row.name.endswith("/") and row.name != "seconds"]
    names = [f"{split}{name}" for split in ("test/", "", "val/") for name in singles]
    kinds = [
        name
        for name in runs.names("val/foil/")
        if not any(runs.names(f"compositional/{suite}/") for suite in OWN_SUITES)
    ]
    return [name for name in [*names, *kinds] if name in logged and not runs.final(name).is_empty()]


def values_frame(runs: Runs, names: list[str]) -> pl.DataFrame:
    """Returns `metric`, `arm`, `seed`, `run_id`, `value`: the final values of the trials, on which the tables are
    based."""
    ids = runs.trials.select("arm", "seed", "run_id")
    frames = [
        runs.final(name)
        .join(ids, on=["arm", "seed"], maintain_order="left")
        .select(pl.lit(name).alias("metric"), "arm", "seed", "run_id", "value")
        for name in names
    ]
    schema = {"metric": pl.String, "arm": pl.String, "seed": pl.Int64, "run_id": pl.String, "value": pl.Float64}
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)
