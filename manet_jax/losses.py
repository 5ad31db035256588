"""Loss functions: a value for each clip, or one for a batch."""

from collections.abc import Callable, Sequence

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


def focal(logits: Float[Array, "b n"], target: Float[Array, "b n"], gamma: float = 0.0) -> Float[Array, " b"]:
    """Focal loss in nats of the softmax of `logits` (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017).

    Args:
      logits: one for each class.
      target: the weight of each class, a distribution but for the clip's own weight.
      gamma: the part of a class with probability p counts by (1 - p) ** gamma; with 0 this is the cross-entropy.
    """
    log_p = jax.nn.log_softmax(logits)
    # Where p rounds to 1, a power below 1 would have an infinite gradient.
    focus = jnp.maximum(-jnp.expm1(log_p), 1e-7) ** gamma if gamma else 1.0
    return -(target * focus * log_p).sum(-1)


def soft_macro_f1(
    probabilities: Float[Array, "b n"], target: Float[Array, "b n"], axis_name: str | None = None
) -> Float[Array, ""]:
    """Macro F1 of clips whose classes are predicted by probabilities rather than decisions.

    A class's true positives are the sum of its probabilities in the clips that have it (Bénédict et al., "sigmoidF1",
    TMLR 2022, there of a steeper sigmoid). As in scikit-learn, the mean is over the classes that are present or
    predicted in any clip.

    Args:
      probabilities: of each class.
      target: 1 for each class that is present in the clip, else 0.
      axis_name: the mapped axis of devices that hold the clips; None stands for these clips alone.
    """
    sums = (2 * probabilities * target).mean(0), (probabilities + target).mean(0)
    both, either = sums if axis_name is None else jax.lax.pmean(sums, axis_name)
    occurs = either > 0
    return (both / jnp.where(occurs, either, 1)).sum() / occurs.sum(dtype=both.dtype)


def over_groups(
    values: Float[Array, "b n"], groups: Sequence[int], reduce: Callable[..., Array]
) -> Float[Array, "b g"]:
    """Reduces the values of the classes of each group to one; `reduce(x, axis=...)` is such as `jnp.max`."""
    members = [np.flatnonzero(np.equal(groups, group)) for group in range(max(groups) + 1)]
    return jnp.stack([reduce(values[:, each], axis=-1) for each in members], axis=-1)
