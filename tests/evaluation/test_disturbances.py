import numpy as np
import pytest
import torch

from workbench.data.lexicon import synonym_sets
from workbench.data.scenes import render, sample_scene
from workbench.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from workbench.evaluation.perturbations import PERTURBATIONS, perturb

IMAGES = torch.from_numpy(np.stack([render(sample_scene(0, "val", index), 64) for index in range(24)]))
CAPTIONS = ["a small red anchor left of a large blue plane", "the crown is above one dotted green kitten"] * 30


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_damage_grows_with_severity_and_is_keyed(kind: str) -> None:
    damage = [(corrupt(IMAGES, kind, s).float() - IMAGES.float()).square().mean().item() for s in SEVERITIES]
    assert damage == sorted(damage)
    assert damage[0] > 0
    assert damage[-1] > 50
    assert torch.equal(corrupt(IMAGES, kind, 3), corrupt(IMAGES, kind, 3))
    assert corrupt(IMAGES, kind, 3).dtype == torch.uint8


def test_the_noise_has_image_net_cs_deviation() -> None:
    grey = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    noisy = corrupt(grey, "gaussian_noise", 1).float() / 255
    assert noisy.std().item() == pytest.approx(0.08, rel=0.02)


def test_contrast_keeps_the_mean_and_scales_the_spread() -> None:
    out = corrupt(IMAGES, "contrast", 3).float()
    assert out.mean().item() == pytest.approx(IMAGES.float().mean().item(), abs=1.0)
    assert out.std(dim=(-2, -1)).mean() / IMAGES.float().std(dim=(-2, -1)).mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_more_words_change_with_the_level_and_the_change_is_keyed(kind: str) -> None:
    def changed(level: int) -> float:
        pairs = zip(CAPTIONS, perturb(CAPTIONS, kind, level), strict=True)
        return sum(len(set(a.split()) ^ set(b.split())) for a, b in pairs)

    assert 0 < changed(1) < changed(5)
    assert perturb(CAPTIONS, kind, 2) == perturb(CAPTIONS, kind, 2)


def test_synonym_replacement_stays_within_the_lexicon() -> None:
    groups = [set(names) for names in synonym_sets()]
    for before, after in zip(CAPTIONS, perturb(CAPTIONS, "synonym_replacement", 5), strict=True):
        for old, new in zip(before.split(), after.split(), strict=True):
            assert old == new or any({old, new} <= group for group in groups)
