"""I3D: a ResNet-50 whose kernels are inflated along time."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.layers import Heads, normalize
from manet_jax.models.ops import max_of_pairs
from manet_jax.models.options import ClipSpec, NetworkOptions, at_least, one_of
from manet_jax.models.outputs import Outputs
from manet_jax.models.resnet import EXPANSION, STAGES, order_layers
from manet_jax.models.resnet3d import ConvBN3D, create_blocks, run_blocks, run_stem


@dataclasses.dataclass(frozen=True, kw_only=True)
class I3DOptions(NetworkOptions):
    """Options of `I3D`.

    Attributes:
      depth: 50 layers, or 8 or 14 for tests.
      width: channels after the first convolution.
    """

    depth: int = 50
    width: int = 64
    clip: ClipSpec = dataclasses.field(
        default_factory=lambda: ClipSpec(num_frames=32, sampling="dense", frame_interval=2)
    )

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + one_of(self, depth=(8, 14, 50)) + at_least(self, width=1)
        # Of fewer, none is left after the first convolution and two poolings, each by half.
        return problems + [f"clip.{problem}" for problem in at_least(self.clip, num_frames=5)]

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """See `NetworkOptions.layers`."""
        return order_layers(self.depth)

    @classmethod
    def tiny(cls, **options) -> "I3DOptions":
        """A network for tests."""
        clip = ClipSpec(num_frames=16, short_side=40, crop_size=32)
        return dataclasses.replace(cls(num_classes=3, embedding_dim=5, depth=8, width=8, clip=clip), **options)


def _inflated(stage: int, number: int) -> bool:
    """All bottlenecks of the first stage, the even ones of the next two, the odd ones of the last."""
    return stage == 0 or number % 2 == (1 if stage == 3 else 0)


class I3D(nnx.Module):
    """An inflated ResNet (Carreira and Zisserman, CVPR 2017; with a ResNet: Wang et al., CVPR 2018), as in mmaction2.

    32 frames become 16 in the first convolution, 8 in the first pooling, and 4 after the first stage.
    """

    Options = I3DOptions

    def __init__(self, options: I3DOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        dtype, stages = jnp.dtype(options.dtype), STAGES[options.depth]
        self.stem = ConvBN3D(3, options.width, (5, 7, 7), (2, 2, 2), dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(create_blocks(options.width, stages, _inflated, dtype=dtype, rngs=rngs))
        self.heads = Heads(options.width * 2 ** (len(stages) - 1) * EXPANSION, options, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for the clips `inputs["video"]`, see `models`."""
        return self.heads(self.features(inputs["video"]).mean((1, 2, 3))[:, None], keys)

    def class_maps(self, inputs: dict[str, Array]) -> Float[Array, "b t h w n"]:
        """Returns the class activation maps, see `layers.ClassificationHead.maps`."""
        return self.heads.classifier.maps(self.features(inputs["video"]))

    def features(self, video: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t2 h2 w2 c"]:
        """Returns the last feature maps: an eighth of the frames, 1/32 of their sides, 32 * width channels."""
        options = self.options
        x = run_stem(self.stem, normalize(video, options), frame_step=2, remat=options.remat)
        blocks, first = list(self.blocks), STAGES[options.depth][0]
        x = max_of_pairs(run_blocks(blocks[:first], x, remat=options.remat), axis=1)
        return run_blocks(blocks[first:], x, remat=options.remat)
