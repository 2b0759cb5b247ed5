"""The ITM batch: true pairs, and the negatives made from them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Objectives
from workbench.data.masking import Places, places_of
from workbench.distributed import World
from workbench.model.similarity import unfused_similarity
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import HARD_CAPTION, HARD_PICTURE, BatchPart, Rewriting
from workbench.objectives.negatives import drawable, hard_pairs, synthesize, take_back
from workbench.objectives.teachers import Teachers, language_logits


@dataclass(frozen=True)
class Matching:
    """The pairs of an ITM batch: row i is image `image_rows[i]` with caption `token_ids[i]`.

    `pooled`: image rows are indices over all processes. `sound` (bool scalar): whether all scores from which negatives
    were drawn are finite; otherwise some negatives are arbitrary.
    """

    token_ids: Tensor
    image_rows: Tensor
    is_match: Tensor
    valid: Tensor
    pooled: bool
    sound: Tensor


def match_batch(
    model: ViLTA, features: Tensor, part: BatchPart, objectives: Objectives, teachers: Teachers, world: World
) -> Matching:
    """The pairs that the plan chose, unchanged and as negatives; `features` [b, N, C] of this process's images."""
    plan, kind, device = part.own, objectives.itm.negatives, features.device
    captions, images = (np.flatnonzero(plan.negatives == how) for how in (HARD_CAPTION, HARD_PICTURE))
    token_ids, pool_ids, chosen, others, captioned, imaged = (
        torch.from_numpy(array).to(device, non_blocking=True)
        for array in (plan.token_ids, part.pool_ids, plan.chosen, plan.others, captions, images)
    )
    pooled = kind == "in_batch_hard" and objectives.itm.hard_ratio > 0
    first = part.first if pooled else 0
    true_text, true_rows = token_ids[chosen], chosen + first
    false_text, false_rows = true_text.clone(), others + first
    false_rows[captioned] = true_rows[captioned]
    sound = torch.ones((), dtype=torch.bool, device=device)
    if plan.foil_ids is not None:
        false_text[captioned] = torch.from_numpy(plan.foil_ids).to(device)[chosen[captioned]]
    elif plan.rewriting is not None:
        hidden = plan.rewriting.rows(plan.chosen[captions])
        false_text[captioned], sound = _written(model, true_text[captioned], hidden, objectives, teachers)
    elif pooled:
        draws = torch.from_numpy(part.pool_draws).to(device)
        similarity = pair_similarity(model, features, token_ids, pool_ids, world)
        temperature = objectives.itm.similarity_temperature
        sound = drawable(similarity, temperature)
        similar_text, similar_image = hard_pairs(similarity, pool_ids, temperature, draws[:, 0], draws[:, 1])
        false_text[captioned] = pool_ids[similar_text[true_rows[captioned]]]
        false_rows[imaged] = similar_image[true_rows[imaged]]
    # A negative that turns out to be true is dropped from the loss, and is never labelled false: a caption that was not
    # changed, or another image with the same caption.
    shown = pool_ids if pooled else token_ids
    really_false = (false_text != shown[false_rows]).any(dim=1)
    everywhere = torch.ones_like(really_false)
    return Matching(
        token_ids=torch.cat([true_text, false_text]),
        image_rows=torch.cat([true_rows, false_rows]),
        is_match=torch.cat([everywhere, ~everywhere]),
        valid=torch.cat([everywhere, really_false]),
        pooled=pooled,
        sound=sound,
    )


@torch.no_grad()
def pair_similarity(model: ViLTA, features: Tensor, token_ids: Tensor, pool_ids: Tensor, world: World) -> Tensor:
    """Similarities [P_image, P_text] of the pairs of all processes."""
    return unfused_similarity(model, model.adapt_image(features), model.encode_text(token_ids), pool_ids, world.gather)


@torch.no_grad()
def written_captions(
    model: ViLTA, original: Tensor, rewriting: Rewriting, objectives: Objectives, teachers: Teachers
) -> Tensor:
    """Captions int64 [B, L], like `original`, in which the generator filled the masked words."""
    return _written(model, original, rewriting, objectives, teachers)[0]


@torch.no_grad()
def _written(
    model: ViLTA, original: Tensor, rewriting: Rewriting, objectives: Objectives, teachers: Teachers
) -> tuple[Tensor, Tensor]:
    """`written_captions`, and whether the generator's logits were finite in every round (bool scalar)."""
    itm, device = objectives.itm, original.device
    read, draws = (tensor.to(device, non_blocking=True) for tensor in (rewriting.hidden.token_ids, rewriting.draws))
    banned = teachers.words.synonyms if itm.false_negative_filter == "synonyms" else teachers.words.synonyms[:, :1]
    written, sound = original, torch.ones((), dtype=torch.bool, device=device)
    for number in range(itm.synthesis_rounds):
        here = places_of(rewriting.hidden.positions & (rewriting.rounds == number), device)
        logits = _generator_logits(model, read, here, itm.generator, teachers)
        filled = synthesize(
            logits,
            original,
            here,
            itm.sampling_temperature,
            banned,
            teachers.words.special,
            draws[here],
            itm.top_k,
            itm.top_p,
        )
        if itm.false_negative_filter == "teacher":
            assert teachers.frozen is not None
            filled = take_back(filled, original, here, language_logits(teachers.frozen, read, here), itm.filter_ratio)
        # Later rounds read the words written now; the words of those rounds are still masked.
        read, written = read.index_put(here, filled[here]), written.index_put(here, filled[here])
        sound = sound & drawable(logits, itm.sampling_temperature)
    return written, sound


def _generator_logits(model: ViLTA, token_ids: Tensor, places: Places, generator: str, teachers: Teachers) -> Tensor:
    """Word logits [M, V] of the generator, at `places` of captions int64 [B, L]."""
    if generator == "unigram":
        return teachers.words.unigram.expand(len(places[0]), -1)
    language = {"current": model, "ema": teachers.ema}.get(generator)
    writer = language.language if language is not None else teachers.frozen
    assert writer is not None
    was_training = writer.training
    writer.eval()
    logits = language_logits(writer, token_ids, places)
    writer.train(was_training)
    return logits
