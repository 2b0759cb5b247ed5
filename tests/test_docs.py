"""The site's generated pages leave nothing out, and what the pages say of files, names and commands is true."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from workbench.config.schema import Experiment
from workbench.config.settings import dotted_keys
from workbench.metrics import METRICS, SUITE_KINDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FILE = re.compile(r"(?:workbench|analysis|experiments|tests|docs)/[\w/]+\.(?:py|yaml|yml|md|j2|safetensors)")
RECIPE = re.compile(r"^- `(?P<file>[^`]+\.py)`:\s(?P<names>(?:`\w+`,?\s)+)–", re.MULTILINE)
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+\.(?:md|png|svg))(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options(generate: ModuleType) -> dict[str, set[str]]:
    """Of each command, by what one types, its options."""
    return {
        path: {name for parameter in command.params for name in parameter.opts if name.startswith("-")}
        for path, command in generate.commands()
    }


def test_every_setting_is_in_the_reference_with_its_meaning(generate: ModuleType) -> None:
    page = generate.settings_page()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(dotted_keys()) <= set(rows)
    assert [name for name in dotted_keys() if rows[name].endswith("|  |")] == [], "without a meaning"
    for name, definition in Experiment.model_json_schema()["$defs"].items():
        if name in ("SuiteFiles", "RetrievalSuite", "TaskFiles", "Phase", "Suites", "Range"):
            assert set(definition["properties"]) <= set(rows), name
    assert {"question", "primary", "margin", "seeds.count", "search.sampler", "target.value"} <= set(rows)


@pytest.mark.parametrize(
    ("setting", "values", "default"),
    [
        ("objectives.itm.hard_ratio", "number (at least 0, at most 1)", "`0.5`"),
        ("objectives.mlm.top_k", "whole number (at least 1) or `null`", "`null`"),
        ("objectives.mlm.mask_ratio", "number (above 0, below 1)", "`0.15`"),
        ("model.fusion.kind", "`co_attention`, `merged`", '`"co_attention"`'),
        ("data.mix", "mapping to number (above 0)", "`{}`"),
        ("warm_start.fusion", "list of [Phase](#phase)", "`[]`"),
        ("evaluation.suites", "[Suites](#suites) or `null`", "`null`"),
    ],
)
def test_types_ranges_and_defaults_are_those_of_the_schema(
    generate: ModuleType, setting: str, values: str, default: str
) -> None:
    assert f"| `{setting}` | {values} | {default} | " in generate.settings_page()


def test_every_metric_is_in_the_reference(generate: ModuleType) -> None:
    page = generate.metrics_page()
    assert [row.name for row in METRICS if f"| `{row.name}` | " not in page] == []
    assert [kind for kinds in SUITE_KINDS.values() for kind in kinds if f"`{kind}`" not in page] == []


def test_every_command_and_option_is_in_the_reference(generate: ModuleType, options: dict[str, set[str]]) -> None:
    assert {"wb sweep", "wb eval", "wb data prepare"} <= set(options)
    sections = {part.partition("\n")[0]: part for part in generate.commands_page().split("\n## ")[1:]}
    assert set(sections) == set(options)
    for path, names in options.items():
        assert [name for name in names - {"--help", "-h"} if name not in sections[path]] == [], path


def test_the_pages_of_the_menu_are_those_that_there_are(generate: ModuleType) -> None:
    def listed(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from listed(inner)

    menu = list(listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(menu) == sorted([*(str(page.relative_to(DOCS)) for page in PAGES), *generate.pages()])


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_files_that_a_page_names_or_links_are_there(generate: ModuleType, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in FILE.findall(text) if not (ROOT / name).is_file()] == []
    made = {(DOCS / name).resolve() for name in generate.pages()}
    linked = [name for name in LINK.findall(text) if "://" not in name]
    assert [
        name for name in linked if not (target := (page.parent / name).resolve()).exists() and target not in made
    ] == []


def test_recipes_name_what_is_there() -> None:
    found = list(RECIPE.finditer((DOCS / "architecture.md").read_text(encoding="utf-8")))
    assert len(found) > 30
    for line in found:
        source = (ROOT / line["file"]).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", line["names"]):
            defined = rf"^(?:def|class) {name}\b|^{name}\b.*=|^from .* import .*\b{name}\b"
            assert re.search(defined, source, re.MULTILINE), f"{line['file']}: {name}"


def commands_in(page: Path) -> Iterator[list[str]]:
    """The words of each `wb ...` line in the page's shell blocks; a comment after it is left out."""
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s&&\s", line):
                words = shlex.split(part, comments=True)
                while words and (words[0] in ("nohup", "srun") or re.fullmatch(r"\w+=.*", words[0])):
                    words = words[1:]
                if words and words[0] == "wb":
                    yield words


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_that_a_page_shows_exist(page: Path, options: dict[str, set[str]]) -> None:
    for words in commands_in(page):
        path = next((" ".join(words[:count]) for count in (3, 2) if " ".join(words[:count]) in options), None)
        assert path, words
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options[path], words
