"""Foils of captions: rules propose false captions, text-only scores decide which of them are kept."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from workbench.data.balance import Score, nearest, symmetrical
from workbench.data.nouns import Nouns
from workbench.data.rule_foils import RULES, Captioned, candidates
from workbench.randomness import generator

CHUNK = 500  # captions whose candidates are scored at once
MOST = 6  # candidates of a caption and kind that are scored, drawn
Done = Callable[[int], None]  # hears of how many captions are done


def make_foils(
    captions: Sequence[Captioned], nouns: Nouns, score: Score, seed: int, done: Done = lambda _: None
) -> pl.DataFrame:
    """A row a caption, a nullable column a kind. Of each kind the candidate is taken that is as likely a text as the caption, by `score`;
    then captions lose theirs until as many are less likely than their foil as are more likely, at every size of the difference."""
    chosen: dict[str, list[str | None]] = {kind: [] for kind in RULES}
    gaps: dict[str, list[float]] = {kind: [] for kind in RULES}
    for start in range(0, len(captions), CHUNK):
        part = captions[start : start + CHUNK]
        made = [_drawn(captioned, nouns, seed) for captioned in part]
        known = _scores([captioned.text for captioned in part], made, score)
        for kind in RULES:
            of_kind = [foils[kind] for foils in made]
            apart = [
                np.array([known[each.text] - known[foil] for foil in foils])
                for each, foils in zip(part, of_kind, strict=True)
            ]
            for place, foils, gap in zip(nearest(apart).tolist(), of_kind, apart, strict=True):
                chosen[kind].append(foils[place] if place >= 0 else None)
                gaps[kind].append(float(gap[place]) if place >= 0 else np.nan)
        done(start + len(part))
    kept = {kind: symmetrical(np.array(apart), generator("foil balance", seed, kind)) for kind, apart in gaps.items()}
    columns = {
        kind: [foil if keep else None for foil, keep in zip(foils, kept[kind].tolist(), strict=True)]
        for kind, foils in chosen.items()
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(RULES, pl.String))


def _drawn(captioned: Captioned, nouns: Nouns, seed: int) -> dict[str, list[str]]:
    """At most `MOST` candidates of each kind; which ones depends on the seed, the captions of the image and the kind."""
    made = candidates(captioned, nouns)
    for kind, foils in made.items():
        if len(foils) > MOST:
            places = generator("foil candidates", seed, kind, captioned.text, *captioned.every).permutation(len(foils))
            made[kind] = [foils[place] for place in sorted(places[:MOST])]
    return made


def _scores(captions: Sequence[str], made: Sequence[dict[str, list[str]]], score: Score) -> dict[str, float]:
    """Each text is scored once; captions without a candidate are not."""
    texts = dict.fromkeys(
        text
        for caption, foils in zip(captions, made, strict=True)
        if any(foils.values())
        for text in (caption, *(f for each in foils.values() for f in each))
    )
    return dict(zip(texts, score(list(texts)).tolist(), strict=True)) if texts else {}
