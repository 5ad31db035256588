"""Tables of events that BORIS exports, as csv or tsv; written after those of BORIS 8.27."""

import collections
import math
import pathlib
import re
from collections.abc import Iterator, Sequence

from tfds_ma52 import labels as labels_lib
from tfds_ma52.errors import UserError
from tfds_ma52.observations import Annotation, Media, Observation, check_times, file_name
from tfds_ma52.tables import Row, read_csv

SUFFIXES = (".csv", ".tsv")
# In lower case, as `read_csv` has them. Other columns differ with the version, and with the project's variables.
AGGREGATED = ("observation id", "subject", "behavior", "behavior type", "start (s)", "stop (s)")
TABULAR = ("observation id", "subject", "behavior", "behavior type", "time")

_MEDIA = ("source", "media file", "media file name", "media file path")


def is_table(path: pathlib.Path) -> bool:
    """Whether a file seems to be a table of BORIS: its header names observations and behaviors."""
    header = _header(path)
    return "observation id" in header and "behavior" in header


def read_table(path: pathlib.Path, problems: list[str]) -> list[Observation]:
    """Reads the observations of a table of aggregated or of tabular events; adds its errors to `problems`."""
    aggregated = "start (s)" in _header(path)
    by_observation: dict[str, list[Row]] = collections.defaultdict(list)
    for row in read_csv(path, AGGREGATED if aggregated else TABULAR, problems):
        by_observation[row.fields["observation id"].strip()].append(row)
    observations: list[Observation] = []
    for name, rows in by_observation.items():
        location = f"{path}: observation {name!r}"
        spans = _spans(rows, problems) if aggregated else _paired(rows, problems)
        annotations = tuple(_annotations(spans, problems))
        try:
            media = _media(rows)
        except ValueError as error:
            problems.append(f"{location}: {error}")
            continue
        observations.append(Observation(location, "", media, annotations))
    return observations


def _header(path: pathlib.Path) -> str:
    """The first line of a file with any text, in lower case; "" where it cannot be read."""
    try:
        return next((line.lower() for line in labels_lib.read_lines(path) if line.strip()), "")
    except UserError:
        return ""


def _media(rows: Sequence[Row]) -> tuple[Media, ...]:
    """The video of an observation.

    Raises:
      ValueError: there is none, or several in a row, or its clock is not the video's.
    """
    columns = [name for name in _MEDIA if name in rows[0].fields]
    sources = {row.fields[columns[0]].strip() for row in rows} if columns else set()
    offsets = {row.fields.get("time offset (s)", "").strip() for row in rows}
    if any(offset and _number(offset, "time offset") for offset in offsets):
        raise ValueError("it has a time offset: set that to 0 in BORIS and export again")
    if len(sources) != 1:
        raise ValueError("its rows name no media file, or several: export it with the media file (column 'Source')")
    first = re.sub(r"^player #1:\s*", "", sources.pop().split("|")[0])
    if ";" in first:
        raise ValueError("it has several videos one after the other: code each video in an observation of its own")
    return (Media(file_name(first)),)


_Span = tuple[Row, float, float]


def _spans(rows: Sequence[Row], problems: list[str]) -> Iterator[_Span]:
    """Aggregated events: a row has start and end."""
    for row in rows:
        try:
            _check_state(row)
            yield row, _number(row.fields["start (s)"], "start"), _number(row.fields["stop (s)"], "stop")
        except ValueError as error:
            problems.append(f"{row.location}: {error}")


def _paired(rows: Sequence[Row], problems: list[str]) -> Iterator[_Span]:
    """Tabular events: a row starts a state, and a later one of the same subject, behavior and modifiers ends it."""
    running: dict[tuple[str, str], tuple[Row, float]] = {}
    for row in rows:
        try:
            _check_state(row)
            time, event = _number(row.fields["time"], "time"), row.fields["behavior type"].strip().upper()
            state = row.fields["subject"].strip(), _value(row)
            if event == "START" and state not in running:
                running[state] = row, time
            elif event == "STOP" and state in running:
                yield *running.pop(state), time
            else:
                raise ValueError(f"the behavior type is {event!r}; expected START, and STOP after each")
        except ValueError as error:
            problems.append(f"{row.location}: {error}")
    problems += [f"{row.location}: the behavior starts, but does not stop" for row, _ in running.values()]


def _annotations(spans: Iterator[_Span], problems: list[str]) -> Iterator[Annotation]:
    for row, start, end in spans:
        try:
            check_times(start, end)
        except ValueError as error:
            problems.append(f"{row.location}: {error}")
            continue
        yield Annotation(row.location, row.fields.get("behavioral category", "").strip(), _value(row), start, end)


def _value(row: Row) -> str:
    """The behavior, with its modifiers where it has any: `touching|nose`."""
    modifiers = [value for name, value in row.fields.items() if name.startswith("modifier")]
    parts = [" ".join(part.split()) for part in (row.fields["behavior"], *modifiers)]
    return "|".join(part for part in parts if part)


def _check_state(row: Row) -> None:
    if row.fields["behavior type"].strip().upper() == "POINT":
        raise ValueError("a point event has no length: code the behavior as a state event")


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{what} is {text.strip()!r}; expected seconds") from error
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{what} is {text.strip()!r}; expected seconds from 0 on")
    return value
