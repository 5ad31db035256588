"""From scores along time to segments: grouping by several thresholds, and soft non-maximum suppression."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import scipy
from jaxtyping import Float

from manet_jax.detection.segments import Segment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouping:
    """The rule that makes segments of the scores of classes along time.

    For each class and threshold, each longest run of moments whose score is at least the threshold is a segment, as in
    weakly supervised localisation (Shou et al., "AutoLoc", ECCV 2018). It reaches halfway to the moments before and
    behind, or to the ends of the video. Its score is the mean inside, minus `contrast` times the mean of its
    surroundings, a quarter of its length on each side (outer-inner contrast, ibid.). Segments of all thresholds then
    compete in `soft_nms`.

    Attributes:
      thresholds: of a probability.
      smoothing: seconds, the standard deviation of a Gaussian over the scores; 0: none.
      contrast: see above; 0 takes the mean inside alone.
      shortest: seconds; shorter segments are left out.
    """

    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    smoothing: float = 0.0
    contrast: float = 0.5
    shortest: float = 0.3


def group(
    scores: Float[np.ndarray, "t n"], times: Float[np.ndarray, " t"], duration: float, grouping: Grouping | None = None
) -> list[Segment]:
    """The segments of a video, the most certain first.

    Args:
      scores: of each class at each moment.
      times: of the moments, in seconds; they ascend, and lie inside the video.
      duration: of the video, in seconds.
      grouping: the rule; None takes the default.
    """
    grouping = grouping or Grouping()
    if grouping.smoothing and len(times) > 1:
        width = grouping.smoothing / np.diff(times).mean()
        scores = scipy.ndimage.gaussian_filter1d(scores, width, axis=0, mode="nearest")
    # Ends where the score crosses the threshold would seem more exact. But of a run that several thresholds find, those
    # lie apart while the scores are equal: in simulations that lost 1 point of mAP at 4 moments a second, 13 at one.
    borders = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [duration]])
    found: list[Segment] = []
    for class_id, values in enumerate(np.asarray(scores, np.float64).T):
        cumulative = np.concatenate([[0], np.cumsum(values)])
        runs = {run for threshold in grouping.thresholds for run in _runs(values >= threshold)}
        for first, last in sorted(runs):
            start, end = float(borders[first]), float(borders[last + 1])
            score = _contrast(cumulative, first, last, grouping.contrast)
            if end - start >= grouping.shortest and score > 0:
                found.append(Segment(start, end, class_id, min(score, 1.0)))
    return soft_nms(found)


def _runs(present: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of moments."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
    return list(zip(changes[::2].tolist(), (changes[1::2] - 1).tolist(), strict=True))


def _contrast(cumulative: Float[np.ndarray, " t1"], first: int, last: int, contrast: float) -> float:
    """The mean score of a run, less a part of that of its surroundings; there are none beyond the video's ends."""
    length = last + 1 - first
    margin = max(1, round(length / 4))
    inside = (cumulative[last + 1] - cumulative[first]) / length
    low, high = max(0, first - margin), min(len(cumulative) - 1, last + 1 + margin)
    around = high - low - length
    if not around or not contrast:
        return float(inside)
    outside = cumulative[high] - cumulative[low] - (cumulative[last + 1] - cumulative[first])
    return float(inside - contrast * outside / around)


def soft_nms(
    segments: Iterable[Segment], *, sigma: float = 0.5, lowest: float = 0.001, most: int = 2000
) -> list[Segment]:
    """Lowers the score of each segment that overlaps a more certain one of its class (Bodla et al., ICCV 2017).

    By exp(-tIoU^2 / sigma), for each one in turn: the most certain first, then the most certain by the lowered scores,
    and so on. The result does not depend on the order of the input.

    Args:
      segments: of one video.
      sigma: 0.5 in AdaTAD's settings, as are the next two's kinds.
      lowest: score of a segment that is kept.
      most: segments of the video that are kept.

    Returns:
      The segments, the most certain first; ties by start, end and class.
    """
    of_classes: dict[int, list[Segment]] = collections.defaultdict(list)
    for segment in segments:
        of_classes[segment.class_id].append(segment)
    kept = [each for group in of_classes.values() for each in _soft_nms_of_class(group, sigma, lowest)]
    return sorted(kept, key=_rank)[:most]


def _rank(segment: Segment) -> tuple[float, float, float, int]:
    return -segment.score, segment.start, segment.end, segment.class_id


def _soft_nms_of_class(segments: Sequence[Segment], sigma: float, lowest: float) -> list[Segment]:
    ordered = sorted(segments, key=_rank)
    starts, ends, scores = (np.array([getattr(each, name) for each in ordered]) for name in ("start", "end", "score"))
    kept = []
    while len(scores):
        best = int(scores.argmax())  # the first of equal ones
        if scores[best] < lowest:
            break
        start, end = starts[best], ends[best]
        kept.append(Segment(float(start), float(end), segments[0].class_id, float(scores[best])))
        both = np.maximum(0, np.minimum(ends, end) - np.maximum(starts, start))
        overlap = both / (ends - starts + end - start - both)
        scores = scores * np.exp(-(overlap**2) / sigma)
        alive = scores >= lowest
        alive[best] = False
        starts, ends, scores = starts[alive], ends[alive], scores[alive]
    return kept
