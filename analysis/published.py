"""The peers' published numbers beside a sweep's own."""

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
# Our metric of each column, and the corpus that the images must come from for the two to be about the same benchmark.
# Recall is fine-tuned, as it is in the published columns.
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
    """`columns`: benchmarks in order, key -> name; `rows`: model, images and a cell per column; `caution`: how far they
    compare."""

    columns: dict[str, str]
    rows: list[dict[str, Any]]
    frame: pl.DataFrame
    caution: str


def section(runs: Runs) -> Section:
    """The published numbers and ours in one table."""
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
    """Each arm's mean in per cent, in the columns that it was measured in, then the models of `published.yaml` with
    their provenance."""
    source = (resources.files("analysis") / "published.yaml").read_text(encoding="utf-8")
    told = yaml.safe_load(source)
    columns: dict[str, str] = told["columns"]
    data = runs.record.setting("data", {})
    rows = [{"name": arm, "images": OWN} | _measured(runs, arm, data) for arm in runs.arms]
    measured = any(len(row) > 2 for row in rows)
    rows += [
        {"name": model.pop("name"), "images": model.pop("images")}
        | {column: (value, provenance) for column, (value, provenance) in model.items()}
        for model in told["models"]
    ]
    cells = [
        (row["name"], row["images"], columns[key], row[key][0], row[key][1])
        for row in rows
        for key in columns
        if key in row
    ]
    return Peers(columns, rows, pl.DataFrame(cells, schema=PUBLISHED, orient="row"), _caution(data, measured))


def _measured(runs: Runs, arm: str, data: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Column -> the arm's mean in per cent."""
    names = " ".join(str(name).lower() for name in data.get("mix", {}))
    found = {}
    for column, (metric, corpus) in OURS.items():
        values = runs.final(metric).filter(pl.col("arm") == arm)["value"]
        if len(values) and (corpus is None or corpus in names):
            found[column] = (100 * float(values.mean()), _measured_on(runs, arm, metric.rpartition("/")[0]))  # type: ignore[arg-type]
    return found


def _measured_on(runs: Runs, arm: str, split: str) -> str:
    """`measured`, or on how many of the split's examples, where some trial lacks images."""
    counts = [runs.final(f"{split}/{name}").filter(pl.col("arm") == arm)["value"] for name in ("examples", "missing")]
    if not all(map(len, counts)) or not (missing := int(counts[1].to_numpy().max())):
        return "measured"
    examples = int(counts[0].to_numpy().min())
    return f"measured on {examples:,} of {examples + missing:,} examples"


def _caution(data: dict[str, Any], measured: bool) -> str:
    source = ", ".join(data.get("mix", {})) or str(data.get("source", "unknown data"))
    if not measured:
        return (
            f"No arm of this sweep (data: {source}) was measured on any of these benchmarks; wb finetune does that. The"
            " published numbers stand alone."
        )
    told = f"This sweep was pre-trained on {source}, the published models on the images that their row names."
    if data.get("source") == "scenes":
        told += (
            " Tasks that were fine-tuned without annotations are made of rendered scenes and do not compare with the"
            " published ones at all."
        )
    return told
