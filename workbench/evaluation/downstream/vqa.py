"""VQAv2's accuracy with its normalisation of answers, and the soft scores that models are trained on.

The normalisation equals that of the official evaluation (github.com/GT-Vision-Lab/VQA, vqaEval.py) on every input,
including its errors.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Final, Literal

Version = Literal["2017", "2021"]

PUNCTUATION: Final = tuple(';/[]"{}()=+\\_-><@`,?!')
ARTICLES: Final = frozenset(["a", "an", "the"])
NUMBERS: Final = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
PERIOD: Final = re.compile(r"\.(?!\d)")
PERIODS: Final = 32  # most periods dropped: the official code passes a flag of this value as the count
THOUSANDS: Final = re.compile(r"\d,\d")
LEAST: Final = 9  # less frequent answers are not in the vocabulary; on VQAv2 3,129 answers remain
# The score of an answer by how many of ten people gave it; the last is for four or more.
SCORES: Final = (0.0, 0.3, 0.6, 0.9, 1.0)
DISTINCT: Final = 1 << 19  # answers whose normal form is cached; VQAv2 has fewer


def without_punctuation(text: str) -> str:
    """The text without punctuation.

    Signs next to a space, or in an answer with a number such as 1,000, are dropped; others become a space. Periods that
    no digit follows are dropped.
    """
    cleaned, thousands = text, THOUSANDS.search(text) is not None
    for sign in PUNCTUATION:
        if sign in cleaned:
            alone = thousands or f"{sign} " in text or f" {sign}" in text
            cleaned = cleaned.replace(sign, "" if alone else " ")
    return PERIOD.sub("", cleaned, count=PERIODS)


@cache
def contracted() -> tuple[str, ...]:
    """Contractions whose apostrophes people leave out; any one apostrophe may be missing."""
    file = resources.files("workbench.evaluation.downstream") / "contractions.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


@cache
def contractions() -> Mapping[str, str]:
    """A contraction without one of its apostrophes -> the contraction, as in the official table."""
    restored = {
        form[:place] + form[place + 1 :]: form
        for form in contracted()
        for place, letter in enumerate(form)
        if letter == "'"
    }
    # One entry of the official table is reversed.
    return {short: form for short, form in restored.items() if short != "somebodyd"} | {"somebody'd": "somebodyd"}


def normalised(answer: str) -> str:
    """The answer in lower case, with number words as digits, without articles, and with apostrophes restored."""
    words = [NUMBERS.get(word, word) for word in answer.lower().split()]
    whole_form = contractions()
    return " ".join(whole_form.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(DISTINCT)
def plain(answer: str) -> str:
    """The form in which answers are compared: without punctuation, then normalised."""
    return normalised(without_punctuation(answer))


def vqa_accuracy(answer: str, human_answers: Sequence[str], version: Version = "2021") -> float:
    """The official accuracy (Antol et al. 2015): min(1, matches / 3), averaged over the subsets of nine answers.

    There are ten human answers. As in the official evaluation, nothing is normalised if all ten agree; otherwise all
    answers are. Until March 2021 (`2017`, VQAv2's first challenge) the answer was always normalised, and human answers
    only lost their punctuation, if they differed.
    """
    answer, human_answers = _one_line(answer), list(human_answers)
    if version == "2021":
        human_answers = [_one_line(other) for other in human_answers]
        if len(set(human_answers)) > 1:
            answer, human_answers = plain(answer), [plain(other) for other in human_answers]
    else:
        answer = plain(answer)
        if len(set(human_answers)) > 1:
            human_answers = [without_punctuation(other) for other in human_answers]
    matches = human_answers.count(answer)
    # Summed as in the official code: one term per person, whose own answer does not count.
    shares = [min(1.0, (matches - (human_answer == answer)) / 3) for human_answer in human_answers]
    return sum(shares) / len(shares)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def answer_vocabulary(answers: Iterable[str], least: int = LEAST) -> list[str]:
    """The answers that occur at least `least` times, most frequent first.

    `answers`: the most common answer of each question.
    """
    counts = Counter(map(plain, answers))
    return [answer for answer, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= least]
