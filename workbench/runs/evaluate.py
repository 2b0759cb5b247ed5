"""Measures a finished run on suites that training does not measure. The results are logged to the run."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from workbench.config.schema import Settings
from workbench.config.settings import as_recorded
from workbench.data.corpus import Corpus, own_ids
from workbench.data.image_files import ImageFolders
from workbench.data.images import Fit
from workbench.data.mixture import stores_of
from workbench.data.sheet import write_sheet
from workbench.data.store import Store
from workbench.errors import UserError
from workbench.evaluation import corruptions
from workbench.evaluation.compositional import Reader, Suite, broken, count_items, decoding, told_apart
from workbench.evaluation.contract import Evaluation, Kept, Show, evaluate
from workbench.evaluation.coverage import logged_name, not_whole, suite_notes, where
from workbench.evaluation.matching import hold_out
from workbench.evaluation.retrieval import Gallery, Retrieval, Shown, gallery
from workbench.evaluation.robustness import ALL, Robustness
from workbench.evaluation.sentences import meaning_kept, rewriter
from workbench.evaluation.suites import Protocol, read_suite
from workbench.metrics import of_first
from workbench.model.vilta import ViLTA
from workbench.model.weights import at_resolution, with_own_ids
from workbench.outage import never
from workbench.randomness import key
from workbench.tracking.runs import Tracker
from workbench.training.features import image_features
from workbench.training.prepare import corpus_of, pick_device, precision
from workbench.training.suites import fit_of
from workbench.training.warm_start import new_model
from workbench.trial.checkpoints import weights_of
from workbench.workspace import Workspace


@dataclass(frozen=True)
class Trained:
    """A finished run's model, with its corpus, tokeniser and image preprocessing."""

    run_id: str
    study: str
    settings: Settings
    corpus: Corpus
    model: ViLTA
    fit: Fit
    stores: list[Store]

    def precisely(self) -> AbstractContextManager[None]:
        """Returns a context with the precision that the run was trained with."""
        return precision(pick_device(), self.settings.optimisation.precision)


@dataclass(frozen=True)
class Result:
    """The result of an evaluation. `metrics`: by their names in the run. `missing`: examples whose image could not be
    read, and why. `notes`: sentences that must accompany the scores. `partial`: why the scores do not represent the
    whole suite; None where they do."""

    metrics: dict[str, float]
    examples: int
    missing: dict[str, str]
    notes: list[str] = field(default_factory=list)
    partial: str | None = None


@dataclass(frozen=True)
class Published:
    """A published suite or task: the folder of its files, and those of its images."""

    name: str
    annotations: Path
    images: tuple[Path, ...]

    @property
    def shown(self) -> str:
        return " ".join(f"--images {folder}" for folder in self.images)


@dataclass(frozen=True)
class Sentences:
    """Language models for disturbed captions, by their names in transformers. With an `encoder`, perturbations that
    change the meaning are drawn again. With a `rewriter`, its rewritten captions are measured as well; `prompt` is put
    before each caption."""

    encoder: str | None = None
    rewriter: str | None = None
    prompt: str = ""


@dataclass(frozen=True)
class How:
    """How an evaluation runs. Measured parts are kept in the folder `home`, from which it resumes after `stop()`.
    `show` receives the number of parts done."""

    home: Path
    stop: Callable[[], bool] = never
    show: Show = lambda *_: None

    def kept(self, name: str) -> Kept:
        return Kept.of(self.home / f"{name}.parts")

    def measure(self, trained: Trained, evaluation: Evaluation, kept: Kept) -> dict[str, float]:
        """Returns the metrics of an evaluation. Raises Stopped."""
        with trained.precisely(), torch.no_grad():
            return evaluate(evaluation, kept, self.stop, self.show)


def load_trained(tracker: Tracker, run_id: str, workspace: Path, image_size: int | None = None) -> Trained:
    """Loads the model of a finished run. For another `image_size` its position embeddings are interpolated.

    Raises UserError where there is no such run, or its weights are missing.
    """
    stored, tags = tracker.settings_of(run_id)
    weights = weights_of(workspace, tags.study, tags.config_hash)
    if not weights.is_file():
        raise UserError(
            f"--run-id {run_id}: its weights {weights} are missing; the run is not finished, or they were removed."
        )
    settings = as_recorded(stored)
    corpus, shipped = corpus_of(settings, Workspace(workspace).cache)
    former = tags.data + own_ids(settings.data)
    has_former_ids = tags.data != corpus.fingerprint == former
    check_data(run_id, former if has_former_ids else tags.data, corpus.fingerprint, shipped is not None, tracker.say)
    device = pick_device()
    if image_size:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"image_size": image_size})})
    model = new_model(settings, corpus, tags.seed)
    tensors = load_file(weights)
    if has_former_ids:
        tensors = with_own_ids(tensors, corpus.tokeniser.mask)
    model.load_state_dict(at_resolution(tensors, model.state_dict(), model.vision.prefix_tokens))
    stores = stores_of(settings.data.mix, Workspace(workspace).data)
    return Trained(run_id, tags.study, settings, corpus, model.to(device).eval(), fit_of(stores), stores)


def check_data(run_id: str, then: str, now: str, packaged: bool, say: Callable[[str], None]) -> None:
    """Prints a message where a run was trained on other data than the present ones, by their fingerprints. Data that
    were not recorded count as equal. Raises UserError where its vocabulary is that of other encoders of the package."""
    if then in ("", now):
        return
    if packaged:
        raise UserError(
            f"--run-id {run_id}: it was trained with the vocabulary of other encoders than the package has now; install"
            " the earlier version."
        )
    say(
        f"run {run_id} was trained on other data than there are now ({then} then, {now} now); a tokeniser that is"
        " trained on their captions reads words differently, so the measurements may mean nothing"
    )


def evaluate_published(trained: Trained, files: Published, protocol: Protocol, how: How) -> Result:
    """Measures a compositional suite, read from its published files."""
    images = ImageFolders.of(files.images)
    read = read_suite(files.name, files.annotations, images, protocol)
    items = told_apart(read, trained.corpus.tokeniser)
    settings = trained.settings
    look = decoding(trained.model, settings.data.image_size, trained.fit)
    reader = Reader(trained.model, trained.corpus.tokeniser, settings.evaluation.batch_size, look)
    name = logged_name(files.name, protocol)
    kept = how.kept(name)
    for part in [part for part, scores in kept.made.items() if broken([scores])]:
        del kept.made[part]  # a missing image may have been added since
    suite = Suite(reader, name, items)
    metrics = how.measure(trained, suite, kept)
    missing = broken(kept.made[part.name] for part in suite.parts())
    if len(missing) == len(items.examples):
        raise UserError(
            f"{files.shown}: none of the {len(items.examples):,} images can be read; {where(items, missing)}."
        )
    measured = {e.id for e in items.examples} - set(missing)
    counts = count_items(items, measured)
    notes = suite_notes(read, items, missing, protocol)
    return Result(metrics, len(measured), missing, notes, not_whole(items, counts, missing))


def evaluate_all_robustness(trained: Trained, limit: int | None, sentences: Sentences, how: How) -> Result:
    """Measures all corruptions and perturbations on the test split."""
    pairs, device = trained.corpus.test, pick_device()
    count = min(len(pairs), limit or trained.settings.evaluation.final_pairs)
    data = hold_out(pairs, image_features(trained.model, pairs.images[:count], device))
    disturbances = replace(
        ALL,
        accept=meaning_kept(sentences.encoder, device) if sentences.encoder else None,
        rewrite=rewriter(sentences.rewriter, sentences.prompt, device) if sentences.rewriter else None,
    )
    identity = f"{key('robustness', count, str(sentences.encoder), str(sentences.rewriter), sentences.prompt):016x}"
    robustness = Robustness(trained.model, data, trained.settings.evaluation.batch_size, disturbances, whole=True)
    metrics = how.measure(trained, robustness, how.kept(f"robustness-{identity}"))
    named = {name.replace("robustness/", "robustness_all/"): value for name, value in metrics.items()}
    return Result({of_first(name, limit): value for name, value in named.items()}, count, {})


def corruption_sheet(trained: Trained, path: Path) -> None:
    """Writes a contact sheet of a test image of the run, with each corruption at severities 1, 3 and 5."""
    images, lines = [], []
    first = torch.from_numpy(np.array(trained.corpus.test.images[:1]))
    for kind in corruptions.CORRUPTIONS:
        for severity in (1, 3, 5):
            images.append(corruptions.corrupt(first, kind, severity)[0].numpy())
            lines.append([f"{kind.replace('_', ' ')} {severity}"])
    write_sheet(np.stack(images), lines, "Corruptions at severities 1, 3 and 5", path, columns=6)


def gallery_of(trained: Trained, split: str, limit: int | None) -> Shown:
    """Returns the images and captions of a split, like `gallery`."""
    return gallery(trained.corpus, trained.stores, trained.settings.data.image_size, split, limit)


def evaluate_retrieval(trained: Trained, limit: int | None, shortlist: int, how: How) -> Result:
    """Returns `measure_retrieval` with the metrics by their names in the run."""
    result = measure_retrieval(trained, limit, shortlist, how)
    metrics = {of_first(f"retrieval/{name}", limit): value for name, value in result.metrics.items()}
    return replace(result, metrics=metrics)


def measure_retrieval(trained: Trained, limit: int | None, shortlist: int, how: How) -> Result:
    """Measures recall at 1, 5 and 10 in both directions on the test split."""
    shown = gallery_of(trained, "test", limit)
    count = int(shown.image_of[-1]) + 1
    features = image_features(trained.model, shown.images[np.arange(count)], pick_device())
    with trained.precisely():
        images = Gallery(features, shown.token_ids, shown.image_of)
        retrieval = Retrieval(trained.model, images, shortlist, trained.settings.evaluation.batch_size)
    return Result(how.measure(trained, retrieval, how.kept(f"retrieval-{count}-{shortlist}")), count, {})
