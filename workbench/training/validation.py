"""The evaluations on held-out pairs, during training and at its end."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data import cache
from workbench.data.corpus import Pairs
from workbench.data.mixture import stores_of
from workbench.data.noise import CaptionNoise
from workbench.evaluation import corruptions, perturbations
from workbench.evaluation.contract import Evaluation, PartResult, Several
from workbench.evaluation.examples import SHOWN, make_examples
from workbench.evaluation.masked_lm import MaskedWords
from workbench.evaluation.matching import BlankFoils, HeldOut, Matching, hold_out, negatives_truth
from workbench.evaluation.noisy import RATE, NoisyCaptions
from workbench.evaluation.retrieval import Gallery, Retrieval, gallery
from workbench.evaluation.robustness import Keep, Robustness
from workbench.metrics import filed, of_first
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import BatchKey, draw_rewriting
from workbench.objectives.matching import written_captions
from workbench.objectives.teachers import Teachers
from workbench.objectives.words import word_weights
from workbench.randomness import key
from workbench.training.features import image_features
from workbench.training.finetune import FineTuning, TrialEnd
from workbench.training.prepare import Prepared
from workbench.training.suites import Renamed, compositional


@dataclass(frozen=True)
class Subject:
    """The model to measure, and the objects that it is trained with."""

    model: ViLTA
    settings: Settings
    prepared: Prepared
    teachers: Teachers


class OnSplit:
    """Matching and masked language modelling on the first `count` pairs of a split, with their logged names.

    The test split, which is measured once, adds the bins of reliability diagrams, the gray-image baseline of foils, and
    noisy captions.
    """

    def __init__(self, subject: Subject, split: str, count: int) -> None:
        model, settings, prepared = subject.model, subject.settings, subject.prepared
        model.eval()
        self.split, self.source = split, settings.data.source
        size, objectives = settings.evaluation.batch_size, settings.objectives
        self.data = data = held_out(model, prepared, split, count)
        # Detectability compares arms, so the same encoder rewrites captions in all of them, whichever rewrites in
        # training. Each arm chooses the words as in training.
        same_for_all = objectives.itm.model_copy(update={"generator": "current", "false_negative_filter": "synonyms"})
        written = write_over(subject, data, objectives.model_copy(update={"itm": same_for_all}))
        measured: dict[str, Evaluation] = {
            "matching": Matching(model, data, written, size),
            "masked words": MaskedWords(model, data, objectives.mlm.mask_ratio, prepared.corpus.synonyms, size),
        }
        if split == "test":
            corpus = prepared.corpus
            noise = CaptionNoise.of(RATE, corpus.content, corpus.train.token_ids, "evaluation")
            measured["gray images"] = BlankFoils(model, data, size)
            measured["noisy captions"] = NoisyCaptions(
                model, data, noise, objectives.mlm.mask_ratio, corpus.synonyms, size
            )
        self.measured, self.truth = Several(measured), {}
        if objectives.itm.negatives == "synthesized":
            negatives = written if same_for_all == objectives.itm else write_over(subject, data, objectives)
            self.truth = negatives_truth(data, negatives)
        self.parts = self.measured.parts

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        for name, value in [*self.measured.metrics(results), *self.truth.items()]:
            if self.split == "test" or not name.startswith("reliability/"):
                yield filed(self.split, name, self.source), value


def write_over(subject: Subject, data: HeldOut, objectives: Any) -> np.ndarray:
    """The held-out captions as the generator of these objectives rewrites them, int64 [N, L]."""
    device = subject.prepared.device
    original = torch.from_numpy(data.token_ids).to(device)
    itm = subject.settings.objectives.itm
    weights = word_weights(itm.synthesis_words, data.token_ids, subject.teachers, data.features)
    vocabulary = subject.teachers.words.vocabulary
    rewriting = draw_rewriting(data.token_ids, itm, BatchKey(np.arange(len(data)), -1), vocabulary, weights)
    return written_captions(subject.model, original, rewriting, objectives, subject.teachers).cpu().numpy()


def held_out(model: ViLTA, prepared: Prepared, split: str, count: int) -> HeldOut:
    pairs: Pairs = getattr(prepared.corpus, split)
    if prepared.features:
        features = torch.from_numpy(np.array(prepared.features[split][:count])).to(prepared.device).float()
    else:
        features = image_features(model, pairs.images[:count], prepared.device)
    return hold_out(pairs, features)


def validation(subject: Subject) -> Evaluation:
    return OnSplit(subject, "val", subject.settings.evaluation.pairs)


def at_the_end(subject: Subject, end: TrialEnd | None = None) -> Evaluation:
    """The evaluation after the last step: the test split, robustness on its first pairs, and the suites.

    `end`: how downstream tasks are fine-tuned.
    """
    evaluation = subject.settings.evaluation
    measured: dict[str, Evaluation] = {"test": OnSplit(subject, "test", evaluation.final_pairs)}
    if evaluation.robustness_pairs:
        data = held_out(subject.model, subject.prepared, "test", evaluation.robustness_pairs)
        measured["robustness"] = Robustness(
            subject.model,
            data,
            evaluation.batch_size,
            keep=kept_by_trials(subject.prepared, data),
            keep_captions=captions_kept_by_trials(subject.prepared, len(data)),
        )
    return Several(measured | suites(subject, end))


def suites(subject: Subject, end: TrialEnd | None) -> dict[str, Evaluation]:
    """The suites, retrieval and downstream tasks of `evaluation.suites`, each under its name."""
    model, settings, prepared = subject.model, subject.settings, subject.prepared
    wanted, size, tokeniser = settings.evaluation.suites, settings.evaluation.batch_size, prepared.corpus.tokeniser
    if wanted is None:
        return {}
    measured: dict[str, Evaluation] = {
        name: compositional(suite, model, tokeniser, size) for name, suite in prepared.suites.items()
    }
    if wanted.retrieval:
        limit = wanted.retrieval.limit
        retrieval = Retrieval(model, shown_test(subject, limit), wanted.retrieval.shortlist, size)
        measured["retrieval"] = Renamed(retrieval, partial(_of_retrieval, limit))
    for name, task in wanted.tasks().items():
        assert end is not None
        tuned = FineTuning(model, settings, prepared, name, task, end)
        measured[name] = Renamed(tuned, partial(_of_task, name, task.limit))
    return measured


def _of_retrieval(limit: int | None, metric: str) -> str:
    return of_first(f"retrieval/{metric}", limit)


def _of_task(task: str, limit: int | None, metric: str) -> str:
    return of_first(f"downstream/{task}/{metric}", limit)


def shown_test(subject: Subject, limit: int | None) -> Gallery:
    """The images and captions of the test split, for retrieval."""
    settings, prepared = subject.settings, subject.prepared
    stores = stores_of(settings.data.mix, prepared.cache_dir.parent / "data")
    shown = gallery(prepared.corpus, stores, settings.data.image_size, "test", limit)
    count = int(shown.image_of[-1]) + 1
    if prepared.features and not stores:
        features = torch.from_numpy(np.array(prepared.features["test"][:count])).to(prepared.device).float()
    else:
        features = image_features(subject.model, shown.images[np.arange(count)], prepared.device)
    return Gallery(features, shown.token_ids, shown.image_of)


def kept_by_trials(prepared: Prepared, data: HeldOut) -> Keep:
    """A cache of the features of corrupted images, shared by trials with the same frozen vision encoder.

    Features that are larger than the images are not cached: to compute them again is cheaper than to store them.
    """
    images = data.pairs.images
    if not prepared.features or data.features.nbytes > len(data) * images[0].nbytes:
        return lambda _, make: make()
    digest = key(corruptions.VERSION, prepared.fingerprint, len(data))
    return _kept_in(prepared.cache_dir / f"corrupted-{digest:016x}", "features.npy", prepared.device)


def captions_kept_by_trials(prepared: Prepared, count: int) -> Keep:
    """A cache of the tokens of the first `count` test captions when perturbed, shared by trials on the same corpus."""
    digest = key(perturbations.VERSION, perturbations.wordnet_version(), prepared.corpus.fingerprint, count)
    return _kept_in(prepared.cache_dir / f"perturbed-{digest:016x}", "token_ids.npy", torch.device("cpu"))


def _kept_in(home: Path, name: str, device: torch.device) -> Keep:
    """A cache that stores each tensor as the file `name` of an entry in the folder `home`."""

    def keep(what: str, make: Callable[[], Tensor]) -> Tensor:
        folder = cache.entry(home / what, lambda target: np.save(target / name, make().cpu().numpy()))
        return torch.from_numpy(np.load(folder / name)).to(device)

    return keep


def examples(subject: Subject) -> dict[str, Any]:
    """The model's outputs on a few test pairs, for people to inspect."""
    subject.model.eval()
    data = held_out(subject.model, subject.prepared, "test", SHOWN)
    return {"split": "test"} | make_examples(subject.model, data, subject.settings, subject.teachers)
