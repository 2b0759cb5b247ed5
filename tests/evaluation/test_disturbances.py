"""Corruptions against independent versions of ImageNet-C's on the CPU (NumPy, SciPy, PIL), and perturbations of
captions."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from workbench.data.lexicon import synonym_sets
from workbench.data.scenes import render, sample_scene
from workbench.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from workbench.evaluation.perturbations import ALL_LEVELS, PERTURBATIONS, perturb

SIDE = 224
IMAGES = torch.from_numpy(np.stack([render(sample_scene(0, "val", index), SIDE) for index in range(6)]))
COLOURS = ["red", "blue", "green", "yellow", "purple"]
CAPTIONS = [
    f"a small {one} anchor left of a large {two} {thing}"
    for one in COLOURS
    for two in COLOURS
    for thing in ("plane", "kitten", "crown")
][:60]
Pixels = np.ndarray  # float [H, W, 3] in [0, 1]
RNG = np.random.default_rng(0)


def convolved(x: Pixels, kernel: np.ndarray) -> Pixels:
    return np.stack([ndimage.convolve(x[..., c], kernel, mode="mirror") for c in range(3)], axis=-1)


def smooth(x: Pixels, sigma: float) -> Pixels:
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="mirror")


def defocus(x: Pixels, s: int) -> Pixels:
    radius, alias = [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)][s]
    line = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = ((line[:, None] ** 2 + line[None, :] ** 2) <= radius**2).astype(float)
    return convolved(x, ndimage.gaussian_filter(disk / disk.sum(), alias))


def glass(x: Pixels, s: int) -> Pixels:
    sigma, delta, times = [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)][s]
    x = smooth(x, sigma).copy()
    for _ in range(times):
        for h in range(SIDE - delta, delta, -1):
            for w in range(SIDE - delta, delta, -1):
                dx, dy = RNG.integers(-delta, delta, size=2)
                x[h - 1, w - 1], x[h + dy - 1, w + dx - 1] = x[h + dy - 1, w + dx - 1].copy(), x[h - 1, w - 1].copy()
    return smooth(x, sigma)


def zoomed(x: Pixels, factor: float) -> Pixels:
    inner = math.ceil(SIDE / factor)
    top = (SIDE - inner) // 2
    enlarged = ndimage.zoom(x[top : top + inner, top : top + inner], (factor, factor, 1), order=1)
    trim = (enlarged.shape[0] - SIDE) // 2
    return enlarged[trim : trim + SIDE, trim : trim + SIDE]


def zoom(x: Pixels, s: int) -> Pixels:
    most, step = [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)][s]
    factors = np.arange(1, most, step)
    return (x + sum(zoomed(x, f) for f in factors)) / (len(factors) + 1)


def motion(x: Pixels, s: int) -> Pixels:
    radius, sigma = [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)][s]
    angle = np.deg2rad(RNG.uniform(-45, 45))
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    shifted = [
        ndimage.shift(x, (-k * np.sin(angle), -k * np.cos(angle), 0), order=1, mode="nearest")
        for k in range(2 * radius + 1)
    ]
    return np.tensordot(weights / weights.sum(), np.stack(shifted), axes=1)


def plasma(decay: float, size: int = 256) -> np.ndarray:
    heights = np.zeros((size, size))
    step, wibble = size, 100.0

    def wobble(a: np.ndarray) -> np.ndarray:
        return a / 4 + wibble * RNG.uniform(-1, 1, a.shape)

    while step >= 2:
        h = step // 2
        c = heights[::step, ::step]
        total = c + np.roll(c, -1, 0)
        heights[h::step, h::step] = wobble(total + np.roll(total, -1, 1))
        d, u = heights[h::step, h::step], heights[::step, ::step]
        heights[::step, h::step] = wobble(d + np.roll(d, 1, 0) + u + np.roll(u, -1, 1))
        heights[h::step, ::step] = wobble(d + np.roll(d, 1, 1) + u + np.roll(u, -1, 0))
        step, wibble = h, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


def fog(x: Pixels, s: int) -> Pixels:
    amount, decay = [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)][s]
    return (x + amount * plasma(decay)[:SIDE, :SIDE, None]) * x.max() / (x.max() + amount)


def brightness(x: Pixels, s: int) -> Pixels:
    hsv = rgb_to_hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + [0.1, 0.2, 0.3, 0.4, 0.5][s], 0, 1)
    return hsv_to_rgb(hsv)


def contrast(x: Pixels, s: int) -> Pixels:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * [0.4, 0.3, 0.2, 0.1, 0.05][s] + mean


def pil(x: Pixels) -> Image.Image:
    return Image.fromarray((x * 255).round().astype(np.uint8))


def pixelate(x: Pixels, s: int) -> Pixels:
    small = int(SIDE * [0.6, 0.5, 0.4, 0.3, 0.25][s])
    coarse = pil(x).resize((small, small), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(coarse) / 255


def jpeg(x: Pixels, s: int) -> Pixels:
    out = io.BytesIO()
    pil(x).save(out, "JPEG", quality=[25, 18, 15, 10, 7][s])
    return np.asarray(Image.open(out)) / 255


def elastic(x: Pixels, s: int) -> Pixels:
    alpha, sigma, affine = (
        np.array([(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)][s]) * SIDE
    )
    centre, third = np.array([SIDE, SIDE]) // 2, SIDE // 3
    points = np.array([centre + third, [centre[0] + third, centre[1] - third], centre - third], dtype=float)
    moved = points + RNG.uniform(-affine, affine, points.shape)
    matrix = np.linalg.solve(np.c_[points, np.ones(3)], moved).T
    flows = [
        ndimage.gaussian_filter(RNG.uniform(-1, 1, (SIDE, SIDE)), sigma, mode="reflect", truncate=3) * alpha
        for _ in range(2)
    ]
    rows, columns = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    at = matrix @ np.stack([columns.ravel(), rows.ravel(), np.ones(SIDE * SIDE)])
    places = [at[1].reshape(SIDE, SIDE) + flows[1], at[0].reshape(SIDE, SIDE) + flows[0]]
    return np.stack([ndimage.map_coordinates(x[..., c], places, order=1, mode="mirror") for c in range(3)], axis=-1)


def snow(x: Pixels, s: int) -> Pixels:
    mean, std, factor, floor, radius, sigma, kept = [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ][s]
    layer = zoomed(RNG.normal(mean, std, (SIDE, SIDE, 1)), factor)
    layer[layer < floor] = 0
    angle = np.deg2rad(RNG.uniform(-135, -45))
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    layer = np.clip(layer, 0, 1)
    streaks = [
        ndimage.shift(layer, (-k * np.sin(angle), -k * np.cos(angle), 0), order=1, mode="nearest")
        for k in range(2 * radius + 1)
    ]
    layer = np.tensordot(weights / weights.sum(), np.stack(streaks), axes=1)
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    return kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5) + layer + np.rot90(layer, 2)


REFERENCES: dict[str, Callable[[Pixels, int], Pixels]] = {
    "gaussian_noise": lambda x, s: x + RNG.normal(0, [0.08, 0.12, 0.18, 0.26, 0.38][s], x.shape),
    "shot_noise": lambda x, s: RNG.poisson(x * [60, 25, 12, 5, 3][s]) / [60, 25, 12, 5, 3][s],
    "impulse_noise": lambda x, s: np.where(
        RNG.random(x.shape) < [0.03, 0.06, 0.09, 0.17, 0.27][s], RNG.integers(0, 2, x.shape), x
    ),
    "speckle_noise": lambda x, s: x + x * RNG.normal(0, [0.15, 0.2, 0.35, 0.45, 0.6][s], x.shape),
    "gaussian_blur": lambda x, s: smooth(x, [1, 2, 3, 4, 6][s]),
    "defocus_blur": defocus,
    "glass_blur": glass,
    "zoom_blur": zoom,
    "motion_blur": motion,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "pixelate": pixelate,
    "jpeg_compression": jpeg,
    "elastic_transform": elastic,
    "snow": snow,
}
# How far the mean absolute change may lie from the reference's: exact ones, and those that draw or differ in kind.
LOOSE = {
    "glass_blur": 0.35,
    "fog": 0.25,
    "snow": 0.25,
    "elastic_transform": 0.4,
    "motion_blur": 0.25,
    "defocus_blur": 0.15,
}


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("kind", REFERENCES)
def test_the_change_is_that_of_an_independent_version(kind: str, severity: int) -> None:
    count = 1 if kind == "glass_blur" else len(IMAGES)
    before = IMAGES[:count].double().permute(0, 2, 3, 1).numpy() / 255
    expected = np.stack([np.clip(REFERENCES[kind](x, severity - 1), 0, 1) for x in before])
    corrupted = corrupt(IMAGES[:count], kind, severity).double().permute(0, 2, 3, 1).numpy() / 255
    change = [np.abs(x - before).mean() for x in (corrupted, expected)]
    assert change[0] == pytest.approx(change[1], rel=LOOSE.get(kind, 0.08)), change
    shift = [(x - before).mean() for x in (corrupted, expected)]
    assert shift[0] == pytest.approx(shift[1], abs=0.25 * change[1] if kind in LOOSE else 0.01)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("side", [64, 224])
def test_damage_grows_and_is_keyed(kind: str, side: int) -> None:
    images = (
        IMAGES
        if side == SIDE
        else torch.from_numpy(np.stack([render(sample_scene(0, "val", i), 64) for i in range(24)]))
    )
    damage = [(corrupt(images, kind, s).float() - images.float()).square().mean().item() for s in SEVERITIES]
    assert damage[0] > 0
    # ImageNet-C's elastic transform moves whole regions at 1 and 2 and only ripples them from 3 on.
    compared = damage[2:] if kind == "elastic_transform" else damage
    assert compared[-1] > 1.05 * compared[0]
    if kind not in ("fog", "frost", "pixelate", "glass_blur", "elastic_transform", "snow"):
        assert damage == sorted(damage)
    assert torch.equal(corrupt(images, kind, 3), corrupt(images, kind, 3))
    assert corrupt(images, kind, 3).dtype == torch.uint8


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_more_words_change_with_the_level_and_the_change_is_keyed(kind: str) -> None:
    captions = [f"there is {caption}" for caption in CAPTIONS] if kind in ("formal", "casual") else CAPTIONS
    captions = [caption.replace("there is", "there's") for caption in captions] if kind == "formal" else captions

    def changed(level: int) -> int:
        pairs = zip(captions, perturb(captions, kind, level), strict=True)
        return sum(len(set(a.split()) ^ set(b.split())) + (a != b) for a, b in pairs)

    assert changed(1) > 0
    if kind not in ("converse", "formal", "casual", "word_swap"):
        assert changed(1) < changed(7)
    assert perturb(captions, kind, 2) == perturb(captions, kind, 2)
    assert [len(perturb(captions, kind, level)) for level in ALL_LEVELS] == [60] * 7


def test_perturbations_by_hand() -> None:
    assert perturb(["a red cup above a blue box"], "converse", 1)[0] in (
        f"a blue box is {word} a red cup" for word in ("below", "under", "beneath")
    )
    assert perturb(["a red cup is left of a blue box and a hat"], "converse", 1) == [
        "a red cup is left of a blue box and a hat"
    ]
    assert perturb(["there is a large cup"], "casual", 1) == ["there's a large cup"]
    assert perturb(["there is a large cup"], "casual", 4) == ["there's a biggish cup"]
    assert perturb(["there's a cup near a pen"], "formal", 4) == ["there is a cup in the vicinity of a pen"]
    words = ["one", "two", "three", "four", "five", "six"]
    for level in ALL_LEVELS:
        assert sorted(perturb([" ".join(words)], "word_swap", level)[0].split()) == sorted(words)
        bare = [word for word in perturb([" ".join(words)], "punctuation", level)[0].split() if word.isalpha()]
        assert bare == words


def test_character_kinds_do_what_they_say() -> None:
    text = ["squirrel " * 8] * 20
    for kind, growth in (("character_insertion", 1), ("character_deletion", -1), ("character_substitution", 0)):
        for perturbed in perturb(text, kind, 7):
            lengths = {len(word) - 8 for word in perturbed.split()}
            assert lengths <= {0, growth}
    for perturbed in perturb(text, "character_swap", 7):
        assert {"".join(sorted(word)) for word in perturbed.split()} == {"".join(sorted("squirrel"))}
    near = {"s": "qweadzxc", "q": "was", "u": "yhji", "l": "kopm"}
    seen = {
        (o, n)
        for perturbed in perturb(text, "keyboard", 7)
        for word in perturbed.split()
        for o, n in zip("squirrel", word, strict=True)
        if o != n
    }
    assert seen
    assert all(n in near[o] for o, n in seen if o in near)


def test_synonym_replacement_stays_within_the_lexicon() -> None:
    groups = [set(names) for names in synonym_sets()]
    for before, after in zip(CAPTIONS, perturb(CAPTIONS, "synonym_replacement", 5), strict=True):
        for old, new in zip(before.split(), after.split(), strict=True):
            known = any(old in group for group in groups)
            assert old == new or not known or any({old, new} <= group for group in groups)
