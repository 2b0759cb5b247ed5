"""Matching and masked words on captions with web-like noise: some words are missing, some are wrong."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from workbench.data.noise import CaptionNoise
from workbench.evaluation.contract import Part, PartResult
from workbench.evaluation.masked_lm import MaskedWords
from workbench.evaluation.matching import HeldOut, random_caption_scores
from workbench.evaluation.scores import auc
from workbench.model.vilta import ViLTA

RATE: Final = 0.2  # fraction of disturbed words; the same for every trial, so that trials are comparable
OF_WORDS: Final = ("mlm_accuracy", "mlm_loss", "synonym_mass")


class NoisyCaptions:
    """Scores on noisy captions.

    `noisy/itm_auc` and `noisy/itm_accuracy` compare with other images' captions, which are equally noisy.
    `noisy/mlm_accuracy`, `noisy/mlm_loss` and `noisy/synonym_mass` are over masked words that are the caption's own;
    wrong words are never masked.

    The perturbations of `robustness/` drop words as well, but replace none with wrong ones and mask none.
    """

    def __init__(
        self,
        model: ViLTA,
        data: HeldOut,
        noise: CaptionNoise,
        mask_ratio: float,
        synonyms: np.ndarray,
        batch_size: int,
    ) -> None:
        noisy, wrong = noise.disturb(data.token_ids, np.arange(len(data)))
        self.model, self.data, self.batch_size = model, replace(data, token_ids=noisy), batch_size
        self.words = MaskedWords(model, self.data, mask_ratio, synonyms, batch_size, weights=(~wrong).astype(float))

    def parts(self) -> list[Part]:
        return [Part("matching", self._matching), *self.words.parts()]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        matched, mismatched = (np.array(scores) for scores in results["matching"])
        yield "noisy/itm_auc", auc(matched, mismatched)
        yield "noisy/itm_accuracy", float(np.concatenate([matched > 0, mismatched <= 0]).mean())
        of_words = {name: part for name, part in results.items() if name != "matching"}
        for name, value in self.words.metrics(of_words):
            if name in OF_WORDS:
                yield f"noisy/{name}", value

    def _matching(self) -> PartResult:
        return [scores.tolist() for scores in random_caption_scores(self.model, self.data, self.batch_size)]
