"""What a report consists of, as values: a topic makes a `Section`, and the templates show any section in the same
way."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl
from matplotlib.figure import Figure

NUMERIC = "0123456789+−–[<"  # what a number in a table may begin with
WORDY = 24  # letters beyond which a cell is text


@dataclass(frozen=True)
class Cell:
    """A table's cell: text, where it leads, what a pointer over it tells, an image before it (a data URI), and
    emphasis."""

    text: str
    href: str = ""
    title: str = ""
    image: str = ""
    italic: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table; `sure` rows are bold, for a reason that the table's note gives; `id` can be linked to."""

    cells: Sequence[Cell | str]
    sure: bool = False
    id: str = ""


@dataclass(frozen=True)
class Sources:
    """The trials behind an arm's number: each value leads to its trial."""

    arm: str
    values: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table as people read it. `sources`: the values behind it; `folded`: shown after a click; `paper`: also written
    for LaTeX, with `paper_heads` and `paper_rows` where a column of a paper needs fewer words."""

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
        """Whether a column holds words, which are aligned to the left, and not numbers."""
        texts = [cell.text if isinstance(cell, Cell) else cell for row in self.rows for cell in [row.cells[column]]]
        return any(len(text) > WORDY for text in texts) or not any(text[:1] in NUMERIC for text in texts if text)


@dataclass(frozen=True)
class Plot:
    """A figure with the file's name and what it shows, which is its caption and its description for people who do not
    see it."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """A topic of a report: an anchor, a title, what was found in sentences (`lead`, then `points`), tables, figures and
    notes. `split`: the held-out pairs that it is about; `frames`: what is written as CSV, by file name."""

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
