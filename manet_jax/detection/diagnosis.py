"""Where a detector goes wrong: which actions it misses, and what its false positives are."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from manet_jax.detection import metric
from manet_jax.detection.metric import Match, OfClass
from tfds_ma52.labels import LabelSet
from tfds_ma52.mma52 import Action

KINDS = ("double", "wrong class", "wrong place", "wrong class and place", "background")
LENGTHS = (1.0, 2.0, 4.0, 8.0)  # seconds

_NEAR = 0.1  # tIoU of a prediction with the action that it was meant for


@dataclasses.dataclass(frozen=True)
class Recall:
    """How many actions of a class or length are found.

    Attributes:
      name: of the class, or the length in seconds.
      found: those that are.
      count: all of them.
    """

    name: str
    found: int
    count: int

    @property
    def share(self) -> float:
        """The recall; NaN where there are no such actions."""
        return self.found / self.count if self.count else math.nan


@dataclasses.dataclass(frozen=True)
class FalsePositives:
    """The false positives of a kind.

    Attributes:
      kind: one of `KINDS`.
      count: of them.
      gain: what the mAP would gain if there were none of the kind, at any score.
    """

    kind: str
    count: int
    gain: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Where a detector goes wrong.

    Attributes:
      tiou: the threshold of the temporal IoU.
      mean_average_precision: at the threshold, over the classes that occur.
      by_length: the recall of actions by their length, from the shortest on.
      by_class: the recall of each class that occurs, in the order of the classes.
      false_positives: of each of `KINDS`.
    """

    tiou: float
    mean_average_precision: float
    by_length: tuple[Recall, ...]
    by_class: tuple[Recall, ...]
    false_positives: tuple[FalsePositives, ...]


def diagnose(
    predictions: metric.Predictions,
    targets: metric.Targets,
    labels: LabelSet,
    *,
    tiou: float = 0.5,
    multiple: int = 1,
    lengths: Sequence[float] = LENGTHS,
) -> Diagnosis:
    """Counts what is found, and sorts what is wrong (Alwassel et al., "Diagnosing Error in Temporal Action Detectors").

    Of each class that occurs, the most certain predictions count, as many as it has actions or a multiple of that: the
    rest is a long tail of low scores. (All count for the mAP and what it would gain.) A prediction that takes no action
    at the threshold is

    - double, if it reaches an action of its class there, which a more certain one has taken;
    - of the wrong class, if it reaches only actions of other classes;
    - in the wrong place, if it has a tIoU of at least 0.1 with an action of its class;
    - of the wrong class and in the wrong place, if only with actions of other classes (the paper's confusion error);
    - else background.

    Differs from the paper in that the first that fits is the kind: there the one action with the highest tIoU decides.
    People do several things at once, so that actions of other classes lie over that which was meant.

    Args:
      predictions: of each video.
      targets: of each video.
      labels: the classes.
      tiou: the threshold.
      multiple: of the number of actions; the paper goes up to 10.
      lengths: in seconds, where one group of actions ends and the next begins.
    """
    of_classes = metric.by_class(predictions, targets, range(len(labels.names)))
    parts = [
        _sort(name, of_classes[i], targets, tiou, multiple)
        for i, name in enumerate(labels.names)
        if of_classes[i].targets
    ]
    counts = collections.Counter(kind for part in parts for kind in part.kinds[: part.counted])
    reached = _mean_average_precision([part.of_class for part in parts], tiou)
    gains = {kind: _mean_average_precision([part.without(kind) for part in parts], tiou) - reached for kind in KINDS}
    return Diagnosis(
        tiou=tiou,
        mean_average_precision=reached,
        by_length=_by_length(parts, lengths),
        by_class=tuple(Recall(part.name, len(part.found_lengths()), part.of_class.num_targets) for part in parts),
        false_positives=tuple(FalsePositives(kind, counts[kind], gains[kind]) for kind in KINDS),
    )


@dataclasses.dataclass(frozen=True)
class _Sorted:
    """The predictions of a class by falling score.

    Attributes:
      name: of the class.
      of_class: predictions and actions.
      matches: the predictions.
      kinds: what is wrong with each; "" where nothing is.
      counted: how many of the first of them count.
    """

    name: str
    of_class: OfClass
    matches: Sequence[Match]
    kinds: Sequence[str]
    counted: int

    def found_lengths(self) -> list[float]:
        """Seconds of each action that is found."""
        spans = {video: sorted(rows) for video, rows in self.of_class.targets.items()}
        taken = [(each.video, each.taken[0]) for each in self.matches[: self.counted]]
        return [spans[video][place][1] - spans[video][place][0] for video, place in taken if place is not None]

    def without(self, kind: str) -> OfClass:
        """What remains without false positives of a kind; they took no action, so all that is right stays so."""
        rows = [(m.video, m.segment) for m, each in zip(self.matches, self.kinds, strict=True) if each != kind]
        return OfClass(rows, self.of_class.targets)


def _sort(name: str, of_class: OfClass, targets: metric.Targets, tiou: float, multiple: int) -> _Sorted:
    matches = list(metric.match(of_class, (tiou,)))
    kinds = [_kind(each, targets.get(each.video, ()), tiou) for each in matches]
    return _Sorted(name, of_class, matches, kinds, multiple * of_class.num_targets)


def _kind(match: Match, actions: Sequence[Action], tiou: float) -> str:
    """What is wrong with a prediction, given the actions of its video; "" where nothing is."""
    if match.taken[0] is not None:
        return ""
    spans = np.array([(action.start, action.end) for action in actions]).reshape(-1, 2)
    overlaps = metric.temporal_iou((match.segment.start, match.segment.end), spans)
    own = np.array([action.class_id == match.segment.class_id for action in actions], bool)
    for threshold, of_own, of_others in ((tiou, *KINDS[:2]), (_NEAR, *KINDS[2:4])):
        near = overlaps >= threshold
        if near.any():
            return of_own if (near & own).any() else of_others
    return KINDS[-1]


def _by_length(parts: Sequence[_Sorted], lengths: Sequence[float]) -> tuple[Recall, ...]:
    there = [end - start for part in parts for rows in part.of_class.targets.values() for start, end in rows]
    found = [seconds for part in parts for seconds in part.found_lengths()]
    names = [f"below {lengths[0]:g} s", *(f"{a:g} to {b:g} s" for a, b in itertools.pairwise(lengths))]
    names.append(f"{lengths[-1]:g} s or more")
    counts = (
        np.bincount(np.searchsorted(lengths, seconds, side="right"), minlength=len(names)).tolist()
        for seconds in (found, there)
    )
    return tuple(Recall(*each) for each in zip(names, *counts, strict=True))


def _mean_average_precision(of_classes: Sequence[OfClass], tiou: float) -> float:
    precisions = [metric.average_precisions(of_class, (tiou,)) for of_class in of_classes]
    return float(np.mean(precisions)) if precisions else 0.0
