"""Layers that vision transformers share: patches, attention, MLP, LayerNorm, drop path.

Tokens are [..., s, c]: sequences of s tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

# PyTorch's trunc_normal_ cuts at -2 and 2, a hundred standard deviations from 0.
normal_init = nnx.initializers.normal(0.02)


def linear(
    in_features: int, out_features: int, *, use_bias: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Linear:
    """Makes a linear layer with a transformer's initial weights."""
    return nnx.Linear(in_features, out_features, use_bias=use_bias, kernel_init=normal_init, dtype=dtype, rngs=rngs)


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation, computed in float32."""

    def __init__(self, num_features: int, epsilon: float, *, rngs: nnx.Rngs):
        super().__init__(num_features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Normalises each token."""
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


def _of_patches(x: Array, kernel: Array, strides: Any, *_, **__) -> Array:
    # As wide as its stride, the convolution is a matrix product. At the module's level: models whose layers hold the
    # same function count as the same to nnx.
    *sizes, channels, out = kernel.shape
    counts = [length // size for length, size in zip(x.shape[1:-1], sizes, strict=True)]
    pairs = [n for pair in zip(counts, sizes, strict=True) for n in pair]
    inside = range(2, len(pairs) + 1, 2)
    patches = x.reshape(x.shape[0], *pairs, channels).transpose(0, *range(1, len(pairs), 2), *inside, len(pairs) + 1)
    return patches.reshape(x.shape[0], *counts, -1) @ kernel.reshape(-1, out)


class PatchEmbedding(nnx.Module):
    """A linear layer over the pixels of each patch of a frame or of a clip."""

    def __init__(
        self,
        patch_size: int | tuple[int, ...],
        num_features: int,
        *,
        kernel_init: nnx.Initializer = normal_init,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Makes the layer; `patch_size` are pixels of a square's sides, or a length for each axis of the input."""
        sizes = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.projection = nnx.Conv(
            3,
            num_features,
            sizes,
            strides=sizes,
            kernel_init=kernel_init,
            conv_general_dilated=_of_patches,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "n *size 3"]) -> Float[Array, "n *size2 c"]:
        """Returns a token for each patch."""
        return self.projection(x)


class Attention(nnx.Module):
    """Multi-head self-attention within each sequence; the softmax is float32.

    The layer `qkv` returns queries, keys and values in this order, and those of a head side by side. Without `key_bias`
    it has no bias, and `q_bias` and `v_bias` are added: one of the keys adds the same to all scores of a query.
    """

    def __init__(self, num_features: int, num_heads: int, *, key_bias: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.qkv = linear(num_features, 3 * num_features, use_bias=key_bias, dtype=dtype, rngs=rngs)
        self.q_bias, self.v_bias = (None if key_bias else nnx.Param(jnp.zeros(num_features)) for _ in range(2))
        self.out = linear(num_features, num_features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*n s c"], bias: Float[Array, "..."] | None = None) -> Float[Array, "*n s c"]:
        """Returns the attention's result for each token.

        Args:
          x: tokens.
          bias: added to the scores [*n, h, s, s] of each head h, float32.
        """
        *sequences, length, features = x.shape
        heads = self.qkv(x).reshape(*sequences, length, 3, self.num_heads, features // self.num_heads)
        if self.q_bias is not None and self.v_bias is not None:
            biases = jnp.stack([self.q_bias[...], jnp.zeros(features), self.v_bias[...]]).astype(heads.dtype)
            heads += biases.reshape(*[1] * (len(sequences) + 1), *heads.shape[-3:])
        # Heads before tokens: XLA for CPUs then takes two thirds of the time.
        query, key, value = jnp.moveaxis(heads, (-3, -2), (0, -3))
        scores = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=jnp.float32)
        scores = scores * query.shape[-1] ** -0.5
        if bias is not None:
            # Of the scores' own dimensions: of a reshaped sum, jax 0.12 for CPUs may compute a maximum that is NaN.
            scores = scores + bias
        weights = jax.nn.softmax(scores).astype(x.dtype)
        return self.out(jnp.swapaxes(weights @ value, -3, -2).reshape(x.shape))


class MLP(nnx.Module):
    """Two linear layers with an exact GELU between them; the inner one is four times as wide."""

    def __init__(self, num_features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.fc1 = linear(num_features, 4 * num_features, dtype=dtype, rngs=rngs)
        self.fc2 = linear(4 * num_features, num_features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*n s c"]) -> Float[Array, "*n s c"]:
        """Returns the result for each token."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


def drop_path(x: Float[Array, "b *n s c"], keys: Key[Array, " b"] | None, rate: float) -> Float[Array, "b *n s c"]:
    """Drops a share of the sequences of clips, each as a whole, and scales up the others (Huang et al., ECCV 2016).

    Args:
      x: the result of a residual branch.
      keys: one random key for each clip; None drops nothing.
      rate: the share that is dropped.
    """
    if keys is None or not rate:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:-2]))(keys)
    return jnp.where(keep[..., None, None], x / (1 - rate), 0)


def drop_path_of_maps(
    x: Float[Array, "b t h w c"], keys: Key[Array, " b"] | None, rate: float
) -> Float[Array, "b t h w c"]:
    """`drop_path` of maps, where all tokens of a clip are one sequence."""
    return drop_path(x.reshape(x.shape[0], -1, x.shape[-1]), keys, rate).reshape(x.shape)
