"""YAML + preset + `--set` overrides -> one validated Experiment. Strict: errors name the line and the nearest key."""

import difflib
import itertools
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from workbench.config.document import Document, read_document, read_value
from workbench.config.schema import IRRELEVANT, Experiment, Range, Search, Seeds, Settings, Target, absolute
from workbench.errors import UserError
from workbench.metrics import on_validation, outcomes
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
MOST_CELLS = 100_000
MOST_COMBINATIONS = 1_000_000  # among which `where` chooses
LONGEST_NAME = 150
Wanted = dict[str, set[Hashable]]  # what a side of `where` allows for each factor


def load_experiment(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment that the file describes. `overrides` are `a.b=value` pairs that win over the file.

    Raises UserError in one sentence for whatever the user can mend.
    """
    document = _read(path)
    content = document.content
    for name in content:
        if name not in KEYS:
            hint = "; settings go under `fixed`" if name in known_keys() else _nearest(str(name), KEYS)
            raise UserError(f"{document.at(str(name))}: unknown key `{name}`{hint}.")
    question = content.get("question")
    if question is not None and not isinstance(question, str):
        raise UserError(
            f"{document.at('question')}: `question` is {_shown(question)}; write a sentence, in quotes if need be."
        )
    if question is None or not question.strip():
        raise UserError(f"{path}: `question` is missing; say in a sentence what the experiment asks.")

    preset = str(_given(content, "preset", "tiny"))
    fixed = _mapping(document, "fixed")
    given = _overrides(overrides)
    seeds = _validate(Seeds, _mapping(document, "seeds"), document, "seeds")
    search = _validate(Search, _mapping(document, "search"), document, "search") if content.get("search") else None
    factors, arms = _arms(document, seeds, search)
    merged = read_preset(preset, document.at("preset"))
    for dotted, value in fixed.items():
        _set(merged, dotted, value, document.at("fixed", dotted))  # of a factor, too: `wb train` trains with it
    for dotted, value in given.items():
        if dotted in factors:
            raise UserError(f"--set: `{dotted}` is a factor of {path}; take it out of the factors to fix it.")
        _set(merged, dotted, value, "--set")
    _refuse_parts(document.at("fixed"), fixed)
    _refuse_parts("--set", given)
    settings = _settings(document, merged, fixed, given)
    baseline = _baseline(document, arms)
    _check_arms(document, settings, arms)
    primary = str(_given(content, "primary", "val/itm_auc"))
    target = _validate(Target, _mapping(document, "target"), document, "target")
    if search is not None:
        search = _checked_search(document, search, settings, arms, seeds)
    source = settings.data.source
    _check_metric(document.at("primary"), primary, list(outcomes(source)))
    _check_target(document.at("target"), target.metric, source)
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
        margin=_margin(document),
    )


def refuse_too_many(where: str, told: str, arms: int, seeds: Seeds, search: Search | None) -> None:
    """Counts the cells before they are made. `told`: how the number of arms comes about."""
    each = seeds.count + (search.trials if search else 0)
    if arms * each > MOST_CELLS:
        searching = f" and {search.trials} trials of its search" if search else ""
        raise UserError(
            f"{where}: {told} x {seeds.count:,} seeds{searching} are {arms * each:,} cells, more than the "
            f"{MOST_CELLS:,} that one "
            "experiment may have; take fewer levels or seeds, list the arms that matter under `arms`, or ask in "
            "several files."
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


def read_preset(name: str, where: str = "") -> dict[str, Any]:
    """The packaged preset as nested settings. `where` it is asked for stands before the message."""
    folder = resources.files("workbench.config") / "presets"
    available = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in available:
        raise UserError(
            f"{where and f'{where}: '}`preset`: there is no preset `{name}`{_nearest(name, available)}; there is "
            f"{', '.join(available)}."
        )
    loaded = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    assert isinstance(loaded, dict)
    return loaded


def dotted_keys() -> list[str]:
    """Every setting as a dotted key."""
    return list(known_keys())


@cache
def known_keys() -> dict[str, Any]:
    """Every dotted key -> what reads a value of it."""
    found: dict[str, Any] = {}

    def collect(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                collect(field.annotation, f"{prefix}{name}.")
            else:
                kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
                found[prefix + name] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))

    collect(Settings, "")
    return found


def read_level(dotted: str, level: Any, where: str) -> Any:
    """A level as the setting has it, in whatever spelling it is given; raises UserError where the setting cannot have
    it."""
    _check_key(dotted, where)
    if dotted not in known_keys():
        return level  # an option of timm's, of which nothing is known
    try:
        return known_keys()[dotted].validate_python(level)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, dotted)}") from error


def identity(dotted: str, level: Any) -> Hashable:
    """Equal for levels that are one setting: numbers that differ by rounding alone, a folder by either of its names."""
    if isinstance(level, bool) or level is None:
        return ("constant", level)
    if isinstance(level, int):
        return ("number", level)
    if isinstance(level, float):
        rounded = float(f"{level:.12g}")
        return ("number", int(rounded) if rounded.is_integer() else rounded)
    if isinstance(level, dict):
        return ("mapping", frozenset((str(name), identity("", value)) for name, value in level.items()))
    if isinstance(level, list):
        return ("list", tuple(identity("", value) for value in level))
    return ("text", absolute(str(level)).rstrip("/") if dotted == "data.path" else str(level))


def _read(path: Path) -> Document:
    try:
        document = read_document(path)
    except FileNotFoundError as error:
        siblings = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"{path}: there is no such file{_nearest(str(path), siblings)}.") from error
    if not isinstance(document.content, dict):
        what = "the file is empty; " if document.content is None else ""
        raise UserError(f"{path}: {what}an experiment is a mapping with the keys {', '.join(KEYS)}.")
    return document


def _name(path: Path) -> str:
    """The file's name as far as it can name folders, studies and runs everywhere; what is changed is told apart by a
    hash."""
    name = re.sub(r"[^\w .+=-]+", "_", path.stem)
    name = re.sub(r"^[ .]+", "", name)[:LONGEST_NAME].strip()
    return name if name == path.stem else f"{name or '_'}-{key('name', repr(path.stem)) % 16**6:06x}"


def _given(content: Mapping[str, Any], name: str, default: str) -> Any:
    value = content.get(name)
    return default if value is None else value


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _overrides(texts: Iterable[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for text in texts:
        dotted, value = _override(text)
        if dotted in given:
            raise UserError(
                f"--set: `{dotted}` is given twice, as {_shown(given[dotted])} and {_shown(value)}; keep one of them."
            )
        given[dotted] = value
    return given


def _refuse_parts(where: str, values: Iterable[str]) -> None:
    """A mapping and a part of it: which one wins would depend on their order."""
    names = set(values)
    for name in sorted(names):
        for other in names:
            if other.startswith(f"{name}."):
                raise UserError(f"{where}: `{other}` is a part of `{name}`, which is given as well; keep one of them.")


def _settings(
    document: Document, merged: dict[str, Any], fixed: Mapping[str, Any], given: Mapping[str, Any]
) -> Settings:
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        location = ".".join(str(part) for part in error.errors()[0]["loc"])
        # A rule about several settings is reported where the first of them stands.
        origins = [(given, "--set"), *(({name: 0}, document.at("fixed", name)) for name in fixed)]
        where = next(
            (
                at
                for names, at in origins
                if any(f"{name}.".startswith(f"{location}.") or f"{location}.".startswith(f"{name}.") for name in names)
            ),
            document.at("fixed") if fixed else str(document.path),
        )
        raise UserError(f"{where}: {_explain(error)}") from error


def _arms(document: Document, seeds: Seeds, search: Search | None) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """The factors with their levels, and the arms: every combination of `factors`, with those under `zip` changing together and
    only where `where` holds; or the listed `arms`."""
    factors, together = (_mapping(document, name) for name in ("factors", "zip"))
    listed = document.content.get("arms")
    if listed is not None and (factors or together or document.content.get("where") is not None):
        raise UserError(f"{document.at('arms')}: give either `factors` (every combination) or `arms` (a list).")
    if listed is not None:
        return _listed(document, listed, seeds, search)
    for part, levels_of in (("factors", factors), ("zip", together)):
        for dotted, levels in levels_of.items():
            where = document.at(part, dotted)
            if not isinstance(levels, list) or not levels:
                raise UserError(f"{where}: `{dotted}` has no levels; give a list such as [0.0, 0.5, 1.0].")
            made = [read_level(dotted, level, document.at(part, dotted, place)) for place, level in enumerate(levels)]
            _refuse_equal(dotted, levels, made, where, part == "zip")
            levels_of[dotted] = made
    _refuse_parts(document.at("factors"), factors | together)
    return factors | together, _combinations(document, factors, together, seeds, search)


def _refuse_equal(dotted: str, written: list[Any], levels: list[Any], where: str, may_repeat: bool) -> None:
    """Levels that are one value, or that no label could tell apart, would be trained as one arm or shown as one."""
    seen: dict[Hashable, int] = {}
    names: dict[str, int] = {}
    for place, level in enumerate(levels):
        first = seen.setdefault(identity(dotted, level), place)
        if first != place and not may_repeat:
            raise UserError(
                f"{where}: `{dotted}` names a level twice: {_shown(written[first])} and {_shown(written[place])} are "
                "one value; "
                "take one of them out."
            )
        if first == place and (other := names.setdefault(str(level), place)) != place:
            raise UserError(
                f"{where}: `{dotted}` has two levels that are both shown as `{level}`, {_shown(levels[other])} and "
                f"{_shown(level)}; "
                "change one of them."
            )


def _listed(
    document: Document, listed: Any, seeds: Seeds, search: Search | None
) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    where = document.at("arms")
    if not isinstance(listed, list) or not listed or not all(isinstance(arm, dict) and arm for arm in listed):
        raise UserError(f"{where}: `arms` must be a list of mappings, one an arm.")
    refuse_too_many(where, f"{len(listed):,} arms", len(listed), seeds, search)
    arms: list[dict[str, Any]] = []
    seen: dict[Hashable, int] = {}
    for place, arm in enumerate(listed):
        if strange := [str(name) for name in arm if name not in listed[0]]:
            at = document.at("arms", place, strange[0])
            raise UserError(f"{at}: the first arm must set every key that another one changes, also `{strange[0]}`.")
        made = {
            str(name): read_level(str(name), level, document.at("arms", place, str(name)))
            for name, level in arm.items()
        }
        arms.append(made if not arms else arms[0] | made)
        first = seen.setdefault(_identities(arms[-1]), place)
        if first != place:
            told = ", ".join(f"`{name}` {_shown(level)}" for name, level in list(arms[-1].items())[:4])
            raise UserError(
                f"{document.at('arms', place)}: two arms are the same, the one here and that of line "
                f"{document.lines[('arms', first)]} ({told}); take one of them out."
            )
    _refuse_parts(where, arms[0])
    factors: dict[str, list[Any]] = {}
    for name in arms[0]:
        distinct: dict[Hashable, Any] = {}
        for arm in arms:
            distinct.setdefault(identity(name, arm[name]), arm[name])
        factors[name] = list(distinct.values())
        _refuse_equal(name, factors[name], factors[name], where, may_repeat=False)
    return factors, arms


def _identities(arm: Mapping[str, Any]) -> Hashable:
    return tuple(sorted((name, identity(name, level)) for name, level in arm.items()))


def _baseline(document: Document, arms: list[dict[str, Any]]) -> dict[str, Any]:
    """The arm that `baseline` describes, in whatever spelling; what it leaves out is as in the first arm."""
    given = _mapping(document, "baseline")
    for name in given:
        if name not in arms[0]:
            raise UserError(
                f"{document.at('baseline', name)}: `baseline` names `{name}`, which is no "
                f"factor{_nearest(name, arms[0])}."
            )
    levels = {name: read_level(name, level, document.at("baseline", name)) for name, level in given.items()}
    wanted = {name: identity(name, level) for name, level in (arms[0] | levels).items()}
    found = (arm for arm in arms if all(identity(name, arm[name]) == level for name, level in wanted.items()))
    if (baseline := next(found, None)) is None:
        raise UserError(
            f"{document.at('baseline')}: `baseline` is {_shown(arms[0] | levels)}, which is none of the arms."
        )
    return baseline


def _check_arms(document: Document, settings: Settings, arms: list[dict[str, Any]]) -> None:
    """Every arm is checked now, not after hours of training. Two that come to the same settings would share their
    cells."""
    seen: dict[str, dict[str, Any]] = {}
    for place, arm in enumerate(arms):
        first_key = next(iter(arm), "")
        where = document.at("arms", place) if document.content.get("arms") else document.at("factors", first_key)
        made = apply(settings, arm, where).model_dump_json(exclude=IRRELEVANT)
        other = seen.setdefault(made, arm)
        if other is not arm:
            apart = [name for name in arm if identity(name, arm[name]) != identity(name, other[name])]
            section = document.at("factors", apart[0]) if not document.content.get("arms") else where
            raise UserError(
                f"{section}: two arms come to the same settings, since they differ in `{apart[0]}` alone, "
                f"{_shown(other[apart[0]])} and {_shown(arm[apart[0]])}, which changes no result; take one of them out."
            )


def _checked_search(
    document: Document, search: Search, settings: Settings, arms: list[dict[str, Any]], seeds: Seeds
) -> Search:
    """What `search:` tunes, its levels as the settings have them; every value that it can come to must be one that
    the setting may have, in every arm."""
    made: dict[str, Range | list[Any]] = {}
    for dotted, levels in search.settings.items():
        where = document.at("search", "settings", dotted)
        _check_key(dotted, where)
        if dotted in arms[0]:
            raise UserError(f"{where}: `{dotted}` is a factor; what is compared cannot be tuned.")
        ends = levels if isinstance(levels, list) else [levels.low, levels.high]
        if not ends or not all(isinstance(level, str | int | float | bool | None) for level in ends):
            raise UserError(
                f"{where}: `{dotted}` needs plain levels, or a range such as {{low: 0.001, high: 0.01, log: true}}."
            )
        read = [read_level(dotted, level, where) for level in ends]
        if isinstance(levels, list):
            _refuse_equal(dotted, levels, read, where, may_repeat=False)
            made[dotted] = read
        else:
            made[dotted] = levels.model_copy(update={"low": read[0], "high": read[1]})
        for arm in arms:
            for level in read:
                apply(settings, arm | {dotted: level}, where)
    if seeds.first <= search.seed < seeds.first + seeds.count:
        raise UserError(f"{document.at('search')}: `search.seed` {search.seed} is among the seeds that confirm.")
    return search.model_copy(update={"settings": made})


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


def _margin(document: Document) -> float | None:
    """The smallest difference that matters, where the file states one."""
    margin = document.content.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < math.inf:
        raise UserError(
            f"{document.at('margin')}: `margin` is {_shown(margin)}; give the smallest difference of the primary "
            "metric that "
            "matters, a number above 0 such as 0.02."
        )
    return float(margin)


def _combinations(
    document: Document,
    factors: dict[str, list[Any]],
    together: dict[str, list[Any]],
    seeds: Seeds,
    search: Search | None,
) -> list[dict[str, Any]]:
    if both := set(factors) & set(together):
        at = document.at("zip", min(both))
        raise UserError(f"{at}: `{min(both)}` is under `factors` too; leave it in one of the two.")
    if len({len(levels) for levels in together.values()}) > 1:
        raise UserError(
            f"{document.at('zip')}: the lists under `zip` must be equally long, since they change together."
        )
    zipped = [dict(zip(together, levels, strict=True)) for levels in zip(*together.values(), strict=True)] or [{}]
    if len({_identities(row) for row in zipped}) < len(zipped):
        names = ", ".join(f"`{name}`" for name in together)
        raise UserError(f"{document.at('zip')}: two combinations of {names} are the same; take one of them out.")
    counts = [len(levels) for levels in factors.values()] + ([len(zipped)] if together else [])
    number, at = math.prod(counts), document.at("factors" if factors else "zip" if together else "seeds")
    told = f"{' x '.join(map(str, counts or [1]))}{f' = {number:,}' if len(counts) > 1 else ''} arms"
    conditions = _conditions(document, {**factors, **together})
    if not conditions:
        refuse_too_many(at, told, number, seeds, search)
    elif number > MOST_COMBINATIONS:
        raise UserError(
            f"{at}: {told} are more than the {MOST_COMBINATIONS:,} from which `where` can choose; list those that "
            "matter under `arms`."
        )
    arms = []
    for levels in itertools.product(*factors.values()):
        one = dict(zip(factors, levels, strict=True))
        arms += [arm for other in zipped if _allowed(arm := one | other, conditions)]
    if not arms:
        raise UserError(f"{document.at('where')}: `where` leaves no combination.")
    refuse_too_many(at, f"{len(arms):,} arms", len(arms), seeds, search)
    return arms


def _conditions(document: Document, factors: Mapping[str, list[Any]]) -> list[tuple[Wanted, Wanted]]:
    """`where` as pairs (if, then) of what is allowed for each factor."""
    given = document.content.get("where") or []
    if not isinstance(given, list):
        raise UserError(
            f"{document.at('where')}: `where` must be a list of {{if: {{key: level}}, then: {{key: [levels]}}}}."
        )
    made = []
    for place, condition in enumerate(given):
        at = document.at("where", place)
        if not isinstance(condition, dict) or set(condition) != {"if", "then"}:
            raise UserError(f"{at}: each entry of `where` has the keys `if` and `then`.")
        if not all(isinstance(condition[side], dict) for side in ("if", "then")):
            raise UserError(f"{at}: `if` and `then` under `where` are mappings of factors to levels.")
        for name in (*condition["if"], *condition["then"]):
            if name not in factors:
                raise UserError(f"{at}: `{name}` under `where` is none of the factors{_nearest(str(name), factors)}.")
        sides = [
            {
                name: {
                    identity(name, read_level(name, level, document.at("where", place, side, name)))
                    for level in (levels if isinstance(levels, list) else [levels])
                }
                for name, levels in condition[side].items()
            }
            for side in ("if", "then")
        ]
        made.append((sides[0], sides[1]))
    return made


def _allowed(arm: Mapping[str, Any], conditions: list[tuple[Wanted, Wanted]]) -> bool:
    return all(not _matches(arm, when) or _matches(arm, then) for when, then in conditions)


def _matches(arm: Mapping[str, Any], wanted: Wanted) -> bool:
    return all(identity(name, arm[name]) in levels for name, levels in wanted.items())


def _mapping(document: Document, name: str) -> dict[str, Any]:
    value = document.content.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{document.at(name)}: `{name}` must be a mapping of keys to values.")
    return dict(value)


def _override(text: str) -> tuple[str, Any]:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise UserError(f"--set {text}: write it as key=value, such as optimisation.steps=200.")
    return dotted.strip(), read_value(value, f"--set {dotted.strip()}")


def _check_key(dotted: str, where: str) -> None:
    known = known_keys()
    if dotted not in known and not dotted.startswith("model.vision.options."):
        raise UserError(f"{where}: unknown key `{dotted}`{_nearest(dotted, known)}.")


def _set(tree: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    _check_key(dotted, where)
    *branches, leaf = dotted.split(".")
    for branch in branches:
        tree = tree.setdefault(branch, {})
    tree[leaf] = value


def _validate(model: type[M], values: dict[str, Any], document: Document, section: str) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        way = [part if isinstance(part, int) else str(part) for part in error.errors()[0]["loc"]]
        raise UserError(f"{document.at(section, *way)}: {_explain(error, section)}") from error


def _explain(error: ValidationError, prefix: str = "") -> str:
    """The first complaint of pydantic as a sentence."""
    first = error.errors()[0]
    # Pydantic names the members of a union, too.
    steps = [str(part) for part in first["loc"] if "[" not in str(part) and part != "Range"]
    name = ".".join(part for part in (prefix, *steps) if part)
    if first["type"] == "extra_forbidden":
        return f"unknown key `{name}`{_nearest(name, dotted_keys())}."
    reason = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], bool) and first["type"] in ("literal_error", "string_type"):
        reason += "; YAML reads yes, no, on and off as true and false, so put them in quotes"
    return (
        f"`{name}` is {_shown(first['input'])}: {reason}." if name and first["type"] != "value_error" else f"{reason}."
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean `x`?)` or nothing; a wrong last part is compared with last parts too."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        leaves = {key.rsplit(".", 1)[-1]: key for key in known}
        near = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(leaves), n=1, cutoff=0.6)
        close = [leaves[leaf] for leaf in near]
    return f" (did you mean `{close[0]}`?)" if close else ""
