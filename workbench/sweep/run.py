"""A sweep from experiment to report: plan, workers, blocks, outcome."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.config.schema import Experiment
from workbench.errors import UserError
from workbench.sweep.grid import Cell, expand, study_name
from workbench.sweep.launch.local import run_workers
from workbench.sweep.study import Ledger, missing
from workbench.sweep.worker import Event, Job
from workbench.tracking.provenance import provenance
from workbench.tracking.runs import Tracker
from workbench.tracking.store import open_store

Report = Callable[[str, str], Path]  # (store address, run id) -> the written page


@dataclass
class Outcome:
    """How a sweep ended. `report` is None where nothing is finished."""

    run_id: str
    planned: int
    finished: int = 0
    report: Path | None = None
    failures: list[str] = field(default_factory=list)
    stopped: bool = False


def run_sweep(
    experiment: Experiment,
    workspace: Path,
    workers: int,
    cores: int,
    show: Callable[[Event], None],
    report: Report,
    is_smoke: bool = False,
) -> Outcome:
    """Runs what is missing of the sweep, with a report after each block of seeds and at the end.

    Raises UserError for what the user can mend; a trial that fails is listed in the outcome and the others go on.
    """
    uri = open_store(workspace)
    tracker = Tracker(uri, workspace)
    study = study_name(experiment)
    cells = expand(experiment)
    ledger = Ledger(workspace / "studies", study)
    run_id = tracker.start(experiment.name, {"study": study, "kind": "sweep"}, _params(experiment))
    tracker.attach(run_id, describe(experiment, cells, is_smoke), "experiment.json")
    tracker.attach(run_id, provenance(), "provenance.json")
    tracker.note(run_id, f"**{experiment.question}**\n\nThe report is under artifacts, `report/report.html`.")
    outcome = Outcome(run_id, len(cells))
    todo = missing(cells, ledger)
    show(("plan", {"cells": len(cells), "finished": len(cells) - len(todo), "workers": workers, "run_id": run_id}))
    threads = max(1, cores // workers)
    job = Job(workspace, study, run_id, uri, cells, threads, cores, experiment.primary, time.time())
    events = run_workers(job, workers)
    blocks = {cell.seed for cell in cells} - {cell.seed for cell in todo}

    def write() -> None:
        outcome.report = report(uri, run_id)
        tracker.attach_folder(run_id, outcome.report.parent, "report")
        tracker.note(run_id, _note(outcome.report))
        show(("report", {"path": str(outcome.report)}))

    try:
        for kind, figures in events if todo else ():
            show((kind, figures))
            if kind == "user_error":
                raise UserError(figures["message"])
            if kind in ("failed", "crash"):
                outcome.failures.append(figures["message"])
            if kind == "end":
                outcome.stopped = outcome.stopped or figures["stopped"]
            if kind == "done":
                left = {cell.seed for cell in missing(cells, ledger)}
                whole = {cell.seed for cell in cells} - left
                if whole - blocks and left:
                    blocks = whole
                    write()
    except KeyboardInterrupt:
        outcome.stopped = True
    except BaseException:
        tracker.finish(run_id, "FAILED")
        raise
    finally:
        events.close()  # type: ignore[attr-defined]
    outcome.finished = len(cells) - len(missing(cells, ledger))
    if outcome.finished and not outcome.stopped:
        write()
    status = "KILLED" if outcome.stopped else "FINISHED" if outcome.finished == len(cells) else "FAILED"
    tracker.finish(run_id, status)
    return outcome


def _note(page: Path) -> str:
    """The report's answer and first tables, as the description of the sweep's run in MLflow."""
    text = page.with_suffix(".md").read_text(encoding="utf-8").partition("\n![")[0]
    title, _, rest = text.partition("\n")
    shown = rest if len(rest) <= 6000 else rest[:6000].rpartition("\n\n")[0]
    # Bold, because the MLflow UI lets the lines of a long heading run into each other.
    return f"**{title.removeprefix('# ')}**\n{shown}\n\nThe whole report is under artifacts: `report/{page.name}`."


def describe(experiment: Experiment, cells: list[Cell], is_smoke: bool) -> dict[str, Any]:
    """What the report must know of the experiment, as JSON."""
    arms = list(dict.fromkeys(cell.label for cell in cells))  # the baseline comes first
    return experiment.model_dump(exclude={"arms"}) | {
        "arms": arms,
        "baseline_arm": arms[0],
        "planned": len(cells),
        "smoke": is_smoke,
    }


def _params(experiment: Experiment) -> dict[str, Any]:
    return {f"factor {name}": levels for name, levels in experiment.factors.items()} | {
        "preset": experiment.preset,
        "seeds": experiment.seeds.count,
        "steps": experiment.settings.optimisation.steps,
        "primary": experiment.primary,
    }


def estimate(experiment: Experiment, workspace: Path, workers: int, cores: int) -> dict[str, float]:
    """Seconds of one training step and of one trial, from a few measured steps of the baseline.

    Measured on a model with a fresh start, and the tokens and pictures of a small sample, so that nothing has to be
    prepared first.
    """
    import torch

    from workbench.sweep.grid import make_cell
    from workbench.training.loop import Hooks, Stopped, train
    from workbench.training.prepare import prepare

    settings = experiment.settings
    small = settings.model_copy(
        update={
            "data": settings.data.model_copy(
                update={"train_pairs": 4 * settings.optimisation.batch_size, "eval_pairs": 64}
            ),
            "warm_start": settings.warm_start.model_copy(update={"steps": 4}),
        }
    )
    torch.set_num_threads(max(1, cores // workers))
    torch.set_flush_denormal(True)
    moments: list[float] = []

    def stop() -> bool:
        moments.append(time.perf_counter())
        return len(moments) > 12

    cell = make_cell(experiment, experiment.baseline, 0)
    shared = prepare(small, workspace / "cache", lambda *_: None)
    checkpoint = workspace / "checkpoints" / "estimate.pt"
    checkpoint.unlink(missing_ok=True)
    arm = cell.settings.model_copy(update={"data": small.data, "warm_start": small.warm_start})
    with contextlib.suppress(Stopped):
        train(arm, 0, shared, checkpoint, Hooks(log=lambda *_: None, progress=lambda *_: None, stop=stop))
    checkpoint.unlink(missing_ok=True)
    step = (moments[-1] - moments[2]) / (len(moments) - 3)
    trial = step * settings.optimisation.steps
    return {"step": step, "trial": trial}
