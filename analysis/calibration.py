"""How sure the model is, and how often right: runs in, frames out."""

import polars as pl

from analysis.runs import Runs
from analysis.statistics import mean_interval

RELIABILITY = {
    "head": pl.String,
    "arm": pl.String,
    "bin": pl.Int64,
    "confidence": pl.Float64,
    "accuracy": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "share": pl.Float64,
}


def reliability_table(runs: Runs) -> pl.DataFrame:
    """What a reliability diagram draws (Guo et al. 2017), on the test split: a row a head (`itm`, `mlm`), arm and bin of confidence. Means are
    over all answers of all seeds; the interval of the accuracy is over the seeds that have answers in the bin; `share` of all answers."""
    found = runs.metrics.filter(pl.col("metric").str.starts_with("reliability/"))
    if found.is_empty():
        return pl.DataFrame(schema=RELIABILITY)
    parts = pl.col("metric").str.split("/")
    placed = found.with_columns(head=parts.list.get(1), bin=parts.list.get(2).cast(pl.Int64), name=parts.list.get(3))
    wide = placed.join(runs.trials, on="run_id").pivot(
        "name", on_columns=["accuracy", "confidence", "share"], index=["head", "arm", "seed", "bin"], values="value"
    )
    seeds = dict(runs.trials.group_by("arm").len().iter_rows())
    rows = []
    for (head, arm, place), group in wide.sort("head", "arm", "bin", "seed").group_by(
        "head", "arm", "bin", maintain_order=True
    ):
        weight = group["share"] / group["share"].sum()
        interval = mean_interval(group["accuracy"].to_numpy())
        confidence, accuracy = (float((group[name] * weight).sum()) for name in ("confidence", "accuracy"))
        share = float(group["share"].sum()) / seeds[str(arm)]
        rows.append((head, arm, place, confidence, accuracy, interval.low, interval.high, share))
    return pl.DataFrame(rows, schema=RELIABILITY, orient="row").with_columns(pl.col("low", "high").fill_nan(None))
