"""The trials behind all numbers, with links to their runs."""

import polars as pl

from analysis.all_metrics import values_frame
from analysis.convergence import target_value, times_to
from analysis.runs import UNITS, Runs
from analysis.section import Cell, Row, Section, Table
from analysis.wording import counted, number
from workbench.metrics import metric


def section(runs: Runs) -> Section:
    """Returns one row per trial, with a link to its run in MLflow."""
    frame = trial_table(runs)
    rows = [
        Row(
            [
                row["arm"],
                str(row["seed"]),
                "diverged" if row["outcome"] == "diverged" else number(row["primary"]),
                number(row["to_target"], 1),
                number(row["seconds"], 1),
                Cell(row["run_id"], runs.address(row["run_id"])),
            ],
            id=f"run-{row['run_id']}",
        )
        for row in frame.iter_rows(named=True)
    ]
    heads = (
        "arm",
        "seed",
        metric(runs.record.primary).title,
        f"{UNITS[runs.over]} to the target",
        "seconds of training",
        "run",
    )
    local = ", while `wb ui` is running" if runs.home.startswith("http://127.0.0.1") else ""
    caption = f"{counted(len(rows), 'trial')}, what each reached, and their runs"
    note = (
        f"A run's id links to its page in MLflow{local}. The tables as CSV and LaTeX and the figures as PNG, SVG and"
        " PDF are next to this page in tables/ and figures/."
    )
    return Section(
        "trials",
        "Trials",
        tables=[Table(caption, heads, rows, folded=True)],
        notes=[note],
        frames={"trials": frame, "values": values_frame(runs, runs.names(""))},
    )


def trial_table(runs: Runs) -> pl.DataFrame:
    """Returns `arm`, `seed`, `run_id`, `outcome`, the `primary` metric, the time `to_target` (null for a miss), and the
    `seconds` of training."""
    name, target = target_value(runs)
    times = times_to(runs, name, target).select("arm", "seed", to_target="time")
    table = runs.trials.select("arm", "seed", "run_id", "outcome")
    for part in (
        runs.final(runs.record.primary).rename({"value": "primary"}),
        times,
        runs.last("seconds").rename({"value": "seconds"}),
    ):
        table = table.join(part, on=["arm", "seed"], how="left", maintain_order="left")
    return table
