from pathlib import Path

import polars as pl
import pytest

from tests.analysis.toy import toy_store
from workbench.errors import UserError
from workbench.record import SweepRecord
from workbench.runs.export import export_run


def test_a_sweep_comes_out_as_frames_with_its_record(tmp_path: Path) -> None:
    uri, run_id = toy_store(tmp_path, 2, 3)
    exported = export_run(uri, run_id, tmp_path / "a" / "b")
    trials, metrics = (pl.read_parquet(tmp_path / "a" / "b" / f"{name}.parquet") for name in ("trials", "metrics"))
    assert (exported.trials, exported.metrics) == (len(trials), len(metrics))
    assert exported.trials == 6
    record = SweepRecord.model_validate_json((tmp_path / "a" / "b" / "experiment.json").read_text())
    assert set(trials["arm"]) == set(record.arms)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    uri, run_id = toy_store(tmp_path, 1, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*cannot be written"):
        export_run(uri, run_id, tmp_path / "file" / "below")
