"""The outputs of every network."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Outputs(NamedTuple):
    """A network's outputs for the clips of a batch, float32; None where it has no such output.

    Attributes:
      logits: of the actions.
      embedding: the joint embedding.
      emotion: logits of the emotions.
      features: what the heads see, averaged over space and time, without dropout.
      groups: logits of the body groups, of a head that only training needs.
    """

    logits: Float[Array, "b n"] | None = None
    embedding: Float[Array, "b e"] | None = None
    emotion: Float[Array, "b k"] | None = None
    features: Float[Array, "b c"] | None = None
    groups: Float[Array, "b g"] | None = None


def present(output: Array | None) -> Array:
    """An output that a network is known to have.

    Raises:
      ValueError: it has not.
    """
    if output is None:
        raise ValueError("the network does not have this output")
    return output
