"""VQAv2's accuracy with its normalisation of answers, and the soft scores that models are trained on.

The normalisation is that of the official evaluation (github.com/GT-Vision-Lab/VQA, vqaEval.py) on every input, its
slips included.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal

Version = Literal["2017", "2021"]

PUNCTUATION: Final = (
    ";",
    "/",
    "[",
    "]",
    '"',
    "{",
    "}",
    "(",
    ")",
    "=",
    "+",
    "\\",
    "_",
    "-",
    ">",
    "<",
    "@",
    "`",
    ",",
    "?",
    "!",
)
ARTICLES: Final = frozenset(["a", "an", "the"])
NUMBERS: Final = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
# Words whose apostrophe people leave out; each apostrophe may be missing.
CONTRACTED: Final = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]
RESTORED: Final = {
    form[:place] + form[place + 1 :]: form for form in CONTRACTED for place, letter in enumerate(form) if letter == "'"
}
# One entry of the official table stands the wrong way round.
CONTRACTIONS: Final[Mapping[str, str]] = {short: form for short, form in RESTORED.items() if short != "somebodyd"} | {
    "somebody'd": "somebodyd"
}
PERIOD: Final = re.compile(r"\.(?!\d)")
PERIODS: Final = 32  # dropped at most: the official code gives a flag of this value where the number is expected
THOUSANDS: Final = re.compile(r"\d,\d")
LEAST: Final = 9  # an answer that is given less often is left out of the vocabulary; on VQAv2 3,129 remain
SCORES: Final = (0.0, 0.3, 0.6, 0.9, 1.0)  # of an answer by how many of ten people gave it; more are as good as four
DISTINCT: Final = 1 << 19  # answers whose normal form is remembered; VQAv2 has fewer


def without_punctuation(text: str) -> str:
    """Signs beside a space, or in an answer with a number such as 1,000, are dropped, others become a space; so are
    periods that no digit follows."""
    made, thousands = text, THOUSANDS.search(text) is not None
    for sign in PUNCTUATION:
        if sign in made:
            alone = thousands or f"{sign} " in text or f" {sign}" in text
            made = made.replace(sign, "" if alone else " ")
    return PERIOD.sub("", made, count=PERIODS)


def normalised(answer: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes put back."""
    words = [NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(DISTINCT)
def plain(answer: str) -> str:
    """Without punctuation, then normalised: what answers are compared by."""
    return normalised(without_punctuation(answer))


def vqa_accuracy(answer: str, given: Sequence[str], version: Version = "2021") -> float:
    """The official accuracy (Antol et al. 2015): min(1, matches / 3) among every nine of the ten given answers,
    averaged.

    As in the official evaluation nothing is normalised where all ten agree, else all answers are. Until March 2021
    (`2017`, VQAv2's first challenge) the answer was normalised always, and the given ones only lost their punctuation,
    where they differ.
    """
    answer, given = _one_line(answer), list(given)
    if version == "2021":
        given = [_one_line(other) for other in given]
        if len(set(given)) > 1:
            answer, given = plain(answer), [plain(other) for other in given]
    else:
        answer = plain(answer)
        if len(set(given)) > 1:
            given = [without_punctuation(other) for other in given]
    matches = given.count(answer)
    # As the official code adds up: one share for each person, whose own answer does not count.
    shares = [min(1.0, (matches - (own == answer)) / 3) for own in given]
    return sum(shares) / len(shares)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def answer_vocabulary(answers: Iterable[str], least: int = LEAST) -> list[str]:
    """The answers that occur at least so often (each is a question's most common one), the most frequent first."""
    counts = Counter(map(plain, answers))
    return [answer for answer, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= least]
