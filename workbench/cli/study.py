"""`wb worker`, `wb storage`, `wb export`, `wb reproduce` and `wb gc`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.named import OfSweepOrTrial, OfTrial, run_in, run_named
from workbench.cli.options import (
    DEFAULT,
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
    study: Annotated[str, typer.Argument(help="Name of a study that `wb sweep` started.")],
    storage: Storage = None,
    workspace: Workspace = DEFAULT,
    workers: Annotated[
        int | None, typer.Option(help="Trials in parallel; default one per GPU, or per core without a GPU.", min=1)
    ] = None,
    trials_per_device: Annotated[int, typer.Option(help="Trials that share a GPU.", min=1)] = 1,
    give_up_after: GiveUpAfter = None,
) -> None:
    """Join a running study from any machine that shares its storage. Ends when no work is left.

    A trial resumes from its checkpoint only if the workspace is shared, too; otherwise it starts from the beginning.
    """
    from workbench.events import Counted, Mistaken, TrialEnded, WorkerFailed
    from workbench.progress import SweepDisplay
    from workbench.sweep.launch.local import default_workers, run_workers, worker_specs
    from workbench.tracking.store import resolved, sees
    from workbench.trial.job import awaited
    from workbench.trial.ledger import existing
    from workbench.trial.storage import open_storage

    stop = current.get()
    job = awaited(existing(open_storage(storage, workspace), study), to_stderr, stop)
    if not sees(job.uri, workspace, job.parent_run):
        raise UserError(
            f"{study}: this machine does not find its runs in {shown(resolved(job.uri, workspace))}; share the"
            " workspace, continue with `wb sweep FILE` if it has moved, or start the sweep with"
            " MLFLOW_TRACKING_URI=http://... of an MLflow server."
        )
    count = workers or max(1, default_workers(trials_per_device) // job.processes)
    say_of_hidden_devices()
    stop.sentence = "Stopped; other workers can resume its trials."
    failed = False
    with SweepDisplay(console_for(False)) as display:
        events = run_workers(study, worker_specs(workspace, storage, count, job.processes), stop)
        try:
            for event in events:
                match event:
                    case Mistaken(_, message):
                        raise UserError(message)
                    case TrialEnded(_, cell, outcome, value):
                        display.show(Counted(cell, outcome, value))
                    case _:
                        failed = failed or isinstance(event, WorkerFailed)
                        display.show(event)
        finally:
            events.close()  # type: ignore[attr-defined]
    if failed:
        raise typer.Exit(1)


@app.command(
    "storage", epilog="Example: `wb storage --from postgresql://... --port 13000`, then `--storage grpc://HOST:13000`"
)
def storage_(
    source: Annotated[
        str | None,
        typer.Option("--from", help="postgresql://...; default the workspace's journal.", envvar="WB_STORAGE"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable only from this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 13000,
    workspace: Workspace = DEFAULT,
) -> None:
    """Serve a study's storage to many workers over Optuna's gRPC proxy. It has no authentication: use it only in a
    trusted network."""
    from workbench.trial.quiet import quiet
    from workbench.trial.storage import serve

    quiet(studies=logging.WARNING)
    typer.echo(f"serving studies on grpc://{host}:{port} (Ctrl-C stops it)")
    serve(source, workspace, host, port)


@app.command(epilog="Example: `wb export --run-id ID --out frames`")
def export(
    run_id: OfSweepOrTrial,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
) -> None:
    """Export a sweep's finished trials: trials.parquet, metrics.parquet, and experiment.json."""
    from workbench.runs.export import export_run
    from workbench.tracking.store import tracking_uri

    uri = tracking_uri(workspace)
    exported = export_run(uri, run_named(uri, run_id), out)
    if as_json:
        print_json({"trials": exported.trials, "metrics": exported.metrics, "out": str(out)})
    else:
        typer.echo(f"{exported.trials} trials, {exported.metrics:,} metric values: {out}")


@app.command(epilog="Example: `wb reproduce --run-id ID`; exit code 1 where a metric differs.")
def reproduce(
    run_id: OfTrial,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
) -> None:
    """Run a finished trial again from its logged settings and compare every metric bit by bit."""
    from workbench.progress import SweepDisplay
    from workbench.runs.reproduce import reproduce_run

    with SweepDisplay(console_for(as_json)) as display, (stop := current.get()).asking():
        result = reproduce_run(run_in(workspace, run_id), workspace, display.show, stop)
    if as_json:
        print_json(
            {"run_id": result.run_id, "differences": result.warnings, "metrics": result.compared, "off": result.off}
        )
    else:
        for warning in result.warnings:
            typer.echo(f"differs: {warning}", err=True)
        for name, (then, now) in list(result.off.items())[:20]:
            typer.echo(f"{name}: {then!r} then, {now!r} now ({now - then:+.3g})")
        same = result.compared - len(result.off)
        typer.echo(f"{same} of {result.compared} metric values are equal to the last bit; run {result.run_id}")
    if result.off:
        raise typer.Exit(1)


@app.command(epilog="Example: `wb gc --older-than 14 --weights --dry-run`")
def gc(
    older_than: Annotated[float, typer.Option(help="Days since a file was last written.", min=0)] = 7.0,
    weights: Annotated[
        bool, typer.Option("--weights", help="Also the weights of finished trials, which `wb eval` needs.")
    ] = False,
    storage: Storage = None,
    workspace: Workspace = DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old checkpoints: states of trials that were not resumed, and with `--weights` also weights."""
    from workbench.sweep.gc import old_files

    files = old_files(workspace, older_than, weights, storage)
    size = sum(path.stat().st_size for path in files)
    if not dry_run:
        for path in files:
            path.unlink(missing_ok=True)
    if as_json:
        print_json({"files": [str(path) for path in files], "bytes": size, "removed": not dry_run})
        return
    for path in files:
        typer.echo(str(path))
    typer.echo(f"{len(files)} files, {size / 1e6:,.1f} MB {'would be ' if dry_run else ''}removed")
