"""C3D: eight convolutions over space and time, and two layers over all that they see."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.layers import Heads, create_conv_3d, dropout, fold_in, normalize
from manet_jax.models.ops import max_of_pairs
from manet_jax.models.options import ClipSpec, NetworkOptions, at_least
from manet_jax.models.outputs import Outputs

# Channels over `width` of the convolutions before each max pooling.
GROUPS = ((1,), (2,), (4, 4), (8, 8), (8, 8))
HIDDEN = 64  # the two layers' features over `width`

# He et al. 2015. Differs from mmaction2, whose deviation of 0.005 is for one size and scale of the features.
_linear_init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class C3DOptions(NetworkOptions):
    """Options of `C3D`; the clip's size decides that of the first layer after the convolutions.

    Attributes:
      width: channels after the first convolution.
    """

    width: int = 64
    clip: ClipSpec = dataclasses.field(
        default_factory=lambda: ClipSpec(
            num_frames=16,
            sampling="dense",
            short_side=128,
            crop_size=112,
            crop_scales=(0.875,),  # 112 of 128 pixels
            mean=(104.0, 117.0, 128.0),
            std=(1.0, 1.0, 1.0),
        )
    )

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + at_least(self, width=1)
        # Four poolings halve them.
        return problems + [f"clip.{problem}" for problem in at_least(self.clip, num_frames=16)]

    @property
    def num_flattened(self) -> int:
        """The values that the convolutions leave of a clip."""
        frames, side = self.clip.num_frames // 16, self.clip.crop_size // 16 // 2 + 1
        return frames * side * side * GROUPS[-1][-1] * self.width

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """See `NetworkOptions.layers`."""
        convs = range(sum(map(len, GROUPS)))
        return (*((f"convs.{i}",) for i in convs), ("fc6",), ("fc7",), ("heads",))

    @classmethod
    def tiny(cls, **options) -> "C3DOptions":
        """A network for tests."""
        clip = ClipSpec(num_frames=16, short_side=40, crop_size=32, mean=(104.0, 117.0, 128.0), std=(64.0, 64.0, 64.0))
        return dataclasses.replace(cls(num_classes=3, embedding_dim=5, width=4, clip=clip), **options)


class C3D(nnx.Module):
    """Classifies short clips (Tran et al., ICCV 2015), as in mmaction2.

    The features are flattened rather than averaged, so that a network is made for one size of clips and has no class
    activation maps.
    """

    Options = C3DOptions

    def __init__(self, options: C3DOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        dtype, hidden = jnp.dtype(options.dtype), HIDDEN * options.width
        sizes = [3, *(size * options.width for group in GROUPS for size in group)]
        self.convs = nnx.List(
            create_conv_3d(before, after, (3, 3, 3), use_bias=True, dtype=dtype, rngs=rngs)
            for before, after in itertools.pairwise(sizes)
        )
        self.fc6 = nnx.Linear(options.num_flattened, hidden, kernel_init=_linear_init, dtype=dtype, rngs=rngs)
        self.fc7 = nnx.Linear(hidden, hidden, kernel_init=_linear_init, dtype=dtype, rngs=rngs)
        self.heads = Heads(hidden, options, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for the clips `inputs["video"]`, see `models`."""
        x = self.features(inputs["video"])
        x = x.transpose(0, 4, 1, 2, 3).reshape(x.shape[0], 1, -1)  # in PyTorch's order
        x = dropout(nnx.relu(self.fc6(x)), fold_in(keys, 6), self.options.dropout)
        return self.heads(nnx.relu(self.fc7(x)), keys)

    def features(self, video: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t2 h2 w2 c"]:
        """Returns the last feature maps, 8 * width channels: of 16 x 112 x 112 pixels 1 x 4 x 4 locations."""
        x = normalize(video, self.options)
        apply = nnx.remat(_convolve_and_pool, static_argnums=2) if self.options.remat else _convolve_and_pool
        convs = iter(self.convs)
        for number, group in enumerate(GROUPS):
            x = jax.lax.optimization_barrier(apply([next(convs) for _ in group], x, number))
        return x


def _convolve_and_pool(convs: list[nnx.Conv], x: Float[Array, "b t h w c"], number: int) -> Array:
    """The convolutions of a group, each with a ReLU, then the max pooling."""
    for conv in convs:
        x = nnx.relu(conv(x))
    return pool(x, number)


def pool(x: Float[Array, "b t h w c"], number: int) -> Float[Array, "b t2 h2 w2 c"]:
    """The max pooling after a group: 2 x 2 pixels, from the second on 2 frames; the last pads frames by a pixel."""
    if number == len(GROUPS) - 1:
        x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    x = max_of_pairs(max_of_pairs(x, axis=3), axis=2)
    return x if number == 0 else max_of_pairs(x, axis=1)
