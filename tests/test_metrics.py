import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    top_k_accuracy_score,
)

from manet_jax import metrics


def test_recognition_metrics_by_hand():
    # Three classes in two groups; target by row: 0 -> 0, 0 -> 1, 1 -> 1, 2 -> 0.
    confusion = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]])
    values = metrics.recognition_metrics(confusion, top5=4, groups=np.array([0, 0, 1]))
    action_macro = (2 * 1 / 4 + 2 * 1 / 3 + 0) / 3  # F1 = 2 TP / (predicted + true)
    body_macro = (2 * 3 / 7 + 0) / 2
    assert values == pytest.approx(
        {
            "body_top1": 3 / 4,
            "action_top1": 2 / 4,
            "action_top5": 1.0,
            "body_f1_macro": body_macro,
            "body_f1_micro": 3 / 4,
            "action_f1_macro": action_macro,
            "action_f1_micro": 2 / 4,
            "f1_mean": (body_macro + 3 / 4 + action_macro + 2 / 4) / 4,
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_recognition_metrics_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(7), [5, 6, 13, 8, 6, 10, 4])
    target = rng.choice([*range(20), 45], 60)  # many classes occur neither as target ...
    scores = rng.normal(size=(60, 52))
    scores[:, 30:40] -= 100  # ... nor as prediction
    scores[np.arange(60), target] += 1.5
    predicted = scores.argmax(1)
    confusion = confusion_matrix(target, predicted, labels=range(52))
    top5 = top_k_accuracy_score(target, scores, k=5, labels=range(52), normalize=False)
    values = metrics.recognition_metrics(confusion, top5, groups)

    body = [
        f1_score(groups[target], groups[predicted], average=average, zero_division=0) for average in ("macro", "micro")
    ]
    action = [f1_score(target, predicted, average=average, zero_division=0) for average in ("macro", "micro")]
    expected = (
        accuracy_score(groups[target], groups[predicted]),
        accuracy_score(target, predicted),
        top5 / 60,
        *body,
        *action,
        np.mean(body + action),
    )
    assert list(values) == list(metrics.NAMES)
    np.testing.assert_allclose(list(values.values()), expected, rtol=1e-12)
    each = f1_score(target, predicted, average=None, labels=range(52), zero_division=np.nan)
    np.testing.assert_allclose(metrics.f1_scores(confusion), each)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")  # which is meant
        recall = balanced_accuracy_score(target, predicted)
    assert metrics.mean_class_accuracy(confusion) == pytest.approx(recall)


def test_mean_class_accuracy_by_hand():
    # 3 of 4 and 0 of 1; the third class is predicted and never there, the fourth neither.
    confusion = np.array([[3, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert metrics.mean_class_accuracy(confusion) == 3 / 8
    assert np.isnan(metrics.mean_class_accuracy(np.zeros((2, 2))))


def test_recognition_metrics_of_classes_as_their_own_groups():
    confusion = np.random.default_rng(0).integers(0, 9, (4, 4))
    values = metrics.recognition_metrics(confusion, confusion.sum(), np.arange(4))
    assert values["body_f1_macro"] == values["action_f1_macro"]
    assert values["f1_mean"] == pytest.approx((values["action_f1_macro"] + values["action_top1"]) / 2)


def test_recognition_metrics_need_clips():
    with pytest.raises(ValueError, match="there are no clips"):
        metrics.recognition_metrics(np.zeros((2, 2)), 0, np.arange(2))
