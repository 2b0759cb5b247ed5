"""`wb eval` and `wb finetune`: further measurements of finished runs."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workbench.cli.named import OfTrials, run_named
from workbench.cli.options import DEFAULT, Json, Workspace, app, console_for, current, print_json
from workbench.errors import UserError
from workbench.metrics import counted_as
from workbench.workspace import Workspace as Folders

if TYPE_CHECKING:
    from workbench.runs.evaluate import Result, Trained
    from workbench.tracking.runs import Tracker

LONGEST = 2000  # characters of a tag
Suite = Literal["sugarcrepe", "aro", "valse", "vl_checklist", "winoground", "robustness", "retrieval"]


@app.command(
    "eval",
    epilog="Examples: `wb eval --run-id ID --suite robustness`; "
    "`wb eval --run-id ID --suite sugarcrepe --annotations sugar-crepe/data --images val2017 --json`",
)
def evaluate(
    run_id: OfTrials,
    suite: Annotated[Suite, typer.Option(help="The suite to measure.")],
    annotations: Annotated[Path | None, typer.Option(help="Folder of the suite's published files.")] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of the suite's images; may be given several times.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Measure only the first N items of each kind; the metrics' names say so.", min=1)
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option(help="Log a suite's scores even if more than 1 % of a kind's items lack their image.")
    ] = False,
    tagger: Annotated[
        Literal["words", "spacy"], typer.Option(help="aro: the tagger of nouns and adjectives; `spacy` as published.")
    ] = "words",
    max_num: Annotated[
        int,
        typer.Option(
            help="vl_checklist: number of texts per list, true and false, like its MAX_NUM; 0 for all.", min=0
        ),
    ] = 2000,
    shortlist: Annotated[int, typer.Option(help="retrieval: candidates per query that ITM ranks.", min=10)] = 128,
    sentence_encoder: Annotated[
        str | None,
        typer.Option(help="robustness: a transformers encoder; perturbations that change the meaning are drawn again."),
    ] = None,
    rewriter: Annotated[
        str | None, typer.Option(help="robustness: a transformers sequence-to-sequence model that rewrites captions.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="The rewriter's prompt before each caption.")] = "paraphrase: ",
    sheet: Annotated[
        Path | None, typer.Option(help="robustness: also write a contact sheet of the corruptions (PNG).")
    ] = None,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
) -> None:
    """Measure a finished run on a suite and log the results to the run. After a stop, run the same command again."""
    from workbench.evaluation.suites import Protocol
    from workbench.progress import counted
    from workbench.runs import evaluate as suites
    from workbench.tracking.runs import Tracker
    from workbench.tracking.store import ensure_store

    if suite not in ("robustness", "retrieval") and (annotations is None or not images):
        raise UserError(
            f"--suite {suite}: give --annotations, the folder of its files, and --images, the folder of its images."
        )
    tracker = Tracker(ensure_store(workspace, new=False), workspace)
    console, stop = console_for(as_json), current.get()
    results = []
    for trial in tracker.trials_of(run_named(tracker.uri, run_id)):
        trained = suites.load_trained(tracker, trial, workspace)
        with stop.asking(), counted(console, suite) as show:
            how = suites.How(Folders(workspace).evaluations / trial, stop, show)
            if suite == "robustness":
                if sheet:
                    suites.corruption_sheet(trained, sheet)
                sentences = suites.Sentences(sentence_encoder, rewriter, prompt)
                result = suites.evaluate_all_robustness(trained, limit, sentences, how)
            elif suite == "retrieval":
                result = suites.evaluate_retrieval(trained, limit, shortlist, how)
            else:
                assert annotations is not None
                assert images is not None
                files = suites.Published(suite, annotations, tuple(images))
                protocol = Protocol(tagger, max_num, limit)
                result = suites.evaluate_published(trained, files, protocol, how)
        report = _log_result(tracker, trained, result, allow_partial, as_json)
        if report["logged"] and result.notes:
            tracker.tag(trial, {f"evaluation.{suite}": "; ".join(result.notes)[:LONGEST]})
        results.append({"run_id": trial, "suite": suite} | report)
    if as_json:
        print_json(results)
    if refused := [report["partial"] for report in results if not report["logged"]]:
        raise UserError(f"--images: {refused[0]}. Nothing was logged; give the missing images, or use --allow-partial.")


@app.command(
    epilog="Examples: `wb finetune vqa --run-id ID` (questions about the run's rendered scenes); "
    "`wb finetune nlvr2 --run-id ID --annotations nlvr2/data --images nlvr2`"
)
def finetune(
    task: Annotated[
        Literal["vqa", "nlvr2", "snli_ve", "retrieval"],
        typer.Argument(help="VQAv2, NLVR2, SNLI-VE, or retrieval on the run's own pairs."),
    ],
    run_id: OfTrials,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of the task's published files; without it, rendered scenes.")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder that contains the task's images; may be given several times.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: METER's; 4 on rendered scenes.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: METER's; 64 on rendered scenes.", min=4)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of the encoders.", min=0)] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Pixels; default: METER's for the task on published files, else the run's.", min=16),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the classifier and the order of examples.", min=0)] = 0,
    limit: Annotated[
        int | None,
        typer.Option(help="Use only the first N examples of each split; the metrics' names say so.", min=4),
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option(help="Score a split even if more than 1 % of its examples lack an image.")
    ] = False,
    micro_batches: Annotated[
        int, typer.Option(help="Number of micro-batches per batch, if it does not fit into memory.", min=1)
    ] = 1,
    nproc: Annotated[int, typer.Option(help="Processes on this machine that train together, one per GPU.", min=1)] = 1,
    workspace: Workspace = DEFAULT,
    as_json: Json = False,
) -> None:
    """Fine-tune a finished run on a downstream task and log the score to the run. After a stop, run the same command
    again."""
    if nproc > 1 and "WORLD_SIZE" not in os.environ:
        from workbench.trial.torchrun import start_together

        raise typer.Exit(start_together(nproc, current.get()))
    from contextlib import ExitStack
    from dataclasses import replace
    from functools import partial

    from workbench.progress import counting
    from workbench.runs.evaluate import Published, load_trained
    from workbench.runs.finetune import Tuning, finetune_run
    from workbench.tracking.runs import Tracker
    from workbench.tracking.store import ensure_store
    from workbench.training.finetune import METER, TINY
    from workbench.training.loop import Hooks
    from workbench.training.parallelize import joined
    from workbench.training.prepare import unhurried

    if task == "retrieval" and annotations is not None:
        raise UserError("retrieval is trained on the run's own pairs; it accepts neither --annotations nor --images.")
    if image_size and annotations is None:
        raise UserError(
            "--image-size is for published files; rendered scenes and the run's own images have the run's size."
        )
    if (annotations is None) == bool(images):
        raise UserError("--annotations and --images go together; without both, the run's rendered scenes are used.")
    options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    options |= {"image_size": image_size, "micro_batches": micro_batches}
    changes = {name: value for name, value in options.items() if value is not None}
    recipe = replace(TINY if annotations is None else METER[task], **changes)
    files = None if annotations is None else Published(task, annotations, tuple(images or ()))
    tuning = Tuning(task, recipe, seed, limit, files, allow_partial)
    results = []
    stop = current.get()
    with joined() as world, stop.asking():
        tracker = Tracker(ensure_store(workspace, new=False), workspace)
        first = world.rank == 0
        console = console_for(as_json)
        for trial in tracker.trials_of(run_named(tracker.uri, run_id)):
            trained = load_trained(tracker, trial, workspace, recipe.image_size)
            with ExitStack() as bars:
                show = bars.enter_context(counting(console, task)) if first else lambda *_: None
                hooks = Hooks(
                    log=lambda *_: None,
                    progress=lambda step, figures, show=show: show(task, step, int(figures["steps"])),  # type: ignore[misc]
                    stop=stop,
                    say=tracker.say if first else lambda _: None,
                    persist=partial(unhurried, stop),
                )
                result = finetune_run(trained, tuning, workspace, hooks, show, world)
            if first:
                report = _log_result(tracker, trained, result, True, as_json)
                results.append({"run_id": trial, "task": task} | report)
    if as_json and results:
        print_json(results)


def _log_result(
    tracker: "Tracker", trained: "Trained", result: "Result", allow_partial: bool, as_json: bool
) -> dict[str, Any]:
    """Logs a result to its run, unless it covers only a part and would look like that of the whole. Prints it unless
    `as_json`. Returns the result as JSON values."""
    logged = result.partial is None or allow_partial
    if logged:
        tracker.log(trained.run_id, result.metrics, trained.settings.optimisation.steps)
    if not as_json:
        _print_result(trained.run_id, result)
    return asdict(result) | {"logged": logged}


def _print_result(trial: str, result: "Result") -> None:
    for name, value in result.metrics.items():
        if not name.startswith("suite_"):
            typer.echo(f"{name:<52} {value:.4f}{_items(name, result.metrics)}")
    typer.echo(f"run {trial}: {result.examples:,} items")
    for note in result.notes:
        typer.echo(note, err=True)
    if result.missing and not result.notes:
        named = "; ".join(f"{id}: {why}" for id, why in list(result.missing.items())[:5])
        typer.echo(f"{len(result.missing):,} left out: {named}" + (" ..." if len(result.missing) > 5 else ""), err=True)


def _items(name: str, metrics: dict[str, float]) -> str:
    """Returns how many of its items the score of a suite covers; an empty text for other metrics."""
    prefix = "suite_items/"
    kinds = {metric.removeprefix(prefix) for metric in metrics if metric.startswith(prefix)}
    kind = counted_as(name.partition("/")[2], kinds)
    if kind is None:
        return ""
    items, missing, identical = (int(metrics[f"suite_{what}/{kind}"]) for what in ("items", "missing", "identical"))
    total = items + missing + identical
    return f"   {items:,} items" if items == total else f"   {items:,} of {total:,} items"
