"""The report on a store that is written here, with known numbers."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import analysis
from analysis import report
from analysis.ablation import headlines
from analysis.calibration import reliability_table
from analysis.compare import differing_settings, merged
from analysis.convergence import speed, times_to
from analysis.cost import cost_table
from analysis.paired import compare
from analysis.published import against_published
from analysis.report import write_report
from analysis.runs import METRICS, Runs, list_runs, read_runs
from analysis.topics import TOPICS
from tests.analysis.toy import sweep_of, toy_store
from workbench.cli.options import app
from workbench.errors import UserError
from workbench.record import SweepRecord
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store

ARMS = ("ratio=0.0", "ratio=<script>alert(1)</script>")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Tracker]:
    workspace = tmp_path_factory.mktemp("ws")
    uri = ensure_store(workspace)
    tracker = Tracker(uri, workspace)
    parent, _ = tracker.start("toy", {"study": "toy", "kind": "sweep"}, {}, {"preset": "tiny"})
    tracker.attach(
        parent,
        {
            "question": "Is <b>it</b> better?",
            "arms": list(ARMS),
            "baseline_arm": ARMS[0],
            "planned": 14,
            "primary": "val/itm_auc",
            "target": {"metric": "val/itm_auc", "value": 0.8025},
        },
        "experiment.json",
    )
    for seed in range(7):
        for place, arm in enumerate(ARMS):
            run, _ = tracker.start(f"{arm} {seed}", {"study": "toy", "cell": arm, "seed": str(seed)}, {}, {}, parent)
            for step in (10, 20, 30):
                value = 0.5 + 0.01 * step + 0.15 * place + 0.001 * seed
                tracker.log(run, {"val/itm_auc": 9.9 if step == 10 else value, "val/foil/swap_colours": value}, step)
                tracker.log(run, {"val/itm_auc": value}, step)  # a resumed run logs a step again
            scores = {"robustness/clean/0": 0.8} | {f"robustness/contrast/{s}": 0.8 - 0.04 * s for s in range(1, 6)}
            scores |= {"compositional/scenes/swap_colours": 0.9 + 0.01 * place, "blank_image/scenes/swap_colours": 0.5}
            scores |= {"seconds": 50.0 + 10 * place + seed, "samples_seen": 240.0}
            scores |= {"perf/device_seconds": 2 * (50.0 + 10 * place + seed), "perf/energy_joules": 4000.0}
            scores |= {"reliability/itm/14/confidence": 0.95, "reliability/itm/14/accuracy": 0.9}
            scores |= {"reliability/itm/14/share": 0.7, "reliability/itm/08/confidence": 0.55}
            scores |= {"reliability/itm/08/accuracy": 0.5 + 0.02 * seed, "reliability/itm/08/share": 0.3}
            tracker.log(run, scores, 30)
            tracker.finish(run)
    unfinished, _ = tracker.start("cut", {"study": "toy", "cell": ARMS[0], "seed": "7"}, {}, {}, parent)
    tracker.log(unfinished, {"val/itm_auc": 0.0}, 30)
    return uri, parent, tracker


@pytest.fixture
def svg_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures in one form, for tests that are about something else: drawing takes most of a report's time."""
    monkeypatch.setattr(report, "FORMS", {"svg": report.FORMS["svg"]})


@pytest.fixture(scope="module")
def written(store: tuple[str, str, Tracker], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the store's report."""
    return write_report(store[0], store[1], tmp_path_factory.mktemp("written")).parent


def test_contrasts_read_the_last_value_of_finished_trials(store: tuple[str, str, Tracker]) -> None:
    runs = read_runs(store[0], store[1])
    assert len(runs.trials) == 14
    table = compare(runs, ["val/itm_auc"])
    assert table["mean"].to_list() == pytest.approx([0.803, 0.953])
    assert table["difference"].to_list()[1] == pytest.approx(0.15)
    assert table["p"].to_list()[1] == pytest.approx(2 / 128)
    assert table["verdict"].to_list() == ["baseline", "higher"]


def test_a_faster_arm_has_a_speed_up_above_one(store: tuple[str, str, Tracker]) -> None:
    runs = read_runs(store[0], store[1])
    table = speed(runs, times_to(runs, "val/itm_auc", 0.8025))
    assert table["reached"].to_list() == [4, 7]  # the baseline's weaker seeds end below the target
    assert table["bound"].to_list()[1] == "at least"
    assert table["speed_up"].to_list()[1] > 1


def test_the_page_is_whole_escaped_and_needs_no_network(written: Path) -> None:
    html = (written / "report.html").read_text(encoding="utf-8")
    assert html.count("<script") == 1  # the page's own
    assert html.count("&lt;script&gt;alert(1)") >= 5
    assert "&lt;script&gt;" in html
    assert "Is &lt;b&gt;it" in html
    assert not re.search(r"src=\"(?!data:)", html)
    assert set(re.findall(r"href=\"([a-z]+://[^/]*)", html)) == {"http://127.0.0.1:5000"}  # MLflow's UI
    assert html.count('src="data:image/svg+xml;base64,') == 10
    assert "+0.150" in html
    for name in (
        "forest",
        "convergence",
        "suite_scenes",
        "severity",
        "losses",
        "clean_disturbed",
        "reliability",
        "cost",
    ):
        assert (written / "figures" / f"{name}.png").stat().st_size > 5000
        assert (written / "figures" / f"{name}.svg").exists()
    drops = pl.read_csv(written / "tables" / "robustness.csv")
    assert drops["mean"].to_list() == pytest.approx([0.4, 0.4])  # .12 of the .3 above chance
    assert "| ratio=0.0 | 7 |" in (written / "report.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("svg_alone")
def test_a_single_run_has_a_report_too(store: tuple[str, str, Tracker], tmp_path: Path) -> None:
    run = read_runs(store[0], store[1]).trials["run_id"][0]
    assert "ratio=0.0" in write_report(store[0], run, tmp_path).read_text(encoding="utf-8")


def test_mistakes_are_named(store: tuple[str, str, Tracker], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        read_runs(store[0], "abc")
    with pytest.raises(UserError, match="there are no runs yet"):
        read_runs(f"sqlite:///{tmp_path}/none.db", "abc")


def test_sweeps_are_listed(store: tuple[str, str, Tracker]) -> None:
    row = list_runs(store[0]).row(0, named=True)
    assert (row["name"], row["finished"], row["trials"]) == ("toy", 14, 14)


def test_one_table_is_written_for_latex(written: Path) -> None:
    text = (written / "tables" / "tables.tex").read_text(encoding="utf-8")
    assert r"ratio=\textless{}script\textgreater{}alert(1)" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert len({line.count("&") for line in rows}) == 1
    assert not re.search(r"(?<!\\)[_%#](?! )", "".join(rows))
    assert "−" not in text
    assert len(list((written / "figures").glob("*.pdf"))) == 10


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed (Debian: texlive-latex-recommended)"
)
@pytest.mark.usefixtures("svg_alone")
def test_the_table_fits_a_column_of_a_paper(tmp_path: Path) -> None:
    uri, run_id = toy_store(tmp_path / "ws", arms=5, seeds=6)
    write_report(uri, run_id, tmp_path / "report")
    paper = tmp_path / "paper.tex"
    paper.write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs}\\begin{document}\n"
        "\\input{report/tables/tables.tex}\n\\end{document}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", paper.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_every_number_of_a_table_is_the_mean_of_values_that_name_their_runs(
    written: Path,
) -> None:
    html = (written / "report.html").read_text(encoding="utf-8")
    values = pl.read_csv(written / "tables" / "values.csv")
    means = values.group_by("metric", "arm").agg(pl.col("value").mean())
    tables = pl.concat(
        [
            pl.read_csv(written / "tables" / f"{name}.csv").select("metric", "arm", "mean")
            for name in ("contrasts", "metrics")
        ]
    )
    joined = tables.join(means, on=["metric", "arm"])
    assert len(joined) == len(tables) >= 4
    assert joined["mean"].to_list() == pytest.approx(joined["value"].to_list())
    trials = pl.read_csv(written / "tables" / "trials.csv")
    speeds = pl.read_csv(written / "tables" / "convergence.csv")
    whole = (
        trials.with_columns(pl.col("to_target").fill_null(30.0))
        .group_by("arm", maintain_order=True)
        .agg(pl.col("to_target").mean())
    )
    assert whole["to_target"].to_list() == pytest.approx(speeds["time"].to_list())
    for run in values["run_id"].unique():
        assert f'href="#run-{run}"' in html
        assert f'<tr id="run-{run}">' in html
        assert re.search(
            rf'href="http://127.0.0.1:5000/#/experiments/\d+/runs/{run}\?workflowType=machine_learning"', html
        )


def test_cost_is_told_with_the_arms_that_none_beats(store: tuple[str, str, Tracker]) -> None:
    table = cost_table(read_runs(store[0], store[1]), "val/itm_auc")
    assert table["seconds"].to_list() == pytest.approx([53.0, 63.0])
    assert table["device_hours"].to_list() == pytest.approx([7 * 106 / 3600, 7 * 126 / 3600])
    assert table["kilojoules"].to_list() == [4.0, 4.0]
    assert table["front"].to_list() == [True, True]  # the second arm is dearer and better
    assert cost_table(read_runs(store[0], store[1]), "blank_image/scenes/swap_colours")["front"].to_list() == [
        True,
        False,
    ]


def test_device_hours_count_diverged_trials_and_seconds_do_not() -> None:
    runs = sweep_of({"base": [0.7, 0.8], "arm": [0.7, "diverged"]})
    seconds = pl.DataFrame(
        [
            ("base0", "seconds", 9, 100.0),
            ("base1", "seconds", 9, 110.0),
            ("arm0", "seconds", 9, 90.0),
            ("arm1", "seconds", 4, 30.0),
        ],
        schema=METRICS,
        orient="row",
    )
    table = cost_table(replace(runs, metrics=pl.concat([runs.metrics, seconds])), "val/itm_auc")
    assert table["seconds"].to_list() == [105.0, 90.0]
    assert table["device_hours"].to_list() == pytest.approx([210 / 3600, 120 / 3600])
    assert table["diverged"].to_list() == [0, 1]


def test_reliability_is_pooled_over_seeds(store: tuple[str, str, Tracker]) -> None:
    table = reliability_table(read_runs(store[0], store[1])).filter(pl.col("arm") == ARMS[0])
    assert table["bin"].to_list() == [8, 14]
    assert table["accuracy"].to_list() == pytest.approx([0.56, 0.9])
    assert table["share"].to_list() == pytest.approx([0.3, 0.7])
    assert table["low"][0] < 0.56 < table["high"][0]
    assert all(low <= mean <= high for low, mean, high in table.select("low", "accuracy", "high").iter_rows())


def test_sweeps_are_set_beside_each_other(store: tuple[str, str, Tracker]) -> None:
    read = read_runs(store[0], store[1])

    def about(**change: object) -> SweepRecord:
        return read.record.model_copy(update=change)

    one = replace(read, record=about(settings={"optimisation": {"steps": 30, "clip": 1.0}}))
    other = Runs(
        "other",
        "later",
        about(settings={"optimisation": {"steps": 60, "clip": 1.0}}),
        read.trials.with_columns(pl.col("run_id") + "x"),
        read.metrics.with_columns(pl.col("run_id") + "x", pl.col("value") + 0.01),
    )
    runs = merged([one, other])
    assert runs.arms == [f"toy: {arm}" for arm in ARMS] + [f"later: {arm}" for arm in ARMS]
    table = compare(runs, ["val/itm_auc"])
    assert table["difference"].to_list()[1:] == pytest.approx([0.15, 0.01, 0.16])
    assert differing_settings([one, other]) == [("optimisation.steps", ["30", "60"])]
    cells = {f"{arm} {seed}": arm for arm in ARMS for seed in range(7)}
    changed = {(cell if arm == ARMS[0] else f"{cell}'"): arm for cell, arm in cells.items()}
    begun = replace(one, record=one.record.model_copy(update={"cells": cells}))
    same = replace(other, record=other.record.model_copy(update={"cells": changed}))
    assert merged([begun, same]).arms[2:] == [f"later: {ARMS[1]}"]
    more = replace(other, record=other.record.model_copy(update={"cells": changed | {"an eighth seed": ARMS[0]}}))
    assert merged([begun, more]).arms[2:] == [f"later: {arm}" for arm in ARMS]
    with pytest.raises(UserError, match="named twice"):
        merged([one, one])
    with pytest.raises(UserError, match="has no val/itm_auc"):
        merged([one, replace(other, metrics=other.metrics.clear())])


@pytest.mark.usefixtures("svg_alone")
def test_published_numbers_stand_beside_ours_with_their_provenance(
    store: tuple[str, str, Tracker], tmp_path: Path
) -> None:
    runs = read_runs(store[0], store[1])
    measured = [(run, "downstream/vqa/accuracy", 30, 0.7) for run in runs.trials["run_id"]]
    rows = pl.DataFrame(measured, schema=METRICS, orient="row")
    about = runs.record.model_copy(update={"settings": {"data": {"source": "scenes"}}})
    peers = against_published(replace(runs, record=about, metrics=pl.concat([runs.metrics, rows])))
    ours = peers.frame.filter(pl.col("images") == "this sweep")
    assert ours["value"].to_list() == pytest.approx([70.0, 70.0])
    assert ours["benchmark"].to_list() == ["VQAv2 test-dev"] * 2
    assert "not comparable" in peers.caution
    assert set(peers.frame["provenance"]) == {"measured", "seen", "recalled"}
    html = write_report(store[0], store[1], tmp_path, against_published=True).read_text(encoding="utf-8")
    assert '<em title="recalled">75.70</em>' in html
    assert ">71.26</td>" in html  # read
    assert "was measured on any of these" in html


@pytest.mark.usefixtures("svg_alone")
def test_time_can_be_seconds(store: tuple[str, str, Tracker], tmp_path: Path) -> None:
    html = write_report(store[0], store[1], tmp_path, over="seconds").read_text(encoding="utf-8")
    assert "Device-seconds of training until" in html
    tracker = store[2]
    bare, _ = tracker.start("bare", {"study": "bare", "cell": "a", "seed": "0"}, {}, {})
    tracker.log(bare, {"val/itm_auc": 0.5}, 10)
    tracker.finish(bare)
    assert write_report(store[0], bare, tmp_path).exists()
    with pytest.raises(UserError, match="use --over steps"):
        write_report(store[0], bare, tmp_path, over="pairs")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a", "b"], "give one run"),
        (["--compare", "--run-id", "a"], "at least two runs"),
        (["--run-id", "a", "--over", "days"], "one of steps, pairs, seconds"),
        (["--run-id", "a", "--against", "me"], "only `published` is possible"),
    ],
)
def test_what_a_report_cannot_be_asked_is_said_in_a_sentence(given: list[str], said: str) -> None:
    ended = CliRunner().invoke(app, ["report", *given])
    assert isinstance(ended.exception, UserError)
    assert said in str(ended.exception)


@pytest.mark.usefixtures("svg_alone")
def test_sweeps_are_compared_from_the_command_line(tmp_path: Path) -> None:
    uri, one = toy_store(tmp_path, arms=2, seeds=3)
    other = toy_store(tmp_path, arms=3, seeds=2, name="later")[1]
    assert uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    ended = CliRunner().invoke(app, ["report", "--compare", one, other, "--workspace", str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    page = (tmp_path / "reports" / f"{one[:8]}-{other[:8]}" / "report.html").read_text(encoding="utf-8")
    assert "toy: hard_ratio=0.5" in page
    assert "later: hard_ratio=0.667" in page


def test_the_ablation_table_takes_the_test_split_where_it_was_measured() -> None:
    runs = sweep_of({"base": [0.7, 0.8], "arm": [0.7, 0.9]}, "test/itm_auc")
    both = pl.concat(
        [runs.metrics.with_columns(metric=pl.lit(name)) for name in ("test/itm_auc", "val/itm_auc", "val/mlm_accuracy")]
    )
    assert headlines(replace(runs, metrics=both)) == ["test/itm_auc", "val/mlm_accuracy"]


def test_a_topic_is_one_file_and_one_line() -> None:
    """No template knows a topic by name, and no topic but those that build on another one imports it."""
    home = Path(analysis.__file__).parent
    names = {topic.__module__.rpartition(".")[2] for topic in TOPICS}
    for template in (home / "templates").iterdir():
        text = template.read_text(encoding="utf-8")
        assert not [name for name in names - {"trials"} if f'"{name}"' in text or f"#{name}" in text], template
    for module in ("section", "style", "wording", "statistics", "families", "paired", "runs"):
        text = (home / f"{module}.py").read_text(encoding="utf-8")
        assert not [name for name in names if f"analysis.{name} " in text], module
