"""Masked language modelling on held-out pairs: the fused model's words, and the language encoder's own."""

import numpy as np
import torch
import torch.nn.functional as F

from workbench.data.masking import hide_tokens
from workbench.data.text import trim
from workbench.evaluation.matching import HeldOut
from workbench.evaluation.scores import calibration_floor, expected_calibration_error, reliability_metrics
from workbench.model.vilta import ViLTA
from workbench.randomness import generator


@torch.no_grad()
def evaluate_masked_lm(
    model: ViLTA, data: HeldOut, mask_ratio: float, synonyms: np.ndarray, batch_size: int
) -> dict[str, float]:
    """Over masked tokens: `mlm_accuracy`, `mlm_loss` (nats), `mlm_ece` with its noise floor `mlm_ece_floor`, and the bins of its
    `reliability`; `synonym_mass`, the probability on the true word or a synonym, over the words that have one;
    `generator_perplexity` of the language encoder without picture."""
    device = data.features.device
    table = torch.from_numpy(synonyms).to(device)
    gathered: dict[str, list[torch.Tensor]] = {name: [] for name in ("loss", "right", "confidence", "mass", "blind")}
    for start in range(0, len(data), batch_size):
        rows = slice(start, start + batch_size)
        token_ids = trim(data.token_ids[rows])
        hidden = hide_tokens(token_ids, mask_ratio, generator("evaluation masks", start))
        ids, positions = hidden.token_ids.to(device), hidden.positions.to(device)
        labels = torch.from_numpy(token_ids).to(device)[positions]
        states = model.encode_text(ids)
        fused, _ = model.fuse(states, model.adapt_image(data.features[rows]), ids)
        log_p = model.mlm_logits(fused[positions]).double().log_softmax(dim=-1)
        confidence, word = log_p.exp().max(dim=-1)
        same = table[labels]
        # A row of the table repeats the token itself as padding; each synonym counts once.
        repeated = same == labels[:, None]
        repeated[:, 0] = False
        mass = (log_p.exp().gather(1, same) * ~repeated).sum(dim=-1)
        gathered["loss"].append(F.nll_loss(log_p, labels, reduction="none"))
        gathered["right"].append((word == labels).double())
        gathered["confidence"].append(confidence)
        gathered["mass"].append(mass[(same != labels[:, None]).any(dim=1)])
        gathered["blind"].append(
            F.cross_entropy(model.predict_words(states[positions]).double(), labels, reduction="none")
        )
    values = {name: torch.cat(parts).cpu().numpy() for name, parts in gathered.items()}
    return {
        "mlm_accuracy": float(values["right"].mean()),
        "mlm_loss": float(values["loss"].mean()),
        "mlm_ece": expected_calibration_error(values["confidence"], values["right"]),
        "mlm_ece_floor": calibration_floor(values["confidence"]),
        **reliability_metrics("mlm", values["confidence"], values["right"]),
        "synonym_mass": float(values["mass"].mean()) if len(values["mass"]) else float("nan"),
        "generator_perplexity": float(np.exp(values["blind"].mean())),
    }
