"""Predictions for videos as text, as JSON, and as timelines of long ones."""

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from manet_jax.detection.segments import Segment
from manet_jax.inference import Prediction
from manet_jax.report import figures
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import LabelSet


def describe(predictions: Sequence[Prediction], count: int, segments: Sequence[Segment] = ()) -> dict[str, Any]:
    """The prediction for one video as JSON: `top` actions and `emotion`, or an `error`.

    For a long one `windows` with those, and the `segments` that were found in it.
    """
    first = predictions[0]
    name = figures.printable(first.video)
    if first.error:
        return {"video": name, "error": first.error}
    if not first.windowed:
        return {"video": name, "end": round(first.end, 3), **_describe_one(first, count)}
    readable = [each for each in predictions if not each.error]
    windows = [{"start": round(p.start, 3), "end": round(p.end, 3), **_describe_one(p, count)} for p in readable]
    broken = {"error": predictions[-1].error} if predictions[-1].error else {}
    found = [_describe_segment(each, first.labels) for each in segments]
    return {"video": name, "windows": windows, "segments": found, **broken}


def _describe_segment(segment: Segment, labels: LabelSet) -> dict[str, Any]:
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "action": labels.names[segment.class_id],
        "class_id": segment.class_id,
        "group": labels.group_names[labels.groups[segment.class_id]],
        "score": segment.score,
    }


def _describe_one(prediction: Prediction, count: int) -> dict[str, Any]:
    found = {"top": prediction.top(count), "emotion": prediction.emotion()}
    return {name: value for name, value in found.items() if value}


def format_video(predictions: Sequence[Prediction], count: int, segments: Sequence[Segment] = ()) -> str:
    """The prediction for one video as text: its most probable actions, or a long one's line by line in time.

    Below a long one's windows stand the segments that were found in it.
    """
    first = predictions[0]
    if first.windowed:
        lines = [f"{figures.printable(first.video)}: {len(predictions)} windows"]
        lines += [f"  {text}" for text in _format_stretches([p for p in predictions if not p.error])]
        if first.probabilities is not None:
            lines.append(f"{figures.printable(first.video)}: {len(segments)} segments (start, end, score)")
            lines += [f"  {_format_segment(each, first.labels)}" for each in segments]
    else:
        lines = [figures.printable(first.video)]
        lines += [
            f"  {100 * each['probability']:5.1f} %  {each['action']} ({each['group']})" for each in first.top(count)
        ]
        if emotion := first.emotion():
            lines.append(f"  {100 * emotion['probability']:5.1f} %  emotion: {emotion['emotion']}")
    if error := predictions[-1].error:
        lines.append(f"  cannot be read: {error}")
    return "\n".join(lines)


def _format_segment(segment: Segment, labels: LabelSet) -> str:
    title = f"{labels.names[segment.class_id]} ({labels.group_names[labels.groups[segment.class_id]]})"
    return f"{figures.clock(segment.start)} - {figures.clock(segment.end)}  {segment.score:.2f}  {title}"


def _format_stretches(windows: Sequence[Prediction]) -> Iterator[str]:
    """A line for each stretch of windows with the same best action and emotion, with their mean probability."""

    def best(window: Prediction) -> tuple[str, str]:
        action, emotion = window.top(1), window.emotion()
        title = f"{action[0]['action']} ({action[0]['group']})" if action else ""
        return title, emotion["emotion"] if emotion else ""

    for (action, emotion), stretch in itertools.groupby(windows, best):
        stretch = list(stretch)
        parts = []
        if action:
            parts.append(f"{_percent(p.probabilities for p in stretch)} %  {action}")
        if emotion:
            parts.append(f"{_percent(p.emotion_probabilities for p in stretch)} %  emotion: {emotion}")
        yield f"{figures.clock(stretch[0].start)} - {figures.clock(stretch[-1].end)}  {'  '.join(parts)}"


def _percent(probabilities: Iterable[np.ndarray | None]) -> str:
    """The mean of the highest probabilities."""
    return f"{100 * np.mean([each.max() for each in probabilities if each is not None]):5.1f}"


def write_timeline(predictions: Sequence[Prediction], path: pathlib.Path, beside: Sequence[str] = ()) -> None:
    """Writes the probabilities of a long video's windows as JSON, and beside it a picture.

    Args:
      predictions: of the windows.
      path: of the JSON file.
      beside: suffixes of the files of segments that have been written beside it; their digests are kept, so that
        `timeline_path` knows when a person has changed them.
    """
    windows = [p for p in predictions if not p.error]
    first = windows[0]
    timeline: dict[str, Any] = {
        "video": figures.printable(os.path.realpath(first.video)),  # first, see `_recorded_video`
        "files": _recorded_files(path) | {suffix: _digest(path.with_suffix(suffix)) for suffix in beside},
        "start": [round(p.start, 3) for p in windows],
        "end": [round(p.end, 3) for p in windows],
    }
    if first.probabilities is not None:
        timeline["actions"] = list(first.labels.names)
        timeline["probabilities"] = [_rounded(p.probabilities) for p in windows]
    if first.emotion_probabilities is not None:
        timeline["emotions"] = list(first.emotions)
        timeline["emotion_probabilities"] = [_rounded(p.emotion_probabilities) for p in windows]
    write_atomically(path.with_suffix(".json"), json.dumps(timeline) + "\n")
    figures.plot_timeline(windows).savefig(path.with_suffix(".png"), dpi=110)


def _rounded(probabilities: np.ndarray | None) -> list[float]:
    return [] if probabilities is None else [round(float(x), 5) for x in probabilities]


def timeline_path(folder: pathlib.Path, video: str, beside: Sequence[str] = ()) -> pathlib.Path:
    """The file of a video's timeline: a new one, or the one of an earlier run; other files of its name stay.

    So do files of segments that a person made, or has corrected since they were written: then a new name is taken.

    Args:
      folder: of the timelines.
      video: whose timeline it is.
      beside: suffixes of the files of segments that are to be written beside it.
    """
    stem, own = pathlib.Path(video).stem, figures.printable(os.path.realpath(video))
    names = (stem if i == 1 else f"{stem}_{i}" for i in itertools.count(1))
    return next(path for name in names if _may_be_written(path := folder / f"{name}.json", own, beside))


def _may_be_written(path: pathlib.Path, own: str, beside: Sequence[str]) -> bool:
    recorded = _recorded_video(path)
    if recorded is None:
        return not any(path.with_suffix(suffix).exists() for suffix in (".png", *beside))
    there = [suffix for suffix in beside if path.with_suffix(suffix).exists()]
    if recorded != own or not there:
        return recorded == own
    written = _recorded_files(path)
    return all(written.get(suffix) == _digest(path.with_suffix(suffix)) for suffix in there)


def _recorded_video(path: pathlib.Path) -> str | None:
    """The video that a timeline was made of; None where there is no file, "" where it is no timeline.

    Only the beginning is read: where many videos have one name, as in a folder for each person, so is each timeline
    before the own one.
    """
    begin = '{"video": '
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(2**16)  # paths have at most 4096 bytes
        found = json.JSONDecoder().raw_decode(text, len(begin))[0] if text.startswith(begin) else ""
    except FileNotFoundError:
        return None
    except ValueError:
        return ""
    return found if isinstance(found, str) else ""


def _recorded_files(path: pathlib.Path) -> dict[str, str]:
    """The digests of the files that were written beside a timeline, by their suffixes."""
    try:
        files = json.loads(path.read_bytes()).get("files", {})
    except (FileNotFoundError, ValueError):
        return {}
    return files if isinstance(files, dict) else {}


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
