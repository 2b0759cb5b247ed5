"""Settings by dotted keys: the known keys and their allowed values. Errors name the nearest key."""

import difflib
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from workbench.config.schema import IRRELEVANT, LATER, Settings, absolute
from workbench.errors import UserError


def apply(settings: Settings, values: Mapping[str, Any], where: str = "settings") -> Settings:
    """`settings` with dotted keys set; raises UserError for an unknown key or a wrong value."""
    merged = settings.model_dump()
    for dotted, value in values.items():
        set_key(merged, dotted, value, where)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from error


def telling(settings: Settings) -> str:
    """The settings that can change a result, as JSON for hashes. A setting that was added later is included only if its
    value changes results."""
    left_out: dict[str, Any] = {block: dict.fromkeys(names, True) for block, names in IRRELEVANT.items()}
    for dotted, before in LATER.items():
        *blocks, name = dotted.split(".")
        at: Any = settings
        for block in blocks:
            at = getattr(at, block)
        if getattr(at, name) == before:
            tree = left_out
            for block in blocks:
                tree = tree.setdefault(block, {})
            tree[name] = True
    return settings.model_dump_json(exclude=left_out)


def as_recorded(values: Mapping[str, Any]) -> Settings:
    """The settings of a recorded run, which may be older than some of the settings."""
    merged = {name: dict(block) for name, block in values.items()}
    for dotted, before in LATER.items():
        *blocks, name = dotted.split(".")
        tree = merged
        for block in blocks:
            tree[block] = tree = dict(tree.get(block, {}))
        tree.setdefault(name, before)
    return Settings.model_validate(merged)


def read_preset(name: str, where: str = "") -> dict[str, Any]:
    """The packaged preset as nested settings. Error messages begin with `where` it is requested."""
    folder = resources.files("workbench.config") / "presets"
    available = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in available:
        raise UserError(
            f"{where and f'{where}: '}`preset`: there is no preset `{name}`{nearest(name, available)}; there is "
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
    """Every dotted key -> the adapter that parses its values."""
    adapters: dict[str, Any] = {}

    def collect(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                collect(field.annotation, f"{prefix}{name}.")
            else:
                kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
                adapters[prefix + name] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))

    collect(Settings, "")
    return adapters


def read_level(dotted: str, level: Any, where: str) -> Any:
    """A level converted to the setting's type, from any spelling. Raises UserError if the setting cannot have it."""
    check_key(dotted, where)
    if dotted not in known_keys():
        return level  # an option of timm, whose type is unknown
    try:
        return known_keys()[dotted].validate_python(level)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, dotted)}") from error


def identity(dotted: str, level: Any) -> Hashable:
    """A key that is equal for equivalent levels: numbers that differ only by rounding, two names of a folder."""
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


def check_key(dotted: str, where: str) -> None:
    known = known_keys()
    if dotted not in known and not dotted.startswith("model.vision.options."):
        raise UserError(f"{where}: unknown key `{dotted}`{nearest(dotted, known)}.")


def set_key(tree: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    check_key(dotted, where)
    *branches, leaf = dotted.split(".")
    for branch in branches:
        tree = tree.setdefault(branch, {})
    tree[leaf] = value


MUST_BE = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "it must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "it must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "it must be true or false"),
}


def explain(error: ValidationError, prefix: str = "") -> str:
    """The first error of pydantic as a sentence."""
    first = error.errors()[0]
    # Pydantic also names the members of a union.
    steps = [str(part) for part in first["loc"] if "[" not in str(part) and part != "Range"]
    name = ".".join(part for part in (prefix, *steps) if part)
    if first["type"] == "extra_forbidden":
        return f"unknown key `{name}`{nearest(name, dotted_keys())}."
    reason = MUST_BE.get(
        first["type"], first["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    )
    if isinstance(first["input"], bool) and first["type"] in ("literal_error", "string_type"):
        reason += "; YAML reads yes, no, on and off as true and false, so put them in quotes"
    return (
        f"`{name}` is {quoted(first['input'])}: {reason}." if name and first["type"] != "value_error" else f"{reason}."
    )


def quoted(value: Any) -> str:
    """A value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean `x`?)` or nothing. A wrong last part is also compared with the last parts of keys."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        leaves = {key.rsplit(".", 1)[-1]: key for key in known}
        near = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(leaves), n=1, cutoff=0.6)
        close = [leaves[leaf] for leaf in near]
    return f" (did you mean `{close[0]}`?)" if close else ""
