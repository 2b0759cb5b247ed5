"""Short trials whose time and memory are measured: the basis of an estimate.

Each probe is a process that is started like a worker, on the same device and with a trial's threads. There are as many
probes as workers, and each waits for the others before it trains, so that their times include contention. A probe reads
the workspace and writes to its own folder, which its parent removes.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Final

import psutil

from workbench.config.schema import Settings
from workbench.config.settings import apply

if TYPE_CHECKING:
    from workbench.training.prepare import Prepared

PAIRS = 1024  # training pairs of a probe per arm
STEPS: Final = (5, 16)  # minimum and maximum number of steps
WARM = 2  # warm-up steps, which are not counted
SAMPLE = 128  # pairs of the largest evaluation; the others are reduced by the same share
DATA: Final = (
    64,
    256,
    1024,
)  # training pairs of small data sets, which measure the time to generate data; the first is not counted
START_STEPS = 6  # steps of a warm start, and of each phase of a fused one
WATCHED = 0.01  # seconds between two readings of the memory


@dataclass(frozen=True)
class ProbeRequest:
    """The task of a probe: a trial of each of the `arms`; a single arm is measured twice. `home`: a folder with the
    probes' `cache`. `processes`: how many will train a trial together, of which one is measured."""

    arms: tuple[Settings, ...]
    home: Path
    threads: int
    all_threads: int
    processes: int = 1
    device: str | None = None  # the one GPU, as CUDA_VISIBLE_DEVICES names it


@dataclass(frozen=True)
class Timed:
    """The measurements of a short trial. Seconds: to load what trials share, for set-up, per step, for a validation and
    for the final evaluation (on a share of their pairs), to save a state, and for the examples. Bytes: peak memory in
    steps and in evaluations, and the saved state. `micro_batches`: number per batch, perhaps increased for lack of
    memory."""

    loading: float
    setup: float
    step: float
    validation: float
    final: float
    save: float
    examples: float
    step_bytes: int
    evaluation_bytes: int
    state_bytes: int
    parameters: int
    trained: int
    micro_batches: int


@dataclass(frozen=True)
class Probed:
    """The result of a probe. `preparing`: stage -> seconds at full size of shared preparation that is still missing.
    `resting`: bytes of a worker before its first trial. `share`: the measured share of each evaluation's pairs.
    `stored`: image features are kept on disk."""

    trials: tuple[Timed, ...]
    preparing: dict[str, float]
    resting: int
    share: float
    stored: bool
    device: str


class Memory:
    """The peak memory of this process since `begin`. On a GPU, as torch allocates it; else the process's private
    memory, read every `WATCHED` seconds. Mapped files do not count, since the kernel can drop them."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu, self.peak, self.ended = on_gpu, 0, threading.Event()
        self.resting = 0 if on_gpu else held()
        if not on_gpu:
            threading.Thread(target=self._watch, daemon=True, name="memory").start()

    def begin(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
        self.peak = 0

    def so_far(self) -> int:
        """Returns the peak in bytes, minus the memory at rest."""
        if self.on_gpu:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return max(0, max(self.peak, held()) - self.resting)

    def end(self) -> None:
        self.ended.set()

    def _watch(self) -> None:
        while not self.ended.wait(WATCHED):
            self.peak = max(self.peak, held())


def held() -> int:
    """Returns the private memory of this process in bytes, without mapped files."""
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


class _Missing(Exception):
    """A stage of the shared preparation is missing."""


@dataclass
class Watch:
    """Records the times of a short trial of `steps` steps, through its hooks."""

    steps: int
    memory: Memory
    checkpoint: Path
    clock: Callable[[], float] = time.perf_counter
    marks: list[float] = field(default_factory=list)  # before the first step, and after each
    at: dict[str, float] = field(default_factory=dict)
    save = 0.0
    step_bytes = state_bytes = 0

    def stop(self) -> bool:
        if not self.marks:
            self.marks.append(self.clock())
        return False

    def progress(self, step: int, _: dict[str, float]) -> None:
        self.marks.append(self.clock())
        if step == self.steps:
            self.step_bytes = self.memory.so_far()
            self.memory.begin()

    def log(self, *_: object) -> None:
        self.at["ended" if "saved" in self.at else "validated"] = self.clock()

    def persist(self, action: Callable[[], None]) -> None:
        began = self.clock()
        action()
        if "saved" not in self.at:  # a later call saves the final measurements
            self.at["saved"] = self.clock()
            self.save, self.state_bytes = self.at["saved"] - began, self.checkpoint.stat().st_size

    def step(self) -> float:
        """Returns the seconds per step, without the warm-up steps."""
        return (self.marks[-1] - self.marks[WARM]) / (self.steps - WARM)


def probe(request: ProbeRequest, together: Barrier) -> Probed:
    """Measures in parallel with the other probes, which synchronise at the barrier `together` before each trial. Raises
    UserError as trials would, and torch.OutOfMemoryError where not even the smallest micro-batches fit."""
    if request.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = request.device
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  a worker has loaded it, too
    import torch

    import workbench.trial.run  # noqa: F401

    torch.set_flush_denormal(True)
    memory = Memory(torch.cuda.is_available())
    preparing: dict[str, float] = {}
    shared: _Shared | None = None
    trials = []
    share = share_of(request.arms[0])
    try:
        for number, arm in enumerate(request.arms if len(request.arms) > 1 else request.arms * 2):
            about = arm.model_dump_json(include={"data", "model", "warm_start"})
            if shared is None or shared.about != about:
                torch.set_num_threads(request.all_threads)
                shared = _share(arm, about, request.home / "cache")
                preparing |= {stage: preparing.get(stage, 0.0) + seconds for stage, seconds in shared.preparing.items()}
                torch.set_num_threads(request.threads)
            together.wait()
            checkpoint = request.home / f"{os.getpid()}-{number}.pt"
            trials.append(_timed(cut(arm, share, request.processes), shared, checkpoint, memory))
        assert shared is not None
        device = torch.cuda.get_device_name() if memory.on_gpu else "CPU"
        return Probed(tuple(trials), preparing, memory.resting, share, bool(shared.prepared.features), device)
    finally:
        memory.end()


def share_of(settings: Settings) -> float:
    """Returns the share of each evaluation's pairs that is measured."""
    evaluation = settings.evaluation
    most = max(evaluation.pairs, evaluation.final_pairs, evaluation.robustness_pairs)
    return min(1.0, SAMPLE / min(most, settings.data.eval_pairs))


def cut(settings: Settings, share: float, processes: int = 1) -> Settings:
    """Returns the settings of a trial with a few steps and one validation, on `share` of each evaluation's pairs. With
    several processes, its batch is that of one process."""
    evaluation, optimisation, held_out = settings.evaluation, settings.optimisation, settings.data.eval_pairs
    fewest, most = STEPS
    steps = max(fewest, min(most, PAIRS // optimisation.batch_size))
    batch = optimisation.batch_size // processes
    return apply(
        settings,
        {
            "optimisation.steps": steps,
            "optimisation.checkpoint_every": steps,
            "optimisation.batch_size": max(4, batch),
            "evaluation.every": steps,
            **{
                f"evaluation.{name}": max(2, round(share * min(whole, held_out)))
                for name in ("pairs", "final_pairs", "robustness_pairs")
                if (whole := getattr(evaluation, name))
            },
        },
    )


def _timed(settings: Settings, shared: "_Shared", checkpoint: Path, memory: Memory) -> Timed:
    """Measures one trial. Where GPU memory is insufficient, it retries with smaller micro-batches, as trials do."""
    import torch

    from workbench.objectives.batch import BLOCK

    while True:
        try:
            return _once(settings, shared, checkpoint, memory)
        except torch.OutOfMemoryError:
            parts = 2 * settings.optimisation.micro_batches
            if settings.optimisation.batch_size % (BLOCK * parts):
                raise
        torch.cuda.empty_cache()
        settings = apply(settings, {"optimisation.micro_batches": parts})


def _once(settings: Settings, shared: "_Shared", checkpoint: Path, memory: Memory) -> Timed:
    from workbench.training.loop import Hooks
    from workbench.training.pretrain import starting_model, train
    from workbench.training.state import remove

    model = starting_model(settings, 0, shared.prepared)
    numbers = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    del model
    watch = Watch(settings.optimisation.steps, memory, checkpoint)
    memory.begin()
    began = watch.clock()
    hooks = Hooks(watch.log, watch.progress, watch.stop, persist=watch.persist)
    try:
        train(settings, 0, shared.prepared, checkpoint, hooks)
    finally:
        remove(checkpoint)
    at = watch.at
    return Timed(
        loading=shared.loading,
        setup=watch.marks[0] - began,
        step=watch.step(),
        validation=at["validated"] - watch.marks[-1],
        final=at["ended"] - at["saved"],
        save=watch.save,
        examples=watch.clock() - at["ended"],
        step_bytes=watch.step_bytes,
        evaluation_bytes=memory.so_far(),
        state_bytes=watch.state_bytes,
        parameters=sum(number for number, _ in numbers),
        trained=sum(number for number, is_trained in numbers if is_trained),
        micro_batches=settings.optimisation.micro_batches,
    )


@dataclass(frozen=True)
class _Shared:
    """What trials of the same settings share, identified by the text `about`. `loading`: seconds to read it where it is
    complete."""

    about: str
    prepared: "Prepared"
    preparing: dict[str, float]
    loading: float


def _share(settings: Settings, about: str, cache: Path) -> _Shared:
    """Reads the shared preparation where it is complete. Else prepares a small part of it, and extrapolates the
    time."""
    from workbench.data.corpus import fingerprint_of
    from workbench.training.prepare import prepare

    began, reached = time.perf_counter(), "data"

    def refuse(stage: str, *_: object) -> None:
        nonlocal reached
        reached = stage
        if stage != "data":
            raise _Missing

    there = (cache / fingerprint_of(settings.data, cache)).is_dir()
    if there:
        try:
            prepared = prepare(settings, cache, refuse)
            return _Shared(about, prepared, {}, time.perf_counter() - began)
        except _Missing:
            pass
    reading = time.perf_counter() - began
    data = {} if there else {"data": _data_seconds(settings, cache)}
    small = _small(settings, DATA[-1])
    stages = Stages()
    prepared = prepare(small, cache, stages.hear)
    seconds = data | stages.seconds(settings, pairs_of(settings, cache))
    names = list(seconds)
    # Stages before the first missing one are complete.
    first = names.index(reached) if there and reached in seconds else 0
    missing = {name: seconds[name] for name in names[first:]}
    return _Shared(about, prepared, missing, reading if there else 0.0)


def _data_seconds(settings: Settings, cache: Path) -> float:
    """Returns the seconds to generate and read the data, extrapolated linearly from two small sizes."""
    from workbench.training.prepare import corpus_of

    taken, pairs = [], []
    for number in DATA:
        small = _small(settings, number)
        began = time.perf_counter()
        corpus, _ = corpus_of(small, cache)
        taken.append(time.perf_counter() - began)
        pairs.append(sum(len(split) for split in (corpus.train, corpus.val, corpus.test)))
    return grown(pairs[1:], taken[1:], pairs_of(settings, cache))


def grown(sizes: list[int], seconds: list[float], size: int) -> float:
    """Returns the seconds for `size` by the line through two measured points; the slope is never negative."""
    (fewer, more), (less, longer) = sizes, seconds
    rate = max(0.0, longer - less) / (more - fewer) if more > fewer else 0.0
    return max(longer, longer + rate * (size - more))


def _small(settings: Settings, train_pairs: int) -> Settings:
    """Returns settings with fewer pairs, but enough for a batch and an evaluation, and few steps of a start."""
    start = settings.warm_start
    fullest = max(
        settings.optimisation.batch_size,
        start.batch_size if start.source == "train" else 0,
        *(phase.batch_size for phase in start.fusion),
    )
    train_pairs = min(settings.data.train_pairs, max(train_pairs, fullest) if train_pairs == DATA[-1] else train_pairs)
    data = settings.data.model_copy(
        update={"train_pairs": train_pairs, "eval_pairs": min(settings.data.eval_pairs, SAMPLE)}
    )
    phases = tuple(phase.model_copy(update={"steps": min(phase.steps, START_STEPS)}) for phase in start.fusion)
    start = start.model_copy(update={"steps": min(start.steps, START_STEPS), "fusion": phases})
    return settings.model_copy(update={"data": data, "warm_start": start})


def pairs_of(settings: Settings, cache: Path) -> int:
    """Returns the number of pairs in all splits together, at most."""
    from workbench.data import folder, mixture

    data = settings.data
    most = data.train_pairs + 2 * data.eval_pairs
    if data.source == "folder":
        return min(most, len(folder.find_pairs(Path(str(data.path)), data.exclude)))
    if data.source == "prepared":
        return min(most, sum(store.pairs.height for store in mixture.stores_of(data.mix, cache.parent / "data")))
    return most


class Stages:
    """Records the progress of a small preparation, and extrapolates the time of each stage."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.points: dict[str, list[tuple[int, float]]] = {}  # stage -> (units done, time)

    def hear(self, stage: str, done: int, *_: object) -> None:
        self.points.setdefault(stage, []).append((done, self.clock()))

    def seconds(self, settings: Settings, pairs: int) -> dict[str, float]:
        """Returns stage -> seconds for `pairs` pairs and all steps of the start, without the data stage."""
        start, seconds = settings.warm_start, {}
        for stage, points in self.points.items():
            if stage == "warm start":
                seconds[stage] = start.steps * _rate(points[WARM - 1 :])
            elif stage == "fused start":
                seconds[stage] = 0.0
                for phase in start.fusion:
                    of_phase, points = points[: min(phase.steps, START_STEPS)], points[min(phase.steps, START_STEPS) :]
                    seconds[stage] += phase.steps * _rate(of_phase[WARM - 1 :])
            elif stage == "features":
                seconds[stage] = pairs * _rate(points)
        return seconds


def _rate(points: list[tuple[int, float]]) -> float:
    """Returns the seconds per unit, from the first to the last recorded point."""
    if len(points) < 2:
        return 0.0
    (first, began), (last, ended) = points[0], points[-1]
    return (ended - began) / max(1, last - first)
