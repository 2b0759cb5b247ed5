"""Foils and published suites by kind, and what the text alone reveals without an image."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from analysis.paired import BASELINE, BOLD, compare, sure
from analysis.runs import Runs
from analysis.section import Plot, Row, Section, Table
from analysis.style import SOFT, STYLE, colour_of, legend
from analysis.wording import listed, number
from workbench.metrics import OWN_SUITES, counted_as, metric, spaced

PREFIX, BLANK = "compositional/", "blank_image/"
CHANCE = 0.5  # of a pair of captions
PARTIAL = "†"  # marks a score that is not about all of a suite's items
NEAR = 0.05  # maximum distance from chance of the interval of a kind that counts as guessed
SUITE = {
    "arm": pl.String,
    "kind": pl.String,
    "seeds": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "blank_image": pl.Float64,
    "chance": pl.Float64,
    "items": pl.Int64,
    "missing": pl.Int64,
    "identical": pl.Int64,
    "difference": pl.Float64,
    "all_low": pl.Float64,
    "all_high": pl.Float64,
    "p_adjusted": pl.Float64,
    "verdict": pl.String,
}
CAPTION = (
    "Mean over seeds with 95 % intervals; the bar behind each point is the score with a gray image: what the text"
    " reveals. The dashed line is chance."
)


def sections(runs: Runs) -> list[Section]:
    """Returns one section per suite that some trial was measured on."""
    return [_section(runs, suite) for suite in suite_names(runs)]


def suite_names(runs: Runs) -> list[str]:
    return sorted({name.split("/")[1] for name in runs.names(BLANK)})


def _section(runs: Runs, suite: str) -> Section:
    table = suite_table(runs, suite)
    guessed = at_chance(table)
    lead = (
        [
            f"{listed([spaced(kind) for kind in guessed])} {'is' if len(guessed) == 1 else 'are'} at chance in every"
            f" arm, within {100 * NEAR:.0f} points."
        ]
        if guessed
        else []
    )
    base, _, part = suite.partition("-")
    published = base.replace("_", " ").title() + (f" ({part.replace('-', ' ')})" if part else "")
    return Section(
        f"suite_{suite}",
        "Foils by kind" if suite in OWN_SUITES else published,
        [text[0].upper() + text[1:] for text in lead],
        tables=[_scores(table, runs, guessed)],
        plots=[Plot(f"suite_{suite}", CAPTION + _mark_note(table), suite_figure(table, runs.arms))],
        notes=[
            BOLD.replace("Bold", "*").replace("a bold row", "a *"),
            "(…) the score with a gray image.",
            *_of_items(table),
        ],
        split="test" if suite in OWN_SUITES else "as published",
        frames={f"suite_{suite}": table},
    )


def suite_table(runs: Runs, suite: str) -> pl.DataFrame:
    """Returns one row per arm and kind, as `SUITE`: the score with its interval over seeds, the mean score with a gray
    image, and the contrast with the baseline. All kinds and arms of the suite are one family."""
    prefix = f"{PREFIX}{suite}/"
    frame = compare(runs, runs.names(prefix)).filter(pl.col("mean").is_not_null())
    blank = {}
    for name in runs.names(prefix):
        kind = name.removeprefix(prefix)
        for (arm,), group in runs.final(f"{BLANK}{suite}/{kind}").group_by("arm"):
            blank[arm, kind] = float(group["value"].mean())  # type: ignore[arg-type]
    counts = {name: count_of(runs, suite, name) for name in ("items", "missing", "identical")}
    rows = []
    for row in frame.iter_rows(named=True):
        kind = row["metric"].removeprefix(prefix)
        counted = counted_as(kind, counts["items"])
        of = {name: known.get(counted) if counted else None for name, known in counts.items()}
        gray = {"blank_image": blank.get((row["arm"], kind)), "chance": metric(row["metric"]).chance}
        rows.append(row | {"kind": kind} | gray | of)
    return pl.DataFrame([{name: row[name] for name in SUITE} for row in rows], schema=SUITE)


def count_of(runs: Runs, suite: str, what: str) -> dict[str, int]:
    """Returns kind -> the minimum number of items that a trial was measured on, or the maximum number missing or
    identical. It is empty where no trial logged it, as for the foils of a trial's own test split."""
    prefix = f"suite_{what}/{suite}/"
    worst = min if what == "items" else max
    return {
        name.removeprefix(prefix): int(worst(runs.final(name)["value"].to_list()))
        for name in runs.names(prefix)
        if not runs.final(name).is_empty()
    }


def _mark_note(table: pl.DataFrame) -> str:
    return f" {PARTIAL} of a part of the items." if (table["missing"] > 0).any() else ""


def _of_items(table: pl.DataFrame) -> list[str]:
    """Returns notes on the column of items, where there is one."""
    if table["items"].is_null().all():
        return []
    notes = ["Items: those that the score is about."]
    if (table["missing"] > 0).any():
        notes.append(f"{PARTIAL} The other items had no image that could be read: the score is not that of the suite.")
    if (table["identical"] > 0).any():
        notes.append(
            "Left out of the items: those whose captions the model cannot distinguish, since they read the same to it."
        )
    return notes


def at_chance(table: pl.DataFrame) -> list[str]:
    """Returns the kinds for which every arm's 95 % interval contains chance and stays within `NEAR` of it: they are
    shown to be guessed, not merely not shown to be better."""
    guessed = (
        (pl.col("low") <= pl.col("chance"))
        & (pl.col("high") >= pl.col("chance"))
        & (pl.col("low") >= pl.col("chance") - NEAR)
        & (pl.col("high") <= pl.col("chance") + NEAR)
    )
    by_kind = table.group_by("kind").agg(guessed.fill_null(False).all().alias("guessed"))
    return sorted(by_kind.filter("guessed")["kind"])


def _scores(table: pl.DataFrame, runs: Runs, guessed: Sequence[str]) -> Table:
    """Returns a table of kinds x arms, with kinds at chance in every arm last."""
    known = {(row["arm"], row["kind"]): row for row in table.iter_rows(named=True)}
    arms = [arm for arm in runs.arms if arm in table["arm"].to_list()]
    kinds = [kind for kind in sorted(set(table["kind"])) if kind not in guessed] + list(guessed)
    items = not table["items"].is_null().all()
    rows = []
    for kind in kinds:
        cells = [_items_cell(table.filter(pl.col("kind") == kind).row(0, named=True))] if items else []
        for arm in arms:
            row = known.get((arm, kind))
            if row is None:
                cells.append("–")
                continue
            gray = f" ({number(row['blank_image'])})" if row["blank_image"] is not None else ""
            cells.append(number(row["mean"]) + ("*" if row["verdict"] != BASELINE and sure(row) else "") + gray)
        rows.append(Row([spaced(kind) + (" (at chance)" if kind in guessed else ""), *cells]))
    return Table("Score by kind", ("kind", *(["items"] if items else []), *arms), rows)


def _items_cell(row: dict[str, Any]) -> str:
    if row["items"] is None:
        return "–"
    total = row["items"] + (row["missing"] or 0) + (row["identical"] or 0)
    of = f" of {total:,}" if total > row["items"] else ""
    return f"{row['items']:,}{of}{f' {PARTIAL}' if row['missing'] else ''}"


def suite_figure(table: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Draws scores by kind with their intervals. A bar behind each point is the score without an image."""
    kinds = table["kind"].unique(maintain_order=True).sort().to_list()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(max(6.0, 1.25 * len(kinds)), 3.3))
        for index, arm in enumerate(arms):
            colour, marker = colour_of(arms, arm)
            part = table.filter(pl.col("arm") == arm)
            width = 0.8 / max(1, len(arms))
            x = [kinds.index(kind) + (index - (len(arms) - 1) / 2) * width for kind in part["kind"]]
            blank = part["blank_image"].fill_null(float("nan")).to_list()
            axis.bar(x, blank, 0.8 * width, color=colour, alpha=0.25, linewidth=0)
            # A single seed has no interval.
            spread = [(part[a] - part[b]).fill_null(0.0).to_list() for a, b in (("mean", "low"), ("high", "mean"))]
            axis.errorbar(x, part["mean"].to_list(), yerr=spread, fmt=marker, color=colour, label=arm, ms=4, lw=1.2)
        facts = {row["kind"]: row for row in table.iter_rows(named=True)}
        marks = [f" {PARTIAL}" if facts[kind]["missing"] else "" for kind in kinds]
        names = [f"{spaced(kind)}{mark}" for kind, mark in zip(kinds, marks, strict=True)]
        axis.set_xticks(range(len(kinds)), names, rotation=25, ha="right")
        chances = [facts[kind]["chance"] for kind in kinds]
        if set(chances) == {CHANCE}:
            axis.axhline(CHANCE, color=SOFT, linestyle="--", linewidth=1)
        else:
            places = range(len(kinds))
            axis.hlines(chances, [x - 0.45 for x in places], [x + 0.45 for x in places], SOFT, "--", linewidth=1)
        axis.set_ylabel("score (bar: gray image)")
        axis.set_ylim(0.0, 1.02)
        legend(figure, axis)
        return figure
