"""`wb sweep` and `wb train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from workbench.cli.named import SHORT, STUDY
from workbench.cli.options import (
    DEFAULT,
    File,
    GiveUpAfter,
    Json,
    Set,
    Smoke,
    Storage,
    Workspace,
    app,
    console_for,
    current,
    debugging,
    print_json,
    say_of_hidden_devices,
)
from workbench.errors import UserError
from workbench.stop import CODE
from workbench.workspace import Workspace as Folders

if TYPE_CHECKING:
    from workbench.config.schema import Experiment


@app.command(epilog="Example: `wb sweep experiments/ablation_itm.yaml --seeds 2`")
def sweep(
    file: File,
    workspace: Workspace = DEFAULT,
    seeds: Annotated[int | None, typer.Option(help="Run this many seeds instead of the file's.", min=1)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Trials in parallel; default one per GPU, or per core without a GPU.", min=1)
    ] = None,
    trials_per_device: Annotated[int, typer.Option(help="Trials that share a GPU.", min=1)] = 1,
    processes: Annotated[
        int, typer.Option("--processes-per-trial", help="Processes that train each trial together, one per GPU.", min=1)
    ] = 1,
    launcher: Annotated[
        Literal["local", "ray", "here"],
        typer.Option(
            help="Run workers as local processes, as Ray actors, or one worker in this process, for a debugger."
        ),
    ] = "local",
    gpus_per_worker: Annotated[float, typer.Option(help="ray: GPUs per worker.", min=0)] = 1.0,
    storage: Storage = None,
    study: Annotated[str | None, typer.Option(help="Name of the study; default the file's.")] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(
            help="Start no block of seeds that, judging by earlier blocks, would not end within this many hours.",
            min=0,
        ),
    ] = None,
    retries: Annotated[int, typer.Option(help="Further attempts at a failed trial.", min=0)] = 1,
    give_up_after: GiveUpAfter = None,
    notify: Annotated[
        str | None,
        typer.Option(
            envvar="WB_NOTIFY", help="Shell command to run at the end, with $WB_STATUS, $WB_STUDY and $WB_REPORT set."
        ),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Print the state of the sweep; run nothing.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print cells, seeds, and the time, memory and disk that the sweep needs; run nothing."
        ),
    ] = False,
    smoke: Smoke = False,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Run an experiment's grid and write its report. After a stop, run the same command again to continue."""
    from workbench.config.arms import refuse_too_many
    from workbench.config.load import load_experiment
    from workbench.cores import usable_cores
    from workbench.significance import no_verdict
    from workbench.sweep.grid import smoke as shrink

    experiment = load_experiment(file, set_ or ())
    if seeds:
        experiment = experiment.model_copy(update={"seeds": experiment.seeds.model_copy(update={"count": seeds})})
        arms = len(experiment.arms)
        refuse_too_many("--seeds", f"{arms:,} arms", arms, experiment.seeds, experiment.search)
    if smoke:
        experiment = shrink(experiment)
    elif not status and (few := no_verdict(experiment.seeds.count, len(experiment.arms))):
        typer.echo(f"{file}: {few}", err=True)
    if not STUDY.fullmatch(study or experiment.name):
        raise UserError(
            f"--study {study or experiment.name}: a name may contain only letters, digits and - _ . + =,"
            " and must not start with a dot."
        )
    if launcher != "local" and processes > 1:
        raise UserError(
            f"--processes-per-trial: with `--launcher {launcher}` a trial is one process; use `--launcher local` or"
            " `wb worker`."
        )
    if status:
        _status(experiment, workspace, study or experiment.name, storage, as_json)
        return
    from workbench.progress import SweepDisplay
    from workbench.sweep.launch.local import default_workers, warm_up

    cores = usable_cores()
    workers = 1 if launcher == "here" else workers or max(1, default_workers(trials_per_device) // processes)
    if dry_run:
        from workbench.cli.plan import dry_run as print_plan

        print_plan(experiment, workspace, (study or experiment.name, storage), (workers, processes, cores), as_json)
        return

    say_of_hidden_devices()
    if launcher == "local":
        warm_up()
    from analysis.report import write_report
    from workbench.sweep.run import Options, run_sweep

    folder = Folders(workspace).reports / (study or experiment.name)
    options = Options(
        min(workers, len(experiment.arms) * experiment.seeds.count),
        cores,
        storage,
        study,
        launcher,
        retries,
        processes,
        gpus_per_worker,
        notify,
        smoke,
        max_hours,
        stop=current.get(),
    )
    console = console_for(as_json)
    with SweepDisplay(console) as display:
        outcome = run_sweep(
            experiment,
            workspace,
            options,
            display.show,
            lambda uri, run_id: write_report(uri, run_id, folder),
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
                "held": outcome.held,
                "unreported": outcome.unreported,
            }
        )
    elif console.quiet and outcome.report:
        typer.echo(outcome.report)
    if outcome.stopped:
        current.get().say(
            f"Stopped after {outcome.finished} of {outcome.planned} trials; run the same command again to continue."
        )
        raise typer.Exit(CODE)
    if outcome.finished + outcome.held < outcome.planned:
        if debugging() and outcome.failures:
            typer.echo(outcome.failures[-1], err=True)
        missing = outcome.planned - outcome.finished - outcome.held
        typer.echo(
            f"{missing} of {outcome.planned} trials failed; run again to retry, with --debug for the reason.", err=True
        )
        raise typer.Exit(1)
    if outcome.unreported:
        typer.echo(outcome.unreported, err=True)
        raise typer.Exit(1)
    if outcome.held:
        typer.echo(
            f"{outcome.held} of {outcome.planned} trials are left: `--max-hours {max_hours:g}` leaves no time for "
            "another block of seeds. Run the same command without it to continue.",
            err=True,
        )
    if experiment.search and outcome.report is None:
        typer.echo("No trial of the searches finished, so there is nothing to compare or report.", err=True)


def _status(experiment: "Experiment", workspace: Path, study: str, storage: str | None, as_json: bool) -> None:
    """Prints the sweep's cells with their states; running ones with their step."""
    from workbench.sweep.status import cells_of, known

    rows = cells_of(experiment, workspace, study, storage)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        there = row["run_id"][:SHORT] if row["run_id"] else row["progress"]
        typer.echo(f"{row['state']:<9} {value:<8} {there:<12} {row['name']}{row['about']}")
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    never = set(states) == {"waiting"} and known(workspace, study, storage) is None
    typer.echo(f"{len(rows)} trials: {counts}" + (f"; the study `{study}` was never started" if never else ""))


@app.command(
    epilog=(
        "Example: `wb train experiments/pretrain_4m.yaml --nproc 8`; with several machines, on each of them: `torchrun"
        " --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:29500 -m workbench train FILE`, with a workspace that all"
        " share."
    )
)
def train(
    file: File,
    workspace: Workspace = DEFAULT,
    nproc: Annotated[
        int, typer.Option(help="Processes on this machine that train one model together, one per GPU.", min=1)
    ] = 1,
    seed: Annotated[int | None, typer.Option(help="Default: the file's first seed.", min=0)] = None,
    give_up_after: GiveUpAfter = None,
    smoke: Smoke = False,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Train one model with an experiment's fixed settings. After a stop, run the same command again to continue."""
    from workbench.config.load import load_experiment
    from workbench.sweep.grid import smoke as shrink

    experiment = load_experiment(file, set_ or ())
    if smoke:
        experiment = shrink(experiment)
    if nproc > 1 and "WORLD_SIZE" not in os.environ:
        from workbench.trial.torchrun import start_together

        raise typer.Exit(start_together(nproc, current.get()))
    from contextlib import ExitStack

    from workbench.events import Said
    from workbench.outage import Patience
    from workbench.progress import SweepDisplay
    from workbench.training.parallelize import joined
    from workbench.trial.job import Context, WorkerSpec
    from workbench.trial.single import run_single

    say_of_hidden_devices()
    console, stop = console_for(as_json), current.get()
    with joined() as world, ExitStack() as stack:
        first = world.rank == 0
        show = stack.enter_context(SweepDisplay(console)).show if first else lambda _: None
        stack.enter_context(stop.asking())
        patience = Patience(lambda message: show(Said("train", message)), stop)
        context = Context(WorkerSpec(workspace, None, "train"), show, patience, world)
        result = run_single(experiment, experiment.seeds.first if seed is None else seed, context)
    if first and as_json:
        print_json(
            {
                "run_id": result.run_id,
                "primary": experiment.primary,
                "value": result.value,
                "outcome": result.outcome,
                "weights": str(result.weights) if result.value is not None else None,
                "stopped": result.stopped,
            }
        )
    if result.stopped:
        raise typer.Exit(CODE)
    if first and not as_json:
        prefix = "already finished: " if result.again else ""
        if result.value is None:
            typer.echo(f"{prefix}diverged, run {result.run_id}; its last finite state was not saved")
        else:
            typer.echo(
                f"{prefix}{experiment.primary} {result.value:.4f}, run {result.run_id}\nweights (for `model.weights`):"
                f" {result.weights}"
            )
