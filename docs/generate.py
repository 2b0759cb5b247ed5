"""The reference pages of the site, made from the code whenever the site is built: settings, metrics, commands.

MkDocs calls `on_files` (`hooks` in mkdocs.yml). The other functions give Markdown and know nothing of MkDocs, so that
a test can hold that no setting, metric or command is missing.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

import typer

from workbench.cli import app
from workbench.config.load import KEYS
from workbench.config.schema import Experiment, Settings
from workbench.metrics import METRICS, SUITE_KINDS

Schema = dict[str, Any]  # a JSON schema, as pydantic gives it
# Pydantic writes some bounds by its own names, and some by those of JSON schema.
BOUNDS = {
    "at least": ("minimum", "ge"),
    "above": ("exclusiveMinimum", "gt"),
    "at most": ("maximum", "le"),
    "below": ("exclusiveMaximum", "lt"),
}
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "null": "`null`",
}
SETTINGS_HEAD = """# Settings

Every setting by its dotted key, as `fixed`, `factors`, `arms`, `search.settings` and `--set` take it. The tables come
from `workbench/config/schema.py`, which also checks the values. A default holds where neither the preset nor the
experiment says otherwise. A setting without a default must be given.
"""
EXPERIMENT_HEAD = """## The experiment file

The keys at the top level of an experiment's YAML. [Writing an experiment](../experiments.md) shows how they go
together, and explains {others}. `question` must be given, and `factors` or `arms`. The preset is `tiny` where none is
named, and the baseline is the first arm.
"""
METRICS_HEAD = """# Metrics

Every metric, from the table in `workbench/metrics.py`. [Method and data](../method.md#metrics) says how each is
measured. A name is logged as `val/NAME` during training and as `test/NAME` at the end, or under a prefix of its own. A
name that ends in `/` stands for all metrics that begin with it; `…` in its title is the rest of the name.

*Chance* is the score of guessing. *Primary* says whether a question may be about the metric (`primary`, `target`).
"""
COMMANDS_HEAD = """# Commands

Every command of `wb`, as `--help` shows it. `python -m workbench` is the same program.
"""


def pages() -> dict[str, Callable[[], str]]:
    """What gives each generated page, by the page's path in the site."""
    return {
        "reference/settings.md": settings_page,
        "reference/metrics.md": metrics_page,
        "reference/commands.md": commands_page,
    }


def on_files(files: Any, config: Any) -> Any:
    """MkDocs' hook: adds the generated pages to those of the folder."""
    from mkdocs.structure.files import File

    for path, page in pages().items():
        files.append(File.generated(config, path, content=page()))
    return files


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. No cell may hold a bar: within code some readers of Markdown take it for the end of a cell, and
    others show the backslash that escapes it."""
    assert not [cell for row in rows for cell in row if "|" in cell]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows)) + "\n"


def settings_page() -> str:
    """All settings, block by block, then what they may hold, the experiment file and the presets."""
    schema = Experiment.model_json_schema()
    definitions = schema["$defs"]
    parts = [SETTINGS_HEAD]
    for name, prefix in _blocks(Settings.__name__, "", definitions):
        parts += [f"## {prefix.removesuffix('.')}\n", *_block(definitions[name], prefix)]
    parts += ["## What settings hold\n", "Some settings hold a block, or a list of blocks, with keys of its own.\n"]
    for name in _held(Settings.__name__, definitions):
        parts += [f"### {name}\n", *_block(definitions[name], "")]
    others = ", ".join(f"`{key}`" for key in KEYS if key not in schema["properties"])
    parts += [
        EXPERIMENT_HEAD.format(others=others),
        _rows(schema, "", [key for key in KEYS if key in schema["properties"]]),
    ]
    for name in ("Seeds", "Search", "Range", "Target"):
        parts += [f"### {name}\n", *_block(definitions[name], "" if name == "Range" else f"{name.lower()}.")]
    parts += ["## Presets\n", "A preset is a file of settings in the package. `preset: NAME` starts from it.\n"]
    for entry in sorted((resources.files("workbench.config") / "presets").iterdir(), key=lambda each: each.name):
        name = entry.name.removesuffix(".yaml")
        parts += [f"### {name}\n", f"```yaml\n{entry.read_text(encoding='utf-8').rstrip()}\n```\n"]
    return "\n".join(parts)


def _blocks(name: str, prefix: str, definitions: Schema) -> Iterator[tuple[str, str]]:
    """(definition, prefix of its keys) of each block that has settings of its own."""
    fields = definitions[name]["properties"]
    if not all("$ref" in field for field in fields.values()):
        yield name, prefix
    for key, field in fields.items():
        if "$ref" in field:
            yield from _blocks(_named(field), f"{prefix}{key}.", definitions)


def _held(name: str, definitions: Schema) -> list[str]:
    """The definitions that settings of a block may hold: in a list, or where the setting is not null."""
    found: dict[str, None] = {}

    def look(name: str) -> None:
        for field in definitions[name]["properties"].values():
            if "$ref" in field:
                look(_named(field))
            for option in (*field.get("anyOf", ()), field.get("items", {})):
                if "$ref" in option and _named(option) not in found:
                    found[_named(option)] = None
                    look(_named(option))

    look(name)
    return list(found)


def _named(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _block(definition: Schema, prefix: str) -> Iterator[str]:
    """What a block is, and a table of its own settings."""
    if told := definition.get("description"):
        yield f"{told}\n"
    yield _rows(definition, prefix, [key for key, field in definition["properties"].items() if "$ref" not in field])


def _rows(definition: Schema, prefix: str, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        field, needed = definition["properties"][name], name in definition.get("required", ())
        rows.append([f"`{prefix}{name}`", kind(field), _default(field, needed), field.get("description", "")])
    return table(("Setting", "Values", "Default", "Meaning"), rows)


def _default(field: Schema, needed: bool) -> str:
    """As YAML has it; a block that is always there shows its defaults in its own table."""
    return "" if needed or "$ref" in field else f"`{json.dumps(field.get('default', {}), ensure_ascii=False)}`"


def kind(field: Schema) -> str:
    """The type and range of a JSON schema, in words."""
    if "anyOf" in field:
        return " or ".join(kind(option) for option in field["anyOf"])
    if "$ref" in field:
        return f"[{_named(field)}](#{_named(field).lower()})"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{each}`" for each in field.get("enum", [field.get("const")]))
    given = str(field.get("type"))
    if given == "array":
        return f"list of {kind(field['items']) if field.get('items') else 'values'}"
    if given == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {kind(inner)}" if isinstance(inner, dict) and inner else "mapping"
    bounds = [f"{word} {field[key]:g}" for word, keys in BOUNDS.items() for key in keys if key in field]
    return " ".join([TYPES.get(given, "value"), *([f"({', '.join(bounds)})"] if bounds else [])])


def metrics_page() -> str:
    """All metrics, and the kinds of each published suite."""
    rows = [
        [
            f"`{row.name}`",
            row.title.format("…"),
            row.better,
            row.unit,
            "" if row.chance is None else f"{row.chance:.3g}",
            {"scenes": "rendered scenes", "foils": "foils", None: ""}[row.needs],
            "yes" if row.outcome else "",
        ]
        for row in METRICS
    ]
    suites = [[f"`{suite}`", ", ".join(f"`{kind}`" for kind in kinds)] for suite, kinds in SUITE_KINDS.items()]
    heads = ("Name", "Title", "Better", "Unit", "Chance", "Needs", "Primary")
    return "\n".join(
        (
            METRICS_HEAD,
            table(heads, rows),
            "## Scores of the published suites\n",
            "A score is logged as `compositional/SUITE/KIND`, and with a gray image as `blank_image/SUITE/KIND`. The"
            " kinds of VL-CheckList are the lists that are there.\n",
            table(("Suite", "Kinds"), suites),
        )
    )


def commands_page() -> str:
    """All commands with their arguments and options."""
    return "\n".join((COMMANDS_HEAD, *(_command(path, command) for path, command in commands())))


def commands() -> list[tuple[str, Any]]:
    """Each command by what one types, such as `wb data prepare`; groups are left out."""

    def below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path, command
            return
        for name, member in inner.items():
            yield from below(f"{path} {name}", member)

    return list(below("wb", typer.main.get_command(app)))


def _command(path: str, command: Any) -> str:
    context = typer.Context(command, info_name=path)
    usage = " ".join((path, *command.collect_usage_pieces(context)))
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            rows.append([f"`{record[0].replace('|', ', ')}`", record[1].replace("  [", " [")])
    told = [
        f"## {path}\n",
        f"{command.help}\n",
        f"```console\n$ {usage}\n```\n",
        table(("Argument or option", "Meaning"), rows),
    ]
    return "\n".join([*told, *([f"{command.epilog}\n"] if command.epilog else [])])
