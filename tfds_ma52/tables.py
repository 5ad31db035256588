"""Tables of annotations: csv files as people and programs write them."""

import collections
import csv
import dataclasses
import difflib
import io
import pathlib
from collections.abc import Sequence

from tfds_ma52 import labels as labels_lib
from tfds_ma52.errors import UserError

DELIMITERS = (",", ";", "\t")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a file, with its fields by column and what separates them."""

    location: str
    fields: dict[str, str]
    delimiter: str


def read_csv(
    path: pathlib.Path, columns: Sequence[str], problems: list[str], *, optional: Sequence[str] = ()
) -> list[Row]:
    """Reads a csv file; adds its errors to `problems`.

    The fields are separated as those of the header are: by commas, semicolons or tabs.

    Args:
      path: of the file.
      columns: that it must have.
      problems: gets a line for each error.
      optional: columns that it may have; one of nearly the same name is an error. Others are ignored.
    """
    try:
        text = labels_lib.read_lines(path)
    except UserError as error:
        problems.append(str(error))
        return []
    delimiter = _delimiter(text, columns)
    lines = _read_lines(path, text, delimiter, problems)
    if not lines:
        return []
    (location, names), *lines = lines
    header = [name.strip().lower() for name in names]
    if problem := _wrong_header(header, columns, delimiter) or _misspelled(header, optional):
        problems.append(f"{location}: {problem}")
        return []
    rows: list[Row] = []
    for location, fields in lines:
        if problem := _wrong_fields(header, fields, delimiter):
            problems.append(f"{location}: {problem}")
        else:
            rows.append(Row(location, dict(zip(header, fields, strict=True)), delimiter))
    if not rows and not problems:
        problems.append(f"{path}: there is no row below the header")
    return rows


def _delimiter(text: Sequence[str], columns: Sequence[str]) -> str:
    """The delimiter that finds most of the columns in the first line with any text; of equals the first."""
    header = next((line for line in text if line.strip()), "")

    def count(delimiter: str) -> int:
        names = {name.strip(' "').lower() for name in header.split(delimiter)}
        return len(names.intersection(columns))

    return max(DELIMITERS, key=count)


def _read_lines(
    path: pathlib.Path, text: Sequence[str], delimiter: str, problems: list[str]
) -> list[tuple[str, list[str]]]:
    """Returns location and fields of each line that has any; adds to `problems`."""
    # Strict, for a quote that is never closed would hide the rows below it.
    reader = csv.reader(io.StringIO("\n".join(text)), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines: list[tuple[str, list[str]]] = []
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                lines.append((f"{path}:{reader.line_num}", fields))
    except csv.Error as error:
        problems.append(f"{path}:{reader.line_num}: not a csv row ({error})")
    else:
        if not lines:
            problems.append(f"{path}: the file is empty")
    return lines


def _wrong_header(header: Sequence[str], columns: Sequence[str], delimiter: str) -> str:
    """The fault of a header; "" for a sound one."""
    repeated = [name for name, count in collections.Counter(header).items() if name and count > 1]
    if repeated:
        return f"the header has {' and '.join(map(repr, repeated))} more than once"
    missing = [name for name in columns if name not in header]
    hint = "; or name the files train.csv and val.csv" if missing == ["split"] else ""
    return f"the header {delimiter.join(header)!r} lacks {' and '.join(missing)}{hint}" if missing else ""


def _misspelled(header: Sequence[str], optional: Sequence[str]) -> str:
    """A column of a header that seems to be an optional one; "" for none."""
    for column in optional:
        near = difflib.get_close_matches(column, header, n=1, cutoff=0.8)
        if near and column not in header:
            return f"the header has {near[0]!r}, which would be ignored: write {column!r}"
    return ""


def _wrong_fields(header: Sequence[str], fields: Sequence[str], delimiter: str) -> str:
    """The fault of a row; "" for a sound one. A first column without a name is an index, as pandas writes it."""
    if len(fields) != len(header):
        split = delimiter == ";" and len(fields) > len(header) and "labels" in header
        hint = "; where ';' separates the fields, several labels need quotes or '|' between them" if split else ""
        return f"expected {len(header)} fields ({delimiter.join(header)}), got {len(fields)}{hint}"
    for number, (name, field) in enumerate(zip(header, fields, strict=True), 1):
        if number > 1 and not name and field.strip():
            return f"field {number} is {field.strip()!r}, but the column has no name"
    return ""
