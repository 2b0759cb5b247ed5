"""Reads YAML as people write it: with the line of every key, no key twice, and 1e-4 read as a number."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import UserError, first_line
from workbench.files import decoded

DEEPEST = 50  # levels of nesting
MOST_BYTES = 10_000_000
MOST_ENTRIES = 1_000_000  # keys and values, with aliases expanded
STRANGE = ("binary", "timestamp", "set", "omap", "pairs")  # tags of types that no setting has
MERGE = "tag:yaml.org,2002:merge"
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
WHOLE = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0b[01_]+|0o[0-7_]+|[0-9][0-9_]*)$")
DECIMAL = re.compile(
    r"[-+]?((\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
)
# What PyYAML reports -> what it means for the author of the line.
MEANINGS = (
    (r"found character '\\t'", "a tab stands where YAML needs spaces"),
    ("mapping values are not allowed", "a second `:` follows; put a text that holds a colon and a space in quotes"),
    ("but found another document", "a second document begins with `---`; move it to a file of its own"),
    ("cannot start any token", "a text that begins with %, @ or ` needs quotes"),
    ("expected alphabetic or numeric", "a text that begins with * or & needs quotes"),
    ("could not determine a constructor", "tags such as !name are not supported"),
    ("found unhashable key", "a key is a list or a mapping; keys are texts"),
    (
        "found undefined alias",
        "an alias such as *name needs its anchor &name before; a text that begins with * needs quotes",
    ),
    ("unexpected end of stream", "a quote that is opened here is never closed"),
    ("<stream end>", "a bracket that is opened here is never closed"),
)
Way = tuple[str | int, ...]  # keys and list indices, from the top of the document


@dataclass(frozen=True)
class Document:
    """The content of a file, and the lines of its keys."""

    path: Path
    content: Any
    lines: dict[Way, int]

    def at(self, *way: str | int) -> str:
        """`FILE:LINE` of a key, or of its nearest parent, as the beginning of a message."""
        for length in range(len(way), 0, -1):
            if line := self.lines.get(way[:length]):
                return f"{self.path}:{line}"
        return str(self.path)

    def mapping(self, name: str) -> dict[str, Any]:
        """The mapping under a top-level key; empty if there is no such key. Raises UserError if it is not a mapping."""
        value = self.content.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{self.at(name)}: `{name}` must be a mapping of keys to values.")
        return dict(value)


def read_document(path: Path) -> Document:
    """Reads a YAML file. Raises UserError, with the line, if it is not usable YAML, and FileNotFoundError."""
    node, content = _parse(_text(path), str(path))
    return Document(path, content, dict(_lines(node)) if node else {})


def read_value(text: str, where: str) -> Any:
    """The value of a `key=value` on the command line, parsed as in a file."""
    try:
        return _parse(text, where)[1]
    except UserError as error:
        # There is only one line, so its number is omitted.
        raise UserError(re.sub(rf"^{re.escape(where)}:\d+: ", lambda _: f"{where}: ", str(error))) from error


class _Loader(yaml.SafeLoader):
    """A loader without the surprises of YAML 1.1: there 1e-4 is text, 1:30 is 90, 010 is 8, 2024-01-01 is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in pairs if tag not in (INT, FLOAT, "tag:yaml.org,2002:timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"it is nested more than {DEEPEST} deep", problem_mark=mark)
        try:
            composed: yaml.Node | None = super().compose_node(parent, index)
            return composed
        finally:
            self.depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag.startswith("!") or node.tag.removeprefix("tag:yaml.org,2002:") in STRANGE:
            raise yaml.MarkedYAMLError(problem="could not determine a constructor", problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError) as error:  # the text does not fit the tag
            raise yaml.MarkedYAMLError(
                problem=f"not a valid {node.tag.rpartition(':')[2]}", problem_mark=node.start_mark
            ) from error

    def whole(self, node: yaml.ScalarNode) -> int:
        text = str(node.value).replace("_", "")
        return int(text, 0 if text.lstrip("+-")[:2] in ("0x", "0b", "0o") else 10)


for _tag, _pattern in ((INT, WHOLE), (FLOAT, DECIMAL)):
    _Loader.add_implicit_resolver(_tag, _pattern, list("-+0123456789."))
_Loader.add_constructor(INT, _Loader.whole)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: larger than {MOST_BYTES // 1_000_000} MB, too large for an experiment.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the file cannot be read ({first_line(error)}).") from error
    return decoded(data, path)


def _parse(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """The document as nodes and as values, both None if it is empty."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _refuse_bombs(node, where)
        _refuse_repeats(node, where)
        return node, loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{where}:{line}: not valid YAML (the character U+{error.character:04X} is not allowed)."
        ) from error
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem or error.context or "it cannot be read")
        meaning = next((explanation for pattern, explanation in MEANINGS if re.search(pattern, problem)), problem)
        # An unclosed quote is noticed at the end of the file, but has to be fixed where it begins.
        opened = error.context_mark if "closed" in meaning else None
        mark = opened or error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{where}:{line}: not valid YAML ({' '.join(meaning.split())}).") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML ({first_line(error)}).") from error


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_bombs(root: yaml.Node, where: str) -> None:
    """Raises UserError for aliases that contain themselves, or that expand to too many entries."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise UserError(f"{where}:{node.start_mark.line + 1}: an anchor contains an alias of itself; write it out.")
        if known is None:
            sizes[id(node)] = 0
            sizes[id(node)] = known = 1 + sum(map(size, _children(node)))
            if known > MOST_ENTRIES:
                raise UserError(
                    f"{where}:{node.start_mark.line + 1}: with its aliases written out this has more than "
                    f"{MOST_ENTRIES:,} entries."
                )
        return known

    size(root)


def _refuse_repeats(root: yaml.Node, where: str) -> None:
    """Raises UserError for a key that occurs twice in a mapping: YAML would silently drop the first. A key that `<<`
    merges may be repeated, since overriding it is the purpose of merging."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        pending += reversed(_children(node))
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, _ in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines:
                    cure = "write <<: [*one, *other]" if key.tag == MERGE else "keep one of them"
                    places = f"in line {lines[name]} and in line {line}" if lines[name] < line else f"in line {line}"
                    raise UserError(f"{where}:{line}: the key `{name}` occurs twice, {places}; {cure}.")
                lines[name] = line


def _lines(node: yaml.Node, way: Way = ()) -> Iterator[tuple[Way, int]]:
    """Yields the line of every key and list item. (The constructor has put merged keys before a mapping's own ones, so
    that the own ones, which come later, win.)"""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*way, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield (*way, place), value.start_mark.line + 1
            yield from _lines(value, (*way, place))
