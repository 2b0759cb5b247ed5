"""`just bench-gpu`: what one GPU does with the large model, with random weights, words and images. Prints a line a
figure.

The model is that of a preset: `meter-base` (CLIP ViT-B/16 without its last block, RoBERTa-base, 6 + 6 co-attention
layers, 768 wide), or `--preset clip-distil` with half of the layers of text and fusion. `clip-roberta` is `meter-base`
with a frozen image encoder. A step is whole: masks and negatives drawn, forward, backward, gradient clipped, AdamW.
Floating-point operations are those of matrix products and attention, as `torch.utils.flop_counter` counts them over one
step; the peak is that of a matrix product in this run.
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from workbench.config.schema import Settings
from workbench.config.settings import apply, read_preset
from workbench.data.text import END, PAD, SPECIAL, START, Vocabulary
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import BatchKey, draw_batch
from workbench.objectives.step import losses
from workbench.objectives.teachers import Teachers
from workbench.objectives.vocabulary import WordTables
from workbench.training.parallelize import speed_up
from workbench.training.prepare import pick_device, precision
from workbench.training.pretrain import optimiser_for, train_mode

VOCABULARY = Vocabulary.plain(50265)  # as many tokens as roberta-base
LENGTH = 22  # tokens of a caption, as COCO's are in the mean with their marks, and some to spare
OFFLINE = {"data.tokeniser": None, "model.text.weights": None, "model.vision.pretrained": False}
METHOD = {"objectives.mlm.soft_labels": "frozen_lm", "objectives.itm.negatives": "synthesized"}
PLAIN = {"objectives.mlm.soft_labels": "none", "objectives.itm.hard_ratio": 0.0}


def large_model(
    preset: str, changes: dict[str, Any], vocabulary: Vocabulary = VOCABULARY
) -> tuple[Settings, ViLTA, Teachers]:
    """The model of a preset with random weights, on the device, with its frozen teacher where the settings ask for
    one."""
    settings = apply(Settings.model_validate(read_preset(preset)), OFFLINE | changes)
    device = pick_device()
    torch.manual_seed(0)
    model = ViLTA(settings.model, settings.data.image_size, vocabulary, settings.data.max_length).to(device)
    if settings.model.vision.frozen:
        model.vision.requires_grad_(False)
    teacher = None
    if settings.objectives.mlm.soft_labels == "frozen_lm":
        teacher = copy.deepcopy(model.language).eval().requires_grad_(False)
    teachers = Teachers(
        frozen=teacher,
        ema=None,
        queue=None,
        words=WordTables(
            unigram=torch.zeros(vocabulary.size, device=device),
            synonyms=torch.arange(vocabulary.size, device=device)[:, None],
            vocabulary=vocabulary,
            special=torch.tensor(vocabulary.special, device=device),
        ),
    )
    return settings, model, teachers


def random_batch(
    settings: Settings, vocabulary: Vocabulary, batch: int, padded: bool = False
) -> tuple[np.ndarray, Tensor]:
    """Captions int64 [B, L] of random words and random images uint8 [B, 3, S, S], these on the device. All captions
    are of one length, which leaves no padding once they are cut to it; with `padded` they are of half to all of it."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(len(SPECIAL), vocabulary.size, size=(batch, LENGTH))
    token_ids[:, 0], token_ids[:, LENGTH - 2], token_ids[:, LENGTH - 1] = START, END, PAD
    side = settings.data.image_size
    images = torch.from_numpy(rng.integers(0, 256, size=(batch, 3, side, side), dtype=np.uint8)).to(pick_device())
    if padded:
        lengths, place = rng.integers(LENGTH // 2, LENGTH, size=(batch, 1)), np.arange(LENGTH)
        token_ids = np.where(place < lengths, token_ids, PAD)
        token_ids[place == lengths - 1] = END
    return token_ids, images


@torch.no_grad()
def stored_features(model: ViLTA, images: Tensor) -> Tensor:
    """What the vision encoder makes of images uint8 [B, 3, S, S], as a frozen one's are kept: float32 [B, N, C]."""
    with precision(images.device):
        return torch.cat([model.image_features(part).float() for part in images.split(64)])


def step_of(
    settings: Settings, model: ViLTA, teachers: Teachers, batch: int, padded: bool = False
) -> Callable[[int], Tensor]:
    """A whole training step, to be called with its number; gives the loss."""
    device, vocabulary = pick_device(), teachers.words.vocabulary
    token_ids, images = random_batch(settings, vocabulary, batch, padded)
    if settings.model.vision.frozen:
        images = stored_features(model, images)
    optimiser = optimiser_for(model, settings)
    train_mode(model, settings)

    def step(number: int) -> Tensor:
        key = BatchKey(np.arange(batch), 0, step=number)
        part = draw_batch(token_ids, None, settings.objectives, vocabulary, key).part()
        with precision(device, settings.optimisation.precision):
            parts = losses(model, images, part, settings.objectives, teachers, settings.objectives.mlm.alpha)
        optimiser.zero_grad(set_to_none=True)
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.optimisation.clip)
        optimiser.step()
        return parts["loss"].detach()

    return step


def measured(
    step: Callable[[int], Tensor], warm: int, steps: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median seconds of a step, as `clock` tells them."""
    times = []
    for number in range(warm + steps):
        _wait()
        started = clock()
        loss = step(number)
        _wait()
        times.append(clock() - started)
        assert torch.isfinite(loss)
    return float(np.median(times[warm:]))


def matmul_peak(size: int, repeats: int = 20) -> float:
    """Operations a second of a bfloat16 product of two random [size, size] matrices."""
    left, right = (torch.randn(size, size, device=pick_device(), dtype=torch.bfloat16) for _ in range(2))

    def once(_: int) -> Tensor:
        return (left @ right)[0, 0]

    return 2.0 * size**3 / measured(once, 3, repeats)


def report(preset: str, name: str, changes: dict[str, Any], batch: int, peak: float, steps: int) -> None:
    torch.compiler.reset()
    settings, model, teachers = large_model(preset, changes)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    step = step_of(settings, model, teachers, batch)
    with FlopCounterMode(display=False) as counter:
        step(0)
    speed_up(model, settings)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    step(1)
    _wait()
    first = time.perf_counter() - started
    seconds = measured(step, 3, steps)
    operations = counter.get_total_flops()
    print(
        f"{name}, batch {batch}: {batch / seconds:.0f} pairs/s, {1000 * seconds:.0f} ms a step (first {first:.1f} s),"
        f" {operations / batch / 1e9:.0f} GFLOP a pair, {operations / seconds / 1e12:.0f} TFLOP/s ="
        f" {operations / seconds / peak:.0%} of the peak, {trained / 1e6:.0f} M parameters trained, peak memory"
        f" {_memory():.1f} GiB",
        flush=True,
    )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _memory() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=["meter-base", "clip-roberta", "clip-distil"], default="meter-base")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices by which the peak is measured")
    parser.add_argument("--without-compile", action="store_true")
    given = parser.parse_args()
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    peak = matmul_peak(given.matrix)
    print(
        f"{card}, torch {torch.__version__}: {peak / 1e12:.1f} TFLOP/s in a bfloat16 product of {given.matrix}",
        flush=True,
    )
    frozen, trained = ({"model.vision.frozen": value} for value in (True, False))
    variants: list[tuple[str, dict[str, Any]]] = [
        ("random negatives, hard labels, frozen image encoder", PLAIN | frozen),
        ("written negatives, soft labels, frozen image encoder", METHOD | frozen),
        ("written negatives, soft labels, trained image encoder", METHOD | trained),
    ]
    for name, changes in variants:
        report(given.preset, name, changes, given.batch, peak, given.steps)
    if not given.without_compile:
        for name, changes in variants[1:]:
            report(
                given.preset,
                f"{name}, compiled",
                changes | {"optimisation.compile": True},
                given.batch,
                peak,
                given.steps,
            )


if __name__ == "__main__":
    main()
