"""One training step's losses, sharing every forward that can be shared."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Objectives
from workbench.model.vilta import ViLTA
from workbench.objectives.losses import itm_loss, mlm_loss
from workbench.objectives.masking import hide_tokens, mask_tokens
from workbench.objectives.negatives import synthesize
from workbench.objectives.soft_labels import Teacher
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
    teacher: Teacher | None,
    banned: Tensor,
    seed: int,
    step: int,
) -> Losses:
    """MLM with hard or soft labels, ITM with random and hard negatives, and the language encoder's own MLM.

    The masked captions and the matching batch pass through the encoder and the fusion together, in one forward;
    METER runs the two objectives apart, on the same inputs.
    `banned` int64 [V, K]: what a synthesized word must not be (see `negatives.synthesize`).
    """
    device = batch.features.device
    vocabulary = model.mlm_decoder.out_features
    token_ids = torch.from_numpy(batch.token_ids).to(device)
    masked = mask_tokens(batch.token_ids, objectives.mlm.mask_ratio, vocabulary, generator("mlm masks", seed, step))
    masked_ids, positions = masked.token_ids.to(device), masked.positions.to(device)
    matching = match_batch(model, batch, token_ids, objectives, banned, seed, step)

    everything = torch.cat([masked_ids, matching.token_ids])
    states = model.encode_text(everything)
    rows = torch.cat([torch.arange(len(token_ids), device=device), matching.image_rows])
    fused, pooled = model.fuse(states, model.adapt_image(batch.features)[rows], everything)

    labels = token_ids[positions]
    logits = model.mlm_logits(fused[: len(token_ids)][positions])
    teacher_logits = teacher.logits(masked_ids, positions) if teacher and objectives.mlm.alpha > 0 else None
    mlm = mlm_loss(logits, labels, teacher_logits, objectives.mlm.alpha, objectives.mlm.temperature)

    match_logits = model.itm_logits(pooled[len(token_ids) :])
    itm = itm_loss(match_logits, matching.is_match, matching.valid)
    # The language encoder's head sees the same masked captions, but no picture.
    words = model.predict_words(states[: len(token_ids)][positions])
    generator_mlm = mlm_loss(words, labels, None, 0.0, 1.0)
    total = objectives.mlm.weight * mlm + objectives.itm.weight * itm + objectives.generator.mlm_weight * generator_mlm
    right = (match_logits.argmax(dim=-1).bool() == matching.is_match)[matching.valid]
    parts = {
        "loss": total,
        "mlm_loss": mlm,
        "itm_loss": itm,
        "generator_loss": generator_mlm,
        "itm_accuracy": right.float().mean(),
    }
    return Losses(total, {name: float(value.detach()) for name, value in parts.items()})


def match_batch(
    model: ViLTA,
    batch: Batch,
    token_ids: Tensor,
    objectives: Objectives,
    banned: Tensor,
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
    elif hard:
        false_text[:hard] = written_captions(model, batch.token_ids[chosen[:hard]], objectives, banned, seed, step)
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
def written_captions(
    model: ViLTA, token_ids: np.ndarray, objectives: Objectives, banned: Tensor, seed: int, step: int
) -> Tensor:
    """Captions that the current language encoder writes over masked ones: int64 [B, L] like `token_ids`."""
    itm, device = objectives.itm, banned.device
    hidden = hide_tokens(token_ids, itm.synthesis_mask_ratio, generator("synthesis masks", seed, step))
    was_training = model.training
    model.eval()
    logits = model.predict_words(model.encode_text(hidden.token_ids.to(device)))
    model.train(was_training)
    sampler = torch.Generator(device=device).manual_seed(key("synthesis", seed, step))
    original = torch.from_numpy(token_ids).to(device)
    return synthesize(logits, original, hidden.positions.to(device), itm.sampling_temperature, banned, sampler)


def banned_words(objectives: Objectives, synonyms: np.ndarray, device: torch.device) -> Tensor:
    """int64 [V, K] for `synthesize`: each token itself, and with the synonym filter all that means the same."""
    table = synonyms if objectives.itm.false_negative_filter == "synonyms" else synonyms[:, :1]
    return torch.from_numpy(table).to(device)
