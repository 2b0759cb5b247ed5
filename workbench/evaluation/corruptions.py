"""Image corruptions at five severities, batched on the device: the 16 of MM_Robustness (Qiu et al. 2022) and two
more.

The constants are those of ImageNet-C (Hendrycks and Dietterich 2019). Its lengths assume 224 px and are scaled with the
image's side. Each function takes images float [B, 3, S, S] in [0, 1], the severity from 0 to 4 and a random generator.

Three algorithms differ from ImageNet-C's code: `glass_blur` displaces all pixels at once instead of swapping them one
by one, `frost` grows its crystals from noise instead of using six photographs, and the motion of `motion_blur` and
`snow` is sampled along a line.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import jpeg

from workbench.randomness import key

VERSION: Final = 1  # increment whenever a change alters the corrupted images
SEVERITIES: Final = (1, 2, 3, 4, 5)
REFERENCE_SIDE: Final = 224
CORE: Final = ("gaussian_noise", "gaussian_blur", "contrast", "occlusion")  # measured at the end of every trial


def corrupt(images: Tensor, kind: str, severity: int, part: int = 0) -> Tensor:
    """Corrupts images uint8 [B, 3, H, W] -> the same shape and type.

    Keyed by (kind, severity, part), so that every model sees the same images; `part` numbers the parts of a set that is
    corrupted in parts.
    """
    # On the host, so that the numbers do not depend on the device.
    rng = torch.Generator().manual_seed(key("corruption", kind, severity, *([part] if part else [])))
    corrupted = CORRUPTIONS[kind](images.float() / 255, severity - 1, rng)
    return (corrupted.clamp(0, 1) * 255).round().to(torch.uint8)


def _scale(x: Tensor) -> float:
    return x.shape[-1] / REFERENCE_SIDE


def _normal(shape: tuple[int, ...], x: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng).to(x.device)


def _uniform(shape: tuple[int, ...], x: Tensor, rng: torch.Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    return (low + (high - low) * torch.rand(shape, generator=rng)).to(x.device)


def _gaussian_noise(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    return x + (0.08, 0.12, 0.18, 0.26, 0.38)[level] * _normal(tuple(x.shape), x, rng)


def _shot_noise(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    photons = (60.0, 25.0, 12.0, 5.0, 3.0)[level]
    return torch.poisson(x.cpu() * photons, generator=rng).to(x.device) / photons


def _impulse_noise(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    chance = _uniform(tuple(x.shape), x, rng)
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    return torch.where(chance < amount / 2, 0.0, torch.where(chance > 1 - amount / 2, 1.0, x))


def _speckle_noise(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    return x + x * (0.15, 0.2, 0.35, 0.45, 0.6)[level] * _normal(tuple(x.shape), x, rng)


def _smooth(x: Tensor, sigma: float, reach: float = 4.0) -> Tensor:
    """Gaussian blur, mirrored at the edges.

    It is applied along one axis after the other, since kernels may be as wide as the image.
    """
    taps = min(max(1, round(reach * sigma)), min(x.shape[-2:]) - 1)
    place = torch.arange(-taps, taps + 1, device=x.device).float()
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(F.pad(x, [taps, taps, 0, 0], mode="reflect"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(across, [0, 0, taps, taps], mode="reflect"), kernel.mT, groups=x.shape[1])


def _gaussian_blur(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    return _smooth(x, (1.0, 2.0, 3.0, 4.0, 6.0)[level] * _scale(x))


def _defocus_blur(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    radius, alias = ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5))[level]
    radius *= _scale(x)
    reach = max(1, math.ceil(radius)) + 1
    place = torch.arange(-reach, reach + 1, device=x.device).float()
    # The disk's edge is soft: each pixel has the fraction that the disk covers.
    distance = (place[:, None] ** 2 + place[None, :] ** 2).sqrt()
    disk = (radius + 0.5 - distance).clamp(0, 1)[None, None]
    disk = _smooth(disk, max(alias, 0.1), reach=2)
    kernel = (disk / disk.sum()).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, [reach] * 4, mode="reflect"), kernel, groups=3)


def _glass_blur(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    sigma, delta, times = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    side = x.shape[-1]
    displaced = _smooth(x, sigma * _scale(x))
    still = F.affine_grid(torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1), list(x.shape), align_corners=False)
    for _ in range(times):
        moves = torch.randint(-delta, delta, (len(x), side, side, 2), generator=rng).to(x.device) * _scale(x)
        displaced = F.grid_sample(displaced, still + moves * 2 / side, align_corners=False, padding_mode="border")
    return _smooth(displaced, sigma * _scale(x))


def _zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of the images, enlarged to their size."""
    centred = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], device=x.device).expand(len(x), -1, -1)
    return F.grid_sample(x, F.affine_grid(centred, list(x.shape), align_corners=False), align_corners=False)


def _zoom_blur(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = [1 + step * k for k in range(math.ceil((most - 1) / step - 1e-9))]
    total = x.clone()
    for factor in factors:
        total += _zoom(x, factor)
    return total / (len(factors) + 1)


def _streak(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """Motion along a line: a weighted average of each pixel and those behind it. `angle` [B] in degrees."""
    side, taps = x.shape[-1], max(2, math.ceil(2 * radius) + 1)
    weights = torch.exp(-0.5 * (torch.arange(taps, device=x.device) / sigma) ** 2)
    weights = weights / weights.sum()
    turn = torch.deg2rad(angle)
    streaked = torch.zeros_like(x)
    for step, weight in enumerate(weights):
        shift = torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)
        shift[:, 0, 2], shift[:, 1, 2] = 2 * step / side * torch.cos(turn), 2 * step / side * torch.sin(turn)
        grid = F.affine_grid(shift, list(x.shape), align_corners=False)
        streaked += weight * F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    return streaked


def _motion_blur(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _streak(x, radius * _scale(x), sigma * _scale(x), _uniform((len(x),), x, rng, -45, 45))


def _plasma(x: Tensor, decay: float, rng: torch.Generator) -> Tensor:
    """Fractal noise [B, S, S] in [0, 1] by the diamond-square algorithm of ImageNet-C's fog."""
    size = 2 ** math.ceil(math.log2(x.shape[-1]))
    noise = torch.zeros(len(x), size, size, device=x.device)
    step, wibble = size, 100.0

    def wobbly(total: Tensor) -> Tensor:
        return total / 4 + wibble * _uniform(tuple(total.shape), x, rng, -1, 1)

    while step >= 2:
        half = step // 2
        corners = noise[:, ::step, ::step]
        below = corners + corners.roll(-1, 1)
        noise[:, half::step, half::step] = wobbly(below + below.roll(-1, 2))
        centres, corners = noise[:, half::step, half::step], noise[:, ::step, ::step]
        beside = centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)
        noise[:, ::step, half::step] = wobbly(beside)
        above = centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)
        noise[:, half::step, ::step] = wobbly(above)
        step, wibble = half, wibble / decay
    noise = noise - noise.amin(dim=(1, 2), keepdim=True)
    noise = noise / noise.amax(dim=(1, 2), keepdim=True)
    return noise[:, : x.shape[-1], : x.shape[-1]]


def _fog(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    brightest = x.amax(dim=(1, 2, 3), keepdim=True)
    return (x + amount * _plasma(x, decay, rng)[:, None]) * brightest / (brightest + amount)


def _frost(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    """Bluish crystals: the ridges of fractal noise."""
    kept, added = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    ridges = 1 - (2 * _plasma(x, 1.6, rng) - 1).abs()
    grains = _plasma(x, 1.2, rng)
    crystals = (0.8 * ridges**4 + 0.4 * grains**2).clamp(0, 1)[:, None]
    tint = torch.tensor([0.82, 0.92, 1.0], device=x.device)[None, :, None, None]
    return kept * x + added * crystals * tint


def _snow(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    mean, std, zoom, floor, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = mean + std * _normal((len(x), 1, *x.shape[-2:]), x, rng)
    flakes = _zoom(flakes, 1 + (zoom - 1) * _scale(x))
    flakes = torch.where(flakes < floor, 0.0, flakes.clamp(0, 1))
    flakes = _streak(flakes, radius * _scale(x), sigma * _scale(x), _uniform((len(x),), x, rng, -135, -45))
    gray = (x * torch.tensor([0.299, 0.587, 0.114], device=x.device)[None, :, None, None]).sum(dim=1, keepdim=True)
    whitened = kept * x + (1 - kept) * torch.maximum(x, gray * 1.5 + 0.5)
    return whitened + flakes + flakes.flip(-1, -2)


def _contrast(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    mean = x.mean(dim=(-2, -1), keepdim=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def _brightness(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    """Raises the value of HSV; hue and saturation stay the same."""
    value = x.amax(dim=1, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-6), raised)


def _pixelate(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    """Box filters down and up, as in PIL: a large pixel is the mean of those whose centres it covers."""
    side, small_side = x.shape[-1], max(1, int(x.shape[-1] * (0.6, 0.5, 0.4, 0.3, 0.25)[level]))
    edges = torch.arange(small_side + 1, device=x.device) * side / small_side
    middle = torch.arange(side, device=x.device) + 0.5
    covered = ((middle > edges[:-1, None]) & (middle <= edges[1:, None])).float()
    shrink = covered / covered.sum(dim=1, keepdim=True)
    return F.interpolate(shrink @ x @ shrink.mT, size=x.shape[-2:], mode="nearest-exact")


def _elastic_transform(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    alpha, sigma, affine = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[
        level
    ]
    side = x.shape[-1]
    # Three points are moved by at most `affine` of the side, which defines the affine part.
    points = torch.tensor([[2 / 3, 2 / 3], [-2 / 3, 2 / 3], [-2 / 3, -2 / 3]])
    moved = points + 2 * affine * (2 * torch.rand(len(x), 3, 2, generator=rng) - 1)
    known = torch.cat([points, torch.ones(3, 1)], dim=1).expand(len(x), 3, 3)
    grid = F.affine_grid(torch.linalg.solve(known, moved).mT.to(x.device), list(x.shape), align_corners=False)
    waves = _smooth(_uniform((len(x), 2, side, side), x, rng, -1, 1), max(0.3, sigma * side), reach=3)
    grid = grid + 2 * alpha * waves.permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, align_corners=False, padding_mode="reflection")


def _jpeg_compression(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    images = (x.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    compressed: Tensor = jpeg(images, (25, 18, 15, 10, 7)[level])
    return compressed.to(x.device).float() / 255


def _occlusion(x: Tensor, level: int, rng: torch.Generator) -> Tensor:
    """A gray square over 5 to 40 % of the image, at a random position (ours; ImageNet-C has no occlusion)."""
    side = x.shape[-1]
    extent = round((0.05, 0.10, 0.18, 0.28, 0.40)[level] ** 0.5 * side)
    corners = torch.randint(0, side - extent + 1, (len(x), 2, 1), generator=rng).to(x.device)
    line = torch.arange(side, device=x.device)
    inside = (line >= corners) & (line < corners + extent)
    covered = inside[:, 0, None, :, None] & inside[:, 1, None, None, :]
    return torch.where(covered, 0.5, x)


CORRUPTIONS: Final[dict[str, Callable[[Tensor, int, torch.Generator], Tensor]]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "zoom_blur": _zoom_blur,
    "motion_blur": _motion_blur,
    "fog": _fog,
    "frost": _frost,
    "snow": _snow,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
    "elastic_transform": _elastic_transform,
    "jpeg_compression": _jpeg_compression,
    "gaussian_blur": _gaussian_blur,
    "occlusion": _occlusion,
}
