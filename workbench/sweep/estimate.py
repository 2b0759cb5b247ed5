"""Estimates what a sweep will need before it starts: time, memory and disk; and what does not fit.

Where the device is available, probes measure short trials (`probe.py`) as workers will run them: the same number in
parallel, with the same threads. Times are means over probes and arms under the machine's present load. Without the
device or the weights, memory and operations are counted from shapes (`training/shapes.py`). Nothing of it is kept.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from workbench.config.schema import Experiment, Settings
from workbench.errors import UserError
from workbench.sweep.disk import rooms
from workbench.sweep.launch.local import in_workers, warm_up, worker_specs
from workbench.sweep.probe import Probed, ProbeRequest, Timed, pairs_of, probe
from workbench.trial.cell import make_cell
from workbench.workspace import Workspace

if TYPE_CHECKING:
    from workbench.training.shapes import Shapes

ARMS = 3  # number of measured arms, including the baseline
LARGE = 50_000_000  # parameters above which a model is not trained on a CPU for an estimate
REACHED = 200e12  # operations per second of a large model in bfloat16 on one H200 (docs/performance.md)
HEADROOM = 0.95  # usable share of memory or disk
GIB: Final = 2**30


@dataclass(frozen=True)
class Asking:
    """The sweep to estimate: `todo` trials are left, for `workers` workers of `processes` processes each. All workers
    of a machine share its `cores`."""

    experiment: Experiment
    workspace: Path
    todo: int
    workers: int
    cores: int
    processes: int = 1


@dataclass(frozen=True)
class Here:
    """This machine: the `missing` weights, each with how to download them; the model's shapes, without those of a step;
    the device, and free bytes of its memory, None for a GPU that is not available here. `on_gpu`: trials will run on a
    GPU."""

    missing: list[str]
    shapes: "Shapes"
    device: str
    on_gpu: bool
    memory: int | None
    gpus: int


@dataclass(frozen=True)
class Trial:
    """One trial. Seconds are means over arms and workers, bytes are maxima. `memory_bytes`: memory of a process on its
    device; on a CPU, without the `resting_bytes` of an idle process. `memory_parts`: the memory of a step by content.
    `other_seconds`: for set-up, saved states and examples. None where a value is not known."""

    parameters_trained: int
    parameters_frozen: int
    memory_bytes: int
    resting_bytes: int
    evaluation_bytes: int | None
    memory_parts: dict[str, int]
    micro_batches: int
    checkpoint_bytes: int
    weights_bytes: int
    seconds_per_step: float | None
    training_seconds: float | None
    evaluation_seconds: float | None
    other_seconds: float | None
    operations_per_pair: float | None = None

    @property
    def seconds(self) -> float | None:
        """The sum of the known parts; None where the training time is not known."""
        known = (self.training_seconds, self.evaluation_seconds, self.other_seconds)
        return None if self.training_seconds is None else sum(part or 0.0 for part in known)


@dataclass(frozen=True)
class Estimate:
    """The output of `wb sweep --dry-run`. `measured`: the names of measured figures; the others are estimated.
    `preparing`: stage -> seconds of shared preparation that is still missing. `seconds_left`: for the whole sweep,
    without reports. `device_seconds`: total time in which devices are used. `does_not_fit`: sentences, each with the
    setting to change."""

    device: str
    trial: Trial
    preparing: dict[str, float]
    seconds_left: float | None
    device_seconds: float | None
    pairs_per_second: float | None
    data_bytes: int
    features_bytes: int
    checkpoints_bytes: int
    disk_free_bytes: int
    memory_available_bytes: int | None
    measured: list[str]
    missing_weights: list[str] = field(default_factory=list)
    does_not_fit: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Returns all figures by name, as `--json` prints them."""
        figures = asdict(self)
        trial = figures.pop("trial") | {"seconds_per_trial": self.trial.seconds}
        return trial | figures


def estimate(asking: Asking) -> Estimate:
    """Measures where that is possible, else counts. Leaves the workspace unchanged. Raises UserError for errors that
    the user can fix, except missing weights."""
    arms = [make_cell(asking.experiment, arm, 0).settings for arm in sampled(asking.experiment.arms)]
    [here] = in_workers([partial(look, arms[0])])
    probes: list[Probed] = []
    with _folder(asking.workspace) as home:
        if not here.missing and (here.on_gpu or here.shapes.parameters <= LARGE):
            probes = _probed(asking, arms, home)
        try:
            pairs = pairs_of(arms[0], home / "cache")
        except UserError:  # images may be missing, just like weights
            if probes:
                raise
            pairs = arms[0].data.train_pairs + 2 * arms[0].data.eval_pairs
    disk = shutil.disk_usage(Workspace(asking.workspace).there).free
    return measured(asking, arms, here, probes, pairs, disk) if probes else counted(asking, arms, here, pairs, disk)


def sampled(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the baseline, which is the first arm, and others at equal distances."""
    if len(arms) <= ARMS:
        return [dict(arm) for arm in arms]
    return [dict(arms[round(index * (len(arms) - 1) / (ARMS - 1))]) for index in range(ARMS)]


def look(settings: Settings) -> Here:
    """Inspects this machine. Runs in a separate process, since it loads the models. Raises UserError where the model
    cannot be built at all."""
    import psutil
    import torch

    from workbench.training.prepare import shipped_for
    from workbench.training.shapes import outline

    shapes = outline(settings)
    shipped_for(settings)
    missing = missing_weights(settings)
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Here(missing, shapes, torch.cuda.get_device_name(), True, free, torch.cuda.device_count())
    if shapes.parameters > LARGE:
        return Here(missing, shapes, "a GPU, which this machine lacks", True, None, 1)
    return Here(missing, shapes, "CPU", False, psutil.virtual_memory().available, 1)


def missing_weights(settings: Settings) -> list[str]:
    """Returns a sentence for each tokeniser and encoder whose weights are missing, with how to download them."""
    from workbench.data.text import pretrained_tokeniser
    from workbench.model.encoders import VisionEncoder
    from workbench.model.language import read_text

    vision, text, data = settings.model.vision, settings.model.text, settings.data
    missing: list[str] = []
    for needed, read in (
        (data.tokeniser, lambda: pretrained_tokeniser(str(data.tokeniser), data.max_length)),
        (text.weights, lambda: read_text(text)),
        (vision.pretrained or vision.weights, lambda: VisionEncoder(vision, data.image_size)),
    ):
        try:
            if needed:
                read()
        except UserError as error:
            missing.append(str(error))
    return missing


def _probed(asking: Asking, arms: list[Settings], home: Path) -> list[Probed]:
    """Returns the measurements of the probes; none where the device's memory is insufficient for any micro-batch."""
    side_by_side = max(1, min(asking.workers, asking.todo))
    together = warm_up().Barrier(side_by_side)
    threads = max(1, asking.cores // asking.workers)
    requests = [
        ProbeRequest(tuple(arms), home, threads, asking.cores, asking.processes, spec.device)
        for spec in worker_specs(asking.workspace, None, side_by_side, asking.processes)
    ]
    try:
        return in_workers([partial(probe, request, together) for request in requests])
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return []


def measured(asking: Asking, arms: list[Settings], here: Here, probes: list[Probed], pairs: int, disk: int) -> Estimate:
    """Returns the estimate from probes of these arms, one probe per worker."""
    timed = [trial for probe in probes for trial in probe.trials]
    several = len(groups(asking.experiment)) > 1
    # The first trial of a probe prepares what later ones reuse, such as the disturbed images of the final evaluation.
    making = [probe.trials[0].final - fmean(trial.final for trial in probe.trials[1:]) for probe in probes]
    later = [trial for probe in probes for trial in probe.trials[1:]]
    settings, share = arms[0], probes[0].share
    evaluation, optimisation = settings.evaluation, settings.optimisation
    validations = ceil(optimisation.steps / evaluation.every)
    saves = ceil(optimisation.steps / optimisation.checkpoint_every) + 1  # one more for the final weights
    loading = fmean(one.loading for one in timed)
    step = fmean(one.step for one in timed)
    greatest = max(timed, key=lambda one: one.step_bytes)
    evaluated = max(one.evaluation_bytes for one in timed)
    trial = Trial(
        parameters_trained=timed[0].trained,
        parameters_frozen=timed[0].parameters - timed[0].trained,
        memory_bytes=max(greatest.step_bytes, evaluated),
        resting_bytes=max(probe.resting for probe in probes),
        evaluation_bytes=evaluated,
        memory_parts=_parts(asking, settings, here, greatest),
        micro_batches=max(one.micro_batches for one in timed),
        checkpoint_bytes=max(one.state_bytes for one in timed),
        weights_bytes=4 * timed[0].parameters,
        seconds_per_step=step,
        training_seconds=step * optimisation.steps,
        evaluation_seconds=fmean(validations * one.validation + one.final for one in later) / share,
        other_seconds=fmean(one.setup + saves * one.save + one.examples for one in timed) + several * loading,
    )
    preparing = _grown(probes, asking.experiment, arms)
    kept = any(Workspace(asking.workspace).cache.glob("corrupted-*")) and not preparing
    if probes[0].stored and not kept:
        preparing["images of the evaluation"] = max(0.0, fmean(making)) / share
    if not several:
        preparing["reading"] = loading
    names = ["parameters_trained", "parameters_frozen", "memory_bytes", "resting_bytes", "checkpoint_bytes"]
    names += ["seconds_per_step", "pairs_per_second", "training_seconds", "evaluation_seconds", "other_seconds"]
    return _whole(asking, here, trial, preparing, (pairs, disk), names)


def counted(asking: Asking, arms: list[Settings], here: Here, pairs: int, disk: int) -> Estimate:
    """Returns the estimate from shapes only, for bfloat16 on a GPU. Training is assumed to reach `REACHED` operations
    per second on each device."""
    from workbench.training.shapes import memory, state_bytes

    settings = arms[0]
    [shapes] = in_workers([partial(_count, settings, _low(settings, here))])
    parts = max(
        (memory(arm, shapes, _low(arm, here), asking.processes) for arm in arms), key=lambda part: sum(part.values())
    )
    optimisation = settings.optimisation
    step = shapes.operations * optimisation.batch_size / (REACHED * asking.processes) if here.on_gpu else None
    trial = Trial(
        parameters_trained=shapes.trained,
        parameters_frozen=shapes.parameters - shapes.trained,
        memory_bytes=sum(parts.values()),
        resting_bytes=0,
        evaluation_bytes=None,
        memory_parts=parts,
        micro_batches=optimisation.micro_batches,
        checkpoint_bytes=max(state_bytes(arm, shapes) for arm in arms),
        weights_bytes=4 * shapes.parameters,
        seconds_per_step=step,
        training_seconds=None if step is None else step * optimisation.steps,
        evaluation_seconds=None,
        other_seconds=None,
        operations_per_pair=shapes.operations,
    )
    return _whole(asking, here, trial, {}, (pairs, disk), [])


def _count(settings: Settings, low_precision: bool) -> "Shapes":
    from workbench.training.shapes import count

    return count(settings, low_precision)


def _low(settings: Settings, here: Here) -> bool:
    """Returns whether trials run under bfloat16 autocast."""
    return settings.optimisation.precision == "bfloat16" or (settings.optimisation.precision == "auto" and here.on_gpu)


def _parts(asking: Asking, settings: Settings, here: Here, timed: Timed) -> dict[str, int]:
    """Returns the memory of a measured step by content. Memory that the parameters do not explain counts as
    activations."""
    from workbench.training.shapes import memory

    shapes = replace(here.shapes, parameters=timed.parameters, trained=timed.trained)
    parts = memory(settings, shapes, _low(settings, here), asking.processes)
    return parts | {"activations": max(0, timed.step_bytes - sum(parts.values()))}


def groups(experiment: Experiment) -> set[str]:
    """Returns the distinct settings that trials of the arms share; each of them needs its own preparation."""
    return {
        make_cell(experiment, arm, 0).settings.model_dump_json(include={"data", "model", "warm_start"})
        for arm in experiment.arms
    }


def _grown(probes: list[Probed], experiment: Experiment, arms: list[Settings]) -> dict[str, float]:
    """Returns stage -> seconds for all arms, extrapolated from the measured ones. Takes the slowest probe, since probes
    wait for each other."""
    looked_at = {arm.model_dump_json(include={"data", "model", "warm_start"}) for arm in arms}
    factor = len(groups(experiment)) / len(looked_at)
    stages = dict.fromkeys(stage for probe in probes for stage in probe.preparing)
    return {stage: factor * max(probe.preparing.get(stage, 0.0) for probe in probes) for stage in stages}


def _whole(
    asking: Asking,
    here: Here,
    trial: Trial,
    preparing: dict[str, float],
    there: tuple[int, int],
    names: list[str],
) -> Estimate:
    """Returns the estimate of the sweep from one of its trials. `there`: number of pairs in the data, and free bytes of
    the disk."""
    pairs, disk = there
    settings = make_cell(asking.experiment, asking.experiment.arms[0], 0).settings
    once, per_trial = sum(preparing.values()), trial.seconds
    side = settings.data.image_size
    if here.missing:  # without the weights the names of stores are not known
        stored = 2 * pairs * here.shapes.tokens * here.shapes.channels if settings.model.vision.frozen else 0
    else:
        stored = sum(store.missing for store in rooms(asking.experiment, asking.workspace))
    estimate = Estimate(
        device=here.device,
        trial=trial,
        preparing=preparing,
        seconds_left=None
        if per_trial is None
        else (once if asking.todo else 0.0) + per_trial * ceil(asking.todo / asking.workers),
        device_seconds=None
        if per_trial is None
        else (once if asking.todo else 0.0) + per_trial * asking.todo * asking.processes,
        pairs_per_second=settings.optimisation.batch_size / trial.seconds_per_step if trial.seconds_per_step else None,
        data_bytes=3 * side * side * pairs if "data" in preparing and settings.data.source != "prepared" else 0,
        features_bytes=stored,
        checkpoints_bytes=asking.todo * trial.weights_bytes
        + 2 * min(asking.workers, asking.todo) * trial.checkpoint_bytes,
        disk_free_bytes=disk,
        memory_available_bytes=here.memory,
        measured=names,
        missing_weights=here.missing,
    )
    return replace(
        estimate, does_not_fit=[*too_little_memory(asking, settings, here, trial), *too_little_disk(estimate)]
    )


def too_little_disk(estimate: Estimate) -> list[str]:
    need = estimate.data_bytes + estimate.features_bytes + estimate.checkpoints_bytes
    if need <= HEADROOM * estimate.disk_free_bytes:
        return []
    return [
        f"disk: {need / GIB:,.1f} GiB are needed and {estimate.disk_free_bytes / GIB:,.1f} GiB are free; put the "
        "workspace on another disk (`--workspace`)."
    ]


def too_little_memory(asking: Asking, settings: Settings, here: Here, trial: Trial) -> list[str]:
    """Returns a sentence where the trials on one device need more memory than it has free."""
    if here.memory is None:
        return []
    parallel = max(1, min(asking.workers, asking.todo)) if asking.processes == 1 else 1
    parallel = ceil(parallel / here.gpus)
    room = int(HEADROOM * here.memory) // parallel - trial.resting_bytes
    if trial.memory_bytes <= room and trial.micro_batches == settings.optimisation.micro_batches:
        return []
    need = (trial.memory_bytes + trial.resting_bytes) * parallel
    start = (
        f"memory: {parallel} trial(s) on {here.device} need {need / GIB:,.1f} GiB of {here.memory / GIB:,.1f} GiB that "
        "are free; "
    )
    if trial.micro_batches != settings.optimisation.micro_batches:
        start = f"memory: the batch did not fit on {here.device} in one piece; "
        return [start + f"set `optimisation.micro_batches: {trial.micro_batches}`, with which it was measured."]
    if parallel > 1 and trial.memory_bytes + trial.resting_bytes <= HEADROOM * here.memory:
        return [start + f"take fewer workers, or {_smaller(asking, settings, trial, room)}."]
    return [start + f"{_smaller(asking, settings, trial, room)}."]


def _smaller(asking: Asking, settings: Settings, trial: Trial, room: int) -> str:
    """Returns which setting to change so that a trial needs at most `room` bytes."""
    from workbench.objectives.batch import BLOCK

    optimisation = settings.optimisation
    if (trial.evaluation_bytes or 0) > room >= sum(trial.memory_parts.values()):
        return f"set `evaluation.batch_size` below {settings.evaluation.batch_size}"
    activations = trial.memory_parts["activations"]
    fixed = sum(trial.memory_parts.values()) - activations
    if fixed > room:
        return (
            f"the weights and the optimiser state need {fixed / GIB:,.1f} GiB by themselves: shard them over "
            "several devices with `--processes-per-trial N` and `optimisation.sharding: fsdp`, or use a smaller model"
        )
    most = parts = optimisation.micro_batches
    while optimisation.batch_size % (2 * parts * BLOCK * asking.processes) == 0:
        parts *= 2
        most = parts
        if fixed + activations * optimisation.micro_batches / parts <= room:
            return f"set `optimisation.micro_batches: {parts}`"
    if not optimisation.activation_checkpointing:
        with_parts = f" and `optimisation.micro_batches: {most}`" if most > 1 else ""
        return f"set `optimisation.activation_checkpointing: true`{with_parts}"
    share = room - fixed
    fitting = (
        int(optimisation.batch_size * share / max(1, activations * optimisation.micro_batches / most)) // BLOCK * BLOCK
    )
    return f"set `optimisation.batch_size` to {max(BLOCK, fitting)}, which makes it another experiment"


@contextmanager
def _folder(workspace: Path) -> Iterator[Path]:
    """Yields a temporary folder for the probes in the workspace, on a disk with space. It links to the workspace's data
    and cache."""
    home = Workspace(workspace)
    was_there = home.root.exists()
    home.make(home.root)
    try:
        with tempfile.TemporaryDirectory(prefix="estimate-", dir=home.root) as path:
            folder = Path(path)
            (folder / "cache").mkdir()
            for entry in home.cache.iterdir() if home.cache.is_dir() else ():
                # Except incomplete folders, and an evaluation's images, to which trials add.
                if entry.is_dir() and not entry.name.endswith(".part") and not entry.name.startswith("corrupted-"):
                    (folder / "cache" / entry.name).symlink_to(entry.resolve())
            if home.data.is_dir():
                (folder / "data").symlink_to(home.data.resolve())
            yield folder
    finally:
        if not was_there:
            with suppress(OSError):
                home.root.rmdir()
