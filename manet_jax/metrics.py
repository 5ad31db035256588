"""Recognition metrics of the MA-52 benchmark, computed from a confusion matrix."""

from typing import SupportsFloat

import numpy as np
from jaxtyping import Float, Int, Num

# The eight published figures, in the order of the paper's table.
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


def recognition_metrics(
    confusion: Num[np.ndarray, "n n"], top5: SupportsFloat, groups: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Returns the eight figures that the paper reports, as shares of 1.

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
    """F1 of each class; NaN for a class that occurs neither as truth nor as prediction."""
    confusion = np.asarray(confusion, np.float64)
    occurrences = confusion.sum(0) + confusion.sum(1)
    return np.divide(2 * np.diag(confusion), occurrences, out=np.full(len(confusion), np.nan), where=occurrences > 0)


def macro_f1(confusion: Num[np.ndarray, "n n"]) -> float:
    """Mean F1 over the classes that occur as truth or prediction (scikit-learn's rule)."""
    return float(np.nanmean(f1_scores(confusion)))
