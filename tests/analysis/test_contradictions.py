"""No sentence of the page contradicts a table of it: random sweeps with missing, diverged, tied and single trials, and
with scores at chance."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analysis import topics
from analysis.convergence import AT_LEAST, AT_MOST, FASTER, INCOMPARABLE, SLOWER
from analysis.paired import BASELINE, EQUIVALENT, FEW, HIGHER, LOWER, NONE, UNDECIDED
from analysis.runs import METRICS, TRIALS, Runs
from analysis.section import Cell, Section
from analysis.summaries import with_summaries
from workbench.config.schema import Target
from workbench.metrics import metric
from workbench.record import SweepRecord
from workbench.significance import LEVEL

STEPS = (50, 100, 150, 200)
KINDS = ("swap", "add")
# What a sentence of a page may never hold.
ODD = re.compile(
    r"\bnan\b|\bNone\b|\binf\b|[-−+]0\.0+(?!\d)|\b1 (paired )?(seeds|trials|kinds)\b|  |\[\]|\(\)|, ,|; ;|\.\.(?!\.)"
)


@pytest.fixture(scope="module", autouse=True)
def _no_drawing() -> Iterator[None]:
    """Figures are not what is tested here, and take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for topic in topics.TOPICS:
            module = __import__(topic.__module__, fromlist=["x"])
            for name in vars(module):
                if name.endswith("_figure"):
                    patch.setattr(module, name, lambda *_: Figure())
        yield


@dataclass(frozen=True)
class Drawn:
    """What is random about a sweep: each trial is finished, missing or diverged; values may be tied, or at chance."""

    arms: int
    seeds: int
    trouble: float
    ties: bool
    chance: bool
    effect: float
    seed: int
    levels: bool
    margin: float | None
    target: float | str


sweeps = st.builds(
    Drawn,
    arms=st.integers(1, 4),
    seeds=st.sampled_from([1, 2, 5, 6, 8]),
    trouble=st.sampled_from([0.0, 0.2, 0.6]),
    ties=st.booleans(),
    chance=st.booleans(),
    effect=st.sampled_from([0.0, 0.03, -0.08]),
    seed=st.integers(0, 10_000),
    levels=st.booleans(),
    margin=st.sampled_from([None, 0.02, 0.2]),
    target=st.sampled_from([0.8, 0.99, "baseline_final"]),
)


def built(drawn: Drawn) -> Runs:
    """The sweep, over one number or over words."""
    arms = [f"level={place}" for place in range(drawn.arms)]
    seeds, trouble, ties, chance, effect = drawn.seeds, drawn.trouble, drawn.ties, drawn.chance, drawn.effect
    rng = np.random.default_rng(drawn.seed)
    trials, rows = [], []
    for place, arm in enumerate(arms):
        for seed in range(seeds):
            fate = rng.random()
            if fate < trouble / 2:
                continue
            diverged = fate < trouble or (place == 2 and trouble == 0.6)
            run = f"{arm}{seed}"
            trials.append((run, run, "FINISHED", arm, seed, "diverged" if diverged else "finished"))
            skill = 0.0 if chance else 0.4 + effect * place
            for step in STEPS[: 1 if diverged else 4]:
                rows.append(
                    (
                        run,
                        "val/itm_auc",
                        step,
                        0.5 + skill * (1 - np.exp(-step / (60 + 30 * place))) + 0.01 * rng.normal(),
                    )
                )
                rows.append((run, "seconds", step, step * (0.1 + 0.01 * place)))
            if diverged:
                continue
            end = 0.5 + skill + 0.01 * rng.normal(size=12)
            end = np.clip(np.round(end, 1) if ties else end, 0, 1)
            named = [
                "test/foil_accuracy",
                "test/itm_auc",
                "robustness/clean/0",
                "robustness/blur/1",
                "robustness/noise/1",
            ]
            named += [f"compositional/scenes/{kind}" for kind in KINDS] + [
                f"blank_image/scenes/{kind}" for kind in KINDS
            ]
            rows += [(run, name, STEPS[-1], float(value)) for name, value in zip(named, end, strict=False)]
            rows += [(run, "test/itm_ece", STEPS[-1], abs(float(end[9]) - 0.5) / 10)]
            for name, value in (("confidence", 0.9), ("accuracy", float(end[10])), ("share", 1.0)):
                rows.append((run, f"reliability/itm/13/{name}", STEPS[-1], value))
    values = {arm: {"objectives.itm.hard_ratio": place / 4} for place, arm in enumerate(arms)}
    record = SweepRecord(
        version=2,
        question="What?",
        arms=arms,
        baseline_arm=arms[0],
        arm_values=values if drawn.levels else {},
        primary="test/foil_accuracy",
        margin=drawn.margin,
        target=Target.model_validate({"metric": "val/itm_auc", "value": drawn.target}),
    )
    frames = pl.DataFrame(trials, schema=TRIALS, orient="row"), pl.DataFrame(rows, schema=METRICS, orient="row")
    return Runs("r", "n", record, *frames)


def texts(section: Section) -> Iterator[str]:
    yield from (*section.lead, *section.points, *section.warnings, *section.notes)
    for table in section.tables:
        yield from (text for text in (table.caption, table.note, *table.heads) if text)
        for row in table.rows:
            yield from (cell.text if isinstance(cell, Cell) else cell for cell in row.cells)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(sweeps)
@example(
    Drawn(
        arms=3,
        seeds=1,
        trouble=0.6,
        ties=False,
        chance=False,
        effect=0.0,
        seed=1,
        levels=False,
        margin=None,
        target=0.8,
    )
)  # every trial diverges
def test_sentences_follow_from_the_tables(drawn: Drawn) -> None:
    runs = built(drawn)
    if runs.trials.is_empty():
        return
    by_name = {section.name: section for section in topics.sections(with_summaries(runs))}
    for section in by_name.values():
        for text in texts(section):
            assert not ODD.search(text), (section.name, text)
        assert all(
            text.strip().endswith(".") for text in (*section.lead, *section.points, *section.warnings, *section.notes)
        )
        for table in section.tables:
            assert all(len(row.cells) == len(table.heads) for row in table.rows), (section.name, table.caption)
    check_answer(by_name["answer"], runs)
    for name in ("answer", "metrics", "robustness", "calibration"):
        if name in by_name:
            for frame in by_name[name].frames.values():
                check_frame(frame)
    if "convergence" in by_name and "convergence" in by_name["convergence"].frames:
        check_convergence(by_name["convergence"])
    if "robustness" in by_name:
        check_robustness(by_name["robustness"], runs)


def check_frame(frame: pl.DataFrame) -> None:
    """Intervals hold their estimates and stay where the metric can be; what is bold is what the test rejects, and what
    the interval shows."""
    for row in frame.iter_rows(named=True):
        if {"metric", "mean", "low", "high"} <= set(row) and row["low"] is not None:
            least, most = metric(row["metric"]).bounds
            assert least <= row["low"] <= row["mean"] + 1e-9
            assert row["mean"] - 1e-9 <= row["high"] <= most
        if row.get("verdict") in (HIGHER, LOWER):
            assert row["p_adjusted"] <= LEVEL
            if not row["ranked"]:
                assert (row["difference"] > 0) == (row["verdict"] == HIGHER)
                assert not row["all_low"] < 0 < row["all_high"]
        elif row.get("p_adjusted") is not None:
            assert row["p_adjusted"] > LEVEL
            if not row["ranked"] and row["all_low"] is not None:
                assert row["all_low"] <= 0 <= row["all_high"]


CLAUSES = {
    HIGHER: r"raises? (?!it|foil accuracy$)",
    LOWER: r"lowers? ",
    EQUIVALENT: r" equivalent to the baseline within",
    UNDECIDED: r" (?:is|are) undecided",
    FEW: r" too few for a verdict",
    NONE: r" not compared, having no value",
}


def check_answer(section: Section, runs: Runs) -> None:
    """Each arm stands in the clause of its verdict, and in no other."""
    frame = section.frames["contrasts"]
    compared = [row for row in frame.iter_rows(named=True) if row["verdict"] != BASELINE]
    (sentence,) = section.lead
    assert sentence.startswith("Every trial diverged") == (runs.trials["outcome"] == "diverged").all() or not compared
    if sentence.startswith("Every trial diverged"):
        return
    if not compared:
        assert "no other arm" in sentence or "no final value" in sentence or "nothing to compare" in sentence
        return
    named = {arm: f"{values['objectives.itm.hard_ratio']:g}" for arm, values in runs.record.arm_values.items()}
    clauses = [
        clause
        for clause in sentence.removesuffix(".").split("; ")
        if not re.match(r"(?i)no (arm|hard ratio) is shown", clause)
    ]
    for row in compared:
        name = re.escape(named.get(row["arm"], row["arm"]))
        own = [clause for clause in clauses if re.search(rf"(?:^|, | and ){name}(?=,| )", clause)]
        assert len(own) >= 1, (sentence, row["arm"])
        assert re.search(CLAUSES[row["verdict"]], own[0]), (sentence, row)
    shown = [row["verdict"] for row in compared]
    assert ("is shown to" in sentence) == (HIGHER not in shown and bool({LOWER, EQUIVALENT, UNDECIDED} & set(shown)))
    told = {arm for arm in runs.arms if any(f" of {arm} diverged" in warning for warning in section.warnings)}
    assert told == set(runs.trials.filter(pl.col("outcome") == "diverged")["arm"])


def check_convergence(section: Section) -> None:
    """Counts, bounds and verdicts in words are those of the table."""
    times = section.frames["times_to_target"]
    for sentence, row in zip(section.points, section.frames["convergence"].iter_rows(named=True), strict=True):
        reached = times.filter((pl.col("arm") == row["arm"]) & pl.col("time").is_not_null()).height
        assert sentence.startswith(f"{row['arm']}: ")
        assert f"{reached} of {row['seeds']} seed" in sentence
        assert (row["verdict"] == FASTER) == (": faster, " in sentence)
        assert (row["verdict"] == SLOWER) == (": slower, " in sentence)
        assert (row["bound"] == INCOMPARABLE) == ("no ratio" in sentence)
        for bound in (AT_MOST, AT_LEAST):
            assert (row["bound"] == bound) == (f"{bound} " in sentence)
        if row["bound"] == INCOMPARABLE:
            assert row["speed_up"] is None
        if row["speed_up"] is not None and row["verdict"] in (FASTER, SLOWER):
            assert (row["speed_up"] > 1) == (row["verdict"] == FASTER)
        assert row["time"] is None or row["time"] >= 0


def check_robustness(section: Section, runs: Runs) -> None:
    table: dict[str, Any] = {
        row["arm"]: row
        for row in section.frames["robustness_summaries"].filter(metric="robustness_mean_drop").iter_rows(named=True)
    }
    for arm in runs.arms:
        row = table.get(arm)
        more, less = (any(f"{arm} loses {word} than" in said for said in section.points) for word in ("more", "less"))
        assert more == (row is not None and row["verdict"] == HIGHER)
        assert less == (row is not None and row["verdict"] == LOWER)
