"""What of a report becomes metrics of the sweep's run."""

import re
from pathlib import Path

import polars as pl
import pytest

from workbench.sweep.summary import summary


def test_names_are_such_as_mlflow_takes_and_intervals_are_the_simultaneous_ones(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    arms = ["base", "kind=[a, b] · ratio=0.5"]
    numbers = {"mean": [0.5, 0.6], "difference": [None, 0.1], "all_low": [None, 0.05], "all_high": [None, 0.15]}
    other = {"difference_low": [None, 0.08], "p": [None, 0.01]}
    table = pl.DataFrame({"metric": ["test/foil_accuracy"] * 2, "arm": arms, **numbers, **other})
    table.write_csv(tmp_path / "tables" / "ablation.csv")
    metrics = summary(tmp_path / "report.html")
    assert metrics == pytest.approx(
        {
            "mean/test/foil_accuracy/base": 0.5,
            "mean/test/foil_accuracy/kind:a b  ratio:0.5": 0.6,
            "effect/test/foil_accuracy/kind:a b  ratio:0.5": 0.1,
            "effect_low/test/foil_accuracy/kind:a b  ratio:0.5": 0.05,
            "effect_high/test/foil_accuracy/kind:a b  ratio:0.5": 0.15,
        }
    )
    assert all(re.fullmatch(r"[/\w.\- :]+", name) for name in metrics)


def test_a_report_without_a_table_of_arms_has_no_summary(tmp_path: Path) -> None:
    assert summary(tmp_path / "report.html") == {}
