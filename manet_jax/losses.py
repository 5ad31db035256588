"""Loss functions: a value for each clip."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

MULTILABEL = ("plain", "weighted", "asymmetric")  # how the imbalance of multi-label data is met
_FOCUS, _MARGIN = 4, 0.05  # of the asymmetric loss, as in its paper


def cross_entropy(
    logits: Float[Array, "b n"], label: Int[Array, " b"], label_smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Cross-entropy in nats of the softmax of `logits` against the true class.

    Args:
      logits: one for each class.
      label: the true class.
      label_smoothing: the share of the target that is spread over all classes, the true one included.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    if not label_smoothing:
        return loss
    of_all = -jax.nn.log_softmax(logits).mean(-1)
    return (1 - label_smoothing) * loss + label_smoothing * of_all


def joint_embedding(embedding: Float[Array, "b e"], target: Float[Array, "b e"]) -> Float[Array, " b"]:
    """Mean squared difference between a clip's embedding and the vector of its label (not normalised, as released)."""
    return jnp.square(embedding - target).mean(-1)


def binary_cross_entropy(
    logits: Float[Array, "b n"], labels: Float[Array, "b n"], positive_weights: Float[np.ndarray, " n"] | None = None
) -> Float[Array, " b"]:
    """Cross-entropy in nats of the sigmoid of `logits` against multi-hot labels, summed over the classes.

    Summed, not averaged, so that a logit's gradient is as large as in `cross_entropy`, and learning rates carry over.

    Args:
      logits: one for each class.
      labels: 1 for each class that is present in the clip, else 0.
      positive_weights: the weight of each class where it is present; None stands for 1.
    """
    weights = 1.0 if positive_weights is None else jnp.asarray(positive_weights)[None]
    return -(weights * labels * jax.nn.log_sigmoid(logits) + (1 - labels) * jax.nn.log_sigmoid(-logits)).sum(-1)


def asymmetric(logits: Float[Array, "b n"], labels: Float[Array, "b n"]) -> Float[Array, " b"]:
    """Asymmetric loss, summed over the classes (Ridnik et al., "Asymmetric Loss for Multi-Label Classification", 2021).

    An absent class counts less the more easily it is ruled out: with probability p after a margin of 0.05, by p ** 4. A
    present class counts in full.
    """
    absent = jnp.maximum(jax.nn.sigmoid(logits) - _MARGIN, 0)
    return -(labels * jax.nn.log_sigmoid(logits) + (1 - labels) * absent**_FOCUS * jnp.log1p(-absent)).sum(-1)


def multilabel(
    name: str,
    logits: Float[Array, "b n"],
    labels: Float[Array, "b n"],
    positive_weights: Float[np.ndarray, " n"] | None = None,
) -> Float[Array, " b"]:
    """The multi-label loss of a name, one of MULTILABEL; `positive_weights` are for "weighted"."""
    if name == "asymmetric":
        return asymmetric(logits, labels)
    return binary_cross_entropy(logits, labels, positive_weights if name == "weighted" else None)


def mean_label_vectors(labels: Float[Array, "b n"], vectors: Float[Array, "n e"]) -> Float[Array, "b e"]:
    """The mean of the vectors of each clip's labels, its joint embedding's target; zeros for a clip without any."""
    total = jnp.matmul(labels, vectors, precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(labels.sum(-1, keepdims=True), 1)
