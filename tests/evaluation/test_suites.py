"""Miniatures of the compositional benchmarks' files, scored by hand; scorers that know nothing and everything."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from workbench.config.schema import Settings
from workbench.data.image_files import ImageFolders
from workbench.errors import UserError
from workbench.evaluation import compositional
from workbench.evaluation.compositional import Reader, decoding, score_examples, suite_metrics
from workbench.evaluation.matching import match_scores_of_each
from workbench.evaluation.retrieval import recalls
from workbench.evaluation.suites import SUITES, Example, limited, read_suite
from workbench.evaluation.word_order import shuffles
from workbench.training.prepare import Prepared
from workbench.training.warm_start import new_model


def write(folder: Path, name: str, content: object) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def sugarcrepe(folder: Path, count: int) -> None:
    for kind in ("add_att", "swap_obj"):
        items = {
            str(k): {"filename": f"{k}.jpg", "caption": f"true {k}", "negative_caption": "false"} for k in range(count)
        }
        write(folder, f"{kind}.json", items)


def aro(folder: Path, count: int) -> None:
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 9, "bbox_h": 9}
    pair = {"image_path": "1.jpg", "true_caption": "true", "false_caption": "false"} | box
    names = ["to the right of", "holding", "behind"]
    write(
        folder,
        "visual_genome_relation.json",
        [pair | {"relation_name": names[k % 3]} for k in range(count)] + [pair | {"relation_name": "near"}] * 3,
    )
    attributes = [pair | {"attributes": ["red", "big"]} for _ in range(count)]
    write(folder, "visual_genome_attribution.json", attributes + [pair | {"attributes": ["rare", "pair"]}] * 24)
    texts = [f"a big dog number {k} runs over the small green hill" for k in range(5)]
    write(folder, "coco_karpathy_test.json", [{"image": "1.jpg", "caption": texts}] * -(-count // 5))


def valse(folder: Path, count: int) -> None:
    items = {
        str(k): {
            "dataset": "coco",
            "original_split": "val",
            "image_file": f"{k}.jpg",
            "caption": "true",
            "foil": "false",
            "classes": "a",
            "classes_foil": "b",
            "mturk": {"caption": 3, "foil": 0, "other": 0},
        }
        for k in range(count)
    }
    doubted = {"x": items["0"] | {"mturk": {"caption": 1, "foil": 2, "other": 0}}}
    write(folder, "existence.json", items | doubted)


def vl_checklist(folder: Path, count: int) -> None:
    items = [[f"{k}.jpg", {"POS": ["true", "unused"], "NEG": ["false"]}] for k in range(count)]
    write(folder, "Attribute/vg/color.json", items)


def winoground(folder: Path, count: int) -> None:
    items = [
        {"id": k, "image_0": f"ex_{k}_img_0", "image_1": f"ex_{k}_img_1", "caption_0": "one", "caption_1": "two"}
        | {"tag": "Object", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": "Object"}
        for k in range(count)
    ]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "sugarcrepe": sugarcrepe,
    "aro": aro,
    "valse": valse,
    "vl_checklist": vl_checklist,
    "winoground": winoground,
}


def examples_of(suite: str, folder: Path, count: int) -> list[Example]:
    WRITERS[suite](folder, count)
    return read_suite(suite, folder, ImageFolders.of([folder])).examples


def chance(suite: str, kind: str) -> float:
    """What a scorer that knows nothing reaches."""
    if kind.endswith("_order"):
        return 1 / 5
    return {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}.get(kind, 1 / 2) if suite == "winoground" else 1 / 2


@pytest.mark.parametrize("suite", SUITES)
def test_a_scorer_that_knows_nothing_gets_chance_and_one_that_knows_all_gets_everything(
    suite: str, tmp_path: Path
) -> None:
    examples = examples_of(suite, tmp_path, 1500)
    rng = np.random.default_rng(1)
    blind = suite_metrics(suite, examples, {e.id: rng.standard_normal(len(e.captions)) for e in examples})
    counts = {kind: sum(e.kind == kind for e in examples) for kind in {e.kind for e in examples}}
    for name, value in blind.items():
        kind = max((kind for kind in counts if name.startswith(kind)), key=len, default=name)
        count, expected = counts.get(kind, 1500), chance(suite, kind)
        low, high = binom.ppf([0.0005, 0.9995], count, expected) / count
        assert low <= value <= high, name
    knowing = {e.id: np.array([1.0, *[-1.0] * (len(e.captions) - 1)]) for e in examples}
    assert set(suite_metrics(suite, examples, knowing).values()) == {1.0}
    level = {e.id: np.zeros(len(e.captions)) for e in examples}
    ties = suite_metrics(suite, examples, level)
    assert all(value == 0 for name, value in ties.items() if not name.endswith(("p_f", "acc", "itm")))


def test_sugarcrepe_by_hand(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.jpg")
    examples = examples_of("sugarcrepe", tmp_path, 4)
    right = {"add_att": [1, 1, 0, 1], "swap_obj": [0, 0, 0, 1]}
    scores = {e.id: np.array([float(right[e.kind][int(e.id[-1])]), 0.5]) for e in examples}
    assert suite_metrics("sugarcrepe", examples, scores) == {"add_att": 0.75, "swap_obj": 0.25}
    assert examples[0].image == tmp_path / "0.jpg"
    assert [e.id for e in limited(examples, 1)] == ["add_att/0", "swap_obj/0"]


def test_aro_by_hand(tmp_path: Path) -> None:
    examples = examples_of("aro", tmp_path, 30)
    assert not any(e.group == "near" for e in examples)
    assert examples[0].box == (0, 0, 9, 9)
    # `holding` is always right, `behind` never, `to the right of` in half of its cases: the mean over relations, not
    # over examples.
    share = {"holding": [1.0] * 10, "behind": [0.0] * 10, "to the right of": [1.0, 0.0] * 5}
    seen = dict.fromkeys(share, 0)
    scores = {}
    for e in examples:
        if e.kind == "relation":
            scores[e.id] = np.array([share[e.group][seen[e.group]], 0.5])
            seen[e.group] += 1
        elif e.kind == "attribution":
            # The rare pair has 24 examples, one too few to count.
            scores[e.id] = np.array([float(e.group == "red_big"), 0.5])
        else:
            scores[e.id] = np.array([1.0, 0.0, 0.0, 0.0, 2.0 * (e.id.endswith("4"))])
    assert suite_metrics("aro", examples, scores) == {"relation": 0.5, "attribution": 1.0, "coco_order": 0.8}


def test_aros_shuffles_keep_the_words() -> None:
    caption = "a big brown dog is running over the small green hill"
    orders = shuffles(caption)
    assert orders is not None
    content, others, within, trigrams = orders
    words = caption.split()
    for shuffled in orders:
        assert sorted(shuffled.split()) == sorted(words)
        assert shuffled != caption
    kept = [place for place, word in enumerate(words) if word in ("a", "is", "running", "over", "the")]
    assert [content.split()[place] for place in kept] == [words[place] for place in kept]
    assert [word for place, word in enumerate(others.split()) if place not in kept] == [
        word for place, word in enumerate(words) if place not in kept
    ]
    assert set(within.split()[:3]) == set(words[:3])
    parts = [" ".join(words[start : start + 3]) for start in range(0, len(words), 3)]
    assert all(part in trigrams for part in parts)
    assert shuffles(caption) == shuffles(caption)


def test_valse_by_hand(tmp_path: Path) -> None:
    examples = examples_of("valse", tmp_path, 4)
    assert len(examples) == 4  # the doubted one is left out
    pairs = [(2.0, 1.0), (2.0, -1.0), (-1.0, -2.0), (-1.0, 3.0)]
    scores = {e.id: np.array(pair) for e, pair in zip(examples, pairs, strict=True)}
    metrics = suite_metrics("valse", examples, scores)
    assert metrics == {"existence": 0.75, "existence/p_c": 0.5, "existence/p_f": 0.5, "existence/acc": 0.5}


def test_vl_checklist_by_hand(tmp_path: Path) -> None:
    examples = examples_of("vl_checklist", tmp_path, 2)
    scores = {e.id: np.array(pair) for e, pair in zip(examples, [(2.0, 1.0), (2.0, -1.0)], strict=True)}
    name = "Attribute/vg/color"
    assert suite_metrics("vl_checklist", examples, scores) == {name: 1.0, f"{name}/itm": 0.75}


def test_winoground_by_hand(tmp_path: Path) -> None:
    examples = examples_of("winoground", tmp_path, 3)
    assert examples[1].captions == ("two", "one")
    assert examples[1].image.name == "ex_0_img_1.png"
    # Rows: s(c0,i0), s(c1,i0); then s(c1,i1), s(c0,i1), since each image's own caption comes first.
    cases = [((4.0, 1.0), (4.0, 1.0)), ((4.0, 1.0), (6.0, 5.0)), ((1.0, 2.0), (3.0, 0.0))]
    scores = {}
    for k, (zero, one) in enumerate(cases):
        scores[f"{k}/0"], scores[f"{k}/1"] = np.array(zero), np.array(one)
    # Case 1: text right (4>1, 6>5), image wrong (4 < 5). Case 2: text wrong (1<2); image: 1 > 0 and 3 > 2.
    metrics = suite_metrics("winoground", examples, scores)
    assert metrics == pytest.approx({"text": 2 / 3, "image": 2 / 3, "group": 1 / 3})


def test_missing_images_are_named(tmp_path: Path, settings: Settings, prepared: Prepared) -> None:
    Image.new("RGB", (50, 40), (200, 0, 0)).save(tmp_path / "0.jpg")
    (tmp_path / "1.jpg").write_bytes(b"broken")
    examples = examples_of("sugarcrepe", tmp_path, 3)
    model = new_model(settings, prepared.corpus, 0).eval()
    tokeniser = prepared.corpus.tokeniser
    seen, blank, missing = score_examples(Reader(model, tokeniser, 2, decoding(model, 64, "pad")), examples)
    assert set(seen) == set(blank) == {"add_att/0", "swap_obj/0"}
    assert missing["add_att/2"] == f"{tmp_path}/val2017/2.jpg: the image is missing"
    assert missing["swap_obj/1"].startswith(f"{tmp_path}/1.jpg: the image cannot be read")
    assert not np.allclose(seen["add_att/0"], blank["add_att/0"])


def test_a_caption_that_items_of_an_image_share_is_scored_once(
    tmp_path: Path, settings: Settings, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k, colour in enumerate([(200, 0, 0), (0, 0, 200)]):
        Image.new("RGB", (50, 40), colour).save(tmp_path / f"{k}.png")
    texts = [
        (0, "a circle", "a square"),
        (1, "a circle", "a star"),
        (0, "a circle", "a square"),
        (0, "a star", "a circle"),
    ]
    items = [
        Example(f"{k}", "add_att", tmp_path / f"{image}.png", (true, false))
        for k, (image, true, false) in enumerate(texts)
    ]
    model = new_model(settings, prepared.corpus, 0).eval()
    reader = Reader(model, prepared.corpus.tokeniser, 2, decoding(model, 64, "pad"))
    alone = [score_examples(reader, [item]) for item in items]
    scored: list[np.ndarray] = []

    def counted(*given: Any) -> list[np.ndarray]:
        scored.append(given[2])
        return match_scores_of_each(*given)

    monkeypatch.setattr(compositional, "match_scores_of_each", counted)
    seen, blank, _ = score_examples(reader, items)
    assert len(scored[0]) == 5
    for k, (own_seen, own_blank, _) in enumerate(alone):
        np.testing.assert_allclose(seen[f"{k}"], own_seen[f"{k}"], atol=1e-5)
        np.testing.assert_allclose(blank[f"{k}"], own_blank[f"{k}"], atol=1e-5)


@pytest.mark.parametrize(
    ("suite", "name", "content", "said"),
    [
        ("sugarcrepe", "other.json", {}, "should hold add_att.json"),
        ("sugarcrepe", "add_att.json", {"0": {"filename": "x"}}, "not in sugarcrepe's published format"),
        ("valse", "existence.json", {"0": {"foil": "x"}}, "not in valse's published format"),
    ],
)
def test_what_is_no_suite_is_named(tmp_path: Path, suite: str, name: str, content: object, said: str) -> None:
    write(tmp_path, name, content)
    with pytest.raises(UserError, match=said):
        read_suite(suite, tmp_path, ImageFolders.of([tmp_path]))
    with pytest.raises(UserError, match="--annotations: there is no folder"):
        read_suite(suite, tmp_path / "nowhere", ImageFolders.of([tmp_path]))


def test_recall_by_hand_with_ties_against_the_true_one() -> None:
    # Two images with two captions each.
    image_of = np.array([0, 0, 1, 1])
    scores = np.array([[5.0, 1.0, 4.0, 5.0], [0.0, 2.0, 3.0, -np.inf]])
    recall = recalls(scores, image_of)
    # Image 0: its best caption ties with another's, so that one stands before it. Image 1: 3 is the best.
    assert recall["text_r1"] == 0.5
    assert recall["text_r5"] == 1.0
    # Captions: 0 right (5 > 0), 1 wrong (1 < 2), 2 wrong (3 < 4), 3 was not ranked with its own image.
    assert recall["image_r1"] == 0.25
    assert recall["image_r5"] == 0.75
    blind = recalls(np.random.default_rng(0).standard_normal((100, 100)), np.arange(100))
    assert 0.02 < blind["text_r10"] < 0.2
    assert recalls(np.zeros((20, 20)), np.arange(20))["image_r10"] == 0
