"""Segments in files of the tools with which people annotate videos: ELAN, BORIS, and subtitles."""

import csv
import datetime
import html
import io
import json
import mimetypes
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pympi

from manet_jax.detection.segments import Segment
from tfds_ma52 import video as video_lib
from tfds_ma52.elan import CONFIDENCE_TYPE
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import LabelSet

# The columns of BORIS 8.27's aggregated events, for a project without independent variables and modifiers.
BORIS_COLUMNS = (
    *("Observation id", "Observation date", "Description", "Observation type", "Source", "Time offset (s)"),
    *("Coding duration", "Media duration (s)", "FPS (frame/s)", "Subject"),
    *("Observation duration by subject by observation", "Behavior", "Behavioral category", "Behavior type"),
    *("Start (s)", "Stop (s)", "Duration (s)", "Media file name", "Image index start", "Image index stop"),
    *("Image file path start", "Image file path stop", "Comment start", "Comment stop"),
)

_DESCRIPTION = "predicted by manet_jax"
_TOLERANCE = 0.1  # seconds by which a segment may end after its video, as actions may
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no way to write


def write_eaf(
    path: pathlib.Path,
    video: pathlib.Path,
    duration: float,
    segments: Iterable[Segment],
    labels: LabelSet,
    *,
    to_review: Iterable[Segment] = (),
) -> None:
    """Writes a file of ELAN 4.7 and later, with a tier for each body group.

    As annotations of one tier may not overlap, those that would are on further tiers, such as "head (2)". Each tier
    has a dependent one with the confidence of its annotations, and a vocabulary of its group's classes.

    Args:
      path: of the file; one that is there is replaced.
      video: the file that the annotations are of, linked by its absolute and its relative path.
      duration: of the video in seconds.
      segments: in any order.
      labels: the classes and groups.
      to_review: those of the segments behind whose confidence "to review" stands.

    Raises:
      UserError: a class has a character that the file cannot hold.
      ValueError: a segment lies outside the video.
      OSError: the file cannot be written.
    """
    _check_names(labels)
    eaf = pympi.Eaf(author="manet_jax")
    eaf.remove_tier("default")
    eaf.remove_linguistic_type("default-lt")
    eaf.header = {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"}
    url, relative = _urls(path, video)
    eaf.add_linked_file(url, relpath=relative, mimetype=_mime_type(video))
    eaf.add_linguistic_type(CONFIDENCE_TYPE, constraints="Symbolic_Association", timealignable=False)
    eaf.add_language("und", "http://cdb.iso.org/lg/CDB-00130975-001", "undetermined (und)")
    taken, marked = set(labels.group_names), set(to_review)
    ordered = _ordered(segments, duration)
    for group, name in enumerate(labels.group_names):
        _add_vocabulary(eaf, labels, group)
        rows = _rows([segment for segment in ordered if labels.groups[segment.class_id] == group])
        for number, row in enumerate(rows or [[]]):
            _add_tier(eaf, _new_name(name, taken) if number else name, name, row, marked, labels, taken)
    _order_slots(eaf)
    eaf.properties = [("lastUsedAnnotationId", str(eaf.maxaid))]
    write_atomically(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{pympi.Elan.to_string(eaf)}\n')


def write_boris_events(
    path: pathlib.Path, video: pathlib.Path, duration: float, segments: Iterable[Segment], labels: LabelSet
) -> None:
    """Writes a csv file in the form of BORIS 8.27's exported aggregated events, by start.

    BORIS itself opens no csv file, see `write_boris_project`; programs that read BORIS's events do, and
    `tfds_ma52.boris`. A segment's confidence is its "Comment start", such as "confidence 0.870".

    Args, Raises: see `write_eaf`; any name can be written.
    """
    ordered = _ordered(segments, duration)
    spans = [_milliseconds(segment) for segment in ordered]
    coded = f"{sum(end - start for start, end in spans) / 1000:.3f}"
    media = _printable(str(video.absolute()))
    shared = {
        "Observation id": _printable(video.stem),
        "Observation date": _now().replace("T", " "),
        "Description": _DESCRIPTION,
        "Observation type": "Media file",
        "Source": f"player #1:{media}",
        "Time offset (s)": "0.0",
        "Coding duration": f"{duration:.3f}",
        "Media duration (s)": f"{duration:.3f}",
        "FPS (frame/s)": "NA",
        "Subject": "No focal subject",
        "Observation duration by subject by observation": coded,
        "Behavior type": "STATE",
        "Media file name": media,
        "Image index start": "NA",
        "Image index stop": "NA",
    }
    text = io.StringIO()
    table = csv.DictWriter(text, BORIS_COLUMNS, restval="")
    table.writeheader()
    for segment, (start, end) in zip(ordered, spans, strict=True):
        own = {
            "Behavior": labels.names[segment.class_id],
            "Behavioral category": labels.group_names[labels.groups[segment.class_id]],
            "Start (s)": _seconds(start),
            "Stop (s)": _seconds(end),
            "Duration (s)": _seconds(end - start),
            "Comment start": f"confidence {segment.score:.3f}",
        }
        table.writerow(shared | own)
    write_atomically(path, text.getvalue())


def write_boris_project(
    path: pathlib.Path, video: pathlib.Path, duration: float, segments: Iterable[Segment], labels: LabelSet
) -> None:
    """Writes a project of BORIS (.boris, format 7.0, which BORIS 7 and later open) with one observation of the video.

    The classes are the project's ethogram, the body groups its behavioral categories. As a state of BORIS cannot
    begin again before it has ended, segments of one class that overlap or touch become one, with the highest
    confidence, which is the comment of its start.

    Args, Raises: see `write_eaf`; any name can be written. DamagedVideoError: the video cannot be read.
    """
    media = _printable(str(video.absolute()))
    events: list[list[Any]] = []
    for start, end, segment in _joined(_ordered(segments, duration)):
        name, comment = labels.names[segment.class_id], f"confidence {segment.score:.3f}"
        events += [[start / 1000, "", name, "", comment, "NA"], [end / 1000, "", name, "", "", "NA"]]
    players = {str(number): [media] if number == 1 else [] for number in range(1, 9)}
    observation = {
        "file": players,
        "type": "MEDIA",
        "date": _now(),
        "description": _DESCRIPTION,
        "time offset": 0.0,
        "events": sorted(events, key=lambda event: event[0]),
        "observation time interval": [0, 0],
        "independent_variables": {},
        "visualize_spectrogram": False,
        "visualize_waveform": False,
        "close_behaviors_between_videos": False,
        "media_info": {
            "length": {media: duration},
            "fps": {media: video_lib.frame_rate(video)},
            "hasVideo": {media: True},
            "hasAudio": {media: False},
            "offset": {"1": 0.0},
        },
    }
    project = {
        "time_format": "hh:mm:ss",
        "project_date": _now(),
        "project_name": _printable(video.stem),
        "project_description": _DESCRIPTION,
        "project_format_version": "7.0",
        "subjects_conf": {},
        "behaviors_conf": {str(i): _behavior(labels, i) for i in range(len(labels.names))},
        "observations": {_printable(video.stem): observation},
        "behavioral_categories": list(labels.group_names),
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
    }
    write_atomically(path, json.dumps(project, ensure_ascii=True, indent=1))


def write_webvtt(
    path: pathlib.Path, video: pathlib.Path, duration: float, segments: Iterable[Segment], labels: LabelSet
) -> None:
    """Writes WebVTT subtitles: a cue for each segment, by start, with its class and confidence: "nodding 0.87".

    Players show them over the video where the file has the video's name (clip.mp4, clip.vtt).

    Args, Raises: see `write_eaf`; any name can be written.
    """
    cues = ["WEBVTT\n"]
    for number, segment in enumerate(_ordered(segments, duration), 1):
        start, end = map(_time_stamp, _milliseconds(segment))
        name = html.escape(labels.names[segment.class_id], quote=False)
        cues.append(f"{number}\n{start} --> {end}\n{name} {segment.score:.2f}\n")
    write_atomically(path, "\n".join(cues))


def _ordered(segments: Iterable[Segment], duration: float) -> list[Segment]:
    """Segments by start; ValueError where one lies outside the video."""
    ordered = sorted(segments, key=lambda segment: (segment.start, segment.end, segment.class_id, -segment.score))
    for segment in ordered:
        if not 0 <= segment.start < segment.end <= duration + _TOLERANCE:
            raise ValueError(f"{segment} does not lie in a video of {duration} s")
    return ordered


def _milliseconds(segment: Segment) -> tuple[int, int]:
    """Start and end; none of the tools has annotations without a length, so that one lasts at least a millisecond."""
    start, end = (round(1000 * round(time, 3)) for time in (segment.start, segment.end))
    return start, max(start + 1, end)


def _rows(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments by start on as few rows as possible, so that those of one row do not overlap."""
    rows: list[list[Segment]] = []
    for segment in segments:
        start, _ = _milliseconds(segment)
        free = next((row for row in rows if _milliseconds(row[-1])[1] <= start), None)
        if free is None:
            rows.append([segment])
        else:
            free.append(segment)
    return rows


def _joined(ordered: Sequence[Segment]) -> list[tuple[int, int, Segment]]:
    """Start, end and the surest segment of each stretch of segments of one class that overlap or touch."""
    joined: list[tuple[int, int, Segment]] = []
    last: dict[int, int] = {}  # each class's latest in `joined`
    for segment in ordered:
        start, end = _milliseconds(segment)
        number = last.get(segment.class_id)
        if number is not None and start <= joined[number][1]:
            first, until, surest = joined[number]
            joined[number] = first, max(until, end), max(surest, segment, key=lambda each: each.score)
        else:
            last[segment.class_id] = len(joined)
            joined.append((start, end, segment))
    return joined


def _add_vocabulary(eaf: pympi.Eaf, labels: LabelSet, group: int) -> None:
    """Adds the type of a group's tiers, whose annotations are chosen from its classes."""
    name = labels.group_names[group]
    eaf.add_controlled_vocabulary(name)
    for class_id, of_class in enumerate(labels.groups):
        if of_class == group:
            eaf.add_cv_entry(name, f"class{class_id}", [(labels.names[class_id], "und", None)])
    eaf.add_linguistic_type(name)
    eaf.linguistic_types[name]["CONTROLLED_VOCABULARY_REF"] = name


def _add_tier(
    eaf: pympi.Eaf,
    name: str,
    group: str,
    segments: Iterable[Segment],
    marked: Collection[Segment],
    labels: LabelSet,
    taken: set[str],
) -> None:
    """Adds a tier of segments, and one below it of their confidence."""
    eaf.add_tier(name, ling=group)
    below = _new_name(f"{name}: confidence", taken)
    eaf.add_tier(below, ling=CONFIDENCE_TYPE, parent=name)
    for segment in segments:
        eaf.add_annotation(name, *_milliseconds(segment), labels.names[segment.class_id])
        action = f"a{eaf.maxaid}"
        # `add_ref_annotation` finds the annotation by a time, at which another may end or begin.
        confidence = eaf.generate_annotation_id()
        eaf.annotations[confidence] = below
        text = f"{segment.score:.3f}{' to review' * (segment in marked)}"
        eaf.tiers[below][1][confidence] = (action, text, None, None)


def _order_slots(eaf: pympi.Eaf) -> None:
    """Numbers the time slots by time, as ELAN does; pympi numbers them as they come."""
    order = sorted(eaf.timeslots, key=lambda slot: eaf.timeslots[slot])
    names = {slot: f"ts{number}" for number, slot in enumerate(order, 1)}
    eaf.timeslots = {names[slot]: eaf.timeslots[slot] for slot in order}
    for aligned, _, _, _ in eaf.tiers.values():
        for key, (start, end, value, svg) in aligned.items():
            aligned[key] = names[start], names[end], value, svg


def _new_name(name: str, taken: set[str]) -> str:
    """A name, or with the first number from 2 on that makes it new; it is taken from then on."""
    numbered = name
    number = 2
    while numbered in taken:
        numbered, number = f"{name} ({number})", number + 1
    taken.add(numbered)
    return numbered


def _check_names(labels: LabelSet) -> None:
    for name in (*labels.names, *labels.group_names):
        if _NO_XML.search(name):
            raise UserError(f"the class or group {name!r} has a character that ELAN's files cannot hold: rename it")


def _urls(path: pathlib.Path, video: pathlib.Path) -> tuple[str, str | None]:
    """Address and relative path of a video in ELAN's form, which has no escapes for spaces and other letters."""
    absolute = video.absolute().as_posix()
    url = f"file://{'' if absolute.startswith('/') else '/'}{absolute}"
    try:
        relative = pathlib.Path(os.path.relpath(video.absolute(), path.absolute().parent)).as_posix()
    except ValueError:  # on another drive of Windows
        return _printable(url), None
    return _printable(url), _printable(relative if relative.startswith("../") else f"./{relative}")


def _printable(name: str) -> str:
    """A file's name in which bytes that are no UTF-8 have become escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _mime_type(video: pathlib.Path) -> str:
    guessed = mimetypes.guess_type(video.name)[0] or ""
    return guessed if guessed.startswith("video/") else "video/*"  # ELAN's word for any


def _behavior(labels: LabelSet, class_id: int) -> dict[str, Any]:
    return {
        "type": "State event",
        "key": "",
        "code": labels.names[class_id],
        "description": "",
        "color": "",
        "category": labels.group_names[labels.groups[class_id]],
        "modifiers": {},
        "excluded": "",
        "coding map": "",
    }


def _now() -> str:
    return datetime.datetime.now().isoformat(timespec="seconds")


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}"


def _time_stamp(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"
