"""Masked language modelling on held-out pairs, by the fused model and by the language encoder alone."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from workbench.data.masking import hide_tokens
from workbench.evaluation.contract import Part, PartResult
from workbench.evaluation.matching import HeldOut
from workbench.evaluation.scores import calibration_floor, expected_calibration_error, reliability_metrics
from workbench.model.fusion import NONE
from workbench.model.vilta import ViLTA
from workbench.randomness import generator

BATCHES = 4  # per part


class MaskedWords:
    """Scores over masked tokens.

    `mlm_accuracy`, `mlm_loss` (nats), `mlm_ece` with its noise floor `mlm_ece_floor`, and the bins of its
    `reliability`. `synonym_mass`: the probability of the true word and its synonyms, over the words that have a
    synonym. `generator_perplexity`: that of the language encoder, which sees no image. `weights` float [N, L]: the
    sampling weights of the tokens to mask.
    """

    def __init__(
        self,
        model: ViLTA,
        data: HeldOut,
        mask_ratio: float,
        synonyms: np.ndarray,
        batch_size: int,
        weights: np.ndarray | None = None,
    ) -> None:
        self.weights = weights
        self.model, self.data, self.mask_ratio, self.batch_size = model, data, mask_ratio, batch_size
        self.table = torch.from_numpy(synonyms).to(data.features.device)

    def parts(self) -> list[Part]:
        step = self.batch_size * BATCHES
        return [
            Part(f"from {start}", partial(self._rows, start, start + step)) for start in range(0, len(self.data), step)
        ]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        names = ("loss", "right", "confidence", "mass", "blind")
        values = {name: np.concatenate([np.array(part[name]) for part in results.values()]) for name in names}
        yield "mlm_accuracy", float(values["right"].mean())
        yield "mlm_loss", float(values["loss"].mean())
        yield "mlm_ece", expected_calibration_error(values["confidence"], values["right"])
        yield "mlm_ece_floor", calibration_floor(values["confidence"])
        yield from reliability_metrics("mlm", values["confidence"], values["right"]).items()
        yield "synonym_mass", float(values["mass"].mean()) if len(values["mass"]) else float("nan")
        yield "generator_perplexity", float(np.exp(values["blind"].mean()))

    def _rows(self, first: int, end: int) -> PartResult:
        starts = range(first, min(end, len(self.data)), self.batch_size)
        batches = [self._batch(start) for start in starts]
        return {name: torch.cat([batch[name] for batch in batches]).tolist() for name in batches[0]}

    @torch.no_grad()
    def _batch(self, start: int) -> dict[str, torch.Tensor]:
        model, data, device = self.model, self.data, self.data.features.device
        rows = slice(start, start + self.batch_size)
        vocabulary = data.pairs.tokeniser.vocabulary
        token_ids = vocabulary.trim(data.token_ids[rows])
        weights = None if self.weights is None else self.weights[rows, : token_ids.shape[1]]
        hidden = hide_tokens(
            token_ids, self.mask_ratio, generator("evaluation masks", start), vocabulary, weights=weights
        )
        ids, places = hidden.token_ids.to(device), hidden.places(device)
        labels = torch.from_numpy(token_ids).to(device)[places]
        states = model.encode_text(ids)
        fused, _ = model.fuse(states, model.adapt_image(data.features[rows]), ids, NONE)
        log_p = model.mlm_logits(fused[places]).double().log_softmax(dim=-1)
        confidence, word = log_p.exp().max(dim=-1)
        same = self.table[labels]
        # A row of the table repeats the token itself as padding; each synonym counts once.
        repeated = same == labels[:, None]
        repeated[:, 0] = False
        mass = (log_p.exp().gather(1, same) * ~repeated).sum(dim=-1)
        return {
            "loss": F.nll_loss(log_p, labels, reduction="none"),
            "right": (word == labels).double(),
            "confidence": confidence,
            "mass": mass[(same != labels[:, None]).any(dim=1)],
            "blind": F.cross_entropy(model.predict_words(states[places]).double(), labels, reduction="none"),
        }
