"""Foils of captions: rules propose false captions, text-only scores decide which of them are kept."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from workbench.data.balance import Score, likeliest, symmetrical, typical
from workbench.data.nouns import Nouns
from workbench.data.rule_foils import RULES, Captioned, candidates
from workbench.randomness import generator

CHUNK = 500  # captions whose candidates are scored at once
MOST = 6  # candidates of a caption and kind that are scored, drawn
Done = Callable[[int], None]  # hears of how many captions are done


def make_foils(
    captions: Sequence[Captioned], nouns: Nouns, score: Score, seed: int, done: Done = lambda _: None
) -> pl.DataFrame:
    """A row a caption, a nullable column a kind. Of each kind the candidate is taken that is likeliest as a text by
    `score`; then captions lose theirs until the score tells nothing: see `balance.symmetrical`."""
    gaps: dict[str, list[np.ndarray]] = {kind: [] for kind in RULES}
    made = [_drawn(captioned, nouns, seed) for captioned in captions]
    for start in range(0, len(captions), CHUNK):
        part = slice(start, start + CHUNK)
        known = _scores([captioned.text for captioned in captions[part]], made[part], score)
        for captioned, foils in zip(captions[part], made[part], strict=True):
            for kind, texts in foils.items():
                gaps[kind].append(np.array([known[captioned.text] - known[text] for text in texts]))
        done(min(start + CHUNK, len(captions)))
    columns = {kind: _kept(kind, [foils[kind] for foils in made], gaps[kind], seed) for kind in RULES}
    return pl.DataFrame(columns, schema=dict.fromkeys(RULES, pl.String))


def _kept(kind: str, texts: Sequence[Sequence[str]], gaps: Sequence[np.ndarray], seed: int) -> list[str | None]:
    """The foil of one kind of each caption, from its candidates and their gaps float [K_i, S]; None where it has
    none."""
    foils: list[str | None] = [None] * len(texts)
    rows = [row for row, found in enumerate(texts) if found]
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
    """At most `MOST` candidates of each kind; which ones depends on the seed, the captions of the image and the
    kind."""
    made = candidates(captioned, nouns)
    for kind, foils in made.items():
        if len(foils) > MOST:
            places = generator("foil candidates", seed, kind, captioned.text, *captioned.every).permutation(len(foils))
            made[kind] = [foils[place] for place in sorted(places[:MOST])]
    return made


def _scores(captions: Sequence[str], made: Sequence[dict[str, list[str]]], score: Score) -> dict[str, np.ndarray]:
    """Each text is scored once; captions without a candidate are not."""
    texts = dict.fromkeys(
        text
        for caption, foils in zip(captions, made, strict=True)
        if any(foils.values())
        for text in (caption, *(f for each in foils.values() for f in each))
    )
    return dict(zip(texts, score(list(texts)), strict=True)) if texts else {}
