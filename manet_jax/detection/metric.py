"""Detection mAP over temporal IoU thresholds, as MMA-52's evaluation has it, and in the usual form."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from manet_jax.detection.segments import Segment
from tfds_ma52.labels import LabelSet
from tfds_ma52.untrimmed import Action

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MMA52_THRESHOLDS = tuple(np.arange(0.1, 1, 0.1).tolist())  # whose 0.3 and 0.7 are a little more than that
_MMA52_SLACK = 1e-4  # seconds, added to the union

Predictions = Mapping[str, Sequence[Segment]]  # by video
Targets = Mapping[str, Sequence[Action]]


def detection_metrics(predictions: Predictions, targets: Targets, labels: LabelSet) -> dict[str, float]:
    """The mean average precision (mAP) of the segments found in videos.

    `action_map_0.5` is at a temporal IoU of 0.5, `action_map` the mean over `THRESHOLDS`; `body_map_0.5` and `body_map`
    are of the body groups, to which both sides' classes are mapped. They are means over the classes that occur in the
    targets. With `mma52_` in front they are computed as in MMA-52's evaluation (`evaluate.py` of PointTAD in the
    challenge's baseline): 0.0001 seconds are added to each union, and the means are over all classes.

    Of each class, over all videos together, the predictions are gone through by falling score. One is right if it has a
    tIoU of at least the threshold with an action of its video that none before has taken; of several it takes the one
    with the highest tIoU. The average precision is the area under the precision, made falling from the right, at every
    point of recall. The order of rows has no part in this: ties of scores are broken by video, start and end, ties of
    tIoU by the action's start and end; in the original the later row wins. A class without actions has 0, where the
    original has NaN if it is predicted.

    Args:
      predictions: of each video. Those of a video that is not among the targets are wrong.
      targets: of each video, also of those without any action.
      labels: the classes and their body groups.
    """
    values: dict[str, float] = {}
    groups = [int(group) for group in labels.groups]
    levels = {"action": (list(range(len(labels.names))), len(labels.names)), "body": (groups, len(labels.group_names))}
    for level, (mapping, count) in levels.items():
        of_classes = by_class(predictions, targets, mapping)
        occurring = [class_id for class_id in range(count) if of_classes[class_id].targets]
        for form, thresholds, slack, classes in (
            ("", THRESHOLDS, 0.0, occurring),
            ("mma52_", _MMA52_THRESHOLDS, _MMA52_SLACK, range(count)),
        ):
            precisions = [average_precisions(of_classes[class_id], thresholds, slack) for class_id in classes]
            means = np.mean(precisions, axis=0) if precisions else np.zeros(len(thresholds))
            values[f"{form}{level}_map"] = float(means.mean())
            for threshold, mean in zip(THRESHOLDS, means.tolist(), strict=True):
                values[f"{form}{level}_map_{threshold}"] = mean
    return values


@dataclasses.dataclass
class OfClass:
    """What was found of a class, and what there is.

    Attributes:
      predictions: the video and the segment.
      targets: starts and ends by video, each a row.
    """

    predictions: list[tuple[str, Segment]] = dataclasses.field(default_factory=list)
    targets: dict[str, list[tuple[float, float]]] = dataclasses.field(default_factory=dict)

    @property
    def num_targets(self) -> int:
        """The actions of the class."""
        return sum(map(len, self.targets.values()))


def by_class(predictions: Predictions, targets: Targets, mapping: Sequence[int]) -> Mapping[int, OfClass]:
    """Predictions and targets by class, each class mapped to another, such as its body group. All have an entry."""
    found: dict[int, OfClass] = collections.defaultdict(OfClass)
    for video, segments in predictions.items():
        for segment in segments:
            found[mapping[segment.class_id]].predictions.append((video, segment))
    for video, actions in targets.items():
        for action in actions:
            found[mapping[action.class_id]].targets.setdefault(video, []).append((action.start, action.end))
    return found


def average_precisions(
    of_class: OfClass, thresholds: Sequence[float], slack: float = 0.0
) -> Float[np.ndarray, " thresholds"]:
    """The average precision of one class at each threshold, see `detection_metrics`; `slack` is added to each union."""
    count = of_class.num_targets
    if not count or not of_class.predictions:
        return np.zeros(len(thresholds))
    right = np.array([[hit is not None for hit in hits] for _, _, hits in matches(of_class, thresholds, slack)])
    correct = right.cumsum(0)
    precision = correct / np.arange(1, len(right) + 1)[:, None]
    falling = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    # Recall grows by one action at each prediction that is right.
    return (falling * right).sum(0) / count


def matches(
    of_class: OfClass, thresholds: Sequence[float], slack: float = 0.0
) -> Iterable[tuple[str, Segment, list[int | None]]]:
    """The predictions by falling score, and what each one takes, see `detection_metrics`.

    Yields:
      The video, the segment, and at each threshold the number of the action that it takes among the video's, sorted by
      start and end; None where it is wrong.
    """
    targets = {video: np.array(sorted(rows)) for video, rows in of_class.targets.items()}
    free = {video: np.ones((len(thresholds), len(rows)), bool) for video, rows in targets.items()}
    for video, segment in sorted(
        of_class.predictions, key=lambda each: (-each[1].score, each[0], each[1].start, each[1].end)
    ):
        taken: list[int | None] = [None] * len(thresholds)
        if video in targets:
            overlaps = temporal_iou((segment.start, segment.end), targets[video], slack)
            order = [i for i in np.argsort(-overlaps, kind="stable").tolist() if overlaps[i] >= min(thresholds)]
            for number, threshold in enumerate(thresholds if order else ()):
                best = next((i for i in order if free[video][number, i] and overlaps[i] >= threshold), None)
                if best is not None:
                    free[video][number, best] = False
                    taken[number] = best
        yield video, segment, taken


def temporal_iou(
    span: tuple[float, float], others: Float[np.ndarray, "k 2"], slack: float = 0.0
) -> Float[np.ndarray, " k"]:
    """The temporal intersection over union of a span with others, starts and ends; `slack` is added to the union."""
    start, end = span
    both = np.maximum(0.0, np.minimum(others[:, 1], end) - np.maximum(others[:, 0], start))
    either = others[:, 1] - others[:, 0] + end - start - both + slack
    return both / np.where(either > 0, either, 1.0)
