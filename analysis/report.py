"""A sweep or a single run -> one self-contained HTML page, Markdown, CSV and LaTeX tables, PNG, SVG and PDF figures."""

import base64
import io
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from jinja2 import Environment
from matplotlib.figure import Figure

from analysis import figures
from analysis.ablation import CONTRASTS, contrasts, foil_table, suite_names, suite_table
from analysis.aggregates import aggregate_table, profile_table, score_arrays
from analysis.convergence import (
    curve_area,
    fraction_reached,
    mean_curves,
    speed,
    speed_over_targets,
    target_value,
    time_profile,
)
from analysis.factorial import by_seed, crossed, effects, short
from analysis.response import POINTS, curve, logarithmic, points, varied
from analysis.robustness import derived, mean_drops, scores, severity_curves
from analysis.runs import Runs, read_runs
from analysis.verdict import POWER_NOTE, RULE, answer, caution, number, signed, speed_sentence, spread

CURVES = ("val/itm_auc", "val/foil_accuracy", "val/mlm_accuracy", "val/synonym_mass")
TABLED = (
    "val/itm_auc",
    "val/foil_accuracy",
    "val/mlm_accuracy",
    "val/mlm_loss",
    "val/synonym_mass",
    "val/itm_ece",
    "val/mlm_ece",
    "val/paraphrase_match",
    "val/synthesized_accuracy",
    "val/blank_image_accuracy",
    "val/generator_perplexity",
    "test/itm_auc",
    "test/foil_accuracy",
    "curve_area",
    "robustness_mean_drop",
    "corruption_error",
    "effective_robustness",
    "retrieval/text_r1",
    "retrieval/text_r5",
    "retrieval/image_r1",
    "retrieval/image_r5",
)


UNDATED: dict[str, dict[str, None]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}  # equal figures, equal files
LATEX = {letter: f"\\{letter}" for letter in "#$%&_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "·": r"$\cdot$",
    "–": "--",
}


@dataclass(frozen=True)
class Picture:
    name: str
    title: str
    description: str
    figure: Figure


def write_report(uri: str, run_id: str, folder: Path) -> Path:
    """Writes `report.html`, `report.md`, `tables/` and `figures/` into `folder`; gives the page's path.

    Raises UserError where there is no finished trial to report.
    """
    runs = with_derived(read_runs(uri, run_id))
    primary = str(runs.experiment.get("primary", "val/itm_auc"))
    metric, target = target_value(runs)
    names = [primary, *(name for name in TABLED if name != primary)]
    tables = {name: contrasts(runs, name) for name in names if not runs.final(name).is_empty()}
    foils = foil_table(runs)
    speeds = speed(runs)
    over_targets = speed_over_targets(runs, metric)
    shares = fraction_reached(runs)
    arrays = score_arrays(runs)
    factorial = effects(runs, primary)
    aggregates, profiles = aggregate_table(arrays, runs.baseline), profile_table(arrays)
    scored = scores(runs)
    drawn = _pictures(runs, (metric, target), foils, scored)
    drawn[1:1] = _paced(runs, metric, shares, over_targets)
    responses, drawing = _responses(runs, list(tables))
    drawn[:0] = drawing
    if factorial.height:
        levels = crossed(runs)
        told = "Mean over seeds with 95 % intervals, and over the levels of any further factor; lines that are not parallel are an interaction."
        figure = figures.interaction_figure(by_seed(runs, primary, levels), levels, primary)
        drawn.insert(0, Picture("interactions", "Factors", told, figure))
    if arrays:
        drawn.append(
            Picture(
                "aggregates",
                "All foils together",
                "Interquartile mean, mean and median of the accuracy over all kinds of foils and seeds, and the share of them above each "
                "accuracy, with 95 % stratified bootstrap intervals (Agarwal et al. 2021).",
                figures.aggregate_figure(aggregates, profiles, runs.arms, "accuracy"),
            )
        )

    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "figures").mkdir(exist_ok=True)
    frames = {
        "contrasts": pl.concat([pl.DataFrame(schema=CONTRASTS), *tables.values()]),
        "foils": foils,
        "convergence": speeds,
        "speed_over_targets": over_targets,
        "fraction_reached": shares,
        "time_profile": time_profile(over_targets),
        "response": responses,
        "effects": factorial,
        "aggregates": aggregates,
        "performance_profile": profiles,
        **{f"suite_{suite}": suite_table(runs, suite) for suite in suite_names(runs)},
        "robustness": mean_drops(scored),
        "robustness_by_severity": severity_curves(scored),
    }
    for name, frame in frames.items():
        frame.write_csv(folder / "tables" / f"{name}.csv")
    for picture in drawn:
        for form in ("png", "svg", "pdf"):
            path = folder / "figures" / f"{picture.name}.{form}"
            picture.figure.savefig(path, dpi=160, bbox_inches="tight", metadata=UNDATED.get(form))

    head = tables.get(primary, pl.DataFrame(schema=CONTRASTS))
    context = {
        "runs": runs,
        "question": str(runs.experiment.get("question", runs.name)),
        "primary": primary,
        "answers": answer(head, primary, runs.baseline),
        "caution": caution(head),
        "diverged": diverged_sentences(runs),
        "tuning": tuning(runs),
        "search": runs.experiment.get("search"),
        "rule": RULE,
        "power_note": POWER_NOTE,
        "smoke": bool(runs.experiment.get("smoke", False)),
        "speeds": speed_sentence(speeds, metric, target),
        "target": (metric, target),
        "tables": tables,
        "speeds_table": speeds,
        "factorial": factorial,
        "foils": foils,
        "drops": mean_drops(scored),
        "kinds": sorted(set(scored["kind"]) - {"clean"}),
        "pictures": [(p.name, p.title, p.description, _inline(p.figure)) for p in drawn],
        "number": number,
        "signed": signed,
        "spread": spread,
        "plain": figures.plain,
    }
    for picture in drawn:
        plt.close(picture.figure)
    page = folder / "report.html"
    page.write_text(_render("report.html.j2", context, escape=True), encoding="utf-8")
    (folder / "report.md").write_text(_render("report.md.j2", context, escape=False), encoding="utf-8")
    (folder / "tables" / "tables.tex").write_text(_render("tables.tex.j2", context, escape=False), encoding="utf-8")
    return page


def diverged_sentences(runs: Runs) -> list[str]:
    """How many trials of each arm have diverged, since the others alone are compared."""
    counts = runs.trials.group_by("arm", maintain_order=True).agg(
        pl.len(), pl.col("run_id").is_in(runs.diverged).sum().alias("diverged")
    )
    return [
        f"{row['diverged']} of {row['len']} trials of {row['arm']} diverged; means, intervals and p-values are about the others."
        for row in counts.iter_rows(named=True)
        if row["diverged"]
    ]


def tuning(runs: Runs) -> list[dict[str, object]]:
    """A row an arm: what its search tried, and what it is compared with."""
    return [
        row
        | {
            "best": ", ".join(
                f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in (row["best"] or {}).items()
            )
        }
        for row in runs.experiment.get("tuned", [])
    ]


def with_derived(runs: Runs) -> Runs:
    """Adds the summaries of each trial's curve and robustness as metrics."""
    scored = scores(runs)
    metric, _ = target_value(runs)
    area = curve_area(runs.curves(metric)).select("arm", "seed", metric=pl.lit("curve_area"), value="value")
    summaries = [area] if scored.is_empty() else [area, derived(scored, runs.baseline)]
    rows = (
        pl.concat(summaries)
        .join(runs.trials, on=["arm", "seed"])
        .select("run_id", "metric", step=pl.lit(0, dtype=pl.Int64), value="value")
    )
    return replace(runs, metrics=pl.concat([runs.metrics, rows]))


def _responses(runs: Runs, names: list[str]) -> tuple[pl.DataFrame, list[Picture]]:
    """The response curves of up to six metrics to the one number that is varied; nothing where none or several are."""
    found = varied(runs)
    schema = {"metric": pl.String} | POINTS
    if found is None:
        return pl.DataFrame(schema=schema), []
    factor, levels = found
    chosen = [name for name in names if name.startswith("val/")][:6]
    tables = {name: points(runs, name, levels) for name in chosen}
    placed = pl.DataFrame({"arm": list(levels), "level": list(levels.values())})
    seeds = {name: runs.final(name).join(placed, on="arm") for name in chosen}
    panels = {name: (table, curve(table)) for name, table in tables.items()}
    told = (
        "Mean over seeds with its 95 % interval at each level, single seeds as dots; between the levels a monotone interpolation of the means and of the "
        "ends of their intervals, which is a guess."
    )
    figure = figures.response_figure(panels, factor, seeds, logarithmic(list(levels.values())))
    stacked = pl.concat([table.select(pl.lit(name).alias("metric"), *POINTS) for name, table in tables.items()])
    return stacked, [Picture("response", f"Response to {figures.plain(short(factor))}", told, figure)]


def _paced(runs: Runs, metric: str, shares: pl.DataFrame, over_targets: pl.DataFrame) -> list[Picture]:
    if shares.is_empty():
        return []
    told = (
        "Left: the share of seeds that have reached the target, with 95 % intervals (Kaplan and Meier). Right: the speed-up over the baseline at "
        "twelve targets between its first and its last value, with 95 % bootstrap intervals; where the marker is hollow some seeds miss the "
        "target and count at the last step."
    )
    return [Picture("speed", "Speed", told, figures.reached_figure(shares, over_targets, runs.arms, metric))]


def _pictures(runs: Runs, target: tuple[str, float], foils: pl.DataFrame, scored: pl.DataFrame) -> list[Picture]:
    arms = runs.arms
    curves = {name: runs.curves(name) for name in dict.fromkeys((target[0], *CURVES))}
    curves = {name: curve for name, curve in curves.items() if not curve.is_empty()}
    means = {name: mean_curves(runs, name) for name in curves}
    made = [
        Picture(
            "convergence",
            "Convergence",
            "Mean over seeds with its 95 % interval; single seeds are faint; the dotted line is the target.",
            figures.convergence_figure(curves, means, arms, target),
        )
    ]
    if not foils.is_empty():
        made.append(
            Picture(
                "foils",
                "Foils by kind",
                "Share of pairs whose true caption scores above its foil, with 95 % intervals over seeds; "
                "the dashed line is chance.",
                figures.foil_figure(foils, arms),
            )
        )
    for suite in suite_names(runs):
        made.append(
            Picture(
                f"suite_{suite}",
                suite.replace("_", " ").title(),
                "Mean over seeds with 95 % intervals; the bar behind each point is the score with a grey picture: what the text "
                "gives away.",
                figures.suite_figure(suite_table(runs, suite), arms),
            )
        )
    if not scored.is_empty():
        made += [
            Picture(
                "severity",
                "Robustness by severity",
                "ITM AUC against random captions, from undisturbed (0) to the strongest disturbance (5).",
                figures.severity_figure(severity_curves(scored), arms, "ITM AUC"),
            ),
            Picture(
                "drops",
                "Relative drops",
                "(clean − disturbed) / clean in per cent, averaged over severities and seeds; darker is worse.",
                figures.drop_figure(mean_drops(scored), arms),
            ),
        ]
    return made


def _inline(figure: Figure) -> str:
    """The figure as a data URI, so that the page needs nothing beside it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def latex(value: object) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(letter, letter) for letter in str(value))


def _render(template: str, context: dict[str, object], escape: bool) -> str:
    source = (resources.files("analysis") / "templates" / template).read_text(encoding="utf-8")
    environment = Environment(autoescape=escape, trim_blocks=True, lstrip_blocks=True)
    environment.filters["latex"] = latex
    return environment.from_string(source).render(**context)
