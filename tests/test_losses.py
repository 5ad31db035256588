import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from manet_jax import losses, tasks
from manet_jax.models import Outputs
from tfds_ma52.labels import LabelSet

LOGITS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0]], np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_cross_entropy_is_scikit_learns_log_loss():
    label = np.array([0, 1, 2, 3, 0, 1])
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    each = losses.cross_entropy(jnp.array(LOGITS), jnp.array(label))
    np.testing.assert_allclose(each, -np.log(probabilities[np.arange(6), label]), rtol=1e-5)
    np.testing.assert_allclose(each.mean(), log_loss(label, probabilities), rtol=1e-5)


def test_cross_entropy_with_smoothed_labels_is_pytorchs():
    label, smoothing = np.array([0, 1, 2, 3, 0, 1]), 0.1
    target = (1 - smoothing) * np.eye(4)[label] + smoothing / 4  # as torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    logarithms = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    each = losses.cross_entropy(jnp.array(LOGITS), jnp.array(label), smoothing)
    np.testing.assert_allclose(each, -(target * logarithms).sum(1), rtol=1e-5)
    plain = losses.cross_entropy(jnp.array(LOGITS), jnp.array(label))
    abc = LabelSet(tuple("abcd"), tuple("abcd"), (0, 1, 2, 3))
    for task, name in ((tasks.SingleLabel, "cross_entropy"), (tasks.Emotion, "emotion_cross_entropy")):
        outputs = Outputs(logits=jnp.array(LOGITS), emotion=jnp.array(LOGITS))
        batch = {"label": jnp.array(label), "emotion": jnp.array(label)}
        for expected, options in ((each, {"label_smoothing": smoothing}), (plain, {})):
            assert task(abc, **options).loss(outputs, batch)[1][name] == pytest.approx(float(expected.mean()), rel=1e-5)


def test_joint_embedding_by_hand():
    embedding, target = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 4.0], [0.0, 3.0]])
    np.testing.assert_allclose(losses.joint_embedding(embedding, target), [(1 + 4) / 2, 9 / 2])


def test_binary_cross_entropy_is_scikit_learns_log_loss():
    p = sigmoid(LOGITS)
    of_classes = [log_loss(LABELS[:, i], p[:, i], labels=[0, 1]) for i in range(4)]
    each = losses.binary_cross_entropy(jnp.array(LOGITS), jnp.array(LABELS))
    np.testing.assert_allclose(each.mean(), np.sum(of_classes), rtol=1e-5)


def test_multilabel_weights_multiply_present_classes():
    weights = np.array([1, 2, 5, 0.5], np.float32)
    p = sigmoid(LOGITS)
    expected = -(weights * LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p)).sum(1)
    each = losses.multilabel("weighted", jnp.array(LOGITS), jnp.array(LABELS), weights)
    np.testing.assert_allclose(each, expected, rtol=1e-5)
    plain = losses.multilabel("plain", jnp.array(LOGITS), jnp.array(LABELS), weights)
    np.testing.assert_allclose(plain, losses.binary_cross_entropy(jnp.array(LOGITS), jnp.array(LABELS)))


def test_multilabel_asymmetric_is_the_papers_formula():
    p = sigmoid(LOGITS)
    shifted = np.maximum(p - 0.05, 0)
    expected = -(LABELS * np.log(p) + (1 - LABELS) * shifted**4 * np.log(1 - shifted)).sum(1)
    each = losses.multilabel("asymmetric", jnp.array(LOGITS), jnp.array(LABELS))
    np.testing.assert_allclose(each, expected, rtol=1e-4)
    # A class that is ruled out with less than the margin costs nothing.
    assert losses.asymmetric(jnp.array([[-4.0]]), jnp.array([[0.0]])) == 0


@pytest.mark.parametrize("name", losses.MULTILABEL)
@pytest.mark.parametrize("size", [80.0, -80.0])
def test_multilabel_is_finite_for_extreme_logits(name, size):
    def loss(logits):
        return losses.multilabel(name, logits, jnp.array([[1.0, 0.0]]), np.ones(2, np.float32)).sum()

    value, gradient = jax.value_and_grad(loss)(jnp.full((1, 2), size))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_mean_label_vectors_of_a_clip():
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    means = losses.mean_label_vectors(jnp.array(LABELS), jnp.array(vectors))
    np.testing.assert_allclose(means[0], (vectors[0] + vectors[3]) / 2)
    np.testing.assert_allclose(means[1], [0, 0])
    np.testing.assert_allclose(means[2], vectors.mean(0))


def test_total_loss_adds_the_tasks_terms():
    rng = np.random.default_rng(1)
    embedding, emotion_logits, vectors = (rng.normal(size=size).astype(np.float32) for size in ((6, 2), (6, 3), (4, 2)))
    emotion = np.array([0, -1, 2, 1, -1, 0])
    batch = {"labels": jnp.array(LABELS), "emotion": jnp.array(emotion)}
    outputs = Outputs(jnp.array(LOGITS), jnp.array(embedding), jnp.array(emotion_logits))
    actions, emotions = (LabelSet(tuple("abcd"[:n]), tuple("abcd"[:n]), tuple(range(n))) for n in (4, 3))
    several = tasks.MultiLabel(
        actions, positive_weights=np.ones(4, np.float32), joint_embedding=tasks.JointEmbedding(vectors, 3.0)
    )
    total, parts = tasks.total_loss([several, tasks.Emotion(emotions, 0.5)], outputs, batch)
    p = sigmoid(LOGITS)
    binary = -(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p)).sum(1).mean()
    labeled = [0, 2, 3, 4, 5]  # clip 1 has no label
    targets = [vectors[LABELS[i] > 0].mean(0) for i in labeled]
    joint = np.square(embedding[labeled] - targets).mean(1).sum() / 6
    known = emotion >= 0
    softmax = np.exp(emotion_logits) / np.exp(emotion_logits).sum(1, keepdims=True)
    of_emotion = -np.log(softmax[known, emotion[known]]).sum() / 6
    assert parts["multilabel"] == pytest.approx(binary, rel=1e-5)
    assert parts["joint_embedding"] == pytest.approx(joint, rel=1e-5)
    assert parts["emotion_cross_entropy"] == pytest.approx(of_emotion, rel=1e-5)
    assert total == pytest.approx(binary + 3 * joint + 0.5 * of_emotion, rel=1e-5)
    assert parts["loss"] == total
    only, parts = tasks.total_loss([tasks.Emotion(emotions)], Outputs(emotion=outputs.emotion), batch)
    assert only == pytest.approx(of_emotion, rel=1e-5)
    assert set(parts) == {"loss", "emotion_cross_entropy", "emotion_accuracy"}
