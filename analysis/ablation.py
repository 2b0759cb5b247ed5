"""What each arm reached, and how far that is from the baseline: runs in, frames out."""

import polars as pl

from analysis.runs import Runs
from analysis.statistics import detectable, mean_interval, paired_contrast, seeds_needed, with_holm

CONTRASTS = {
    "arm": pl.String,
    "metric": pl.String,
    "seeds": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "difference": pl.Float64,
    "difference_low": pl.Float64,
    "difference_high": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "bca_low": pl.Float64,
    "bca_high": pl.Float64,
    "effect": pl.Float64,
    "margin": pl.Float64,
    "detectable": pl.Float64,
    "seeds_needed": pl.Int64,
}


def contrasts(runs: Runs, metric: str) -> pl.DataFrame:
    """One row an arm: its mean over seeds and its contrast with the baseline, paired by seed; then what so many seeds can show. The arms of
    one metric are one family for Holm's adjustment."""
    final = runs.final(metric)
    base = final.filter(pl.col("arm") == runs.baseline).select("seed", base="value")
    rows = []
    family = max(1, len(runs.arms) - 1)
    for arm in runs.arms:
        values = final.filter(pl.col("arm") == arm)
        if values.is_empty():
            continue
        reached = mean_interval(values["value"].to_numpy())
        row: dict[str, object] = {
            "arm": arm,
            "metric": metric,
            "seeds": len(values),
            "mean": reached.mean,
            "low": reached.low,
            "high": reached.high,
        }
        paired = values.join(base, on="seed").sort("seed")
        if arm != runs.baseline and not paired.is_empty():
            contrast = paired_contrast(paired["value"].to_numpy(), paired["base"].to_numpy())
            row |= {
                "difference": contrast.difference.mean,
                "difference_low": contrast.difference.low,
                "difference_high": contrast.difference.high,
                "p": contrast.p,
                "bca_low": contrast.bca.low,
                "bca_high": contrast.bca.high,
                "effect": contrast.effect,
                "margin": contrast.margin,
                "detectable": detectable(contrast.spread, contrast.seeds, family),
                "seeds_needed": seeds_needed(contrast.effect, family),
            }
        rows.append(row)
    unknown = pl.col("bca_low", "bca_high", "effect", "margin", "detectable").fill_nan(None)
    return with_holm(pl.DataFrame(rows, schema=CONTRASTS)).with_columns(unknown)


SUITE = {
    "arm": pl.String,
    "kind": pl.String,
    "seeds": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "blank_image": pl.Float64,
}


def suite_names(runs: Runs) -> list[str]:
    """The published suites that some trial was measured on with `wb eval`."""
    return sorted({name.split("/")[1] for name in runs.names("blank_image/")})


def suite_table(runs: Runs, suite: str) -> pl.DataFrame:
    """One row an arm and kind: the suite's score with its interval over seeds, and the mean score with a grey picture."""
    prefix = f"compositional/{suite}/"
    rows = []
    for name in runs.names(prefix):
        kind = name.removeprefix(prefix)
        seen, blank = runs.final(name), runs.final(f"blank_image/{suite}/{kind}")
        for arm in runs.arms:
            values = seen.filter(pl.col("arm") == arm)["value"].to_numpy()
            if not len(values):
                continue
            reached = mean_interval(values)
            unseen = blank.filter(pl.col("arm") == arm)["value"].to_numpy()
            rows.append(
                {"arm": arm, "kind": kind, "seeds": len(values), "mean": reached.mean, "low": reached.low}
                | {"high": reached.high, "blank_image": float(unseen.mean()) if len(unseen) else None}
            )
    return pl.DataFrame(rows, schema=SUITE)


FOILS = "val/foil/"  # and a kind


def foil_table(runs: Runs, prefix: str = FOILS) -> pl.DataFrame:
    """`contrasts` of every foil kind, stacked; `metric` is the kind."""
    frames = [
        contrasts(runs, name).with_columns(metric=pl.lit(name.removeprefix(prefix))) for name in runs.names(prefix)
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=CONTRASTS)
