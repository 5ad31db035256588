"""Losses, one value for each clip."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "b n"], label: Int[Array, " b"]) -> Float[Array, " b"]:
    """Cross-entropy in nats of the softmax of `logits` against the true class."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def joint_embedding(embedding: Float[Array, "b e"], target: Float[Array, "b e"]) -> Float[Array, " b"]:
    """Mean squared difference between a clip's embedding and the vector of its label (not normalised, as released)."""
    return jnp.square(embedding - target).mean(-1)
