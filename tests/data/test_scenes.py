import numpy as np

from workbench.data.lexicon import COLOURS, KINDS
from workbench.data.scene_captions import FOILS, Description, describe, foils, paraphrase
from workbench.data.scenes import Scene, held_out, relation, render, sample_scene, scenes


def kinds_of(scene: Scene) -> set[str]:
    return {thing.kind for thing in scene.things}


def true_of(scene: Scene, description: Description) -> bool:
    """Whether what the description says holds in the scene: an independent reading of the facts."""
    named = {thing.kind: thing for thing in scene.things}
    for phrase in (description.first, description.second, description.third):
        if phrase is None:
            continue
        thing = named.get(phrase.kind[0])
        if thing is None:
            return False
        for attribute in ("colour", "size", "texture"):
            word = getattr(phrase, attribute)
            if word is not None and word[0] != getattr(thing, attribute):
                return False
    if description.relation is None:
        return True
    a, b = named[description.first.kind[0]], named[description.second.kind[0]]
    holds = {"left": a.x < b.x, "right": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}
    return holds[description.relation[0]]


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    assert sample_scene(3, "train", 7) == sample_scene(3, "train", 7)
    assert sample_scene(3, "train", 7) != sample_scene(3, "val", 7)
    one, two = render(sample_scene(3, "train", 7), 64), render(sample_scene(3, "train", 7), 64)
    assert one.shape == (3, 64, 64)
    assert one.dtype == np.uint8
    assert (one == two).all()


def test_there_are_forty_pictographs_and_each_looks_different() -> None:
    assert sum(glyph is not None for glyph, _ in KINDS.values()) >= 40
    from workbench.data.scenes import _mask

    masks = {kind: _mask(kind, 32, 0) for kind in KINDS}
    assert all(0.03 < mask.mean() < 0.97 for mask in masks.values())
    names = list(masks)
    nearest = min(np.abs(masks[a] - masks[b]).mean() for i, a in enumerate(names) for b in names[:i])
    assert nearest > 0.02


def test_only_test_scenes_show_held_out_combinations() -> None:
    assert 0.03 < np.mean([held_out(kind, colour) for kind in KINDS for colour in COLOURS]) < 0.2
    for scene in scenes(0, "train", 300, 3):
        assert not any(held_out(thing.kind, thing.colour) for thing in scene.things)
    shown = [any(held_out(thing.kind, thing.colour) for thing in scene.things) for scene in scenes(0, "test", 300, 3)]
    assert np.mean(shown) > 0.5


def test_captions_are_true_and_foils_false_of_the_facts() -> None:
    seen = dict.fromkeys(FOILS, 0)
    for scene in scenes(1, "val", 400, 3):
        description = describe(scene)
        assert true_of(scene, description)
        for kind, make in FOILS.items():
            from workbench.randomness import generator

            foil = make(generator("foil", kind, scene.key), scene, description)
            if foil is not None:
                seen[kind] += 1
                assert not true_of(scene, foil), (kind, str(description), str(foil))
                assert foils(scene, description)[kind] == str(foil) != str(description)
    assert min(seen.values()) > 50


def test_a_paraphrase_keeps_the_facts_and_changes_the_words() -> None:
    changed = 0
    for scene in scenes(2, "val", 100, 3):
        description = describe(scene)
        other = paraphrase(scene, description)
        changed += other != str(description)
        assert len(other.split()) >= len(str(description).split()) - 3
    assert changed > 90


def test_relations_are_read_off_the_positions() -> None:
    for scene in scenes(5, "train", 100, 3):
        first, second = scene.things[:2]
        place = relation(first, second)
        assert place is not None
        assert {
            "left": first.x < second.x,
            "right": first.x > second.x,
            "above": first.y < second.y,
            "below": first.y > second.y,
        }[place]
