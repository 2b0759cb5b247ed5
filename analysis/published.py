"""Compares a sweep's results with the published numbers of other models."""

from dataclasses import dataclass
from importlib import resources
from typing import Any

import polars as pl
import yaml

from analysis.foils import PARTIAL
from analysis.runs import Runs
from analysis.section import Cell, Row, Section, Table

PUBLISHED = {
    "model": pl.String,
    "images": pl.String,
    "benchmark": pl.String,
    "value": pl.Float64,
    "provenance": pl.String,
}
OWN = "this sweep"
# Our metric for each column, and the corpus that the images must come from so that both are the same benchmark. Recall
# is fine-tuned, as in the published columns.
OURS = {
    "vqa_dev": ("downstream/vqa/accuracy", None),
    "nlvr2_dev": ("downstream/nlvr2/accuracy", None),
    "nlvr2_test": ("downstream/nlvr2/test/accuracy", None),
    "snli_ve_dev": ("downstream/snli_ve/accuracy", None),
    "snli_ve_test": ("downstream/snli_ve/test/accuracy", None),
    "coco_tr1": ("downstream/retrieval/text_r1", "coco"),
    "coco_ir1": ("downstream/retrieval/image_r1", "coco"),
    "flickr_tr1": ("downstream/retrieval/text_r1", "flickr"),
    "flickr_ir1": ("downstream/retrieval/image_r1", "flickr"),
}


@dataclass(frozen=True)
class Peers:
    """Published numbers and ours. `columns`: benchmarks in order, key -> name. `rows`: model, images and a cell per
    column. `caution`: how far they are comparable."""

    columns: dict[str, str]
    rows: list[dict[str, Any]]
    frame: pl.DataFrame
    caution: str


def section(runs: Runs) -> Section:
    """Returns the published numbers and ours in one table."""
    peers = against_published(runs)
    rows = []
    for row in peers.rows:
        cells: list[Cell | str] = [str(row["name"]), str(row["images"])]
        for key in peers.columns:
            value, provenance = row.get(key, (None, ""))
            mark = f" {PARTIAL}" if provenance.startswith("measured on") else ""
            cells.append(
                "–" if value is None else Cell(f"{value:.2f}{mark}", title=provenance, italic=provenance == "recalled")
            )
        rows.append(Row(cells))
    heads = ("model", "images", *peers.columns.values())
    note = (
        "In per cent. Italics: recalled from memory and unchecked; upright: read in a copy of the source, or measured"
        " here."
    )
    if any(PARTIAL in str(getattr(cell, "text", cell)) for row in rows for cell in row.cells):
        note += f" {PARTIAL} of a part of the split: the other examples have no image."
    return Section(
        "published",
        "Published numbers",
        [peers.caution],
        tables=[Table("", heads, rows, note)],
        frames={"published": peers.frame},
    )


def against_published(runs: Runs) -> Peers:
    """Returns each arm's mean in per cent, in the columns that it was measured in, then the models of `published.yaml`
    with their provenance."""
    source = (resources.files("analysis") / "published.yaml").read_text(encoding="utf-8")
    published = yaml.safe_load(source)
    columns: dict[str, str] = published["columns"]
    data = runs.record.setting("data", {})
    rows = [{"name": arm, "images": OWN} | _measured(runs, arm, data) for arm in runs.arms]
    measured = any(len(row) > 2 for row in rows)
    rows += [
        {"name": model.pop("name"), "images": model.pop("images")}
        | {column: (value, provenance) for column, (value, provenance) in model.items()}
        for model in published["models"]
    ]
    cells = [
        (row["name"], row["images"], columns[key], row[key][0], row[key][1])
        for row in rows
        for key in columns
        if key in row
    ]
    return Peers(columns, rows, pl.DataFrame(cells, schema=PUBLISHED, orient="row"), _caution(data, measured))


def _measured(runs: Runs, arm: str, data: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Returns column -> the arm's mean in per cent."""
    names = " ".join(str(name).lower() for name in data.get("mix", {}))
    means = {}
    for column, (metric, corpus) in OURS.items():
        values = runs.final(metric).filter(pl.col("arm") == arm)["value"]
        if len(values) and (corpus is None or corpus in names):
            means[column] = (100 * float(values.mean()), _measured_on(runs, arm, metric.rpartition("/")[0]))  # type: ignore[arg-type]
    return means


def _measured_on(runs: Runs, arm: str, split: str) -> str:
    """Returns `measured`, or on how many of the split's examples, where some trial lacks images."""
    counts = [runs.final(f"{split}/{name}").filter(pl.col("arm") == arm)["value"] for name in ("examples", "missing")]
    if not all(map(len, counts)) or not (missing := int(counts[1].to_numpy().max())):
        return "measured"
    examples = int(counts[0].to_numpy().min())
    return f"measured on {examples:,} of {examples + missing:,} examples"


def _caution(data: dict[str, Any], measured: bool) -> str:
    source = ", ".join(data.get("mix", {})) or str(data.get("source", "unknown data"))
    if not measured:
        return (
            f"No arm of this sweep (data: {source}) was measured on any of these benchmarks; `wb finetune` does"
            " that. Only published numbers are shown."
        )
    caution = f"This sweep was pre-trained on {source}, the published models on the images named in their rows."
    if data.get("source") == "scenes":
        caution += (
            " Tasks that were fine-tuned without annotations use rendered scenes and are not comparable with the"
            " published ones."
        )
    return caution
