import jax.numpy as jnp
import numpy as np
from sklearn.metrics import log_loss

from manet_jax import losses


def test_cross_entropy_is_scikit_learns_log_loss():
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    label = np.array([0, 1, 2, 3, 0, 1])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    each = losses.cross_entropy(jnp.array(logits), jnp.array(label))
    np.testing.assert_allclose(each, -np.log(probabilities[np.arange(6), label]), rtol=1e-5)
    np.testing.assert_allclose(each.mean(), log_loss(label, probabilities), rtol=1e-5)


def test_joint_embedding_by_hand():
    embedding, target = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 4.0], [0.0, 3.0]])
    np.testing.assert_allclose(losses.joint_embedding(embedding, target), [(1 + 4) / 2, 9 / 2])
