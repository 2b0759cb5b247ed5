"""A sweep, several of them or a single run -> one self-contained HTML page, Markdown, CSV and LaTeX tables, PNG, SVG and PDF figures."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
from jinja2 import Environment

from analysis.ablation import CONTRASTS
from analysis.compare import Differences, differing_settings, merged, titles
from analysis.convergence import target_value
from analysis.findings import Findings, analyse
from analysis.pictures import Picture, pictures
from analysis.published import Peers, against_published
from analysis.runs import UNITS, Runs, read_runs
from analysis.verdict import POWER_NOTE, RULE, answer, caution, speed_sentences
from analysis.wording import number, plain, signed, spread
from workbench.errors import UserError

FORMS: dict[str, dict[str, Any]] = {  # undated: equal figures, equal files
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
}


def write_report(
    uri: str,
    run_id: str,
    folder: Path,
    compare: Sequence[str] = (),
    over: str = "steps",
    published: bool = False,
) -> Path:
    """Writes `report.html`, `report.md`, `tables/` and `figures/` into `folder`; gives the page's path.

    `compare`: further sweeps whose arms are set beside. `over`: what curves and speeds are read over, one of `UNITS`. `published`: with the
    peers' published numbers. Raises UserError where there is no finished trial to report, or its time was not logged.
    """
    sweeps = [replace(read_runs(uri, each), over=over) for each in (run_id, *compare)]
    runs = merged(sweeps) if compare else sweeps[0]
    if over != "steps" and runs.curves(target_value(runs)[0]).is_empty():
        raise UserError(f"--over {over}: run {run_id} has no curve of its target over {UNITS[over]}; use --over steps.")
    found = analyse(runs)
    peers = against_published(runs) if published else None
    frames = found.frames | ({"published": peers.frame} if peers else {})
    drawn = pictures(found)
    sources = _write(folder, frames, drawn)
    differences = (titles(sweeps), differing_settings(sweeps)) if compare else ([], [])
    context = _context(found, peers, differences, drawn, sources)
    page = folder / "report.html"
    page.write_text(_render("report.html.j2", context, escape=True), encoding="utf-8")
    (folder / "report.md").write_text(_render("report.md.j2", context, escape=False), encoding="utf-8")
    (folder / "tables" / "tables.tex").write_text(_render("tables.tex.j2", context, escape=False), encoding="utf-8")
    return page


def _write(folder: Path, frames: dict[str, pl.DataFrame], drawn: list[Picture]) -> dict[str, str]:
    """Writes tables and figures; gives each figure as a data URI, so that the page needs nothing beside it."""
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "figures").mkdir(exist_ok=True)
    for name, frame in frames.items():
        frame.write_csv(folder / "tables" / f"{name}.csv")
    sources = {}
    for picture in drawn:
        if picture.figure.get_layout_engine() is not None:
            picture.figure.draw_without_rendering()  # lays it out
        box = picture.figure.get_tightbbox().padded(0.1)  # once for all forms, since finding it draws everything
        for form, more in FORMS.items():
            buffer = io.BytesIO()
            picture.figure.savefig(buffer, format=form, dpi=160, bbox_inches=box, **more)
            (folder / "figures" / f"{picture.name}.{form}").write_bytes(buffer.getvalue())
            if form == "svg":
                sources[picture.name] = "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
        plt.close(picture.figure)
    return sources


def _context(
    found: Findings,
    peers: Peers | None,
    differences: tuple[list[str], Differences],
    drawn: list[Picture],
    sources: dict[str, str],
) -> dict[str, object]:
    """What the templates show."""
    runs = found.runs
    head = found.tables.get(found.primary, pl.DataFrame(schema=CONTRASTS))
    script = (resources.files("analysis") / "templates" / "report.js").read_text(encoding="utf-8")
    return {
        "found": found,
        "runs": runs,
        "question": str(runs.experiment.get("question", runs.name)),
        "answers": answer(head, found.primary, runs.baseline),
        "caution": caution(head),
        "diverged": diverged_sentences(runs),
        "tuning": tuning(runs),
        "search": runs.experiment.get("search"),
        "rule": RULE,
        "power_note": POWER_NOTE,
        "smoke": bool(runs.experiment.get("smoke", False)),
        "speeds": speed_sentences(found.speeds, *found.target),
        "unit": UNITS[runs.over],
        "kinds": found.foils["metric"].unique(maintain_order=True).to_list(),
        "peers": peers,
        "compared": differences[0],
        "differing": differences[1],
        "pictures": drawn,
        "sources": sources,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "values": _by_arm(found.values),
        "number": number,
        "signed": signed,
        "spread": spread,
        "plain": plain,
    }


def _by_arm(values: pl.DataFrame) -> dict[str, dict[str, list[tuple[int, str, float]]]]:
    """Metric -> arm -> seed, run and value."""
    found: dict[str, dict[str, list[tuple[int, str, float]]]] = {}
    for metric, arm, seed, run_id, value in values.iter_rows():
        found.setdefault(metric, {}).setdefault(arm, []).append((seed, run_id, value))
    return found


def diverged_sentences(runs: Runs) -> list[str]:
    """How many trials of each arm have diverged, since the others alone are compared."""
    counts = runs.trials.group_by("arm", maintain_order=True).agg(
        pl.len(), pl.col("run_id").is_in(runs.diverged).sum().alias("diverged")
    )
    return [
        f"{row['diverged']} of {row['len']} trials of {row['arm']} diverged; means, intervals and p-values are about the others."
        for row in counts.iter_rows(named=True)
        if row["diverged"]
    ]


def tuning(runs: Runs) -> list[dict[str, object]]:
    """A row an arm: what its search tried, and what it is compared with."""
    return [
        row
        | {
            "best": ", ".join(
                f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in (row["best"] or {}).items()
            )
        }
        for row in runs.experiment.get("tuned", [])
    ]


def latex(value: object) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(letter, letter) for letter in str(value))


def _render(template: str, context: dict[str, object], escape: bool) -> str:
    source = (resources.files("analysis") / "templates" / template).read_text(encoding="utf-8")
    environment = Environment(autoescape=escape, trim_blocks=True, lstrip_blocks=True)
    environment.filters["latex"] = latex
    return environment.from_string(source).render(**context)
