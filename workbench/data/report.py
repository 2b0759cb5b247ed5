"""Describes a prepared corpus, for people and for scripts."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from workbench.data.store import Images, Store, open_store
from workbench.randomness import generator

BARS = 24  # characters of the longest bar of a histogram
SHOWN = 10  # at most this many reasons are printed


@dataclass(frozen=True)
class Description:
    facts: dict[str, Any]
    text: str


def describe(store: Store) -> Description:
    """Counts, captions per image, words per caption, and what was left out and why."""
    pairs = store.pairs
    captions = pairs["captions"].list.len()
    fewest, most = int(captions.to_numpy().min()), int(captions.to_numpy().max())
    words = pairs["captions"].explode().str.split(" ").list.len()
    reasons = (
        store.broken.group_by("why")
        .agg(pl.len().alias("count"), pl.col("what").first())
        .sort("count", "why", descending=[True, False])
    )
    facts = {
        "name": store.name,
        "folder": str(store.home),
        "form": store.facts["form"],
        "pictures": len(pairs),
        "captions": len(words),
        "pairs_by_split": dict(pairs.group_by("split").len().sort("split").iter_rows()),
        "captions_per_picture": {"mean": captions.mean(), "least": fewest, "most": most},
        # None if the corpus was prepared before they were counted.
        "repeated_captions": store.facts.get("repeated_captions"),
        "words_per_caption": {"mean": words.mean(), "median": words.median(), "most": words.max()},
        "foils": {kind: store.foils[kind].count() for kind in store.foils.columns},
        "side": store.side,
        "fit": store.facts["fit"],
        "in_place": store.facts["in_place"],
        "store": store.stored,
        "quality": store.facts.get("quality"),
        "bytes": sum(shard["bytes"] for shard in store.facts["shards"]),
        "left_out": len(store.broken),
        "reasons": {row["why"]: row["count"] for row in reasons.iter_rows(named=True)},
    }
    splits = ", ".join(f"{count:,} {split}" for split, count in facts["pairs_by_split"].items())
    lines = [
        f"{store.name}: {facts['pictures']:,} images ({splits}) with {facts['captions']:,} captions, "
        f"form: {facts['form']}",
        f"captions per image: {len(words) / len(pairs):.2f} on average, {fewest} to {most}",
        f"read as: {store.side} x {store.side} px ({facts['fit']}), "
        + (
            f"decoded in place, index in {store.home}"
            if facts["in_place"]
            else f"{store.how}, {facts['bytes'] / 1e9:.2f} GB in {store.home}, "
            f"{facts['bytes'] / sum(shard['rows'] for shard in store.facts['shards']) / 1e3:,.1f} kB per image"
        ),
        "words per caption:",
        *_histogram(words.to_numpy()),
    ]
    if len(pairs) > 1 and pairs["captions"].explode().str.to_lowercase().n_unique() == 1:
        lines.append(
            "all captions are equal: every pair is a true one, so matching can only learn from false negatives"
        )
    if facts["foils"]:
        lines.append("foils: " + ", ".join(f"{count:,} {kind}" for kind, count in facts["foils"].items()))
    if facts["repeated_captions"]:
        lines.append(f"repeated captions of an image, dropped: {facts['repeated_captions']:,}")
    if len(store.broken):
        lines.append(f"left out: {len(store.broken):,}, all of them listed in {store.home / 'broken.parquet'}")
        for row in reasons.head(SHOWN).iter_rows(named=True):
            lines.append(f"  {row['count']:>8,}  {row['why']} (such as {row['what']})")
    return Description(facts, "\n".join(lines))


def _histogram(words: np.ndarray) -> list[str]:
    edges = np.array([1, 4, 7, 10, 13, 16, 21, 31, 51])
    counts = np.bincount(np.searchsorted(edges, words, side="right") - 1, minlength=len(edges))
    names = [f"{low}-{high - 1}" for low, high in pairwise(edges)] + [f"{edges[-1]}+"]
    longest = max(1, counts.max())
    return [
        f"  {name:>6}  {count:>9,}  {'#' * round(BARS * count / longest)}"
        for name, count in zip(names, counts, strict=True)
    ]


def sample(home: Path, count: int) -> tuple[np.ndarray, list[list[str]], str]:
    """Images of a prepared corpus, drawn uniformly and always the same, with their captions and a title."""
    store = open_store(home)
    rows = np.sort(generator("sheet", store.fingerprint).permutation(len(store.pairs))[:count])
    chosen = store.pairs[rows]
    lines = [
        [f"{id} ({split})", *(f"- {caption}" for caption in captions)]
        for id, split, captions in chosen.select("id", "split", "captions").iter_rows()
    ]
    return (
        Images([store], [rows], store.side)[np.arange(len(rows))],
        lines,
        f"{store.name}: {len(store.pairs):,} images",
    )
