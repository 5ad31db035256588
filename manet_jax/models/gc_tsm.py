"""GC-TSM: TSM whose blocks gate four groups of channels by four kinds of context."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from manet_jax.models.layers import BatchNorm, TemporalConv
from manet_jax.models.ops import temporal_shift
from manet_jax.models.options import at_least
from manet_jax.models.resnet import Bottleneck, ResNet, ResNetOptions, moves_a_channel

_KINDS = 4  # of context
_xavier = nnx.initializers.variance_scaling(1.0, "fan_avg", "normal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GCTSMOptions(ResNetOptions):
    """Options of `GCTSM`.

    Attributes:
      shift_div: 1 / shift_div of the channels move in each direction of time.
    """

    shift_div: int = 8

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + at_least(self, shift_div=2) + moves_a_channel(self)
        if self.width % _KINDS:
            problems.append(f"width is {self.width}; it must be a multiple of {_KINDS}")
        return problems


class Gate(nnx.Module):
    """The sigmoid of a linear operation on a context and, where `normalized`, of its BatchNorm."""

    def __init__(self, conv: nnx.Module, num_features: int, *, normalized: bool = True):
        self.conv = conv
        self.bn = BatchNorm(num_features)
        self.normalized = normalized

    def __call__(self, context: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Returns a factor for each value of the context."""
        x = self.conv(context)
        if self.normalized:
            x = self.bn(x.reshape(-1, *x.shape[2:])).reshape(x.shape)
        return jax.nn.sigmoid(x)


class ContextGates(nnx.Module):
    """Multiplies each quarter of the channels by a gate that is computed from a context of that quarter.

    `local` sees a pixel in neighbouring frames, `time` the means of neighbouring frames, `space` the mean of all frames
    around a pixel, and `clip` the mean of the clip.
    """

    def __init__(self, num_features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        size = num_features // _KINDS
        in_time = {"use_bias": False, "kernel_init": _xavier, "dtype": dtype, "rngs": rngs}
        self.local = Gate(TemporalConv(size, size, **in_time), size)
        self.time = Gate(TemporalConv(size, size, **in_time), size)
        in_space = {"kernel_dilation": 2, "padding": 2, **in_time}
        # Its BatchNorm is in the authors' files, and no computation uses it.
        self.space = Gate(nnx.Conv(size, size, (3, 3), **in_space), size, normalized=False)
        normal = nnx.initializers.normal(0.001)
        self.clip = Gate(nnx.Linear(size, size, use_bias=False, kernel_init=normal, dtype=dtype, rngs=rngs), size)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Returns the channels times their gates."""
        local, time, space, clip = jnp.split(x, _KINDS, axis=-1)
        gates = [
            self.local(local),
            self.time(time.mean((2, 3), keepdims=True)),
            self.space(space.mean(1, keepdims=True)),
            self.clip(clip.mean((1, 2, 3), keepdims=True)),
        ]
        return x * jnp.concatenate([jnp.broadcast_to(gate, local.shape) for gate in gates], axis=-1)


class GCTSMBlock(Bottleneck):
    """A bottleneck with the temporal shift before its first convolution, and gates after its second one's BatchNorm."""

    def __init__(self, in_features: int, features: int, stride: int, options: GCTSMOptions, *, rngs: nnx.Rngs):
        super().__init__(in_features, features, stride, options, rngs=rngs)
        self.shift_div = options.shift_div
        self.gates = ContextGates(features, dtype=jnp.dtype(options.dtype), rngs=rngs)

    def mix(self, x: Float[Array, "bt h w c"]) -> Float[Array, "bt h w c"]:
        """Moves some channels along time."""
        return temporal_shift(self.split_frames(x), self.shift_div).reshape(x.shape)

    def gate(self, x: Float[Array, "bt h w c"]) -> Float[Array, "bt h w c"]:
        """Applies the gates."""
        return self.gates(self.split_frames(x)).reshape(x.shape)


class GCTSM(ResNet):
    """Classifies clips of a few frames (Hao et al., "Group Contextualization for Video Recognition", CVPR 2022)."""

    Options = GCTSMOptions
    Block = GCTSMBlock
