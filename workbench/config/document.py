"""YAML as people write it: every key with its line, no key twice, numbers such as 1e-4 read as numbers."""

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
MOST_ENTRIES = 1_000_000  # keys and values, with everything that an alias stands for written out
STRANGE = ("binary", "timestamp", "set", "omap", "pairs")  # tags of what no setting is
MERGE = "tag:yaml.org,2002:merge"
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
WHOLE = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0b[01_]+|0o[0-7_]+|[0-9][0-9_]*)$")
DECIMAL = re.compile(
    r"[-+]?((\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
)
# What PyYAML says, and what it means to those who wrote the line.
MEANINGS = (
    (r"found character '\\t'", "a tab stands where YAML wants spaces"),
    ("mapping values are not allowed", "a second `:` follows; put a text that holds a colon and a space in quotes"),
    ("but found another document", "a second document begins with `---`; give it a file of its own"),
    ("cannot start any token", "a text that begins with %, @ or ` needs quotes"),
    ("expected alphabetic or numeric", "a text that begins with * or & needs quotes"),
    ("could not determine a constructor", "tags such as !name are not for experiments"),
    ("found unhashable key", "a key is a list or a mapping; keys are texts"),
    (
        "found undefined alias",
        "an alias such as *name needs its anchor &name before; a text that begins with * needs quotes",
    ),
    ("unexpected end of stream", "what is opened by a quote here is never closed"),
    ("<stream end>", "what is opened by a bracket here is never closed"),
)
Way = tuple[str | int, ...]  # keys, and places in lists, from the top of the document


@dataclass(frozen=True)
class Document:
    """A file's content, and where its keys stand."""

    path: Path
    content: Any
    lines: dict[Way, int]

    def at(self, *way: str | int) -> str:
        """`FILE:LINE` of a key, or of what it lies in, for the beginning of a message."""
        for length in range(len(way), 0, -1):
            if line := self.lines.get(way[:length]):
                return f"{self.path}:{line}"
        return str(self.path)

    def mapping(self, name: str) -> dict[str, Any]:
        """What stands under a key at the top; nothing where there is none. Raises UserError where it is no mapping."""
        value = self.content.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{self.at(name)}: `{name}` must be a mapping of keys to values.")
        return dict(value)


def read_document(path: Path) -> Document:
    """Raises UserError where the file is missing or no YAML that can be used, with the line."""
    node, content = _parse(_text(path), str(path))
    return Document(path, content, dict(_lines(node)) if node else {})


def read_value(text: str, where: str) -> Any:
    """The value of a `key=value` of the command line, read as in a file."""
    try:
        return _parse(text, where)[1]
    except UserError as error:
        # There is one line, which needs no number.
        raise UserError(re.sub(rf"^{re.escape(where)}:\d+: ", lambda _: f"{where}: ", str(error))) from error


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where 1e-4 is a text, 1:30 is 90, 010 is 8 and 2024-01-01 is no text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [each for each in pairs if each[0] not in (INT, FLOAT, "tag:yaml.org,2002:timestamp")]
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
        except (ValueError, KeyError, AttributeError) as error:  # of a tag that its text does not bear out
            raise yaml.MarkedYAMLError(
                problem=f"no {node.tag.rpartition(':')[2]}", problem_mark=node.start_mark
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
            raise UserError(f"{path}: larger than {MOST_BYTES // 1_000_000} MB; that is no experiment.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the file cannot be read ({first_line(error)}).") from error
    return decoded(data, path)


def _parse(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """The document as nodes and as values."""
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
            f"{where}:{line}: not valid YAML (the character U+{error.character:04X} belongs in no text)."
        ) from error
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem or error.context or "it cannot be read")
        meaning = next((told for pattern, told in MEANINGS if re.search(pattern, problem)), problem)
        # What is never closed is noticed at the end of the file, and mended where it begins.
        opened = error.context_mark if "closed" in meaning else None
        mark = opened or error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{where}:{line}: not valid YAML ({' '.join(meaning.split())}).") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML ({first_line(error)}).") from error


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_bombs(root: yaml.Node, where: str) -> None:
    """Aliases that hold themselves have no end, and those that multiply have none that can be waited for."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise UserError(f"{where}:{node.start_mark.line + 1}: an anchor holds an alias of itself; write it out.")
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
    """A key that stands twice in one mapping, of which YAML would drop the first in silence. One that `<<` brings
    along may stand again: that is what merging is for."""
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
                    raise UserError(f"{where}:{line}: the key `{name}` stands twice, {places}; {cure}.")
                lines[name] = line


def _lines(node: yaml.Node, way: Way = ()) -> Iterator[tuple[Way, int]]:
    """The line of every key, and of everything in a list. (Constructing has put what `<<` brings along before a
    mapping's own keys, so that these, which come later, count.)"""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*way, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield (*way, place), value.start_mark.line + 1
            yield from _lines(value, (*way, place))
