"""The answer in words, made from the statistics by stated rules."""

import polars as pl

from analysis.figures import plain
from analysis.statistics import smallest_p

LEVEL = 0.05
RULE = (
    f"An arm is said to raise or lower a metric where Holm's adjusted exact sign-flip p is at most {LEVEL}; where "
    "there are too few seeds for that, the difference and its interval are stated without a verdict."
)


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return "–" if value is None or value != value else f"{value:.3f}"


def signed(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:+.3f}"


def answer(table: pl.DataFrame, metric: str, baseline: str) -> list[str]:
    """A sentence for each arm that is compared with the baseline, the largest difference first."""
    compared = table.filter(pl.col("difference").is_not_null())
    sentences = []
    if compared.is_empty():
        return [f"Only the baseline `{baseline}` has finished trials: there is nothing to compare it with yet."]
    for row in compared.sort(pl.col("difference").abs(), descending=True).iter_rows(named=True):
        change = f"{signed(row['difference'])} [{signed(row['difference_low'])}, {signed(row['difference_high'])}]"
        measured = f"{plain(metric)} {change}"
        if row["p_holm"] is None:
            sentences.append(f"{row['arm']}: {measured}; one seed says nothing of the spread.")
            continue
        sure = f"(Holm p = {number(row['p_holm'])}, {row['seeds']} seeds)"
        if row["p_holm"] > LEVEL:
            sentences.append(f"{row['arm']}: no difference shown, {measured} {sure}.")
        else:
            verb = "raises" if row["difference"] > 0 else "lowers"
            sentences.append(f"{row['arm']} {verb} {plain(metric)}: {change} {sure}.")
    return sentences


def caution(table: pl.DataFrame) -> str | None:
    """What the number of seeds cannot show."""
    compared = table.filter(pl.col("difference").is_not_null())
    if compared.is_empty():
        return None
    seeds = int(compared["seeds"].min())  # type: ignore[arg-type]
    best = min(1.0, smallest_p(seeds) * len(compared)) if seeds > 1 else 1.0
    if best <= LEVEL:
        return None
    return (
        f"With {seeds} paired seeds and {len(compared)} contrast{'s' if len(compared) > 1 else ''}, the smallest "
        f"adjusted p that is possible at all is {best:.3f}: read the intervals, and run more seeds for a verdict."
    )


def speed_sentence(speed: pl.DataFrame, metric: str, target: float) -> list[str]:
    """What the steps to the target say, one sentence an arm."""
    sentences = []
    for row in speed.iter_rows(named=True):
        reached = f"{row['reached']} of {row['seeds']} seeds reach {plain(metric)} {number(target)}"
        if row["speed_up"] is None:
            sentences.append(f"{row['arm']}: {reached}, after {row['steps']:.0f} steps on average.")
        else:
            clear = "" if row["low"] is None or row["low"] <= 1 <= row["high"] else ", the interval excludes 1"
            sentences.append(
                f"{row['arm']}: {reached}; speed-up {row['speed_up']:.2f} "
                f"[{number(row['low'])}, {number(row['high'])}]{clear}."
            )
    return sentences
