"""Layers that networks share: normalisation of pixels, BatchNorm, convolutions, heads.

Training mode is a view of a model: `nnx.view(model, train=True, axis_name=...)`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.ops import by_platform, convolve, convolve_3d
from manet_jax.models.options import NetworkOptions
from manet_jax.models.outputs import Outputs

# Differs from the release: there the backbone then gets ImageNet weights.
_conv_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, as the released backbone
_linear_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default
_head_init = nnx.initializers.normal(0.001)


def normalize(video: UInt8[Array, "b t h w 3"], options: NetworkOptions) -> Float[Array, "b t h w 3"]:
    """Brings the pixels of clips, RGB, 0..255, to the scale and the dtype of a network.

    Raises:
      ValueError: the clips are not uint8, or do not have the network's number of frames.
    """
    if video.dtype != jnp.uint8:
        raise ValueError(f"the model takes uint8 pixels, 0..255, but got {video.dtype}")
    clip = options.clip
    if video.shape[1] != clip.num_frames:
        raise ValueError(f"the model takes {clip.num_frames} frames a clip, but got {video.shape[1]}")
    mean, std = (jnp.array(values).reshape(1, 1, 1, 1, 3) for values in (clip.mean, clip.std))
    return ((video.astype(jnp.float32) - mean) / std).astype(jnp.dtype(options.dtype))


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
        self.set_view(train=False)

    def set_view(self, *, train: bool, axis_name: str | None = None) -> None:
        """Sets the mode, see `nnx.view`.

        Args:
          train: normalise with the batch's statistics and update the running ones, rather than use the running ones.
          axis_name: in training, the mapped axis over which the batch's statistics are averaged; None keeps them local.
        """
        self.training = train
        self.axis_name = axis_name

    def __call__(self, x: Float[Array, "bt h w c"]) -> Float[Array, "bt h w c"]:
        """Normalises each channel over batch and space."""
        mean, var = self.mean[...], self.var[...]
        if self.training:
            mean, var = self.over_devices(*self.moments(x))
            self.update(mean, var, x.size // x.shape[-1])
        return self.normalize(x, mean, var)

    def moments(self, x: Float[Array, "bt h w c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Mean and variance of each channel of this device's values."""
        return by_platform(x, self.mean[...], cpu=lambda x, _: _moments(x), default=_moments_at_once)

    def normalize(
        self, x: Float[Array, "bt h w c"], mean: Float[Array, " c"], var: Float[Array, " c"]
    ) -> Float[Array, "bt h w c"]:
        """Normalises each channel by a mean and a variance."""
        scale, shift = self.scale_and_shift(mean, var)
        return x * _per_channel(scale, x) + _per_channel(shift, x)

    def scale_and_shift(self, mean: Float[Array, " c"], var: Float[Array, " c"]) -> tuple[Array, Array]:
        """What a channel of this mean and variance is multiplied by, and what is then added to it."""
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return scale, self.bias[...] - mean * scale

    def over_devices(self, mean: Float[Array, " c"], var: Float[Array, " c"]) -> tuple[Array, Array]:
        """Mean and variance of the values of all devices of the axis, given those of this device's."""
        if self.axis_name is None:
            return mean, var
        overall = jax.lax.pmean(mean, self.axis_name)
        return overall, jax.lax.pmean(var + jnp.square(mean - overall), self.axis_name)

    def update(self, mean: Float[Array, " c"], var: Float[Array, " c"], count: int) -> None:
        """Brings the running statistics nearer to those of `count` values on each device."""
        if self.axis_name is not None:
            count *= jax.lax.axis_size(self.axis_name)
        unbiased = jax.lax.stop_gradient(var) * (count / max(count - 1, 1))
        # Not by index, for which JAX composes the text of an unseen error from all operations so far.
        self.mean.set_value(self.mean[...] + self.momentum * (jax.lax.stop_gradient(mean) - self.mean[...]))
        self.var.set_value(self.var[...] + self.momentum * (unbiased - self.var[...]))


def _per_channel(values: Float[Array, " c"], x: Float[Array, "*n c"]) -> Float[Array, "... c"]:
    """Values of each channel in the dtype and with the dimensions of x."""
    return values.astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1)


def _moments(x: Float[Array, "*n c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and variance of each channel."""
    x, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    return mean, jnp.square(x - _per_channel(mean, x)).mean(axes)


def _moments_at_once(
    x: Float[Array, "*n c"], near: Float[Array, " c"]
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """The same by reading x once, in the pass that makes it; precise where the means are near the given ones."""
    x, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    x -= _per_channel(near, x)
    mean = x.mean(axes)
    return near + mean, jnp.maximum(jnp.square(x).mean(axes) - jnp.square(mean), 0)


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
        self.stride = stride
        self.pointwise = kernel_size == 1
        if self.pointwise:
            # XLA runs a matrix product faster than a 1x1 convolution on CPU, and its gradient too.
            self.conv = nnx.Linear(
                in_features, out_features, use_bias=False, kernel_init=_conv_init, dtype=dtype, rngs=rngs
            )
        else:
            self.conv = nnx.Conv(
                in_features,
                out_features,
                (kernel_size, kernel_size),
                strides=stride,
                use_bias=False,
                kernel_init=_conv_init,
                conv_general_dilated=_conv_general_dilated,
                dtype=dtype,
                rngs=rngs,
            )
        self.bn = BatchNorm(out_features)

    def __call__(self, x: Float[Array, "bt h w c"]) -> Float[Array, "bt h2 w2 c2"]:
        """Convolves and normalises."""
        if self.pointwise:
            x = x[:, :: self.stride, :: self.stride]
            if self.bn.training and self.conv.in_features < self.conv.out_features:
                return self._expand(x)
            return self.bn(_multiply(x, self.conv))
        return self.bn(self.conv(x))

    @property
    def matrix(self) -> Float[Array, "c d"]:
        """The kernel of a 1x1 convolution in the dtype of the computation."""
        return self.conv.kernel[...].astype(self.conv.dtype)

    def _expand(self, x: Float[Array, "bt h w c"]) -> Float[Array, "bt h w c2"]:
        """Multiplies and normalises in training, where there are more outputs than inputs.

        On a TPU the outputs' statistics are computed from the inputs', which are fewer, and the kernel is scaled
        instead of the outputs: these are written once, together with what follows.
        """

        def normalize_outputs(x: Array, kernel: Array) -> tuple[Array, Array, Array]:
            product = _multiply(x, lambda rows: rows @ kernel)
            mean, var = self.bn.over_devices(*self.bn.moments(product))
            return self.bn.normalize(product, mean, var), mean, var

        def scale_kernel(x: Array, kernel: Array) -> tuple[Array, Array, Array]:
            kernel = kernel.astype(jnp.float32)
            mean, var = self.bn.over_devices(*_moments_of_product(x.reshape(-1, x.shape[-1]), kernel))
            scale, shift = self.bn.scale_and_shift(mean, var)
            scaled = (kernel * _per_channel(scale, kernel)).astype(x.dtype)
            product = _multiply(x, lambda rows: rows @ scaled)
            return product + _per_channel(shift, product), mean, var

        y, mean, var = by_platform(x, self.matrix, tpu=scale_kernel, default=normalize_outputs)
        self.bn.update(mean, var, y.size // y.shape[-1])
        return y


def _multiply(x: Float[Array, "bt h w c"], product: Callable[[Array], Array]) -> Float[Array, "bt h w c2"]:
    """Applies a product of the rows of a matrix at every location."""
    return product(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _moments_of_product(x: Float[Array, "n c"], kernel: Float[Array, "c d"]) -> tuple[Array, Array]:
    """Mean and variance of each column of x times a kernel: the kernel's under the covariance of x's columns."""
    precision = jax.lax.Precision.HIGHEST
    multiply = functools.partial(jnp.matmul, precision=precision)
    squares = jax.lax.dot_general(
        x, x, (((0,), (0,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
    mean = x.astype(jnp.float32).mean(0)
    covariance = squares / len(x) - jnp.outer(mean, mean)
    return multiply(mean, kernel), jnp.maximum((kernel * multiply(covariance, kernel)).sum(0), 0)


def _conv_3d(x: Array, kernel: Array, strides: tuple[int, int, int], *_, **__) -> Array:
    return convolve_3d(x, kernel, strides)


def create_conv_3d(
    in_features: int,
    out_features: int,
    kernel_size: tuple[int, int, int],
    strides: tuple[int, int, int] = (1, 1, 1),
    *,
    use_bias: bool = False,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution of clips, of sizes over time, height and width; padded as in PyTorch, see `ops.convolve_3d`."""
    return nnx.Conv(
        in_features,
        out_features,
        kernel_size,
        strides,
        use_bias=use_bias,
        kernel_init=_conv_init,
        conv_general_dilated=_conv_3d,
        dtype=dtype,
        rngs=rngs,
    )


class TemporalConv(nnx.Module):
    """A convolution over three neighbouring frames, each location by itself; zeros beyond the clip's ends."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool,
        kernel_init: nnx.Initializer = _linear_init,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, in_features, out_features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b t *place c"]) -> Float[Array, "b t *place d"]:
        """Returns the convolution, as one matrix product."""
        padded = jnp.pad(x, [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 2))
        neighbours = jnp.concatenate([padded[:, i : i + x.shape[1]] for i in range(3)], axis=-1)
        kernel = self.kernel[...].astype(self.dtype)
        out = neighbours.reshape(-1, neighbours.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
        out = out.reshape(*x.shape[:-1], -1)
        return (
            out if self.bias is None else out + self.bias[...].astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        )


class SqueezeExcite(nnx.Module):
    """Scales the channels of each frame by a gate computed from their means (Hu et al., CVPR 2018)."""

    def __init__(self, num_features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden = num_features // 4
        self.squeeze = nnx.Linear(
            num_features, hidden, use_bias=False, kernel_init=_linear_init, dtype=dtype, rngs=rngs
        )
        self.excite = nnx.Linear(hidden, num_features, use_bias=False, kernel_init=_linear_init, dtype=dtype, rngs=rngs)

    def gates(self, x: Float[Array, "bt h w c"]) -> Float[Array, "bt c"]:
        """Returns the gates of x."""
        return nnx.sigmoid(self.excite(nnx.relu(self.squeeze(x.mean((1, 2))))))

    def __call__(self, x: Float[Array, "bt h w c"]) -> Float[Array, "bt h w c"]:
        """Returns x times its gates."""
        return x * self.gates(x)[:, None, None, :]


class ClassificationHead(nnx.Module):
    """A linear classifier of each frame's pooled features, whose logits are averaged over the frames."""

    def __init__(self, num_features: int, num_classes: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.linear = nnx.Linear(num_features, num_classes, kernel_init=_head_init, dtype=dtype, rngs=rngs)

    def __call__(self, pooled: Float[Array, "b t c"]) -> Float[Array, "b n"]:
        """Returns the logits, float32."""
        return self.linear(pooled).mean(1).astype(jnp.float32)

    def maps(self, features: Float[Array, "b t h w c"]) -> Float[Array, "b t h w n"]:
        """Returns the logits of each location of each frame; their mean over all locations is the class's logit.

        Class activation maps (Zhou et al., CVPR 2016), with the classifier's bias.
        """
        return self.linear(features).astype(jnp.float32)


class JointEmbeddingHead(nnx.Module):
    """Maps each frame's pooled features to the space of the label vectors, averaged over the frames (released code)."""

    def __init__(self, num_features: int, embedding_dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(num_features, embedding_dim, kernel_init=_head_init, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(embedding_dim, embedding_dim, kernel_init=_head_init, dtype=dtype, rngs=rngs)

    def __call__(self, pooled: Float[Array, "b t c"]) -> Float[Array, "b e"]:
        """Returns the embedding, float32."""
        return self.out(nnx.tanh(self.hidden(pooled))).mean(1).astype(jnp.float32)


class Heads(nnx.Module):
    """The heads of a network over its pooled features: a classifier, on request the joint embedding and body groups.

    Every network holds them as `heads`: what lies below that name belongs to a task, all else to the backbone.
    """

    def __init__(self, num_features: int, options: NetworkOptions, *, rngs: nnx.Rngs):
        self.num_features = num_features
        self.dropout = options.dropout
        dtype = jnp.dtype(options.dtype)
        self.classifier = ClassificationHead(num_features, options.num_classes, dtype=dtype, rngs=rngs)
        self.joint_embedding = (
            JointEmbeddingHead(num_features, options.embedding_dim, dtype=dtype, rngs=rngs)
            if options.embedding_dim
            else None
        )
        self.body_groups = (
            ClassificationHead(num_features, options.num_groups, dtype=dtype, rngs=rngs) if options.num_groups else None
        )

    def __call__(self, pooled: Float[Array, "b t c"], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns logits, embedding, features and logits of body groups of clips.

        Args:
          pooled: features of each frame, or of each moment that the backbone keeps.
          keys: one random key for each clip, for dropout; None drops nothing.
        """
        features = pooled.mean(1).astype(jnp.float32)
        pooled = dropout(pooled, keys, self.dropout)  # one mask for all heads
        embedding = None if self.joint_embedding is None else self.joint_embedding(pooled)
        groups = None if self.body_groups is None else self.body_groups(pooled)
        return Outputs(logits=self.classifier(pooled), embedding=embedding, features=features, groups=groups)


def fold_in(keys: Key[Array, " b"] | None, number: int) -> Key[Array, " b"] | None:
    """The keys of clips for a layer of a number; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def dropout(x: Float[Array, "b t c"], keys: Key[Array, " b"] | None, rate: float) -> Float[Array, "b t c"]:
    """Drops a share of the values of each clip, and scales up the others; without keys or a rate it drops nothing."""
    if keys is None or not rate:
        return x
    # Differs from the release: a key for each clip, so that masks do not depend on how clips are spread over devices.
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)
