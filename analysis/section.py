"""The parts of a report as values: a topic makes a `Section`, and the templates display every section in the same
way."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl
from matplotlib.figure import Figure

NUMERIC = "0123456789+−–[<"  # the possible first characters of a number in a table
WORDY = 24  # number of characters above which a cell is text


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, link, tooltip (`title`), an image before it (a data URI), and emphasis."""

    text: str
    href: str = ""
    title: str = ""
    image: str = ""
    italic: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a table. `sure` rows are bold, as explained in the table's note. `id`: the anchor for links."""

    cells: Sequence[Cell | str]
    sure: bool = False
    id: str = ""


@dataclass(frozen=True)
class Sources:
    """The trials behind an arm's number. Each value links to its trial."""

    arm: str
    values: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table of the report. `sources`: the values behind it. `folded`: shown after a click. `paper`: also written as
    LaTeX, with the shorter `paper_heads` and `paper_rows` for a paper's column."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    sources: Sequence[Sources] = ()
    folded: bool = False
    paper: bool = False
    paper_heads: Sequence[str] = ()
    paper_rows: Sequence[Row] = ()

    def is_text(self, column: int) -> bool:
        """Returns whether a column contains text, which is left-aligned, and not numbers."""
        texts = [cell.text if isinstance(cell, Cell) else cell for row in self.rows for cell in [row.cells[column]]]
        return any(len(text) > WORDY for text in texts) or not any(text[:1] in NUMERIC for text in texts if text)


@dataclass(frozen=True)
class Plot:
    """A figure with its file name and its caption, which is also the alternative text."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """A topic of a report: an anchor, a title, the findings in sentences (`lead`, then `points`), tables, figures and
    notes. `split`: the split of its data. `frames`: the data written as CSV, by file name."""

    name: str
    title: str
    lead: Sequence[str] = ()
    points: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = ()
    split: str = ""
    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
