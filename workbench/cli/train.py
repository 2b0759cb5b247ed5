"""`wb sweep` and `wb train`."""

import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.options import (
    DEFAULT,
    Debug,
    File,
    Json,
    Set,
    Smoke,
    Workspace,
    app,
    console_for,
    print_json,
)


@app.command(epilog="Example: `wb sweep experiments/ablation_itm.yaml --seeds 2`")
def sweep(
    file: File,
    workspace: Workspace = DEFAULT,
    seeds: Annotated[int | None, typer.Option(help="Run so many seeds instead of the file's.", min=1)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Trials side by side; default one a GPU, else a core.", min=1)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cells, seeds and the estimated time; run nothing.")
    ] = False,
    smoke: Smoke = False,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an experiment's grid and write its report. Stopped at any point, the same command goes on."""
    from workbench.config.load import load_experiment
    from workbench.progress import SweepDisplay
    from workbench.sweep.grid import expand, study_name
    from workbench.sweep.grid import smoke as shrink
    from workbench.sweep.launch.local import default_workers

    experiment = load_experiment(file, set_ or ())
    if seeds:
        experiment = experiment.model_copy(update={"seeds": experiment.seeds.model_copy(update={"count": seeds})})
    if smoke:
        experiment = shrink(experiment)
    cores = os.cpu_count() or 1
    workers = workers or default_workers()
    if dry_run:
        _dry_run(experiment, workspace, workers, cores, as_json)
        return

    from analysis.report import write_report
    from workbench.sweep.run import run_sweep

    # A scheduler's SIGTERM ends a sweep as Ctrl-C does: saved, marked, in seconds.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = workspace / "reports" / study_name(experiment)
    console = console_for(as_json)
    with SweepDisplay(console) as display:
        outcome = run_sweep(
            experiment,
            workspace,
            min(workers, len(expand(experiment))),
            cores,
            display.show,
            lambda uri, run_id: write_report(uri, run_id, folder),
            smoke,
        )
    if as_json:
        print_json(
            {
                "run_id": outcome.run_id,
                "planned": outcome.planned,
                "finished": outcome.finished,
                "report": str(outcome.report) if outcome.report else None,
                "stopped": outcome.stopped,
                "failures": len(outcome.failures),
            }
        )
    if outcome.stopped:
        typer.echo(f"Stopped after {outcome.finished} of {outcome.planned} trials; the same command goes on.", err=True)
        raise typer.Exit(130)
    if outcome.finished < outcome.planned:
        if debug and outcome.failures:
            typer.echo(outcome.failures[-1], err=True)
        missing = outcome.planned - outcome.finished
        typer.echo(
            f"{missing} of {outcome.planned} trials failed; run again to retry, with --debug for the reason.", err=True
        )
        raise typer.Exit(1)


def _dry_run(experiment: Any, workspace: Path, workers: int, cores: int, as_json: bool) -> None:
    from workbench.sweep.grid import expand, study_name
    from workbench.sweep.run import estimate
    from workbench.sweep.study import Ledger, missing

    cells = expand(experiment)
    studies = workspace / "studies"
    name = study_name(experiment)
    known = (studies / f"{name}.journal").exists()
    todo = missing(cells, Ledger(studies, name)) if known else cells
    seconds = estimate(experiment, workspace, workers, cores)
    arms = list(dict.fromkeys(cell.label for cell in cells))
    left = seconds["trial"] * -(-len(todo) // workers)
    if as_json:
        print_json(
            {
                "arms": arms,
                "seeds": experiment.seeds.count,
                "trials": len(cells),
                "missing": len(todo),
                "workers": workers,
                "seconds_per_step": seconds["step"],
                "seconds_left": left,
            }
        )
        return
    typer.echo(experiment.question)
    for arm in arms:
        typer.echo(f"  {arm}" + ("  (baseline)" if arm == cells[0].label else ""))
    typer.echo(
        f"{len(arms)} cells x {experiment.seeds.count} seeds = {len(cells)} trials, {len(todo)} to run, {workers} worker(s).\n"
        f"Measured {1000 * seconds['step']:.0f} ms a step: about {seconds['trial'] / 60:.1f} min a trial, "
        f"{left / 60:.0f} min to run, evaluation and a first warm start not counted."
    )


@app.command(
    epilog="Example: `wb train experiments/pretrain_4m.yaml --nproc 8`; over several machines, on each of them: "
    "`torchrun --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:29500 -m workbench train FILE`, with a workspace that all share."
)
def train(
    file: File,
    workspace: Workspace = DEFAULT,
    nproc: Annotated[
        int, typer.Option(help="Processes on this machine that train one model together, one a GPU.", min=1)
    ] = 1,
    seed: Annotated[int | None, typer.Option(help="Default: the file's first seed.", min=0)] = None,
    smoke: Smoke = False,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train one model with an experiment's fixed settings. Stopped at any point, the same command goes on."""
    from workbench.config.load import load_experiment
    from workbench.sweep.grid import smoke as shrink

    experiment = load_experiment(file, set_ or ())
    if smoke:
        experiment = shrink(experiment)
    if nproc > 1 and "WORLD_SIZE" not in os.environ:
        from workbench.sweep.launch.together import start_together

        raise typer.Exit(start_together(nproc))
    from contextlib import ExitStack

    from workbench.progress import SweepDisplay
    from workbench.sweep.single import run_single
    from workbench.training.distributed import joined

    console = console_for(as_json)
    with joined() as world, ExitStack() as stack:
        first = world.rank == 0
        show = stack.enter_context(SweepDisplay(console)).show if first else lambda _: None
        chosen = experiment.seeds.first if seed is None else seed
        made = run_single(experiment, chosen, workspace, world, show)
    if first and as_json:
        print_json(
            {
                "run_id": made.run_id,
                "primary": experiment.primary,
                "value": made.value,
                "weights": str(made.weights) if made.value is not None else None,
                "stopped": made.value is None,
            }
        )
    if made.stopped:
        if first:
            typer.echo("Stopped; the same command goes on.", err=True)
        raise typer.Exit(130)
    if first and not as_json:
        before = "already finished: " if made.again else ""
        typer.echo(
            f"{before}{experiment.primary} {made.value:.4f}, run {made.run_id}\nweights (for `model.weights`): {made.weights}"
        )
