"""The ITM batch: true pairs, and the same pairs made false."""

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
    """Row i shows image `image_rows[i]` with `token_ids[i]`. `pooled`: the images are counted over all processes.
    `sound` (bool scalar): whether all that negatives were drawn from was finite; else some are arbitrary."""

    token_ids: Tensor
    image_rows: Tensor
    is_match: Tensor
    valid: Tensor
    pooled: bool
    sound: Tensor


def match_batch(
    model: ViLTA, features: Tensor, part: BatchPart, objectives: Objectives, teachers: Teachers, world: World
) -> Matching:
    """The pairs that the plan has chosen, as they are and made false; `features` [b, N, C] of the own images."""
    own, kind, device = part.own, objectives.itm.negatives, features.device
    captions, images = (np.flatnonzero(own.negatives == how) for how in (HARD_CAPTION, HARD_PICTURE))
    token_ids, pool_ids, chosen, others, captioned, imaged = (
        torch.from_numpy(given).to(device, non_blocking=True)
        for given in (own.token_ids, part.pool_ids, own.chosen, own.others, captions, images)
    )
    pooled = kind == "in_batch_hard" and objectives.itm.hard_ratio > 0
    first = part.first if pooled else 0
    true_text, true_rows = token_ids[chosen], chosen + first
    false_text, false_rows = true_text.clone(), others + first
    false_rows[captioned] = true_rows[captioned]
    sound = torch.ones((), dtype=torch.bool, device=device)
    if own.foil_ids is not None:
        false_text[captioned] = torch.from_numpy(own.foil_ids).to(device)[chosen[captioned]]
    elif own.rewriting is not None:
        hidden = own.rewriting.rows(own.chosen[captions])
        false_text[captioned], sound = _written(model, true_text[captioned], hidden, objectives, teachers)
    elif pooled:
        draws = torch.from_numpy(part.pool_draws).to(device)
        similarity = pair_similarity(model, features, token_ids, pool_ids, world)
        temperature = objectives.itm.similarity_temperature
        sound = drawable(similarity, temperature)
        similar_text, similar_image = hard_pairs(similarity, pool_ids, temperature, draws[:, 0], draws[:, 1])
        false_text[captioned] = pool_ids[similar_text[true_rows[captioned]]]
        false_rows[imaged] = similar_image[true_rows[imaged]]
    # A negative that came out true is no negative: it leaves the loss, it is never labelled false. That is a caption
    # that was not changed, or another image with the same caption.
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
    """[P_image, P_text] over the pairs of all processes."""
    return unfused_similarity(model, model.adapt_image(features), model.encode_text(token_ids), pool_ids, world.gather)


@torch.no_grad()
def written_captions(
    model: ViLTA, original: Tensor, rewriting: Rewriting, objectives: Objectives, teachers: Teachers
) -> Tensor:
    """Captions that the generator writes over masked ones: int64 [B, L] like `original`."""
    return _written(model, original, rewriting, objectives, teachers)[0]


@torch.no_grad()
def _written(
    model: ViLTA, original: Tensor, rewriting: Rewriting, objectives: Objectives, teachers: Teachers
) -> tuple[Tensor, Tensor]:
    """`written_captions`, round by round, and whether the generator's logits were finite (bool scalar)."""
    itm, device = objectives.itm, original.device
    read, draws = (each.to(device, non_blocking=True) for each in (rewriting.hidden.token_ids, rewriting.draws))
    banned = teachers.words.synonyms if itm.false_negative_filter == "synonyms" else teachers.words.synonyms[:, :1]
    written, sound = original, torch.ones((), dtype=torch.bool, device=device)
    for number in range(itm.synthesis_rounds):
        here = places_of(rewriting.hidden.positions & (rewriting.rounds == number), device)
        logits = _generator_logits(model, read, here, itm.generator, teachers)
        made = synthesize(
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
            made = take_back(made, original, here, language_logits(teachers.frozen, read, here), itm.filter_ratio)
        # What is written now is read by the rounds to come, whose own words are still masked.
        read, written = read.index_put(here, made[here]), written.index_put(here, made[here])
        sound = sound & drawable(logits, itm.sampling_temperature)
    return written, sound


def _generator_logits(model: ViLTA, token_ids: Tensor, places: Places, generator: str, teachers: Teachers) -> Tensor:
    """Word logits [M, V] of whoever writes, at `places` of captions int64 [B, L]."""
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
