"""Picture corruptions at five severities, batched on the device. Constants: ImageNet-C (Hendrycks and Dietterich 2019).

Lengths of ImageNet-C assume 224 px and are scaled with the picture's side.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from workbench.randomness import key

SEVERITIES: Final = (1, 2, 3, 4, 5)
REFERENCE_SIDE: Final = 224


def corrupt(images: Tensor, kind: str, severity: int) -> Tensor:
    """uint8 [B, 3, H, W] -> the same, corrupted; keyed by (kind, severity), so every model sees the same pictures."""
    rng = torch.Generator(device=images.device).manual_seed(key("corruption", kind, severity))
    made = CORRUPTIONS[kind](images.float() / 255, severity - 1, rng)
    return (made.clamp(0, 1) * 255).round().to(torch.uint8)


def _gaussian_noise(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    std = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return x + std * torch.randn(x.shape, generator=rng, device=x.device)


def _gaussian_blur(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    sigma = (1.0, 2.0, 3.0, 4.0, 6.0)[level] * x.shape[-1] / REFERENCE_SIDE
    size = 2 * max(1, round(4 * sigma)) + 1
    blurred: Tensor = gaussian_blur(x, [size, size], [sigma, sigma])
    return blurred


def _contrast(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    mean = x.mean(dim=(-2, -1), keepdim=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def _occlusion(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    """A grey square over 5 to 40 % of the picture, at a random place (ours; ImageNet-C has no occlusion)."""
    side = x.shape[-1]
    extent = round((0.05, 0.10, 0.18, 0.28, 0.40)[level] ** 0.5 * side)
    corners = torch.randint(0, side - extent + 1, (len(x), 2, 1), generator=rng, device=x.device)
    line = torch.arange(side, device=x.device)
    inside = (line >= corners) & (line < corners + extent)
    covered = inside[:, 0, None, :, None] & inside[:, 1, None, None, :]
    return torch.where(covered, 0.5, x)


CORRUPTIONS: Final[dict[str, Callable[[Tensor, int, torch.Generator], Tensor]]] = {
    "gaussian_noise": _gaussian_noise,
    "gaussian_blur": _gaussian_blur,
    "contrast": _contrast,
    "occlusion": _occlusion,
}
