"""Which figures a report has, and what is said under each."""

from dataclasses import dataclass

import polars as pl
from matplotlib.figure import Figure

from analysis.convergence import mean_curves
from analysis.factorial import short
from analysis.figures import curves, disturbed, factors, scores
from analysis.findings import Findings
from analysis.response import curve, logarithmic
from analysis.robustness import clean_and_disturbed
from analysis.runs import UNITS
from analysis.wording import plain

CURVES = ("val/itm_auc", "val/foil_accuracy", "val/mlm_accuracy", "val/synonym_mass")
SCENES = "scenes"  # the suite of the embedded foils, on the test split


@dataclass(frozen=True)
class Picture:
    name: str
    title: str
    description: str
    figure: Figure


def pictures(found: Findings) -> list[Picture]:
    """All figures that the findings have data for, in the order of the page."""
    made = [_interactions(found), _response(found), _convergence(found), _speed(found)]
    made += [_suite(found, name) for name in found.suites]
    made += [_aggregates(found), _reliability(found), _severity(found), _drops(found), _scatter(found)]
    made += [_cost(found), _importances(found)]
    return [picture for picture in made if picture is not None]


def _interactions(found: Findings) -> Picture | None:
    if found.effects.is_empty():
        return None
    told = "Mean over seeds with 95 % intervals, and over the levels of any further factor; lines that are not parallel are an interaction."
    return Picture(
        "interactions", "Factors", told, factors.interaction_figure(found.cells, found.levels, found.primary)
    )


def _response(found: Findings) -> Picture | None:
    """The response curves to the one number that is varied."""
    if found.varied is None or not found.responses:
        return None
    factor, levels = found.varied
    placed = pl.DataFrame({"arm": list(levels), "level": list(levels.values())})
    seeds = {name: found.runs.final(name).join(placed, on="arm") for name in found.responses}
    panels = {name: (table, curve(table)) for name, table in found.responses.items()}
    told = (
        "Mean over seeds with its 95 % interval at each level, single seeds as dots; between the levels a monotone interpolation of the means and of the "
        "ends of their intervals, which is a guess."
    )
    figure = factors.response_figure(panels, factor, seeds, logarithmic(list(levels.values())))
    return Picture("response", f"Response to {plain(short(factor))}", told, figure)


def _convergence(found: Findings) -> Picture:
    runs = found.runs
    seeds = {name: runs.curves(name) for name in dict.fromkeys((found.target[0], *CURVES))}
    seeds = {name: each for name, each in seeds.items() if not each.is_empty()}
    means = {name: mean_curves(runs, name) for name in seeds}
    told = "Mean over seeds with its 95 % interval; single seeds are faint; the dotted line is the target."
    figure = curves.convergence_figure(seeds, means, runs.arms, found.target, UNITS[runs.over])
    return Picture("convergence", "Convergence", told, figure)


def _speed(found: Findings) -> Picture | None:
    if found.reached.is_empty():
        return None
    told = (
        "Left: the share of seeds that have reached the target, with 95 % intervals (Kaplan and Meier). Middle: the speed-up over the baseline at "
        "twelve targets between its first and its last value, with 95 % intervals; where the marker is hollow some seeds miss the target and "
        "count at the horizon. Right: for how many of these targets an arm is within a factor of the fastest (AlgoPerf, Dahl et al. 2023)."
    )
    runs = found.runs
    figure = curves.reached_figure(
        found.reached, found.over_targets, found.time_profile, runs.arms, found.target[0], UNITS[runs.over]
    )
    return Picture("speed", "Speed", told, figure)


def _suite(found: Findings, name: str) -> Picture:
    told = (
        "Mean over seeds with 95 % intervals; the bar behind each point is the score with a grey picture: what the text gives away. The dashed "
        "line is the chance of a pair."
    )
    title = "Foils by kind" if name == SCENES else name.replace("_", " ").title()
    figure = scores.suite_figure(found.suites[name], found.runs.arms)
    return Picture(f"suite_{name}", title, told, figure)


def _aggregates(found: Findings) -> Picture | None:
    if found.aggregates.is_empty():
        return None
    told = (
        "Interquartile mean, mean and median of the accuracy over all kinds of foils and seeds, and the share of them above each accuracy, with "
        "95 % stratified bootstrap intervals (Agarwal et al. 2021)."
    )
    figure = scores.aggregate_figure(found.aggregates, found.profile, found.runs.arms, "accuracy")
    return Picture("aggregates", "All foils together", told, figure)


def _reliability(found: Findings) -> Picture | None:
    if found.reliability.is_empty():
        return None
    told = (
        "Test split: how often an answer is right, by how sure the model is of it, with 95 % intervals over seeds; the area of a marker is its "
        "share of all answers; on the dashed line confidence is accuracy (Guo et al. 2017)."
    )
    return Picture("reliability", "Reliability", told, scores.reliability_figure(found.reliability, found.runs.arms))


def _severity(found: Findings) -> Picture | None:
    if found.severity.is_empty():
        return None
    told = (
        "ITM AUC against random captions, from undisturbed (0) to the strongest disturbance (5), with 95 % intervals."
    )
    figure = disturbed.severity_figure(found.severity, found.runs.arms, "ITM AUC")
    return Picture("severity", "Robustness by severity", told, figure)


def _drops(found: Findings) -> Picture | None:
    if found.drops.is_empty():
        return None
    told = (
        "(clean − disturbed) / clean in per cent, averaged over severities and seeds (MMI, Qiu et al. 2022); darker is worse. Against the "
        "baseline: ** Holm's p over the whole map is at most .05, * the 95 % interval of the difference excludes 0."
    )
    return Picture("drops", "Relative drops", told, disturbed.drop_figure(found.drops, found.runs.arms))


def _scatter(found: Findings) -> Picture | None:
    points = clean_and_disturbed(found.scored)
    if points.is_empty():
        return None
    told = (
        "Dots are trials, large markers means of arms. Above the dashed line an arm loses less than the baseline does: effective robustness, "
        "beyond what a better clean score brings (in the manner of Taori et al. 2020)."
    )
    figure = disturbed.scatter_figure(points, found.runs.arms, found.runs.baseline, "ITM AUC")
    return Picture("clean_disturbed", "Clean and disturbed", told, figure)


def _cost(found: Findings) -> Picture | None:
    if found.cost.is_empty():
        return None
    told = "Means over seeds with 95 % intervals, against the device time of a trial's training; the dashed line joins the arms whose means no other one beats at their cost."
    return Picture("cost", "Cost", told, scores.cost_figure(found.cost, found.runs.arms, found.primary))


def _importances(found: Findings) -> Picture | None:
    if found.importances.is_empty():
        return None
    told = "The share of the variance of the primary metric over each arm's search that a tuned setting explains (fANOVA, Hutter et al. 2014)."
    return Picture(
        "importances",
        "Importance of the tuned settings",
        told,
        scores.importance_figure(found.importances, found.runs.arms),
    )
