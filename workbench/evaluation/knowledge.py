"""What encoders know before any fusion is trained: linear probes on frozen features, and the language encoder's
prediction of masked words."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.data import lexicon
from workbench.data.corpus import Corpus, Pairs
from workbench.data.masking import hide_tokens
from workbench.evaluation.matching import BLANK
from workbench.evaluation.scores import auc
from workbench.model.fusion import NONE
from workbench.model.similarity import aligned_similarity
from workbench.model.vilta import ViLTA
from workbench.randomness import RowRandom, generator

ATTRIBUTES: Final = ("kind", "colour", "size", "texture")
RIDGE: Final = 1.0  # the penalty's weight, where one training object has weight 1
MASKED: Final = 0.15
BATCH: Final = 256
WORDS: Final[dict[str, list[str]]] = {
    "kinds": [name for _, names in lexicon.KINDS.values() for name in names],
    "colours": [name for _, names in lexicon.COLOURS.values() for name in names],
    "sizes": [name for names in lexicon.SIZES.values() for name in names],
    "textures": [name for names in lexicon.TEXTURES.values() for name in names],
    "relations": list(lexicon.RELATION_WORDS),
}


@dataclass(frozen=True)
class Known:
    """A probe's score on held-out scenes, the chance level, and the number of cases averaged."""

    name: str
    score: float
    chance: float
    cases: int


@torch.no_grad()
def encoder_knowledge(model: ViLTA, corpus: Corpus, most: int = 4096) -> dict[str, Any]:
    """The knowledge of the encoders, as plain JSON.

    `probes` are trained on the first `most` training scenes and measured on the validation scenes. `perplexity` and
    `words_right` are about masked words of the validation captions. `alignment_auc` compares an image's unfused
    similarity to its own caption with that to the next image's.

    The model must be in evaluation mode, its vision encoder must output a grid, and the corpus must consist of scenes.
    """
    grid = model.vision.grid
    fitted, tested = (_objects(model, pairs, min(most, len(pairs)), grid) for pairs in (corpus.train, corpus.val))
    probes = [Known(name, *probe(*fitted[name], *tested[name])) for name in fitted]
    return {"probes": [asdict(score) for score in probes], **_words(model, corpus.val)}


@torch.no_grad()
def fused_knowledge(model: ViLTA, corpus: Corpus) -> list[dict[str, Any]]:
    """The accuracy on masked words of the validation captions, by class of words, as plain JSON.

    One word is masked at a time. Synonyms count as one word. `chance` is the gray-image baseline.
    """
    pairs, tokeniser = corpus.val, corpus.tokeniser
    device = next(model.parameters()).device
    images = torch.from_numpy(np.array(pairs.images)).to(device)
    gray = model.image_features(torch.full_like(images[:1], BLANK))
    features = torch.cat([model.image_features(part) for part in images.split(BATCH)]).float()
    means = torch.from_numpy(corpus.synonyms).to(device).amin(dim=1)
    vocabulary = tokeniser.vocabulary
    ids = vocabulary.trim(pairs.token_ids.astype(np.int64))
    scores_by_class = []
    for name, words in WORDS.items():
        tokens = [token for token in map(tokeniser.word_id, words) if token is not None]
        rows, columns = np.nonzero(np.isin(ids, tokens))
        right: list[list[float]] = [[], []]
        for start in range(0, len(rows), BATCH):
            row, column = rows[start : start + BATCH], columns[start : start + BATCH]
            hidden, index = torch.from_numpy(ids[row]).to(device), torch.arange(len(row), device=device)
            at = torch.from_numpy(column).to(device)
            labels = hidden[index, at]
            hidden[index, at] = vocabulary.mask
            states = model.encode_text(hidden)
            for scores, seen in zip(right, (features[torch.from_numpy(row).to(device)], gray), strict=True):
                image = model.adapt_image(seen.float()).expand(len(row), -1, -1)
                fused, _ = model.fuse(states, image, hidden, NONE)
                guess = model.mlm_logits(fused[index, at]).softmax(dim=-1)
                summed = torch.zeros_like(guess).index_add_(1, means, guess)
                scores += (summed.argmax(dim=-1) == means[labels]).float().tolist()
        scores_by_class.append(asdict(Known(name, float(np.mean(right[0])), float(np.mean(right[1])), len(rows))))
    return scores_by_class


def probe(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> tuple[float, float, int]:
    """The accuracy of a linear probe, the accuracy of always predicting the most common label, and the number of test
    cases.

    The probe is ridge regression onto one-hot labels (closed form). Features [N, C] are standardised; labels are texts
    [N].
    """
    classes = np.unique(labels)
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6

    def prepared(x: np.ndarray) -> np.ndarray:
        return np.concatenate([(x - mean) / spread, np.ones((len(x), 1))], axis=1).astype(np.float64)

    x, y = prepared(features), (labels[:, None] == classes).astype(np.float64)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    guessed = classes[(prepared(test_features) @ weights).argmax(axis=1)]
    majority = max((test_labels == name).mean() for name in classes)
    return float((guessed == test_labels).mean()), float(majority), len(test_labels)


def _objects(model: ViLTA, pairs: Pairs, count: int, grid: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The features [M, C] and labels [M] of each probe.

    Each object is represented by the token that contains its centre, and labelled with the attribute. `position` has
    the same tokens and as many without an object's centre, labelled by whether there is an object.
    """
    assert pairs.scene is not None
    rows, columns = grid
    device = next(model.parameters()).device
    at: list[np.ndarray] = []
    facts: dict[str, list[str]] = {name: [] for name in ATTRIBUTES}
    empty: list[np.ndarray] = []
    for start in range(0, count, BATCH):
        images = np.array(pairs.images[start : min(start + BATCH, count)])
        features = model.image_features(torch.from_numpy(images).to(device)).float().cpu().numpy()
        for index, tokens in enumerate(features, start):
            things = pairs.scene(index).things
            places = [
                min(rows - 1, int(thing.y * rows)) * columns + min(columns - 1, int(thing.x * columns))
                for thing in things
            ]
            free = [place for place in range(rows * columns) if place not in places]
            chosen = generator("empty places", index).permutation(len(free))[: len(places)]
            at += [tokens[place] for place in places]
            empty += [tokens[free[place]] for place in chosen]
            for name in ATTRIBUTES:
                facts[name] += [str(getattr(thing, name)) for thing in things]
    objects = np.stack(at)
    by_probe = {name: (objects, np.array(labels)) for name, labels in facts.items()}
    both = np.concatenate([objects, np.stack(empty)])
    by_probe["position"] = (both, np.array(["object"] * len(objects) + ["none"] * len(empty)))
    return by_probe


def _words(model: ViLTA, pairs: Pairs) -> dict[str, float]:
    device, vocabulary = next(model.parameters()).device, pairs.tokeniser.vocabulary
    losses: list[Tensor] = []
    right: list[Tensor] = []
    matched, mismatched = [], []
    for start in range(0, len(pairs), BATCH):
        rows = np.arange(start, min(start + BATCH, len(pairs)))
        ids = vocabulary.trim(pairs.token_ids[rows].astype(np.int64))
        hidden = hide_tokens(ids, MASKED, RowRandom(rows, "knowledge masks"), vocabulary)
        labels = torch.from_numpy(ids).to(device)[hidden.positions.to(device)]
        states = model.encode_text(hidden.token_ids.to(device))
        logits = model.predict_words(states[hidden.positions.to(device)]).double()
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
        right.append((logits.argmax(dim=-1) == labels).double())
        token_ids = torch.from_numpy(ids).to(device)
        features = model.image_features(torch.from_numpy(np.array(pairs.images[rows])).to(device)).float()
        similarity = aligned_similarity(model, model.adapt_image(features), model.encode_text(token_ids), token_ids)
        matched.append(similarity.diagonal().cpu().numpy())
        mismatched.append(similarity.roll(1, dims=1).diagonal().cpu().numpy())
    return {
        "perplexity": float(torch.cat(losses).mean().exp()),
        "words_right": float(torch.cat(right).mean()),
        "alignment_auc": auc(np.concatenate(matched), np.concatenate(mismatched)),
    }
