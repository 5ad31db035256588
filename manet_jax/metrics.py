"""Metrics of the MA-52 benchmark, of multi-label recognition and of emotions."""

from collections.abc import Sequence
from typing import SupportsFloat

import numpy as np
from jaxtyping import Bool, Float, Int, Num

# The eight published metrics, in the order of the paper's table.
NAMES = (
    "body_top1",
    "action_top1",
    "action_top5",
    "body_f1_macro",
    "body_f1_micro",
    "action_f1_macro",
    "action_f1_micro",
    "f1_mean",
)
# Those of recognition with one label a clip: a newer one beside them.
RECOGNITION_NAMES = (*NAMES, "mean_class_accuracy")
# The metrics of multi-label recognition.
MULTILABEL_NAMES = (
    "map",
    "f1_macro",
    "f1_micro",
    "group_f1_macro",
    "group_f1_micro",
    "exact_match",
    "hamming_loss",
    "threshold",
)
EMOTION_NAMES = ("emotion_accuracy", "emotion_f1_macro")
_THRESHOLDS = np.arange(1, 100) / 100


def recognition_metrics(
    confusion: Num[np.ndarray, "n n"], top5: SupportsFloat, groups: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Returns the eight metrics that the paper reports, as shares of 1.

    The predicted body group is the group of the most probable action. F1_mean is the mean of the macro and micro F1 of
    body and action (paper, section V; released code).

    Args:
      confusion: number of clips by true action (row) and most probable action (column).
      top5: number of clips whose true action is among the five most probable ones.
      groups: the body group of each action.

    Raises:
      ValueError: the confusion matrix counts no clip.
    """
    confusion = np.asarray(confusion, np.float64)
    count = confusion.sum()
    if count == 0:
        raise ValueError("there are no clips to compute metrics of")
    body = group_confusion(confusion, groups)
    action_micro, body_micro = (np.trace(matrix) / count for matrix in (confusion, body))
    action_macro, body_macro = macro_f1(confusion), macro_f1(body)
    values = (
        body_micro,
        action_micro,
        float(top5) / count,
        body_macro,
        body_micro,  # with one label a clip, micro F1 is the accuracy
        action_macro,
        action_micro,
        (body_macro + body_micro + action_macro + action_micro) / 4,
    )
    return dict(zip(NAMES, map(float, values), strict=True))


def group_confusion(confusion: Num[np.ndarray, "n n"], groups: Int[np.ndarray, " n"]) -> Float[np.ndarray, "g g"]:
    """Adds up the rows and columns of the classes of each group."""
    membership = np.eye(max(groups) + 1)[np.asarray(groups)]
    return membership.T @ np.asarray(confusion, np.float64) @ membership


def f1_scores(confusion: Num[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """F1 of each class; NaN for a class that occurs neither as target nor as prediction."""
    confusion = np.asarray(confusion, np.float64)
    occurrences = confusion.sum(0) + confusion.sum(1)
    return np.divide(2 * np.diag(confusion), occurrences, out=np.full(len(confusion), np.nan), where=occurrences > 0)


def macro_f1(confusion: Num[np.ndarray, "n n"]) -> float:
    """Mean F1 over the classes that occur as target or prediction (scikit-learn's rule)."""
    return nan_mean(f1_scores(confusion))


def mean_class_accuracy(confusion: Num[np.ndarray, "n n"]) -> float:
    """Mean share of a class's clips that are predicted as it, over the classes that occur as target (macro recall).

    scikit-learn's balanced accuracy; MMA-82's mean class accuracy, whose treatment of absent classes is not published.
    """
    confusion = np.asarray(confusion, np.float64)
    count = confusion.sum(1)
    return nan_mean(np.divide(np.diag(confusion), count, out=np.full(len(confusion), np.nan), where=count > 0))


def multilabel_metrics(
    probabilities: Float[np.ndarray, "b n"],
    labels: Num[np.ndarray, "b n"],
    groups: Int[np.ndarray, " n"],
    group_names: Sequence[str],
    threshold: float | None = None,
) -> dict[str, float]:
    """Returns the metrics of multi-label recognition, as shares of 1.

    `map` is the mean average precision over the classes that occur. For all others, the classes whose probability is at
    least the `threshold` are predicted. A group is present, or predicted, where one of its classes is. `map_<group>`
    and `f1_<group>` are means over the classes of a group. Macro F1 is averaged over the classes that occur as target
    or prediction.

    Args:
      probabilities: of each class for each clip, 0..1.
      labels: multi-hot.
      groups: the group of each class.
      group_names: their names.
      threshold: None chooses the `best_threshold` of these clips.
    """
    target, groups = np.asarray(labels) > 0, np.asarray(groups)
    threshold = best_threshold(probabilities, target) if threshold is None else threshold
    predicted = probabilities >= threshold
    precision, f1 = average_precision(probabilities, target), label_f1(predicted, target)
    membership = np.eye(len(group_names), dtype=bool)[groups]
    group_predicted, group_target = predicted @ membership, target @ membership
    values = (
        nan_mean(precision),
        nan_mean(f1),
        micro_f1(predicted, target),
        nan_mean(label_f1(group_predicted, group_target)),
        micro_f1(group_predicted, group_target),
        (predicted == target).all(1).mean(),
        (predicted != target).mean(),
        threshold,
    )
    result = dict(zip(MULTILABEL_NAMES, map(float, values), strict=True))
    for group, name in enumerate(group_names):
        result[f"map_{name}"] = nan_mean(precision[groups == group])
        result[f"f1_{name}"] = nan_mean(f1[groups == group])
    return result


def best_threshold(probabilities: Float[np.ndarray, "b n"], target: Bool[np.ndarray, "b n"]) -> float:
    """The threshold, in hundredths, with the highest macro F1; of several the one in their middle."""
    scores = np.array([nan_mean(label_f1(probabilities >= threshold, target)) for threshold in _THRESHOLDS])
    best = np.flatnonzero(scores >= np.nanmax(scores) - 1e-12) if np.isfinite(scores).any() else [49]
    return float(_THRESHOLDS[best[len(best) // 2]])


def average_precision(
    probabilities: Float[np.ndarray, "b n"], target: Bool[np.ndarray, "b n"]
) -> Float[np.ndarray, " n"]:
    """Average precision of each class; NaN for a class that is present in no clip.

    The mean over a class's clips of the precision among all clips that are at least as probable, so that equal
    probabilities count together whatever their order (scikit-learn's rule).
    """
    result = np.full(target.shape[1], np.nan)
    for i in np.flatnonzero(target.any(0)):
        scores, order = -probabilities[:, i], np.argsort(-probabilities[:, i], kind="stable")
        # For each clip with the class, how many clips are at least as probable, and in how many of those it is present.
        rank = np.searchsorted(scores[order], scores[target[:, i]], side="right")
        hits = np.cumsum(target[order, i])[rank - 1]
        result[i] = np.mean(hits / rank)
    return result


def label_f1(predicted: Bool[np.ndarray, "b n"], target: Bool[np.ndarray, "b n"]) -> Float[np.ndarray, " n"]:
    """F1 of each class; NaN for a class that occurs neither as target nor as prediction."""
    both, either = (predicted & target).sum(0), predicted.sum(0) + target.sum(0)
    return np.divide(2 * both, either, out=np.full(target.shape[1], np.nan), where=either > 0)


def micro_f1(predicted: Bool[np.ndarray, "b n"], target: Bool[np.ndarray, "b n"]) -> float:
    """F1 over all classes and clips together; NaN where nothing is present nor predicted."""
    either = predicted.sum() + target.sum()
    return float(2 * (predicted & target).sum() / either) if either else float("nan")


def emotion_metrics(confusion: Num[np.ndarray, "k k"]) -> dict[str, float]:
    """Accuracy and macro F1 from the number of clips by true (row) and most probable (column) emotion; NaN of none."""
    count = np.sum(confusion)
    return {
        "emotion_accuracy": float(np.trace(confusion) / count) if count else float("nan"),
        "emotion_f1_macro": macro_f1(confusion),
    }


def calibration(
    confidence: Float[np.ndarray, " b"], correct: Bool[np.ndarray, " b"], num_bins: int = 10
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"], float]:
    """Compares a model's confidence with its accuracy (Guo et al., "On Calibration", ICML 2017).

    Args:
      confidence: the probabilities of its decisions, 0..1.
      correct: whether the decisions are correct.
      num_bins: intervals of equal width, the upper end of each included.

    Returns:
      The count, mean confidence and accuracy of each bin (NaN where it is empty); and the expected calibration error,
      the mean difference of the two.
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, values, minlength=num_bins) for values in (confidence, correct))
    sure, accurate = (np.divide(x, counts, out=np.full(num_bins, np.nan), where=counts > 0) for x in sums)
    gap = np.nansum(np.abs(sure - accurate) * counts) / max(len(confidence), 1)
    return counts, sure, accurate, float(gap)


def confusion_matrix(
    target: Int[np.ndarray, " b"], predicted: Int[np.ndarray, " b"], num_classes: int
) -> Int[np.ndarray, "n n"]:
    """Counts clips by true (row) and predicted (column) class."""
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (target, predicted), 1)
    return confusion


def nan_mean(values: Float[np.ndarray, " n"]) -> float:
    """The mean of the values that are numbers; NaN where none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def cross_entropy(logits: Float[np.ndarray, "b n"], label: Int[np.ndarray, " b"]) -> float:
    """Mean cross-entropy in nats of the softmax of `logits` against the true classes; NaN without clips."""
    if not len(label):
        return float("nan")
    highest = logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits - highest).sum(1)) + highest[:, 0]
    return float((log_sum - logits[np.arange(len(label)), label]).mean())


def binary_cross_entropy(logits: Float[np.ndarray, "b n"], labels: Num[np.ndarray, "b n"]) -> float:
    """Mean over clips of the cross-entropy in nats of the sigmoid of `logits`, summed over the classes."""
    # log(1 + exp(x)) - x where a class is present, log(1 + exp(x)) where it is absent.
    return float((np.logaddexp(0, logits) - labels * logits).sum(1).mean())
