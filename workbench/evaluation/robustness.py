"""Matching when pictures or captions are disturbed."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.special import expit

from workbench.evaluation import corruptions, perturbations
from workbench.evaluation.corruptions import SEVERITIES, corrupt
from workbench.evaluation.matching import HeldOut, random_caption_scores
from workbench.evaluation.perturbations import LEVELS, perturb
from workbench.evaluation.scores import auc, expected_calibration_error
from workbench.evaluation.sentences import Accept
from workbench.model.vilta import ViLTA

CHUNK = 256  # pictures that are corrupted at once


@torch.no_grad()
def evaluate_robustness(
    model: ViLTA,
    data: HeldOut,
    batch_size: int,
    picture_kinds: Sequence[str] = corruptions.CORE,
    caption_kinds: Sequence[str] = perturbations.CORE,
    levels: Sequence[int] = LEVELS,
    progress: Callable[[int, int], None] = lambda *_: None,
    whole: bool = False,
    accept: Accept | None = None,
    rewrite: Callable[[Sequence[str]], list[str]] | None = None,
    known: Mapping[str, float] | None = None,
    keep: Callable[[dict[str, float]], None] = lambda _: None,
) -> dict[str, float]:
    """`robustness/<kind>/<severity>`: ITM AUC against random captions; `robustness/clean/0` is the undisturbed one.

    `whole` adds what the same scores tell besides: `calibration/<kind>/<severity>`, the expected calibration error of the matching
    head, and for perturbations `consistency/<kind>/<level>`, the share of true pairs whose verdict stays the same. What is in `known`
    is not measured again; `keep` is given each new part.
    """
    model.eval()
    clean = random_caption_scores(model, data, batch_size)
    metrics: dict[str, float] = dict(known or {})

    def note(kind: str, severity: int, own: np.ndarray, other: np.ndarray) -> None:
        made = {f"robustness/{kind}/{severity}": auc(own, other)}
        if whole:
            confidence = expit(np.abs(np.concatenate([own, other])))
            correct = np.concatenate([own > 0, other <= 0])
            made[f"calibration/{kind}/{severity}"] = expected_calibration_error(confidence, correct)
            if kind in caption_kinds:
                made[f"consistency/{kind}/{severity}"] = float(np.mean((own > 0) == (clean[0] > 0)))
        metrics.update(made)
        keep(made)

    note("clean", 0, *clean)
    work = [(kind, level, True) for kind in picture_kinds for level in SEVERITIES]
    work += [(kind, level, False) for kind in caption_kinds for level in levels]
    images = torch.from_numpy(np.array(data.pairs.images[: len(data)]))
    captions = data.pairs.captions["caption"].to_list()[: len(data)]
    for done, (kind, level, of_pictures) in enumerate(work):
        if f"robustness/{kind}/{level}" in metrics:
            continue
        if of_pictures:
            parts = [
                model.image_features(corrupt(chunk.to(data.features.device), kind, level, part)).float()
                for part, chunk in enumerate(images.split(CHUNK))
            ]
            note(kind, level, *random_caption_scores(model, data, batch_size, features=torch.cat(parts)))
        else:
            disturbed = data.pairs.tokeniser.encode(perturb(captions, kind, level, accept))
            note(kind, level, *random_caption_scores(model, data, batch_size, captions=disturbed))
        progress(done + 1, len(work))
    if rewrite is not None:
        rewritten = data.pairs.tokeniser.encode(rewrite(captions))
        note("rewritten", 1, *random_caption_scores(model, data, batch_size, captions=rewritten))
    return metrics
