"""Untrimmed videos with their micro-actions, and windows of a few seconds of them as clips."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from tfds_ma52.errors import UserError
from tfds_ma52.folder import ListedClip

LONGEST = 24 * 3600.0  # seconds of a video
_SHORTEST = 0.01  # seconds of a window and from one's start to the next
_SLACK = 1e-6  # seconds and shares that rounding may cost
_REST = 0.02  # seconds behind the last whole window that need no further one: about half a frame


@dataclasses.dataclass(frozen=True)
class Action:
    """A micro-action in a video: its class, and start and end in seconds."""

    class_id: int
    start: float
    end: float


@dataclasses.dataclass
class Video:
    """An untrimmed video as annotated.

    Attributes:
      name: as the annotations have it.
      split: train, val or test, in MMA-82 of a domain.
      duration: seconds.
      location: of its first annotation, `file:line` or the file.
      actions: in the order of the annotations.
    """

    name: str
    split: str
    duration: float
    location: str
    actions: list[Action]


def check_windows(window: float, stride: float, min_overlap: float) -> None:
    """Checks arguments of `mma52.read_folder`.

    Raises:
      UserError: one is out of range.
    """
    for name, value in (("window", window), ("stride", stride)):
        if not _SHORTEST <= value <= LONGEST:
            raise UserError(f"{name} is {value}; give {_SHORTEST} to {LONGEST:.0f} seconds", field=name)
    if not 0 < min_overlap <= 1:
        raise UserError(f"min_overlap is {min_overlap}; give a share above 0, up to 1", field="min_overlap")


def windows(duration: float, window: float, stride: float) -> list[tuple[float, float]]:
    """Start and end in seconds of the windows of a video, see `mma52.read_folder`."""
    if duration <= window + _SLACK:
        return [(0.0, duration)]
    count = math.floor((duration - window) / stride + _SLACK) + 1
    spans = [(i * stride, i * stride + window) for i in range(count)]
    if spans[-1][1] < duration - _REST:  # it would have the name of the one before, too
        spans.append((duration - window, duration))
    return spans


def labels_of(actions: Sequence[Action], span: tuple[float, float], min_overlap: float) -> tuple[int, ...]:
    """The target classes of a window, see `mma52.read_folder`."""
    start, end = span
    present: set[int] = set()
    for action in actions:
        shared = min(end, action.end) - max(start, action.start)
        shorter = min(end - start, action.end - action.start)
        if shared > 0 and shared >= min_overlap * shorter - _SLACK:
            present.add(action.class_id)
    return tuple(sorted(present))


def window_clip(
    path: pathlib.Path, video: Video, subject: str, span: tuple[float, float], min_overlap: float | None
) -> ListedClip:
    """A window of a video as a clip, see `mma52.read_folder`; without a `min_overlap` its labels are hidden."""
    targets = None if min_overlap is None else labels_of(video.actions, span, min_overlap)
    name = f"{video.name}@{span[0]:.2f}-{span[1]:.2f}"
    return ListedClip(path, name, video.split, targets, subject, video.location, span=span)
