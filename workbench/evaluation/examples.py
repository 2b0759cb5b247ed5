"""A model's outputs on a few held-out pairs, for people to inspect: matches, soft labels and written negatives."""

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from workbench.config.schema import Mlm, Settings
from workbench.data.masking import Places, hide_tokens
from workbench.data.text import Tokeniser, Vocabulary
from workbench.evaluation.matching import HeldOut, match_scores
from workbench.model.fusion import NONE
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import BatchKey, draw_rewriting
from workbench.objectives.matching import written_captions
from workbench.objectives.step import teacher_logits
from workbench.objectives.teachers import Teachers
from workbench.objectives.words import word_weights
from workbench.randomness import RowRandom

SHOWN = 48  # pairs
SIDE = 64  # pixels of the long side of an image
QUALITY = 80  # of its JPEG
SEVERAL = 6  # words in the caption of the method's example, if some caption has this many
MASKED = 2  # the least number of words masked in it
LIKELIEST = 5  # words shown of a distribution
WRITTEN = 3  # rewritten captions shown
ATTEMPTS = 12  # rewritings, to find captions that differ
ANOTHER = "another caption"


@torch.no_grad()
def make_examples(model: ViLTA, data: HeldOut, settings: Settings, teachers: Teachers) -> dict[str, Any]:
    """The examples as plain JSON.

    `pairs`: each has a false caption, and the model's log odds of a match for both captions. `method`: what the
    objectives do with one caption. The choice of pairs, false captions and masks depends only on the data and the mask
    ratio, so that trials are comparable.
    """
    images = [image_url(image) for image in np.array(data.pairs.images[: len(data)])]
    return {
        "pairs": _pairs(model, data, images, settings.evaluation.batch_size),
        "method": _method(model, data, images, settings, teachers),
    }


def image_url(image: np.ndarray) -> str:
    """An image uint8 [3, H, W] as a small JPEG in a `data:` URL."""
    small = Image.fromarray(image.transpose(1, 2, 0))
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def false_captions(data: HeldOut) -> list[tuple[str, str]]:
    """(kind, caption) for each pair: a foil of its least used kind so far, or else another pair's caption."""
    captions = data.pairs.captions
    kinds = [kind for kind in captions.columns if kind not in ("caption", "paraphrase")]
    taken: Counter[str] = Counter()
    chosen = []
    for row, other in enumerate(data.shuffled.tolist()):
        foils = {kind: captions[kind][row] for kind in kinds if captions[kind][row] is not None}
        kind = min(foils, key=taken.__getitem__, default=ANOTHER)
        taken[kind] += 1
        chosen.append((kind, foils.get(kind, captions["caption"][other])))
    return chosen


def _pairs(model: ViLTA, data: HeldOut, images: list[str], batch_size: int) -> list[dict[str, Any]]:
    rows = np.arange(len(data))
    false = false_captions(data)
    false_ids = data.pairs.tokeniser.encode([caption for _, caption in false])
    true_scores = match_scores(model, data.features, rows, data.token_ids, batch_size)
    false_scores = match_scores(model, data.features, rows, false_ids, batch_size)
    return [
        {
            "row": row,
            "caption": data.pairs.captions["caption"][row],
            "other": caption,
            "kind": kind,
            "image": images[row],
            "match": round(float(true_scores[row]), 4),
            "other_match": round(float(false_scores[row]), 4),
        }
        for row, (kind, caption) in enumerate(false)
    ]


def _method(model: ViLTA, data: HeldOut, images: list[str], settings: Settings, teachers: Teachers) -> dict[str, Any]:
    mlm, device, tokeniser = settings.objectives.mlm, data.features.device, data.pairs.tokeniser
    vocabulary = teachers.words.vocabulary
    row = int(np.minimum(_words(data.token_ids, vocabulary), SEVERAL).argmax())
    caption_ids = vocabulary.trim(data.token_ids[row : row + 1]).astype(np.int64)
    ratio = min(1.0, max(mlm.mask_ratio, MASKED / max(1, int(_words(caption_ids, vocabulary, mlm.whole_word)[0]))))
    hidden = hide_tokens(caption_ids, ratio, RowRandom(np.array([row]), "example masks"), vocabulary, mlm.whole_word)
    token_ids = torch.from_numpy(caption_ids).to(device)
    masked_ids, places = hidden.token_ids.to(device), hidden.places(device)
    features = data.features[row : row + 1]
    true = token_ids[places]
    fused, _ = model.fuse(model.encode_text(masked_ids), model.adapt_image(features), masked_ids, NONE)
    predicted = model.mlm_logits(fused[places]).float().softmax(dim=-1)
    labels = soft_labels(mlm, teachers, features, token_ids, masked_ids, places)
    return {
        "caption": data.pairs.captions["caption"][row],
        "image": images[row],
        "masked": [
            {
                "word": tokeniser.decode([word]),
                "label": _likeliest(tokeniser, label),
                "model": _likeliest(tokeniser, guess),
            }
            for word, label, guess in zip(true.tolist(), labels, predicted, strict=True)
        ],
        "written": _written(model, caption_ids, features, settings, teachers, tokeniser),
    }


def soft_labels(
    mlm: Mlm, teachers: Teachers, features: Tensor, token_ids: Tensor, masked_ids: Tensor, places: Places
) -> Tensor:
    """The soft-label distributions [M, V] of masked words; one-hot vectors of the true words if there are no soft
    labels."""
    if mlm.soft_labels == "none":
        return torch.nn.functional.one_hot(token_ids[places], len(teachers.words.unigram)).float()
    read = token_ids if mlm.teacher_input == "full" else masked_ids
    logits = teacher_logits(mlm, teachers, features, read, places)
    return (logits.float() / mlm.temperature).softmax(dim=-1)


def _written(
    model: ViLTA,
    caption_ids: np.ndarray,
    features: Tensor,
    settings: Settings,
    teachers: Teachers,
    tokeniser: Tokeniser,
) -> list[str]:
    """Distinct rewritings of the caption `caption_ids` int64 [1, L] of an image with `features` [1, N, C].

    The list is empty if the method writes no negatives.
    """
    itm = settings.objectives.itm
    if itm.negatives != "synthesized":
        return []
    repeated = np.repeat(caption_ids, ATTEMPTS, axis=0)
    weights = word_weights(itm.synthesis_words, repeated, teachers, features.expand(ATTEMPTS, -1, -1))
    rewriting = draw_rewriting(repeated, itm, BatchKey(np.arange(ATTEMPTS), -1), teachers.words.vocabulary, weights)
    original = torch.from_numpy(repeated).to(teachers.words.unigram.device)
    rewritten = written_captions(model, original, rewriting, settings.objectives, teachers).tolist()
    distinct = dict.fromkeys(map(tokeniser.decode, rewritten))
    distinct.pop(tokeniser.decode(caption_ids[0].tolist()), None)
    return list(distinct)[:WRITTEN]


def _words(token_ids: np.ndarray, vocabulary: Vocabulary, whole: bool = False) -> np.ndarray:
    """The number of ordinary tokens of each caption int64 [B, L], or of `whole` words, counted by the tokens that begin
    one."""
    counted = vocabulary.ordinary[token_ids]
    return (counted & vocabulary.word_starts[token_ids] if whole else counted).sum(axis=1)


def _likeliest(tokeniser: Tokeniser, probabilities: Tensor) -> list[list[Any]]:
    """The most likely words of a distribution [V], without special tokens; ties in order of the vocabulary."""
    ordinary = tokeniser.vocabulary.ordinary_ids
    ordered, places = probabilities[torch.from_numpy(ordinary).to(probabilities.device)].sort(
        descending=True, stable=True
    )
    return [
        [tokeniser.decode([int(ordinary[place])]), round(probability, 6)]
        for probability, place in zip(ordered[:LIKELIEST].tolist(), places[:LIKELIEST].tolist(), strict=True)
        if probability > 0
    ]
