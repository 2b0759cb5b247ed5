"""The training step against a plain one in METER's way, saving by saving: `python -m tests.benchmarks.reference`.

The plain trainer, `reference_step`, is what one writes down first, after METER (Dou et al. 2022). MLM and ITM are two
passes, each through the vision encoder, which is trained, the text encoder and the fusion. Both sides of a pair have
a padding mask, the MLM head reads every position, and half of the ITM pairs have another image. The optimiser is
`torch.optim.AdamW` as torch has it by default on the device; nothing is compiled. The modules are those of our model,
so that sizes are the same, and so are batch, captions, images, precision and clipping. Where METER does more, the
reference does not: attention is torch's fused kernel, captions are cut to the longest of the batch, and the images
of false pairs come from the batch.

Then one saving after another, and at the end our own step (`step_of` of `tests.benchmarks.gpu`): with METER's
objectives, to which it adds MLM of the text encoder alone, and with written negatives and soft labels. Data are
random words and images; in each step masks and false pairs are drawn. All variants train one model, by turns: each
repeat goes through all of them with a fresh optimiser, and ratios are those within a repeat. On a CPU there is one
thread, and its own seconds are counted, so that other work on the machine disturbs less.
"""

import argparse
import copy
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.figures import CPU, Figure, device, figure, ratio
from tests.benchmarks.gpu import METHOD, PLAIN, large_model, measured, random_batch, step_of, stored_features
from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.data.text import Vocabulary
from workbench.model.fusion import CoAttention
from workbench.model.vilta import ViLTA
from workbench.objectives.teachers import Teachers
from workbench.training.parallelize import speed_up
from workbench.training.prepare import pick_device, precision

Step = Callable[[int], Tensor]
IGNORED = -100  # the label of a position that MLM does not predict, as in torch and transformers


class Form(NamedTuple):
    """A model to compare: a preset, what is changed of it, how many tokens there are, and the usual batch."""

    preset: str
    changes: dict[str, Any]
    vocabulary: int
    batch: int


SMALL = {"model.width": 256, "model.text.layers": 4, "model.fusion.layers": 4}
FORMS = {
    "tiny": Form("tiny", {}, 209, 64),  # as many tokens as in the scenes' captions
    "small": Form("tiny", SMALL, 2000, 32),
    "meter-base": Form("meter-base", {}, 50265, 128),  # as roberta-base
    "clip-roberta": Form("clip-roberta", {}, 50265, 128),
}


@dataclass(frozen=True)
class Savings:
    """What the plain trainer saves; nothing, by default."""

    shared: bool = False  # one forward of vision encoder, text encoder and fusion for both objectives
    masked_only: bool = False  # the MLM head reads the positions that it predicts
    no_masks: bool = False  # no padding mask where nothing is padded
    stored: bool = False  # the vision encoder is frozen, and its features are given
    fused: bool = False  # one kernel for the optimiser's step


@dataclass(frozen=True)
class Drawn:
    """What chance decides in a step: `masked` int64 [B, L], captions with masks; `labels` int64 [B, L], the tokens to
    be predicted, else IGNORED; `image_rows` int64 [B], whose image each caption has in ITM; `is_match` bool [B]."""

    masked: Tensor
    labels: Tensor
    image_rows: Tensor
    is_match: Tensor


def draw(token_ids: Tensor, ratio: float, vocabulary: Vocabulary, device: torch.device) -> Drawn:
    """Drawn on the CPU as METER's collator does, then moved: `ratio` of the ordinary tokens of captions int64 [B, L]
    are predicted, of which 80 % become <mask> and 10 % a random token; half of the captions get another image."""
    rows = len(token_ids)
    chosen = torch.from_numpy(vocabulary.ordinary)[token_ids] & (torch.rand(token_ids.shape) < ratio)
    fate = torch.rand(token_ids.shape)
    masked = torch.where(chosen & (fate < 0.8), vocabulary.mask, token_ids)
    masked = torch.where(chosen & (fate >= 0.9), torch.randint(vocabulary.size, token_ids.shape), masked)
    labels = torch.where(chosen, token_ids, IGNORED)
    is_match = torch.randperm(rows) < rows // 2
    others = (torch.arange(rows) + torch.randint(1, rows, (rows,))) % rows
    image_rows = torch.where(is_match, torch.arange(rows), others)
    return Drawn(*(made.to(device) for made in (masked, labels, image_rows, is_match)))


def read(model: ViLTA, token_ids: Tensor, image: Tensor, no_masks: bool) -> tuple[Tensor, Tensor]:
    """Captions int64 [R, L] with image tokens [R, N, D] -> fused text states [R, L, D], pooled pairs [R, 2 D]."""
    text_mask: Tensor | None = token_ids != model.pad
    image_mask: Tensor | None = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
    kept = (token_ids != model.pad)[..., None]
    if no_masks:
        image_mask = None
        text_mask = None if bool(kept.all()) else text_mask
    states = model.language.base_model(token_ids, attention_mask=text_mask).last_hidden_state
    text = model.text_projection(states) + model.text_type
    if model.image_positions:
        image = image + (model.row_positions + model.column_positions).flatten(0, 1)
    image = image + model.image_type
    assert isinstance(model.fusion, CoAttention)
    for text_layer, image_layer in zip(model.fusion.text_layers, model.fusion.image_layers, strict=True):
        text, image = text_layer(text, image, text_mask, image_mask), image_layer(image, text, image_mask, text_mask)
    of_text = text[:, 0] if model.text_pool == "first" else (text * kept).sum(dim=1) / kept.sum(dim=1)
    of_image = image[:, 0] if model.image_pool == "first" else image.mean(dim=1)
    return text, torch.cat([model.text_pooler(of_text), model.image_pooler(of_image)], dim=-1)


def reference_losses(
    model: ViLTA, images: Tensor, token_ids: Tensor, drawn: Drawn, savings: Savings = Savings()
) -> tuple[Tensor, Tensor]:
    """MLM and ITM loss of images uint8 [B, 3, S, S], or features [B, N, C] if stored, and captions int64 [B, L]."""
    see = (lambda given: given) if savings.stored else model.image_features
    if savings.shared:
        rows = len(token_ids)
        image = model.adapt_image(see(images))
        both = torch.cat([image, image[drawn.image_rows]])
        text, pooled = read(model, torch.cat([drawn.masked, token_ids]), both, savings.no_masks)
        text, pooled = text[:rows], pooled[rows:]
    else:
        text, _ = read(model, drawn.masked, model.adapt_image(see(images)), savings.no_masks)
        _, pooled = read(model, token_ids, model.adapt_image(see(images[drawn.image_rows])), savings.no_masks)
    labels = drawn.labels
    if savings.masked_only:
        predicted = labels != IGNORED
        text, labels = text[predicted], labels[predicted]
    mlm = F.cross_entropy(model.mlm_logits(text).flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
    return mlm, F.cross_entropy(model.itm_logits(pooled), drawn.is_match.long())


def reference_optimiser(model: ViLTA, settings: Settings, fused: bool = False) -> torch.optim.AdamW:
    """AdamW over all that is trained."""
    config = settings.optimisation
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = {"fused": True} if fused else {}  # else torch's default on the device
    return torch.optim.AdamW(
        trained, config.learning_rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=config.weight_decay, **kind
    )


def reference_step(
    settings: Settings,
    model: ViLTA,
    vocabulary: Vocabulary,
    batch: int,
    savings: Savings = Savings(),
    padded: bool = False,
) -> Step:
    """A whole step of the plain trainer, to be called with its number; gives the loss."""
    captions, images = random_batch(settings, vocabulary, batch, padded)
    on_cpu = torch.from_numpy(vocabulary.trim(captions))
    token_ids = on_cpu.to(images.device)
    model.train()
    model.vision.requires_grad_(not savings.stored)
    if savings.stored:
        model.vision.eval()
        images = stored_features(model, images)
    optimiser = reference_optimiser(model, settings, savings.fused)

    def step(_: int) -> Tensor:
        drawn = draw(on_cpu, settings.objectives.mlm.mask_ratio, vocabulary, images.device)
        with precision(images.device, settings.optimisation.precision):
            mlm, itm = reference_losses(model, images, token_ids, drawn, savings)
        loss = mlm + itm
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.optimisation.clip)
        optimiser.step()
        return loss.detach()

    return step


def our_step(
    settings: Settings, model: ViLTA, teachers: Teachers, batch: int, changes: dict[str, Any], padded: bool
) -> Step:
    """A whole step of ours, as the preset trains."""
    model.vision.requires_grad_(not settings.model.vision.frozen)
    return step_of(apply(settings, changes), model, teachers, batch, padded)


def ladder(frozen: bool) -> list[tuple[str, Savings]]:
    """From the plain trainer on, one saving after another; features can only be stored of a frozen vision encoder."""
    made = [("reference: two passes, as METER", Savings())]
    for name, saving in (
        ("+ one forward for both", "shared"),
        ("+ MLM head at masked positions only", "masked_only"),
        ("+ no mask where nothing is padded", "no_masks"),
        ("+ vision encoder frozen, features stored", "stored"),
        ("+ fused optimiser", "fused"),
    ):
        if saving != "stored" or frozen:
            made.append((name, replace(made[-1][1], **{saving: True})))
    return made


@dataclass(frozen=True)
class Row:
    """A variant: median pairs a second; pairs a second over those of the reference, median, least and most of the
    repeats; and over those of the variant before it, median."""

    name: str
    pairs_per_second: float
    ratio: float
    least: float
    most: float
    over_previous: float


def speeds(
    name: str,
    batch: int,
    steps: int,
    repeats: int,
    compiled: bool,
    padded: bool = False,
    changes: dict[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Pairs a second of every variant of a form, in each of `repeats` turns of `steps` steps after two that do not
    count."""
    if compiled:
        torch.compiler.reset()  # else what was compiled for another form stays in memory
    form = FORMS[name]
    # Only time is measured: a small learning rate keeps whatever many turns make of one model finite.
    given = form.changes | METHOD | {"optimisation.learning_rate": 1e-5} | (changes or {})
    vocabulary = Vocabulary.plain(form.vocabulary)
    settings, model, teachers = large_model(form.preset, given, vocabulary)
    makers: dict[str, Callable[[], Step]] = {
        title: partial(reference_step, settings, model, vocabulary, batch, savings, padded)
        for title, savings in ladder(settings.model.vision.frozen)
    }
    models = [model]
    if compiled:
        models.append(copy.deepcopy(model))
        speed_up(models[1], apply(settings, {"optimisation.compile": True}))
    for place, each in enumerate(models):
        for title, objectives in (("METER's objectives", PLAIN), ("written negatives, soft labels", METHOD)):
            title = f"our step, {title}{', compiled' if place else ''}"
            makers[title] = partial(our_step, settings, each, teachers, batch, objectives, padded)
            if place:
                measured(makers[title](), 2, 1)  # compiles
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times: dict[str, list[float]] = {title: [] for title in makers}
    for _ in range(repeats):
        for title, make in makers.items():
            times[title].append(measured(make(), 2, steps, clock))
            print(f"{name}, {title}: {batch / times[title][-1]:.1f} pairs/s", file=sys.stderr, flush=True)
            for each in models:
                each.zero_grad(set_to_none=True)
    return {title: batch / np.array(taken) for title, taken in times.items()}


def rows_of(speeds: dict[str, np.ndarray]) -> list[Row]:
    """A row a variant, from the `speeds` of a form."""
    rates = list(speeds.values())
    rows = []
    for title, speed, before in zip(speeds, rates, [rates[0], *rates], strict=False):
        ratios = speed / rates[0]
        figures = (np.median(speed), np.median(ratios), ratios.min(), ratios.max(), np.median(speed / before))
        rows.append(Row(title, *map(float, figures)))
    return rows


def report(
    name: str, batch: int | None, steps: int, repeats: int, compiled: bool, padded: bool = False
) -> dict[str, Any]:
    """Prints the table of a form, with half the batch where the GPU's memory is too small; and gives what it says."""
    size = batch or FORMS[name].batch
    rows: list[Row] = []
    while not rows:
        try:
            rows = rows_of(speeds(name, size, steps, repeats, compiled, padded))
        except torch.cuda.OutOfMemoryError:
            size //= 2
            print(f"{name}: out of GPU memory; on with a batch of {size}", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(f"{name}, batch {size}, {repeats} x {steps} steps: pairs/s, over the reference (range), over the row before")
    for row in rows:
        over = f"{row.ratio:7.2f} ({row.least:.2f} to {row.most:.2f}) {row.over_previous:7.2f}"
        print(f"  {row.name:44} {row.pairs_per_second:8.1f} {over}", flush=True)
    return {"preset": name, "batch": size, "steps": steps, "repeats": repeats, "rows": [asdict(row) for row in rows]}


def measure(repeats: int, home: Path) -> list[Figure]:
    """The rows of the small forms, for `just bench`."""
    made = []
    for name in ("tiny", "small"):
        first, *others = speeds(name, FORMS[name].batch, 3, repeats, compiled=False).items()
        made.append(figure(f"`{name}`, {first[0]}", "pairs/s", first[1], f"{FORMS[name].batch} pairs a step; {CPU}"))
        made += [ratio(f"`{name}`, {title}", speed, first[1], "over the reference") for title, speed in others]
    return made


def main() -> None:
    on_gpu = pick_device().type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset", nargs="+", choices=list(FORMS), default=list(FORMS)[2:] if on_gpu else ["tiny", "small"]
    )
    parser.add_argument("--batch", type=int, help="by default 64 (tiny), 32 (small), 128")
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=on_gpu)
    parser.add_argument("--padded", action="store_true", help="captions of many lengths, which need masks")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    if not on_gpu:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
    where = device() if on_gpu else f"{device()}, one thread, its own seconds"
    print(f"{where}, torch {torch.__version__}", flush=True)
    made = []
    for name in given.preset:
        made.append(report(name, given.batch, given.steps, given.repeats, given.compile, given.padded))
        if given.json:
            figures = {"device": where, "torch": torch.__version__, "padded": given.padded, "forms": made}
            given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
