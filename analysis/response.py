"""The response of metrics to a varied number, such as a temperature or a ratio, and whether they rise or fall with
it."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from scipy.interpolate import PchipInterpolator

from analysis.runs import Runs
from analysis.section import Plot, Section
from analysis.statistics import Contrast, mean_interval, paired_contrast
from analysis.style import INK, PALETTE, SOFT, STYLE
from analysis.wording import DASH, counted, p_is, short, signed, spread
from workbench.metrics import METRICS, metric, title
from workbench.significance import LEVEL, fewest_seeds, smallest_p

POINTS = {"level": pl.Float64, "seeds": pl.Int64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
CURVE = {"level": pl.Float64, "fit": pl.Float64, "low": pl.Float64, "high": pl.Float64}
RESPONSES = {"metric": pl.String, **POINTS}
FEWEST = 4  # minimum number of levels for a fitted curve
TREND = 3  # minimum number of levels for a test of the trend
MOST = 6  # maximum number of metrics that are drawn
CAPTION = (
    "Mean over seeds with its 95 % interval at each level, single seeds as dots; between the levels a monotone"
    " interpolation of the means and of the ends of their intervals, which is a guess."
)
WIDE = 20.0  # ratio of the levels from which on the scale is logarithmic


def section(runs: Runs) -> Section | None:
    """Returns the trend of the primary metric, and response curves."""
    variation = varied(runs)
    if variation is None:
        return None
    factor, levels = variation
    contrast = trend(runs, runs.record.primary, levels)
    names = list(dict.fromkeys((runs.record.primary, *(f"val/{row.name}" for row in METRICS if row.outcome))))
    shown = [name for name in names if not runs.final(name).is_empty()][:MOST]
    tables = {name: points(runs, name, levels) for name in shown}
    plots = []
    if len(levels) >= FEWEST and shown:
        placed = pl.DataFrame({"arm": list(levels), "level": list(levels.values())})
        seeds = {name: runs.final(name).join(placed, on="arm") for name in shown}
        panels = {name: (table, curve(table)) for name, table in tables.items()}
        figure = response_figure(panels, factor, seeds, logarithmic(list(levels.values())))
        plots = [Plot("response", CAPTION, figure)]
    frames = [table.select(pl.lit(name).alias("metric"), *POINTS) for name, table in tables.items()]
    return Section(
        "response",
        f"Response to {short(factor)}",
        [trend_sentence(contrast, runs.record.primary, factor, levels)],
        plots=plots,
        frames={"response": pl.concat(frames) if frames else pl.DataFrame(schema=RESPONSES)},
    )


def trend(runs: Runs, name: str, levels: dict[str, float]) -> Contrast:
    """Returns the change of the metric from the lowest to the highest level along the least-squares line (over the
    logarithms of levels on a logarithmic scale), within each seed that has all levels, tested against zero."""
    x = np.array(list(levels.values()))
    x = np.log(x) if logarithmic(list(levels.values())) else x
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum() * np.ptp(x)
    known = {(arm, seed): value for arm, seed, value in runs.final(name).iter_rows()}
    seeds = sorted({seed for _, seed in known})
    whole = [seed for seed in seeds if all((arm, seed) in known for arm in levels)]
    changes = np.array([sum(w * known[arm, seed] for w, arm in zip(weights, levels, strict=True)) for seed in whole])
    return paired_contrast(changes, np.zeros_like(changes))


def trend_sentence(contrast: Contrast, name: str, factor: str, levels: dict[str, float]) -> str:

    what, over = metric(name).title, short(factor)
    if contrast.seeds == 0:
        return f"No seed has {what} at every level of {over}: there is no trend to test."
    ends = f"from {min(levels.values()):g} to {max(levels.values()):g}"
    interval = spread(contrast.difference.low, contrast.difference.high, signed)
    change = (
        f"{signed(contrast.difference.mean)}{'' if interval == DASH else ' ' + interval} {ends} along a straight line"
    )
    if smallest_p(contrast.seeds) > LEVEL:
        return (
            f"{what[0].upper()}{what[1:]} over {over}: {change}; too few seeds for a verdict ({fewest_seeds()} are"
            " needed)."
        )
    counts = f"sign-flip {p_is(contrast.p)}, {counted(contrast.seeds, 'seed')}, one test"
    if contrast.p > LEVEL:
        return f"Whether {what} rises or falls with {over} is undecided: {change} ({counts})."
    return (
        f"{what[0].upper()}{what[1:]} {'rises' if contrast.difference.mean > 0 else 'falls'} with {over}: {change}"
        f" ({counts})."
    )


def varied(runs: Runs) -> tuple[str, dict[str, float]] | None:
    """Returns the only varied factor and the level of each arm, where it is a number with at least `TREND` levels; else
    None."""
    arms = {arm: values for arm, values in runs.record.arm_values.items() if arm in runs.arms}
    if len(arms) < TREND:
        return None
    changing = [name for name in next(iter(arms.values())) if len({str(values[name]) for values in arms.values()}) > 1]
    if len(changing) != 1:
        return None
    levels = {arm: values[changing[0]] for arm, values in arms.items()}
    if not all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels.values()):
        return None
    return changing[0], {arm: float(level) for arm, level in levels.items()}


def points(runs: Runs, name: str, levels: dict[str, float]) -> pl.DataFrame:
    """Returns one row per level: the mean over seeds with its Student interval."""
    final = runs.final(name)
    rows = []
    for arm, level in sorted(levels.items(), key=lambda pair: pair[1]):
        values = final.filter(pl.col("arm") == arm)["value"].to_numpy()
        if len(values):
            reached = mean_interval(values, metric(name).bounds)
            rows.append((level, len(values), reached.mean, reached.low, reached.high))
    return pl.DataFrame(rows, schema=POINTS, orient="row")


def logarithmic(levels: list[float]) -> bool:
    return min(levels) > 0 and max(levels) / min(levels) >= WIDE


def curve(table: pl.DataFrame, count: int = 121) -> pl.DataFrame:
    """Returns Fritsch and Carlson's monotone interpolation of the means and of the ends of their intervals: between two
    levels it neither overshoots nor turns.

    A Gaussian process was tried and dropped: with few levels of different spread, it passed far from the points where
    the response bends.
    """
    known = table.filter(pl.col("low").is_not_nan() & pl.col("low").is_not_null())
    if known.height < FEWEST:
        return pl.DataFrame(schema=CURVE)
    levels = known["level"].to_list()
    log = logarithmic(levels)
    x = np.log(levels) if log else np.array(levels)
    at = np.linspace(x.min(), x.max(), count)
    parts = [PchipInterpolator(x, known[name].to_numpy())(at) for name in ("mean", "low", "high")]
    rows = zip(np.exp(at) if log else at, *parts, strict=True)
    return pl.DataFrame([tuple(map(float, row)) for row in rows], schema=CURVE, orient="row")


def response_figure(
    panels: dict[str, tuple[pl.DataFrame, pl.DataFrame]], factor: str, seeds: dict[str, pl.DataFrame], log: bool
) -> Figure:
    """Draws one panel per metric: its mean at each level with the interval, the seeds as dots, and the fitted curve
    with its band."""
    with plt.rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.1 * rows), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (name, (table, fitted)) in zip(axes.flat, panels.items(), strict=False):
            axis.plot(seeds[name]["level"], seeds[name]["value"], ".", color=SOFT, ms=3, alpha=0.6)
            if fitted.height:
                axis.fill_between(
                    fitted["level"], fitted["low"], fitted["high"], color=PALETTE[2], alpha=0.15, linewidth=0
                )
                axis.plot(fitted["level"], fitted["fit"], color=PALETTE[2], linewidth=1.4)
            spread = np.nan_to_num(
                [(table["mean"] - table["low"]).to_numpy(), (table["high"] - table["mean"]).to_numpy()]
            )
            axis.errorbar(table["level"], table["mean"], yerr=spread, fmt="o", color=INK, ms=4.5, lw=1.2)
            if log:
                axis.set_xscale("log")
                axis.minorticks_off()
            axis.set_xticks(table["level"].to_list(), [f"{level:g}" for level in table["level"]])
            axis.set_title(title(name), fontsize=10, loc="left")
            axis.set_xlabel(short(factor))
        figure.tight_layout()
        return figure
