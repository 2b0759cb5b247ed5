"""Foils of real captions, made once, as soon as the language encoder that balances them is available."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data import cache
from workbench.data.corpus import Corpus, Pairs
from workbench.data.foils import make_foils
from workbench.data.nouns import learn_nouns
from workbench.data.rule_foils import RULES, Captioned
from workbench.data.text_counts import TextCounts
from workbench.objectives.likelihood import pseudo_log_likelihood
from workbench.randomness import generator, key
from workbench.training.warm_start import new_model

VERSION = 2  # increment whenever a change alters the foils
LEAST = 20  # least number of foils of a kind in each held-out split for a score
MOST = 20_000  # images drawn per split: to get foils, or to learn the nouns from their captions
FILE = "foils.parquet"
Progress = Callable[[str, int, int, dict[str, float]], None]


def made_by_rules(settings: Settings, pairs: Pairs) -> bool:
    """Whether foils are made by rules for these training pairs; rendered scenes and some prepared corpora have their
    own."""
    return settings.data.source != "scenes" and settings.data.foils != "none" and pairs.captions.columns == ["caption"]


@dataclass(frozen=True)
class FoilMaker:
    """Makes foils for the splits of `corpus`, or reads them from the cache.

    `start` is the fingerprint of the `weights` that trials start from. Two scores balance the foils: the likelihood of
    a caption under the language encoder of these weights, and counts of the training captions.
    """

    settings: Settings
    corpus: Corpus
    weights: dict[str, Tensor]
    start: str
    device: torch.device
    cache_dir: Path

    def held_out(self, progress: Progress) -> Corpus:
        """The corpus with foils in val and test, of the kinds of which both have at least `LEAST`."""
        frames = {split: self._foils(split, progress) for split in ("val", "test")}
        kinds = [
            kind for kind in RULES if all(len(frame) - frame[kind].null_count() >= LEAST for frame in frames.values())
        ]
        with_foils = {
            split: getattr(self.corpus, split).with_foils(frame.select(kinds)) for split, frame in frames.items()
        }
        return replace(self.corpus, **with_foils)

    def training(self, progress: Progress) -> Pairs:
        """The training pairs with foils of their first captions, of every kind that occurs."""
        frame = self._foils("train", progress)
        return self.corpus.train.with_foils(
            frame.select(kind for kind in RULES if frame[kind].null_count() < len(frame))
        )

    def _foils(self, split: str, progress: Progress) -> pl.DataFrame:
        """The foils of a split: one row per pair, and one nullable column per kind."""
        data = self.settings.data
        name = key(VERSION, self.corpus.fingerprint, self.start, data.foils, data.seed, split)
        home = cache.entry(
            self.cache_dir / f"foils-{name:016x}",
            lambda target: self._make(split, progress).write_parquet(target / FILE),
        )
        return pl.read_parquet(home / FILE, glob=False)

    def _make(self, split: str, progress: Progress) -> pl.DataFrame:
        pairs: Pairs = getattr(self.corpus, split)
        drawn = self._drawn(split)
        # If the counts included the captions that get foils, they would separate these from all other texts.
        halves = [(drawn[::2], drawn[1::2]), (drawn[1::2], drawn[::2])]
        parts = halves if split == "train" else [(drawn, self._drawn("train"))]
        frames, before = [], 0
        for rows, known in parts:

            def done(count: int, before: int = before) -> None:
                progress(f"foils of {split}", before + count, len(drawn), {})

            frames.append(self._foils_at(pairs, rows, known, done))
            before += len(rows)
        all_rows = pl.DataFrame({"row": np.arange(len(pairs))})
        return all_rows.join(pl.concat(frames), on="row", how="left", maintain_order="left").drop("row")

    def _foils_at(self, pairs: Pairs, rows: np.ndarray, known: np.ndarray, done: Callable[[int], None]) -> pl.DataFrame:
        """The foils of the pairs at `rows`, with a column `row`.

        Nouns and counts are learned from the captions of the training pairs at `known`.
        """
        tagger, seed = self.settings.data.foils, self.settings.data.seed
        assert tagger != "none"
        captions = [
            Captioned(captions_of_pair[0], tuple(captions_of_pair), tagger)
            for captions_of_pair in pairs.every_caption(rows)
        ]
        texts = self.corpus.train.every_caption(known)
        counts = TextCounts([text for captions_of_pair in texts for text in captions_of_pair])

        def score(texts: Sequence[str]) -> np.ndarray:
            return np.column_stack([self._likelihood(texts), counts(texts)])

        return make_foils(captions, learn_nouns(texts), score, seed, done).with_columns(row=rows)

    def _drawn(self, split: str) -> np.ndarray:
        """The drawn rows of a split, int64 [B] in ascending order, at most `MOST`."""
        count = len(getattr(self.corpus, split))
        return np.sort(generator("foils", self.settings.data.seed, split).permutation(count)[:MOST])

    @cached_property
    def _likelihood(self) -> Callable[[Sequence[str]], np.ndarray]:
        model = new_model(self.settings, self.corpus, self.settings.warm_start.seed)
        model.load_state_dict(self.weights, strict=False)
        language, tokeniser = model.language.to(self.device).eval(), self.corpus.tokeniser
        return lambda texts: pseudo_log_likelihood(language, tokeniser.encode(texts), tokeniser.vocabulary)
