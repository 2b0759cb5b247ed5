"""What is said of a sweep whose trials were not all made from the same data and start, or run with the same code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import report
from analysis.inputs import code_states, mixtures
from analysis.measured import facts
from analysis.report import render
from analysis.runs import Runs
from tests.analysis.toy import toy_runs
from workbench.record import TrialTags, Tuned, code_state

RATIO = "objectives.itm.hard_ratio"


def runs_of(name: str, levels: list[Any], made: list[dict[str, str]]) -> Runs:
    """A sweep over one factor with two seeds; the tags of each trial, arm by arm."""
    runs = toy_runs({f"a{place}": {name: level} for place, level in enumerate(levels)}, 2, lambda *_: 0.5)
    tags = {
        run: TrialTags(study="s", seed=0, cell="", arm="", **told)
        for run, told in zip(runs.trials["run_id"], made, strict=True)
    }
    return replace(runs, tags=tags)


OLD, NEW = {"data": "folder-1", "warm_start": "warm-1"}, {"data": "folder-2", "warm_start": "warm-2"}
OTHER = {"data": "folder-1", "warm_start": "warm-2"}
LONG = {"data": "folder-1", "warm_start": "warm-1-3"}
CASES: list[tuple[str, list[dict[str, str]], list[str]]] = [
    (RATIO, [OLD, OLD, OLD, OLD], []),
    (RATIO, [OLD, OLD, NEW, NEW], ["data: folder-1 (a0); folder-2 (a1)"]),
    (RATIO, [OLD, NEW, OLD, OLD], ["data: folder-1 (a0 and a1); folder-2 (a0)"]),
    (RATIO, [OLD, OLD, OTHER, OTHER], ["starting weights: warm-1 (a0); warm-2 (a1)"]),
    (RATIO, [OLD, OLD, {}, {}], []),
    (RATIO, [OLD, OLD, LONG, LONG], []),
    ("model.fusion.layers", [OLD, OLD, OTHER, OTHER], ["starting weights: warm-1 (a0); warm-2 (a1)"]),
    ("data.augment", [OLD, OLD, NEW, NEW], ["data: folder-1 (a0); folder-2 (a1)"]),
    ("data.caption_noise", [OLD, OLD, NEW, NEW], ["data: folder-1 (a0); folder-2 (a1)"]),
    ("data.train_pairs", [OLD, OLD, NEW, NEW], []),
    ("model.width", [OLD, OLD, OTHER, OTHER], []),
    ("model.width", [OLD, OLD, NEW, NEW], ["data: folder-1 (a0); folder-2 (a1)"]),
    ("warm_start.steps", [OLD, OLD, OTHER, OTHER], []),
    ("warm_start.steps", [OLD, OTHER, OTHER, OTHER], ["starting weights: warm-1 (a0); warm-2 (a0)"]),
]


@pytest.mark.parametrize(("name", "made", "said"), CASES)
def test_trials_that_ask_for_the_same_were_made_from_the_same(
    name: str, made: list[dict[str, str]], said: list[str]
) -> None:
    sentences = mixtures(runs_of(name, [1, 2], made))
    assert [
        sentence.removeprefix("The trials were not all made from the same ").split(". ")[0] for sentence in sentences
    ] == said


def test_settings_that_a_search_has_chosen_ask_for_their_own() -> None:
    runs = runs_of(RATIO, [1, 2], [OLD, OLD, OTHER, OTHER])
    tuned = [
        Tuned(arm=f"a{place}", tried=1, pruned=0, diverged=0, best={"model.width": 8 * place}, value=0.5)
        for place in (1, 2)
    ]
    assert mixtures(replace(runs, record=runs.record.model_copy(update={"tuned": tuned}))) == []


@pytest.mark.parametrize(
    ("settings", "levels", "made", "said"),
    [
        ({}, [1, 2], [NEW] * 4, "data: folder-1 (toy one: a0 and toy one: a1); folder-2 (toy two: a0 and toy two: a1)"),
        ({}, [1, 2], [OLD] * 4, ""),
        (
            {},
            [3, 4],
            [OTHER] * 4,
            "starting weights: warm-1 (toy one: a0 and toy one: a1); warm-2 (toy two: a0 and toy two: a1)",
        ),
        (
            {"data": {"train_pairs": 9}},
            [1, 2],
            [NEW] * 4,
            "",
        ),  # what they ask for differs, which the page says elsewhere
    ],
)
def test_sweeps_that_are_compared_were_made_from_the_same(
    settings: dict[str, Any], levels: list[Any], made: list[dict[str, str]], said: str
) -> None:
    one = replace(runs_of(RATIO, [1, 2], [OLD] * 4), run_id="1", name="toy one")
    two = replace(runs_of(RATIO, levels, made), run_id="2", name="toy two")
    two = replace(two, record=two.record.model_copy(update={"settings": settings}))
    sentences = mixtures(one, two)
    assert [
        sentence.removeprefix("The trials were not all made from the same ").split(". ")[0] for sentence in sentences
    ] == ([said] if said else [])


def test_a_mixture_stands_at_the_head_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "FORMS", {})
    runs = runs_of(RATIO, [1, 2], [OLD, OLD, NEW, NEW])
    page = render([], runs, tmp_path, mixtures(runs))
    for form in (page, page.with_suffix(".md")):
        assert "The trials were not all made from the same data" in form.read_text()


def test_states_of_the_code_are_counted() -> None:
    one, two = code_state({"commit": "a" * 40}), code_state({"commit": "b" * 40, "diff_sha256": "c" * 64})
    assert (one, two, code_state({"workbench": "1.0"})) == ("a" * 12, f"{'b' * 12}+{'c' * 8}", "workbench 1.0")
    same = [{"code": one}] * 4
    assert code_states(runs_of(RATIO, [1, 2], same)) == ""
    mixed = runs_of(RATIO, [1, 2], [*same[:2], {"code": f"{one}, {two}"}, {"code": two}])
    told = f"trials were run with 2 different versions of the code: {one} (3 trials) and {two} (2 trials)"
    assert dict(facts(mixed))["code of the trials"] == told
