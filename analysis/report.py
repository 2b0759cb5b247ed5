"""Writes the report of one or several sweeps or a single run: one self-contained HTML page, Markdown, CSV and LaTeX
tables, PNG, SVG and PDF figures."""

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from jinja2 import Environment
from markupsafe import Markup, escape

from analysis import compare, published
from analysis.convergence import target_value
from analysis.inputs import mixtures
from analysis.runs import UNITS, Runs, read_runs
from analysis.section import Cell, Plot, Section
from analysis.style import following
from analysis.summaries import with_summaries
from analysis.topics import sections
from workbench.errors import UserError

FORMS: dict[str, dict[str, Any]] = {  # without dates: equal figures have equal files
    "png": {},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}
LATEX = {letter: f"\\{letter}" for letter in "#$%&_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "·": r"$\cdot$",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "▲": "$^{+}$",
    "▼": "$^{-}$",
    "◆": r"$^{\neq}$",
    "†": r"$^{\dagger}$",
    "“": "``",
    "”": "''",
}


def write_report(
    uri: str,
    run_id: str,
    folder: Path,
    compare_with: Sequence[str] = (),
    over: str = "steps",
    against_published: bool = False,
) -> Path:
    """Writes `report.html`, `report.md`, `tables/` and `figures/` into `folder`. Returns the page's path.

    `compare_with`: further sweeps whose arms are compared. `over`: the x-axis of curves and speeds, one of `UNITS`.
    `against_published`: add published numbers of other models. Raises UserError where there is no finished trial to
    report, or its time was not logged.
    """
    sweeps = [replace(read_runs(uri, run), over=over) for run in (run_id, *compare_with)]
    runs = compare.merged(sweeps) if compare_with else sweeps[0]
    if over != "steps" and runs.curves(target_value(runs)[0]).is_empty():
        raise UserError(f"--over {over}: run {run_id} has no curve of its target over {UNITS[over]}; use --over steps.")
    runs = with_summaries(runs)
    extra = [compare.section(sweeps)] if compare_with else []
    extra += [published.section(runs)] if against_published else []
    first, *others = sections(runs)
    return render([first, *extra, *others], runs, folder, mixtures(*sweeps))


def render(page_sections: Sequence[Section], runs: Runs, folder: Path, cautions: Sequence[str] = ()) -> Path:
    """Writes the sections in all formats, preceded by the `cautions`. Returns the page's path."""
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "figures").mkdir(exist_ok=True)
    for section in page_sections:
        for name, frame in section.frames.items():
            frame.write_csv(folder / "tables" / f"{name}.csv")
    images = {plot.name: _draw(plot, folder / "figures") for section in page_sections for plot in section.plots}
    script = _text("report.js")
    context = {
        "sections": page_sections,
        "runs": runs,
        "cautions": cautions,
        "question": runs.record.question or runs.name,
        "images": images,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    page = folder / "report.html"
    page.write_text(_filled("report.html.j2", context, autoescape=True), encoding="utf-8")
    (folder / "report.md").write_text(_filled("report.md.j2", context, autoescape=False), encoding="utf-8")
    (folder / "tables" / "tables.tex").write_text(_filled("tables.tex.j2", context, autoescape=False), encoding="utf-8")
    return page


def _draw(plot: Plot, folder: Path) -> str:
    """Writes a figure in all formats. Returns it as a data URI that follows the page's colours, so that the page is
    self-contained."""
    if plot.figure.get_layout_engine() is not None:
        plot.figure.draw_without_rendering()  # computes the layout
        plot.figure.set_layout_engine("none")  # once for all formats
    box = plot.figure.get_tightbbox().padded(0.1)  # once for all formats, since computing it draws everything
    files = {}
    for form, more in FORMS.items():
        buffer = io.BytesIO()
        plot.figure.savefig(buffer, format=form, dpi=160, bbox_inches=box, **more)
        files[form] = buffer.getvalue()
        (folder / f"{plot.name}.{form}").write_bytes(files[form])
    plt.close(plot.figure)
    return "data:image/svg+xml;base64," + base64.b64encode(following(files["svg"].decode()).encode()).decode()


def cell(value: Cell | str) -> Cell:
    """Returns a table's cell, which may be given as plain text."""
    return value if isinstance(value, Cell) else Cell(value)


def latex(value: object) -> str:
    """Escapes text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in str(value))


def markdown(value: object) -> str:
    """Escapes text for a cell of a Markdown table."""
    return str(value).replace("|", r"\|").replace("\n", " ")


def code(value: object) -> Markup:
    """Escapes text for the page, with text between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(str(value)))))


def _text(name: str) -> str:
    return (resources.files("analysis") / "templates" / name).read_text(encoding="utf-8")


def _filled(template: str, context: dict[str, object], autoescape: bool) -> str:
    environment = Environment(autoescape=autoescape, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"latex": latex, "cell": cell, "code": code, "markdown": markdown}
    return environment.from_string(_text(template)).render(**context)
