"""Our accuracy against the rules of the official evaluation, told again step by step: that of 2017 and that of March
2021."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from workbench.evaluation.downstream.vqa import (
    NUMBERS,
    PUNCTUATION,
    Version,
    contractions,
    plain,
    vqa_accuracy,
    without_punctuation,
)

# The official table, short=whole, with its entries that no lower-case word meets and the one that stands the wrong way
# round.
TABLE = """
aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've couldnt've=couldn't've
didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've hadn'tve=hadn't've hasnt=hasn't
havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's howd=how'd howll=how'll hows=how's Id've=I'd've
I'dve=I'd've Im=I'm Ive=I've isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll let's=let's maam=ma'am
mightnt=mightn't mightnt've=mightn't've mightn'tve=mightn't've mightve=might've mustnt=mustn't mustve=must've
neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at 'ows'at='ow's'at 'ow'sat='ow's'at
shant=shan't shed've=she'd've she'dve=she'd've she's=she's shouldve=should've shouldnt=shouldn't
shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd somebodyd've=somebody'd've
somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's someoned=someone'd someoned've=someone'd've
someone'dve=someone'd've someonell=someone'll someones=someone's somethingd=something'd somethingd've=something'd've
something'dve=something'd've somethingll=something'll thats=that's thered=there'd thered've=there'd've
there'dve=there'd've therere=there're theres=there's theyd=they'd theyd've=they'd've they'dve=they'd've
theyll=they'll theyre=they're theyve=they've twas='twas wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've
werent=weren't whatll=what'll whatre=what're whats=what's whatve=what've whens=when's whered=where'd wheres=where's
whereve=where've whod=who'd whod've=who'd've who'dve=who'd've wholl=who'll whos=who's whove=who've whyll=why'll
whyre=why're whys=why's wont=won't wouldve=would've wouldnt=wouldn't wouldnt've=wouldn't've wouldn'tve=wouldn't've
yall=y'all yall'll=y'all'll y'allll=y'all'll yall'd've=y'all'd've y'alld've=y'all'd've y'all'dve=y'all'd've
youd=you'd youd've=you'd've you'dve=you'd've youll=you'll youre=you're youve=you've
"""
SHORT_TO_WHOLE = dict(pair.split("=") for pair in TABLE.split())
DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
DIGITS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
SIGNS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]


def official_punctuation(text: str) -> str:
    result = text
    for sign in SIGNS:
        beside_a_space = sign + " " in text or " " + sign in text
        if beside_a_space or re.search(r"(\d)(\,)(\d)", text) is not None:
            result = result.replace(sign, "")
        else:
            result = result.replace(sign, " ")
    # The flag stands where the number of replacements does.
    return re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", result, int(re.UNICODE))


def official_words(text: str) -> str:
    kept = []
    for word in text.lower().split():
        number = DIGITS.get(word, word)
        if number not in ["a", "an", "the"]:
            kept.append(number)
    for place, word in enumerate(kept):
        if word in SHORT_TO_WHOLE:
            kept[place] = SHORT_TO_WHOLE[word]
    return " ".join(kept)


def official_shares(answer: str, given: list[str]) -> float:
    shares = []
    for place in range(len(given)):
        others = given[:place] + given[place + 1 :]
        matching = [other for other in others if other == answer]
        shares.append(min(1, float(len(matching)) / 3))
    return float(sum(shares)) / len(shares)


def official_2017(answer: str, given: list[str]) -> float:
    answer = answer.replace("\n", " ")
    answer = answer.replace("\t", " ")
    answer = answer.strip()
    answer = official_punctuation(answer)
    answer = official_words(answer)
    if len(set(given)) > 1:
        given = [official_punctuation(other) for other in given]
    return official_shares(answer, given)


def official_2021(answer: str, given: list[str]) -> float:
    given = [other.replace("\n", " ").replace("\t", " ").strip() for other in given]
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    if len(set(given)) > 1:
        given = [official_words(official_punctuation(other)) for other in given]
        answer = official_punctuation(answer)
        answer = official_words(answer)
    return official_shares(answer, given)


Official = Callable[[str, list[str]], float]
PIECES = [
    *PUNCTUATION,
    *"aAbz019.,' \n\t",
    " ",
    " ",
    ".",
    "1,000",
    "3.5",
    "é",
    "İ",
    "٣",
    "\u00a0",
    "the ",
    "a ",
    " an",
    "None",
]
PIECES += [*NUMBERS, *contractions(), *contractions().values(), *SHORT_TO_WHOLE, *SHORT_TO_WHOLE.values()]


def made_up(rng: np.random.Generator) -> str:
    long = rng.random() < 0.02
    pieces = rng.choice(np.array(PIECES, dtype=object), int(rng.integers(0, 120 if long else 7)))
    return (" " if rng.random() < 0.3 else "").join(pieces)


def test_answers_are_normalised_as_officially_whatever_they_hold() -> None:
    rng = np.random.default_rng(0)
    texts = [made_up(rng) for _ in range(20_000)] + ["." * 40, "somebody'd", "somebodyd", *PIECES]
    wrong = [text for text in texts if without_punctuation(text) != official_punctuation(text)]
    assert wrong == []
    wrong = [text for text in texts if plain(text) != official_words(official_punctuation(text))]
    assert wrong == []
    assert len({plain(text) for text in texts}) > 10_000


@pytest.mark.parametrize(("version", "official"), [("2017", official_2017), ("2021", official_2021)])
def test_the_accuracy_is_the_official_one_of_each_version(version: Version, official: Official) -> None:
    rng = np.random.default_rng(1)
    kinds = [
        "none",
        "0",
        "Two",
        "two",
        "2",
        "a dog",
        "dog",
        "Dog.",
        "dog\n",
        " dog",
        "1,000",
        "1000",
        "dont",
        "don't",
        "",
    ]
    values = []
    for _ in range(1_000):
        pool = [*rng.choice(np.array(kinds, dtype=object), int(rng.integers(1, 4))), made_up(rng)][
            : int(rng.integers(1, 5))
        ]
        given = [str(answer) for answer in rng.choice(np.array(pool, dtype=object), 10)]
        answer = str(rng.choice(np.array([*pool, *kinds], dtype=object)))
        values.append(official(answer, given))
        assert vqa_accuracy(answer, given, version) == pytest.approx(values[-1], abs=1e-12), (answer, given)
    assert {0.0, 1.0} < set(values)


def test_the_versions_differ_where_people_write_numbers_or_articles() -> None:
    counted, nothing, named = ["two"] * 9 + ["2"], ["none"] * 6 + ["nothing"] * 4, ["a dog"] * 10
    assert [vqa_accuracy("2", counted, version) for version in ("2021", "2017")] == [1.0, pytest.approx(0.3)]
    assert [vqa_accuracy("0", nothing, version) for version in ("2021", "2017")] == [1.0, 0.0]
    assert [vqa_accuracy("a dog", named, version) for version in ("2021", "2017")] == [1.0, 0.0]
    assert vqa_accuracy("2", counted) == 1.0
