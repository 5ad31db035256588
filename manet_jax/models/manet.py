"""MANet: a ResNet with squeeze-and-excitation, temporal shift and a joint-embedding head; TSM and TSN by switches."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.layers import ConvBN, Heads, SqueezeExcite, normalize
from manet_jax.models.ops import compute_once, max_pool, merge_frames, relu, shift_and_multiply, split_frames
from manet_jax.models.options import ClipSpec, NetworkOptions, at_least, one_of
from manet_jax.models.outputs import Outputs

# Bottlenecks in each stage; 14 is for small machines, and 8 for tests.
STAGES = {8: (1, 1), 14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4  # a bottleneck's output channels over its inner ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class MANetOptions(NetworkOptions):
    """Options of `MANet`; the defaults and 300-dimensional label vectors are the released model's.

    Attributes:
      depth: 8, 14, 50 or 101 layers.
      width: channels after the first convolution.
      shift: whether to shift channels along time.
      shift_div: 1 / shift_div of the channels move in each direction of time.
      se: whether to use squeeze-and-excitation.
    """

    depth: int = 50
    width: int = 64
    shift: bool = True
    shift_div: int = 8
    se: bool = True

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + one_of(self, depth=tuple(STAGES)) + at_least(self, width=4, shift_div=2)
        if self.shift and self.width < self.shift_div:
            problems.append(f"shift_div is {self.shift_div}: with width {self.width} no channel moves")
        return problems

    @classmethod
    def tiny(cls, **options) -> "MANetOptions":
        """A network for tests."""
        clip = ClipSpec(num_frames=4, short_side=40, crop_size=32)
        return dataclasses.replace(cls(num_classes=3, embedding_dim=5, depth=8, width=8, clip=clip), **options)


class Bottleneck(nnx.Module):
    """A residual bottleneck; squeeze-and-excitation, then the shift come before its first convolution.

    Both act inside the residual branch only: the shortcut gets the block's raw input (released code).
    """

    def __init__(self, in_features: int, features: int, stride: int, options: MANetOptions, *, rngs: nnx.Rngs):
        out_features = features * EXPANSION
        dtype = jnp.dtype(options.dtype)
        self.num_frames = options.clip.num_frames
        self.shift_div = options.shift_div if options.shift else 0
        self.se = SqueezeExcite(in_features, dtype=dtype, rngs=rngs) if options.se else None
        self.conv1 = ConvBN(in_features, features, 1, dtype=dtype, rngs=rngs)
        self.conv2 = ConvBN(features, features, 3, stride, dtype=dtype, rngs=rngs)
        self.conv3 = ConvBN(features, out_features, 1, dtype=dtype, rngs=rngs)
        needs_projection = stride != 1 or in_features != out_features
        self.shortcut = (
            ConvBN(in_features, out_features, 1, stride, dtype=dtype, rngs=rngs) if needs_projection else None
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Returns relu(shortcut + residual branch); the frames are in the order of `ops.merge_frames`."""
        residual = nnx.relu(self._shift_and_convolve(x) if self.shift_div else self._convolve(x))
        residual = nnx.relu(self.conv2(residual))
        residual = self.conv3(residual)
        return relu(residual + (x if self.shortcut is None else self.shortcut(x)))

    def _convolve(self, x: Array) -> Array:
        return self.conv1(x if self.se is None else self.se(x))

    def _shift_and_convolve(self, x: Array) -> Array:
        kernel = self.conv1.conv.kernel[...].astype(x.dtype)
        gates = None if self.se is None else self.se.gates(x)
        return self.conv1.bn(shift_and_multiply(x, kernel, gates, self.num_frames, self.shift_div))


class MANet(nnx.Module):
    """Classifies clips of a few frames (Guo et al., "Benchmarking Micro-action Recognition", TCSVT 2024).

    Differs from the release: its blocks also hold convolutions that no computation uses (`action_p2_*`).
    Without `shift`, `se` and an `embedding_dim` it is TSN; with `shift` alone TSM.
    """

    Options = MANetOptions

    def __init__(self, options: MANetOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        width = options.width
        self.stem = ConvBN(3, width, 7, 2, dtype=jnp.dtype(options.dtype), rngs=rngs)
        blocks, in_features = [], width
        for stage, num_blocks in enumerate(STAGES[options.depth]):
            features = width * 2**stage
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(in_features, features, stride, options, rngs=rngs))
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
        apply = nnx.remat(Bottleneck.__call__) if self.options.remat else Bottleneck.__call__
        for block in self.blocks:
            x = compute_once(apply(block, x))
        return split_frames(x, video.shape[1])
