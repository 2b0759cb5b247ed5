"""The output of `wb sweep --dry-run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workbench.cli.options import print_json

if TYPE_CHECKING:
    from workbench.config.schema import Experiment
    from workbench.sweep.estimate import Estimate

GIB = 2**30
SHOWN = 12  # arms that are listed


def dry_run(
    experiment: "Experiment",
    workspace: Path,
    study: tuple[str, str | None],
    shared: tuple[int, int, int],
    as_json: bool,
) -> None:
    """Prints what a sweep will need. `study`: its name and storage. `shared`: workers, processes per trial, and
    cores."""
    import os

    # An estimate downloads nothing: look for weights only on this machine. Set before the libraries that read it load.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from workbench.sweep.estimate import Asking, estimate
    from workbench.sweep.run import refuse_another_question
    from workbench.sweep.search import planned
    from workbench.sweep.status import known
    from workbench.trial.cell import arm_label

    workers, processes, cores = shared
    endings = {}
    if (ledger := known(workspace, *study)) is not None:
        refuse_another_question(ledger, experiment)
        endings = ledger.endings()
    plan = planned(experiment, endings)
    todo = plan.total - sum(cell.key in endings for cell in plan.cells)
    workers = min(workers, max(1, plan.total))
    plan_estimate = estimate(Asking(experiment, workspace, todo, workers, cores, processes))
    labels = [arm_label(arm, experiment.baseline) for arm in experiment.arms]
    if as_json:
        counts = {"trials": plan.total, "missing": todo, "workers": workers, "processes_per_trial": processes}
        print_json({"arms": labels, "seeds": experiment.seeds.count} | counts | plan_estimate.figures())
        return
    typer.echo(experiment.question)
    for label in labels[:SHOWN]:
        typer.echo(f"  {label}" + ("  (baseline)" if label == labels[0] else ""))
    if len(labels) > SHOWN:
        typer.echo(f"  and {len(labels) - SHOWN:,} more")
    searching = f" + {experiment.search.trials} of its search each" if experiment.search else ""
    typer.echo(
        f"{len(labels)} cells x {experiment.seeds.count} seeds{searching} = {plan.total} trials, {todo} to run, "
        f"{workers} worker(s), on {plan_estimate.device}\n"
    )
    for name, value, measured in rows(plan_estimate, experiment):
        typer.echo(f"{name:<28}{value:>14}  {'measured' if measured else 'estimated'}")
    for sentence in plan_estimate.missing_weights:
        typer.echo(f"missing: {sentence}")
    for sentence in plan_estimate.does_not_fit:
        typer.echo(f"does not fit: {sentence}")
    if not plan_estimate.does_not_fit:
        enough = "everything fits" if plan_estimate.memory_available_bytes is not None else "there is enough disk space"
        typer.echo(enough)


def rows(estimate: "Estimate", experiment: "Experiment") -> list[tuple[str, str, bool]]:
    """Returns (name, value with its unit, whether it was measured) for each line."""
    trial, optimisation = estimate.trial, experiment.settings.optimisation
    lines: list[tuple[str, str, bool]] = []

    def add(name: str, figure: str, value: Any) -> None:
        if value:
            lines.append((name, value, figure in estimate.measured))

    add("parameters, trained", "parameters_trained", f"{trial.parameters_trained / 1e6:,.2f} M")
    add("parameters, frozen", "parameters_frozen", f"{trial.parameters_frozen / 1e6:,.2f} M")
    add("memory of a trial", "memory_bytes", _bytes(trial.memory_bytes))
    for name, size in trial.memory_parts.items():
        add(f"  {name.replace('_', ' ')}", "", size and _bytes(size))
    add("memory of an idle worker", "resting_bytes", trial.resting_bytes and _bytes(trial.resting_bytes))
    add("time per step", "seconds_per_step", trial.seconds_per_step and f"{1000 * trial.seconds_per_step:,.0f} ms")
    add("steps per second", "seconds_per_step", trial.seconds_per_step and f"{1 / trial.seconds_per_step:,.2f}")
    add("pairs per second", "pairs_per_second", estimate.pairs_per_second and f"{estimate.pairs_per_second:,.0f}")
    add(f"{optimisation.steps:,} steps", "training_seconds", _time(trial.training_seconds))
    add("evaluation of a trial", "evaluation_seconds", _time(trial.evaluation_seconds))
    add("set-up, states, examples", "other_seconds", _time(trial.other_seconds))
    for stage, seconds in estimate.preparing.items():
        add(f"once: {stage}", "seconds_per_step", _time(seconds))
    add("whole sweep", "", _time(estimate.seconds_left))
    add("device-hours", "", estimate.device_seconds is not None and f"{estimate.device_seconds / 3600:,.2f} h")
    add("disk: data", "", estimate.data_bytes and _bytes(estimate.data_bytes))
    add("disk: stored features", "", estimate.features_bytes and _bytes(estimate.features_bytes))
    add("disk: checkpoints, weights", "", _bytes(estimate.checkpoints_bytes))
    add("free disk space", "", _bytes(estimate.disk_free_bytes))
    return lines


def _bytes(size: int) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return (
        f"{seconds:,.1f} s"
        if seconds < 100
        else f"{seconds / 60:,.1f} min"
        if seconds < 6000
        else f"{seconds / 3600:,.1f} h"
    )
