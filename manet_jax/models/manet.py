"""MANet: a ResNet with squeeze-and-excitation, temporal shift and a joint-embedding head; TSM and TSN by switches."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from manet_jax.models.layers import SqueezeExcite
from manet_jax.models.ops import shift_and_multiply
from manet_jax.models.options import at_least
from manet_jax.models.resnet import Bottleneck, ResNet, ResNetOptions, moves_a_channel


@dataclasses.dataclass(frozen=True, kw_only=True)
class MANetOptions(ResNetOptions):
    """Options of `MANet`; the defaults and 300-dimensional label vectors are the released model's.

    Attributes:
      shift: whether to shift channels along time.
      shift_div: 1 / shift_div of the channels move in each direction of time.
      se: whether to use squeeze-and-excitation.
    """

    shift: bool = True
    shift_div: int = 8
    se: bool = True

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + at_least(self, shift_div=2)
        return problems + moves_a_channel(self) if self.shift else problems


class MANetBlock(Bottleneck):
    """A bottleneck with squeeze-and-excitation, then the shift before its first convolution."""

    def __init__(self, in_features: int, features: int, stride: int, options: MANetOptions, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(options.dtype)
        # Drawn first, so that a seed's fresh weights stay what they were.
        self.se = SqueezeExcite(in_features, dtype=dtype, rngs=rngs) if options.se else None
        super().__init__(in_features, features, stride, options, rngs=rngs)
        self.shift_div = options.shift_div if options.shift else 0

    def convolve_mixed(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c2"]:
        """Scales the channels of each frame and moves some along time, then convolves."""
        if not self.shift_div:
            return self.conv1(x if self.se is None else self.se(x))
        gates = None if self.se is None else self.se.gates(x)
        product = shift_and_multiply(x, self.conv1.matrix, gates, self.num_frames, self.shift_div)
        return self.conv1.bn(product)


class MANet(ResNet):
    """Classifies clips of a few frames (Guo et al., "Benchmarking Micro-action Recognition", TCSVT 2024).

    Differs from the release: its blocks also hold convolutions that no computation uses (`action_p2_*`).
    Without `shift`, `se` and an `embedding_dim` it is TSN; with `shift` alone TSM. Differs from mmaction2's TSN, which
    drops out the mean of the frames' features, and like TSM's drops out each frame's.
    """

    Options = MANetOptions
    Block = MANetBlock
