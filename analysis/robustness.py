"""How far each arm falls when pictures or captions are disturbed: runs in, frames out."""

import polars as pl

from analysis.runs import Runs
from analysis.statistics import mean_interval

PREFIX = "robustness/"
SEVERITY = {
    "arm": pl.String,
    "kind": pl.String,
    "severity": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}


def scores(runs: Runs) -> pl.DataFrame:
    """`arm`, `seed`, `kind`, `severity`, `value`; the undisturbed score has the kind `clean` and severity 0."""
    frames = []
    for name in runs.names(PREFIX):
        kind, severity = name.removeprefix(PREFIX).split("/")
        frames.append(runs.final(name).with_columns(kind=pl.lit(kind), severity=pl.lit(int(severity), dtype=pl.Int64)))
    empty = {"arm": pl.String, "seed": pl.Int64, "value": pl.Float64, "kind": pl.String, "severity": pl.Int64}
    return pl.concat(frames) if frames else pl.DataFrame(schema=empty)


def severity_curves(scored: pl.DataFrame) -> pl.DataFrame:
    """Mean and interval over seeds; every kind starts from the clean score at severity 0."""
    clean = scored.filter(pl.col("kind") == "clean")
    kinds = [kind for kind in scored["kind"].unique(maintain_order=True) if kind != "clean"]
    started = [clean.with_columns(kind=pl.lit(kind)) for kind in kinds]
    rows = []
    everything = pl.concat([*started, scored.filter(pl.col("kind") != "clean")]) if kinds else scored.clear()
    for (arm, kind, severity), group in everything.group_by("arm", "kind", "severity", maintain_order=True):
        interval = mean_interval(group["value"].to_numpy())
        rows.append(
            {
                "arm": arm,
                "kind": kind,
                "severity": severity,
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
            }
        )
    return pl.DataFrame(rows, schema=SEVERITY).sort("arm", "kind", "severity")


def relative_drops(scored: pl.DataFrame) -> pl.DataFrame:
    """`arm`, `kind`, `seed`, `drop`: (clean - disturbed) / clean, averaged over severities (MMI of Qiu et al. 2022)."""
    clean = scored.filter(pl.col("kind") == "clean").select("arm", "seed", clean="value")
    return (
        scored.filter(pl.col("kind") != "clean")
        .join(clean, on=["arm", "seed"])
        .group_by("arm", "kind", "seed", maintain_order=True)
        .agg(drop=((pl.col("clean") - pl.col("value")) / pl.col("clean")).mean())
    )


def mean_drops(scored: pl.DataFrame) -> pl.DataFrame:
    """`arm`, `kind`, `mean`, `low`, `high` of the relative drop over seeds."""
    rows = []
    for (arm, kind), group in relative_drops(scored).group_by("arm", "kind", maintain_order=True):
        interval = mean_interval(group["drop"].to_numpy())
        rows.append({"arm": arm, "kind": kind, "mean": interval.mean, "low": interval.low, "high": interval.high})
    return pl.DataFrame(rows, schema={name: SEVERITY[name] for name in ("arm", "kind", "mean", "low", "high")})
