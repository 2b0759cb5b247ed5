"""YAML + preset + `--set` overrides -> one validated Experiment. Strict: errors name the line and the nearest key."""

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from workbench.config.schema import Experiment, Search, Seeds, Settings, Target
from workbench.errors import UserError
from workbench.metrics import on_validation, outcomes

M = TypeVar("M", bound=BaseModel)
KEYS = (
    "question",
    "preset",
    "fixed",
    "factors",
    "zip",
    "where",
    "arms",
    "baseline",
    "seeds",
    "search",
    "target",
    "primary",
    "margin",
)


def load_experiment(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment that the file describes. `overrides` are `a.b=value` pairs that win over the file.

    Raises UserError in one sentence for whatever the user can mend.
    """
    text = _read(path)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: an experiment is a mapping with the keys {', '.join(KEYS)}.")
    lines = _lines(text)
    for name in document:
        if name not in KEYS:
            hint = "; settings go under `fixed`" if name in dotted_keys() else _nearest(str(name), KEYS)
            raise UserError(f"{_at(path, lines, name)}: unknown key `{name}`{hint}.")
    question = document.get("question")
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{path}: `question` is missing; say in a sentence what the experiment asks.")

    preset = str(document.get("preset", "tiny"))
    fixed = _mapping(path, lines, document, "fixed")
    factors, arms = _arms(path, lines, document)
    given = dict(_override(text) for text in overrides)
    merged = read_preset(preset)
    for source, pairs in ((path, fixed), ("--set", given)):
        for dotted, value in pairs.items():
            where = _at(path, lines, dotted) if source is path else "--set"
            _set(merged, dotted, value, where)
    for dotted in factors:
        _check_key(dotted, _at(path, lines, dotted))
        if dotted in given:
            raise UserError(f"--set: `{dotted}` is a factor of {path}; take it out of the factors to fix it.")
    settings = _validate(Settings, merged, path, lines)
    given_baseline = _mapping(path, lines, document, "baseline")
    for name in given_baseline:
        if name not in arms[0]:
            raise UserError(
                f"{_at(path, lines, 'baseline')}: `baseline` names `{name}`, which is no factor{_nearest(name, arms[0])}."
            )
    baseline = arms[0] | given_baseline
    if baseline not in arms:
        raise UserError(f"{_at(path, lines, 'baseline')}: `baseline` is {baseline}, which is none of the arms.")
    for arm in arms:
        # Every arm is checked now, not after hours of training.
        apply(settings, arm, where=_at(path, lines, next(iter(arm), "")))
    primary = str(document.get("primary", "val/itm_auc"))
    target = _validate(Target, _mapping(path, lines, document, "target"), path, lines, "target")
    seeds = _validate(Seeds, _mapping(path, lines, document, "seeds"), path, lines, "seeds")
    search = _search(path, lines, document, settings, arms, seeds)
    source = settings.data.source
    _check_metric(_at(path, lines, "primary"), primary, list(outcomes(source)))
    _check_target(_at(path, lines, "target"), target.metric, source)
    return Experiment(
        name=path.stem,
        question=" ".join(question.split()),
        preset=preset,
        settings=settings,
        factors=factors,
        arms=sorted(arms, key=lambda arm: arm != baseline),
        baseline=baseline,
        seeds=seeds,
        search=search,
        target=target,
        primary=primary,
        margin=_margin(path, lines, document),
    )


def apply(settings: Settings, values: Mapping[str, Any], where: str = "settings") -> Settings:
    """`settings` with dotted keys set; raises UserError for an unknown key or a wrong value."""
    merged = settings.model_dump()
    for dotted, value in values.items():
        _set(merged, dotted, value, where)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from error


def read_preset(name: str) -> dict[str, Any]:
    """The packaged preset as nested settings."""
    folder = resources.files("workbench.config") / "presets"
    available = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in available:
        raise UserError(
            f"`preset`: there is no preset `{name}`{_nearest(name, available)}; there is {', '.join(available)}."
        )
    loaded = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    assert isinstance(loaded, dict)
    return loaded


def dotted_keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Every setting as a dotted key."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += dotted_keys(field.annotation, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        siblings = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"{path}: there is no such file{_nearest(str(path), siblings)}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the file cannot be read ({error}).") from error


def _arms(
    path: Path, lines: Mapping[str, int], document: Mapping[str, Any]
) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """The factors with their levels, and the arms: every combination of `factors`, with those under `zip` changing together and
    only where `where` holds; or the listed `arms`."""
    factors, together = (_mapping(path, lines, document, name) for name in ("factors", "zip"))
    listed = document.get("arms")
    if listed is not None and (factors or together or document.get("where") is not None):
        raise UserError(f"{_at(path, lines, 'arms')}: give either `factors` (every combination) or `arms` (a list).")
    if listed is None:
        for dotted, levels in [*factors.items(), *together.items()]:
            where = _at(path, lines, dotted)
            if not isinstance(levels, list) or not levels:
                raise UserError(f"{where}: `{dotted}` has no levels; give a list such as [0.0, 0.5, 1.0].")
            if dotted in factors and len({repr(level) for level in levels}) < len(levels):
                raise UserError(f"{where}: `{dotted}` names a level twice.")
        return factors | together, _combinations(path, lines, document, factors, together)
    where = _at(path, lines, "arms")
    if not isinstance(listed, list) or not listed or not all(isinstance(arm, dict) and arm for arm in listed):
        raise UserError(f"{where}: `arms` must be a list of mappings, one an arm.")
    if strange := [str(name) for arm in listed for name in arm if name not in listed[0]]:
        raise UserError(f"{where}: the first arm must set every key that another one changes, also `{strange[0]}`.")
    listed = [listed[0] | arm for arm in listed]
    if len({repr(sorted(arm.items())) for arm in listed}) < len(listed):
        raise UserError(f"{where}: two arms are the same.")
    return {name: list(dict.fromkeys(arm[name] for arm in listed)) for name in listed[0]}, listed


def _search(
    path: Path,
    lines: Mapping[str, int],
    document: Mapping[str, Any],
    settings: Settings,
    arms: list[dict[str, Any]],
    seeds: Seeds,
) -> Search | None:
    """What `search:` tunes; every value that it can come to must be one that the setting may have, in every arm."""
    if document.get("search") is None:
        return None
    search = _validate(Search, _mapping(path, lines, document, "search"), path, lines, "search")
    for dotted, levels in search.settings.items():
        where = _at(path, lines, dotted)
        _check_key(dotted, where)
        if dotted in arms[0]:
            raise UserError(f"{where}: `{dotted}` is a factor; what is compared cannot be tuned.")
        ends = levels if isinstance(levels, list) else [levels.low, levels.high]
        if not ends or not all(isinstance(level, str | int | float | bool | None) for level in ends):
            raise UserError(
                f"{where}: `{dotted}` needs plain levels, or a range such as {{low: 0.001, high: 0.01, log: true}}."
            )
        for arm in arms:
            for level in ends:
                apply(settings, arm | {dotted: level}, where)
    if seeds.first <= search.seed < seeds.first + seeds.count:
        raise UserError(f"{_at(path, lines, 'search')}: `search.seed` {search.seed} is among the seeds that confirm.")
    return search


def _check_metric(where: str, metric: str, allowed: list[str]) -> None:
    if metric not in allowed:
        raise UserError(f"{where}: unknown metric `{metric}`{_nearest(metric, allowed)}.")


def _check_target(where: str, metric: str, source: str) -> None:
    if metric in outcomes(source, ("test",)):
        raise UserError(
            f"{where}: `target.metric` is `{metric}`, but the test split is measured once and has no curve "
            f"(did you mean `{on_validation(metric)}`?)."
        )
    _check_metric(where, metric, list(outcomes(source, ("val",))))


def _margin(path: Path, lines: Mapping[str, int], document: Mapping[str, Any]) -> float | None:
    """The smallest difference that matters, where the file states one."""
    margin = document.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < math.inf:
        raise UserError(
            f"{_at(path, lines, 'margin')}: `margin` is {margin!r}; give the smallest difference of the primary metric that "
            "matters, a number above 0 such as 0.02."
        )
    return float(margin)


def _combinations(
    path: Path,
    lines: Mapping[str, int],
    document: Mapping[str, Any],
    factors: dict[str, list[Any]],
    together: dict[str, list[Any]],
) -> list[dict[str, Any]]:
    if both := set(factors) & set(together):
        raise UserError(f"{_at(path, lines, 'zip')}: `{min(both)}` is under `factors` too; leave it in one of the two.")
    if len({len(levels) for levels in together.values()}) > 1:
        raise UserError(
            f"{_at(path, lines, 'zip')}: the lists under `zip` must be equally long, since they change together."
        )
    zipped = [dict(zip(together, levels, strict=True)) for levels in zip(*together.values(), strict=True)] or [{}]
    crossed = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    arms = [one | other for one in crossed for other in zipped]
    conditions = document.get("where") or []
    at = _at(path, lines, "where")
    if not isinstance(conditions, list):
        raise UserError(f"{at}: `where` must be a list of {{if: {{key: level}}, then: {{key: [levels]}}}}.")
    for condition in conditions:
        if not isinstance(condition, dict) or set(condition) != {"if", "then"}:
            raise UserError(f"{at}: each entry of `where` has the keys `if` and `then`.")
        if not all(isinstance(condition[side], dict) for side in ("if", "then")):
            raise UserError(f"{at}: `if` and `then` under `where` are mappings of factors to levels.")
        for name in (*condition["if"], *condition["then"]):
            if name not in factors and name not in together:
                raise UserError(f"{at}: `{name}` is none of the factors{_nearest(str(name), [*factors, *together])}.")
        arms = [arm for arm in arms if not _matches(arm, condition["if"]) or _matches(arm, condition["then"])]
    if not arms:
        raise UserError(f"{at}: `where` leaves no combination.")
    if len({repr(sorted(arm.items())) for arm in arms}) < len(arms):
        raise UserError(f"{_at(path, lines, 'zip')}: two combinations are the same.")
    return arms


def _matches(arm: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(arm[name] in (levels if isinstance(levels, list) else [levels]) for name, levels in wanted.items())


def _mapping(path: Path, lines: Mapping[str, int], document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{_at(path, lines, name)}: `{name}` must be a mapping of keys to values.")
    return dict(value)


def _override(text: str) -> tuple[str, Any]:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise UserError(f"--set {text}: write it as key=value, such as optimisation.steps=200.")
    try:
        return dotted.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not valid YAML.") from error


def _check_key(dotted: str, where: str) -> None:
    known = dotted_keys()
    if dotted not in known and not dotted.startswith("model.vision.options."):
        raise UserError(f"{where}: unknown key `{dotted}`{_nearest(dotted, known)}.")


def _set(tree: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    _check_key(dotted, where)
    *branches, leaf = dotted.split(".")
    for branch in branches:
        tree = tree.setdefault(branch, {})
    tree[leaf] = value


def _validate(model: type[M], values: dict[str, Any], path: Path, lines: Mapping[str, int], prefix: str = "") -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        location = ".".join(str(part) for part in error.errors()[0]["loc"])
        where = _at(path, lines, location if not prefix else location.removeprefix(f"{prefix}."))
        raise UserError(f"{where}: {_explain(error, prefix)}") from error


def _explain(error: ValidationError, prefix: str = "") -> str:
    """The first complaint of pydantic as a sentence."""
    first = error.errors()[0]
    # Pydantic names the members of a union, too.
    steps = [str(part) for part in first["loc"] if "[" not in str(part) and part != "Range"]
    name = ".".join(part for part in (prefix, *steps) if part)
    if first["type"] == "extra_forbidden":
        return f"unknown key `{name}`{_nearest(name, dotted_keys())}."
    reason = first["msg"].removeprefix("Value error, ")
    return f"`{name}` is {first['input']!r}: {reason}." if name and first["type"] != "value_error" else f"{reason}."


def _nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean `x`?)` or nothing; a wrong last part is compared with last parts too."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        leaves = {key.rsplit(".", 1)[-1]: key for key in known}
        near = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(leaves), n=1, cutoff=0.6)
        close = [leaves[leaf] for leaf in near]
    return f" (did you mean `{close[0]}`?)" if close else ""


def _at(path: Path, lines: Mapping[str, int], name: object) -> str:
    line = lines.get(str(name))
    return f"{path}:{line}" if line else str(path)


def _lines(text: str) -> dict[str, int]:
    """Every mapping key of the YAML -> its line, the first one where a key occurs twice."""
    found: dict[str, int] = {}
    pending = [yaml.compose(text, Loader=yaml.SafeLoader)]
    while pending:
        node = pending.pop(0)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found.setdefault(str(key.value), key.start_mark.line + 1)
                pending.append(value)
    return found
