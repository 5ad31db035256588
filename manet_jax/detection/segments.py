"""Segments: micro-actions in time."""

import dataclasses


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
