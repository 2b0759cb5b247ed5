"""Random views of training images, on the device; keyed by (seed, epoch, pair).

No mirroring and no change of hue, since captions name sides and colours.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.transforms.v2 import functional as TF

from workbench.randomness import RowRandom

AREA, RATIO = (0.5, 1.0), (3 / 4, 4 / 3)  # ALBEF's random crop
STRENGTH = 0.7  # ALBEF's RandomAugment(2, 7), of 10
GREY = [128.0, 128.0, 128.0]


def _turn(
    images: Tensor, angle: float = 0.0, shift: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)
) -> Tensor:
    moved = [round(part * images.shape[-1]) for part in shift]
    return TF.affine(images, angle, moved, 1.0, list(shear), interpolation=TF.InterpolationMode.BILINEAR, fill=GREY)


def _along(make: Callable[[Tensor, float], Tensor], amount: float) -> list[Callable[[Tensor], Tensor]]:
    return [lambda images: make(images, amount), lambda images: make(images, -amount)]


SHEAR = math.degrees(math.atan(0.3 * STRENGTH))
OPERATIONS: Final[list[Callable[[Tensor], Tensor]]] = [
    *[lambda images: images] * 2,
    *_along(lambda images, by: TF.adjust_brightness(images, 1 + by), 0.36),
    *_along(lambda images, by: TF.adjust_contrast(images, 1 + by), 0.36),
    *_along(lambda images, by: TF.adjust_sharpness(images, 1 + by), 0.9 * STRENGTH),
    *_along(lambda images, by: _turn(images, angle=by), 30 * STRENGTH),
    *_along(lambda images, by: _turn(images, shift=(by, 0)), 0.1 * STRENGTH),
    *_along(lambda images, by: _turn(images, shift=(0, by)), 0.1 * STRENGTH),
    *_along(lambda images, by: _turn(images, shear=(by, 0)), SHEAR),
    *_along(lambda images, by: _turn(images, shear=(0, by)), SHEAR),
]


def augment(images: Tensor, kind: str, side: int, rows: np.ndarray, seed: int, epoch: int) -> Tensor:
    """uint8 [B, 3, S, S] of the pairs `rows` -> uint8 [B, 3, side, side]: a random crop, which `rand_augment` alters
    further."""
    if kind == "none":
        return resize(images, side)
    views = _crop(images, side, RowRandom(rows, "crop", seed, epoch).random((len(rows), 4)))
    if kind == "rand_augment":
        for chosen in RowRandom(rows, "augment", seed, epoch).integers(0, len(OPERATIONS), (len(rows), 2)).T:
            for number in np.unique(chosen):
                places = torch.from_numpy(np.flatnonzero(chosen == number)).to(views.device)
                views[places] = OPERATIONS[number](views[places])
    return views


def resize(images: Tensor, side: int) -> Tensor:
    """uint8 [B, 3, S, S] -> uint8 [B, 3, side, side], antialiased."""
    if images.shape[-1] == side:
        return images
    resized: Tensor = TF.resize(images, [side, side], antialias=True)
    return resized


def _crop(images: Tensor, side: int, draws: np.ndarray) -> Tensor:
    stored = images.shape[-1]
    area = AREA[0] + draws[:, 0] * (AREA[1] - AREA[0])
    ratio = np.exp(np.log(RATIO[0]) + draws[:, 1] * (np.log(RATIO[1]) - np.log(RATIO[0])))
    width, height = np.minimum(1.0, np.sqrt(area * ratio)), np.minimum(1.0, np.sqrt(area / ratio))
    left, top = draws[:, 2] * (1 - width), draws[:, 3] * (1 - height)
    corners = np.stack([left, top, left + width, top + height], axis=1) * stored
    boxes = torch.from_numpy(np.column_stack([np.arange(len(corners)), corners])).float().to(images.device)
    # Several samples per pixel act as the low-pass filter that downscaling needs.
    cut = roi_align(images.float(), boxes, side, sampling_ratio=max(1, round(stored / side)), aligned=True)
    return cut.round().clamp(0, 255).to(torch.uint8)
