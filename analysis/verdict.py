"""The answer in words, made from the statistics by stated rules."""

import polars as pl

from analysis.statistics import LEVEL, smallest_p
from analysis.wording import number, plain, signed, spread

RULE = (
    f"An arm is said to raise or lower a metric, or to be faster or slower, where Holm's adjusted exact sign-flip p is at most {LEVEL}; where "
    "there are too few seeds for that, the difference and its interval are stated without a verdict."
)
POWER_NOTE = (
    "Effect size: the difference in standard deviations over seeds. No difference larger than: two one-sided tests at the 5 % level exclude more. "
    "Detectable: what a paired test with these seeds finds with a power of 80 %. Seeds needed: for the difference that was seen to be found with that power. "
    "The last two are for the whole family of arms."
)


def answer(table: pl.DataFrame, metric: str, baseline: str) -> list[str]:
    """A sentence for each arm that is compared with the baseline, the largest difference first."""
    compared = table.filter(pl.col("difference").is_not_null())
    sentences = []
    if compared.is_empty():
        return [f"Only the baseline `{baseline}` has finished trials: there is nothing to compare it with yet."]
    for row in compared.sort(pl.col("difference").abs(), descending=True).iter_rows(named=True):
        if row["p_holm"] is None:
            change = f"{plain(metric)} {signed(row['difference'])}"
            sentences.append(f"{row['arm']}: {change}; one paired seed says nothing of the spread.")
            continue
        change = f"{signed(row['difference'])} {spread(row['difference_low'], row['difference_high'], signed)}"
        measured = f"{plain(metric)} {change}"
        sure = f"(Holm p = {number(row['p_holm'])}, {row['seeds']} seeds)"
        if smallest_adjusted_p(compared) > LEVEL:
            outside = row["difference_low"] > 0 or row["difference_high"] < 0
            sentences.append(f"{row['arm']}: {measured}{', the interval excludes 0' if outside else ''} {sure}.")
        elif row["p_holm"] > LEVEL:
            sentences.append(f"{row['arm']}: no difference shown, {measured} {sure}.")
        else:
            verb = "raises" if row["difference"] > 0 else "lowers"
            sentences.append(f"{row['arm']} {verb} {plain(metric)}: {change} {sure}.")
    return sentences


def smallest_adjusted_p(compared: pl.DataFrame) -> float:
    """The smallest Holm p that these contrasts could have, given their number and their seeds."""
    seeds = int(compared["seeds"].min())  # type: ignore[arg-type]
    return min(1.0, smallest_p(seeds) * len(compared)) if seeds > 1 else 1.0


def caution(table: pl.DataFrame) -> str | None:
    """What the number of seeds cannot show."""
    compared = table.filter(pl.col("difference").is_not_null())
    if compared.is_empty():
        return None
    seeds = int(compared["seeds"].min())  # type: ignore[arg-type]
    best = smallest_adjusted_p(compared)
    if best <= LEVEL:
        return None
    return (
        f"With {seeds} paired seeds and {len(compared)} contrast{'s' if len(compared) > 1 else ''}, the smallest "
        f"adjusted p that is possible at all is {best:.3f}: read the intervals, and run more seeds for a verdict."
    )


def speed_sentences(speed: pl.DataFrame, metric: str, target: float) -> list[str]:
    """What the times to the target say, one sentence an arm; faster or slower by the same rule as the answer."""
    sentences = []
    family = int(speed["p"].is_not_null().sum())
    for row in speed.iter_rows(named=True):
        reached = f"{row['reached']} of {row['seeds']} seeds reach {plain(metric)} {number(target)}"
        if row["speed_up"] is None:
            sentences.append(f"{row['arm']}: {reached}, after {row['time']:,.0f} on average.")
            continue
        bound = "at most " if row["reached"] < row["seeds"] else ""  # misses are counted at the horizon
        ratio = f"ratio {bound}{row['speed_up']:.2f} {spread(row['low'], row['high'])}".removesuffix(" –")
        if row["p_holm"] is None:
            sentences.append(f"{row['arm']}: {reached}; {ratio}.")
            continue
        outside = row["low"] > 1 or row["high"] < 1
        if row["p_holm"] <= LEVEL:
            verdict = "faster, " if row["speed_up"] > 1 else "slower, "
        elif smallest_p(row["seeds"]) * family <= LEVEL:
            verdict = "no faster or slower as far as is shown, "
        else:
            verdict = "the interval excludes 1, " if outside else ""
        sentences.append(f"{row['arm']}: {verdict}{ratio}, Holm p = {number(row['p_holm'])}; {reached}.")
    return sentences
