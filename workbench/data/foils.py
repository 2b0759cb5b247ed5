"""Foils of captions: rules propose false captions, and text-only scores decide which of them are kept."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from workbench.data.balance import Score, likeliest, symmetrical, typical
from workbench.data.nouns import Nouns
from workbench.data.rule_foils import RULES, Captioned, candidates
from workbench.randomness import generator

CHUNK = 500  # captions whose candidates are scored at once
MOST = 6  # at most this many candidates are drawn and scored per caption and kind
Done = Callable[[int], None]  # is called with the number of captions done


def make_foils(
    captions: Sequence[Captioned], nouns: Nouns, score: Score, seed: int, done: Done = lambda _: None
) -> pl.DataFrame:
    """Returns a frame with one row per caption and one nullable column per kind. Of each kind, the candidate that is
    likeliest as a text by `score` is taken. Then foils are dropped until the score separates nothing: see
    `balance.symmetrical`."""
    gaps: dict[str, list[np.ndarray]] = {kind: [] for kind in RULES}
    proposed = [_drawn(captioned, nouns, seed) for captioned in captions]
    for start in range(0, len(captions), CHUNK):
        part = slice(start, start + CHUNK)
        known = _scores([captioned.text for captioned in captions[part]], proposed[part], score)
        for captioned, foils in zip(captions[part], proposed[part], strict=True):
            for kind, texts in foils.items():
                gaps[kind].append(np.array([known[captioned.text] - known[text] for text in texts]))
        done(min(start + CHUNK, len(captions)))
    columns = {kind: _kept(kind, [foils[kind] for foils in proposed], gaps[kind], seed) for kind in RULES}
    return pl.DataFrame(columns, schema=dict.fromkeys(RULES, pl.String))


def _kept(kind: str, texts: Sequence[Sequence[str]], gaps: Sequence[np.ndarray], seed: int) -> list[str | None]:
    """The foil of one kind for each caption, from its candidates and their gaps float [K_i, S]; None where there is
    none."""
    foils: list[str | None] = [None] * len(texts)
    rows = [row for row, candidate_texts in enumerate(texts) if candidate_texts]
    if not rows:
        return foils
    size = typical(np.concatenate([gaps[row] for row in rows]))
    places = [likeliest(gaps[row] / size) for row in rows]
    chosen = np.stack([gaps[row][place] / size for row, place in zip(rows, places, strict=True)])
    kept = symmetrical(chosen, generator("foil balance", seed, kind))
    for row, place, keep in zip(rows, places, kept.tolist(), strict=True):
        foils[row] = texts[row][place] if keep else None
    return foils


def _drawn(captioned: Captioned, nouns: Nouns, seed: int) -> dict[str, list[str]]:
    """At most `MOST` candidates of each kind; the draw depends on the seed, the captions of the image and the kind."""
    drawn = candidates(captioned, nouns)
    for kind, foils in drawn.items():
        if len(foils) > MOST:
            places = generator("foil candidates", seed, kind, captioned.text, *captioned.every).permutation(len(foils))
            drawn[kind] = [foils[place] for place in sorted(places[:MOST])]
    return drawn


def _scores(captions: Sequence[str], proposed: Sequence[dict[str, list[str]]], score: Score) -> dict[str, np.ndarray]:
    """Text -> its scores. Each text is scored once; captions without a candidate are not scored."""
    texts = dict.fromkeys(
        text
        for caption, foils in zip(captions, proposed, strict=True)
        if any(foils.values())
        for text in (caption, *(foil for of_kind in foils.values() for foil in of_kind))
    )
    return dict(zip(texts, score(list(texts)), strict=True)) if texts else {}
