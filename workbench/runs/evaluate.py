"""A finished run, measured on suites that training does not measure; the results land in the run."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from workbench.config.schema import Settings
from workbench.config.settings import as_recorded
from workbench.data.corpus import Corpus
from workbench.data.mixture import stores_of
from workbench.data.pictures import Fit
from workbench.data.sheet import write_sheet
from workbench.data.store import Pictures, Store
from workbench.errors import UserError
from workbench.evaluation import corruptions
from workbench.evaluation.compositional import Reader, Suite, broken
from workbench.evaluation.contract import Evaluation, Kept, Show, evaluate
from workbench.evaluation.matching import hold_out
from workbench.evaluation.published import limited, read_suite
from workbench.evaluation.retrieval import Gallery, Retrieval
from workbench.evaluation.robustness import ALL, Robustness
from workbench.evaluation.sentences import meaning_kept, rewriter
from workbench.model.vilta import ViLTA
from workbench.model.weights import at_resolution
from workbench.outage import never
from workbench.randomness import key
from workbench.tracking.runs import Tracker
from workbench.training.prepare import corpus_of, pick_device, picture_features, precision
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
    """`metrics` by their names in the run; `missing`: examples whose picture could not be read, and why."""

    metrics: dict[str, float]
    examples: int
    missing: dict[str, str]


@dataclass(frozen=True)
class Published:
    """A suite or a task as it is published: the folder of its files, and that of its pictures."""

    name: str
    annotations: Path
    images: Path


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
    """How an evaluation is made: parts that are measured are kept in the folder `home`, from where it goes on after `stop()`; `show`
    hears of how many parts are done."""

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
    """The run's model; for pictures of another `image_size` with its position embeddings interpolated.

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
    check_data(run_id, tags.data, corpus.fingerprint, shipped is not None, tracker.say)
    device = pick_device()
    if image_size:
        made = made.model_copy(update={"data": made.data.model_copy(update={"image_size": image_size})})
    model = new_model(made, corpus, tags.seed)
    model.load_state_dict(at_resolution(load_file(weights), model.state_dict(), model.vision.prefix_tokens))
    stores = stores_of(made.data.mix, Workspace(workspace).data)
    fit: Fit = stores[0].facts["fit"] if stores else "pad"
    return Trained(run_id, tags.study, made, corpus, model.to(device).eval(), fit, stores)


def check_data(run_id: str, then: str, now: str, packaged: bool, say: Callable[[str], None]) -> None:
    """Says that a run was trained on other data than there are now, by their fingerprints; what was not recorded counts as equal.
    Raises UserError where it learnt its words from other encoders of the package."""
    if then in ("", now):
        return
    if packaged:
        raise UserError(
            f"--run-id {run_id}: it was trained with the words of other encoders than the package has now; install the version "
            "of then."
        )
    say(
        f"run {run_id} was trained on other data than there are now ({then} then, {now} now); a tokeniser that is trained on "
        "their captions reads words otherwise, so that what is measured may mean nothing"
    )


def evaluate_published(trained: Trained, files: Published, limit: int | None, how: How) -> Result:
    """A compositional suite, read from its published files."""
    suite = files.name
    examples = read_suite(suite, files.annotations, files.images)
    if limit:
        examples = limited(examples, limit)
    settings = trained.settings
    reader = Reader(
        trained.model,
        trained.corpus.tokeniser,
        settings.data.image_size,
        trained.fit,
        settings.evaluation.batch_size,
    )
    kept = how.kept(suite)
    for name in [name for name, made in kept.made.items() if broken([made])]:
        del kept.made[name]  # a picture that was missing may be there now
    metrics = how.measure(trained, Suite(reader, suite, examples), kept)
    missing = broken(kept.made.values())
    if len(missing) == len(examples):
        name, why = next(iter(missing.items()))
        raise UserError(f"--images {files.images}: none of the {len(examples)} pictures can be read; {name}: {why}.")
    return Result(metrics, len(examples) - len(missing), missing)


def evaluate_all_robustness(trained: Trained, limit: int | None, sentences: Sentences, how: How) -> Result:
    """All corruptions and perturbations on the test split."""
    pairs, device = trained.corpus.test, pick_device()
    count = min(len(pairs), limit or trained.settings.evaluation.final_pairs)
    data = hold_out(pairs, picture_features(trained.model, pairs.images[:count], device))
    disturbances = replace(
        ALL,
        accept=meaning_kept(sentences.encoder, device) if sentences.encoder else None,
        rewrite=rewriter(sentences.rewriter, sentences.prompt, device) if sentences.rewriter else None,
    )
    asked = f"{key('robustness', count, str(sentences.encoder), str(sentences.rewriter), sentences.prompt):016x}"
    robustness = Robustness(trained.model, data, trained.settings.evaluation.batch_size, disturbances, whole=True)
    metrics = how.measure(trained, robustness, how.kept(f"robustness-{asked}"))
    return Result({name.replace("robustness/", "robustness_all/"): value for name, value in metrics.items()}, count, {})


def corruption_sheet(trained: Trained, path: Path) -> None:
    """A contact sheet of test pictures of the run, each corruption at severities 1, 3 and 5."""
    pictures, lines = [], []
    first = torch.from_numpy(np.array(trained.corpus.test.images[:1]))
    for kind in corruptions.CORRUPTIONS:
        for severity in (1, 3, 5):
            pictures.append(corruptions.corrupt(first, kind, severity)[0].numpy())
            lines.append([f"{kind.replace('_', ' ')} {severity}"])
    write_sheet(np.stack(pictures), lines, "Corruptions at severities 1, 3 and 5", path, columns=6)


@dataclass(frozen=True)
class Shown:
    """Pictures, their captions' tokens int64 [M, L], and the picture of each caption int64 [M]."""

    pictures: Any
    token_ids: np.ndarray
    picture_of: np.ndarray


def gallery(trained: Trained, split: str, limit: int | None) -> Shown:
    """The pictures of a split: with all captions of prepared corpora as published (five at most), else with one
    each."""
    if trained.stores:
        rows = [np.flatnonzero(s.pairs["split"].to_numpy() == split)[: limit or None] for s in trained.stores]
        if not any(map(len, rows)):
            raise UserError(
                f"`data.mix`: none of the corpora has a published {split} split, which Karpathy's protocol needs."
            )
        pictures: Any = Pictures(trained.stores, rows, trained.settings.data.image_size)
        texts = [
            list(row)[:5]
            for s, chosen in zip(trained.stores, rows, strict=True)
            for row in s.pairs["captions"].gather(chosen)
        ]
    else:
        pairs = getattr(trained.corpus, split)
        pictures = pairs.images
        texts = [[caption] for caption in pairs.captions["caption"].to_list()[: limit or None]]
    token_ids = trained.corpus.tokeniser.encode([text for row in texts for text in row])
    return Shown(pictures, token_ids, np.repeat(np.arange(len(texts)), [len(row) for row in texts]))


def evaluate_retrieval(trained: Trained, limit: int | None, shortlist: int, how: How) -> Result:
    """Recall at 1, 5 and 10 both ways on the test split."""
    shown = gallery(trained, "test", limit)
    count = int(shown.picture_of[-1]) + 1
    features = picture_features(trained.model, shown.pictures[np.arange(count)], pick_device())
    with trained.precisely():
        images = Gallery(features, shown.token_ids, shown.picture_of)
        retrieval = Retrieval(trained.model, images, shortlist, trained.settings.evaluation.batch_size)
    metrics = how.measure(trained, retrieval, how.kept(f"retrieval-{count}-{shortlist}"))
    return Result({f"retrieval/{name}": value for name, value in metrics.items()}, count, {})
