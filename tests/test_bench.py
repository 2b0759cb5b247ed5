"""`just bench` stays able to run: how figures are printed and written, that each part is there, and two parts at their
smallest."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import bench, roofline, training
from tests.benchmarks.figures import Figure, about, by_turns, curve, exponent, ratio, told, write
from tests.benchmarks.tables import tables
from tests.benchmarks.training import BASE
from workbench.config.settings import apply

SMALLEST = {
    "data.train_pairs": 32,
    "data.eval_pairs": 8,
    "warm_start.steps": 1,
    "warm_start.batch_size": 8,
    "model.width": 32,
    "model.text.layers": 1,
    "model.fusion.layers": 1,
    "optimisation.batch_size": 8,
}


def test_a_figure_is_printed_with_median_and_range_in_columns() -> None:
    figures = [Figure("a step", "ms", (30.0, 10.0, 20.0), "wall clock"), Figure("a ratio of two", "", (1.234,))]
    assert told(figures) == [
        "a step          20.0  (10.0 to 30.0)  ms  wall clock",
        "a ratio of two  1.23",
    ]


def test_figures_are_written_as_json_with_what_they_were_measured_on(tmp_path: Path) -> None:
    write(tmp_path / "f.json", about(3), {"part": [Figure("a step", "ms", (30.0, 10.0, 20.0), "n")]})
    written = json.loads((tmp_path / "f.json").read_text())
    assert written["repeats"] == 3
    assert written["device"]
    assert {"torch", "commit", "date"} < set(written)
    assert written["figures"]["part"] == [
        {"name": "a step", "unit": "ms", "values": [30.0, 10.0, 20.0], "note": "n", "median": 20.0}
    ]


def test_written_figures_become_the_tables_of_the_documentation(tmp_path: Path) -> None:
    figures = [Figure("a step", "ms", (30.0, 10.0, 20.0), "wall clock"), Figure("a share", "", (0.5,))]
    write(tmp_path / "f.json", about(3), {"steps": figures})
    lines = list(tables(json.loads((tmp_path / "f.json").read_text())))
    assert "### `--only steps`" in lines
    assert lines[-2:] == ["| a step | 20.0 (10.0 to 30.0) | ms; wall clock |", "| a share | 0.500 |  |"]


def test_an_exponent_is_found_in_made_up_data() -> None:
    sizes = [10, 100, 1000]
    assert exponent(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [7.0, 7.0, 7.0]) == pytest.approx(0.0)
    *points, fitted = curve("t", "s", {size: [2.0 * size, size**0.5] for size in sizes}, "runs")
    assert [figure.name for figure in points] == ["t, 10 runs", "t, 100 runs", "t, 1,000 runs"]
    assert fitted.values == pytest.approx((1.0, 0.5))


def test_what_is_compared_takes_turns() -> None:
    done: list[str] = []
    clock = iter(np.arange(100.0) ** 2).__next__
    times = by_turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 2, clock)
    assert "".join(done) == "ab" + "abab"
    assert times["a"].tolist() == [9.0, 17.0]
    assert ratio("a / b", times["a"], times["b"]).values == (9 / 13, 17 / 21)


@pytest.mark.parametrize("name", bench.PARTS)
def test_each_part_is_there(name: str) -> None:
    measure, title = bench.part(name)
    assert callable(measure)
    assert title.endswith(".")


def test_the_training_step_is_measured(tmp_path: Path) -> None:
    variants = {name: how for name, how in training.VARIANTS.items() if name != "`compile` / without"}
    figures = training.measure(1, tmp_path, apply(BASE, SMALLEST), variants, steps=1)
    assert len(figures) == 1 + len(variants)
    assert all(value > 0 for figure in figures for value in figure.values)


def test_the_roofline_is_measured(tmp_path: Path) -> None:
    operations, achieved, peak, share = roofline.measure(1, tmp_path, ["tiny"], batch=4)
    assert operations.median > 0
    assert share.median == pytest.approx(achieved.median / peak.median)
    assert 0 < share.median < 2
