"""Combines YAML, preset and `--set` overrides into a validated Experiment. Errors name the line and the nearest key."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workbench.config.arms import check_arms, read_arms, read_baseline, refuse_equal, refuse_parts
from workbench.config.document import Document, read_document, read_value
from workbench.config.schema import Data, Experiment, Range, Search, Seeds, Settings, Target
from workbench.config.settings import (
    apply,
    check_key,
    explain,
    known_keys,
    nearest,
    quoted,
    read_level,
    read_preset,
    set_key,
)
from workbench.errors import UserError
from workbench.metrics import on_validation, outcomes, split_of, suite_outcomes
from workbench.randomness import key

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
LONGEST_NAME = 150


def load_experiment(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Returns the experiment that the file describes. `overrides` are `a.b=value` pairs, which override the file.

    Raises UserError, in one sentence, for every mistake that the user can correct.
    """
    document = _read(path)
    content = document.content
    for name in content:
        if name not in KEYS:
            hint = "; settings go under `fixed`" if name in known_keys() else nearest(str(name), KEYS)
            raise UserError(f"{document.at(str(name))}: unknown key `{name}`{hint}.")
    question = content.get("question")
    if question is not None and not isinstance(question, str):
        raise UserError(
            f"{document.at('question')}: `question` is {quoted(question)}; write a sentence, in quotes if needed."
        )
    if question is None or not question.strip():
        raise UserError(f"{path}: `question` is missing; state in a sentence what the experiment asks.")

    preset = str(_value_of(content, "preset", "tiny"))
    fixed = document.mapping("fixed")
    overridden = _overrides(overrides)
    seeds = _validate(Seeds, document.mapping("seeds"), document, "seeds")
    search = _validate(Search, document.mapping("search"), document, "search") if content.get("search") else None
    factors, arms = read_arms(document, seeds, search)
    merged = read_preset(preset, document.at("preset"))
    for dotted, value in fixed.items():
        set_key(merged, dotted, value, document.at("fixed", dotted))  # even for a factor: `wb train` uses it
    for dotted, value in overridden.items():
        if dotted in factors:
            raise UserError(f"--set: `{dotted}` is a factor of {path}; remove it from the factors to fix its value.")
        set_key(merged, dotted, value, "--set")
    refuse_parts(document.at("fixed"), fixed)
    refuse_parts("--set", overridden)
    settings = _settings(document, merged, fixed, overridden)
    baseline = read_baseline(document, arms)
    check_arms(document, settings, arms)
    primary = str(_value_of(content, "primary", "val/itm_auc"))
    target = _validate(Target, document.mapping("target"), document, "target")
    if search is not None:
        search = _checked_search(document, search, settings, arms, seeds)
    _check_primary(document.at("primary"), primary, settings, search)
    _check_target(document.at("target"), target.metric, settings.data)
    return Experiment(
        name=_name(path),
        question=" ".join(question.split()),
        preset=preset,
        settings=settings,
        factors=factors,
        arms=[baseline, *(arm for arm in arms if arm is not baseline)],
        baseline=baseline,
        seeds=seeds,
        search=search,
        target=target,
        primary=primary,
        file=str(path.resolve()),
        margin=_margin(document),
    )


def _read(path: Path) -> Document:
    try:
        document = read_document(path)
    except FileNotFoundError as error:
        folders = [folder for folder in (path.parent, Path("experiments")) if folder.is_dir()]
        known = [file for folder in folders for file in folder.glob("*.yaml")]
        named = [f" (did you mean `{file}`?)" for file in known if file.stem == path.stem]
        hint = named[0] if named else nearest(str(path), map(str, known))
        raise UserError(f"{path}: there is no such file{hint}.") from error
    if not isinstance(document.content, dict):
        what = "the file is empty; " if document.content is None else ""
        raise UserError(f"{path}: {what}an experiment is a mapping with the keys {', '.join(KEYS)}.")
    return document


def _name(path: Path) -> str:
    """The file's name, reduced to characters that folders, studies and runs may have anywhere; a hash distinguishes
    changed names."""
    name = re.sub(r"[^\w .+=-]+", "_", path.stem)
    name = re.sub(r"^[ .]+", "", name)[:LONGEST_NAME].strip()
    return name if name == path.stem else f"{name or '_'}-{key('name', repr(path.stem)) % 16**6:06x}"


def _value_of(content: Mapping[str, Any], name: str, default: str) -> Any:
    value = content.get(name)
    return default if value is None else value


def _overrides(texts: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in texts:
        dotted, value = _override(text)
        if dotted in values:
            raise UserError(
                f"--set: `{dotted}` is set twice, as {quoted(values[dotted])} and {quoted(value)}; keep one of them."
            )
        values[dotted] = value
    return values


def _settings(
    document: Document, merged: dict[str, Any], fixed: Mapping[str, Any], overridden: Mapping[str, Any]
) -> Settings:
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        location = ".".join(str(part) for part in error.errors()[0]["loc"])
        # A rule about several settings is reported at the line of the first of them.
        origins = [(overridden, "--set"), *(({name: 0}, document.at("fixed", name)) for name in fixed)]
        where = next(
            (
                at
                for names, at in origins
                if any(f"{name}.".startswith(f"{location}.") or f"{location}.".startswith(f"{name}.") for name in names)
            ),
            document.at("fixed") if fixed else str(document.path),
        )
        raise UserError(f"{where}: {explain(error)}") from error


def _checked_search(
    document: Document, search: Search, settings: Settings, arms: list[dict[str, Any]], seeds: Seeds
) -> Search:
    """The search with its levels converted to the settings' types. Raises UserError if a value that it may try is not
    valid for its setting, in any arm."""
    ranges: dict[str, Range | list[Any]] = {}
    for dotted, levels in search.settings.items():
        where = document.at("search", "settings", dotted)
        check_key(dotted, where)
        if dotted in arms[0]:
            raise UserError(f"{where}: `{dotted}` is a factor, and factors cannot be tuned.")
        ends = levels if isinstance(levels, list) else [levels.low, levels.high]
        if not ends or not all(isinstance(level, str | int | float | bool | None) for level in ends):
            raise UserError(
                f"{where}: `{dotted}` needs plain levels, or a range such as {{low: 0.001, high: 0.01, log: true}}."
            )
        read = [read_level(dotted, level, where) for level in ends]
        if isinstance(levels, list):
            refuse_equal(dotted, levels, read, where, may_repeat=False)
            ranges[dotted] = read
        else:
            ranges[dotted] = levels.model_copy(update={"low": read[0], "high": read[1]})
        for arm in arms:
            for level in read:
                apply(settings, arm | {dotted: level}, where)
    if seeds.first <= search.seed < seeds.first + seeds.count:
        raise UserError(f"{document.at('search')}: `search.seed` {search.seed} is among the seeds that confirm.")
    return search.model_copy(update={"settings": ranges})


def _check_primary(where: str, primary: str, settings: Settings, search: Search | None) -> None:
    suites = settings.evaluation.suites
    requested = {name: suite.limit for name, suite in suites if suite} if suites else {}
    # The kinds of VL-CheckList are its lists, which are known only after reading it.
    if not ("vl_checklist" in requested and primary.startswith("compositional/vl_checklist")):
        _check_metric(where, primary, [*outcomes(settings.data), *suite_outcomes(requested)])
    if search is not None and split_of(primary) is None:
        raise UserError(
            f"{where}: `search` tunes on the validation split, and `{primary}` is measured once, after the last step;"
            " use a metric of `val/` or `test/`."
        )


def _check_metric(where: str, metric: str, allowed: list[str]) -> None:
    if metric not in allowed:
        raise UserError(f"{where}: unknown metric `{metric}`{nearest(metric, allowed)}.")


def _check_target(where: str, metric: str, data: Data) -> None:
    if metric in outcomes(data, ("test",)):
        raise UserError(
            f"{where}: `target.metric` is `{metric}`, but the test split is measured once and has no curve "
            f"(did you mean `{on_validation(metric)}`?)."
        )
    _check_metric(where, metric, list(outcomes(data, ("val",))))


def _margin(document: Document) -> float | None:
    """The smallest relevant difference, if the file states one."""
    margin = document.content.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < math.inf:
        raise UserError(
            f"{document.at('margin')}: `margin` is {quoted(margin)}; state the smallest relevant difference of the "
            "primary metric, a number above 0 such as 0.02."
        )
    return float(margin)


def _override(text: str) -> tuple[str, Any]:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise UserError(f"--set {text}: write it as key=value, such as optimisation.steps=200.")
    return dotted.strip(), read_value(value, f"--set {dotted.strip()}")


def _validate(model: type[M], values: dict[str, Any], document: Document, section: str) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        way = [part if isinstance(part, int) else str(part) for part in error.errors()[0]["loc"]]
        raise UserError(f"{document.at(section, *way)}: {explain(error, section)}") from error
