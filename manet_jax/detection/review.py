"""The segments whose correction would teach a model most: those of which it is least sure."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from manet_jax.detection.segments import Segment, distinct


def doubt(
    segment: Segment, times: Float[np.ndarray, " t"], probabilities: Float[np.ndarray, "t n"], *, exclusive: bool
) -> float:
    """How unsure a model is of a segment, from 0 to 1.

    The margin of active learning (Settles, *Active Learning Literature Survey*, 2009), of the mean probabilities inside
    the segment. Where a clip has one class it is one minus the distance of the segment's class from the best other one,
    where it has several one minus twice the distance of the class's probability from one half.

    Args:
      segment: of a video.
      times: of the moments of the video, in seconds.
      probabilities: of each class at each moment.
      exclusive: whether a clip has one class.
    """
    inside = (times >= segment.start) & (times <= segment.end)
    if not inside.any():
        middle = np.abs(times - (segment.start + segment.end) / 2)
        inside = middle == middle.min()
    mean = probabilities[inside].mean(0)
    own = mean[segment.class_id]
    if not exclusive or len(mean) == 1:
        return float(1 - abs(2 * own - 1))
    return float(1 - abs(own - np.delete(mean, segment.class_id).max()))


def least_sure(
    videos: Sequence[tuple[Float[np.ndarray, " t"], Float[np.ndarray, "t n"], Sequence[Segment]]],
    count: int,
    *,
    exclusive: bool,
) -> list[list[Segment]]:
    """The segments of which a model is least sure, of all videos together; of each video those that are among them.

    Args:
      videos: of each, moments, probabilities and segments; segments that overlap a more certain one of their class do
        not count.
      count: how many there are to be.
      exclusive: see `doubt`.

    Returns:
      Those of each video, by their start.
    """
    ranked = [
        (-doubt(segment, times, probabilities, exclusive=exclusive), number, segment)
        for number, (times, probabilities, segments) in enumerate(videos)
        for segment in distinct(segments)
    ]
    ranked.sort(key=lambda each: (each[0], each[1], each[2].start, each[2].class_id))
    chosen: list[list[Segment]] = [[] for _ in videos]
    for _, number, segment in ranked[:count]:
        chosen[number].append(segment)
    return [sorted(each, key=lambda segment: (segment.start, segment.class_id)) for each in chosen]
