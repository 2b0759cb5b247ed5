"""Examples: held-out pairs on which the arms disagree most, and the method's predictions for one pair."""

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
    """Returns up to `MOST` pairs with each arm's score, and the method's predictions for one pair."""
    examples = {run: content for run, content in runs.examples.items() if content.get("pairs")}
    if not examples:
        return None
    arms = dict(runs.trials.select("run_id", "arm").iter_rows())
    scores = _scores({run: content for run, content in examples.items() if run in arms}, arms)
    shown = next(iter(examples.values()))
    tables = [_pairs(runs, shown["pairs"], scores)] if scores else []
    tables += [
        _method(content["method"], arm) for arm, content in _one_per_arm(examples, arms, runs) if content.get("method")
    ]
    return Section("examples", "Look at it", tables=tables, notes=[NOTE], split=str(shown.get("split", "")))


def _scores(examples: dict[str, dict[str, Any]], arms: dict[str, str]) -> dict[str, np.ndarray]:
    """Returns arm -> mean score of each pair over seeds. Trials with other pairs than the first trial's are left
    out."""
    if not examples:
        return {}
    first = [(pair["caption"], pair["other"]) for pair in next(iter(examples.values()))["pairs"]]
    by_arm: dict[str, list[np.ndarray]] = {}
    for run, content in examples.items():
        if [(pair["caption"], pair["other"]) for pair in content["pairs"]] == first:
            gaps = np.array([pair["match"] - pair["other_match"] for pair in content["pairs"]], dtype=float)
            by_arm.setdefault(arms[run], []).append(1 / (1 + np.exp(-np.clip(gaps, -500, 500))))
    return {arm: np.mean(seeds, axis=0) for arm, seeds in by_arm.items()}


def _pairs(runs: Runs, pairs: Sequence[dict[str, Any]], scores: dict[str, np.ndarray]) -> Table:
    arms = [arm for arm in runs.arms if arm in scores]
    apart = np.ptp(np.stack([scores[arm] for arm in arms]), axis=0)
    rows = []
    for index in np.argsort(-apart, kind="stable")[:MOST]:
        pair = pairs[int(index)]
        image = Cell("", image=pair["image"], title=pair["caption"])
        texts = (pair["caption"], pair["other"], spaced(pair["kind"]))
        rows.append(Row([image, *texts, *(number(float(scores[arm][index]), 2) for arm in arms)]))
    names = arm_names(runs)
    caption = f"Pairs on which the arms disagree most; a column per {noun(runs)}" if len(arms) > 1 else "Held-out pairs"
    return Table(caption, ("image", "caption", "other caption", "kind", *(names[arm] for arm in arms)), rows)


def _one_per_arm(
    examples: dict[str, dict[str, Any]], arms: dict[str, str], runs: Runs
) -> list[tuple[str, dict[str, Any]]]:
    """Returns the examples of each arm's first trial."""
    first: dict[str, dict[str, Any]] = {}
    for run, arm in runs.trials.sort("seed").select("run_id", "arm").iter_rows():
        if run in examples:
            first.setdefault(arm, examples[run])
    return [(arm, first[arm]) for arm in runs.arms if arm in first]


def _method(method: dict[str, Any], arm: str) -> Table:
    """Returns a table of the masked words of one caption with their soft labels, and the negatives generated from
    it."""
    rows = [
        Row(
            [
                Cell("", image=method["image"], title=method["caption"]) if not index else "",
                masked["word"],
                *(_words(masked[name]) for name in ("label", "model")),
            ]
        )
        for index, masked in enumerate(method["masked"])
    ]
    rows += [Row(["", "written negative", Cell(text), ""]) for text in method["written"]]
    return Table(
        f"{arm}: “{method['caption']}”", ("image", "masked word", "its label", "the model's answer"), rows, folded=True
    )


def _words(shares: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{word} {number(float(share), 2)}" for word, share in shares)
