"""A finished run, measured on suites that training does not measure; the results land in the run."""

import json
import os
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from workbench.config.schema import Settings
from workbench.data.corpus import Corpus, load_corpus
from workbench.data.mixture import stores_of
from workbench.data.pictures import Fit
from workbench.data.sheet import write_sheet
from workbench.data.store import Pictures, Store
from workbench.errors import UserError
from workbench.evaluation import corruptions, perturbations
from workbench.evaluation.compositional import Scores, score_examples, suite_metrics
from workbench.evaluation.matching import hold_out
from workbench.evaluation.published import Example, limited, read_suite
from workbench.evaluation.retrieval import retrieve
from workbench.evaluation.robustness import evaluate_robustness
from workbench.evaluation.sentences import meaning_kept, rewriter
from workbench.model.vilta import ViLTA
from workbench.model.weights import at_resolution
from workbench.randomness import key
from workbench.tracking.runs import Tracker
from workbench.training.prepare import pick_device, picture_features, precision
from workbench.training.warm_start import new_model

Progress = Callable[[int, int], None]
CHUNK = 256  # examples between two saved parts


@dataclass(frozen=True)
class Trained:
    """A finished run's model and what it reads with."""

    run_id: str
    settings: Settings
    corpus: Corpus
    model: ViLTA
    fit: Fit
    stores: list[Store]


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


def load_trained(tracker: Tracker, run_id: str, workspace: Path, image_size: int | None = None) -> Trained:
    """The run's model; for pictures of another `image_size` with its position embeddings interpolated.

    Raises UserError where there is no such run, or its weights are gone.
    """
    settings, tags = tracker.settings_of(run_id)
    weights = workspace / "checkpoints" / f"{tags.config_hash}.safetensors"
    if not weights.is_file():
        raise UserError(
            f"--run-id {run_id}: its weights {weights} are missing; the run is not finished, or they were removed."
        )
    made = Settings.model_validate(settings)
    corpus = load_corpus(made.data, workspace / "cache")
    device = pick_device()
    if image_size:
        made = made.model_copy(update={"data": made.data.model_copy(update={"image_size": image_size})})
    model = new_model(made, corpus, tags.seed)
    model.load_state_dict(at_resolution(load_file(weights), model.state_dict(), model.vision.prefix_tokens))
    stores = stores_of(made.data.mix, workspace / "data")
    fit: Fit = stores[0].facts["fit"] if stores else "pad"
    return Trained(run_id, made, corpus, model.to(device).eval(), fit, stores)


def evaluate_published(trained: Trained, files: Published, limit: int | None, home: Path, progress: Progress) -> Result:
    """A compositional suite, read from its published files. Parts are kept in `home`, from where a stopped evaluation
    goes on."""
    suite = files.name
    examples = read_suite(suite, files.annotations, files.images)
    if limit:
        examples = limited(examples, limit)
    seen, blank, missing = _scored(trained, examples, home / f"{suite}.jsonl", progress)
    if not seen:
        name, why = next(iter(missing.items()))
        raise UserError(f"--images {files.images}: none of the {len(examples)} pictures can be read; {name}: {why}.")
    metrics = {f"compositional/{suite}/{kind}": v for kind, v in suite_metrics(suite, examples, seen).items()}
    metrics |= {f"blank_image/{suite}/{kind}": v for kind, v in suite_metrics(suite, examples, blank).items()}
    return Result(metrics, len(seen), missing)


def _scored(
    trained: Trained, examples: Sequence[Example], file: Path, progress: Progress
) -> tuple[Scores, Scores, dict[str, str]]:
    """Scores of all examples; each part of them is a line of `file`, and those that are there already are taken from
    it."""
    seen: Scores = {}
    blank: Scores = {}
    missing: dict[str, str] = {}
    side, size = trained.settings.data.image_size, trained.settings.evaluation.batch_size
    with _parts(file) as (kept, keep), precision(pick_device(), trained.settings.optimisation.precision):
        # A picture that was missing may be there now.
        known = {part["part"]: part["made"] for part in kept if not part["made"][2]}
        for start in range(0, len(examples), CHUNK):
            part = list(examples[start : start + CHUNK])
            name = "\x1f".join(f"{e.id}\x1e{e.picture}\x1e{e.captions}" for e in part)
            made: Any = known.get(name)
            if made is None:
                scores = score_examples(trained.model, trained.corpus.tokeniser, part, side, trained.fit, size)
                made = [{id: list(row) for id, row in group.items()} for group in scores[:2]] + [scores[2]]
                keep({"part": name, "made": made})
            seen |= {id: np.array(row) for id, row in made[0].items()}
            blank |= {id: np.array(row) for id, row in made[1].items()}
            missing |= made[2]
            progress(start + len(part), len(examples))
    return seen, blank, missing


@contextmanager
def _parts(file: Path) -> Iterator[tuple[list[Any], Callable[[Any], None]]]:
    """The parts that an earlier start has kept in `file`, one a line, and a function that keeps another."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    known = []
    for line in text.splitlines():
        with suppress(ValueError):  # cut short when it was written
            known.append(json.loads(line))
    with open(file, "a", encoding="utf-8") as out:
        if text and not text.endswith("\n"):
            out.write("\n")

        yield known, lambda part: print(json.dumps(part), file=out, flush=True)


def evaluate_all_robustness(
    trained: Trained, limit: int | None, home: Path, progress: Progress, sentences: Sentences
) -> Result:
    """All corruptions and perturbations on the test split. Parts are kept in `home`, from where a stopped evaluation
    goes on."""
    pairs = trained.corpus.test
    count = min(len(pairs), limit or trained.settings.evaluation.final_pairs)
    data = hold_out(pairs, picture_features(trained.model, pairs.images[:count], pick_device()))
    asked = f"{key('robustness', count, str(sentences.encoder), str(sentences.rewriter), sentences.prompt):016x}"
    with (
        _parts(home / f"robustness-{asked}.jsonl") as (kept, keep),
        precision(pick_device(), trained.settings.optimisation.precision),
    ):
        metrics = evaluate_robustness(
            trained.model,
            data,
            trained.settings.evaluation.batch_size,
            list(corruptions.CORRUPTIONS),
            list(perturbations.PERTURBATIONS),
            perturbations.ALL_LEVELS,
            progress,
            whole=True,
            accept=meaning_kept(sentences.encoder, pick_device()) if sentences.encoder else None,
            rewrite=rewriter(sentences.rewriter, sentences.prompt, pick_device()) if sentences.rewriter else None,
            known=dict(ChainMap(*reversed(kept))),
            keep=keep,
        )
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
class Gallery:
    """Pictures, their captions' tokens int64 [M, L], and the picture of each caption int64 [M]."""

    pictures: Any
    token_ids: np.ndarray
    picture_of: np.ndarray


def gallery(trained: Trained, split: str, limit: int | None) -> Gallery:
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
    return Gallery(pictures, token_ids, np.repeat(np.arange(len(texts)), [len(row) for row in texts]))


def evaluate_retrieval(trained: Trained, limit: int | None, shortlist: int, progress: Progress) -> Result:
    """Recall at 1, 5 and 10 both ways on the test split."""
    shown = gallery(trained, "test", limit)
    count = int(shown.picture_of[-1]) + 1
    features = picture_features(trained.model, shown.pictures[np.arange(count)], pick_device())
    with precision(pick_device(), trained.settings.optimisation.precision), torch.no_grad():
        size = trained.settings.evaluation.batch_size
        metrics = retrieve(trained.model, features, shown.token_ids, shown.picture_of, shortlist, size, progress)
    return Result({f"retrieval/{name}": value for name, value in metrics.items()}, count, {})


def scratch(workspace: Path, run_id: str) -> Path:
    """Where a run's evaluations keep their parts."""
    home = workspace / "evaluations" / run_id
    os.makedirs(home, exist_ok=True)
    return home
