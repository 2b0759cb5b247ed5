"""Prepared corpora mixed by weight: held-out splits, one tokeniser for all, and all captions' tokens on the disk."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from workbench.config.schema import Data
from workbench.data import cache
from workbench.data.store import Store, open_store
from workbench.data.text import Tokeniser, save_tokeniser, train_tokeniser
from workbench.errors import UserError
from workbench.randomness import key

VERSION = 2  # increase it whenever a change alters what is cached
CHUNK = 100_000  # captions tokenised at once


@dataclass(frozen=True)
class Chosen:
    """Rows of each store for one split, int64 arrays in the order of the stores."""

    rows: list[np.ndarray]

    def save(self, path: Path) -> None:
        np.savez(path, *self.rows)

    @classmethod
    def load(cls, path: Path) -> "Chosen":
        with np.load(path) as saved:
            return cls([saved[name] for name in saved.files])

    def captions(self, stores: list[Store]) -> pl.Series:
        """The captions of each image, one list per row."""
        return pl.concat([store.pairs["captions"].gather(rows) for store, rows in zip(stores, self.rows, strict=True)])

    def foils(self, stores: list[Store]) -> pl.DataFrame:
        """One nullable column for each kind of foil in any of the stores, one row per image; no columns if there are
        none."""
        parts = [store.foils[rows] for store, rows in zip(stores, self.rows, strict=True)]
        kinds = sorted({kind for part in parts for kind in part.columns})
        missing = [[pl.lit(None, pl.String).alias(kind) for kind in kinds if kind not in part] for part in parts]
        return pl.concat(part.with_columns(none).select(kinds) for part, none in zip(parts, missing, strict=True))


def stores_of(mix: Iterable[str], prepared: Path) -> list[Store]:
    """The stores of a mix: names below `prepared`, or paths of folders."""
    stores = [open_store(Path(name).expanduser() if "/" in name else prepared / name) for name in mix]
    sides = {store.name: store.side for store in stores}
    if len(set(sides.values())) > 1:
        listed = ", ".join(f"{name} has {side} px" for name, side in sides.items())
        raise UserError(f"`data.mix`: all sources must be prepared with the same --side ({listed}).")
    return stores


def choose_splits(stores: list[Store], data: Data) -> dict[str, Chosen]:
    """The rows of train, val and test. Splits are as published. If val or test is missing, the other is halved; if both
    are, a twentieth of the training images is taken for each. The choice is keyed by `data.seed` and the image's
    id."""
    ranks = [
        np.array([key("split", data.seed, id) for id in store.pairs["id"].to_list()], dtype=np.int64)
        for store in stores
    ]
    split = [store.pairs["split"].to_numpy() for store in stores]

    def rows(name: str) -> list[np.ndarray]:
        return [
            places[rank[places].argsort(kind="stable")]
            for which, rank in zip(split, ranks, strict=True)
            for places in [np.flatnonzero(which == name)]
        ]

    train, val, test = rows("train"), rows("val"), rows("test")
    if not _count(val) and not _count(test):
        taken = [min(len(part) // 20, max(1, data.eval_pairs // len(stores))) if len(part) > 2 else 0 for part in train]
        val = [part[:count] for part, count in zip(train, taken, strict=True)]
        test = [part[count : 2 * count] for part, count in zip(train, taken, strict=True)]
        train = [part[2 * count :] for part, count in zip(train, taken, strict=True)]
    elif not _count(test):
        val, test = [part[::2] for part in val], [part[1::2] for part in val]
    elif not _count(val):
        val, test = [part[::2] for part in test], [part[1::2] for part in test]
    chosen = {
        "train": [np.sort(part) for part in _at_most(train, data.train_pairs)],
        "val": _at_most(val, data.eval_pairs),
        "test": _at_most(test, data.eval_pairs),
    }
    for name, parts in chosen.items():
        if _count(parts) < 2:
            raise UserError(f"`data.mix`: {', '.join(store.name for store in stores)} leave too few images for {name}.")
    return {name: Chosen(parts) for name, parts in chosen.items()}


def _count(parts: list[np.ndarray]) -> int:
    return sum(map(len, parts))


def _at_most(parts: list[np.ndarray], limit: int) -> list[np.ndarray]:
    """The first rows of each part, in proportion, at most `limit` in total."""
    share = min(1.0, limit / max(1, _count(parts)))
    return [part[: int(len(part) * share)] for part in parts]


def write_texts(stores: list[Store], chosen: Chosen, tokeniser: Tokeniser, home: Path) -> None:
    """Writes `captions.npy` int32 [M, L], all training captions; `starts.npy` int64 [N + 1], where those of each image
    begin; and `firsts.npy` int32 [N, L], the first caption of each image."""
    captions = chosen.captions(stores)
    starts = np.concatenate([[0], captions.list.len().to_numpy().cumsum()]).astype(np.int64)
    texts = captions.explode()
    table = cache.new_array(home / "captions.npy", (len(texts), tokeniser.max_length), "int32")
    for start in range(0, len(texts), CHUNK):
        part = texts.slice(start, CHUNK).to_list()
        table[start : start + len(part)] = tokeniser.encode(part)
    table.flush()
    np.save(home / "starts.npy", starts)
    np.save(home / "firsts.npy", table[starts[:-1]])


def train_on(stores: list[Store], chosen: Chosen, data: Data, home: Path) -> None:
    """Trains a tokeniser on the training captions and saves it in `home`."""
    texts = chosen.captions(stores).explode()
    save_tokeniser(train_tokeniser(texts.to_list(), data.vocabulary, data.max_length), home / "tokeniser.json")
