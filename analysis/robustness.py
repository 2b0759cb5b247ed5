"""How far each arm falls when pictures or captions are disturbed: runs in, frames out."""

import polars as pl

from analysis.runs import Runs
from analysis.statistics import mean_interval, paired_contrast, with_holm

# `wb eval --suite robustness` measures every kind; the end of a trial a few of them.
EVERY, FEW = "robustness_all/", "robustness/"
SEVERITY = {
    "arm": pl.String,
    "kind": pl.String,
    "severity": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}


def scores(runs: Runs) -> pl.DataFrame:
    """`arm`, `seed`, `kind`, `severity`, `value`; the undisturbed score has the kind `clean` and severity 0. Where all trials were
    measured on every kind these are given, else the few."""
    whole = runs.final(f"{EVERY}clean/0")
    prefix = EVERY if len(whole) and len(whole) == len(runs.trials) else FEW
    frames = []
    for name in runs.names(prefix):
        kind, severity = name.removeprefix(prefix).split("/")
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


def derived(scored: pl.DataFrame, baseline: str) -> pl.DataFrame:
    """`arm`, `seed`, `metric`, `value` of three summaries over all disturbances:

    `robustness_mean_drop`, the mean relative drop; `corruption_error`, the mean over kinds of the error (1 - score) as a share of the
    baseline's of the same seed (mCE, Hendrycks and Dietterich 2019; 1 for the baseline); `effective_robustness`, the mean disturbed
    score less the baseline's, beyond what the clean scores differ by (in the manner of Taori et al. 2020; 0 for the baseline).
    """
    disturbed = scored.filter(pl.col("kind") != "clean")
    drops = relative_drops(scored).group_by("arm", "seed", maintain_order=True).agg(value=pl.col("drop").mean())
    keys = ["arm", "seed"]
    by_kind = disturbed.group_by(*keys, "kind", maintain_order=True).agg(value=pl.col("value").mean())
    reference = by_kind.filter(pl.col("arm") == baseline).select("seed", "kind", base="value")
    errors = by_kind.join(reference, on=["seed", "kind"]).group_by(*keys, maintain_order=True)
    corruption = errors.agg(value=((1 - pl.col("value")) / (1 - pl.col("base")).clip(1e-6)).mean())
    gap = clean_and_disturbed(scored).select(*keys, gap=pl.col("disturbed") - pl.col("clean"))
    base = gap.filter(pl.col("arm") == baseline).select("seed", base="gap")
    effective = gap.join(base, on="seed").select(*keys, value=pl.col("gap") - pl.col("base"))
    named = {"robustness_mean_drop": drops, "corruption_error": corruption, "effective_robustness": effective}
    return pl.concat([frame.select(*keys, metric=pl.lit(name), value="value") for name, frame in named.items()])


DROPS = {
    "arm": pl.String,
    "kind": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "difference": pl.Float64,
    "difference_low": pl.Float64,
    "difference_high": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
}


def drop_table(runs: Runs, scored: pl.DataFrame) -> pl.DataFrame:
    """A row an arm and kind: the relative drop over seeds with its interval, and its difference from the baseline's, paired by seed. All
    of them together are one family for Holm's adjustment."""
    drops = relative_drops(scored)
    base = drops.filter(pl.col("arm") == runs.baseline).select("kind", "seed", base="drop")
    paired = drops.join(base, on=["kind", "seed"], how="left").sort("seed")
    rows = []
    for arm in runs.arms:
        for (kind,), group in paired.filter(pl.col("arm") == arm).sort("kind").group_by("kind", maintain_order=True):
            interval = mean_interval(group["drop"].to_numpy())
            row = {"arm": arm, "kind": kind, "mean": interval.mean, "low": interval.low, "high": interval.high}
            both = group.drop_nulls("base")
            if arm != runs.baseline and both.height:
                found = paired_contrast(both["drop"].to_numpy(), both["base"].to_numpy(), resampled=False)
                row |= {"difference": found.difference.mean, "difference_low": found.difference.low}
                row |= {"difference_high": found.difference.high, "p": found.p}
            rows.append(row)
    return with_holm(pl.DataFrame(rows, schema=DROPS))


def clean_and_disturbed(scored: pl.DataFrame) -> pl.DataFrame:
    """`arm`, `seed`, `clean`, `disturbed`: the undisturbed score, and the mean of all disturbed ones."""
    clean = scored.filter(pl.col("kind") == "clean").select("arm", "seed", clean="value")
    disturbed = scored.filter(pl.col("kind") != "clean").group_by("arm", "seed", maintain_order=True)
    return clean.join(disturbed.agg(disturbed=pl.col("value").mean()), on=["arm", "seed"])
