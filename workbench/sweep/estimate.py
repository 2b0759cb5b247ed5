"""What a sweep will take: time, memory and disk, before any of it is spent; and what does not fit.

Where the device is there, probes measure short trials (`probe.py`) as workers will run them: as many side by side, with
the same threads. Times are means over probes and arms, so that they hold for the load that the machine has now. Where
it is not, or the weights are not, memory and operations are counted from shapes (`training/shapes.py`). Nothing of it
is kept.
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
from workbench.sweep.launch.local import in_workers, places, warm_up
from workbench.sweep.probe import Asked, Probed, Timed, pairs_of, probe
from workbench.trial.cell import make_cell
from workbench.workspace import Workspace

if TYPE_CHECKING:
    from workbench.training.shapes import Shapes

ARMS = 3  # that are measured, the baseline among them
LARGE = 50_000_000  # parameters above which a model is not trained on a CPU for the sake of an estimate
REACHED = 200e12  # operations a second of a large model in bfloat16 on one H200 (docs/performance.md)
HEADROOM = 0.95  # of a memory that can be filled
GIB: Final = 2**30


@dataclass(frozen=True)
class Asking:
    """What is to be estimated: a sweep of which `todo` trials are left, on so many `workers` of so many `processes`;
    all workers of a machine share its `cores`."""

    experiment: Experiment
    workspace: Path
    todo: int
    workers: int
    cores: int
    processes: int = 1


@dataclass(frozen=True)
class Here:
    """What this machine has: the `missing` weights, each with what fetches them; the model's shapes, without what a
    step takes; the device, and bytes of its memory that are free; None where a GPU is meant that is not here. `on_gpu`:
    trials will run on one."""

    missing: list[str]
    shapes: "Shapes"
    device: str
    on_gpu: bool
    memory: int | None
    gpus: int


@dataclass(frozen=True)
class Trial:
    """One trial: seconds are means over arms and workers, bytes the greatest. `memory_bytes` are those of a process on
    its device, above what it holds `resting` where that is a CPU; by what they hold, `memory_parts`, of a step.
    `other_seconds`: to set up, to save states, and for examples. None where it is not known."""

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
        """As far as it is known."""
        known = (self.training_seconds, self.evaluation_seconds, self.other_seconds)
        return None if self.training_seconds is None else sum(each or 0.0 for each in known)


@dataclass(frozen=True)
class Estimate:
    """What `wb sweep --dry-run` says. `measured`: the names of the figures that were; the others are estimated.
    `preparing`: stage -> seconds of what trials share and is not there yet. `seconds_left` of the whole sweep, its
    reports not counted; `device_seconds`: in which devices are held. `does_not_fit`: sentences, each with what to
    set."""

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
        """All by name, as `--json` prints them."""
        made = asdict(self)
        trial = made.pop("trial") | {"seconds_per_trial": self.trial.seconds}
        return trial | made


def estimate(asking: Asking) -> Estimate:
    """Measures where that can be done, else counts. Leaves the workspace as it was. Raises UserError for what the user
    can mend, but not for weights that are missing."""
    arms = [make_cell(asking.experiment, arm, 0).settings for arm in sampled(asking.experiment.arms)]
    [here] = in_workers([partial(look, arms[0])])
    probes: list[Probed] = []
    with _folder(asking.workspace) as home:
        if not here.missing and (here.on_gpu or here.shapes.parameters <= LARGE):
            probes = _probed(asking, arms, home)
        try:
            pairs = pairs_of(arms[0], home / "cache")
        except UserError:  # the images are not there, as the weights may not be
            if probes:
                raise
            pairs = arms[0].data.train_pairs + 2 * arms[0].data.eval_pairs
    disk = shutil.disk_usage(Workspace(asking.workspace).there).free
    return measured(asking, arms, here, probes, pairs, disk) if probes else counted(asking, arms, here, pairs, disk)


def sampled(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The baseline, which is the first, and others at even distances."""
    if len(arms) <= ARMS:
        return [dict(arm) for arm in arms]
    return [dict(arms[round(place * (len(arms) - 1) / (ARMS - 1))]) for place in range(ARMS)]


def look(settings: Settings) -> Here:
    """In a process of its own, since it loads the models. Raises UserError where the model cannot be built at all."""
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
        return Here(missing, shapes, "a GPU, none of which is here", True, None, 1)
    return Here(missing, shapes, "CPU", False, psutil.virtual_memory().available, 1)


def missing_weights(settings: Settings) -> list[str]:
    """A sentence for each tokeniser and each encoder whose weights are not there, with what fetches them."""
    from workbench.data.text import pretrained_tokeniser
    from workbench.model.encoders import VisionEncoder
    from workbench.model.language import read_text

    vision, text, data = settings.model.vision, settings.model.text, settings.data
    missing: list[str] = []
    for asked, read in (
        (data.tokeniser, lambda: pretrained_tokeniser(str(data.tokeniser), data.max_length)),
        (text.weights, lambda: read_text(text)),
        (vision.pretrained or vision.weights, lambda: VisionEncoder(vision, data.image_size)),
    ):
        try:
            if asked:
                read()
        except UserError as error:
            missing.append(str(error))
    return missing


def _probed(asking: Asking, arms: list[Settings], home: Path) -> list[Probed]:
    """What the probes have measured; nothing where the memory of the device does not suffice for any micro-batch."""
    side_by_side = max(1, min(asking.workers, asking.todo))
    together = warm_up().Barrier(side_by_side)
    threads = max(1, asking.cores // asking.workers)
    asked = [
        Asked(tuple(arms), home, threads, asking.cores, asking.processes, place.device)
        for place in places(asking.workspace, None, side_by_side, asking.processes)
    ]
    try:
        return in_workers([partial(probe, each, together) for each in asked])
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return []


def measured(asking: Asking, arms: list[Settings], here: Here, probes: list[Probed], pairs: int, disk: int) -> Estimate:
    """From what probes of these arms have measured, one probe a worker."""
    timed = [each for probe in probes for each in probe.trials]
    several = len(groups(asking.experiment)) > 1
    # The first trial of a probe makes what later ones find, such as the disturbed images that are evaluated last.
    making = [probe.trials[0].final - fmean(each.final for each in probe.trials[1:]) for probe in probes]
    later = [each for probe in probes for each in probe.trials[1:]]
    settings, share = arms[0], probes[0].share
    evaluation, optimisation = settings.evaluation, settings.optimisation
    validations = ceil(optimisation.steps / evaluation.every)
    saves = ceil(optimisation.steps / optimisation.checkpoint_every) + 1  # and once more the weights alone
    loading = fmean(each.loading for each in timed)
    step = fmean(each.step for each in timed)
    greatest = max(timed, key=lambda each: each.step_bytes)
    evaluated = max(each.evaluation_bytes for each in timed)
    trial = Trial(
        parameters_trained=timed[0].trained,
        parameters_frozen=timed[0].parameters - timed[0].trained,
        memory_bytes=max(greatest.step_bytes, evaluated),
        resting_bytes=max(probe.resting for probe in probes),
        evaluation_bytes=evaluated,
        memory_parts=_parts(asking, settings, here, greatest),
        micro_batches=max(each.micro_batches for each in timed),
        checkpoint_bytes=max(each.state_bytes for each in timed),
        weights_bytes=4 * timed[0].parameters,
        seconds_per_step=step,
        training_seconds=step * optimisation.steps,
        evaluation_seconds=fmean(validations * each.validation + each.final for each in later) / share,
        other_seconds=fmean(each.setup + saves * each.save + each.examples for each in timed) + several * loading,
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
    """From shapes alone, in bfloat16 on a GPU. Training is taken to reach `REACHED` operations a second on each
    device."""
    from workbench.training.shapes import memory, state_bytes

    settings = arms[0]
    [shapes] = in_workers([partial(_count, settings, _low(settings, here))])
    parts = max(
        (memory(each, shapes, _low(each, here), asking.processes) for each in arms), key=lambda each: sum(each.values())
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
        checkpoint_bytes=max(state_bytes(each, shapes) for each in arms),
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
    """Whether trials run under bfloat16 autocast."""
    return settings.optimisation.precision == "bfloat16" or (settings.optimisation.precision == "auto" and here.on_gpu)


def _parts(asking: Asking, settings: Settings, here: Here, timed: Timed) -> dict[str, int]:
    """What the memory of a measured step holds: the activations are what is not accounted for by the parameters."""
    from workbench.training.shapes import memory

    shapes = replace(here.shapes, parameters=timed.parameters, trained=timed.trained)
    parts = memory(settings, shapes, _low(settings, here), asking.processes)
    return parts | {"activations": max(0, timed.step_bytes - sum(parts.values()))}


def groups(experiment: Experiment) -> set[str]:
    """What trials of the arms share, told apart; each is prepared by itself."""
    return {
        make_cell(experiment, arm, 0).settings.model_dump_json(include={"data", "model", "warm_start"})
        for arm in experiment.arms
    }


def _grown(probes: list[Probed], experiment: Experiment, arms: list[Settings]) -> dict[str, float]:
    """Stage -> seconds, the longest of the probes, which wait for one another; for all arms, of which some were
    measured."""
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
    """The sweep from one of its trials; `there`: pairs of the data, and bytes that the disk has free."""
    pairs, disk = there
    settings = make_cell(asking.experiment, asking.experiment.arms[0], 0).settings
    once, each = sum(preparing.values()), trial.seconds
    side = settings.data.image_size
    if here.missing:  # the names of stores are made of what the weights hold
        stored = 2 * pairs * here.shapes.tokens * here.shapes.channels if settings.model.vision.frozen else 0
    else:
        stored = sum(store.missing for store in rooms(asking.experiment, asking.workspace))
    made = Estimate(
        device=here.device,
        trial=trial,
        preparing=preparing,
        seconds_left=None
        if each is None
        else (once if asking.todo else 0.0) + each * ceil(asking.todo / asking.workers),
        device_seconds=None if each is None else (once if asking.todo else 0.0) + each * asking.todo * asking.processes,
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
    return replace(made, does_not_fit=[*too_little_memory(asking, settings, here, trial), *too_little_disk(made)])


def too_little_disk(made: Estimate) -> list[str]:
    need = made.data_bytes + made.features_bytes + made.checkpoints_bytes
    if need <= HEADROOM * made.disk_free_bytes:
        return []
    return [
        f"disk: {need / GIB:,.1f} GiB are needed and {made.disk_free_bytes / GIB:,.1f} GiB are free; put the workspace "
        "on another disk (`--workspace`)."
    ]


def too_little_memory(asking: Asking, settings: Settings, here: Here, trial: Trial) -> list[str]:
    """A sentence where the trials on one device need more memory than it has free."""
    if here.memory is None:
        return []
    beside = max(1, min(asking.workers, asking.todo)) if asking.processes == 1 else 1
    beside = ceil(beside / here.gpus)
    room = int(HEADROOM * here.memory) // beside - trial.resting_bytes
    if trial.memory_bytes <= room and trial.micro_batches == settings.optimisation.micro_batches:
        return []
    need = (trial.memory_bytes + trial.resting_bytes) * beside
    told = (
        f"memory: {beside} trial(s) on {here.device} need {need / GIB:,.1f} GiB of {here.memory / GIB:,.1f} GiB that "
        "are free; "
    )
    if trial.micro_batches != settings.optimisation.micro_batches:
        told = f"memory: the batch did not fit on {here.device} in one piece; "
        return [told + f"set `optimisation.micro_batches: {trial.micro_batches}`, with which it was measured."]
    if beside > 1 and trial.memory_bytes + trial.resting_bytes <= HEADROOM * here.memory:
        return [told + f"take fewer workers, or {_smaller(asking, settings, trial, room)}."]
    return [told + f"{_smaller(asking, settings, trial, room)}."]


def _smaller(asking: Asking, settings: Settings, trial: Trial, room: int) -> str:
    """What to set so that a trial needs no more than `room` bytes."""
    from workbench.objectives.batch import BLOCK

    optimisation = settings.optimisation
    if (trial.evaluation_bytes or 0) > room >= sum(trial.memory_parts.values()):
        return f"set `evaluation.batch_size` below {settings.evaluation.batch_size}"
    activations = trial.memory_parts["activations"]
    fixed = sum(trial.memory_parts.values()) - activations
    if fixed > room:
        return (
            f"the weights and what the optimiser keeps need {fixed / GIB:,.1f} GiB by themselves: spread them over "
            "several devices with `--processes-per-trial N` and `optimisation.sharding: fsdp`, or take a smaller model"
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
    """A folder of the probes in the workspace, where there is room, in which the workspace's data and cache can be
    read."""
    home = Workspace(workspace)
    was_there = home.root.exists()
    home.make(home.root)
    try:
        with tempfile.TemporaryDirectory(prefix="estimate-", dir=home.root) as made:
            folder = Path(made)
            (folder / "cache").mkdir()
            for entry in home.cache.iterdir() if home.cache.is_dir() else ():
                # What is half made, and the images of an evaluation, to which trials add.
                if entry.is_dir() and not entry.name.endswith(".part") and not entry.name.startswith("corrupted-"):
                    (folder / "cache" / entry.name).symlink_to(entry.resolve())
            if home.data.is_dir():
                (folder / "data").symlink_to(home.data.resolve())
            yield folder
    finally:
        if not was_there:
            with suppress(OSError):
                home.root.rmdir()
