"""Runs a finished trial again from its logged settings, and compares the metrics."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from workbench.config.schema import Experiment
from workbench.config.settings import as_recorded
from workbench.errors import UserError
from workbench.events import Emit, Said, preparation
from workbench.metrics import measured_afterwards, on_validation
from workbench.outage import Patience, never
from workbench.tracking.provenance import provenance
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.trial.cell import Cell
from workbench.trial.checkpoints import weights_of
from workbench.trial.job import Context, Goal, WorkerSpec, new_job
from workbench.trial.lease import Unleased
from workbench.workspace import Workspace

UNREPEATABLE = ("perf/", "seconds", "system/")  # metrics that depend on the machine's load
NAMED = ("workbench", "commit", "diff_sha256", "python", "platform", "processor", "cores", "torch_threads", "gpus")


@dataclass(frozen=True)
class Reproduced:
    """The result of a reproduction. `warnings`: differences in code, packages, machine and inputs. `off`: metric at
    step -> (then, now), where they are not equal."""

    run_id: str
    warnings: list[str]
    compared: int
    off: dict[str, tuple[float, float]]


def reproduce_run(run_id: str, workspace: Path, show: Emit, stop: Callable[[], bool] = never) -> Reproduced:
    """Runs a finished trial again and compares its metrics. It uses the present code, packages and data; nothing is
    checked out. Raises UserError where there is no such finished trial, and Stopped, after which it starts from the
    beginning."""
    import torch

    from workbench.training.prepare import prepare
    from workbench.trial.run import clear, run_cell

    tracker = Tracker(ensure_store(workspace, new=False), workspace)
    stored, tags = tracker.settings_of(run_id)
    run = tracker.client.get_run(run_id)
    if run.info.status != "FINISHED":
        raise UserError(f"--run-id {run_id}: it is {run.info.status}, not finished; there is nothing to compare with.")
    settings = as_recorded(stored)
    then: dict[str, Any] = {}
    with suppress(MlflowException, OSError):
        then = tracker.attached(run_id, "provenance.json")
    threads = int(then.get("torch_threads") or torch.get_num_threads())
    torch.set_flush_denormal(True)

    prepared = prepare(settings, Workspace(workspace).cache, preparation(show, "again"), stop)
    torch.set_num_threads(threads)
    warnings = differing(then, provenance())
    for name, was, now in (
        ("data", tags.data, prepared.corpus.fingerprint),
        ("warm_start", tags.warm_start, prepared.fingerprint),
    ):
        if was != now:
            warnings.append(f"{name}: {was} then, {now} now")
    # A separate key, so that neither weights nor checkpoints of the first run are touched.
    cell = Cell(
        {}, tags.seed, settings, f"{tags.config_hash}-again-{int(time.time())}", f"again: {run.info.run_name}", tags.arm
    )
    experiment = Experiment(
        name=f"reproduce {run_id}",
        question="",
        preset="",
        settings=settings,
        factors={},
        arms=[{}],
        baseline={},
        primary=_primary(run.data.metrics),
    )
    job = new_job(experiment.name, experiment, None, tracker.uri, threads=threads, all_threads=threads)
    spec = WorkerSpec(workspace, None, "again")
    goal = Goal(experiment.primary, on_validation(experiment.primary))
    context = Context(spec, show, Patience(lambda message: show(Said(spec.name, message)), stop))
    ending = run_cell(job, goal, Unleased(cell), prepared, context)
    clear(spec, job.study, cell)
    weights = weights_of(workspace, job.study, cell.key)
    weights.unlink(missing_ok=True)
    with suppress(OSError):  # another reproduction of the run is still using it
        weights.parent.rmdir()
    tracker.tag(ending.run_id, {"reproduces": run_id})
    before, after = (_values(tracker, run) for run in (run_id, ending.run_id))
    off = {
        f"{n} at step {s}": (v, after.get((n, s), float("nan")))
        for (n, s), v in before.items()
        if after.get((n, s)) != v
    }
    return Reproduced(ending.run_id, warnings, len(before), off)


def differing(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns the differences in code, packages and machine."""
    differences = [
        f"{name}: {then.get(name)} then, {now.get(name)} now" for name in NAMED if then.get(name) != now.get(name)
    ]
    packages = then.get("packages", {})
    return differences + [
        f"{name}: {packages.get(name)} then, {version} now"
        for name, version in now["packages"].items()
        if packages.get(name) != version
    ]


def _primary(metrics: dict[str, float]) -> str:
    return "val/itm_auc" if "val/itm_auc" in metrics else next(iter(metrics))


def _values(tracker: Tracker, run_id: str) -> dict[tuple[str, int], float]:
    logged = tracker.client.get_run(run_id).data.metrics
    names = [name for name in logged if not name.startswith(UNREPEATABLE) and not measured_afterwards(name)]
    return {(n, point.step): point.value for n in names for point in tracker.client.get_metric_history(run_id, n)}
