"""Scores on the compositional benchmarks: does the true caption of an image score above a false one?

Each score has a gray-image baseline: the score with an image that shows nothing, which is due to language alone.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.data.images import Box, BrokenImage, Fit, decode
from workbench.data.text import Tokeniser
from workbench.evaluation.contract import Part, PartResult
from workbench.evaluation.matching import BLANK, match_scores_of_each
from workbench.evaluation.suites import Example, SuiteItems
from workbench.model.vilta import ViLTA
from workbench.randomness import key

LEAST = 25  # ARO's attribution score counts only pairs of attributes with at least this many examples
CHUNK = 256  # examples per part
Scores = dict[str, np.ndarray]  # example id -> log odds of a match for each of its captions


ImageKey = tuple[Path, Box | None]
# Images -> the features [K, N, C] of those that can be read, in order, and for each of the others the reason.
Look = Callable[[Sequence[ImageKey]], tuple[Tensor, dict[ImageKey, str]]]


@dataclass(frozen=True)
class Reader:
    """A model with its tokeniser, the number of pairs per forward pass, and the function that looks at images."""

    model: ViLTA
    tokeniser: Tokeniser
    batch_size: int
    look: Look


def decoding(model: ViLTA, side: int, fit: Fit) -> Look:
    """A `Look` that decodes image files on each call; `side` in pixels, `fit`: how an image is made square."""

    def read(image: ImageKey) -> np.ndarray | str:
        try:
            return decode(image[0], side, fit, image[1])
        except BrokenImage as error:
            return f"{image[0]}: {error}"

    def look(images: Sequence[ImageKey]) -> tuple[Tensor, dict[ImageKey, str]]:
        with ThreadPoolExecutor(4) as pool:
            decoded = dict(zip(images, pool.map(read, images), strict=True))
        unread = {image: why for image, why in decoded.items() if isinstance(why, str)}
        whole = [decoded[image] for image in images if image not in unread]
        pixels = torch.from_numpy(np.stack(whole)) if whole else torch.zeros(0, 3, side, side, dtype=torch.uint8)
        return model.image_features(pixels.to(next(model.parameters()).device)).float(), unread

    return look


@torch.no_grad()
def score_examples(reader: Reader, examples: Sequence[Example]) -> tuple[Scores, Scores, dict[str, str]]:
    """Scores of the examples, their gray-image baselines, and the reason for each example with an unreadable image."""
    model, side = reader.model, reader.model.image_side
    images = list(dict.fromkeys((e.image, e.box) for e in examples))
    features, broken_ones = reader.look(images)
    unread = {e.id: broken_ones[e.image, e.box] for e in examples if (e.image, e.box) in broken_ones}
    read_examples = [e for e in examples if e.id not in unread]
    if not read_examples:
        return {}, {}, unread
    gray = torch.full((1, 3, side, side), BLANK, dtype=torch.uint8, device=features.device)
    blank = model.image_features(gray).float()
    row_of = {image: row for row, image in enumerate(image for image in images if image not in broken_ones)}
    # Items of one image often share its true caption, which is scored only once.
    pairs = {e.id: [(row_of[e.image, e.box], caption) for caption in e.captions] for e in read_examples}
    place_of = {pair: place for place, pair in enumerate(dict.fromkeys(chain.from_iterable(pairs.values())))}
    rows = np.array([row for row, _ in place_of])
    token_ids = reader.tokeniser.encode([caption for _, caption in place_of])
    images_of_each = [(features, rows), (blank, np.zeros_like(rows))]
    seen, unseen = (
        {id: scores[[place_of[pair] for pair in example_pairs]] for id, example_pairs in pairs.items()}
        for scores in match_scores_of_each(model, images_of_each, token_ids, reader.batch_size)
    )
    return seen, unseen, unread


def told_apart(items: SuiteItems, tokeniser: Tokeniser) -> SuiteItems:
    """The items without those in which a false caption has the same tokens as the true one.

    The captions then differ only in unknown words, or in words beyond the maximum length.
    """
    captions = list(dict.fromkeys(caption for e in items.examples for caption in e.captions))
    ids = {caption: row.tobytes() for caption, row in zip(captions, tokeniser.encode(captions), strict=True)}
    return items.without([e for e in items.examples if ids[e.captions[0]] in (ids[false] for false in e.captions[1:])])


class Suite:
    """A compositional suite, logged as `name`.

    `compositional/<name>/<kind>` are the scores, and `blank_image/<name>/<kind>` their gray-image baselines. Counts:
    `suite_items/<name>/<kind>` of the measured items, `suite_missing/...` of those without a readable image, and
    `suite_identical/...` of those left out because no scorer can distinguish their captions.
    """

    def __init__(self, reader: Reader, name: str, items: SuiteItems) -> None:
        self.reader, self.name, self.items = reader, name, items
        # Examples of one image are adjacent, so that it is read once.
        self.examples = sorted(items.examples, key=lambda e: (str(e.image), e.box or (), e.id))

    def parts(self) -> list[Part]:
        chunks = [self.examples[start : start + CHUNK] for start in range(0, len(self.examples), CHUNK)]
        return [Part(_name(chunk), partial(self._chunk, chunk)) for chunk in chunks]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        measured: set[str] = set()
        for place, of in enumerate(("compositional", "blank_image")):
            scores = {id: np.array(row) for part in results.values() for id, row in part[place].items()}
            measured |= set(scores)
            for kind, value in suite_metrics(self.items.suite, self.items.examples, scores).items():
                yield f"{of}/{self.name}/{kind}", value
        for kind, counts in count_items(self.items, measured).items():
            for what, count in asdict(counts).items():
                yield f"suite_{what}/{self.name}/{kind}", float(count)

    def _chunk(self, chunk: Sequence[Example]) -> PartResult:
        seen, blank, unread = score_examples(self.reader, chunk)
        return [{id: list(row) for id, row in scores.items()} for scores in (seen, blank)] + [unread]


@dataclass(frozen=True)
class Counts:
    """Item counts of a kind: the `items` measured, those `missing` an image, and those with `identical` captions."""

    items: int
    missing: int
    identical: int


def count_items(items: SuiteItems, measured: Collection[str]) -> dict[str, Counts]:
    """Item counts by kind; for Winoground, counts of pairs for each of its three scores."""
    identical = Counter(e.kind for e in items.identical)
    there = Counter(e.kind for e in items.examples)
    whole = Counter(e.kind for e in items.examples if e.id in measured)
    if items.suite == "winoground":
        pairs = Counter(e.group for e in items.examples if e.id in measured)
        complete = sum(count == 2 for count in pairs.values())
        counts = Counts(complete, there["winoground"] // 2 - complete, identical["winoground"] // 2)
        return dict.fromkeys(("text", "image", "group"), counts)
    return {
        kind: Counts(whole[kind], there[kind] - whole[kind], identical[kind])
        for kind in dict.fromkeys([*there, *identical])
    }


def _name(chunk: Sequence[Example]) -> str:
    """A part's name, which depends on every text and image in it."""
    return f"{chunk[0].id} and on, {key('part', *(f'{e.id}{e.image}{e.captions}' for e in chunk)):016x}"


def broken(results: Iterable[PartResult]) -> dict[str, str]:
    """The unreadable images in the results of parts: example id -> why its image could not be read."""
    return {id: why for part in results for id, why in part[2].items()}


def suite_metrics(suite: str, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
    """The suite's official scores by kind, over the examples that have scores; ties count as wrong.

    VALSE: `<kind>` pairwise, and `<kind>/p_c`, `<kind>/p_f`, `<kind>/acc` by threshold. VL-CheckList: `<kind>`
    pairwise, and `<kind>/itm` by threshold. Winoground: `text`, `image`, `group`. ARO: macro averages over relations
    and pairs of attributes.
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
            accepted, rejected = float(np.mean(true > 0)), float(np.mean(false <= 0))
            if suite == "vl_checklist":
                metrics[f"{kind}/itm"] = (accepted + rejected) / 2
            else:
                metrics |= {f"{kind}/p_c": accepted, f"{kind}/p_f": rejected, f"{kind}/acc": (accepted + rejected) / 2}
    return {name: value for name, value in metrics.items() if not np.isnan(value)}


def _macro(groups: list[str], right: np.ndarray, least: int) -> float:
    """The mean of the groups' shares of right answers, over groups of at least `least` examples."""
    by_group: dict[str, list[bool]] = {}
    for group, is_right in zip(groups, right, strict=True):
        by_group.setdefault(group, []).append(bool(is_right))
    shares = [float(np.mean(members)) for members in by_group.values() if len(members) >= least]
    return float(np.mean(shares)) if shares else float("nan")


def _winoground(examples: list[Example], scores: Scores) -> dict[str, float]:
    """Winoground's scores (Thrush et al. 2022). Each image's true caption comes first, so scores[0] is s(c_k, i_k)."""
    pairs: dict[str, list[np.ndarray]] = {}
    for example in examples:
        pairs.setdefault(example.group, []).append(scores[example.id])
    whole = [pair for pair in pairs.values() if len(pair) == 2]
    text = np.array([zero[0] > zero[1] and one[0] > one[1] for zero, one in whole])
    image = np.array([zero[0] > one[1] and one[0] > zero[1] for zero, one in whole])
    if not whole:
        return {}
    return {"text": float(text.mean()), "image": float(image.mean()), "group": float((text & image).mean())}
