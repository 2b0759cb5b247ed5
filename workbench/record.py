"""What a sweep and a trial record of themselves: the only contract between what runs and what reads the runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.config.schema import Search, Seeds, Target

FILE = "experiment.json"  # the artifact of a sweep's run that holds its record
EXPERIMENT = "workbench"  # of all runs of ours, in MLflow
TRAINING_VIEW = "workflowType=machine_learning"  # in an address of MLflow, which else opens on its view of traces
EXAMPLES = "examples.json"  # the artifact of a trial that holds what it made of a few held-out pairs
VERSION = 2


@dataclass(frozen=True)
class Living:
    """What lives of a sweep or a single training, as its study tells; cells by their hash. `process`: whether the
    sweep's own process does, None where that is not known."""

    process: bool | None
    running: frozenset[str]
    ended: frozenset[str]


class Tuned(BaseModel):
    """What the search of an arm came to; `value` is on the validation split."""

    arm: str
    tried: int
    pruned: int
    diverged: int
    best: dict[str, Any] | None
    value: float | None


class SweepRecord(BaseModel):
    """A sweep, as the artifact `experiment.json` of its run. Version 1 measured robustness on the validation split and
    logged no examples.

    `arms`: labels in the order of the grid, the baseline first; `arm_values`: label -> factor levels; `cells`: hash of
    each compared cell -> label of its arm; `planned`: how many trials the answer rests on; `settings`: the resolved
    settings of the baseline.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    name: str = ""
    question: str = ""
    preset: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    arms: list[str] = Field(default_factory=list)
    baseline_arm: str = ""
    arm_values: dict[str, dict[str, Any]] = Field(default_factory=dict)
    cells: dict[str, str] | None = None
    planned: int | None = None
    seeds: Seeds = Seeds()
    search: Search | None = None
    tuned: list[Tuned] = Field(default_factory=list)
    target: Target = Target()
    primary: str = "val/itm_auc"
    margin: float | None = None
    smoke: bool = False

    def setting(self, dotted: str, default: Any = None) -> Any:
        """A setting by its dotted key."""
        found: Any = self.settings
        for part in dotted.split("."):
            if not isinstance(found, dict) or part not in found:
                return default
            found = found[part]
        return found


def code_state(provenance: Mapping[str, Any]) -> str:
    """Names the code that something was run with: its commit, and the difference from that; else its version."""
    if commit := provenance.get("commit"):
        difference = provenance.get("diff_sha256")
        return f"{commit[:12]}+{difference[:8]}" if difference else str(commit[:12])
    return f"workbench {provenance['workbench']}" if "workbench" in provenance else ""


def is_start(now: str, then: str) -> bool:
    """Whether `then` names the same start as `now`; it may be from before some of it was part of the name."""
    return now == then or now.startswith(f"{then}-")


class TrialTags(BaseModel):
    """The tags of a trial's run. `config_hash`: the hash of the cell, of all that decides its result; `arm`: the label
    that all seeds of an arm share; `data` and `warm_start`: the fingerprints of what it was made from; `code`: the
    states of the code that it was run with, of which there are several where it was stopped in between; `pairs`: how
    many each split holds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    study: str
    seed: int
    config_hash: str = ""
    cell: str
    arm: str
    kind: Literal["trial", "search", "train"] = "trial"
    data: str = ""
    warm_start: str = ""
    code: str = ""
    pairs: dict[str, int] = Field(default_factory=dict)
    outcome: Literal["finished", "diverged", "pruned"] = "finished"
    diverged_at: int | None = None

    @property
    def codes(self) -> list[str]:
        return self.code.split(", ") if self.code else []

    def written(self) -> dict[str, str]:
        """As MLflow takes them: texts, without what is not set."""
        told = self.model_dump(exclude_defaults=True) | {"kind": self.kind}
        return {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in told.items()}


def read_tags(tags: Mapping[str, str]) -> TrialTags | None:
    """The tags of a run as MLflow has them; None where it is no trial."""
    if "cell" not in tags or "seed" not in tags:
        return None
    given: dict[str, Any] = {"study": "", **tags}
    if "pairs" in given:
        given["pairs"] = json.loads(given["pairs"])
    given.setdefault("arm", _arm_of_version_1(given["cell"]))
    return TrialTags.model_validate(given)


def _arm_of_version_1(cell: str) -> str:
    """Version 1 had no tag for the arm; the cell's label was the arm's, with its number within a search."""
    return cell.partition(" · search ")[0]
