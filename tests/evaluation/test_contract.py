from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from workbench.evaluation.contract import Kept, Part, PartResult, Several, evaluate, left
from workbench.stop import Stopped


class Squares:
    def __init__(self, numbers: list[int]) -> None:
        self.numbers, self.measured = numbers, list[int]()

    def parts(self) -> list[Part]:
        return [Part(str(number), partial(self._square, number)) for number in self.numbers]

    def metrics(self, made: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        for name, square in made.items():
            yield f"square/{name}", square["is"]

    def _square(self, number: int) -> PartResult:
        self.measured.append(number)
        return {"is": 0.1 * number**2}


def test_an_evaluation_that_was_stopped_measures_what_is_left(tmp_path: Path) -> None:
    file = tmp_path / "here" / "x.parts"
    squares = Squares([1, 2, 3, 4])
    shown: list[tuple[int, int]] = []
    with pytest.raises(Stopped):
        evaluate(squares, Kept.of(file), lambda: len(squares.measured) == 2, lambda done, of: shown.append((done, of)))
    assert shown == [(1, 4), (2, 4)]
    assert [part.name for part in left(squares, Kept.of(file))] == ["3", "4"]
    again = Squares([1, 2, 3, 4])
    scores = evaluate(again, Kept.of(file))
    assert again.measured == [3, 4]
    assert scores == evaluate(Squares([1, 2, 3, 4]))
    assert list(scores) == ["square/1", "square/2", "square/3", "square/4"]


def test_a_line_that_was_cut_short_is_measured_anew(tmp_path: Path) -> None:
    file = tmp_path / "x.parts"
    evaluate(Squares([1, 2]), Kept.of(file))
    text = file.read_text()
    file.write_text(text[:-8])
    assert list(Kept.of(file).made) == ["1"]
    again = Squares([1, 2, 3])
    evaluate(again, Kept.of(file))
    assert again.measured == [2, 3]
    assert list(Kept.of(file).made) == ["1", "2", "3"]


def test_several_evaluations_keep_parts_of_one_name_apart() -> None:
    class Doubled(Squares):
        def metrics(self, made: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
            for name, value in super().metrics(made):
                yield f"double/{name}", 2 * value

    scores = evaluate(Several({"a": Squares([3]), "a: b": Doubled([3])}))
    assert scores == pytest.approx({"square/3": 0.9, "double/square/3": 1.8})
