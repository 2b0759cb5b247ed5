"""How the report shows scores of published suites: beside how many items they are about, and marked where these are not
all."""

from collections.abc import Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import polars as pl
import pytest

from analysis import published
from analysis.foils import at_chance, sections, suite_figure, suite_table
from analysis.runs import Runs
from analysis.section import Cell
from tests.analysis.toy import toy_findings_runs


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def with_suite(metrics: dict[str, float]) -> Runs:
    """Each metric of each trial as given, a little apart from trial to trial."""
    runs = toy_findings_runs(2, 4)
    last = runs.metrics.filter(pl.col("metric") == "compositional/scenes/swap_arguments")
    apart = 0.01 * (pl.int_range(pl.len()) % 2) - 0.005
    added = [
        last.with_columns(
            metric=pl.lit(name), value=value + (pl.lit(0.0) if name.startswith(("suite_", "downstream")) else apart)
        )
        for name, value in metrics.items()
    ]
    return replace(runs, metrics=pl.concat([runs.metrics, *(frame.select(runs.metrics.columns) for frame in added)]))


SUGARCREPE = {
    "compositional/sugarcrepe/add_att": 0.7,
    "blank_image/sugarcrepe/add_att": 0.6,
    "suite_items/sugarcrepe/add_att": 201,
    "suite_missing/sugarcrepe/add_att": 491,
    "suite_identical/sugarcrepe/add_att": 0,
    "compositional/sugarcrepe/swap_obj": 0.6,
    "blank_image/sugarcrepe/swap_obj": 0.5,
    "suite_items/sugarcrepe/swap_obj": 242,
    "suite_missing/sugarcrepe/swap_obj": 0,
    "suite_identical/sugarcrepe/swap_obj": 3,
}


def test_a_score_of_a_part_is_marked_in_table_and_figure() -> None:
    runs = with_suite(SUGARCREPE)
    section = next(candidate for candidate in sections(runs) if candidate.name == "suite_sugarcrepe")
    (table,) = section.tables
    assert table.heads[1] == "items"
    assert [row.cells[1] for row in table.rows] == ["201 of 692 †", "242 of 245"]
    assert any(note.startswith("†") for note in section.notes)
    assert any("read the same" in note for note in section.notes)
    assert section.plots[0].caption.endswith("† of a part of the items.")
    figure = suite_figure(suite_table(runs, "sugarcrepe"), runs.arms)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["add att †", "swap obj"]


def test_embedded_foils_have_no_column_of_items() -> None:
    section = next(candidate for candidate in sections(with_suite({})) if candidate.name == "suite_scenes")
    assert "items" not in section.tables[0].heads
    assert section.frames["suite_scenes"]["items"].is_null().all()


def test_scores_of_a_threshold_have_the_items_of_their_kind() -> None:
    runs = with_suite(
        {
            f"{of}/valse/existence{score}": 0.5
            for of in ("compositional", "blank_image")
            for score in ("", "/p_c", "/acc")
        }
        | {"suite_items/valse/existence": 500, "suite_missing/valse/existence": 5}
    )
    table = suite_table(runs, "valse")
    assert set(table["items"]) == {500}
    assert set(table["missing"]) == {5}


@pytest.mark.parametrize(("score", "guessed"), [(0.2, ["coco_order"]), (0.5, [])])
def test_what_is_guessed_depends_on_the_suites_own_chance(score: float, guessed: list[str]) -> None:
    runs = with_suite({"compositional/aro/coco_order": score, "blank_image/aro/coco_order": 0.2})
    assert at_chance(suite_table(runs, "aro")) == guessed


def test_a_part_of_a_suite_is_named_as_one() -> None:
    runs = with_suite({name.replace("sugarcrepe", "sugarcrepe-first-100"): value for name, value in SUGARCREPE.items()})
    section = next(candidate for candidate in sections(runs) if candidate.name == "suite_sugarcrepe-first-100")
    assert section.title == "Sugarcrepe (first 100)"


@pytest.mark.parametrize(("missing", "shown"), [(0, "70.00"), (700, "70.00 †")])
def test_a_downstream_score_of_a_part_is_marked_beside_the_published_ones(missing: int, shown: str) -> None:
    values = {"accuracy": 0.7, "examples": 6282, "missing": missing}
    section = published.section(with_suite({f"downstream/nlvr2/{name}": value for name, value in values.items()}))
    cells = section.tables[0].rows[0].cells
    (cell,) = [cell for cell in cells if isinstance(cell, Cell) and cell.text.startswith("70")]
    assert cell.text == shown
    assert ("6,282 of 6,982" in cell.title) == bool(missing)
    assert ("part of the split" in section.tables[0].note) == bool(missing)
