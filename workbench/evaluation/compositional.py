"""Scores on the compositional benchmarks: does the true caption of a picture score above a false one?

Beside each score stands the same with a grey picture, since a model may win on language alone.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from workbench.data.pictures import BrokenPicture, Fit, decode
from workbench.data.text import Tokeniser
from workbench.evaluation.matching import BLANK, match_scores
from workbench.evaluation.published import Example
from workbench.model.vilta import ViLTA

LEAST = 25  # ARO's attribution counts pairs of attributes with at least so many examples
Scores = dict[str, np.ndarray]  # example id -> log odds of a match for each of its captions


@torch.no_grad()
def score_examples(
    model: ViLTA, tokeniser: Tokeniser, examples: Sequence[Example], side: int, fit: Fit, batch_size: int
) -> tuple[Scores, Scores, dict[str, str]]:
    """Scores of the examples with their pictures and with a grey one, and the reason for each whose picture cannot be read."""
    device = next(model.parameters()).device

    def read(example: Example) -> np.ndarray | str:
        try:
            return decode(example.picture, side, fit, example.box)
        except BrokenPicture as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(read, examples))
    broken = {e.id: made for e, made in zip(examples, pictures, strict=True) if isinstance(made, str)}
    whole = [(e, made) for e, made in zip(examples, pictures, strict=True) if not isinstance(made, str)]
    if not whole:
        return {}, {}, broken
    stacked = torch.from_numpy(np.stack([made for _, made in whole])).to(device)
    grey = torch.full((1, 3, side, side), BLANK, dtype=torch.uint8, device=device)
    features, blank = model.image_features(stacked).float(), model.image_features(grey).float()
    counts = [len(example.captions) for example, _ in whole]
    rows = np.repeat(np.arange(len(whole)), counts)
    token_ids = tokeniser.encode([caption for example, _ in whole for caption in example.captions])
    seen, unseen = (
        np.split(match_scores(model, image, at, token_ids, batch_size), np.cumsum(counts)[:-1])
        for image, at in ((features, rows), (blank, np.zeros_like(rows)))
    )
    ids = [example.id for example, _ in whole]
    return dict(zip(ids, seen, strict=True)), dict(zip(ids, unseen, strict=True)), broken


def suite_metrics(suite: str, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
    """`<kind>` -> the suite's own score of each kind over the examples that have scores; ties count as wrong.

    VALSE: `<kind>` pairwise, `<kind>/p_c`, `<kind>/p_f`, `<kind>/acc` by the threshold. VL-CheckList: `<kind>` pairwise and `<kind>/itm` by
    the threshold. Winoground: `text`, `image`, `group`. ARO: macro means over relations and pairs of attributes.
    """
    kinds: dict[str, list[Example]] = {}
    for example in examples:
        if example.id in scores:
            kinds.setdefault(example.kind, []).append(example)
    metrics: dict[str, float] = {}
    for kind, members in kinds.items():
        if suite == "winoground":
            metrics |= _winoground(members, scores)
            continue
        right = np.array([scores[e.id][0] > scores[e.id][1:].max() for e in members])
        if kind in ("relation", "attribution"):
            metrics[kind] = _macro([e.group for e in members], right, LEAST if kind == "attribution" else 1)
            continue
        metrics[kind] = float(right.mean())
        if suite in ("valse", "vl_checklist"):
            true, false = (np.array([scores[e.id][which] for e in members]) for which in (0, 1))
            found, refused = float(np.mean(true > 0)), float(np.mean(false <= 0))
            if suite == "vl_checklist":
                metrics[f"{kind}/itm"] = (found + refused) / 2
            else:
                metrics |= {f"{kind}/p_c": found, f"{kind}/p_f": refused, f"{kind}/acc": (found + refused) / 2}
    return {name: value for name, value in metrics.items() if not np.isnan(value)}


def _macro(groups: list[str], right: np.ndarray, least: int) -> float:
    """The mean over groups of at least `least` examples of each group's share."""
    by_group: dict[str, list[bool]] = {}
    for group, is_right in zip(groups, right, strict=True):
        by_group.setdefault(group, []).append(bool(is_right))
    shares = [float(np.mean(members)) for members in by_group.values() if len(members) >= least]
    return float(np.mean(shares)) if shares else float("nan")


def _winoground(examples: list[Example], scores: Scores) -> dict[str, float]:
    """Thrush et al. 2022. Each picture's own caption comes first, so scores[0] is s(c_k, i_k)."""
    pairs: dict[str, list[np.ndarray]] = {}
    for example in examples:
        pairs.setdefault(example.group, []).append(scores[example.id])
    whole = [pair for pair in pairs.values() if len(pair) == 2]
    text = np.array([zero[0] > zero[1] and one[0] > one[1] for zero, one in whole])
    image = np.array([zero[0] > one[1] and one[0] > zero[1] for zero, one in whole])
    if not whole:
        return {}
    return {"text": float(text.mean()), "image": float(image.mean()), "group": float((text & image).mean())}
