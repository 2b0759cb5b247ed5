"""The `wb` command: one thin function a command; heavy imports stay inside."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from workbench.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Which part of a vision-language pre-training method does what.

    `wb sweep experiments/ablation_itm.yaml` runs an ablation and writes its report; `wb ui` shows the runs in MLflow.
    """,
)

Workspace = Annotated[Path, typer.Option(help="Folder of runs, caches, checkpoints and reports.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting, such as optimisation.steps=200.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
File = Annotated[Path, typer.Argument(help="The experiment's YAML.", metavar="FILE")]
DEFAULT = Path(".wb")


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
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Shrink the experiment to seconds; its numbers mean nothing.")
    ] = False,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an experiment's grid and write its report. Stopped at any point, the same command goes on."""
    from rich.console import Console

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
    console = Console(stderr=as_json, no_color="NO_COLOR" in os.environ or None)
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
        _print_json(
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
        _print_json(
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
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Shrink the experiment to seconds; its numbers mean nothing.")
    ] = False,
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

    from rich.console import Console

    from workbench.progress import SweepDisplay
    from workbench.sweep.single import run_single
    from workbench.training.distributed import joined

    console = Console(stderr=as_json, no_color="NO_COLOR" in os.environ or None)
    with joined() as world, ExitStack() as stack:
        first = world.rank == 0
        show = stack.enter_context(SweepDisplay(console)).show if first else lambda _: None
        chosen = experiment.seeds.first if seed is None else seed
        made = run_single(experiment, chosen, workspace, world, show)
    if first and as_json:
        _print_json(
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


@app.command(epilog="Example: `wb report --run-id 1f0c...`; `wb runs` lists the ids.")
def report(
    run_id: Annotated[str, typer.Option(help="A sweep's run or a single trial's.")],
    workspace: Workspace = DEFAULT,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; default reports/RUN_ID in the workspace.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the report of a sweep or a single run: HTML, Markdown, CSV tables, PNG and SVG figures."""
    from analysis.report import write_report
    from workbench.tracking.runs import Tracker
    from workbench.tracking.store import tracking_uri

    uri = tracking_uri(workspace)
    page = write_report(uri, run_id, out or workspace / "reports" / run_id)
    Tracker(uri, workspace).attach_folder(run_id, page.parent, "report")
    if as_json:
        _print_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")


Suite = Literal["sugarcrepe", "aro", "valse", "vl_checklist", "winoground", "robustness", "retrieval"]


@app.command(
    "eval",
    epilog="Examples: `wb eval --run-id ID --suite robustness`; "
    "`wb eval --run-id ID --suite sugarcrepe --annotations sugar-crepe/data --images val2017 --json`",
)
def evaluate(
    run_id: Annotated[str, typer.Option(help="A sweep (all of its finished trials), a trial, or a single training.")],
    suite: Annotated[Suite, typer.Option(help="What to measure.")],
    annotations: Annotated[Path | None, typer.Option(help="Folder of the suite's files as published.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the suite's pictures.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many examples of each kind.", min=1)] = None,
    shortlist: Annotated[int, typer.Option(help="retrieval: candidates of each query that ITM ranks.", min=10)] = 128,
    sentence_encoder: Annotated[
        str | None,
        typer.Option(help="robustness: a transformers encoder; perturbations that change the meaning are drawn anew."),
    ] = None,
    rewriter: Annotated[
        str | None, typer.Option(help="robustness: a transformers sequence-to-sequence model that rewrites captions.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the rewriter is given before each caption.")] = "paraphrase: ",
    sheet: Annotated[
        Path | None, typer.Option(help="robustness: also a contact sheet of the corruptions, a PNG.")
    ] = None,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a finished run on a suite; the results land in the run. Stopped, the same command goes on."""
    from rich.console import Console

    from workbench.progress import counted
    from workbench.sweep import evaluate as suites
    from workbench.tracking.runs import Tracker
    from workbench.tracking.store import tracking_uri

    published = suite not in ("robustness", "retrieval")
    if published and (annotations is None or images is None):
        raise UserError(
            f"--suite {suite}: give the folder of its files, --annotations, and that of its pictures, --images."
        )
    tracker = Tracker(tracking_uri(workspace), workspace)
    console = Console(stderr=as_json, no_color="NO_COLOR" in os.environ or None)
    results = []
    for trial in tracker.trials_of(run_id):
        trained = suites.load_trained(tracker, trial, workspace)
        home = suites.scratch(workspace, trial)
        with _going_on(), counted(console, suite) as show:
            if suite == "robustness":
                if sheet:
                    suites.corruption_sheet(trained, sheet)
                made = suites.evaluate_all_robustness(trained, limit, home, show, sentence_encoder, rewriter, prompt)
            elif suite == "retrieval":
                made = suites.evaluate_retrieval(trained, limit, shortlist, show)
            else:
                assert annotations is not None
                assert images is not None
                made = suites.evaluate_published(trained, suite, annotations, images, limit, home, show)
        if limit is None:
            tracker.log(trial, made.metrics, trained.settings.optimisation.steps)
        results.append({"run_id": trial, "suite": suite} | asdict(made))
        if not as_json:
            _tell(trial, made, limit is not None)
    if as_json:
        _print_json(results)


@app.command(
    epilog="Examples: `wb finetune vqa --run-id ID` (questions about the run's rendered scenes); "
    "`wb finetune nlvr2 --run-id ID --annotations nlvr2/data --images nlvr2`"
)
def finetune(
    task: Annotated[
        Literal["vqa", "nlvr2", "snli_ve", "retrieval"],
        typer.Argument(help="VQAv2, NLVR2, SNLI-VE, or retrieval on the run's own pairs."),
    ],
    run_id: Annotated[str, typer.Option(help="A sweep (all of its finished trials), a trial, or a single training.")],
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of the task's files as published; without it, rendered scenes.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the task's pictures.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: METER's; 4 on rendered scenes.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: METER's; 64 on rendered scenes.", min=4)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the encoders.", min=0)] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Pixels; default: METER's for the task on published files, else the run's.", min=16),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of classifier and order.", min=0)] = 0,
    limit: Annotated[int | None, typer.Option(help="At most so many examples of each split.", min=4)] = None,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a finished run on a downstream task; its score lands in the run. Stopped, the same command goes on."""
    from dataclasses import replace

    from rich.console import Console

    from workbench.progress import counted
    from workbench.sweep import evaluate as suites
    from workbench.tracking.runs import Tracker
    from workbench.tracking.store import tracking_uri
    from workbench.training.finetune import METER, TINY
    from workbench.training.loop import Hooks, Stopped

    if task == "retrieval" and annotations is not None:
        raise UserError("retrieval is trained on the run's own pairs; it takes neither --annotations nor --images.")
    if image_size and annotations is None:
        raise UserError(
            "--image-size is for published files; rendered scenes and the run's own pictures have the run's size."
        )
    if (annotations is None) != (images is None):
        raise UserError("--annotations and --images go together; without both, the run's rendered scenes are taken.")
    given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    given["image_size"] = image_size
    recipe = replace(TINY if annotations is None else METER[task], **{n: v for n, v in given.items() if v is not None})
    tracker = Tracker(tracking_uri(workspace), workspace)
    console = Console(stderr=as_json, no_color="NO_COLOR" in os.environ or None)
    asked: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: asked.append(number))
    results = []
    for trial in tracker.trials_of(run_id):
        trained = suites.load_trained(tracker, trial, workspace, recipe.image_size)
        with counted(console, task) as show:
            hooks = Hooks(
                log=lambda *_: None,
                progress=lambda step, figures, show=show: show(step, int(figures["steps"])),  # type: ignore[misc]
                stop=lambda: bool(asked),
            )
            try:
                made = suites.finetune_run(trained, task, annotations, images, recipe, seed, limit, workspace, hooks)
            except Stopped:
                typer.echo("Stopped; the same command goes on.", err=True)
                raise typer.Exit(130) from None
        if limit is None:
            tracker.log(trial, made.metrics, trained.settings.optimisation.steps)
        results.append({"run_id": trial, "task": task} | asdict(made))
        if not as_json:
            _tell(trial, made, limit is not None)
    if as_json:
        _print_json(results)


@contextmanager
def _going_on() -> Iterator[None]:
    """Ctrl-C and a scheduler's SIGTERM end work whose finished parts are kept."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command goes on.", err=True)
        raise typer.Exit(130) from None


def _tell(trial: str, made: Any, limited: bool) -> None:
    for name, value in made.metrics.items():
        typer.echo(f"{name:<52} {value:.4f}")
    typer.echo(f"run {trial}: {made.examples} examples" + (" (limited; not logged to the run)" if limited else ""))
    if made.missing:
        named = "; ".join(f"{id}: {why}" for id, why in list(made.missing.items())[:5])
        typer.echo(f"{len(made.missing)} left out: {named}" + (" ..." if len(made.missing) > 5 else ""), err=True)


@app.command()
def runs(workspace: Workspace = DEFAULT, as_json: Json = False, debug: Debug = False) -> None:
    """List the sweeps and single trainings of a workspace, the newest first."""
    from datetime import datetime

    from analysis.runs import list_runs
    from workbench.tracking.store import tracking_uri

    frame = list_runs(tracking_uri(workspace))
    if as_json:
        _print_json(frame.to_dicts())
        return
    if frame.is_empty():
        typer.echo(f"No runs in {workspace} yet; start with `wb sweep FILE`.")
    for row in frame.iter_rows(named=True):
        started = datetime.fromtimestamp(row["started"] / 1000).strftime("%Y-%m-%d %H:%M")
        typer.echo(f"{row['run_id']}  {started}  {row['status']:<8}  {row['finished']:>3} finished  {row['name']}")


@app.command(
    "import-meter", epilog="Example: `wb import-meter meter_clip16_224_roberta_pretrain.ckpt meter.safetensors`"
)
def import_meter(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint that METER published.")],
    out: Annotated[Path, typer.Argument(help="The file to write, for the setting `model.weights`.")],
    preset: Annotated[str, typer.Option(help="The preset whose model the checkpoint must fit.")] = "meter-base",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn a METER checkpoint into a start for this model."""
    from safetensors.torch import save_file

    from workbench.config.load import read_preset
    from workbench.config.schema import Settings
    from workbench.model.meter import from_meter, read_meter, sized_like

    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: there is no such file; give the checkpoint that METER published.")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first.")
    given = read_meter(checkpoint)
    model = sized_like(given, Settings.model_validate(read_preset(preset)))
    weights = from_meter(given, model)
    try:
        save_file(weights, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}).") from error
    if as_json:
        _print_json({"file": str(out), "tensors": len(weights)})
    else:
        print(f"{len(weights)} tensors written. Start from them: --set model.weights={out}")


data = typer.Typer(no_args_is_help=True, help="Prepare, list and look at image-text corpora.")
app.add_typer(data, name="data")
Name = Annotated[str, typer.Argument(help="A name for the prepared corpus, for `data.mix`.")]


@data.command(
    "prepare",
    epilog="Examples: `wb data prepare coco --from annotations/captions_train2017.json --images train2017`; "
    "`wb data prepare cc3m --from cc3m/ --side 256` (a folder of tars)",
)
def data_prepare(
    name: Name,
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            help="COCO's, Karpathy's or Visual Genome's JSON, a list of {image, caption}, a .csv / .jsonl / .parquet, a tar or folder of "
            "tars, or a folder that holds one of these, or pictures with a .txt beside each.",
        ),
    ],
    images: Annotated[Path | None, typer.Option(help="Where the pictures lie, if not beside.")] = None,
    side: Annotated[
        int, typer.Option(help="Stored side in pixels; a little more than the model's.", min=16, max=1024)
    ] = 256,
    fit: Annotated[
        Literal["crop", "squash", "pad"], typer.Option(help="Keep the middle, squash, or pad on white.")
    ] = "crop",
    regions: Annotated[
        Literal["whole", "crop"], typer.Option(help="Visual Genome: whole pictures, or each region cut out.")
    ] = "whole",
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Store no pixels: decode pictures where they lie, as from mounted tars too large to copy.",
        ),
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default one a core.", min=1)] = None,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Decode and resize a corpus once, for fast reading. Stopped at any point, the same command goes on."""
    from rich.console import Console

    from workbench.data.captions import read_source
    from workbench.data.prepare import prepare_source
    from workbench.data.report import describe
    from workbench.progress import counted

    if "/" in name or name.startswith("."):
        raise UserError(f"{name}: a name has no slash and does not start with a dot.")
    console = Console(stderr=as_json, no_color="NO_COLOR" in os.environ or None)
    reading = read_source(source, images, regions)
    with _going_on(), counted(console, "pictures") as show:
        made = prepare_source(
            reading,
            workspace / "data" / name,
            side,
            fit,
            workers or os.cpu_count() or 1,
            show,
            in_place,
        )
    told = describe(made)
    if as_json:
        _print_json(told.facts)
    else:
        typer.echo(told.text)


@data.command("list")
def data_list(
    workspace: Workspace = DEFAULT,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and compare checksums.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the prepared corpora of a workspace."""
    from workbench.data.store import FACTS, open_store

    found = [open_store(path.parent) for path in sorted((workspace / "data").glob(f"*/{FACTS}"))]
    rows = [
        {"name": store.name, "form": store.facts["form"], "pictures": store.facts["pictures"]}
        | {
            "side": store.side,
            "fit": store.facts["fit"],
            "in_place": store.facts["in_place"],
            "broken": store.facts["broken"],
        }
        | ({"damaged": store.damaged()} if verify else {})
        for store in found
    ]
    if as_json:
        _print_json(rows)
    elif not rows:
        typer.echo(f"Nothing is prepared in {workspace / 'data'}; start with `wb data prepare NAME --from PATH`.")
    for row in [] if as_json else rows:
        harm = f"  DAMAGED: {', '.join(row['damaged'])}" if row.get("damaged") else ""
        typer.echo(
            f"{row['name']:<16} {row['form']:<14} {row['pictures']:>9,} pictures  {row['side']} px {row['fit']:<6} "
            f"{'in place ' if row['in_place'] else ''}"
            f"{row['broken']:,} left out{harm}"
        )
    if any(row.get("damaged") for row in rows):
        raise typer.Exit(1)


@data.command("inspect", epilog="Examples: `wb data inspect coco`; `wb data inspect experiments/ablation_itm.yaml`")
def data_inspect(
    what: Annotated[str, typer.Argument(help="A prepared corpus, or an experiment's YAML.", metavar="NAME|FILE")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("sheet.png"),
    count: Annotated[int, typer.Option(help="Pictures.", min=1, max=64)] = 12,
    workspace: Workspace = DEFAULT,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Write a contact sheet: a corpus with its captions, or what the model sees of an experiment's pairs."""
    from workbench.data.sheet import write_sheet

    if not what.endswith((".yaml", ".yml")):
        from workbench.data.report import sample

        pictures, lines, title = sample(workspace / "data" / what if "/" not in what else Path(what), count)
    else:
        import numpy as np

        from workbench.config.load import load_experiment
        from workbench.training.views import first_views

        experiment = load_experiment(Path(what), set_ or ())
        views = first_views(experiment.settings, experiment.seeds.first, workspace / "cache", count, lambda *_: None)
        pictures, lines = np.stack([view.picture for view in views]), [view.lines for view in views]
        title = f"{experiment.name}, seed {experiment.seeds.first}: the first pairs of the first step"
    write_sheet(pictures, lines, title, out)
    typer.echo(f"contact sheet: {out}")


@app.command()
def ui(
    workspace: Workspace = DEFAULT,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable from this machine only.")
    ] = "127.0.0.1",
    debug: Debug = False,
) -> None:
    """Open the MLflow UI on the workspace's runs."""
    from workbench.tracking.store import open_store

    uri = open_store(workspace)
    typer.echo(f"MLflow on http://{host}:{port} (Ctrl-C ends it)")
    os.execv(
        sys.executable,
        [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)],
    )


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def _let_the_first_process_speak() -> None:
    """Of several processes most meet the same error; the first one says it, and its end takes the others down."""
    if int(os.environ.get("RANK", "0")) > 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(3)


def main() -> None:
    """The console script: errors end in one sentence, 2 for the user's mistake and 1 for ours."""
    debug = "--debug" in sys.argv
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        app()
    except UserError as error:
        if debug:
            raise
        _let_the_first_process_speak()
        typer.echo(f"wb: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("wb: stopped.", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"wb: unexpected error: {reason} (run again with --debug for the traceback)", err=True)
        sys.exit(1)
