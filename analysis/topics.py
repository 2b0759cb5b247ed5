"""The topics of a report, in the order of the page. To add one, write a module with a function from runs to a section
and name it here."""

from collections.abc import Callable

from analysis import (
    ablation,
    aggregates,
    all_metrics,
    calibration,
    contrasts,
    convergence,
    cost,
    examples,
    factorial,
    foils,
    measured,
    response,
    robustness,
    trials,
    tuning,
)
from analysis.runs import Runs
from analysis.section import Section

Topic = Callable[[Runs], Section | list[Section] | None]
TOPICS: tuple[Topic, ...] = (
    contrasts.section,
    ablation.section,
    factorial.section,
    response.section,
    measured.section,
    tuning.section,
    examples.section,
    convergence.section,
    foils.sections,
    aggregates.section,
    calibration.section,
    robustness.section,
    cost.section,
    all_metrics.section,
    trials.section,
)


def sections(runs: Runs) -> list[Section]:
    """Returns all sections for which the runs have data."""
    page: list[Section] = []
    for topic in TOPICS:
        result = topic(runs)
        page += result if isinstance(result, list) else [result] if result is not None else []
    return page
