from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from workbench.config.schema import Data
from workbench.data import corpus
from workbench.data.lexicon import COLOURS, KINDS
from workbench.data.look_alikes import LookAlikes, look_alikes, near_colours
from workbench.data.scene_captions import FOILS, Description, describe, foils, paraphrase
from workbench.data.scene_truth import says_nothing_false
from workbench.data.scenes import Scene, held_out, outline, relation, render, sample_scene


def scenes(seed: int, split: str, count: int, largest: int) -> list[Scene]:
    """The first `count` scenes of a split."""
    return [sample_scene(seed, split, index, largest) for index in range(count)]


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
    masks = {kind: outline(kind, 32, 0) for kind in KINDS}
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
            if kind in foils(scene, description):
                seen[kind] += 1
                assert foil is not None
                assert not true_of(scene, foil), (kind, str(description), str(foil))
                assert foils(scene, description)[kind] == str(foil) != str(description)
    assert min(seen.values()) > 50


def test_no_swap_is_true_of_its_scene() -> None:
    """Things that differ in what is said of neither, such as two large ones, tell no swap apart."""
    for scene in scenes(2, "val", 400, 3):
        swaps = foils(scene, describe(scene))
        assert not any(says_nothing_false(foil, scene) for foil in swaps.values())


@pytest.mark.parametrize("concepts", [look_alikes, near_colours])
def test_a_foil_puts_what_looks_alike_and_every_concept_equally_often(concepts: Callable[[], LookAlikes]) -> None:
    chances = concepts().chances
    assert np.allclose(chances, chances.T)
    assert np.allclose(chances.sum(axis=0), 1, atol=1e-5)
    assert np.diag(chances).max() == 0
    # The four likeliest have most of the chance, and unlike concepts next to none.
    assert np.sort(chances, axis=1)[:, -4:].sum(axis=1).mean() > 0.75
    rng = np.random.default_rng(0)
    assert {near_colours().draw(rng, "turquoise", {"blue"}) for _ in range(200)} >= {"green", "grey"}
    assert all(near_colours().draw(rng, "turquoise", {"blue"}) != "blue" for _ in range(200))


def test_words_alone_do_not_give_a_foil_away() -> None:
    """True captions and foils of a kind use each word that the kind changes equally often, within what chance
    allows."""
    counts: dict[str, Counter[str]] = {"true": Counter(), **{kind: Counter() for kind in FOILS}}
    cases: Counter[str] = Counter()
    for scene in scenes(3, "val", 3000, 3):
        description = describe(scene)
        swaps = foils(scene, description)
        for kind in set(swaps) - {"add_attribute"}:
            counts[kind].update(swaps[kind].split())
            counts[kind].subtract(str(description).split())
            cases[kind] += 1
    for kind in set(FOILS) - {"add_attribute"}:
        extra = sum(abs(count) for word, count in counts[kind].items() if word not in ("a", "an"))
        assert extra / cases[kind] < 0.25, (kind, counts[kind].most_common(3), extra / cases[kind])


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


@pytest.mark.long
def test_several_processes_render_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folders = Data(train_pairs=520, eval_pairs=4, image_size=16), {}
    for few in (0, 1000):  # tasks up to which one process renders them all
        monkeypatch.setattr(corpus, "FEW", few)
        monkeypatch.setattr(corpus, "allowed_cores", lambda: 2)
        folders[few] = tmp_path / str(few)
        folders[few].mkdir()
        corpus._prepare_scenes(data, folders[few])
    names = sorted(file.name for file in folders[0].iterdir())
    assert names == sorted(file.name for file in folders[1000].iterdir())
    assert len(names) == 7
    assert all((folders[0] / name).read_bytes() == (folders[1000] / name).read_bytes() for name in names)
