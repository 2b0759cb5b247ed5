"""One training step's losses, sharing every forward that can be shared."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.config.schema import Mlm, Objectives
from workbench.data.masking import hide_tokens, mask_tokens
from workbench.data.text import SPECIAL
from workbench.model.vilta import ViLTA
from workbench.objectives.companions import Companions, language_logits
from workbench.objectives.losses import itm_loss, late_interaction, likeliest, mlm_loss, queue_contrast
from workbench.objectives.negatives import hard_pairs, synthesize, take_back
from workbench.randomness import generator, key


@dataclass(frozen=True)
class Batch:
    """Pairs on the device. `features` [B, N, C] of the vision backbone, `token_ids` int64 [B, L] padded,
    `foil_ids` int64 [B, L] (a true foil of each caption, or the caption itself where there is none)."""

    features: Tensor
    token_ids: np.ndarray
    foil_ids: np.ndarray | None


@dataclass(frozen=True)
class Losses:
    total: Tensor
    parts: dict[str, float]


@dataclass(frozen=True)
class Matching:
    """The ITM batch: row i shows picture `image_rows[i]` with `token_ids[i]`."""

    token_ids: Tensor
    image_rows: Tensor
    is_match: Tensor
    valid: Tensor


def losses(
    model: ViLTA,
    batch: Batch,
    objectives: Objectives,
    companions: Companions,
    seed: int,
    step: int,
    alpha: float,
) -> Losses:
    """MLM with hard or soft labels, ITM with random and hard negatives, and the language encoder's own MLM.

    The masked captions and the matching batch pass through the encoder and the fusion together, in one forward;
    METER runs the two objectives apart, on the same inputs. `alpha` is the soft term's weight at this step.
    """
    mlm_config, device = objectives.mlm, batch.features.device
    vocabulary = model.mlm_decoder.out_features
    token_ids = torch.from_numpy(batch.token_ids).to(device)
    masked = mask_tokens(
        batch.token_ids,
        mlm_config.mask_ratio,
        vocabulary,
        generator("mlm masks", seed, step),
        companions.word_starts if mlm_config.whole_word else None,
    )
    masked_ids, positions = masked.token_ids.to(device), masked.positions.to(device)
    matching = match_batch(model, batch, token_ids, objectives, companions, seed, step)

    everything = torch.cat([masked_ids, matching.token_ids])
    states = model.encode_text(everything)
    rows = torch.cat([torch.arange(len(token_ids), device=device), matching.image_rows])
    fused, pooled = model.fuse(states, model.adapt_image(batch.features)[rows], everything)

    labels = token_ids[positions]
    logits = model.mlm_logits(fused[: len(token_ids)][positions])
    soft = None
    if mlm_config.soft_labels != "none" and alpha > 0:
        read = token_ids if mlm_config.teacher_input == "full" else masked_ids
        soft = teacher_logits(mlm_config, companions, batch.features, read, positions)
    mlm = mlm_loss(logits, labels, soft, alpha, mlm_config.temperature)

    match_logits = model.itm_logits(pooled[len(token_ids) :])
    itm = itm_loss(match_logits, matching.is_match, matching.valid)
    # The language encoder's head sees the same masked captions, but no picture.
    words = model.predict_words(states[: len(token_ids)][positions])
    generator_mlm = mlm_loss(words, labels, None, 0.0, 1.0)
    total = objectives.mlm.weight * mlm + objectives.itm.weight * itm + objectives.generator.mlm_weight * generator_mlm
    contrast = {}
    if objectives.itc.weight > 0:
        contrast["itc_loss"] = itc_loss(model, companions, batch.features, token_ids, objectives.itc.alpha)
        total = total + objectives.itc.weight * contrast["itc_loss"]
    right = (match_logits.argmax(dim=-1).bool() == matching.is_match)[matching.valid]
    parts = {
        "loss": total,
        "mlm_loss": mlm,
        "itm_loss": itm,
        "generator_loss": generator_mlm,
        "itm_accuracy": right.float().mean(),
        **contrast,
    }
    return Losses(total, {name: float(value.detach()) for name, value in parts.items()})


def itc_loss(model: ViLTA, companions: Companions, features: Tensor, token_ids: Tensor, alpha: float) -> Tensor:
    """Contrast of the unfused encoders against this batch's and past batches' momentum features, which join the queue."""
    assert companions.ema is not None
    assert companions.queue is not None
    temperature = model.itc_temperature.clamp(0.001, 0.5)
    image, text = model.contrast_features(model.adapt_image(features), model.encode_text(token_ids))
    with torch.no_grad():
        ema = companions.ema
        image_m, text_m = ema.contrast_features(ema.adapt_image(features.detach()), ema.encode_text(token_ids))
        past_image, past_text = companions.queue.past()
        image_keys, text_keys = torch.cat([image_m, past_image]), torch.cat([text_m, past_text])
        soft = (image_m @ text_keys.t() / temperature, text_m @ image_keys.t() / temperature) if alpha > 0 else None
    loss = queue_contrast(image / temperature, text / temperature, image_keys, text_keys, soft, alpha)
    companions.queue.push(image_m, text_m)
    return loss


def alpha_at(mlm: Mlm, step: int, steps: int) -> float:
    """The soft term's weight at `step` (from 0): rises linearly over the first `alpha_ramp` share of the steps (ALBEF)."""
    rising = round(mlm.alpha_ramp * steps)
    return mlm.alpha * min(1.0, step / rising) if rising else mlm.alpha


@torch.no_grad()
def teacher_logits(mlm: Mlm, companions: Companions, features: Tensor, token_ids: Tensor, positions: Tensor) -> Tensor:
    """Soft labels before their softmax [M, V], at `positions` (bool [B, L]) of the captions that the teacher reads."""
    if mlm.soft_labels == "frozen_lm":
        assert companions.frozen is not None
        logits = language_logits(companions.frozen, token_ids, positions)
    elif mlm.soft_labels == "ema":
        assert companions.ema is not None
        # The momentum model shares the vision encoder's features of this step: one vision forward, not two.
        image = companions.ema.adapt_image(features.detach())
        fused, _ = companions.ema.fuse(companions.ema.encode_text(token_ids), image, token_ids)
        logits = companions.ema.mlm_logits(fused[positions])
    else:
        row = companions.unigram if mlm.soft_labels == "unigram" else torch.zeros_like(companions.unigram)
        logits = row.expand(int(positions.sum()), -1)
    return likeliest(logits, mlm.top_k) if mlm.top_k else logits


def match_batch(
    model: ViLTA,
    batch: Batch,
    token_ids: Tensor,
    objectives: Objectives,
    companions: Companions,
    seed: int,
    step: int,
) -> Matching:
    """Half of the rows are true (METER's share); the other half are the same pairs made false, so that the two
    classes differ in nothing but the falsehood. `hard_ratio` of the false rows get a hard negative, the rest another
    picture.

    Which pairs take part, and which are hard, is keyed by (seed, step): a larger ratio only turns more of the same
    random negatives into hard ones.
    """
    itm, device = objectives.itm, token_ids.device
    rng = generator("itm negatives", seed, step)
    chosen = rng.permutation(len(token_ids))[: len(token_ids) // 2]
    others = (chosen + rng.integers(1, len(token_ids), size=len(chosen))) % len(token_ids)
    share = 0.0 if itm.negatives == "random_image" else itm.hard_ratio
    hard = round(share * len(chosen))

    true_rows = torch.from_numpy(chosen).to(device)
    false_rows = torch.from_numpy(np.concatenate([chosen[:hard], others[hard:]])).to(device)
    true_text = token_ids[true_rows]
    false_text = true_text.clone()
    if hard and itm.negatives == "foils":
        assert batch.foil_ids is not None
        false_text[:hard] = torch.from_numpy(batch.foil_ids).to(device)[true_rows[:hard]]
    elif hard and itm.negatives == "synthesized":
        false_text[:hard] = written_captions(model, batch.token_ids[chosen[:hard]], objectives, companions, seed, step)
    elif hard:
        sampler = torch.Generator(device=device).manual_seed(key("hard pairs", seed, step))
        similar_text, similar_image = hard_pairs(
            pair_similarity(model, batch.features, token_ids), token_ids, itm.similarity_temperature, sampler
        )
        # By turns a wrong caption for the picture, and a wrong picture for the caption.
        captioned, pictured = true_rows[:hard:2], true_rows[1:hard:2]
        false_text[:hard:2] = token_ids[similar_text[captioned]]
        false_rows[1:hard:2] = similar_image[pictured]
    # A negative that came out true is no negative: it leaves the loss, it is never labelled false. That is a caption
    # that was not changed, or another picture with the same caption.
    really_false = (false_text != token_ids[false_rows]).any(dim=1)
    everywhere = torch.ones_like(really_false)
    return Matching(
        token_ids=torch.cat([true_text, false_text]),
        image_rows=torch.cat([true_rows, false_rows]),
        is_match=torch.cat([everywhere, ~everywhere]),
        valid=torch.cat([everywhere, really_false]),
    )


@torch.no_grad()
def pair_similarity(model: ViLTA, features: Tensor, token_ids: Tensor) -> Tensor:
    """[B_image, B_text]: ITC's similarity where it is trained, else the late interaction that the warm start trained."""
    if hasattr(model, "itc_image"):
        image, text = model.contrast_features(model.adapt_image(features), model.encode_text(token_ids))
        return image @ text.t()
    return aligned_similarity(model, features, model.encode_text(token_ids), token_ids)


def aligned_similarity(model: ViLTA, features: Tensor, states: Tensor, token_ids: Tensor) -> Tensor:
    """[B_image, B_text]: late interaction of image tokens with the words of captions whose `states` are [B, L, D]."""
    return late_interaction(
        F.normalize(model.adapt_image(features), dim=-1),
        F.normalize(model.text_projection(states), dim=-1),
        token_ids >= len(SPECIAL),
    )


@torch.no_grad()
def written_captions(
    model: ViLTA, token_ids: np.ndarray, objectives: Objectives, companions: Companions, seed: int, step: int
) -> Tensor:
    """Captions that the generator writes over masked ones: int64 [B, L] like `token_ids`."""
    itm, device = objectives.itm, companions.synonyms.device
    hidden = hide_tokens(token_ids, itm.synthesis_mask_ratio, generator("synthesis masks", seed, step))
    masked_ids, positions = hidden.token_ids.to(device), hidden.positions.to(device)
    original = torch.from_numpy(token_ids).to(device)
    if itm.generator == "unigram":
        logits = companions.unigram.expand(int(positions.sum()), -1)
    else:
        language = {"current": model, "ema": companions.ema}.get(itm.generator)
        writer = language.language if language is not None else companions.frozen
        assert writer is not None
        was_training = writer.training
        writer.eval()
        logits = language_logits(writer, masked_ids, positions)
        writer.train(was_training)
    banned = companions.synonyms if itm.false_negative_filter == "synonyms" else companions.synonyms[:, :1]
    sampler = torch.Generator(device=device).manual_seed(key("synthesis", seed, step))
    written = synthesize(logits, original, positions, itm.sampling_temperature, banned, sampler, itm.top_k, itm.top_p)
    if itm.false_negative_filter == "teacher":
        assert companions.frozen is not None
        judged = language_logits(companions.frozen, masked_ids, positions)
        written = take_back(written, original, positions, judged, itm.filter_ratio)
    return written
