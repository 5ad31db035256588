"""TIN: a ResNet whose blocks move channels along time by learned offsets, with learned weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from manet_jax.models.layers import TemporalConv
from manet_jax.models.ops import merge_frames, split_frames
from manet_jax.models.options import at_least
from manet_jax.models.resnet import Bottleneck, ResNet, ResNetOptions

_GROUPS = 4  # of channels, which move by the two offsets and by their negatives
_REACH = 2  # frames that a channel moves at most
_half_a_frame = nnx.initializers.constant(0.5108)  # of the offsets, before the sigmoid


@dataclasses.dataclass(frozen=True, kw_only=True)
class TINOptions(ResNetOptions):
    """Options of `TIN`.

    Attributes:
      shift_div: 1 / shift_div of the channels move.
    """

    shift_div: int = 4

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + at_least(self, shift_div=1)
        unit = _GROUPS * self.shift_div
        if not problems and self.width % unit:
            problems.append(f"width is {self.width}; with shift_div {self.shift_div} it must be a multiple of {unit}")
        return problems

    @classmethod
    def tiny(cls, **options: Any) -> Any:
        """A network for tests."""
        return super().tiny(**{"width": 16, **options})


class OffsetNet(nnx.Module):
    """Two offsets of a clip, from the means of its frames' channels; its linear layers fix the number of frames."""

    def __init__(self, num_features: int, num_frames: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv = TemporalConv(num_features, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.fc1 = nnx.Linear(num_frames, num_frames, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(num_frames, 2, bias_init=_half_a_frame, dtype=dtype, rngs=rngs)

    def __call__(self, pooled: Float[Array, "b t c"]) -> Float[Array, "b 2"]:
        """Returns frames, from -2 to 2, float32."""
        hidden = nnx.relu(self.fc1(self.conv(pooled)[..., 0]))
        return 2 * _REACH * (jax.nn.sigmoid(self.fc2(hidden).astype(jnp.float32)) - 0.5)


class TemporalInterlace(nnx.Module):
    """Moves the first channels along time by offsets, and scales them by weights, both computed from their means.

    Of four groups of these channels two move by the offsets, two by their negatives; two weights of each frame scale
    the first and the third, and the second and the fourth of them.
    """

    def __init__(self, num_features: int, num_frames: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.num_features = num_features
        self.offset_net = OffsetNet(num_features, num_frames, dtype=dtype, rngs=rngs)
        self.weight_net = TemporalConv(num_features, 2, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Returns all channels, the first `num_features` of them moved."""
        moving, staying = jnp.split(x, [self.num_features], axis=-1)
        pooled = moving.mean((2, 3))
        offsets = self.offset_net(pooled)
        weights = 2 * jax.nn.sigmoid(self.weight_net(pooled).astype(jnp.float32))
        moved = interlace(
            moving, jnp.concatenate([offsets, -offsets], axis=-1), jnp.concatenate([weights, weights], axis=-1)
        )
        return jnp.concatenate([moved, staying], axis=-1)


def interlace(
    x: Float[Array, "b t h w c"], offsets: Float[Array, "b g"], weights: Float[Array, "b t g"]
) -> Float[Array, "b t h w c"]:
    """Moves groups of channels along time, between frames linearly, with zeros beyond the clip's ends.

    Args:
      x: as many channels in each group, one group after the other.
      offsets: frames that a group moves by, from -2 to 2; where positive, to later ones.
      weights: factors of the moved groups.
    """
    num_frames, size = x.shape[1], x.shape[-1] // offsets.shape[-1]
    padded = jnp.pad(x, ((0, 0), (_REACH, _REACH), (0, 0), (0, 0), (0, 0)))
    offsets = jnp.repeat(offsets, size, axis=-1)[:, None, None, None]
    weights = jnp.repeat(weights, size, axis=-1)[:, :, None, None]
    whole = jnp.floor(offsets)
    part = (offsets - whole).astype(x.dtype)

    def move(frames: Array) -> Array:
        """The channels moved by whole frames."""
        moved = jnp.zeros_like(x)
        for each in range(-_REACH, _REACH + 1):
            moved = jnp.where(frames == each, padded[:, _REACH - each : _REACH - each + num_frames], moved)
        return moved

    # As a difference, whose sum is the offsets' gradient: a difference of two sums of many values would lose digits.
    near, far = move(whole), move(whole + 1)
    return weights.astype(x.dtype) * (near + part * (far - near))


class TINBlock(Bottleneck):
    """A bottleneck with an interlace before its first convolution."""

    def __init__(self, in_features: int, features: int, stride: int, options: TINOptions, *, rngs: nnx.Rngs):
        super().__init__(in_features, features, stride, options, rngs=rngs)
        dtype = jnp.dtype(options.dtype)
        self.interlace = TemporalInterlace(in_features // options.shift_div, self.num_frames, dtype=dtype, rngs=rngs)

    def convolve_mixed(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c2"]:
        """Moves some channels along time, then convolves."""
        return self.conv1(merge_frames(self.interlace(split_frames(x, self.num_frames))))


class TIN(ResNet):
    """Classifies clips of a few frames (Shao et al., "Temporal Interlacing Network", AAAI 2020)."""

    Options = TINOptions
    Block = TINBlock
