"""Training of the packaged encoders by a recipe: a long warm start, measured, and written with its model card."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config.schema import Experiment, Settings
from workbench.config.settings import apply
from workbench.data.corpus import load_corpus
from workbench.errors import UserError
from workbench.evaluation.knowledge import encoder_knowledge, fused_knowledge
from workbench.model.shipped import NAME, OF_ENCODERS, fusion_made_for, loaded, made_for, packed, stored, write
from workbench.outage import never
from workbench.stop import cut
from workbench.training.fused_start import KEPT, fused_start, phase_steps
from workbench.training.loop import Diverged
from workbench.training.prepare import Progress, pick_device, refuse_large_batches, training_hooks
from workbench.training.warm_start import SECONDS, handed_on, new_model, phases, start_homes, warm_start


@dataclass(frozen=True)
class Made:
    """The written encoders: their folder, their card, and a table of what they know."""

    folder: Path
    card: dict[str, Any]
    table: str


def make_encoders(
    experiment: Experiment,
    recipe: Path,
    cache_dir: Path,
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool] = never,
    overrides: Sequence[str] = (),
) -> Made:
    """Trains both encoders by the recipe's `warm_start`, measures what they know, and writes both.

    `overrides`: the command's settings in addition to the recipe. The same settings, machine and thread count yield the
    same bytes. Raises Stopped, after saving the state.
    """
    settings = apply(experiment.settings, {"warm_start.source": "train"})
    if settings.data.source != "scenes":
        raise UserError(f"{recipe}: the packaged encoders are trained on rendered scenes; set `data.source: scenes`.")
    if settings.model.vision.tokens != "grid":
        raise UserError(f"{recipe}: the probes of the encoders need a grid of places; set `model.vision.tokens: grid`.")
    device, steps = pick_device(), settings.warm_start.steps
    progress("data", 0, 1, {})
    with cut(stop):
        corpus = load_corpus(settings.data, cache_dir)
    refuse_large_batches(settings, corpus)
    fresh = new_model(settings, corpus, settings.warm_start.seed)
    packed(
        handed_on(fresh, KEPT if phases(settings) else OF_ENCODERS), corpus.tokeniser
    )  # raises an error before the training, not after it
    try:
        weights = warm_start(settings, corpus, device, cache_dir, training_hooks(progress, "encoders", steps, stop))
        hooks = training_hooks(progress, "fused start", phase_steps(settings), stop)
        weights = fused_start(settings, corpus, device, cache_dir, hooks, weights)
    except Diverged as diverged:
        raise UserError(f"{recipe}: {diverged}; lower the learning rates of `warm_start`.") from diverged
    model = new_model(settings, corpus, settings.warm_start.seed)
    model.load_state_dict(loaded(stored(weights)), strict=False)  # measure exactly the weights in the file
    progress("probes", 0, 1, {})
    with cut(stop):
        known = encoder_knowledge(model.to(device).eval(), corpus)
        if phases(settings):
            known["words"] = fused_knowledge(model, corpus)
    homes = start_homes(settings, corpus.fingerprint, cache_dir)
    hours = round(sum(float((home / SECONDS).read_text()) for home in homes) / 3600, 2)
    card = {
        "name": NAME,
        "recipe": recipe.name,
        "command": shlex.join(
            ["wb", "pretrain", recipe.name, *(part for override in overrides for part in ("--set", override))]
        ),
        "seed": settings.warm_start.seed,
        "steps": steps,
        "hours": hours,
        "pairs": len(corpus.train),
        "data": corpus.fingerprint,
        "made_for": made_for(settings),
        "fusion": fusion_made_for(settings),
        "phases": [phase.model_dump(mode="json") for phase in phases(settings)],
        "knows": known,
    }
    table = knowledge_table(known)
    digest = write(folder, weights, corpus.tokeniser, card, _text(experiment, settings, card, table))
    return Made(folder, card | {"sha256": digest}, table)


def knowledge_table(known: dict[str, Any]) -> str:
    """The knowledge of encoders as a Markdown table."""
    rows = [
        f"| {probe['name']} | {probe['score']:.3f} | {probe['chance']:.3f} | {probe['cases']:,} |"
        for probe in known["probes"]
    ]
    words = [
        f"| masked {word['name']} | {word['score']:.3f} | {word['chance']:.3f} | {word['cases']:,} |"
        for word in known.get("words", [])
    ]
    return "\n".join(["| probe | right | chance | cases |", "|---|---|---|---|", *rows, *words])


def _text(experiment: Experiment, settings: Settings, card: dict[str, Any], table: str) -> str:
    known, model = card["knows"], settings.model
    batch, side = settings.warm_start.batch_size, settings.data.image_size
    hours = "unknown" if card["hours"] is None else card["hours"]
    return f"""# Encoders of `{card["name"]}`

{experiment.question}

Recipe `{card["recipe"]}` (`{card["command"]}`), seed {card["seed"]}:
{card["steps"]:,} steps of {batch} pairs on {card["pairs"]:,} rendered scenes, {hours} hours.
Vision: timm's `{model.vision.name}`, stage {model.vision.stage}, {side} px.
Language: RoBERTa's form, {model.text.layers} layers, {model.width} wide, with the tokeniser of its captions.
Weights are kept as float16. Data {card["data"]}. SHA-256 {{sha256}}.

What the vision encoder knows: linear probes (ridge regression) on the feature of the place where an object's centre
lies, trained on training scenes and measured on validation scenes; `position` separates places with a centre from as
many without. What the fusion knows: masked words of each kind, with synonyms counted as one; their chance is the
gray-image baseline.

{table}

Masked words of validation captions, one in seven masked: perplexity {known["perplexity"]:.2f},
{known["words_right"]:.3f} right. Unfused similarity of an image with its own caption against another's: AUC
{known["alignment_auc"]:.3f}.
"""
