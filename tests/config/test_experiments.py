"""The experiments that come with the repository: each can be read, asks one question and says what it costs."""

import re
from pathlib import Path

import pytest

from workbench.config.load import load_experiment
from workbench.significance import no_verdict
from workbench.sweep.grid import expand

ROOT = Path(__file__).resolve().parent.parent.parent
EXPERIMENTS = (
    "ablation_alpha",
    "ablation_filter",
    "ablation_fusion",
    "ablation_generator",
    "ablation_head",
    "ablation_itc",
    "ablation_itm",
    "ablation_itm_tuned",
    "ablation_kinds",
    "ablation_masking",
    "ablation_mlm",
    "ablation_noise",
    "ablation_sampling",
    "ablation_softening",
    "ablation_teacher",
    "ablation_temperature",
    "ablation_words",
    "coco_itm",
    "components",
    "emoji_itm",
    "flickr30k_components",
    "flickr30k_itm",
    "flickr30k_mlm",
    "positive_control",
    "pretrain_4m",
)
WITHOUT_VERDICT = {"ablation_kinds", "pretrain_4m"}  # too few seeds; a sweep of them warns


def test_every_experiment_is_listed_here_and_in_the_readme() -> None:
    assert {path.stem for path in (ROOT / "experiments").glob("*.yaml")} == set(EXPERIMENTS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)\.yaml`", readme))
    for family, members in re.findall(r"`(\w+)\{([\w,]+)\}\.yaml`", readme):
        named |= {family + member for member in members.split(",")}
    assert named == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_can_be_read_and_says_what_it_asks_and_costs(name: str) -> None:
    path = ROOT / "experiments" / f"{name}.yaml"
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    assert all(f"# {word}:" in header for word in ("Question", "Command", "Cost"))
    assert f"experiments/{name}.yaml" in header
    experiment = load_experiment(path)
    cells = expand(experiment)
    assert len({cell.key for cell in cells}) == len(cells) == len(experiment.arms) * experiment.seeds.count
    assert len({cell.label for cell in cells}) == len(experiment.arms)
    assert (no_verdict(experiment.seeds.count, len(experiment.arms)) is not None) == (name in WITHOUT_VERDICT)


def test_the_recipe_of_the_package_is_one_too() -> None:
    experiment = load_experiment(ROOT / "workbench" / "model" / "pretrained" / "tiny.yaml")
    assert experiment.settings.warm_start.source == "train"
    assert experiment.settings.data.source == "scenes"
