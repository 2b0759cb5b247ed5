"""How much of what a core can compute a training step makes use of: operations, their rate, and a matrix product's in
the same repeat.

Operations are those of matrix products, convolutions and attention, as `torch.utils.flop_counter` counts them over a
whole step.
"""

from collections.abc import Iterable
from itertools import count
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.figures import CPU, Figure, by_turns, figure
from tests.benchmarks.gpu import METHOD, large_model, step_of
from tests.benchmarks.reference import FORMS
from workbench.data.text import Vocabulary

SIDE = 1024


def measure(
    repeats: int, home: Path, forms: Iterable[str] = ("tiny", "small"), batch: int | None = None
) -> list[Figure]:
    return [made for form in forms for made in of_form(form, batch or FORMS[form].batch, repeats)]


def of_form(name: str, batch: int, repeats: int) -> list[Figure]:
    """The step of a form with written negatives and soft labels, its vision encoder frozen or trained as the preset has
    it."""
    form = FORMS[name]
    # Only time is measured: a small learning rate keeps the model finite.
    changes = form.changes | METHOD | {"optimisation.learning_rate": 1e-5}
    settings, model, teachers = large_model(form.preset, changes, Vocabulary.plain(form.vocabulary))
    step, numbers = step_of(settings, model, teachers, batch), count()
    with FlopCounterMode(display=False) as counter:
        step(next(numbers))
    operations = counter.get_total_flops() / 1e9
    left, right = torch.randn(2, SIDE, SIDE)
    actions = {"step": lambda: step(next(numbers)), "product": lambda: left @ right}
    times = by_turns(actions, repeats, times=5)
    achieved, peak = operations / times["step"], 2e-9 * SIDE**3 / times["product"]
    return [
        figure(f"`{name}`, operations", "GFLOP/pair", [operations / batch], f"{batch} pairs a step"),
        figure(f"`{name}`, achieved", "GFLOP/s", achieved, CPU),
        figure(f"`{name}`, peak", "GFLOP/s", peak, f"float32 product of {SIDE} x {SIDE}; {CPU}"),
        figure(f"`{name}`, share of the peak", "", achieved / peak),
    ]
