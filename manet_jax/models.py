"""MANet: a ResNet with squeeze-and-excitation, temporal shift and a joint-embedding head; TSM and TSN by switches."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.ops import convolve, max_pool, temporal_shift

STAGES = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # bottlenecks in each stage; 14 is for tests
EXPANSION = 4  # a bottleneck's output channels over its inner ones
# ImageNet's statistics on the 0..255 scale, RGB.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

# Differs from the release: there the backbone then gets ImageNet weights.
_conv_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, as the released backbone
_se_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default for a linear layer
_head_init = nnx.initializers.normal(0.001)


@dataclasses.dataclass(frozen=True)
class BatchNormContext:
    """How BatchNorm behaves in one call of a model.

    Attributes:
      train: normalise with the batch's statistics and update the running ones, rather than use the running ones.
      axis_name: in training, the mapped axis over which the batch's statistics are averaged; None keeps them local.
    """

    train: bool = False
    axis_name: str | None = None


class BatchNorm(nnx.Module):
    """Batch normalisation with PyTorch's running statistics (momentum 0.1, unbiased variance).

    Flax's own keeps the biased variance, which differs from the release's by n / (n - 1) for n values a channel.
    """

    momentum = 0.1
    epsilon = 1e-5

    def __init__(self, num_features: int):
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.ones(num_features))

    def __call__(self, x: Float[Array, "bt h w c"], context: BatchNormContext) -> Float[Array, "bt h w c"]:
        """Normalises each channel over batch and space."""
        mean, var = self.mean[...], self.var[...]
        if context.train:
            mean, var = self._batch_statistics(x, context.axis_name)
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        shift = self.bias[...] - mean * scale
        return x * scale.astype(x.dtype) + shift.astype(x.dtype)

    def _batch_statistics(self, x: Array, axis_name: str | None) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        x = x.astype(jnp.float32)
        count = x.size // x.shape[-1]
        mean = x.mean((0, 1, 2))
        if axis_name is not None:
            mean = jax.lax.pmean(mean, axis_name)
            count *= jax.lax.axis_size(axis_name)
        var = jnp.square(x - mean).mean((0, 1, 2))
        if axis_name is not None:
            var = jax.lax.pmean(var, axis_name)
        self.mean[...] += self.momentum * (jax.lax.stop_gradient(mean) - self.mean[...])
        unbiased = jax.lax.stop_gradient(var) * (count / max(count - 1, 1))
        self.var[...] += self.momentum * (unbiased - self.var[...])
        return mean, var


class SqueezeExcite(nnx.Module):
    """Scales the channels of each frame by a gate computed from their means (Hu et al., CVPR 2018)."""

    def __init__(self, num_features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden = num_features // 4
        options = {"use_bias": False, "kernel_init": _se_init, "dtype": dtype, "rngs": rngs}
        self.squeeze = nnx.Linear(num_features, hidden, **options)
        self.excite = nnx.Linear(hidden, num_features, **options)

    def __call__(self, x: Float[Array, "bt h w c"]) -> Float[Array, "bt h w c"]:
        """Returns x times its gates."""
        gate = nnx.sigmoid(self.excite(nnx.relu(self.squeeze(x.mean((1, 2))))))
        return x * gate[:, None, None, :]


def _conv_general_dilated(x: Array, kernel: Array, strides: tuple[int, int], *_, **__) -> Array:
    # At the module's level: models whose layers hold the same function count as the same to nnx.
    return convolve(x, kernel, strides[0])


class ConvBN(nnx.Module):
    """A convolution without bias, then batch normalisation; padded as in PyTorch: kernel_size // 2 on every side."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        stride: int = 1,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options = {"use_bias": False, "kernel_init": _conv_init, "dtype": dtype, "rngs": rngs}
        self.stride = stride
        self.pointwise = kernel_size == 1
        if self.pointwise:
            # XLA runs a matrix product faster than a 1x1 convolution on CPU, and its gradient too.
            self.conv = nnx.Linear(in_features, out_features, **options)
        else:
            kernel = (kernel_size, kernel_size)
            options |= {"strides": stride, "conv_general_dilated": _conv_general_dilated}
            self.conv = nnx.Conv(in_features, out_features, kernel, **options)
        self.bn = BatchNorm(out_features)

    def __call__(self, x: Float[Array, "bt h w c"], context: BatchNormContext) -> Float[Array, "bt h2 w2 c2"]:
        """Convolves and normalises."""
        if self.pointwise:
            x = x[:, :: self.stride, :: self.stride]
            return self.bn(self.conv(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1), context)
        return self.bn(self.conv(x), context)


class Bottleneck(nnx.Module):
    """A residual bottleneck; squeeze-and-excitation, then the shift come before its first convolution.

    Both act inside the residual branch only: the shortcut gets the block's raw input (released code).
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int,
        *,
        num_segments: int,
        shift_div: int,
        shift: bool,
        se: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        out_features = features * EXPANSION
        self.num_segments = num_segments
        self.shift_div = shift_div
        self.shift = shift
        self.se = SqueezeExcite(in_features, dtype=dtype, rngs=rngs) if se else None
        self.conv1 = ConvBN(in_features, features, 1, dtype=dtype, rngs=rngs)
        self.conv2 = ConvBN(features, features, 3, stride, dtype=dtype, rngs=rngs)
        self.conv3 = ConvBN(features, out_features, 1, dtype=dtype, rngs=rngs)
        needs_projection = stride != 1 or in_features != out_features
        self.shortcut = (
            ConvBN(in_features, out_features, 1, stride, dtype=dtype, rngs=rngs) if needs_projection else None
        )

    def __call__(self, x: Float[Array, "bt h w c"], context: BatchNormContext) -> Float[Array, "bt h2 w2 c2"]:
        """Returns relu(shortcut + residual branch)."""
        residual = x if self.se is None else self.se(x)
        if self.shift:
            frames = residual.reshape(-1, self.num_segments, *residual.shape[1:])
            residual = temporal_shift(frames, self.shift_div).reshape(residual.shape)
        residual = nnx.relu(self.conv1(residual, context))
        residual = nnx.relu(self.conv2(residual, context))
        residual = self.conv3(residual, context)
        return nnx.relu(residual + (x if self.shortcut is None else self.shortcut(x, context)))


class MANet(nnx.Module):
    """Classifies clips of a few frames (Guo et al., "Benchmarking Micro-action Recognition", TCSVT 2024).

    Differs from the release: its blocks also hold convolutions that no computation uses (`action_p2_*`).
    The released model is MANet(num_classes=52, embedding_dim=300). Without `shift`, `se` and an `embedding_dim` it is
    TSN; with `shift` alone TSM.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embedding_dim: int = 0,
        depth: int = 50,
        width: int = 64,
        num_segments: int = 8,
        shift: bool = True,
        shift_div: int = 8,
        se: bool = True,
        dropout: float = 0.5,
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        """Makes a model with fresh weights.

        Args:
          num_classes: number of actions.
          embedding_dim: dimensions of the label vectors; 0 leaves the joint-embedding branch out.
          depth: 14, 50 or 101 layers.
          width: channels after the first convolution; 64 in the release.
          num_segments: frames a clip.
          shift: whether to shift channels along time.
          shift_div: 1 / shift_div of the channels move in each direction.
          se: whether to use squeeze-and-excitation.
          dropout: share of pooled features that training drops.
          dtype: of the computation, "float32" or "bfloat16"; parameters are always float32.
          remat: whether training computes what is inside a block again for its gradient rather than keep it.
          rngs: the stream `params` makes the weights.
        """
        self.num_segments = num_segments
        self.dropout = dropout
        self.remat = remat
        self.dtype = dtype = jnp.dtype(dtype)
        self.stem = ConvBN(3, width, 7, 2, dtype=dtype, rngs=rngs)
        blocks, in_features = [], width
        for stage, num_blocks in enumerate(STAGES[depth]):
            features = width * 2**stage
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    Bottleneck(
                        in_features,
                        features,
                        stride,
                        num_segments=num_segments,
                        shift_div=shift_div,
                        shift=shift,
                        se=se,
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                in_features = features * EXPANSION
        self.blocks = nnx.List(blocks)
        self.num_features = in_features
        self.classifier = nnx.Linear(in_features, num_classes, kernel_init=_head_init, dtype=dtype, rngs=rngs)
        self.has_embedding = embedding_dim > 0
        if self.has_embedding:
            self.embedding_in = nnx.Linear(in_features, embedding_dim, kernel_init=_head_init, dtype=dtype, rngs=rngs)
            self.embedding_out = nnx.Linear(
                embedding_dim, embedding_dim, kernel_init=_head_init, dtype=dtype, rngs=rngs
            )

    def __call__(
        self,
        video: UInt8[Array, "b t h w 3"],
        context: BatchNormContext = BatchNormContext(),
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b n"], Float[Array, "b e"] | None]:
        """Returns a clip's logits and, with the joint-embedding branch, its embedding; both float32.

        Args:
          video: RGB frames, 0..255.
          context: how BatchNorm behaves.
          dropout_keys: one random key for each clip; None drops nothing.
        """
        return self.heads(self.pooled_features(video, context), dropout_keys)

    def heads(
        self, pooled: Float[Array, "b t c"], dropout_keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b n"], Float[Array, "b e"] | None]:
        """Returns logits and embedding as the whole model does, from `pooled_features`."""
        if dropout_keys is not None:
            pooled = _dropout(pooled, dropout_keys, self.dropout)
        logits = self.classifier(pooled).mean(1).astype(jnp.float32)
        if not self.has_embedding:
            return logits, None
        embedding = self.embedding_out(nnx.tanh(self.embedding_in(pooled)))
        return logits, embedding.mean(1).astype(jnp.float32)

    def pooled_features(
        self, video: UInt8[Array, "b t h w 3"], context: BatchNormContext = BatchNormContext()
    ) -> Float[Array, "b t c"]:
        """Returns the means of the last feature maps of each frame: 32 * width channels."""
        return self.features(video, context).mean((2, 3))

    def class_maps(self, video: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t h2 w2 n"]:
        """Returns what each place of each frame says for each class; the mean over all places is the class's logit.

        Class activation maps (Zhou et al., CVPR 2016), with the classifier's bias.
        """
        return self.classifier(self.features(video)).astype(jnp.float32)

    def features(
        self, video: UInt8[Array, "b t h w 3"], context: BatchNormContext = BatchNormContext()
    ) -> Float[Array, "b t h2 w2 c"]:
        """Returns the backbone's last feature maps: 1/32 of the frames' height and width, 32 * width channels.

        Raises:
          ValueError: the clips do not have the model's number of frames, or are not uint8.
        """
        if video.dtype != jnp.uint8:
            raise ValueError(f"the model takes uint8 pixels, 0..255, but got {video.dtype}")
        if video.shape[1] != self.num_segments:
            raise ValueError(f"the model takes {self.num_segments} frames a clip, but got {video.shape[1]}")
        x = (video.astype(jnp.float32) - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_STD)
        x = x.reshape(-1, *x.shape[2:]).astype(self.dtype)
        x = nnx.relu(self.stem(x, context))
        x = max_pool(x)
        apply = nnx.remat(Bottleneck.__call__, static_argnums=2) if self.remat else Bottleneck.__call__
        for block in self.blocks:
            x = jax.lax.optimization_barrier(apply(block, x, context))
        return x.reshape(*video.shape[:2], *x.shape[1:])


def _dropout(x: Float[Array, "b t c"], keys: Key[Array, " b"], rate: float) -> Float[Array, "b t c"]:
    # Differs from the release: a key for each clip, so that masks do not depend on how clips are spread over devices.
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)
