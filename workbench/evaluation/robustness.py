"""Robustness: matching on corrupted images and perturbed captions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from scipy.special import expit

from workbench.evaluation import corruptions, perturbations
from workbench.evaluation.contract import Part, PartResult
from workbench.evaluation.corruptions import SEVERITIES, corrupt
from workbench.evaluation.matching import (
    HeldOut,
    Texts,
    own_and_other,
    random_caption_scores,
    read_captions,
    scores_of_each,
)
from workbench.evaluation.perturbations import LEVELS, perturb
from workbench.evaluation.scores import auc, expected_calibration_error
from workbench.evaluation.sentences import Accept
from workbench.model.vilta import ViLTA

Keep = Callable[[str, Callable[[], torch.Tensor]], torch.Tensor]  # (name, make) -> the stored tensor, or a new one

CHUNK = 256  # images corrupted at once
CLEAN, REWRITTEN = ("clean", 0), ("rewritten", 1)


@dataclass(frozen=True)
class Disturbances:
    """The disturbances to measure. `accept` filters perturbed captions; `rewrite` rewrites whole captions."""

    image_kinds: Sequence[str] = tuple(corruptions.CORE)
    caption_kinds: Sequence[str] = tuple(perturbations.CORE)
    levels: Sequence[int] = tuple(LEVELS)
    accept: Accept | None = None
    rewrite: Callable[[Sequence[str]], list[str]] | None = None


ALL = Disturbances(tuple(corruptions.CORRUPTIONS), tuple(perturbations.PERTURBATIONS), tuple(perturbations.ALL_LEVELS))


class Robustness:
    """`robustness/<kind>/<severity>`: ITM AUC against random captions; `robustness/clean/0` is without a disturbance.

    `whole` adds two metrics of the same scores: `calibration/<kind>/<severity>`, the matching head's expected
    calibration error, and for perturbations `consistency/<kind>/<level>`, the share of true pairs whose prediction is
    unchanged. `keep` may cache the features of corrupted images for models with the same vision encoder, and
    `keep_captions` the tokens of perturbed captions for models with the same tokeniser.
    """

    def __init__(
        self,
        model: ViLTA,
        data: HeldOut,
        batch_size: int,
        by: Disturbances = Disturbances(),
        whole: bool = False,
        keep: Keep = lambda _, make: make(),
        keep_captions: Keep = lambda _, make: make(),
    ) -> None:
        self.model, self.data, self.batch_size, self.by, self.whole = model, data, batch_size, by, whole
        self.keep, self.keep_captions = keep, keep_captions
        self.images = torch.from_numpy(np.array(data.pairs.images[: len(data)]))
        self.captions = data.pairs.captions["caption"].to_list()[: len(data)]

    def parts(self) -> list[Part]:
        by = self.by
        measures = {CLEAN: self._clean}
        measures |= {(kind, at): partial(self._images, kind, at) for kind in by.image_kinds for at in SEVERITIES}
        measures |= {(kind, at): partial(self._captions, kind, at) for kind in by.caption_kinds for at in by.levels}
        if by.rewrite is not None:
            measures[REWRITTEN] = self._rewritten
        return [Part(f"{kind}/{level}", measure) for (kind, level), measure in measures.items()]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        clean = np.array(results["clean/0"][0])
        for name, scores in results.items():
            matched, mismatched = (np.array(values) for values in scores)
            yield f"robustness/{name}", auc(matched, mismatched)
            if self.whole:
                confidence = expit(np.abs(np.concatenate([matched, mismatched])))
                correct = np.concatenate([matched > 0, mismatched <= 0])
                yield f"calibration/{name}", expected_calibration_error(confidence, correct)
                if name.partition("/")[0] in self.by.caption_kinds:
                    yield f"consistency/{name}", float(np.mean((matched > 0) == (clean > 0)))

    def _clean(self) -> PartResult:
        return self._with(self.data.features)

    def _images(self, kind: str, severity: int) -> PartResult:
        return self._with(self.keep(f"{kind}-{severity}", partial(self._corrupted_features, kind, severity)))

    @torch.no_grad()
    def _corrupted_features(self, kind: str, severity: int) -> torch.Tensor:
        device = self.data.features.device
        parts = [
            self.model.image_features(corrupt(chunk.to(device), kind, severity, part)).float()
            for part, chunk in enumerate(self.images.split(CHUNK))
        ]
        return torch.cat(parts)

    def _captions(self, kind: str, level: int) -> PartResult:
        return self._with_captions(self.keep_captions(f"{kind}-{level}", partial(self._perturbed, kind, level)).numpy())

    def _perturbed(self, kind: str, level: int) -> torch.Tensor:
        return torch.from_numpy(self._encoded(perturb(self.captions, kind, level, self.by.accept)))

    def _rewritten(self) -> PartResult:
        assert self.by.rewrite is not None
        return self._with_captions(self._encoded(self.by.rewrite(self.captions)))

    def _encoded(self, captions: Sequence[str]) -> np.ndarray:
        return self.data.pairs.tokeniser.encode(captions)

    @cached_property
    def _texts(self) -> list[Texts]:
        """The undisturbed captions, encoded once for all images."""
        _, captions = own_and_other(self.data, self.data.token_ids)
        return list(read_captions(self.model, captions, self.batch_size))

    def _with(self, features: torch.Tensor) -> PartResult:
        rows, _ = own_and_other(self.data, self.data.token_ids)
        (scores,) = scores_of_each(self.model, [(features, rows)], self._texts)
        return [scores[: len(self.data)].tolist(), scores[len(self.data) :].tolist()]

    def _with_captions(self, captions: np.ndarray) -> PartResult:
        scored = random_caption_scores(self.model, self.data, self.batch_size, captions=captions)
        return [scores.tolist() for scores in scored]
