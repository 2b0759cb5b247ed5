"""Look at it: held-out pairs on which the arms disagree most, and what the method made of one pair."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.paired import arm_names, noun
from analysis.runs import Runs
from analysis.section import Cell, Row, Section, Table
from analysis.wording import number
from workbench.metrics import spaced

MOST = 12
NOTE = (
    "Each score is the mean over an arm's seeds of how much more likely than the other caption the true one is matched,"
    " as a probability: 1 / (1 + exp(other − true)) of the log odds; below .5 the other caption wins. The pairs shown"
    " are those whose scores differ most between arms: they are chosen for that, and are not typical."
)


def section(runs: Runs) -> Section | None:
    """Up to a dozen pairs with each arm's score, and one pair as the method treats it."""
    found = {run: told for run, told in runs.examples.items() if told.get("pairs")}
    if not found:
        return None
    arms = dict(runs.trials.select("run_id", "arm").iter_rows())
    scores = _scores({run: told for run, told in found.items() if run in arms}, arms)
    shown = next(iter(found.values()))
    tables = [_pairs(runs, shown["pairs"], scores)] if scores else []
    tables += [_method(told["method"], arm) for arm, told in _one_per_arm(found, arms, runs) if told.get("method")]
    return Section("examples", "Look at it", tables=tables, notes=[NOTE], split=str(shown.get("split", "")))


def _scores(found: dict[str, dict[str, Any]], arms: dict[str, str]) -> dict[str, np.ndarray]:
    """Arm -> score of each pair, its mean over seeds; trials that were shown other pairs than the first one are left
    out."""
    if not found:
        return {}
    first = [(pair["caption"], pair["other"]) for pair in next(iter(found.values()))["pairs"]]
    by_arm: dict[str, list[np.ndarray]] = {}
    for run, told in found.items():
        if [(pair["caption"], pair["other"]) for pair in told["pairs"]] == first:
            gaps = np.array([pair["match"] - pair["other_match"] for pair in told["pairs"]], dtype=float)
            by_arm.setdefault(arms[run], []).append(1 / (1 + np.exp(-np.clip(gaps, -500, 500))))
    return {arm: np.mean(each, axis=0) for arm, each in by_arm.items()}


def _pairs(runs: Runs, pairs: Sequence[dict[str, Any]], scores: dict[str, np.ndarray]) -> Table:
    arms = [arm for arm in runs.arms if arm in scores]
    apart = np.ptp(np.stack([scores[arm] for arm in arms]), axis=0)
    rows = []
    for place in np.argsort(-apart, kind="stable")[:MOST]:
        pair = pairs[int(place)]
        image = Cell("", image=pair["image"], title=pair["caption"])
        texts = (pair["caption"], pair["other"], spaced(pair["kind"]))
        rows.append(Row([image, *texts, *(number(float(scores[arm][place]), 2) for arm in arms)]))
    names = arm_names(runs)
    caption = f"Pairs on which the arms disagree most; a column per {noun(runs)}" if len(arms) > 1 else "Held-out pairs"
    return Table(caption, ("image", "caption", "other caption", "kind", *(names[arm] for arm in arms)), rows)


def _one_per_arm(
    found: dict[str, dict[str, Any]], arms: dict[str, str], runs: Runs
) -> list[tuple[str, dict[str, Any]]]:
    """The examples of each arm's first trial."""
    first: dict[str, dict[str, Any]] = {}
    for run, arm in runs.trials.sort("seed").select("run_id", "arm").iter_rows():
        if run in found:
            first.setdefault(arm, found[run])
    return [(arm, first[arm]) for arm in runs.arms if arm in first]


def _method(method: dict[str, Any], arm: str) -> Table:
    """The masked words of one caption with their soft labels, and the negatives that were written over it."""
    rows = [
        Row(
            [
                Cell("", image=method["image"], title=method["caption"]) if not place else "",
                masked["word"],
                *(_words(masked[name]) for name in ("label", "model")),
            ]
        )
        for place, masked in enumerate(method["masked"])
    ]
    rows += [Row(["", "written negative", Cell(text), ""]) for text in method["written"]]
    return Table(
        f"{arm}: “{method['caption']}”", ("image", "masked word", "its label", "the model's answer"), rows, folded=True
    )


def _words(told: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{word} {number(float(share), 2)}" for word, share in told)
