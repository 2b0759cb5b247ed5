"""What `wb sweep --dry-run` prints."""

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
    """Says what a sweep will take. `study`: its name and where it is kept; `shared`: workers, processes of each trial,
    and cores."""
    import os

    # Weights are looked for on this machine alone: an estimate fetches nothing. Before what reads it is loaded.
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
    made = estimate(Asking(experiment, workspace, todo, workers, cores, processes))
    labels = [arm_label(arm, experiment.baseline) for arm in experiment.arms]
    if as_json:
        counts = {"trials": plan.total, "missing": todo, "workers": workers, "processes_per_trial": processes}
        print_json({"arms": labels, "seeds": experiment.seeds.count} | counts | made.figures())
        return
    typer.echo(experiment.question)
    for label in labels[:SHOWN]:
        typer.echo(f"  {label}" + ("  (baseline)" if label == labels[0] else ""))
    if len(labels) > SHOWN:
        typer.echo(f"  and {len(labels) - SHOWN:,} more")
    searching = f" + {experiment.search.trials} of its search each" if experiment.search else ""
    typer.echo(
        f"{len(labels)} cells x {experiment.seeds.count} seeds{searching} = {plan.total} trials, {todo} to run, "
        f"{workers} worker(s), on {made.device}\n"
    )
    for name, value, measured in rows(made, experiment):
        typer.echo(f"{name:<28}{value:>14}  {'measured' if measured else 'estimated'}")
    for sentence in made.missing_weights:
        typer.echo(f"missing: {sentence}")
    for sentence in made.does_not_fit:
        typer.echo(f"does not fit: {sentence}")
    if not made.does_not_fit:
        typer.echo("everything fits" if made.memory_available_bytes is not None else "the disk suffices")


def rows(made: "Estimate", experiment: "Experiment") -> list[tuple[str, str, bool]]:
    """(name, value with its unit, whether it was measured) of each line."""
    trial, optimisation = made.trial, experiment.settings.optimisation
    told: list[tuple[str, str, bool]] = []

    def tell(name: str, figure: str, value: Any) -> None:
        if value:
            told.append((name, value, figure in made.measured))

    tell("parameters, trained", "parameters_trained", f"{trial.parameters_trained / 1e6:,.2f} M")
    tell("parameters, frozen", "parameters_frozen", f"{trial.parameters_frozen / 1e6:,.2f} M")
    tell("memory of a trial", "memory_bytes", _bytes(trial.memory_bytes))
    for name, size in trial.memory_parts.items():
        tell(f"  {name.replace('_', ' ')}", "", size and _bytes(size))
    tell("memory of a worker at rest", "resting_bytes", trial.resting_bytes and _bytes(trial.resting_bytes))
    tell("a step", "seconds_per_step", trial.seconds_per_step and f"{1000 * trial.seconds_per_step:,.0f} ms")
    tell("steps a second", "seconds_per_step", trial.seconds_per_step and f"{1 / trial.seconds_per_step:,.2f}")
    tell("pairs a second", "pairs_per_second", made.pairs_per_second and f"{made.pairs_per_second:,.0f}")
    tell(f"{optimisation.steps:,} steps", "training_seconds", _time(trial.training_seconds))
    tell("evaluation of a trial", "evaluation_seconds", _time(trial.evaluation_seconds))
    tell("set-up, states, examples", "other_seconds", _time(trial.other_seconds))
    for stage, seconds in made.preparing.items():
        tell(f"once: {stage}", "seconds_per_step", _time(seconds))
    tell("the sweep", "", _time(made.seconds_left))
    tell("device-hours", "", made.device_seconds is not None and f"{made.device_seconds / 3600:,.2f} h")
    tell("disk: data", "", made.data_bytes and _bytes(made.data_bytes))
    tell("disk: stored features", "", made.features_bytes and _bytes(made.features_bytes))
    tell("disk: checkpoints, weights", "", _bytes(made.checkpoints_bytes))
    tell("disk that is free", "", _bytes(made.disk_free_bytes))
    return told


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
