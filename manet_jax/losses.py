"""Losses, one value for each clip, and the objective that a training minimises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

# How the imbalance of multi-label data is met.
MULTILABEL = ("plain", "weighted", "asymmetric")
_FOCUS, _MARGIN = 4, 0.05  # of the asymmetric loss, as in its paper


def cross_entropy(logits: Float[Array, "b n"], label: Int[Array, " b"]) -> Float[Array, " b"]:
    """Cross-entropy in nats of the softmax of `logits` against the true class."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


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
      labels: 1 for each class that the clip shows, else 0.
      positive_weights: what a class counts where it is shown; None stands for 1.
    """
    weights = 1.0 if positive_weights is None else jnp.asarray(positive_weights)
    return -(weights * labels * jax.nn.log_sigmoid(logits) + (1 - labels) * jax.nn.log_sigmoid(-logits)).sum(-1)


def asymmetric(logits: Float[Array, "b n"], labels: Float[Array, "b n"]) -> Float[Array, " b"]:
    """Asymmetric loss, summed over the classes (Ridnik et al., "Asymmetric Loss for Multi-Label Classification", 2021).

    What a clip does not show counts less the more easily it is ruled out: with probability p after a margin of 0.05, by
    p ** 4. What it shows counts in full.
    """
    absent = jnp.maximum(jax.nn.sigmoid(logits) - _MARGIN, 0)
    return -(labels * jax.nn.log_sigmoid(logits) + (1 - labels) * absent**_FOCUS * jnp.log1p(-absent)).sum(-1)


def multilabel(
    kind: str,
    logits: Float[Array, "b n"],
    labels: Float[Array, "b n"],
    positive_weights: Float[np.ndarray, " n"] | None = None,
) -> Float[Array, " b"]:
    """The multi-label loss of a kind, one of MULTILABEL; `positive_weights` are for "weighted"."""
    if kind == "asymmetric":
        return asymmetric(logits, labels)
    return binary_cross_entropy(logits, labels, positive_weights if kind == "weighted" else None)


def mean_label_vectors(labels: Float[Array, "b n"], vectors: Float[Array, "n e"]) -> Float[Array, "b e"]:
    """The mean of the vectors of each clip's labels, its joint embedding's target; zeros for a clip without any."""
    total = jnp.matmul(labels, vectors, precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(labels.sum(-1, keepdims=True), 1)


def objective(
    outputs: Any,
    batch: dict[str, Array],
    *,
    label_vectors: Float[np.ndarray, "n e"] | None = None,
    embedding_weight: float = 0.0,
    multilabel_loss: str = "plain",
    positive_weights: Float[np.ndarray, " n"] | None = None,
    emotion_weight: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """What a training minimises, the mean over a batch, with its parts and accuracies.

    A clip without a label has no part in the joint embedding, one without an emotion none in that of emotions: they
    count there as 0, so that every clip weighs the same in every batch.

    Args:
      outputs: `emotion.Outputs` of the batch.
      batch: with `label` (single-label) or `labels` (multi-hot), and `emotion` (-1 where unknown).
      label_vectors: targets of the joint embedding, one for each class.
      embedding_weight: of the joint-embedding loss (50 in the release).
      multilabel_loss: one of MULTILABEL.
      positive_weights: see `binary_cross_entropy`.
      emotion_weight: of the emotions' cross-entropy.

    Returns:
      The objective, and `loss`, which is the same, with each term that there is: `cross_entropy`, `multilabel`,
      `joint_embedding`, `emotion_cross_entropy`; and the shares `action_top1` and `emotion_accuracy`.
    """
    parts, total = {}, jnp.float32(0)
    if outputs.logits is not None and "labels" in batch:
        parts["multilabel"] = multilabel(multilabel_loss, outputs.logits, batch["labels"], positive_weights).mean()
        total += parts["multilabel"]
    elif outputs.logits is not None:
        parts["cross_entropy"] = cross_entropy(outputs.logits, batch["label"]).mean()
        parts["action_top1"] = (outputs.logits.argmax(-1) == batch["label"]).mean()
        total += parts["cross_entropy"]
    if outputs.embedding is not None:
        parts["joint_embedding"] = _joint_embedding(outputs.embedding, batch, jnp.asarray(label_vectors))
        total += embedding_weight * parts["joint_embedding"]
    if outputs.emotion is not None:
        emotion, known = batch["emotion"], batch["emotion"] >= 0
        parts["emotion_cross_entropy"] = (known * cross_entropy(outputs.emotion, jnp.maximum(emotion, 0))).mean()
        parts["emotion_accuracy"] = (outputs.emotion.argmax(-1) == emotion).mean()
        total += emotion_weight * parts["emotion_cross_entropy"]
    return total, {"loss": total, **parts}


def _joint_embedding(embedding: Array, batch: dict[str, Array], vectors: Array) -> Float[Array, ""]:
    if "labels" not in batch:
        return joint_embedding(embedding, vectors[batch["label"]]).mean()
    labeled = batch["labels"].any(-1)
    return (labeled * joint_embedding(embedding, mean_label_vectors(batch["labels"], vectors))).mean()
