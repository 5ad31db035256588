"""GC-TSM: TSM whose blocks gate four groups of channels by four kinds of context."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from manet_jax.models.layers import BatchNorm, TemporalConv
from manet_jax.models.ops import merge_frames, shift_and_multiply, split_frames
from manet_jax.models.options import at_least
from manet_jax.models.resnet import Bottleneck, ResNet, ResNetOptions, moves_a_channel

_GATES = 4
_xavier = nnx.initializers.variance_scaling(1.0, "fan_avg", "normal")
_of_clip_init = nnx.initializers.normal(0.001)


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
        if self.width % _GATES:
            problems.append(f"width is {self.width}; it must be a multiple of {_GATES}")
        return problems

    @property
    def min_clips(self) -> int:
        """See `NetworkOptions.min_clips`: the gate that sees the mean of a clip has one value of each."""
        return 2


class Gate(nnx.Module):
    """Multiplies channels by a gate: the sigmoid of a linear operation on their means, and of its BatchNorm.

    Attributes:
      over: axes of the means.
      normalized: whether the BatchNorm is used.
    """

    def __init__(self, conv: nnx.Module, num_features: int, over: tuple[int, ...], *, normalized: bool = True):
        self.conv = conv
        self.bn = BatchNorm(num_features)
        self.over = over
        self.normalized = normalized

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Returns x times its gate, which has a size of 1 along the axes of the means."""
        gate = self.conv(x.mean(self.over, keepdims=True))
        if self.normalized:
            gate = self.bn(gate.reshape(-1, *gate.shape[2:])).reshape(gate.shape)
        return x * jax.nn.sigmoid(gate)


class ContextGates(nnx.Module):
    """Multiplies each quarter of the channels by a gate that sees a context of that quarter.

    `local` sees each pixel in neighbouring frames, `time` the means of neighbouring frames, `space` the mean of all
    frames around each pixel, and `clip` the mean of the clip.
    """

    def __init__(self, num_features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        size = num_features // _GATES

        def in_time() -> TemporalConv:
            return TemporalConv(size, size, use_bias=False, kernel_init=_xavier, dtype=dtype, rngs=rngs)

        in_space = nnx.Conv(
            size,
            size,
            (3, 3),
            kernel_dilation=2,
            padding=2,
            use_bias=False,
            kernel_init=_xavier,
            dtype=dtype,
            rngs=rngs,
        )
        linear = nnx.Linear(size, size, use_bias=False, kernel_init=_of_clip_init, dtype=dtype, rngs=rngs)
        self.local = Gate(in_time(), size, over=())
        self.time = Gate(in_time(), size, over=(2, 3))
        # The authors' files hold a BatchNorm for it, which takes part in none of their computations either.
        self.space = Gate(in_space, size, over=(1,), normalized=False)
        self.clip = Gate(linear, size, over=(1, 2, 3))

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Returns the channels times their gates."""
        gates = (self.local, self.time, self.space, self.clip)
        parts = jnp.split(x, _GATES, axis=-1)
        return jnp.concatenate([gate(part) for gate, part in zip(gates, parts, strict=True)], axis=-1)


class GCTSMBlock(Bottleneck):
    """A bottleneck with the temporal shift before its first convolution, and gates after its second one's BatchNorm."""

    def __init__(self, in_features: int, features: int, stride: int, options: GCTSMOptions, *, rngs: nnx.Rngs):
        super().__init__(in_features, features, stride, options, rngs=rngs)
        self.shift_div = options.shift_div
        self.gates = ContextGates(features, dtype=jnp.dtype(options.dtype), rngs=rngs)

    def convolve_mixed(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c2"]:
        """Moves some channels along time, then convolves."""
        return self.conv1.bn(shift_and_multiply(x, self.conv1.matrix, None, self.num_frames, self.shift_div))

    def gate(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Applies the gates."""
        return merge_frames(self.gates(split_frames(x, self.num_frames)))


class GCTSM(ResNet):
    """Classifies clips of a few frames (Hao et al., "Group Contextualization for Video Recognition", CVPR 2022)."""

    Options = GCTSMOptions
    Block = GCTSMBlock
