"""Calibration: the model's confidence compared with its accuracy (Guo et al. 2017)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from analysis.paired import BASELINE, BOLD, compare, sure
from analysis.runs import Runs
from analysis.section import Plot, Row, Section, Table
from analysis.statistics import ratio_interval
from analysis.style import SOFT, STYLE, colour_of, legend
from analysis.wording import number, probability, signed, spread
from workbench.metrics import title

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
ERRORS = ("test/itm_ece", "test/mlm_ece")
CAPTION = (
    "How often an answer is right, by how sure the model is of it, with 95 % intervals over seeds; the area of a marker"
    " is its share of all answers; on the dashed line confidence is accuracy. 15 bins of equal width."
)
NOTE = (
    "A calibration error is never zero on finitely many answers. Its noise floor is what a perfectly calibrated model"
    " with the same confidences would show on average; only the part above it is due to miscalibration."
)


def section(runs: Runs) -> Section | None:
    """Returns calibration errors with their noise floors, and reliability diagrams."""
    reliability = reliability_table(runs)
    errors = compare(runs, [name for name in ERRORS if not runs.final(name).is_empty()])
    if reliability.is_empty() and errors.is_empty():
        return None
    plots = [Plot("reliability", CAPTION, reliability_figure(reliability, runs.arms))] if reliability.height else []
    return Section(
        "calibration",
        "Calibration",
        tables=[_table(runs, errors)] if errors.height else [],
        plots=plots,
        notes=[NOTE, BOLD],
        split="test",
        frames={"reliability": reliability, "calibration": errors},
    )


def _table(runs: Runs, errors: pl.DataFrame) -> Table:
    rows = []
    for row in errors.iter_rows(named=True):
        floor = runs.final(f"{row['metric']}_floor").filter(pl.col("arm") == row["arm"])["value"].mean()
        rows.append(
            Row(
                [
                    row["arm"],
                    title(row["metric"]),
                    number(row["mean"]),
                    spread(row["low"], row["high"]),
                    number(floor if isinstance(floor, float) else None),
                    signed(row["difference"]),
                    spread(row["all_low"], row["all_high"], signed),
                    probability(row["p_adjusted"]),
                ],
                row["verdict"] != BASELINE and sure(row),
            )
        )
    heads = (
        "arm",
        "error",
        "mean",
        "95 % interval",
        "noise floor",
        "minus baseline",
        "95 %, all at once",
        "adjusted p",
    )
    return Table("Expected calibration error", heads, rows)


def reliability_table(runs: Runs) -> pl.DataFrame:
    """Returns the data of a reliability diagram: one row per head (`itm`, `mlm`), arm and bin of confidence. Means are
    over all answers of all seeds. The interval of the accuracy is that of the same mean over the seeds with answers in
    the bin. `share`: of all answers."""
    logged = runs.metrics.filter(pl.col("metric").str.starts_with("reliability/"))
    if logged.is_empty():
        return pl.DataFrame(schema=RELIABILITY)
    parts = pl.col("metric").str.split("/")
    placed = logged.with_columns(head=parts.list.get(1), bin=parts.list.get(2).cast(pl.Int64), name=parts.list.get(3))
    wide = placed.join(runs.trials, on="run_id").pivot(
        "name", on_columns=["accuracy", "confidence", "share"], index=["head", "arm", "seed", "bin"], values="value"
    )
    seeds = dict(wide.group_by("arm").agg(pl.col("seed").n_unique()).iter_rows())
    rows = []
    for (head, arm, index), group in wide.sort("head", "arm", "bin", "seed").group_by(
        "head", "arm", "bin", maintain_order=True
    ):
        shares, right, confidences = (group[name].to_numpy() for name in ("share", "accuracy", "confidence"))
        accuracy = ratio_interval(shares * right, shares, (0.0, 1.0))
        confidence = float((shares * confidences).sum() / shares.sum())
        share = float(shares.sum()) / seeds[str(arm)]
        rows.append((head, arm, index, confidence, accuracy.mean, accuracy.low, accuracy.high, share))
    return pl.DataFrame(rows, schema=RELIABILITY, orient="row").with_columns(pl.col("low", "high").fill_nan(None))


HEADS = {"itm": "image-text matching", "mlm": "masked words"}


def reliability_figure(table: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Draws one panel per head: accuracy over confidence, with 95 % intervals over seeds. The area of a marker is the
    share of answers. The dashed diagonal is a calibrated model."""
    heads = [head for head in HEADS if head in table["head"].to_list()]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(heads), figsize=(4.6 * len(heads), 3.9), squeeze=False)
        for axis, head in zip(axes.flat, heads, strict=True):
            rows = table.filter(pl.col("head") == head)
            low = min(0.5 if head == "itm" else 0.0, *rows["confidence"].to_list())
            axis.plot([low, 1], [low, 1], color=SOFT, linestyle="--", linewidth=1)
            for arm in arms:
                colour, marker = colour_of(arms, arm)
                part = rows.filter(pl.col("arm") == arm).sort("bin")
                intervals = part.drop_nulls(["low", "high"])
                axis.vlines(
                    intervals["confidence"], intervals["low"], intervals["high"], color=colour, alpha=0.35, lw=1
                )
                axis.plot(part["confidence"], part["accuracy"], color=colour, linewidth=1, alpha=0.8)
                sizes = 10 + 250 * part["share"].to_numpy()
                axis.scatter(
                    part["confidence"], part["accuracy"], s=sizes, color=colour, marker=marker, alpha=0.75, linewidths=0
                )
                axis.plot([], [], marker, color=colour, ms=4, label=arm)
            axis.set_xlim(low - 0.02, 1.02)
            axis.set_title(HEADS[head], fontsize=10, loc="left")
            axis.set_xlabel("confidence")
        axes[0, 0].set_ylabel("accuracy")
        legend(figure, axes[0, 0])
        return figure
