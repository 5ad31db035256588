"""The segments whose correction would teach a model most: those of which it is least sure."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from manet_jax.detection.segments import Segment, distinct


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a model made of a video.

    Attributes:
      times: of the moments of the video, in seconds.
      probabilities: of each class at each moment.
      segments: what was found.
      disagreement: standard deviation of the probabilities over views and models; None where there is one of them.
    """

    times: Float[np.ndarray, " t"]
    probabilities: Float[np.ndarray, "t n"]
    segments: Sequence[Segment]
    disagreement: Float[np.ndarray, "t n"] | None = None


def doubt(segment: Segment, video: Scored, *, exclusive: bool) -> float:
    """How unsure a model is of a segment, from 0 to 1.

    Two measures of active learning (Settles, *Active Learning Literature Survey*, 2009), of the means inside the
    segment. The margin: where a clip has one class, one minus the distance of the segment's class from the best other
    one; where it has several, one minus twice the distance of the class's probability from one half. And the
    disagreement: twice the standard deviation of the class's probability over views and models. Either alone is enough
    to be unsure: 1 - (1 - margin) (1 - disagreement).

    Args:
      segment: of the video.
      video: what the model made of it.
      exclusive: whether a clip has one class.
    """
    times, class_id = video.times, segment.class_id
    inside = (times >= segment.start) & (times <= segment.end)
    if not inside.any():
        middle = np.abs(times - (segment.start + segment.end) / 2)
        inside = middle == middle.min()
    mean = video.probabilities[inside].mean(0)
    clear = abs(2 * mean[class_id] - 1)
    if exclusive and len(mean) > 1:
        clear = abs(mean[class_id] - np.delete(mean, class_id).max())
    if video.disagreement is not None:
        clear *= 1 - min(1.0, 2 * video.disagreement[inside, class_id].mean())
    return float(1 - clear)


def least_sure(videos: Sequence[Scored], count: int, *, exclusive: bool) -> list[list[Segment]]:
    """The segments of which a model is least sure, of all videos together; of each video those that are among them.

    Args:
      videos: segments that overlap a more certain one of their class do not count.
      count: how many there are to be.
      exclusive: see `doubt`.

    Returns:
      Those of each video, by their start.
    """
    ranked = [
        (-doubt(segment, video, exclusive=exclusive), number, segment)
        for number, video in enumerate(videos)
        for segment in distinct(video.segments)
    ]
    ranked.sort(key=lambda each: (each[0], each[1], each[2].start, each[2].class_id))
    chosen: list[list[Segment]] = [[] for _ in videos]
    for _, number, segment in ranked[:count]:
        chosen[number].append(segment)
    return [sorted(each, key=lambda segment: (segment.start, segment.class_id)) for each in chosen]
