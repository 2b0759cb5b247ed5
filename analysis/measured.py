"""How it was measured: the training, the data, the machine, and what the seeds vary."""

from collections.abc import Sequence
from typing import Any

from analysis.inputs import code_states
from analysis.runs import UNITS, Runs
from analysis.section import Row, Section, Table
from analysis.wording import counted, listed
from workbench.metrics import title

SEEDS = (
    "Seeds vary the initialisation of what is not pre-trained, the order of the pairs, masks, and sampled negatives;"
    " the same seed draws the same in every arm. They do not vary the data, their split, or the warm start of the"
    " encoders: the intervals are about training again on the same data from the same start, not about other data"
    " (Bouthillier et al. 2021)."
)


def section(runs: Runs) -> Section:
    """Returns facts of the sweep as a table, and what its seeds vary."""
    rows = [Row([name, fact]) for name, fact in facts(runs) if fact]
    return Section("measured", "How it was measured", tables=[Table("", ("what", "how"), rows)], notes=[SEEDS])


def facts(runs: Runs) -> Sequence[tuple[str, str]]:
    """Returns (what, how) for preset, training, data, answer, code and machine; empty where it was not recorded."""
    record, provenance = runs.record, runs.provenance
    steps, batch = record.setting("optimisation.steps"), record.setting("optimisation.batch_size")
    return (
        ("preset", record.preset),
        ("training", f"{steps:,} steps of {batch} pairs" if steps and batch else ""),
        ("data", _data(record.setting("data", {}))),
        ("pairs in the splits", _pairs(runs)),
        ("measured during training", _every(record.setting("evaluation", {}))),
        ("the answer is about", title(record.primary)),
        ("margin of interest", f"{record.margin:g}" if record.margin else "none stated"),
        ("curves are read over", UNITS[runs.over]),
        ("seeds", listed(sorted({str(seed) for seed in runs.trials["seed"]}, key=int))),
        ("code", _code(provenance)),
        ("code of the trials", code_states(runs)),
        ("machine", _machine(provenance)),
        ("packages", ", ".join(f"{name} {version}" for name, version in provenance.get("packages", {}).items())),
    )


def _data(data: dict[str, Any]) -> str:
    if not data:
        return ""
    mixed = ", ".join(f"{name} x {weight:g}" for name, weight in data.get("mix", {}).items())
    source = mixed or str(data.get("path") or data.get("source", ""))
    return f"{source}, images of {data['image_size']} px" if "image_size" in data else source


def _pairs(runs: Runs) -> str:
    """Returns the number of pairs in the trials' splits; where it was not recorded, the requested maximum."""
    counts = {tuple(tags.pairs.items()) for tags in runs.tags.values() if tags.pairs}
    if len(counts) == 1:
        return ", ".join(f"{count:,} {split}" for split, count in next(iter(counts)))
    if counts:
        return "not the same in all trials"
    data = runs.record.setting("data", {})
    return (
        f"at most {data['train_pairs']:,} train, {data['eval_pairs']:,} in each held-out split"
        if "train_pairs" in data
        else ""
    )


def _every(evaluation: dict[str, Any]) -> str:
    if not evaluation:
        return ""
    return (
        f"every {counted(evaluation['every'], 'step')} on {counted(evaluation['pairs'], 'validation pair')}; at the end"
        f" on {counted(evaluation['final_pairs'], 'test pair')}"
    )


def _code(provenance: dict[str, Any]) -> str:
    commit = provenance.get("commit")
    if not commit:
        return f"workbench {provenance['workbench']}" if "workbench" in provenance else ""
    return f"commit {commit[:12]}" + (", with uncommitted changes" if provenance.get("dirty") else "")


def _machine(of_run: dict[str, Any]) -> str:
    if not of_run:
        return ""
    gpus = listed([str(gpu) for gpu in of_run.get("gpus", [])])
    processor, cores, python = of_run.get("processor", ""), of_run.get("cores"), of_run.get("python")
    return f"{processor}, {cores} cores, {gpus or 'no GPU'}; Python {python}"
