import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    hamming_loss,
    recall_score,
)

from manet_jax import metrics

GROUPS, GROUP_NAMES = np.array([0, 0, 1, 1, 1, 2]), ("head", "hands", "legs")


def draw(seed, ties=False, num_clips=60):
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_clips, 6)) < (0.5, 0.3, 0.2, 0.1, 0.05, 0.0)).astype(int)
    probabilities = np.clip(0.5 * labels + rng.normal(0.3, 0.3, labels.shape), 0, 1)
    return (np.round(probabilities, 1) if ties else probabilities), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_multilabel_metrics_are_scikit_learns(seed, ties):
    probabilities, labels = draw(seed, ties)
    values = metrics.multilabel_metrics(probabilities, labels, GROUPS, GROUP_NAMES, threshold=0.5)
    predicted, present = (probabilities >= 0.5).astype(int), labels.any(0)
    precisions = [average_precision_score(labels[:, i], probabilities[:, i]) for i in np.flatnonzero(present)]
    assert values["map"] == pytest.approx(np.mean(precisions), abs=1e-12)
    assert values["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=np.nan))
    assert values["f1_micro"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert values["exact_match"] == pytest.approx(accuracy_score(labels, predicted))
    assert values["hamming_loss"] == pytest.approx(hamming_loss(labels, predicted))
    assert values["threshold"] == 0.5
    of_groups = [np.stack([each[:, group == GROUPS].any(1) for group in range(3)], 1) for each in (labels, predicted)]
    assert values["group_f1_macro"] == pytest.approx(f1_score(*of_groups, average="macro", zero_division=np.nan))
    assert values["group_f1_micro"] == pytest.approx(f1_score(*of_groups, average="micro"))
    hands = f1_score(labels[:, 2:5], predicted[:, 2:5], average="macro", zero_division=np.nan)
    assert values["f1_hands"] == pytest.approx(hands)
    assert values["map_head"] == pytest.approx(np.mean(precisions[:2]))
    assert np.isnan(values["map_legs"])  # that class is present in no clip


def test_average_precision_by_hand():
    # Ranks of the clips with the class: 1 and 3 of four, so precisions 1 and 2/3.
    target = np.array([[True], [False], [True], [False]])
    assert metrics.average_precision(np.array([[0.9], [0.8], [0.7], [0.1]]), target) == pytest.approx((1 + 2 / 3) / 2)
    # All as probable: whichever order, half of all have the class.
    assert metrics.average_precision(np.full((4, 1), 0.3), target) == pytest.approx(0.5)


def test_best_threshold_has_the_highest_macro_f1():
    probabilities, labels = draw(3)
    best = metrics.best_threshold(probabilities, labels > 0)
    scores = {
        t: f1_score(labels, (probabilities >= t / 100).astype(int), average="macro", zero_division=np.nan)
        for t in range(1, 100)
    }
    assert scores[round(100 * best)] == pytest.approx(max(scores.values()))
    assert metrics.multilabel_metrics(probabilities, labels, GROUPS, GROUP_NAMES)["threshold"] == best


def test_best_threshold_is_the_middle_of_equally_good_ones():
    # Any threshold above 0.2, up to 0.8, is correct.
    target = np.array([[True], [False]])
    assert metrics.best_threshold(np.array([[0.8], [0.2]]), target) == pytest.approx(0.5, abs=0.011)


def test_multilabel_metrics_without_labels_and_predictions():
    nothing = np.zeros((3, 6))
    values = metrics.multilabel_metrics(nothing, nothing, GROUPS, GROUP_NAMES)
    assert values["exact_match"] == 1
    assert values["hamming_loss"] == 0
    assert np.isnan(values["map"])
    assert np.isnan(values["f1_micro"])
    assert values["threshold"] == pytest.approx(0.5)


def test_emotion_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    target, predicted = rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    confusion = metrics.confusion_matrix(target, predicted, 5)
    assert confusion.sum() == 50
    assert confusion[2, 1] == ((target == 2) & (predicted == 1)).sum()
    values = metrics.emotion_metrics(confusion)
    assert values["emotion_accuracy"] == pytest.approx(accuracy_score(target, predicted))
    assert values["emotion_f1_macro"] == pytest.approx(f1_score(target, predicted, average="macro", zero_division=0))
    recall = recall_score(target, predicted, average=None, zero_division=0)
    np.testing.assert_allclose(np.diag(confusion)[:4] / confusion.sum(1)[:4], recall)
