"""`wb runs`, `wb report`, `wb ui`, and `wb import-meter`."""

import socket
import subprocess
import sys
import urllib.request
import webbrowser
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.named import NAMES, SHORT, report_folder, run_named
from workbench.cli.options import DEFAULT, Json, Storage, Workspace, app, current, print_json
from workbench.errors import UserError, shown
from workbench.stop import CODE
from workbench.workspace import Workspace as Folders

GRACE = 1.0  # seconds for MLflow to end in


@app.command(epilog="Examples: `wb runs`; `wb runs --json`. Next: `wb report --run-id ID`.")
def runs(workspace: Workspace = DEFAULT, storage: Storage = None, as_json: Json = False) -> None:
    """List the sweeps and single trainings of a workspace, newest first."""
    from datetime import datetime

    from analysis.runs import list_runs
    from workbench.sweep.status import living_in
    from workbench.tracking.store import tracking_uri

    frame = list_runs(tracking_uri(workspace), living_in(workspace, storage))
    if as_json:
        print_json(frame.to_dicts())
        return
    if frame.is_empty():
        typer.echo(f"No runs in {workspace} yet; start with `wb sweep FILE`.")
    for row in frame.iter_rows(named=True):
        started = datetime.fromtimestamp(row["started"] / 1000).strftime("%Y-%m-%d %H:%M")
        counts = f"{row['finished']}/{row['trials']}"
        more = [f"{row[state]} {state}" for state in ("running", "failed") if row[state]]
        if row["seconds_left"]:
            more.append(f"about {row['seconds_left'] / 60:.0f} min left")
        if row["best"] is not None:
            more.append(f"best {row['best']:.4f} {row['best_arm']}")
        columns = (row["run_id"][:SHORT], started, f"{row['status']:<8}", f"{counts:>7}", row["name"], ", ".join(more))
        typer.echo("  ".join(columns).rstrip())


@app.command(
    epilog=(
        "Examples: `wb report` (for the newest sweep); `wb report --run-id 1f0c --over seconds`;"
        " `wb report --compare 1f0c components`. `wb runs` lists ids and names."
    )
)
def report(
    others: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN_ID]...", help="With --compare: the sweeps.")
    ] = None,
    run_id: Annotated[str | None, typer.Option(help=f"A sweep or a trial: {NAMES}; default the newest.")] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Compare the arms of several sweeps; the first sweep's baseline is used."),
    ] = False,
    over: Annotated[str, typer.Option(help="The x-axis of curves and speeds: steps, pairs or seconds.")] = "steps",
    against: Annotated[
        str | None, typer.Option(help="`published`: add the published numbers of other methods.")
    ] = None,
    workspace: Workspace = DEFAULT,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; default reports/STUDY in the workspace, and the run's artifacts."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a sweep or a single run: HTML, Markdown, CSV and LaTeX tables, PNG, SVG and PDF figures."""
    names = [*([run_id] if run_id else []), *(others or [])] or ["latest"]
    if compare and len(names) < 2:
        raise UserError("--compare: give at least two runs, as in `wb report --compare A B`; `wb runs` lists them.")
    if not compare and len(names) > 1:
        raise UserError("give one run, as in `wb report --run-id A`, or several with --compare; `wb runs` lists them.")
    if against not in (None, "published"):
        raise UserError(f"--against {against}: only `published` is possible; to compare sweeps use --compare.")
    from analysis.report import write_report
    from analysis.runs import UNITS
    from workbench.faults import outage
    from workbench.tracking.runs import Tracker
    from workbench.tracking.store import tracking_uri

    if over not in UNITS:
        raise UserError(f"--over {over}: it must be one of {', '.join(UNITS)}.")
    uri = tracking_uri(workspace)
    ids = [run_named(uri, name) for name in names]
    folder = out or Folders(workspace).reports / (
        report_folder(uri, ids[0]) if len(ids) == 1 else "-".join(run_id[:SHORT] for run_id in ids)
    )
    try:
        page = write_report(uri, ids[0], folder, ids[1:], over, against == "published")
        if not compare and out is None:
            Tracker(uri, workspace).attach_folder(ids[0], page.parent, "report")
    except OSError as error:
        if outage(error):
            raise
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); name another folder with --out."
        ) from error
    if as_json:
        print_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")


@app.command(epilog="Examples: `wb ui --open`; `wb ui --workspace .wb --port 5001`")
def ui(
    workspace: Workspace = DEFAULT,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable only from this machine.")
    ] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open", help="Open the UI in the browser.")] = False,
) -> None:
    """Serve the MLflow UI for the workspace's runs, or print the page of the server that has them.

    It opens on the training view, with the columns that sweeps are compared by.
    """
    from workbench.tracking.runs import Tracker
    from workbench.tracking.store import ensure_store
    from workbench.tracking.view import share_view

    uri = ensure_store(workspace)
    tracker = Tracker(uri, workspace)
    page = share_view(tracker.client, tracker.experiment_id())
    if uri.startswith("http"):
        _show_page(f"{uri.rstrip('/')}/{page}", "", open_)
        return
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        raise UserError(f"--port {port}: another server listens there; give another port.")
    server, log = f"http://{host}:{port}", workspace / "ui.log"
    options = ["--backend-store-uri", uri, "--host", host, "--port", str(port)]
    with open(log, "wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "ui", *options], stdout=written, stderr=written, start_new_session=True
        )
    stop, ready = current.get(), False
    try:
        with stop.asking(), stop.at_last(partial(_end, process)):
            while process.poll() is None and not stop():
                if not ready and _answers(f"{server}/health"):
                    ready = True
                    _show_page(f"{server}/{page}", " (Ctrl-C stops it)", open_)
                stop.wait(0.2)
    finally:
        _end(process)
    if stop():
        stop.say("Stopped the server.")
        raise typer.Exit(CODE)
    raise UserError(f"MLflow ended with exit code {process.returncode}; {log} says why.")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and all that it has started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=GRACE)
        for member in left:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.kill()
    process.wait()


def _answers(address: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's ports
    try:
        with direct.open(address, timeout=1):
            return True
    except OSError:
        return False


def _show_page(address: str, hint: str, open_: bool) -> None:
    typer.echo(f"MLflow on {shown(address)}{hint}")
    if open_:
        webbrowser.open(address)


@app.command(
    "import-meter", epilog="Example: `wb import-meter meter_clip16_224_roberta_pretrain.ckpt meter.safetensors`"
)
def import_meter(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint that METER published.")],
    out: Annotated[Path, typer.Argument(help="The file to write, for the setting `model.weights`.")],
    preset: Annotated[str, typer.Option(help="The preset whose model the checkpoint must fit.")] = "meter-base",
    as_json: Json = False,
) -> None:
    """Convert a METER checkpoint into initial weights for this model."""
    from safetensors.torch import save_file

    from workbench.config.schema import Settings
    from workbench.config.settings import read_preset
    from workbench.model.meter import from_meter, read_meter, sized_like

    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: there is no such file; give the checkpoint that METER published.")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; create it first.")
    tensors = read_meter(checkpoint)
    model = sized_like(tensors, Settings.model_validate(read_preset(preset)))
    weights = from_meter(tensors, model)
    try:
        save_file(weights, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}).") from error
    if as_json:
        print_json({"file": str(out), "tensors": len(weights)})
    else:
        print(f"{len(weights)} tensors written. Start from them: --set model.weights={out}")
