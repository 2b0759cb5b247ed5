"""The losses of one training step, which share every forward pass that can be shared."""

import torch
from torch import Tensor

from workbench.config.schema import Mlm, Objectives
from workbench.data.masking import Places
from workbench.distributed import ALONE, World
from workbench.model.fusion import NONE
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import BatchPart
from workbench.objectives.losses import itm_loss, likeliest, mlm_loss, queue_contrast
from workbench.objectives.matching import match_batch
from workbench.objectives.teachers import Teachers, language_logits


def losses(
    model: ViLTA,
    images: Tensor,
    part: BatchPart,
    objectives: Objectives,
    teachers: Teachers,
    alpha: float,
    world: World = ALONE,
    length_buckets: int = 1,
) -> dict[str, Tensor]:
    """The losses: MLM with hard or soft labels, ITM with random and hard negatives, and the language encoder's MLM.

    `images`: the part's images, uint8 [b, 3, H, W], or their stored features [b, N, C]. `alpha` is the soft term's
    weight at this step. -> scalars, of which only `loss` carries a gradient. Each is this part's share of the step's
    mean: their sum over processes and micro-batches is the mean over the whole batch.

    The masked captions and the matching batch pass through the encoder and the fusion together, in one forward pass.
    METER runs the two objectives separately, on the same inputs.
    """
    mlm_config, plan = objectives.mlm, part.own
    features = images if images.is_floating_point() else model.image_features(images)
    device, rows = features.device, len(plan.token_ids)
    token_ids = torch.from_numpy(plan.token_ids).to(device, non_blocking=True)
    masked_ids, places = plan.masked.token_ids.to(device, non_blocking=True), plan.masked.places(device)
    matching = match_batch(model, features, part, objectives, teachers, world)

    image_tokens = model.adapt_image(features)
    first = part.first if matching.pooled else 0
    states, fused, pooled = read_pairs(
        model,
        torch.cat([masked_ids, matching.token_ids]),
        world.gather(image_tokens) if matching.pooled else image_tokens,
        torch.cat([first + torch.arange(rows, device=device), matching.image_rows]),
        rows,
        length_buckets,
    )

    labels = token_ids[places]
    mlm_share = len(labels) / max(1, part.masked_in_step)
    logits = model.mlm_logits(fused[:rows][places])
    soft = None
    if mlm_config.soft_labels != "none" and alpha > 0:
        read = token_ids if mlm_config.teacher_input == "full" else masked_ids
        soft = teacher_logits(mlm_config, teachers, features, read, places)
    mlm = mlm_share * mlm_loss(logits, labels, soft, alpha, mlm_config.temperature)

    match_logits = model.itm_logits(pooled)
    valid = matching.valid.sum()
    valid_everywhere = world.sum(valid).clamp(min=1)
    itm = part.share * valid / valid_everywhere * itm_loss(match_logits, matching.is_match, matching.valid)
    right = (match_logits.argmax(dim=-1).bool() == matching.is_match) & matching.valid
    # The language encoder's head sees the same masked captions, but no image.
    words = model.predict_words(states[:rows][places])
    generator_mlm = mlm_share * mlm_loss(words, labels, None, 0.0, 1.0)
    total = objectives.mlm.weight * mlm + objectives.itm.weight * itm + objectives.generator.mlm_weight * generator_mlm
    # Negatives drawn from scores that are not finite are invalid. A NaN loss reports this to all processes, since they
    # all read the loss, and needs no wait for the device.
    total = total + torch.where(matching.sound, 0.0, torch.nan)
    contrast = {}
    if objectives.itc.weight > 0:
        itc = itc_loss(model, teachers, features, image_tokens, token_ids, objectives.itc.alpha, part, world)
        total = total + objectives.itc.weight * itc
        contrast["itc_loss"] = itc
    parts = {
        "mlm_loss": mlm,
        "itm_loss": itm,
        "generator_loss": generator_mlm,
        "itm_accuracy": part.share * right.sum() / valid_everywhere,
        **contrast,
    }
    return {"loss": total} | {name: value.detach() for name, value in parts.items()}


def read_pairs(
    model: ViLTA, token_ids: Tensor, image_tokens: Tensor, image_rows: Tensor, masked: int, buckets: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Encodes captions int64 [R, L], each with the image of its row.

    -> states [R, L, D] of the language encoder, fused text states [R, L, D], and the pooled pairs [R - masked, 2 D] of
    the captions after the first `masked` ones, which are those of MLM.

    With several `buckets`, captions of similar length are read together, truncated to the longest of them. The numbers
    are the same except for rounding (and are 0 at padding), with fewer padded tokens.
    """
    if buckets == 1:
        states = model.encode_text(token_ids)
        return states, *model.fuse(states, image_tokens[image_rows], token_ids, slice(masked, None))
    lengths = (token_ids != model.pad).sum(dim=1)
    outputs = []
    order = lengths.argsort(stable=True)
    for rows in order.tensor_split(buckets):
        if len(rows) == 0:
            continue
        ids = token_ids[rows, : int(lengths[rows].max())]
        states = model.encode_text(ids)
        fused, pooled = model.fuse(states, image_tokens[image_rows[rows]], ids, rows >= masked)
        padding = (0, 0, 0, token_ids.shape[1] - ids.shape[1])
        outputs.append((torch.nn.functional.pad(states, padding), torch.nn.functional.pad(fused, padding), pooled))
    states, fused, pooled = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    back = order.argsort()
    return states[back], fused[back], pooled[order[order >= masked].argsort()]


def itc_loss(
    model: ViLTA,
    teachers: Teachers,
    features: Tensor,
    image_tokens: Tensor,
    token_ids: Tensor,
    alpha: float,
    part: BatchPart,
    world: World,
) -> Tensor:
    """The contrastive loss of the unfused encoders against momentum features of this micro-batch and of past batches.

    The features of this micro-batch are then added to the queue.
    """
    assert teachers.ema is not None
    assert teachers.queue is not None
    temperature = model.itc_temperature.clamp(0.001, 0.5)
    image, text = model.contrast_features(image_tokens, model.encode_text(token_ids))
    with torch.no_grad():
        ema = teachers.ema
        image_m, text_m = ema.contrast_features(ema.adapt_image(features.detach()), ema.encode_text(token_ids))
        every_image, every_text = world.gather(image_m), world.gather(text_m)
        past_image, past_text = teachers.queue.past()
        image_keys, text_keys = torch.cat([every_image, past_image]), torch.cat([every_text, past_text])
        soft = (image_m @ text_keys.t() / temperature, text_m @ image_keys.t() / temperature) if alpha > 0 else None
    loss = queue_contrast(image / temperature, text / temperature, image_keys, text_keys, soft, alpha, part.first)
    teachers.queue.push(every_image, every_text)
    return part.share * len(image) / len(every_image) * loss


def alpha_at(mlm: Mlm, step: int, steps: int) -> float:
    """The soft term's weight at `step` (from 0); it rises linearly over the first `alpha_ramp` fraction of the steps
    (ALBEF)."""
    rising = round(mlm.alpha_ramp * steps)
    return mlm.alpha * min(1.0, step / rising) if rising else mlm.alpha


@torch.no_grad()
def teacher_logits(mlm: Mlm, teachers: Teachers, features: Tensor, token_ids: Tensor, places: Places) -> Tensor:
    """The teacher's logits [M, V] for soft labels, at `places` of the captions int64 [B, L] that it reads."""
    if mlm.soft_labels == "frozen_lm":
        assert teachers.frozen is not None
        logits = language_logits(teachers.frozen, token_ids, places)
    elif mlm.soft_labels == "ema":
        assert teachers.ema is not None
        # The momentum model shares the vision encoder's features of this step: one vision forward, not two.
        image = teachers.ema.adapt_image(features.detach())
        fused, _ = teachers.ema.fuse(teachers.ema.encode_text(token_ids), image, token_ids, NONE)
        logits = teachers.ema.mlm_logits(fused[places])
    else:
        row = teachers.words.unigram if mlm.soft_labels == "unigram" else torch.zeros_like(teachers.words.unigram)
        logits = row.expand(len(places[0]), -1)
    return likeliest(logits, mlm.top_k) if mlm.top_k else logits
