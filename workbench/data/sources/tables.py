"""Tables of files and captions: .csv, .tsv, .jsonl and .parquet, and Hugging Face's image folders."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from workbench.data.image_files import ImageFolders, places_of, ranked
from workbench.data.reading import SPLITS, Place, Reading, UnknownForm, cut_off, text_of
from workbench.data.sources.coco import FLICKR
from workbench.data.sources.downloads import is_record
from workbench.errors import UserError, first_line

FILE_COLUMNS = ("file", "image", "path", "filename", "filepath", "file_name", "image_name")
CAPTION_COLUMNS = ("caption", "text", "title", "comment")
SEPARATORS = (",", ";", "\t", "|")  # of a .csv; Excel writes semicolons where a comma is the decimal point
NUMBER = "comment_number"  # Flickr30k's column before the caption, ...
UNSEPARATED = re.compile(r"\s*(\d+)\s+(\S.*)")  # ... which one row of its `results.csv` does not separate from it
QUOTED = re.compile(r'"((?:[^"]|"")*)"\s*')
END = "\x1c end of the file \x1c"  # an extra last line: if it ends up in a field, that field's quote is not closed

Row = tuple[str, Any, str]  # file, caption or captions, split
Line = tuple[int, list[str]]  # line number, fields


def read_table(file: Path, images: ImageFolders) -> Reading:
    """Reads a table. An image may have several rows, and a row a list of captions."""
    reading = Reading("table")
    captions: dict[str, list[Any]] = {}
    splits: dict[str, str] = {}
    for name, content, split in ROWS[file.suffix](file, reading):
        if not name:
            reading.broken.append((f"{file.name}: {str(content)[:60]}", "it names no file"))
            continue
        captions.setdefault(name, []).extend(content if isinstance(content, list) else [content])
        if content is not None:
            splits.setdefault(name, split)
    flickr = [file.parent / name for name in FLICKR] if file.name in ("captions.txt", "results.csv") else []
    folders = ranked(list(captions), [*images.roots, file.parent, *flickr])
    places = places_of([(name,) for name in captions], folders, images, file.parent)
    for (name, texts), place in zip(captions.items(), places, strict=True):
        texts_of_image = (text if isinstance(text, str) else str(text) for text in texts if text is not None)
        reading.add(name, texts_of_image, SPLITS.get(splits.get(name, ""), "train"), Place(place))
    return reading


def _csv_rows(file: Path, reading: Reading) -> Iterator[Row]:
    text = text_of(file)
    # The separator is the one that splits the first line into the required columns.
    first, _, rest = text.lstrip("\r\n").partition("\n")
    declared = first.strip()[4:] if first.lower().startswith("sep=") else ""  # Excel's declaration
    if declared:
        first, text = rest.partition("\n")[0], rest
    names = {one: [_plain(name) for name in next(csv.reader([first], delimiter=one), [])] for one in SEPARATORS}
    known = [one for one in SEPARATORS if {*names[one]} & {*FILE_COLUMNS} and {*names[one]} & {*CAPTION_COLUMNS}]
    separator = "\t" if file.suffix == ".tsv" and not known else (known or [declared or ","])[0]
    lines = _lines(file, text, separator, len(names[separator]), NUMBER in names[separator])
    header = [_plain(name) for name in next((row for _, row in lines if row), [])]
    places = _columns(file, header)
    wrong: list[tuple[int, int]] = []
    number = 1
    for number, row in lines:
        if len(row) == len(header):
            yield _row([row[place].strip() or None if place is not None else None for place in places])
        elif row:
            wrong.append((number, len(row)))
    if wrong and wrong[-1][0] == number and wrong[-1][1] < len(header) and not text.endswith(("\n", "\r")):
        raise cut_off(file, number, f"it has {wrong[-1][1]} of {len(header)} columns")
    reading.broken += [
        (
            f"{file.name}, line {number}",
            f"it has {count} columns instead of {len(header)}; put captions that contain separators in quotes",
        )
        for number, count in wrong
    ]


def _lines(file: Path, text: str, separator: str, columns: int, numbered: bool) -> Iterator[Line]:
    """The rows of a table, with its quotes interpreted as they are meant."""
    if separator == "\t":
        return _tabbed(file, text, columns)
    if file.suffix == ".txt" or numbered:
        quoted = _well_quoted(text, separator, columns)
        return _unquoted(text, separator, columns, numbered) if quoted is None else iter(quoted)
    return _quoted(file, text, separator)


def _tabbed(file: Path, text: str, columns: int) -> Iterator[Line]:
    """The rows of a table with tabs. Only spreadsheets quote fields between tabs, so the interpretation is taken with
    which more rows have as many columns as the first."""
    if all(len(row) in (0, columns) for _, row in _unquoted(text, "\t")):
        return _unquoted(text, "\t")
    raw = list(_unquoted(text, "\t"))
    try:
        quoted = list(_quoted(file, text, "\t"))
    except UserError:
        return iter(raw)
    return iter(raw if _agreement(raw, columns) >= _agreement(quoted, columns) else quoted)


def _agreement(rows: Sequence[Line], columns: int) -> int:
    return sum(1 if len(row) == columns else -1 for _, row in rows if row)


def _quoted(file: Path, text: str, separator: str) -> Iterator[Line]:
    """Rows as spreadsheets write them: a quoted field may hold separators, line breaks and doubled quotes."""
    lines = csv.reader(chain(io.StringIO(text, newline=""), [END]), delimiter=separator)
    begin = 1
    try:
        for row in lines:
            if row == [END]:
                return
            if row and row[-1].endswith(END):
                raise csv.Error("unexpected end of data")
            yield lines.line_num, row
            begin = lines.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{file}:{begin}: not a readable {file.suffix[1:]} file ({first_line(error)}); a quote may lack its end."
        ) from error


def _well_quoted(text: str, separator: str, columns: int) -> list[Line] | None:
    """The rows, if all quotes are well-formed and all rows have this many columns; else None."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = [(lines.line_num, row) for row in lines]
    except csv.Error:
        return None
    return rows if all(len(row) in (0, columns) for _, row in rows) else None


def _unquoted(text: str, separator: str, columns: int = 0, numbered: bool = False) -> Iterator[Line]:
    """Rows of one line each, in which quotes are text unless they enclose a field.

    With `columns` above 0, the last column keeps all further separators. `numbered`: a comment's number may precede it
    without a separator.
    """
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        row = line.rstrip("\n").split(separator, columns - 1) if line != "\n" else []
        if numbered and len(row) == columns - 1 and (match := UNSEPARATED.fullmatch(row[-1])):
            row[-1:] = match.groups()
        yield number, [_without_quotes(field) for field in row]


def _without_quotes(field: str) -> str:
    quoted = QUOTED.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


def _json_rows(file: Path, reading: Reading) -> Iterator[Row]:
    """The rows of a .jsonl file, which need not have the same keys."""
    keys: dict[str, None] = {}
    text = text_of(file)
    last = text.count("\n") + 1  # empty in an intact file
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("not a mapping")
        except (ValueError, RecursionError) as error:
            if number == last > 1 and line.startswith("{") and not line.rstrip().endswith("}"):
                raise cut_off(file, number, first_line(error)) from error
            reading.broken.append((f"{file.name}, line {number}", f"it is not valid JSON ({first_line(error)})"))
            continue
        keys |= dict.fromkeys(entry)
        file_key, caption_key = (
            next((name for name in names if entry.get(name) is not None), "")
            for names in (FILE_COLUMNS, CAPTION_COLUMNS)
        )
        yield _row([entry.get(file_key), entry.get(caption_key), entry.get("split")])
    if keys:
        _columns(file, list(keys))
    elif reading.broken:
        what, why = reading.broken[0]
        raise UserError(f"{file}:{what.split()[-1]}: not a readable jsonl file ({what}: {why}).")


def _parquet_rows(file: Path, reading: Reading) -> Iterator[Row]:
    try:
        schema = pl.scan_parquet(file, glob=False).collect_schema()
        if is_record(list(schema)):
            raise UnknownForm(
                f"{file}: img2dataset's record of its downloads names no files; use the folder with its images or tars."
            )
        places = _columns(file, list(schema))
        for name in [list(schema)[place] for place in places[:2] if place is not None]:
            if isinstance(schema[name], pl.Struct | pl.Binary):
                raise UserError(
                    f"{file}: the column `{name}` holds binary data, not text; unpack the images and name their files."
                )
        frame = pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{file}: not a readable parquet file ({first_line(error)}).") from error
    for row in frame.iter_rows():
        yield _row([row[place] if place is not None else None for place in places])


def _row(values: list[Any]) -> Row:
    name, caption, split = values
    return "" if name is None else str(name), caption, str(split)


def _plain(name: str) -> str:
    return name.strip().lower()


def _columns(file: Path, header: Sequence[str]) -> list[int | None]:
    """The places of file, caption and split among the columns."""
    places: list[int | None] = []
    for meaning, names in (("file", FILE_COLUMNS), ("caption", CAPTION_COLUMNS)):
        place = next((header.index(name) for name in names if name in header), None)
        if place is None:
            raise UnknownForm(
                f"{file}: the column `{meaning}` is missing; `file` and `caption` are needed"
                + (f", and there is {', '.join(map(repr, header[:8]))}." if header else ".")
            )
        places.append(place)
    return [*places, header.index("split") if "split" in header else None]


ROWS: dict[str, Callable[[Path, Reading], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".txt": _csv_rows,
    ".jsonl": _json_rows,
    ".parquet": _parquet_rows,
}
