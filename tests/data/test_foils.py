"""Foils of captions by rules, and their balance by scores that see no image."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from workbench.data import rule_foils, taggers
from workbench.data.balance import likeliest, symmetrical, typical
from workbench.data.caption_words import ADJECTIVES, PREPOSITIONS, may_be_one_thing
from workbench.data.foils import make_foils
from workbench.data.nouns import Nouns, as_noun, is_plural, learn_nouns, stem, tokens
from workbench.data.rule_foils import RULES, Captioned, candidates
from workbench.data.text_counts import TextCounts

THINGS = ["dog", "cat", "horse", "apple", "truck", "boat", "bicycle", "umbrella", "pizza", "elephant"]
PLACES = ["field", "table", "beach", "kitchen"]


def corpus() -> list[list[str]]:
    """Images of one thing in one place; of a sofa some captions say couch."""
    images = []
    for k in range(240):
        thing, place = THINGS[k % len(THINGS)], PLACES[k // 7 % len(PLACES)]
        article = "an" if thing[0] in "aeiou" else "a"
        images.append(
            [
                f"{article.capitalize()} {thing} in a {place}.",
                f"two {thing}s on the {place} near a {'sofa' if k % 3 else 'couch'}",
                f"the {thing} with a {'couch' if k % 3 else 'sofa'}",
            ]
        )
    return images


@pytest.fixture(scope="module")
def nouns() -> Nouns:
    return learn_nouns(corpus())


def made(caption: str, nouns: Nouns, *others: str) -> dict[str, list[str]]:
    return candidates(Captioned(caption, (caption, *others)), nouns)


def test_nouns_are_found_by_their_place(nouns: Nouns) -> None:
    assert {*THINGS, *PLACES, "dogs", "sofa"} <= set(nouns.words)
    assert not {"two", "the", "near", "with"} & set(nouns.words)
    words = tokens("A red car parked, near tall trees")
    assert [token.word for place, token in enumerate(words) if as_noun(words, place)] == ["trees"]
    assert [token.closes for token in words] == [False, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("word", "singular"), [("dogs", "dog"), ("glass", "glass"), ("buses", "bus"), ("berries", "berry"), ("men", "man")]
)
def test_stems(word: str, singular: str) -> None:
    assert stem(word) == singular
    assert is_plural(word) == (word != singular)


def test_a_replaced_noun_is_one_that_no_caption_of_the_image_says(nouns: Nouns) -> None:
    foils = made("A dog in a field.", nouns, "a cat and two horses", "a truck in the grass")["replace_noun"]
    assert foils
    first = [foil.split()[1] for foil in foils if foil.endswith("in a field.")]
    assert set(first) <= set(THINGS) - {"dog", "cat", "horse", "truck"}
    assert all(foil.split()[0] == ("An" if foil.split()[1][0] in "aeiou" else "A") for foil in foils)
    assert not any("field" not in foil and "grass" in foil for foil in foils)


def test_words_that_are_said_of_the_same_images_do_not_replace_each_other(nouns: Nouns) -> None:
    sofa, couch = nouns.places["sofa"], nouns.places["couch"]
    assert couch in nouns.kin[sofa]
    assert nouns.lift[sofa, couch] >= 1 > nouns.lift[nouns.places["dog"], nouns.places["horse"]]
    assert "couch" not in nouns.replacements("sofa", "a", frozenset(["sofa"]))


def test_replacements_agree_in_number(nouns: Nouns) -> None:
    for caption in ("A dog in a field.", "two dogs on the table near a sofa"):
        for foil in made(caption, nouns)["replace_noun"]:
            old, new = set(caption.split()) - set(foil.split()), set(foil.split()) - set(caption.split())
            changed = {stem(word.strip(".")): is_plural(word.strip(".")) for word in old | new if len(word) > 2}
            assert len(set(changed.values())) == 1, foil


def test_only_a_man_and_a_woman_and_a_boy_and_a_girl_exclude_each_other() -> None:
    assert not may_be_one_thing("man", "woman")
    assert not may_be_one_thing("boys", "girls")
    assert may_be_one_thing("man", "player")
    assert may_be_one_thing("man", "boy")
    assert may_be_one_thing("woman", "boy")
    assert may_be_one_thing("bike", "motorcycle")
    assert not may_be_one_thing("dog", "table")


def test_an_adjective_is_replaced_by_one_that_excludes_it(nouns: Nouns) -> None:
    foils = made("a large dog on a grey table", nouns, "a red cat")["replace_adjective"]
    assert "a small dog on a grey table" in foils
    assert "a large dog on a green table" in foils
    assert not any(f"a {word} table" in foil for foil in foils for word in ("red", "black", "silver"))
    assert made("a black and white dog on a table", nouns)["replace_adjective"] == []
    assert made("a dark blue boat on a beach", nouns)["replace_adjective"] == []
    assert made("a hot dog on a table", nouns)["replace_adjective"] == []
    for word, others in ADJECTIVES.items():
        assert word not in others
        assert all(word in ADJECTIVES[other] for other in others), word


def test_a_number_is_replaced_where_the_captions_agree_on_it(nouns: Nouns) -> None:
    foils = made("Two dogs on the field", nouns)["replace_number"]
    assert "Three dogs on the field" in foils
    assert all(foil.split()[1:] == ["dogs", "on", "the", "field"] for foil in foils)
    assert made("two dogs on the field", nouns, "three dogs")["replace_number"] == []
    assert made("two of the dogs", nouns)["replace_number"] == []


def test_a_preposition_is_replaced_whole_and_only_before_a_noun(nouns: Nouns) -> None:
    assert "a cat underneath the table" in made("a cat on top of the table", nouns)["replace_preposition"]
    assert not any(
        "top of" in foil and "on top of" not in foil
        for foil in made("a cat on top of the table", nouns)["replace_preposition"]
    )
    assert "a dog behind the truck" in made("a dog in front of the truck", nouns)["replace_preposition"]
    assert made("a dog in motion", nouns)["replace_preposition"] == []
    assert made("a table topped with a pizza", nouns)["replace_preposition"] == []
    assert made("a dog with a boat", nouns)["replace_preposition"] == ["a dog without a boat"]
    assert all(word not in others for word, others in PREPOSITIONS.items())


def test_swapped_words_say_something_else(nouns: Nouns) -> None:
    assert made("A dog chasing an elephant.", nouns)["swap_nouns"] == ["An elephant chasing a dog."]
    for same in (
        "a dog and a cat",
        "a dog next to a cat",
        "a dog with a cat",
        "a dog on the dog",
        "a dog sitting next to a small cat",
        "jumps on a boat on a table",
    ):
        assert made(same, nouns)["swap_nouns"] == [], same
    assert made("a dog next to a horse chasing a cat", nouns)["swap_nouns"]
    assert made("a red truck behind an orange boat", nouns)["swap_adjectives"] == ["an orange truck behind a red boat"]
    assert made("a red truck and a blue truck", nouns)["swap_adjectives"] == []
    assert made("a red truck and a blue boat", nouns)["swap_adjectives"] == ["a blue truck and a red boat"]


def test_a_tagger_that_reads_sentences_has_the_last_word(nouns: Nouns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(taggers.TAGGERS, "spacy", lambda words: ["noun" if word == "dog" else "" for word in words])
    caption = "a dog in a red boat"
    foils = candidates(Captioned(caption, (caption,), "spacy"), nouns)
    assert foils["replace_noun"]
    assert all(foil.endswith("in a red boat") for foil in foils["replace_noun"])
    assert foils["replace_adjective"] == []


def test_the_likeliest_candidate_is_taken() -> None:
    assert likeliest(np.array([[3.0, 0.5], [-0.5, 1.0], [1.0, -0.2]])) == 1
    assert typical(np.array([[1.0, 0.0], [-3.0, 0.0], [2.0, 0.0]])).tolist() == [2.0, 1.0]


def test_what_is_kept_has_gaps_that_are_symmetrical_about_0_in_all_scores_at_once() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.normal(0.5, 1.0, (4000, 2))
    gaps[:4] = [[0.0, 0.0], [99.0, 1.0], [-1.0, -99.0], [np.inf, 0.0]]
    gaps[4:400, 1] = 0.0
    kept = symmetrical(gaps, np.random.default_rng(1), width=0.5, farthest=6.0)
    assert not kept[:4].any()
    of = gaps[kept]
    assert 1000 < len(of) < 3000
    cells = Counter(map(tuple, (np.sign(of) * np.ceil(np.abs(of) / 0.5)).astype(int).tolist()))
    assert all(cells[x, y] == cells[-x, -y] for x, y in list(cells))
    assert (of > 0).sum(axis=0).tolist() == (of < 0).sum(axis=0).tolist()
    assert kept[4:400].any()
    assert (kept == symmetrical(gaps, np.random.default_rng(1), 0.5, 6.0)).all()
    assert (kept != symmetrical(gaps, np.random.default_rng(2), 0.5, 6.0)).any()
    assert not symmetrical(np.full((50, 1), 2.0), np.random.default_rng(0)).any()


def test_counts_tell_likely_texts_and_words_that_go_together() -> None:
    counts = TextCounts(["a dog on the grass", "a dog in the grass", "a boat on the sea", "the sea and a boat"])
    (likely, together, common), (unlikely, apart, _), (jumbled, same, as_common), (_, _, rare) = counts(
        ["a dog on the grass", "a boat on the grass", "grass the on dog a", "a dog in the sea"]
    )
    assert likely > unlikely > jumbled
    assert together > apart
    assert together == same
    assert common == as_common > rare
    assert np.isfinite(counts(["", "zebra"])).all()
    assert counts([]).shape == (0, 3)
    words = ["a", "dog", "on", "in", "the", "grass", "boat", "sea", "and", "</s>", "never"]
    chances = [counts._chance(("a", "dog"), word) for word in words]
    assert sum(chances) == pytest.approx(1.0)


def length(texts: Sequence[str]) -> np.ndarray:
    """What is short is likely; letters break ties."""
    return np.array([[-0.1 * len(text) - 0.01 * sum(map(ord, text))] for text in texts])


def test_foils_are_one_frame_and_the_same_again(nouns: Nouns) -> None:
    captions = [Captioned(image[place], tuple(image)) for image in corpus()[:120] for place in (0, 1)]
    heard: list[int] = []
    frame = make_foils(captions, nouns, length, 3, heard.append)
    assert frame.columns == list(RULES)
    assert heard == [len(frame)] == [240]
    again = make_foils(captions, nouns, length, 3)
    assert frame.equals(again)
    other = make_foils(captions, nouns, length, 4)
    assert not frame.equals(other)
    for kind in frame.columns:
        kept = pl.DataFrame({"caption": [captioned.text for captioned in captions], "foil": frame[kind]}).drop_nulls()
        gaps = length(kept["caption"].to_list()) - length(kept["foil"].to_list())
        assert (gaps > 0).sum() == (gaps < 0).sum()
    assert frame["replace_noun"].drop_nulls().len() > 4


def test_few_candidates_are_scored_and_which_depends_on_the_caption(
    nouns: Nouns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.data.foils.MOST", 2)
    asked: list[str] = []

    def score(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return length(texts)

    image = corpus()[0]
    make_foils([Captioned(image[0], tuple(image))], nouns, score, 0)
    assert 1 < len(asked) <= 1 + 2 * len(RULES)
    assert len(asked) == len(set(asked))


def test_captions_without_candidates_are_not_scored(nouns: Nouns) -> None:
    def score(texts: Sequence[str]) -> np.ndarray:
        raise AssertionError(texts)

    frame = make_foils([Captioned("nothing here", ("nothing here",)), Captioned("", ("",))], nouns, score, 0)
    assert frame.null_count().row(0) == (2,) * len(RULES)
    assert learn_nouns([]).words == ()


def test_the_kinds_of_rules_are_none_of_the_scenes() -> None:
    from workbench.data.scene_captions import FOILS

    assert not set(rule_foils.RULES) & set(FOILS)
