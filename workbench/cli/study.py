"""`wb worker`, `wb storage`, and what looks after studies: export, reproduce, gc."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.named import OfSweepOrTrial, OfTrial, run_in, run_named
from workbench.cli.options import (
    DEFAULT,
    Debug,
    GiveUpAfter,
    Json,
    Storage,
    Workspace,
    app,
    console_for,
    current,
    print_json,
    say_of_hidden_devices,
)
from workbench.errors import UserError, shown
from workbench.workspace import to_stderr


@app.command(
    epilog="Example: `wb worker ablation_itm --storage postgresql://USER:PASSWORD@HOST/DATABASE --workspace /shared/wb`"
)
def worker(
    study: Annotated[str, typer.Argument(help="Name of a study that `wb sweep` has started.")],
    storage: Storage = None,
    workspace: Workspace = DEFAULT,
    workers: Annotated[
        int | None, typer.Option(help="Trials side by side; default one a GPU, else a core.", min=1)
    ] = None,
    trials_per_device: Annotated[int, typer.Option(help="Trials that share a GPU.", min=1)] = 1,
    give_up_after: GiveUpAfter = None,
    debug: Debug = False,
) -> None:
    """Join a running study from any machine that shares its storage. Ends when the study has no more work.

    A trial goes on from its checkpoint only where the workspace is shared, too; elsewhere it starts anew.
    """
    from workbench.events import Counted, Mistaken, TrialEnded, WorkerFailed
    from workbench.progress import SweepDisplay
    from workbench.sweep.launch.local import default_workers, places, run_workers
    from workbench.tracking.store import resolved, sees
    from workbench.trial.job import awaited
    from workbench.trial.ledger import existing
    from workbench.trial.storage import open_storage

    stop = current.get()
    job = awaited(existing(open_storage(storage, workspace), study), to_stderr, stop)
    if not sees(job.uri, workspace, job.parent_run):
        raise UserError(
            f"{study}: its runs are not kept in {shown(resolved(job.uri, workspace))} as this machine sees it; share"
            " the workspace, go on with `wb sweep FILE` if it has moved, or start the sweep with"
            " MLFLOW_TRACKING_URI=http://... of an MLflow server."
        )
    count = workers or max(1, default_workers(trials_per_device) // job.processes)
    say_of_hidden_devices()
    stop.sentence = "Stopped; others can go on with its trials."
    wrong = False
    with SweepDisplay(console_for(False)) as display:
        events = run_workers(study, places(workspace, storage, count, job.processes), stop)
        try:
            for event in events:
                match event:
                    case Mistaken(_, message):
                        raise UserError(message)
                    case TrialEnded(_, cell, outcome, value):
                        display.show(Counted(cell, outcome, value))
                    case _:
                        wrong = wrong or isinstance(event, WorkerFailed)
                        display.show(event)
        finally:
            events.close()  # type: ignore[attr-defined]
    if wrong:
        raise typer.Exit(1)


@app.command(
    "storage", epilog="Example: `wb storage --from postgresql://... --port 13000`, then `--storage grpc://HOST:13000`"
)
def storage_(
    source: Annotated[
        str | None,
        typer.Option("--from", help="postgresql://..., or none for the workspace's journal.", envvar="WB_STORAGE"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 13000,
    workspace: Workspace = DEFAULT,
    debug: Debug = False,
) -> None:
    """Serve a study's storage to many workers over Optuna's gRPC proxy. It knows no passwords: keep it in a trusted
    network."""
    from workbench.trial.quiet import quiet
    from workbench.trial.storage import serve

    quiet(studies=logging.WARNING)
    typer.echo(f"serving studies on grpc://{host}:{port} (Ctrl-C ends it)")
    serve(source, workspace, host, port)


@app.command(epilog="Example: `wb export --run-id ID --out frames`")
def export(
    run_id: OfSweepOrTrial,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a sweep's finished trials as Parquet: trials.parquet, metrics.parquet, and experiment.json."""
    from workbench.runs.export import export_run
    from workbench.tracking.store import tracking_uri

    uri = tracking_uri(workspace)
    made = export_run(uri, run_named(uri, run_id), out)
    if as_json:
        print_json({"trials": made.trials, "metrics": made.metrics, "out": str(out)})
    else:
        typer.echo(f"{made.trials} trials, {made.metrics:,} metric values: {out}")


@app.command(epilog="Example: `wb reproduce --run-id ID`; exit code 1 where a metric differs.")
def reproduce(
    run_id: OfTrial,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a finished trial again from its logged settings and compare every metric, to the last bit."""
    from workbench.progress import SweepDisplay
    from workbench.runs.reproduce import reproduce_run

    with SweepDisplay(console_for(as_json)) as display, (stop := current.get()).asking():
        made = reproduce_run(run_in(workspace, run_id), workspace, display.show, stop)
    if as_json:
        print_json({"run_id": made.run_id, "differences": made.warnings, "metrics": made.compared, "off": made.off})
    else:
        for warning in made.warnings:
            typer.echo(f"differs: {warning}", err=True)
        for name, (then, now) in list(made.off.items())[:20]:
            typer.echo(f"{name}: {then!r} then, {now!r} now ({now - then:+.3g})")
        same = made.compared - len(made.off)
        typer.echo(f"{same} of {made.compared} metric values are equal to the last bit; run {made.run_id}")
    if made.off:
        raise typer.Exit(1)


@app.command(epilog="Example: `wb gc --older-than 14 --weights --dry-run`")
def gc(
    older_than: Annotated[float, typer.Option(help="Days since a file was last written.", min=0)] = 7.0,
    weights: Annotated[
        bool, typer.Option("--weights", help="Also the weights of finished trials, which `wb eval` needs.")
    ] = False,
    storage: Storage = None,
    workspace: Workspace = DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go; remove nothing.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove old checkpoints: states of trials that nobody goes on with, and, if asked, weights."""
    from workbench.sweep.gc import old_files

    found = old_files(workspace, older_than, weights, storage)
    size = sum(path.stat().st_size for path in found)
    if not dry_run:
        for path in found:
            path.unlink(missing_ok=True)
    if as_json:
        print_json({"files": [str(path) for path in found], "bytes": size, "removed": not dry_run})
        return
    for path in found:
        typer.echo(str(path))
    typer.echo(f"{len(found)} files, {size / 1e6:,.1f} MB {'would be ' if dry_run else ''}removed")
