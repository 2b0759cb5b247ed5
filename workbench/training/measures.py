"""What is measured on held-out pairs, during training and at its end."""

from typing import Any

import numpy as np
import torch

from workbench.config.schema import Settings
from workbench.data.corpus import Pairs
from workbench.evaluation.examples import SHOWN, make_examples
from workbench.evaluation.masked_lm import evaluate_masked_lm
from workbench.evaluation.matching import HeldOut, blank_foil_scores, evaluate_matching, hold_out, negatives_truth
from workbench.evaluation.robustness import evaluate_robustness
from workbench.metrics import filed
from workbench.model.vilta import ViLTA
from workbench.objectives.companions import Companions
from workbench.objectives.matching import written_captions
from workbench.objectives.plan import plan_rewriting
from workbench.training.prepare import Prepared, picture_features


def validate(
    model: ViLTA, settings: Settings, prepared: Prepared, companions: Companions, split: str, count: int
) -> dict[str, float]:
    """Matching and masked language modelling on the first `count` pairs of a split, by the names under which they are logged; on the
    test split, which is measured once, also the bins of reliability diagrams, and the foils with a grey picture."""
    model.eval()
    data = held_out(model, prepared, split, count)
    size = settings.evaluation.batch_size
    objectives = settings.objectives
    itm = objectives.itm
    # Detectability compares arms, so its captions are written alike, whatever the arm trains with.
    alike = itm.model_copy(update={"generator": "current", "false_negative_filter": "synonyms"})
    neutral = objectives.model_copy(update={"itm": alike})
    original = torch.from_numpy(data.token_ids).to(prepared.device)
    rewriting = plan_rewriting(data.token_ids, itm.synthesis_mask_ratio, np.arange(len(data)), seed=-1, epoch=0)
    written = written_captions(model, original, rewriting, neutral, companions).cpu().numpy()
    measured = evaluate_matching(model, data, written, size) | evaluate_masked_lm(
        model, data, objectives.mlm.mask_ratio, prepared.corpus.synonyms, size
    )
    if itm.negatives == "synthesized":
        if alike != itm:
            written = written_captions(model, original, rewriting, objectives, companions).cpu().numpy()
        measured |= negatives_truth(data, written)
    if split == "test":
        measured |= {f"blank_foil/{kind}": value for kind, value in blank_foil_scores(model, data, size).items()}
    else:
        measured = {name: value for name, value in measured.items() if not name.startswith("reliability/")}
    return {filed(split, name): value for name, value in measured.items()}


def held_out(model: ViLTA, prepared: Prepared, split: str, count: int) -> HeldOut:
    pairs: Pairs = getattr(prepared.corpus, split)
    if prepared.features:
        features = torch.from_numpy(np.array(prepared.features[split][:count])).to(prepared.device).float()
    else:
        features = picture_features(model, pairs.images[:count], prepared.device)
    return hold_out(pairs, features)


def final_metrics(model: ViLTA, settings: Settings, prepared: Prepared, companions: Companions) -> dict[str, float]:
    """What is measured once, after the last step: the test split, and robustness on its first pairs."""
    evaluation = settings.evaluation
    metrics = validate(model, settings, prepared, companions, "test", evaluation.final_pairs)
    if evaluation.robustness_pairs:
        data = held_out(model, prepared, "test", evaluation.robustness_pairs)
        metrics |= evaluate_robustness(model, data, evaluation.batch_size)
    return metrics


def examples(model: ViLTA, settings: Settings, prepared: Prepared, companions: Companions) -> dict[str, Any]:
    """What the model makes of a few test pairs, for people to look at."""
    model.eval()
    data = held_out(model, prepared, "test", SHOWN)
    return {"split": "test"} | make_examples(model, data, settings, companions)
