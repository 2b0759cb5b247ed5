"""The arms of an experiment: every combination of its factors, or a list of arms; and the baseline among them."""

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from workbench.config.document import Document
from workbench.config.schema import IRRELEVANT, Search, Seeds, Settings
from workbench.config.settings import apply, identity, nearest, quoted, read_level
from workbench.errors import UserError

MOST_CELLS = 100_000
MOST_COMBINATIONS = 1_000_000  # that `where` filters
Wanted = dict[str, set[Hashable]]  # factor -> the levels that one side of `where` allows


def read_arms(
    document: Document, seeds: Seeds, search: Search | None
) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """The factors with their levels, and the arms. Arms are the listed ones, or all combinations of `factors` for which
    `where` holds, with the factors under `zip` changing together."""
    factors, together = (document.mapping(name) for name in ("factors", "zip"))
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
            values = [read_level(dotted, level, document.at(part, dotted, place)) for place, level in enumerate(levels)]
            refuse_equal(dotted, levels, values, where, part == "zip")
            levels_of[dotted] = values
    refuse_parts(document.at("factors"), factors | together)
    return factors | together, _combinations(document, factors, together, seeds, search)


def _listed(
    document: Document, listed: Any, seeds: Seeds, search: Search | None
) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    where = document.at("arms")
    if not isinstance(listed, list) or not listed or not all(isinstance(arm, dict) and arm for arm in listed):
        raise UserError(f"{where}: `arms` must be a list of mappings, one per arm.")
    refuse_too_many(where, f"{len(listed):,} arms", len(listed), seeds, search)
    arms: list[dict[str, Any]] = []
    seen: dict[Hashable, int] = {}
    for place, arm in enumerate(listed):
        if strange := [str(name) for name in arm if name not in listed[0]]:
            at = document.at("arms", place, strange[0])
            raise UserError(f"{at}: the first arm must set every key that another one changes, also `{strange[0]}`.")
        values = {
            str(name): read_level(str(name), level, document.at("arms", place, str(name)))
            for name, level in arm.items()
        }
        arms.append(values if not arms else arms[0] | values)
        first = seen.setdefault(_identities(arms[-1]), place)
        if first != place:
            named = ", ".join(f"`{name}` {quoted(level)}" for name, level in list(arms[-1].items())[:4])
            raise UserError(
                f"{document.at('arms', place)}: two arms are the same, the one here and that of line "
                f"{document.lines[('arms', first)]} ({named}); remove one of them."
            )
    refuse_parts(where, arms[0])
    factors: dict[str, list[Any]] = {}
    for name in arms[0]:
        distinct: dict[Hashable, Any] = {}
        for arm in arms:
            distinct.setdefault(identity(name, arm[name]), arm[name])
        factors[name] = list(distinct.values())
        refuse_equal(name, factors[name], factors[name], where, may_repeat=False)
    return factors, arms


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
        raise UserError(f"{document.at('zip')}: two combinations of {names} are the same; remove one of them.")
    counts = [len(levels) for levels in factors.values()] + ([len(zipped)] if together else [])
    number, at = math.prod(counts), document.at("factors" if factors else "zip" if together else "seeds")
    size = f"{' x '.join(map(str, counts or [1]))}{f' = {number:,}' if len(counts) > 1 else ''} arms"
    conditions = _conditions(document, {**factors, **together})
    if not conditions:
        refuse_too_many(at, size, number, seeds, search)
    elif number > MOST_COMBINATIONS:
        raise UserError(
            f"{at}: {size} are more than the {MOST_COMBINATIONS:,} from which `where` can choose; list the relevant "
            "ones under `arms`."
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
    """The conditions of `where`, as pairs (if, then) of the levels allowed for each factor."""
    written = document.content.get("where") or []
    if not isinstance(written, list):
        raise UserError(
            f"{document.at('where')}: `where` must be a list of {{if: {{key: level}}, then: {{key: [levels]}}}}."
        )
    conditions = []
    for place, condition in enumerate(written):
        at = document.at("where", place)
        if not isinstance(condition, dict) or set(condition) != {"if", "then"}:
            raise UserError(f"{at}: each entry of `where` has the keys `if` and `then`.")
        if not all(isinstance(condition[side], dict) for side in ("if", "then")):
            raise UserError(f"{at}: `if` and `then` under `where` are mappings of factors to levels.")
        for name in (*condition["if"], *condition["then"]):
            if name not in factors:
                raise UserError(f"{at}: `{name}` under `where` is none of the factors{nearest(str(name), factors)}.")
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
        conditions.append((sides[0], sides[1]))
    return conditions


def _allowed(arm: Mapping[str, Any], conditions: list[tuple[Wanted, Wanted]]) -> bool:
    return all(not _matches(arm, when) or _matches(arm, then) for when, then in conditions)


def _matches(arm: Mapping[str, Any], wanted: Wanted) -> bool:
    return all(identity(name, arm[name]) in levels for name, levels in wanted.items())


def read_baseline(document: Document, arms: list[dict[str, Any]]) -> dict[str, Any]:
    """The arm that `baseline` describes, in any spelling; levels that it omits are those of the first arm."""
    described = document.mapping("baseline")
    for name in described:
        if name not in arms[0]:
            raise UserError(
                f"{document.at('baseline', name)}: `baseline` names `{name}`, which is no "
                f"factor{nearest(name, arms[0])}."
            )
    levels = {name: read_level(name, level, document.at("baseline", name)) for name, level in described.items()}
    wanted = {name: identity(name, level) for name, level in (arms[0] | levels).items()}
    matching = (arm for arm in arms if all(identity(name, arm[name]) == level for name, level in wanted.items()))
    if (baseline := next(matching, None)) is None:
        raise UserError(
            f"{document.at('baseline')}: `baseline` is {quoted(arms[0] | levels)}, which is none of the arms."
        )
    return baseline


def check_arms(document: Document, settings: Settings, arms: list[dict[str, Any]]) -> None:
    """Validates every arm before training starts. Two arms with the same settings would share their cells, and are
    refused."""
    seen: dict[str, dict[str, Any]] = {}
    for place, arm in enumerate(arms):
        first_key = next(iter(arm), "")
        where = document.at("arms", place) if document.content.get("arms") else document.at("factors", first_key)
        combined = apply(settings, arm, where).model_dump_json(exclude=IRRELEVANT)
        other = seen.setdefault(combined, arm)
        if other is not arm:
            differing = [name for name in arm if identity(name, arm[name]) != identity(name, other[name])]
            section = document.at("factors", differing[0]) if not document.content.get("arms") else where
            raise UserError(
                f"{section}: two arms result in the same settings, since they differ only in `{differing[0]}`, "
                f"{quoted(other[differing[0]])} and {quoted(arm[differing[0]])}, which changes no result; remove one of"
                " them."
            )


def refuse_too_many(where: str, size: str, arms: int, seeds: Seeds, search: Search | None) -> None:
    """Raises UserError if there would be too many cells. `size`: the number of arms in words."""
    per_arm = seeds.count + (search.trials if search else 0)
    if arms * per_arm > MOST_CELLS:
        searching = f" and {search.trials} trials of its search" if search else ""
        raise UserError(
            f"{where}: {size} x {seeds.count:,} seeds{searching} are {arms * per_arm:,} cells, more than the "
            f"{MOST_CELLS:,} that an experiment may have; use fewer levels or seeds, list the relevant arms under"
            " `arms`, or split the question into several files."
        )


def refuse_parts(where: str, values: Iterable[str]) -> None:
    """Raises UserError for a mapping together with a part of it: which one wins would depend on their order."""
    names = set(values)
    for name in sorted(names):
        for other in names:
            if other.startswith(f"{name}."):
                raise UserError(f"{where}: `{other}` is a part of `{name}`, which is set as well; keep one of them.")


def refuse_equal(dotted: str, written: list[Any], levels: list[Any], where: str, may_repeat: bool) -> None:
    """Raises UserError for levels with the same value or the same label: their arms would be confused."""
    seen: dict[Hashable, int] = {}
    names: dict[str, int] = {}
    for place, level in enumerate(levels):
        first = seen.setdefault(identity(dotted, level), place)
        if first != place and not may_repeat:
            raise UserError(
                f"{where}: `{dotted}` names a level twice: {quoted(written[first])} and {quoted(written[place])} are "
                "the same value; remove one of them."
            )
        if first == place and (other := names.setdefault(str(level), place)) != place:
            raise UserError(
                f"{where}: `{dotted}` has two levels that are both shown as `{level}`, {quoted(levels[other])} and "
                f"{quoted(level)}; change one of them."
            )


def _identities(arm: Mapping[str, Any]) -> Hashable:
    return tuple(sorted((name, identity(name, level)) for name, level in arm.items()))
