"""How much each arm loses when images or captions are disturbed.

Scores are matching AUC, for which guessing scores at chance and not at zero: a loss is therefore given as a share of
the score above chance.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from scipy.special import logit

from analysis.paired import BOLD, HIGHER, RANKED, compare, contrast_table, sure
from analysis.runs import Runs
from analysis.section import Plot, Row, Section, Table
from analysis.statistics import mean_interval
from analysis.style import MOST_COLUMNS, SOFT, STYLE, colour_of, legend
from analysis.wording import counted, number, signed
from workbench.metrics import metric, spaced

# `wb eval --suite robustness` measures all kinds; the end of a trial measures a few of them.
EVERY, FEW = "robustness_all/", "robustness/"
LOSS = "robustness_loss/"  # followed by a kind: the loss of one trial
SUMMARIES = ("robustness_mean_drop", "corruption_error", "effective_robustness")
CHANCE = float(metric(FEW + "clean").chance or 0.0)
FLOOR = 0.05  # a clean score closer to chance has nothing to lose
SCORES = {"arm": pl.String, "seed": pl.Int64, "value": pl.Float64, "kind": pl.String, "severity": pl.Int64}
SEVERITY = {
    "arm": pl.String,
    "kind": pl.String,
    "severity": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
FLOORS = {"arm": pl.String, "kind": pl.String, "floor": pl.Boolean}


def section(runs: Runs) -> Section | None:
    """Returns losses by kind of disturbance, scores by severity, and clean against disturbed scores."""
    scored = scores(runs)
    points = clean_and_disturbed(scored)
    if points.is_empty():
        return None
    lost = losses(scored)
    names = {LOSS + kind: frame for (kind,), frame in lost.group_by("kind", maintain_order=True)}
    kinds = sorted(names)
    summaries = [name for name in SUMMARIES if not runs.final(name).is_empty()]

    def values(name: str) -> pl.DataFrame:
        return names[name].select("arm", "seed", "value") if name in names else runs.final(name)

    frame = compare(runs, [*summaries, *kinds], values=values)
    floors = at_floor(scored)
    by_kind = frame.filter(pl.col("metric").str.starts_with(LOSS)).with_columns(
        kind=pl.col("metric").str.strip_prefix(LOSS)
    )
    drops = by_kind.join(floors, on=["arm", "kind"], how="left", maintain_order="left")
    tables = [contrast_table(runs, frame.filter(pl.col("metric") == name), metric(name).title) for name in summaries]
    tables.append(_kinds(drops))
    curves = severity_curves(scored)
    return Section(
        "robustness",
        "Robustness",
        [LEAD],
        _sentences(frame, floors, runs),
        tables=tables,
        plots=[
            Plot("losses", LOSSES_CAPTION, losses_figure(drops, runs.arms)),
            Plot("severity", SEVERITY_CAPTION, severity_figure(curves, runs.arms)),
            Plot("clean_disturbed", SCATTER_CAPTION, scatter_figure(points, runs.arms, runs.baseline)),
        ],
        notes=[NOTE, BOLD, *([RANKED] if frame["ranked"].any() else [])],
        split=split(runs),
        frames={
            "robustness": drops,
            "robustness_summaries": frame,
            "robustness_by_severity": curves,
            "robustness_values": scored,
        },
    )


LEAD = (
    "The share of the matching AUC above chance (0.5) that is lost under disturbed images and captions, (clean −"
    " disturbed) / (clean − chance), averaged over kinds and severities."
)
NOTE = (
    "Loss: for a metric without a chance level this is the MMI of Qiu et al. (2022). Corruption error: the mean error"
    " (1 − AUC) as a ratio to that of the baseline's trial of the same seed, after mCE (Hendrycks and Dietterich"
    " 2019). Effective robustness: logit of the disturbed score less the logit that a trial would have if it lost the"
    " same share above chance as the baseline's trial of the same seed, in the manner of Taori et al. (2020); 0 for"
    f" the baseline. A clean score less than {FLOOR} above chance has nothing to lose and no loss; scores within"
    f" {FLOOR} of chance and not significantly different from it are marked ⊥: their losses show how much there was to"
    " lose, not how robust the arm is."
)
LOSSES_CAPTION = (
    "Loss above chance in per cent, averaged over severities and seeds; darker is worse. * differs from the baseline"
    " (adjusted p at most .05 over the whole section). ⊥ the disturbed scores are not significantly"
    " different from chance."
)
SEVERITY_CAPTION = (
    "Matching AUC against random captions, from undisturbed (0) to the strongest disturbance, with 95 % intervals;"
    " dotted: chance."
)
SCATTER_CAPTION = (
    "Dots are trials, large markers means of arms. On the dashed line an arm loses the same share above chance as the"
    " baseline; above it, less: effective robustness."
)


def split(runs: Runs) -> str:
    """Returns the split of the scores. Version 1, whose trials did not record their numbers of pairs, measured the few
    kinds on the validation split."""
    if _prefix(runs) == EVERY or not runs.tags:
        return "test"
    splits = {"test" if tags.pairs else "validation" for tags in runs.tags.values()}
    return " and ".join(sorted(splits))


def _prefix(runs: Runs) -> str:
    """Returns the prefix of all kinds where all trials were measured on them, else that of the few."""
    whole = runs.final(f"{EVERY}clean/0")
    finished = runs.outcomes().filter(pl.col("outcome") != "diverged")
    return EVERY if len(whole) and len(whole) == len(finished) else FEW


def scores(runs: Runs) -> pl.DataFrame:
    """Returns `arm`, `seed`, `kind`, `severity`, `value`. The undisturbed score has the kind `clean` and severity 0."""
    prefix = _prefix(runs)
    frames = []
    for name in runs.names(prefix):
        kind, severity = name.removeprefix(prefix).split("/")
        frames.append(runs.final(name).with_columns(kind=pl.lit(kind), severity=pl.lit(int(severity), dtype=pl.Int64)))
    return pl.concat(frames) if frames else pl.DataFrame(schema=SCORES)


def severity_curves(scored: pl.DataFrame) -> pl.DataFrame:
    """Returns mean and interval over seeds. Every kind starts from the clean score at severity 0."""
    clean = scored.filter(pl.col("kind") == "clean")
    kinds = [kind for kind in scored["kind"].unique(maintain_order=True) if kind != "clean"]
    started = [clean.with_columns(kind=pl.lit(kind)) for kind in kinds]
    everything = pl.concat([*started, scored.filter(pl.col("kind") != "clean")]) if kinds else scored.clear()
    rows = []
    for (arm, kind, severity), group in everything.group_by("arm", "kind", "severity", maintain_order=True):
        interval = mean_interval(group["value"].to_numpy(), (0.0, 1.0))
        rows.append((arm, kind, severity, interval.mean, interval.low, interval.high))
    return pl.DataFrame(rows, schema=SEVERITY, orient="row").sort("arm", "kind", "severity")


def losses(scored: pl.DataFrame, chance: float = CHANCE) -> pl.DataFrame:
    """Returns `arm`, `kind`, `seed`, `value`: (clean - disturbed) / (clean - chance), averaged over severities. Trials
    whose clean score is closer to chance than `FLOOR` have none. With a chance of 0 it is the MMI of Qiu et al.
    (2022)."""
    clean = scored.filter(pl.col("kind") == "clean").select("arm", "seed", clean="value")
    able = (
        scored.filter(pl.col("kind") != "clean")
        .join(clean, on=["arm", "seed"])
        .filter(pl.col("clean") - chance >= FLOOR)
    )
    return able.group_by("arm", "kind", "seed", maintain_order=True).agg(
        value=((pl.col("clean") - pl.col("value")) / (pl.col("clean") - chance)).mean()
    )


def derived(scored: pl.DataFrame, baseline: str) -> pl.DataFrame:
    """Returns `arm`, `seed`, `metric`, `value` of `SUMMARIES`, over all disturbances.

    `robustness_mean_drop`: the mean of `losses` over kinds. `corruption_error`: the mean error (1 - score) divided by
    the mean error of the baseline's trial of the same seed (a ratio of means over kinds, so that a kind in which the
    baseline makes no error does not dominate). `effective_robustness`: the logit of the mean disturbed score minus the
    logit of the score that would remain after losing the same share above chance as that baseline trial.
    """
    disturbed = scored.filter(pl.col("kind") != "clean")
    keys = ["arm", "seed"]
    drops = losses(scored).group_by(*keys, maintain_order=True).agg(pl.col("value").mean())
    by_kind = disturbed.group_by(*keys, "kind", maintain_order=True).agg(error=1 - pl.col("value").mean())
    errors = by_kind.group_by(*keys, maintain_order=True).agg(pl.col("error").mean())
    base = errors.filter((pl.col("arm") == baseline) & (pl.col("error") > 0)).select("seed", base="error")
    corruption = errors.join(base, on="seed").select(*keys, value=pl.col("error") / pl.col("base"))
    named = {
        "robustness_mean_drop": drops,
        "corruption_error": corruption,
        "effective_robustness": _effective(scored, baseline),
    }
    return pl.concat([frame.select(*keys, metric=pl.lit(name), value="value") for name, frame in named.items()])


def _effective(scored: pl.DataFrame, baseline: str) -> pl.DataFrame:
    points = clean_and_disturbed(scored).filter(pl.col("clean") - CHANCE >= FLOOR)
    kept = (pl.col("disturbed") - CHANCE) / (pl.col("clean") - CHANCE)
    base = points.filter(pl.col("arm") == baseline).select("seed", kept=kept)
    both = points.join(base, on="seed", maintain_order="left")
    expected = CHANCE + both["kept"].to_numpy() * (both["clean"].to_numpy() - CHANCE)
    gained = _logit(both["disturbed"].to_numpy()) - _logit(expected)
    return both.select("arm", "seed", value=pl.Series(gained, dtype=pl.Float64))


def _logit(scores: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(scores, 1e-4, 1 - 1e-4)))


def retention(base: pl.DataFrame) -> float | None:
    """Returns the share above chance that the baseline keeps under disturbance, from means over its trials; None where
    its clean score is too close to chance."""
    clean = base["clean"].mean() if base.height else None
    if not isinstance(clean, float) or clean - CHANCE < FLOOR:
        return None
    return (float(base["disturbed"].mean()) - CHANCE) / (clean - CHANCE)  # type: ignore[arg-type]


def at_floor(scored: pl.DataFrame) -> pl.DataFrame:
    """Returns `arm`, `kind`, `floor`: whether an arm's scores under a kind, averaged over severities, are on average
    within `FLOOR` of chance and not significantly different from it (95 %)."""
    rows = []
    disturbed = scored.filter(pl.col("kind") != "clean")
    by_seed = disturbed.group_by("arm", "kind", "seed", maintain_order=True).agg(pl.col("value").mean())
    for (arm, kind), group in by_seed.group_by("arm", "kind", maintain_order=True):
        interval = mean_interval(group["value"].to_numpy())
        low, high = (
            (interval.low, interval.high)
            if np.isfinite(interval.low)
            else (interval.mean - FLOOR, interval.mean + FLOOR)
        )
        rows.append((arm, kind, abs(interval.mean - CHANCE) <= FLOOR and low <= CHANCE <= high))
    return pl.DataFrame(rows, schema=FLOORS, orient="row")


def clean_and_disturbed(scored: pl.DataFrame) -> pl.DataFrame:
    """Returns `arm`, `seed`, `clean`, `disturbed`: the undisturbed score, and the mean of all disturbed ones."""
    clean = scored.filter(pl.col("kind") == "clean").select("arm", "seed", clean="value")
    disturbed = scored.filter(pl.col("kind") != "clean").group_by("arm", "seed", maintain_order=True)
    return clean.join(disturbed.agg(disturbed=pl.col("value").mean()), on=["arm", "seed"])


def _sentences(frame: pl.DataFrame, floors: pl.DataFrame, runs: Runs) -> list[str]:
    """Returns sentences on which arms lose more or less than the baseline, and which are near chance."""
    lines = []
    marked = dict(floors.filter("floor").group_by("arm").len().iter_rows())
    kinds = counted(floors["kind"].n_unique(), "kind")
    for row in frame.filter(pl.col("metric") == SUMMARIES[0]).iter_rows(named=True):
        if sure(row):
            verb = "loses more than" if row["verdict"] == HIGHER else "loses less than"
            size = f"{number(row['mean'])} ({signed(row['difference'])})"
            lines.append(
                f"{row['arm']} {verb} the baseline: {'diverged trials are ranked worst' if row['ranked'] else size}."
            )
    lines += [
        f"{arm} is near chance, and not significantly different, under {marked[arm]} of {kinds}."
        for arm in runs.arms
        if arm in marked
    ]
    return lines


def _kinds(drops: pl.DataFrame) -> Table:
    arms = drops["arm"].unique(maintain_order=True).to_list()
    known = {(row["arm"], row["kind"]): row for row in drops.iter_rows(named=True)}
    rows = []
    for kind in drops["kind"].unique(maintain_order=True):
        cells = [known.get((arm, kind)) for arm in arms]
        rows.append(Row([spaced(kind), *(_marked(cell) for cell in cells)]))
    return Table(
        "Loss above chance by kind, in per cent", ("kind", *arms), rows, "* and ⊥ as in the figure.", folded=True
    )


def _marked(cell: dict[str, Any] | None) -> str:
    if cell is None or cell["mean"] is None:
        return "⊥" if cell and cell["floor"] else "–"
    return number(100 * cell["mean"], 1) + (" *" if sure(cell) else "") + (" ⊥" if cell["floor"] else "")


def losses_figure(drops: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Draws a heat map of the loss, arms x kinds, or kinds x arms where there are many kinds; darker is worse."""
    kinds = drops["kind"].unique().sort().to_list()
    known = {(row["arm"], row["kind"]): row for row in drops.iter_rows(named=True)}
    many = len(kinds) > MOST_COLUMNS
    rows, columns = (kinds, list(arms)) if many else (list(arms), kinds)
    cells = [[known.get((c, r) if many else (r, c)) for c in columns] for r in rows]
    grid = np.array(
        [[cell["mean"] if cell and cell["mean"] is not None else np.nan for cell in row] for row in cells], dtype=float
    )
    with plt.rc_context(STYLE | {"axes.grid": False}):
        size = (3.6 + 1.0 * len(columns), 1.6 + (0.26 if many else 0.42) * len(rows))
        figure, axis = plt.subplots(figsize=size)
        highest = max(float(np.nanmax(grid)) if np.isfinite(grid).any() else 0.0, 1e-6)
        mesh = axis.pcolormesh(
            np.ma.masked_invalid(grid), cmap="cividis_r", vmin=0, vmax=highest, edgecolors="face", linewidth=0.2
        )
        for y, row in enumerate(cells):
            for x, cell in enumerate(row):
                if cell is not None:
                    dark = cell["mean"] is not None and cell["mean"] > 0.55 * highest
                    colour = "#fefefe" if dark else "#010101"  # on the map's colours, which a dark page does not change
                    axis.text(x + 0.5, y + 0.5, _marked(cell), ha="center", va="center", color=colour)
        labels = [[name if name in arms else spaced(name) for name in names] for names in (columns, rows)]
        axis.set_xticks(np.arange(len(columns)) + 0.5, labels[0], rotation=30, ha="right")
        axis.set_yticks(np.arange(len(rows)) + 0.5, labels[1])
        axis.invert_yaxis()
        for spine in axis.spines.values():
            spine.set_visible(False)
        figure.colorbar(mesh, ax=axis, label="loss above chance", format=lambda v, _: f"{100 * v:.0f} %")
        return figure


def severity_figure(curves: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Draws one panel per kind: score over severity, where 0 is undisturbed."""
    kinds = curves["kind"].unique(maintain_order=True).sort().to_list()
    with plt.rc_context(STYLE):
        columns = min(4, max(1, len(kinds)))
        rows = -(-len(kinds) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(2.6 * columns, 2.5 * rows), squeeze=False, sharex=True, sharey=True
        )
        for axis in axes.flat[len(kinds) :]:
            axis.set_visible(False)
        for axis, kind in zip(axes.flat, kinds, strict=False):
            axis.axhline(CHANCE, color=SOFT, linestyle=":", linewidth=1)
            for arm in arms:
                colour, marker = colour_of(arms, arm)
                part = curves.filter((pl.col("arm") == arm) & (pl.col("kind") == kind)).sort("severity")
                axis.fill_between(part["severity"], part["low"], part["high"], color=colour, alpha=0.12, linewidth=0)
                axis.plot(part["severity"], part["mean"], color=colour, marker=marker, markersize=3, label=arm)
            axis.set_title(spaced(kind), fontsize=10, loc="left")
            axis.set_xticks(sorted(set(curves["severity"])))
            axis.set_xlabel("severity")
        for row in axes:
            row[0].set_ylabel("matching AUC")
        legend(figure, axes.flat[0])
        return figure


def scatter_figure(points: pl.DataFrame, arms: Sequence[str], baseline: str) -> Figure:
    """Draws clean against disturbed scores, with a dot per trial and a large marker per arm's mean. The line keeps the
    baseline's share above chance."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 4.0))
        kept = retention(points.filter(pl.col("arm") == baseline))
        if kept is not None:
            ends = np.array([points["clean"].min(), points["clean"].max()], dtype=float)
            line = ends + max(0.005, 0.08 * float(np.ptp(ends))) * np.array([-1, 1])
            axis.plot(line, CHANCE + kept * (line - CHANCE), color=SOFT, linestyle="--", linewidth=1)
            axis.annotate(
                "as robust as the baseline",
                (line[-1], CHANCE + kept * (line[-1] - CHANCE)),
                (0, 4),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=SOFT,
            )
        for arm in arms:
            colour, marker = colour_of(arms, arm)
            trials = points.filter(pl.col("arm") == arm)
            axis.plot(trials["clean"], trials["disturbed"], marker, color=colour, ms=3.5, alpha=0.4, markeredgewidth=0)
            if trials.height:
                middle = [trials["clean"].mean()], [trials["disturbed"].mean()]
                axis.plot(*middle, marker, color=colour, ms=8, label=arm, markeredgecolor="white")
        axis.set_xlabel("undisturbed matching AUC")
        axis.set_ylabel("mean disturbed matching AUC")
        legend(figure, axis, most=3)
        return figure
