"""The records of sweeps and trials: the only contract between the code that runs them and the code that reads runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.config.schema import Search, Seeds, Target

FILE = "experiment.json"  # the artifact of a sweep's run that holds its record
EXPERIMENT = "workbench"  # the MLflow experiment of all our runs
TRAINING_VIEW = "workflowType=machine_learning"  # in an address of MLflow, which otherwise opens on its view of traces
EXAMPLES = "examples.json"  # the artifact of a trial that holds its predictions for a few held-out pairs
VERSION = 2


@dataclass(frozen=True)
class Living:
    """Which parts of a sweep or a single training are running, according to its study; cells are given by their hash.
    `process`: whether the sweep's own process is running, None where that is not known."""

    process: bool | None
    running: frozenset[str]
    ended: frozenset[str]


class Tuned(BaseModel):
    """The result of an arm's search. `value` is on the validation split."""

    arm: str
    tried: int
    pruned: int
    diverged: int
    best: dict[str, Any] | None
    value: float | None


class SweepRecord(BaseModel):
    """A sweep, stored as the artifact `experiment.json` of its run.

    `arms`: labels in the order of the grid, the baseline first. `arm_values`: label -> factor levels. `cells`: hash of
    each compared cell -> label of its arm. `planned`: number of trials that the answer rests on. `settings`: the
    resolved settings of the baseline. Version 1 measured robustness on the validation split and logged no examples.
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
        """Returns a setting by its dotted key, or `default`."""
        value: Any = self.settings
        for part in dotted.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value


def code_state(provenance: Mapping[str, Any]) -> str:
    """Returns a name of the code version: the commit and a hash of uncommitted changes; else the package's version."""
    if commit := provenance.get("commit"):
        difference = provenance.get("diff_sha256")
        return f"{commit[:12]}+{difference[:8]}" if difference else str(commit[:12])
    return f"workbench {provenance['workbench']}" if "workbench" in provenance else ""


def is_start(now: str, then: str) -> bool:
    """Returns whether `then` names the same start as `now`. An older name may lack the later parts."""
    return now == then or now.startswith(f"{then}-")


class TrialTags(BaseModel):
    """The tags of a trial's run.

    `config_hash`: the hash of the cell, of everything that decides its result. `arm`: the label that all seeds of an
    arm share. `data` and `warm_start`: the fingerprints of its data and start. `code`: the versions of the code that
    ran it; several where it was stopped in between. `pairs`: number of pairs in each split."""

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
        """Returns the tags in MLflow's form: strings, without those that are not set."""
        tags = self.model_dump(exclude_defaults=True) | {"kind": self.kind}
        return {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in tags.items()}


def read_tags(tags: Mapping[str, str]) -> TrialTags | None:
    """Parses the tags of a run in MLflow; None where it is not a trial."""
    if "cell" not in tags or "seed" not in tags:
        return None
    fields: dict[str, Any] = {"study": "", **tags}
    if "pairs" in fields:
        fields["pairs"] = json.loads(fields["pairs"])
    fields.setdefault("arm", _arm_of_version_1(fields["cell"]))
    return TrialTags.model_validate(fields)


def _arm_of_version_1(cell: str) -> str:
    """Returns the arm of a trial of version 1, which had no tag for it: the cell's label was the arm's, plus the number
    within a search."""
    return cell.partition(" · search ")[0]
