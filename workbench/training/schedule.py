"""The learning-rate schedule and optimiser of METER's recipe: AdamW, linear warm-up, linear decay to zero."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def rate(step: int, steps: int, warmup: float) -> float:
    """The factor on the learning rate at `step` (from 0): it rises over the fraction `warmup`, then falls to 0."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising + 1))


def adamw(groups: Iterable[tuple[Iterable[nn.Parameter], float]], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over (parameters, learning rate) groups; biases, norms and other vectors have no weight decay."""
    parameter_groups: list[dict[str, Any]] = []
    for parameters, learning_rate in groups:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for decay, members in (
            (weight_decay, [p for p in trained if p.ndim > 1]),
            (0.0, [p for p in trained if p.ndim <= 1]),
        ):
            parameter_groups.append(
                {"params": members, "lr": learning_rate, "peak": learning_rate, "weight_decay": decay}
            )
    return torch.optim.AdamW(parameter_groups, betas=(0.9, 0.98), eps=1e-8, fused=True)


def every(seconds: float) -> Callable[[], bool]:
    """A function that returns True if `seconds` have passed since the last True, or since this call."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
