"""The data that trials share and only the first one computes: corpus, warm start, and a frozen encoder's features."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data.corpus import Corpus, load_corpus, with_noise
from workbench.data.features import Features
from workbench.data.loader import epoch_length
from workbench.errors import UserError
from workbench.model.shipped import FOLDER, Shipped, read
from workbench.outage import never
from workbench.stop import cut, saving
from workbench.training.features import features_name, image_features, known_before_training, stored_features
from workbench.training.foils import FoilMaker, made_by_rules
from workbench.training.fused_start import fused_start, phase_steps
from workbench.training.loop import Hooks
from workbench.training.suites import PreparedSuite, prepare_suites
from workbench.training.warm_start import new_model, phases, start_fingerprint, start_weights, warm_start

Progress = Callable[[str, int, int, dict[str, float]], None]  # (what, done, total, figures)


@dataclass(frozen=True)
class Prepared:
    """The data that trials share.

    `features`: float16 [N, T, C] for each split if the vision encoder is frozen, else empty. `cache_dir`: the cache for
    everything else. `suites`: the compositional suites that are measured at the end, by name.
    """

    corpus: Corpus
    weights: dict[str, Tensor]
    fingerprint: str
    features: dict[str, Features]
    device: torch.device
    cache_dir: Path
    suites: dict[str, PreparedSuite] = field(default_factory=dict)


def pick_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def choose_kernels(settings: Settings) -> None:
    """Sets whether this process uses deterministic kernels from now on, by `optimisation.deterministic`."""
    torch.use_deterministic_algorithms(settings.optimisation.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def precision(device: torch.device, kind: str = "auto") -> Iterator[None]:
    """A context of mixed precision; `auto`: bfloat16 on CUDA, float32 elsewhere."""
    enabled = kind == "bfloat16" or (kind == "auto" and device.type == "cuda")
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
        yield


def shipped_for(settings: Settings, folder: Path = FOLDER) -> Shipped | None:
    """The packaged encoders, if trials of these settings start from them, else None. Raises UserError like `read`."""
    return read(settings, folder) if settings.warm_start.source == "package" else None


def corpus_of(settings: Settings, cache_dir: Path, folder: Path = FOLDER) -> tuple[Corpus, Shipped | None]:
    """The corpus of these settings, in the vocabulary of the encoders that trials start from, and the packaged
    encoders, if they are used."""
    shipped = shipped_for(settings, folder)
    return load_corpus(settings.data, cache_dir, shipped.tokeniser if shipped else None), shipped


def prepare(
    settings: Settings,
    cache_dir: Path,
    progress: Progress,
    stop: Callable[[], bool] = never,
    folder: Path = FOLDER,
) -> Prepared:
    """Loads, or computes once, everything that the trials of these settings share.

    `folder` holds the packaged encoders. Raises Stopped if `stop()`; the warm start's state is then saved, and
    everything else is either complete or absent.
    """
    device = pick_device()
    choose_kernels(settings)
    progress("data", 0, 1, {})
    with cut(stop):
        corpus, shipped = corpus_of(settings, cache_dir, folder)
    refuse_large_batches(settings, corpus)
    # Before any training, since a file may be missing.
    fingerprint = start_fingerprint(settings, corpus.fingerprint, shipped)
    steps = settings.warm_start.steps
    features: dict[str, Features] = {}
    frozen, start = settings.model.vision.frozen, settings.model.weights
    home = cache_dir / features_name(settings, corpus.fingerprint, fingerprint)
    show = partial(progress, "features")
    if known_before_training(settings):
        with cut(stop):
            features = stored_features(settings, corpus, {}, device, home, show)
    if shipped:
        weights = shipped.weights
    else:
        hooks = training_hooks(progress, "warm start", steps, stop)
        weights = warm_start(settings, corpus, device, cache_dir, hooks, features.get("train"))
        hooks = training_hooks(progress, "fused start", phase_steps(settings), stop)
        weights = fused_start(settings, corpus, device, cache_dir, hooks, weights)
    if start:
        weights = start_weights(settings, corpus, weights, Path(start).expanduser())
    if frozen and not features:
        with cut(stop):
            features = stored_features(settings, corpus, weights, device, home, show)
    if made_by_rules(settings, corpus.train):
        with cut(stop):
            corpus = FoilMaker(settings, corpus, weights, fingerprint, device, cache_dir).held_out(progress)
    with cut(stop):
        suites = _suites(settings, corpus, weights, fingerprint, device, cache_dir, progress)
    corpus = with_noise(corpus, settings.data.caption_noise)  # only for the trials; the encoders are fixed by now
    return Prepared(corpus, weights, fingerprint, features, device, cache_dir, suites)


def _suites(
    settings: Settings,
    corpus: Corpus,
    weights: dict[str, Tensor],
    fingerprint: str,
    device: torch.device,
    cache_dir: Path,
    progress: Progress,
) -> dict[str, PreparedSuite]:
    """The compositional suites, with the features of their images if the vision encoder is frozen."""
    if settings.evaluation.suites is None:
        return {}
    encode = None
    if settings.model.vision.frozen:
        model = new_model(settings, corpus, settings.warm_start.seed)
        model.load_state_dict(weights, strict=False)
        model.to(device).eval()
        encode = (fingerprint, lambda pixels: image_features(model, pixels, device).cpu().numpy())
    return prepare_suites(settings, corpus, cache_dir, progress, encode)


def training_hooks(progress: Progress, what: str, steps: int, stop: Callable[[], bool]) -> Hooks:
    """The hooks of the training of a warm or fused start, which report only progress."""
    return Hooks(
        lambda *_: None,
        lambda step, losses: progress(what, step, steps, losses),
        stop,
        persist=partial(unhurried, stop),
    )


def unhurried(stop: Callable[[], bool], action: Callable[[], None]) -> None:
    """Runs `action`, which writes a checkpoint, and marks it for `stop` as a write that may take long."""
    with saving(stop):
        action()


def refuse_large_batches(settings: Settings, corpus: Corpus) -> None:
    """Raises UserError if a batch is larger than an epoch, since it would be smaller than the settings say."""
    pairs = epoch_length(corpus.train.shares)
    sizes = {"optimisation.batch_size": settings.optimisation.batch_size}
    if settings.warm_start.steps and settings.warm_start.source == "train":
        sizes["warm_start.batch_size"] = settings.warm_start.batch_size
    if settings.warm_start.source == "train":
        sizes |= {
            f"warm_start.fusion.{place}.batch_size": phase.batch_size for place, phase in enumerate(phases(settings))
        }
    for name, size in sizes.items():
        if size > pairs:
            raise UserError(
                f"`{name}` is {size}, but an epoch of `source: {settings.data.source}` has {pairs:,} training pair(s); "
                "set it to at most that, or provide more pairs."
            )
