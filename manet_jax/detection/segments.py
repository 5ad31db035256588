"""Segments: micro-actions in time."""

import collections
import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Segment:
    """A micro-action in a video, as predicted.

    Attributes:
      start: seconds from the video's start.
      end: likewise, later than `start`.
      class_id: of the action.
      score: how sure the model is, from 0 to 1; with segments of one class it orders them.
    """

    start: float
    end: float
    class_id: int
    score: float


def distinct(segments: Iterable[Segment]) -> list[Segment]:
    """The segments without those that overlap a more certain one of their action, the most certain first.

    Grouping gives alternatives: the same action with closer and wider ends. Counts would count it several times.
    """
    kept: dict[int, list[Segment]] = collections.defaultdict(list)
    for segment in sorted(segments, key=lambda each: (-each.score, each.start, each.end, each.class_id)):
        others = kept[segment.class_id]
        if all(segment.end <= other.start or other.end <= segment.start for other in others):
            others.append(segment)
    together = [segment for others in kept.values() for segment in others]
    return sorted(together, key=lambda each: (-each.score, each.start, each.end, each.class_id))


def shown_segments(segments: Iterable[Segment], threshold: float) -> list[Segment]:
    """The distinct segments of at least some score, in time."""
    certain = (each for each in distinct(segments) if each.score >= threshold)
    return sorted(certain, key=lambda each: (each.start, each.end))
