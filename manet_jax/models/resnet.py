"""A ResNet on the frames of clips, which MANet, TIN and GC-TSM have in common; each adds what mixes the frames."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.layers import ConvBN, Heads, normalize
from manet_jax.models.ops import compute_once, max_pool, merge_frames, relu, split_frames
from manet_jax.models.options import ClipSpec, NetworkOptions, at_least, one_of
from manet_jax.models.outputs import Outputs

# Bottlenecks in each stage; 14 is for small machines, and 8 for tests.
STAGES = {8: (1, 1), 14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4  # a bottleneck's output channels over its inner ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetOptions(NetworkOptions):
    """The options that all ResNets have in common.

    Attributes:
      depth: 8, 14, 50 or 101 layers.
      width: channels after the first convolution.
    """

    depth: int = 50
    width: int = 64

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        return super().problems() + one_of(self, depth=tuple(STAGES)) + at_least(self, width=4)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """See `NetworkOptions.layers`."""
        return order_layers(self.depth)

    @classmethod
    def tiny(cls, **options: Any) -> Any:
        """A network for tests."""
        clip = ClipSpec(num_frames=4, short_side=40, crop_size=32)
        small: dict[str, Any] = {"num_classes": 3, "embedding_dim": 5, "depth": 8, "width": 8, "clip": clip}
        return cls(**(small | options))


def order_layers(depth: int) -> tuple[tuple[str, ...], ...]:
    """The layers of a ResNet, see `NetworkOptions.layers`."""
    return (("stem",), *((f"blocks.{i}",) for i in range(sum(STAGES[depth]))), ("heads",))


def moves_a_channel(options: Any) -> list[str]:
    """A text where the temporal shift would move nothing."""
    if options.width >= options.shift_div:
        return []
    return [f"shift_div is {options.shift_div}: with width {options.width} no channel moves"]


class Bottleneck(nnx.Module):
    """A residual bottleneck; a network's own mixes frames inside the residual branch.

    The shortcut gets the block's raw input (released code).
    """

    def __init__(self, in_features: int, features: int, stride: int, options: ResNetOptions, *, rngs: nnx.Rngs):
        out_features = features * EXPANSION
        dtype = jnp.dtype(options.dtype)
        self.num_frames = options.clip.num_frames
        self.conv1 = ConvBN(in_features, features, 1, dtype=dtype, rngs=rngs)
        self.conv2 = ConvBN(features, features, 3, stride, dtype=dtype, rngs=rngs)
        self.conv3 = ConvBN(features, out_features, 1, dtype=dtype, rngs=rngs)
        needs_projection = stride != 1 or in_features != out_features
        self.shortcut = (
            ConvBN(in_features, out_features, 1, stride, dtype=dtype, rngs=rngs) if needs_projection else None
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Returns relu(shortcut + residual branch); the frames are in the order of `ops.merge_frames`."""
        residual = nnx.relu(self.convolve_mixed(x))
        residual = nnx.relu(self.gate(self.conv2(residual)))
        residual = self.conv3(residual)
        return relu(residual + (x if self.shortcut is None else self.shortcut(x)))

    def convolve_mixed(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c2"]:
        """The first convolution and its BatchNorm, after what mixes the frames."""
        return self.conv1(x)

    def gate(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """What comes after the second convolution and its BatchNorm, before the activation."""
        return x


class ResNet(nnx.Module):
    """Classifies clips by the features of their frames, which its blocks may mix.

    A network of it names its `Options` and its `Block`.
    """

    Options: type[ResNetOptions]
    Block: type[Bottleneck]

    def __init__(self, options: ResNetOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        width = options.width
        self.stem = ConvBN(3, width, 7, 2, dtype=jnp.dtype(options.dtype), rngs=rngs)
        blocks, in_features = [], width
        for stage, num_blocks in enumerate(STAGES[options.depth]):
            features = width * 2**stage
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(self.Block(in_features, features, stride, options, rngs=rngs))
                in_features = features * EXPANSION
        self.blocks = nnx.List(blocks)
        self.heads = Heads(in_features, options, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for the clips `inputs["video"]`, see `models`."""
        return self.heads(self.features(inputs["video"]).mean((2, 3)), keys)

    def class_maps(self, inputs: dict[str, Array]) -> Float[Array, "b t h w n"]:
        """Returns the class activation maps, see `layers.ClassificationHead.maps`."""
        return self.heads.classifier.maps(self.features(inputs["video"]))

    def features(self, video: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t h2 w2 c"]:
        """Returns the last feature maps: from 14 layers on 1/32 of the frames' sides, 32 * width channels."""
        x = merge_frames(normalize(video, self.options))
        x = max_pool(nnx.relu(self.stem(x)))
        for block in self.blocks:
            apply = nnx.remat(type(block).__call__) if self.options.remat else type(block).__call__
            x = compute_once(apply(block, x))
        return split_frames(x, self.options.clip.num_frames)
