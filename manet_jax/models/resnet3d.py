"""A ResNet over clips: what I3D and the two paths of SlowFast share, and its start from a ResNet over images."""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from manet_jax.models.layers import BatchNorm, create_conv_3d
from manet_jax.models.ops import compute_once, max_pool
from manet_jax.models.resnet import EXPANSION


class ConvBN3D(nnx.Module):
    """A convolution of clips without bias, then batch normalisation; padded as in PyTorch."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, int, int],
        strides: tuple[int, int, int] = (1, 1, 1),
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.conv = create_conv_3d(in_features, out_features, kernel_size, strides, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(out_features)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 c2"]:
        """Convolves and normalises."""
        x = self.conv(x)
        return self.bn(x.reshape(-1, *x.shape[2:])).reshape(x.shape)


class Bottleneck3D(nnx.Module):
    """A residual bottleneck whose first convolution sees one frame or, inflated, three."""

    def __init__(
        self, in_features: int, features: int, stride: int, inflated: bool, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        out_features, strides = features * EXPANSION, (1, stride, stride)
        self.conv1 = ConvBN3D(in_features, features, (3 if inflated else 1, 1, 1), dtype=dtype, rngs=rngs)
        self.conv2 = ConvBN3D(features, features, (1, 3, 3), strides, dtype=dtype, rngs=rngs)
        self.conv3 = ConvBN3D(features, out_features, (1, 1, 1), dtype=dtype, rngs=rngs)
        needs_projection = stride != 1 or in_features != out_features
        self.shortcut = (
            ConvBN3D(in_features, out_features, (1, 1, 1), strides, dtype=dtype, rngs=rngs)
            if needs_projection
            else None
        )

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 c2"]:
        """Returns relu(shortcut + residual branch)."""
        residual = nnx.relu(self.conv1(x))
        residual = nnx.relu(self.conv2(residual))
        residual = self.conv3(residual)
        return nnx.relu(residual + (x if self.shortcut is None else self.shortcut(x)))


def create_blocks(
    width: int,
    stages: Sequence[int],
    inflated: Callable[[int, int], bool],
    *,
    lateral_share: int = 0,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> list[Bottleneck3D]:
    """The bottlenecks of a ResNet.

    Args:
      width: channels after the first convolution.
      stages: the number of bottlenecks in each stage.
      inflated: whether a bottleneck is, by its stage and its number there, both from 0 on.
      lateral_share: 1 / lateral_share as many channels as a stage's input has are added to it; 0 adds none.
      dtype: of the computation.
      rngs: draws the weights.
    """
    blocks, in_features = [], width
    for stage, count in enumerate(stages):
        features = width * 2**stage
        in_features += in_features // lateral_share if lateral_share else 0
        for number in range(count):
            stride = 2 if stage > 0 and number == 0 else 1
            block = Bottleneck3D(in_features, features, stride, inflated(stage, number), dtype=dtype, rngs=rngs)
            blocks.append(block)
            in_features = features * EXPANSION
    return blocks


def run_stem(
    stem: ConvBN3D, x: Float[Array, "b t h w c"], *, frame_step: int = 1, remat: bool
) -> Float[Array, "b t2 h2 w2 c2"]:
    """Runs the first convolution and pools every `frame_step`-th of its frames; `remat` as for `run_blocks`."""
    apply = nnx.remat(_convolve_and_pool, static_argnums=2) if remat else _convolve_and_pool
    return apply(stem, x, frame_step)


def _convolve_and_pool(stem: ConvBN3D, x: Float[Array, "b t h w c"], frame_step: int) -> Array:
    return max_pool_frames(nnx.relu(stem(x))[:, ::frame_step])


def run_blocks(
    blocks: Sequence[Bottleneck3D], x: Float[Array, "b t h w c"], *, remat: bool
) -> Float[Array, "b t h2 w2 c2"]:
    """Runs bottlenecks one after the other; with `remat` training computes what is inside them again."""
    apply = nnx.remat(Bottleneck3D.__call__) if remat else Bottleneck3D.__call__
    for block in blocks:
        x = compute_once(apply(block, x))
    return x


def max_pool_frames(x: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 c"]:
    """The pooling after the first layer, of each frame by itself, see `ops.max_pool`."""
    y = max_pool(x.reshape(-1, *x.shape[2:]))
    return y.reshape(*x.shape[:2], *y.shape[1:])


def inflate(images: Mapping[str, Array], clips: Mapping[str, Array]) -> dict[str, Array]:
    """Weights of a ResNet over images, such as TSN's, as those of a ResNet over clips.

    Kernels are repeated along time and divided by its length, so that frames that are all the same get the features of
    one (Carreira and Zisserman, CVPR 2017). In SlowFast they are the slow path's, and zero for the channels that come
    from the fast path, as in mmaction2.

    Args:
      images: variables by path, see `variables.flatten`.
      clips: those of the network over clips.

    Returns:
      All of `images`, those that `clips` has a place for by its path; as they are unless only there they see time.
    """
    inflated = {}
    for path, value in images.items():
        place = path if path in clips else path.replace(".", ".slow.", 1)
        if place in clips:
            inflated[place] = _inflate(value, clips[place].shape)
        else:
            inflated[path] = value
    return inflated


def _inflate(value: Array, shape: tuple[int, ...]) -> Array:
    if len(shape) != 5 or value.ndim not in (2, 4):
        return value
    kernel = value.reshape(*(1, 1, *value.shape)[-4:])
    lateral = max(0, shape[3] - kernel.shape[2])
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, lateral), (0, 0)))
    return jnp.broadcast_to(kernel / shape[0], (shape[0], *kernel.shape))
