"""The answer: the effect of each arm on the primary metric, its uncertainty, and what this number of seeds can show."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from analysis.paired import (
    BASELINE,
    BOLD,
    EQUIVALENT,
    FEW,
    HIGHER,
    LOWER,
    NONE,
    RANKED,
    UNDECIDED,
    arm_names,
    compare,
    contrast_table,
    noun,
    within,
)
from analysis.power import MOST_SEEDS, POWER, power, seeds_needed
from analysis.runs import Runs
from analysis.section import Plot, Row, Section, Table
from analysis.statistics import mean_interval
from analysis.style import INK, SOFT, STYLE, colour_of
from analysis.wording import amount, counted, listed, number, probability, signed
from workbench.metrics import SPLITS, metric, split_of, title
from workbench.significance import fewest_seeds

RULE = (
    "An arm raises or lowers the metric where its adjusted p is at most .05; except for p of ranks, this is where its"
    " interval for all arms at once excludes 0. It is equivalent to the baseline where that interval lies within the"
    " margin. All else is undecided, which is no evidence of equality. Intervals: Student's over paired seeds (this arm"
    " alone), and simultaneous ones from the sign flips of the test (all arms at once)."
)
PLANNING_HEADS = ("arm", "paired seeds", "sd of the differences", "power for the margin", f"seeds for {POWER:.0%}")


def section(runs: Runs) -> Section:
    """Returns the answer in a sentence, a table with one row per arm, the forest plot, divergence, and planning."""
    primary, margin = runs.record.primary, runs.record.margin
    frame = compare(runs, [primary], margin)
    compared = frame.filter(pl.col("verdict") != BASELINE)
    planning = planning_table(compared, margin)
    tables = [contrast_table(runs, frame, note=" ".join([BOLD, *([RANKED] if compared["ranked"].any() else [])]))]
    tables += [*_sensitivity(runs, compared), *([_planning(planning, margin)] if planning.height else [])]
    drawn = [_forest(runs, frame, primary, margin)] if compared["difference"].is_not_null().any() else []
    return Section(
        "answer",
        "Answer",
        [answer(runs, frame)],
        warnings=divergence(runs),
        tables=tables,
        plots=drawn,
        notes=[RULE, *([] if margin else [NO_MARGIN])] if compared.height else [],
        split=SPLITS.get(split_of(primary) or "", ""),
        frames={"contrasts": frame, "planning": planning},
    )


NO_MARGIN = (
    "The experiment states no margin, so the report cannot say which differences are too small to matter: set"
    " `margin:` in its YAML file."
)


def answer(runs: Runs, frame: pl.DataFrame) -> str:
    """Returns one sentence: which arms raise, lower or equal the metric, and which are undecided."""
    primary, margin = runs.record.primary, runs.record.margin
    row, names = metric(primary), arm_names(runs)
    rows = list(frame.filter(pl.col("verdict") != BASELINE).iter_rows(named=True))
    if not rows:
        return _alone(runs, frame)
    first: list[str] = []
    if runs.trials.height and (runs.trials["outcome"] == "diverged").all():
        return (
            f"Every trial diverged, {counted(runs.trials.height, 'trial')} in all: there is no {row.title} to compare."
        )
    base = frame.filter(pl.col("verdict") == BASELINE).to_dicts()
    if base and base[0]["diverged"] == base[0]["trials"]:
        first = [f"the baseline {names[runs.baseline]} diverged in every trial"]
    groups = {
        name: [contrast for contrast in rows if contrast["verdict"] == name]
        for name in (HIGHER, LOWER, EQUIVALENT, UNDECIDED, FEW, NONE)
    }
    clauses = []
    if not groups[HIGHER] and any(groups[name] for name in (LOWER, EQUIVALENT, UNDECIDED)):
        what = "raise" if groups[LOWER] else "change"
        clauses.append(f"no {noun(runs)} is shown to {what} {row.title}")
    for verdict, verb in ((HIGHER, "raise"), (LOWER, "lower")):
        if groups[verdict]:
            clauses.append(_moved(groups[verdict], names, verb, "it " if clauses else f"{row.title} ", primary, margin))
    if groups[EQUIVALENT] and margin:
        who = _who(groups[EQUIVALENT], names)
        clauses.append(f"{who} {_is(groups[EQUIVALENT])} equivalent to the baseline within {amount(margin, row)}")
    if groups[UNDECIDED]:
        clauses.append(f"{_who(groups[UNDECIDED], names)} {_is(groups[UNDECIDED])} undecided")
    if groups[FEW]:
        counts = sorted({contrast["paired"] for contrast in groups[FEW]})
        has = "has" if len(groups[FEW]) == 1 else "have"
        amounts = listed([counted(count, "paired seed") for count in counts], "or")
        clauses.append(
            f"{_who(groups[FEW], names)} {has} {amounts} of {row.title}, too few for a verdict ({fewest_seeds()} are"
            " needed)"
        )
    if groups[NONE]:
        clauses.append(
            f"{_who(groups[NONE], names)} {_is(groups[NONE])} not compared, having no value of {row.title} that pairs"
            " with the baseline's"
        )
    text = "; ".join(first + clauses)
    return (
        f"{text[0].upper()}{text[1:]}." if text.startswith(("no ", "the baseline ")) else f"{text}."
    )  # arms keep theirs


def _alone(runs: Runs, frame: pl.DataFrame) -> str:
    """Returns the answer where there is no other arm."""
    row = metric(runs.record.primary)
    if frame.is_empty():
        return f"No trial of the baseline {runs.baseline} has ended: there is nothing to compare yet."
    baseline = frame.row(0, named=True)
    if baseline["mean"] is None:
        diverged = f"{baseline['diverged']} of {counted(baseline['trials'], 'trial')} diverged"
        why = diverged if baseline["diverged"] else "it was not measured"
        return f"{baseline['arm']} has no final value of {row.title}: {why}."
    return (
        f"{baseline['arm']} reaches {row.title} {number(baseline['mean'])} ({counted(baseline['seeds'], 'seed')});"
        " there is no other arm to compare it with."
    )


def _moved(
    rows: list[dict[str, Any]], names: dict[str, str], verb: str, what: str, primary: str, margin: float | None
) -> str:
    """Returns a clause such as `0.75 and 1.0 lower it by 2.5 and 16.5 points`; for ranked arms, without an amount."""
    plain = [contrast for contrast in rows if not contrast["ranked"]]
    ranked = [contrast for contrast in rows if contrast["ranked"]]
    clauses = []
    if plain:
        sizes = [amount(contrast["difference"], metric(primary)) for contrast in plain]
        unit = " points" if all(size.endswith(" points") for size in sizes) else ""
        sizes = [size.removesuffix(unit) for size in sizes]
        small = [contrast for contrast in plain if within(contrast, margin)]
        note = (
            ""
            if not small
            else (
                ", less than the margin"
                if len(small) == len(plain)
                else f" ({_who(small, names)} by less than the margin)"
            )
        )
        clauses.append(f"{_who(plain, names)} {verb}{_s(plain)} {what}by {listed(sizes)}{unit}{note}")
    if ranked:
        clauses.append(f"{_who(ranked, names)} {verb}{_s(ranked)} {what}with diverged trials ranked worst")
    return "; ".join(clauses)


def _who(rows: Sequence[dict[str, Any]], names: dict[str, str]) -> str:
    return listed([names[row["arm"]] for row in rows])


def _is(rows: Sequence[object]) -> str:
    return "is" if len(rows) == 1 else "are"


def _s(rows: Sequence[object]) -> str:
    return "s" if len(rows) == 1 else ""


def divergence(runs: Runs) -> list[str]:
    """Returns a sentence for each arm with diverged trials; divergence is an outcome, too."""
    counts = (
        runs.outcomes()
        .group_by("arm", maintain_order=True)
        .agg(pl.len(), (pl.col("outcome") == "diverged").sum().alias("diverged"))
    )
    by_arm = {arm: (count, diverged) for arm, count, diverged in counts.iter_rows()}
    return [
        f"{by_arm[arm][1]} of {counted(by_arm[arm][0], 'trial')} of {arm} diverged, without a final value."
        for arm in runs.arms
        if arm in by_arm and by_arm[arm][1]
    ]


def _sensitivity(runs: Runs, compared: pl.DataFrame) -> list[Table]:
    """Returns the analysis with and without diverged trials, for the arms where it matters."""
    rows = []
    ranked = compared.filter(pl.col("ranked"))
    if ranked.is_empty():
        return []
    lower = metric(runs.record.primary).lower_is_better
    others = replace(runs, trials=runs.trials.filter(pl.col("outcome") != "diverged"))
    left_out = compare(others, [runs.record.primary])
    for row in ranked.iter_rows(named=True):
        better = {HIGHER: "worse" if lower else "better", LOWER: "better" if lower else "worse"}.get(
            row["verdict"], row["verdict"]
        )
        alone = left_out.filter(pl.col("arm") == row["arm"])
        p = alone["p_adjusted"][0] if alone.height else None
        rows += [
            Row(
                [
                    row["arm"],
                    "diverged trials ranked worst",
                    probability(row["p"]),
                    probability(row["p_adjusted"]),
                    better,
                ]
            ),
            Row(
                [
                    "",
                    "diverged trials left out",
                    probability(alone["p"][0] if alone.height else None),
                    probability(p),
                    signed(row["difference"]),
                ]
            ),
        ]
    note = (
        "The answer rests on the first line of each pair. Leaving out trials that diverged flatters an arm whose"
        " weakest seeds diverge."
    )
    heads = ("arm", "analysis", "p", "adjusted p", "against the baseline")
    return [Table("Sensitivity to divergence", heads, rows, note)]


PLANNING = {
    "arm": pl.String,
    "paired": pl.Int64,
    "spread": pl.Float64,
    "power": pl.Float64,
    "seeds_needed": pl.Int64,
}


def planning_table(compared: pl.DataFrame, margin: float | None) -> pl.DataFrame:
    """Returns per arm: the power of its seeds for a difference as large as the margin, and the seeds needed for
    `POWER`, in the family that the answer judges. Both are independent of the observed difference (Hoenig and Heisey
    2001)."""
    rows = []
    known = compared.filter((pl.col("spread") > 0) & ~pl.col("ranked").fill_null(False))
    family = max(1, compared.filter(pl.col("verdict") != FEW).height)
    for row in known.iter_rows(named=True) if margin else []:
        effect = round(margin / row["spread"], 2)
        needed = seeds_needed(effect, family)
        rows.append((row["arm"], row["paired"], row["spread"], power(effect, row["paired"], family), needed))
    return pl.DataFrame(rows, schema=PLANNING, orient="row")


def _planning(planning: pl.DataFrame, margin: float | None) -> Table:
    rows = [
        Row(
            [
                row["arm"],
                str(row["paired"]),
                number(row["spread"], 4),
                f"{row['power']:.0%}",
                str(row["seeds_needed"] or f"more than {MOST_SEEDS}"),
            ]
        )
        for row in planning.iter_rows(named=True)
    ]
    note = (
        f"How often a true difference of {margin:g} would be found, if the differences over seeds have the observed"
        " standard deviation; from simulated sweeps under the rule of the answer, accurate to about 3 points. It does"
        " not depend on the observed difference."
    )
    return Table(f"What these seeds can show of a difference of {margin:g}", PLANNING_HEADS, rows, note)


def _forest(runs: Runs, frame: pl.DataFrame, primary: str, margin: float | None) -> Plot:
    caption = (
        f"Difference from the baseline in {title(primary)}: paired seeds as dots, the mean, and its interval for all"
        " arms at once"
    )
    caption += f"; shaded: differences smaller than the margin of {margin:g}." if margin else "."
    return Plot("forest", caption, forest_figure(runs, frame, primary, margin))


def forest_figure(runs: Runs, frame: pl.DataFrame, primary: str, margin: float | None) -> Figure:
    """Draws one row per arm: paired differences as dots, their mean, and the simultaneous interval; the margin as a
    band."""
    final = runs.final(primary)
    base = final.filter(pl.col("arm") == runs.baseline).select("seed", base="value")
    paired = final.join(base, on="seed").with_columns(difference=pl.col("value") - pl.col("base"))
    rows = list(frame.filter(pl.col("verdict") != BASELINE).iter_rows(named=True))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 1.1 + 0.5 * len(rows)))  # long arm names are on the left
        if margin:
            axis.axvspan(-margin, margin, color=SOFT, alpha=0.12, linewidth=0)
        axis.axvline(0, color=SOFT, linewidth=1)
        for index, row in enumerate(rows):
            colour, marker = colour_of(runs.arms, row["arm"])
            dots = paired.filter(pl.col("arm") == row["arm"]).sort("seed")["difference"].to_numpy()
            at = index + 0.16 * np.linspace(-1, 1, max(1, len(dots)))[: len(dots)]
            axis.plot(dots, at, "o", color=colour, ms=3, alpha=0.45, markeredgewidth=0)
            low, high = row["all_low"], row["all_high"]
            if low is None:
                alone = mean_interval(dots)
                low, high = alone.low, alone.high
            if np.isfinite(low) and np.isfinite(high):
                axis.plot([low, high], [index, index], color=colour, linewidth=2, solid_capstyle="butt")
            if row["difference"] is not None:
                axis.plot([row["difference"]], [index], marker, color=colour, ms=7, markeredgecolor="white")
            if row["diverged"]:
                axis.annotate(
                    f"{row['diverged']} diverged",
                    (1, index),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="bottom",
                    fontsize=8,
                    color=INK,
                )
        axis.set_yticks(range(len(rows)), [row["arm"] for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel(f"{metric(primary).title}, minus the baseline")
        axis.grid(axis="y", visible=False)
        return figure
