import pytest

from workbench.data import scene_captions, scenes
from workbench.data.scene_truth import says_nothing_false
from workbench.data.scenes import Scene, Thing

SCENE = Scene(
    (
        Thing("circle", "red", "small", "solid", 0.2, 0.5, 0.0),
        Thing("anchor", "blue", "large", "striped", 0.8, 0.5, 0.0),
        Thing("circle", "green", "large", "dotted", 0.5, 0.2, 0.0),
    ),
    "plain",
    1,
)


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("a red circle left of the big blue anchor", True),
        ("a disc to the left of one azure anchor near a circle", True),
        ("a red circle right of the blue anchor", False),
        ("an anchor right of a circle", True),
        ("a large red circle and an anchor", False),
        ("a spotted circle and a plain disc", True),
        ("a circle and a circle and a circle", False),
        ("a red circle and a red disc", False),
        ("a picture of a red and an anchor", False),
        ("left of an anchor", False),
        ("a circle left of", False),
        ("a circle left of left of an anchor", False),
        ("a red q circle", False),
        ("there is", False),
    ],
)
def test_a_caption_is_true_where_every_phrase_finds_its_thing(caption: str, true: bool) -> None:
    assert says_nothing_false(caption, SCENE) == true


def test_captions_and_paraphrases_are_true_and_foils_are_false() -> None:
    for index in range(300):
        scene = scenes.sample_scene(5, "val", index)
        description = scene_captions.describe(scene)
        assert says_nothing_false(str(description), scene), description
        assert says_nothing_false(scene_captions.paraphrase(scene, description), scene)
        for kind, foil in scene_captions.foils(scene, description).items():
            assert not says_nothing_false(foil, scene), (kind, foil, scene)
