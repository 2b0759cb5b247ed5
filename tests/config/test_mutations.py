"""What people do to a YAML by mistake: it is refused in a sentence that names the key, or means what it says."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.config.load import load_experiment
from workbench.config.schema import Experiment
from workbench.config.settings import dotted_keys
from workbench.errors import UserError
from workbench.sweep.grid import expand

BASE: dict[str, Any] = {
    "question": "Does it?",
    "preset": "tiny",
    "fixed": {"objectives.mlm.soft_labels": "none", "optimisation.steps": 20, "model.fusion.layers": 2},
    "factors": {"objectives.itm.hard_ratio": [0.0, 0.5], "objectives.mlm.mask_ratio": [0.15, 0.3]},
    "zip": {"objectives.itm.top_k": [5, 10], "objectives.itm.top_p": [1.0, 0.9]},
    "where": [{"if": {"objectives.itm.hard_ratio": 0.0}, "then": {"objectives.mlm.mask_ratio": [0.15]}}],
    "baseline": {"objectives.itm.hard_ratio": 0.0},
    "seeds": {"count": 2, "first": 0},
    "search": {"settings": {"optimisation.learning_rate": {"low": 0.001, "high": 0.01, "log": True}}, "trials": 4},
    "target": {"metric": "val/itm_auc", "value": 0.9},
    "primary": "val/itm_auc",
}
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2000),
    st.floats(-2, 2, allow_nan=False, allow_subnormal=False),
    st.sampled_from(["none", "x", "", "frozen_lm", "val/mlm_loss", "1e-3"]),
)
anything = st.one_of(
    scalars, st.lists(scalars, max_size=3), st.dictionaries(st.sampled_from(["a", "low", "if"]), scalars, max_size=2)
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in the document."""
    paths = [at] if at else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        paths += places(value, (*at, name))
    return paths


@st.composite
def mutated(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """The document with one to three changes, and the keys that they touch."""
    document: dict[str, Any] = yaml.safe_load(yaml.safe_dump(BASE))
    touched: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(document)))
        parent: Any = document
        for name in way:
            parent = parent[name]
        touched += [str(name) for name in (*way, last)]
        change = draw(st.sampled_from(["replace", "remove", "rename", "add", "repeat"]))
        if change == "replace":
            parent[last] = draw(anything)
            touched.extend(map(str, parent[last] if isinstance(parent[last], dict) else ()))
        elif change == "remove":
            parent.pop(last)
        elif change == "rename" and isinstance(parent, dict):
            letters = list(str(last))
            letters.insert(draw(st.integers(0, len(letters))), "q")
            touched.append("".join(letters))
            parent["".join(letters)] = parent.pop(last)
        elif change == "add" and isinstance(parent, dict):
            name = draw(st.sampled_from(dotted_keys()))
            touched.append(name)
            parent[name] = draw(anything)
        elif isinstance(parent, list):
            parent.append(parent[last])
        if not document:
            break
    return document, touched


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=mutated())
def test_a_changed_yaml_is_refused_by_its_key_or_means_what_it_says(
    case: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    document, touched = case
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump(document))
    try:
        experiment = load_experiment(path)
    except UserError as error:
        told = str(error)
        assert told.count("\n") == 0
        assert told.endswith((".", ")."))
        assert len(told) < 600
        tops = {*BASE, "arms"}
        assert any(name and f"{name}" in told for name in (*touched, *tops)), (told, touched)
        assert "`" in told or "mapping" in told, told
        return
    again = Experiment.model_validate_json(experiment.model_dump_json())
    assert again == experiment
    assert [cell.key for cell in expand(again)] == [cell.key for cell in expand(experiment)]
    assert len({cell.key for cell in expand(experiment)}) == len(experiment.arms) * experiment.seeds.count
