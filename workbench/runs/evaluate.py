"""A finished run, measured on suites that training does not measure; the results land in the run."""

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
    """A finished run's model and what it reads with."""

    run_id: str
    study: str
    settings: Settings
    corpus: Corpus
    model: ViLTA
    fit: Fit
    stores: list[Store]

    def precisely(self) -> AbstractContextManager[None]:
        """The precision that the run was trained with."""
        return precision(pick_device(), self.settings.optimisation.precision)


@dataclass(frozen=True)
class Result:
    """`metrics` by their names in the run; `missing`: examples whose image could not be read, and why; `notes`:
    sentences that belong to the scores; `partial`: why the scores must not stand for those of the whole, where they
    must not."""

    metrics: dict[str, float]
    examples: int
    missing: dict[str, str]
    notes: list[str] = field(default_factory=list)
    partial: str | None = None


@dataclass(frozen=True)
class Published:
    """A suite or a task as it is published: the folder of its files, and those of its images."""

    name: str
    annotations: Path
    images: tuple[Path, ...]

    @property
    def shown(self) -> str:
        return " ".join(f"--images {folder}" for folder in self.images)


@dataclass(frozen=True)
class Sentences:
    """Language models for disturbed captions, by their names in transformers: with an `encoder` perturbations that
    change the meaning are drawn anew; with a `rewriter`, given `prompt` before each caption, captions that it has
    rewritten are measured as well."""

    encoder: str | None = None
    rewriter: str | None = None
    prompt: str = ""


@dataclass(frozen=True)
class How:
    """How an evaluation is made: parts that are measured are kept in the folder `home`, from where it goes on after
    `stop()`; `show` hears of how many parts are done."""

    home: Path
    stop: Callable[[], bool] = never
    show: Show = lambda *_: None

    def kept(self, name: str) -> Kept:
        return Kept.of(self.home / f"{name}.parts")

    def measure(self, trained: Trained, evaluation: Evaluation, kept: Kept) -> dict[str, float]:
        """Raises Stopped."""
        with trained.precisely(), torch.no_grad():
            return evaluate(evaluation, kept, self.stop, self.show)


def load_trained(tracker: Tracker, run_id: str, workspace: Path, image_size: int | None = None) -> Trained:
    """The run's model; for images of another `image_size` with its position embeddings interpolated.

    Raises UserError where there is no such run, or its weights are gone.
    """
    settings, tags = tracker.settings_of(run_id)
    weights = weights_of(workspace, tags.study, tags.config_hash)
    if not weights.is_file():
        raise UserError(
            f"--run-id {run_id}: its weights {weights} are missing; the run is not finished, or they were removed."
        )
    made = as_recorded(settings)
    corpus, shipped = corpus_of(made, Workspace(workspace).cache)
    former = tags.data + own_ids(made.data)
    has_former_ids = tags.data != corpus.fingerprint == former
    check_data(run_id, former if has_former_ids else tags.data, corpus.fingerprint, shipped is not None, tracker.say)
    device = pick_device()
    if image_size:
        made = made.model_copy(update={"data": made.data.model_copy(update={"image_size": image_size})})
    model = new_model(made, corpus, tags.seed)
    given = load_file(weights)
    if has_former_ids:
        given = with_own_ids(given, corpus.tokeniser.mask)
    model.load_state_dict(at_resolution(given, model.state_dict(), model.vision.prefix_tokens))
    stores = stores_of(made.data.mix, Workspace(workspace).data)
    return Trained(run_id, tags.study, made, corpus, model.to(device).eval(), fit_of(stores), stores)


def check_data(run_id: str, then: str, now: str, packaged: bool, say: Callable[[str], None]) -> None:
    """Says that a run was trained on other data than there are now, by their fingerprints; what was not recorded counts
    as equal. Raises UserError where it learnt its words from other encoders of the package."""
    if then in ("", now):
        return
    if packaged:
        raise UserError(
            f"--run-id {run_id}: it was trained with the words of other encoders than the package has now; install the"
            " version of then."
        )
    say(
        f"run {run_id} was trained on other data than there are now ({then} then, {now} now); a tokeniser that is"
        " trained on their captions reads words otherwise, so that what is measured may mean nothing"
    )


def evaluate_published(trained: Trained, files: Published, protocol: Protocol, how: How) -> Result:
    """A compositional suite, read from its published files."""
    images = ImageFolders.of(files.images)
    read = read_suite(files.name, files.annotations, images, protocol)
    items = told_apart(read, trained.corpus.tokeniser)
    settings = trained.settings
    look = decoding(trained.model, settings.data.image_size, trained.fit)
    reader = Reader(trained.model, trained.corpus.tokeniser, settings.evaluation.batch_size, look)
    name = logged_name(files.name, protocol)
    kept = how.kept(name)
    for part in [part for part, made in kept.made.items() if broken([made])]:
        del kept.made[part]  # an image that was missing may be there now
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
    """All corruptions and perturbations on the test split."""
    pairs, device = trained.corpus.test, pick_device()
    count = min(len(pairs), limit or trained.settings.evaluation.final_pairs)
    data = hold_out(pairs, image_features(trained.model, pairs.images[:count], device))
    disturbances = replace(
        ALL,
        accept=meaning_kept(sentences.encoder, device) if sentences.encoder else None,
        rewrite=rewriter(sentences.rewriter, sentences.prompt, device) if sentences.rewriter else None,
    )
    asked = f"{key('robustness', count, str(sentences.encoder), str(sentences.rewriter), sentences.prompt):016x}"
    robustness = Robustness(trained.model, data, trained.settings.evaluation.batch_size, disturbances, whole=True)
    metrics = how.measure(trained, robustness, how.kept(f"robustness-{asked}"))
    named = {name.replace("robustness/", "robustness_all/"): value for name, value in metrics.items()}
    return Result({of_first(name, limit): value for name, value in named.items()}, count, {})


def corruption_sheet(trained: Trained, path: Path) -> None:
    """A contact sheet of test images of the run, each corruption at severities 1, 3 and 5."""
    images, lines = [], []
    first = torch.from_numpy(np.array(trained.corpus.test.images[:1]))
    for kind in corruptions.CORRUPTIONS:
        for severity in (1, 3, 5):
            images.append(corruptions.corrupt(first, kind, severity)[0].numpy())
            lines.append([f"{kind.replace('_', ' ')} {severity}"])
    write_sheet(np.stack(images), lines, "Corruptions at severities 1, 3 and 5", path, columns=6)


def gallery_of(trained: Trained, split: str, limit: int | None) -> Shown:
    """The images and captions of a split, as `gallery`."""
    return gallery(trained.corpus, trained.stores, trained.settings.data.image_size, split, limit)


def evaluate_retrieval(trained: Trained, limit: int | None, shortlist: int, how: How) -> Result:
    """As `measure_retrieval`, with the metrics by their names in the run."""
    made = measure_retrieval(trained, limit, shortlist, how)
    return replace(made, metrics={of_first(f"retrieval/{name}", limit): value for name, value in made.metrics.items()})


def measure_retrieval(trained: Trained, limit: int | None, shortlist: int, how: How) -> Result:
    """Recall at 1, 5 and 10 both ways on the test split."""
    shown = gallery_of(trained, "test", limit)
    count = int(shown.image_of[-1]) + 1
    features = image_features(trained.model, shown.images[np.arange(count)], pick_device())
    with trained.precisely():
        images = Gallery(features, shown.token_ids, shown.image_of)
        retrieval = Retrieval(trained.model, images, shortlist, trained.settings.evaluation.batch_size)
    return Result(how.measure(trained, retrieval, how.kept(f"retrieval-{count}-{shortlist}")), count, {})
