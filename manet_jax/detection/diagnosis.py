"""What a detector finds and misses: recall by length and class, and wrong segments by kind."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from manet_jax.detection.metric import (
    OfClass,
    Predictions,
    Targets,
    average_precisions,
    by_class,
    matches,
    temporal_iou,
)
from manet_jax.detection.segments import Segment
from tfds_ma52.labels import LabelSet
from tfds_ma52.untrimmed import Action

KINDS = ("double", "wrong class", "wrong place", "wrong class and place", "background")
LENGTHS = (1.0, 2.0, 4.0, 8.0)  # seconds, between the ranges of length

_NEAR = 0.1  # tIoU from which a segment belongs to an action at all
_DIGITS = 6  # of a length, so that 1.4 s - 0.4 s is 1 s


@dataclasses.dataclass(frozen=True)
class Recall:
    """How many of some actions are found.

    Attributes:
      name: of the actions.
      found: those that a segment takes.
      actions: all of them.
    """

    name: str
    found: int
    actions: int

    @property
    def value(self) -> float | None:
        """The share that is found; None where there are no actions."""
        return self.found / self.actions if self.actions else None


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """See `diagnose`.

    Attributes:
      correct: segments that take an action.
      wrong: the others, counted by `KINDS`.
      by_length: the ranges between `LENGTHS`, each with its lower end; all of them, the shortest first.
      by_class: all classes.
    """

    correct: int
    wrong: dict[str, int]
    by_length: tuple[Recall, ...]
    by_class: tuple[Recall, ...]


def diagnose(
    predictions: Predictions, targets: Targets, labels: LabelSet, *, threshold: float = 0.5, depth: int = 1
) -> Diagnosis:
    """Counts what is found, and what kinds of errors there are, after Alwassel et al. ("DETAD", ECCV 2018).

    Of each class with G actions, the `depth` x G segments with the highest scores are considered: with all segments,
    nearly every action would be found, and nearly every segment be wrong. They take actions as in `detection_metrics`.
    What a wrong one is, the action of its video with the highest tIoU decides, of whatever class; of equal ones, one of
    the segment's class:

    - double: of its class, with a tIoU of at least the threshold; a more certain segment has it.
    - wrong class: of another class, with a tIoU of at least the threshold.
    - wrong place: of its class, with a tIoU from 0.1 to the threshold ("localization error").
    - wrong class and place: of another class, with such a tIoU ("confusion error").
    - background: no action, or one with a tIoU below 0.1.

    Args:
      predictions: of each video.
      targets: of each video, also of those without any action.
      labels: the classes.
      threshold: the tIoU from which a segment takes an action.
      depth: see above.
    """
    wrong: collections.Counter[str] = collections.Counter()
    instances: list[tuple[int, float, bool]] = []  # class, seconds, whether it is found
    of_classes = by_class(predictions, targets, range(len(labels.names)))
    for class_id in range(len(labels.names)):
        of_class, taken = of_classes[class_id], set()
        ranked = matches(of_class, [threshold])
        for video, segment, (hit,) in itertools.islice(ranked, depth * of_class.num_targets):
            if hit is None:
                wrong[_kind(segment, targets.get(video, ()), threshold)] += 1
            else:
                taken.add((video, hit))
        for video, spans in of_class.targets.items():
            for number, (start, end) in enumerate(sorted(spans)):
                instances.append((class_id, round(end - start, _DIGITS), (video, number) in taken))
    return Diagnosis(
        correct=sum(found for _, _, found in instances),
        wrong={kind: wrong[kind] for kind in KINDS},
        by_length=_by_length(instances),
        by_class=tuple(
            _recall(name, [found for class_id, _, found in instances if class_id == number])
            for number, name in enumerate(labels.names)
        ),
    )


def gains(predictions: Predictions, targets: Targets, labels: LabelSet, *, threshold: float = 0.5) -> dict[str, float]:
    """What the mAP at a threshold would gain without the errors of each of `KINDS`, of all segments ("DETAD").

    No error takes an action, so that what is right without them is what is right with them.

    Args:
      predictions: of each video.
      targets: of each video, also of those without any action.
      labels: the classes.
      threshold: the tIoU from which a segment takes an action.
    """
    of_classes = by_class(predictions, targets, range(len(labels.names)))
    precisions: dict[str | None, list[float]] = {kind: [] for kind in (None, *KINDS)}  # None: with all errors
    for of_class in (of_classes[class_id] for class_id in range(len(labels.names))):
        if not of_class.targets:
            continue
        segments, kinds = [], []
        for video, segment, (hit,) in matches(of_class, [threshold]):
            segments.append((video, segment))
            kinds.append("" if hit is not None else _kind(segment, targets.get(video, ()), threshold))
        for without, values in precisions.items():
            kept = [each for each, kind in zip(segments, kinds, strict=True) if kind != without]
            values += average_precisions(OfClass(kept, of_class.targets), [threshold]).tolist()
    means = {kind: float(np.mean(values)) if values else 0.0 for kind, values in precisions.items()}
    return {kind: means[kind] - means[None] for kind in KINDS}


def _kind(segment: Segment, actions: Sequence[Action], threshold: float) -> str:
    """What kind of error a segment is that takes no action."""
    if not actions:
        return "background"
    spans = np.array([(action.start, action.end) for action in actions])
    overlaps = temporal_iou((segment.start, segment.end), spans).tolist()
    highest, own = max(
        (overlap, action.class_id == segment.class_id) for overlap, action in zip(overlaps, actions, strict=True)
    )
    if highest >= threshold:
        return "double" if own else "wrong class"
    if highest >= _NEAR:
        return "wrong place" if own else "wrong class and place"
    return "background"


def _by_length(instances: Sequence[tuple[int, float, bool]]) -> tuple[Recall, ...]:
    edges = (0.0, *LENGTHS, float("inf"))
    return tuple(
        _recall(
            f"{low:g} to {high:g} s" if high in LENGTHS else f"{low:g} s and more",
            [found for _, length, found in instances if low <= length < high],
        )
        for low, high in itertools.pairwise(edges)
    )


def _recall(name: str, found: Sequence[bool]) -> Recall:
    return Recall(name, sum(found), len(found))
