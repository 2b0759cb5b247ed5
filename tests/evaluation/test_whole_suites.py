"""What a suite's score is about: items that nothing can decide are left out and counted, and a part never looks like
the whole."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from tests.evaluation.test_suites import WRITERS, aro, write
from workbench.config.schema import Settings
from workbench.data import taggers
from workbench.data.image_files import ImageFolders
from workbench.errors import UserError
from workbench.evaluation.compositional import count_items, suite_metrics, told_apart
from workbench.evaluation.suites import Example, Protocol, SuiteItems, read_suite
from workbench.evaluation.word_order import shuffles
from workbench.metrics import measured_afterwards, metric, of_first
from workbench.model.vilta import ViLTA
from workbench.runs.evaluate import How, Published, Result, Trained, evaluate_published
from workbench.training.prepare import Prepared
from workbench.training.warm_start import new_model

PUBLISHED = Protocol()
NOISE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)


def read(suite: str, folder: Path, protocol: Protocol = PUBLISHED) -> SuiteItems:
    return read_suite(suite, folder, ImageFolders.of([folder]), protocol)


def orders(folder: Path, captions: list[str]) -> SuiteItems:
    write(folder, "coco_karpathy_test.json", [{"image": "val2014/1.jpg", "caption": captions}])
    return read("aro", folder)


def captions_of(example: Example) -> tuple[str, ...]:
    return example.captions[1:]


@pytest.mark.parametrize(
    "caption",
    [
        "the the dog dog on the cat",
        "a dog a dog a dog a cat on",
        "a man is on a big red bus",
        "two dogs and a cat on it",
    ],
)
def test_no_word_order_is_the_captions_own(caption: str, tmp_path: Path) -> None:
    (example,) = orders(tmp_path, [caption]).examples
    assert caption not in captions_of(example)
    assert all(sorted(false.split()) == sorted(caption.split()) for false in captions_of(example))


@pytest.mark.parametrize(
    "caption",
    ["dog", "", "a dog", "the cat is on it", "a big dog", "dog dog dog", "it is on the dog"],
)
def test_a_caption_without_another_order_is_left_out_and_counted(caption: str, tmp_path: Path) -> None:
    items = orders(tmp_path, [caption, "a small dog runs over the big green hill"])
    assert [e.id for e in items.identical] == ["coco_order/0/0"]
    assert [e.id for e in items.examples] == ["coco_order/0/1"]


def test_orders_of_many_short_captions_with_repeated_words_never_tie() -> None:
    rng = np.random.default_rng(3)
    words = ["a", "the", "on", "and", "dog", "cat", "red", "running", "man"]
    captions = [" ".join(rng.choice(words, int(rng.integers(1, 9)))) for _ in range(3000)]
    with_orders = [(caption, shuffled) for caption in captions if (shuffled := shuffles(caption)) is not None]
    assert len(with_orders) > 1000
    assert all(caption not in shuffled for caption, shuffled in with_orders)


def test_captions_after_the_fifth_are_kept(tmp_path: Path) -> None:
    assert len(orders(tmp_path, [f"a dog number {k} runs over the big green hill" for k in range(7)]).examples) == 7


def test_spacy_shuffles_nouns_among_nouns_and_adjectives_among_adjectives(monkeypatch: pytest.MonkeyPatch) -> None:
    class Token:
        def __init__(self, text: str, idx: int) -> None:
            self.idx = idx
            nouns, adjectives = ("dog", "cat", "hill"), ("big", "red", "small")
            self.tag_ = "NN" if text in nouns else "JJ" if text in adjectives else "IN"

    def parse(caption: str) -> list[Token]:
        starts = np.cumsum([0, *(len(word) + 1 for word in caption.split())])
        return [Token(word, int(start)) for word, start in zip(caption.split(), starts, strict=False)]

    monkeypatch.setattr(taggers, "_spacy", lambda: parse)
    caption = "the big dog and the red cat on the small hill"
    shuffled = shuffles(caption, "spacy")
    assert shuffled is not None
    content = shuffled[0].split()
    assert sorted(content[place] for place in (2, 6, 10)) == ["cat", "dog", "hill"]
    assert sorted(content[place] for place in (1, 5, 9)) == ["big", "red", "small"]
    others = shuffled[1].split()
    assert [others[place] for place in (1, 2, 5, 6, 9, 10)] == ["big", "dog", "red", "cat", "small", "hill"]


def test_a_tagger_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    taggers._spacy.cache_clear()
    with pytest.raises(UserError, match=r"pip install -e '.\[aro\]'"):
        shuffles("a big dog runs over the small green hill", "spacy")


DOUBLES = {
    "sugarcrepe": ("add_att.json", {"0": {"filename": "0.jpg", "caption": "same", "negative_caption": "same"}}, 1),
    "aro": (
        "visual_genome_attribution.json",
        [
            {"image_path": "1.jpg", "true_caption": "same", "false_caption": "same", "attributes": ["a", "b"]}
            | {"bbox_x": 0, "bbox_y": 0, "bbox_w": 9, "bbox_h": 9}
        ],
        1,
    ),
    "valse": (
        "relations.json",
        {"0": {"dataset": "coco", "image_file": "0.jpg", "caption": "same", "foil": "same", "mturk": {"caption": 3}}},
        1,
    ),
    "vl_checklist": ("Attribute/vg/size.json", [["0.jpg", {"POS": ["same"], "NEG": ["same"]}]], 1),
}


@pytest.mark.parametrize("suite", DOUBLES)
def test_items_with_equal_captions_are_left_out_of_every_suite(suite: str, tmp_path: Path) -> None:
    name, content, count = DOUBLES[suite]
    WRITERS[suite](tmp_path, 30)
    write(tmp_path, name, content)
    items = read(suite, tmp_path)
    assert len(items.identical) == count
    counts = count_items(items, {e.id for e in items.examples})
    assert counts[items.identical[0].kind].identical == count


def test_a_winoground_pair_with_one_caption_is_left_out_whole(tmp_path: Path) -> None:
    WRITERS["winoground"](tmp_path, 3)
    double = {"id": 9, "image_0": "a", "image_1": "b", "caption_0": "same", "caption_1": "same"}
    with open(tmp_path / "examples.jsonl", "a") as file:
        file.write(json.dumps(double) + "\n")
    items = read("winoground", tmp_path)
    assert [e.group for e in items.identical] == ["9", "9"]
    counts = count_items(items, {e.id for e in items.examples} - {"0/1"})
    assert (counts["group"].items, counts["group"].missing, counts["group"].identical) == (2, 1, 1)


def test_captions_that_differ_after_the_last_token_are_left_out(tmp_path: Path, prepared: Prepared) -> None:
    tokeniser = prepared.corpus.tokeniser
    long = " ".join(["red"] * (2 * tokeniser.max_length))
    texts = {
        "0": ("a red ball", "a blue ball"),
        "1": (f"{long} ball", f"{long} cube"),
        "2": (f"blue {long}", f"green {long}"),
        "3": ("", "a red ball"),
    }
    items = {id: {"filename": "0.jpg", "caption": a, "negative_caption": b} for id, (a, b) in texts.items()}
    write(tmp_path, "add_att.json", items)
    made = told_apart(read("sugarcrepe", tmp_path), tokeniser)
    assert [e.id for e in made.identical] == ["add_att/1"]
    assert [e.id for e in made.examples] == ["add_att/0", "add_att/2", "add_att/3"]


@pytest.mark.parametrize("suite", WRITERS)
def test_on_what_is_left_a_perfect_scorer_is_always_right_and_a_random_one_at_chance(
    suite: str, tmp_path: Path, prepared: Prepared
) -> None:
    """With duplicates, ties, empty and over-long texts among the items; both read the tokens that a model reads."""
    WRITERS[suite](tmp_path, 800)
    if suite in DOUBLES:
        name, content, _ = DOUBLES[suite]
        write(tmp_path, name, content)
    if suite == "sugarcrepe":
        long = " ".join(["red"] * 100)
        texts = [("", f"{long} a"), (long, f"{long} ball"), (f"{long} x", f"{long} y")] * 10
        items = {str(k): {"filename": "0.jpg", "caption": a, "negative_caption": b} for k, (a, b) in enumerate(texts)}
        write(tmp_path, "replace_rel.json", items)
    if suite == "aro":
        aro(tmp_path, 800)
        captions = ["dog", "", "a dog a dog a dog", "the cat the cat"] + ["a big red dog on the small hill"] * 196
        write(tmp_path, "coco_karpathy_test.json", [{"image": "1.jpg", "caption": captions}])
    items_read = told_apart(read(suite, tmp_path), prepared.corpus.tokeniser)
    encode = prepared.corpus.tokeniser.encode
    knowing, blind = {}, {}
    rng = np.random.default_rng(5)
    for e in items_read.examples:
        ids = encode(list(e.captions))
        knowing[e.id] = (ids == ids[0]).all(axis=1) * 2.0 - 1.0
        noise: dict[bytes, float] = {}
        blind[e.id] = np.array([noise.setdefault(row.tobytes(), rng.standard_normal()) for row in ids])
    assert set(suite_metrics(suite, items_read.examples, knowing).values()) == {1.0}
    counts = count_items(items_read, set(blind))
    for name, value in suite_metrics(suite, items_read.examples, blind).items():
        count = counts[name if name in counts else name.rpartition("/")[0]].items
        chance = metric(f"compositional/{suite}/{name}").chance
        assert chance is not None
        low, high = binom.ppf([0.0002, 0.9998], count, chance) / count
        assert low <= value <= high, name


@pytest.fixture
def trained(settings: Settings, prepared: Prepared) -> Trained:
    model: ViLTA = new_model(settings, prepared.corpus, 0).eval()
    return Trained("run", "study", settings, prepared.corpus, model, "pad", [])


def measured(trained: Trained, folder: Path, images: Path, protocol: Protocol = PUBLISHED) -> Result:
    return evaluate_published(trained, Published("sugarcrepe", folder, (images,)), protocol, How(folder / "kept"))


def crepe(folder: Path, there: int, of: int) -> Path:
    """SugarCrepe's form with `of` items of two kinds, of which the first `there` have an image."""
    for kind in ("add_att", "swap_obj"):
        items = {
            str(k): {"filename": f"{k}.jpg", "caption": f"a red ball {k}", "negative_caption": f"a blue cube {k}"}
            for k in range(of)
        }
        write(folder, f"{kind}.json", items)
    images = folder / "images"
    images.mkdir()
    for k in range(there):
        Image.fromarray(NOISE).save(images / f"{k}.jpg")
    return images


def test_a_part_of_a_suite_does_not_pass_for_the_suite(tmp_path: Path, trained: Trained) -> None:
    images = crepe(tmp_path, 20, 100)
    result = measured(trained, tmp_path, images)
    assert result.partial is not None
    assert "add_att 20 of 100, swap_obj 20 of 100" in result.partial
    assert f"{images}/val2017/" in result.partial
    assert "val2017/<id>.jpg" in result.partial
    assert result.metrics["suite_items/sugarcrepe/add_att"] == 20
    assert result.metrics["suite_missing/sugarcrepe/add_att"] == 80
    assert any("add_obj.json" in note and "not measured" in note for note in result.notes)
    for k in range(20, 100):
        Image.fromarray(NOISE).save(images / f"{k}.jpg")
    whole = measured(trained, tmp_path, images)
    assert whole.partial is None
    assert not whole.missing
    assert whole.metrics["suite_items/sugarcrepe/add_att"] == 100


def test_a_hundredth_may_be_missing(tmp_path: Path, trained: Trained) -> None:
    assert measured(trained, tmp_path, crepe(tmp_path, 99, 100)).partial is None


def test_the_first_items_alone_have_a_name_of_their_own(tmp_path: Path, trained: Trained) -> None:
    result = measured(trained, tmp_path, crepe(tmp_path, 10, 10), Protocol(limit=4))
    assert result.metrics["suite_items/sugarcrepe-first-4/add_att"] == 4
    assert not any("/sugarcrepe/" in name for name in result.metrics)
    assert metric("compositional/sugarcrepe-first-4/add_att").title == "sugarcrepe, add att (first 4)"
    assert metric("compositional/aro-first-4/coco_order").chance == 0.2


@pytest.mark.parametrize(
    ("name", "limited"),
    [
        ("retrieval/text_r1", "retrieval-first-9/text_r1"),
        ("downstream/vqa/accuracy", "downstream/vqa-first-9/accuracy"),
        ("robustness_all/fog/1", "robustness_all-first-9/fog/1"),
    ],
)
def test_metrics_of_a_part_are_known_by_what_they_measure(name: str, limited: str) -> None:
    assert of_first(name, None) == name
    assert of_first(name, 9) == limited
    assert metric(limited).better == metric(name).better
    assert metric(limited).chance == metric(name).chance
    assert metric(limited).title == f"{metric(name).title} (first 9)"


def test_vl_checklists_lists_are_cut_as_its_protocol_says(tmp_path: Path) -> None:
    WRITERS["vl_checklist"](tmp_path, 1400)
    assert len(read("vl_checklist", tmp_path).examples) == 1000
    assert len(read("vl_checklist", tmp_path, Protocol(most_texts=0)).examples) == 1400
    assert len(read("vl_checklist", tmp_path, Protocol(most_texts=50)).examples) == 25


@pytest.mark.parametrize(
    ("suite", "name", "content", "image"),
    [
        (
            "sugarcrepe",
            "add_att.json",
            {"0": {"filename": "1.jpg", "caption": "a", "negative_caption": "b"}},
            "val2017/1.jpg",
        ),
        ("sugarcrepe", "add_att.json", {"0": {"filename": "1.jpg", "caption": "a", "negative_caption": "b"}}, "1.jpg"),
        (
            "vl_checklist",
            "Attribute/vaw/color.json",
            [["VG_100K/1.jpg", {"POS": ["a"], "NEG": ["b"]}]],
            "vg/VG_100K/1.jpg",
        ),
        ("vl_checklist", "Relation/swig_action.json", [["1.jpg", {"POS": ["a"], "NEG": ["b"]}]], "swig/1.jpg"),
        (
            "vl_checklist",
            "Object/Size/hake_size/hake_obj_small.json",
            [["hcvrd/1.jpg", {"POS": ["a"], "NEG": ["b"]}]],
            "hake/hcvrd/1.jpg",
        ),
        *(
            (
                "valse",
                "relations.json",
                {
                    "0": {
                        "dataset": dataset,
                        "image_file": "1.jpg",
                        "caption": "a",
                        "foil": "b",
                        "mturk": {"caption": 2},
                    }
                },
                image,
            )
            for dataset, image in [
                ("coco2017", "coco_2017/1.jpg"),
                ("coco_2017", "coco2017/1.jpg"),
                ("SWiG", "images_512/1.jpg"),
                ("VisDial_v1.0", "train2014/1.jpg"),
                ("FOIL dataset", "FOIL dataset/1.jpg"),
                ("visual7w", "anywhere/else/1.jpg"),
            ]
        ),
        (
            "aro",
            "coco_karpathy_test.json",
            [{"image": "val2014/1.jpg", "caption": ["a big dog on the hill with it"]}],
            "val2014/1.jpg",
        ),
        (
            "aro",
            "visual_genome_relation.json",
            [
                {"image_path": "1.jpg", "true_caption": "a", "false_caption": "b", "relation_name": "on top"}
                | {"bbox_x": 0, "bbox_y": 0, "bbox_w": 9, "bbox_h": 9}
            ],
            "images/1.jpg",
        ),
    ],
)
def test_images_are_found_in_the_layout_that_each_suite_documents(
    suite: str, name: str, content: object, image: str, tmp_path: Path
) -> None:
    write(tmp_path / "annotations", name, content)
    root = tmp_path / "images of it"
    (root / image).parent.mkdir(parents=True)
    (root / image).touch()
    (tmp_path / "other").mkdir()
    folders = ImageFolders.of([tmp_path / "other", root])
    items = read_suite(suite, tmp_path / "annotations", folders)
    assert [e.image for e in [*items.examples, *items.identical]] == [root / image]


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("test/foil_accuracy", False),
        ("compositional/scenes/swap_objects", False),
        ("robustness/contrast/1", False),
        ("compositional/sugarcrepe/add_att", True),
        ("blank_image/aro-first-9/relation", True),
        ("robustness_all-first-9/fog/1", True),
        ("retrieval/text_r1", True),
        ("downstream/vqa-first-9/accuracy", True),
        ("suite_items/valse/existence", True),
    ],
)
def test_metrics_that_a_training_logs_are_told_from_those_of_later_evaluations(name: str, later: bool) -> None:
    assert measured_afterwards(name) == later
