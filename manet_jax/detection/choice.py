"""Chooses the grouping's parameters on annotated videos."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import tqdm
from jaxtyping import Float

from manet_jax.detection import metric
from manet_jax.detection.grouping import Grouping, group
from tfds_ma52.labels import LabelSet
from tfds_ma52.untrimmed import Action

# Absolute, and dense near 0, where the probabilities of rare classes are.
THRESHOLDS = {
    "even": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "low": (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8),
}
SMOOTHING = (0.0, 0.25, 0.5)  # seconds
CONTRAST = (0.0, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class ScoredVideo:
    """What a classifier says of a video along time, and what there is.

    Attributes:
      scores: of each class at each moment.
      times: of the moments, in seconds.
      duration: of the video.
      actions: as annotated.
    """

    scores: Float[np.ndarray, "t n"]
    times: Float[np.ndarray, " t"]
    duration: float
    actions: Sequence[Action]


def choose(
    videos: Sequence[ScoredVideo], labels: LabelSet, *, progress: str = ""
) -> tuple[Grouping, dict[Grouping, float]]:
    """The grouping with the highest mean detection mAP on some videos, of a grid of 18.

    The grid: two sets of thresholds, three widths of smoothing, three weights of the contrast. Of equal ones the first
    is chosen.

    Args:
      videos: not those on which the choice is to be judged.
      labels: the classes.
      progress: the title of a progress bar; "": none.

    Returns:
      The best one, and the mAP of each.
    """
    targets = {str(i): video.actions for i, video in enumerate(videos)}
    tried: dict[Grouping, float] = {}
    grid = list(itertools.product(THRESHOLDS.values(), SMOOTHING, CONTRAST))
    for thresholds, smoothing, contrast in tqdm.tqdm(grid, progress, disable=None if progress else True):
        grouping = Grouping(thresholds=thresholds, smoothing=smoothing, contrast=contrast)
        found = {str(i): group(video.scores, video.times, video.duration, grouping) for i, video in enumerate(videos)}
        tried[grouping] = _action_map(found, targets, len(labels.names))
    return max(tried, key=tried.__getitem__), tried


def _action_map(predictions: metric.Predictions, targets: metric.Targets, num_classes: int) -> float:
    """The `action_map` of `detection_metrics`, without all that it computes beside."""
    found = metric.by_class(predictions, targets, range(num_classes))
    of_classes = [found[class_id] for class_id in range(num_classes)]
    precisions = [metric.average_precisions(each, metric.THRESHOLDS) for each in of_classes if each.targets]
    return float(np.mean(precisions, axis=0).mean()) if precisions else 0.0
