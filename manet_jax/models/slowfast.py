"""SlowFast: a ResNet-50 over few frames, and a narrow one over many that feeds it."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.layers import Heads, create_conv_3d, normalize
from manet_jax.models.options import ClipSpec, NetworkOptions, at_least, one_of
from manet_jax.models.outputs import Outputs
from manet_jax.models.resnet import EXPANSION, STAGES
from manet_jax.models.resnet3d import ConvBN3D, create_blocks, run_blocks, run_stem

NARROWER = 8  # the slow path's channels over the fast path's
LATERAL_CHANNELS = 2  # a lateral connection's channels over those of the fast path that it takes


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowFastOptions(NetworkOptions):
    """Options of `SlowFast`; the defaults are those of 4x16, and 8x8 is tau=4, alpha=4, lateral_kernel=7.

    Attributes:
      depth: 50 layers, or 8 or 14 for tests.
      width: channels after the slow path's first convolution.
      tau: the slow path takes every so manieth frame.
      alpha: the fast path takes so many times as many frames.
      lateral_kernel: frames that a lateral connection sees.
    """

    depth: int = 50
    width: int = 64
    tau: int = 8
    alpha: int = 8
    lateral_kernel: int = 5
    clip: ClipSpec = dataclasses.field(
        default_factory=lambda: ClipSpec(num_frames=32, sampling="dense", frame_interval=2)
    )

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + one_of(self, depth=(8, 14, 50))
        problems += at_least(self, width=NARROWER, tau=1, alpha=1, lateral_kernel=1)
        if self.width % NARROWER:
            problems.append(f"width is {self.width}; it must be a multiple of {NARROWER}")
        if self.lateral_kernel % 2 == 0:
            problems.append(f"lateral_kernel is {self.lateral_kernel}; it must be odd")
        if min(self.tau, self.alpha) >= 1 and self.tau % self.alpha:
            problems.append(f"alpha is {self.alpha}; it must divide tau, which is {self.tau}")
        if self.tau >= 1 and self.clip.num_frames % self.tau:
            problems.append(f"clip.num_frames is {self.clip.num_frames}; it must be a multiple of tau, {self.tau}")
        return problems

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """See `NetworkOptions.layers`."""
        stages = STAGES[self.depth]
        blocks = [[f"slow.blocks.{i}", f"fast.blocks.{i}"] for i in range(sum(stages))]
        for stage in range(len(stages)):
            blocks[sum(stages[:stage])].append(f"laterals.{_name(stage)}")
        return (("slow.stem", "fast.stem"), *(tuple(each) for each in blocks), ("heads",))

    @classmethod
    def tiny(cls, **options) -> "SlowFastOptions":
        """A network for tests."""
        clip = ClipSpec(num_frames=8, short_side=40, crop_size=32)
        tiny = cls(num_classes=3, embedding_dim=5, depth=8, width=16, tau=4, alpha=2, clip=clip)
        return dataclasses.replace(tiny, **options)


class Pathway(nnx.Module):
    """One of the two ResNets, stage by stage."""

    def __init__(
        self, width: int, stem_frames: int, first_inflated: int, lateral_share: int, options: SlowFastOptions, *, rngs
    ):
        """Makes a path with fresh weights.

        Args:
          width: channels after the first convolution.
          stem_frames: frames that this convolution sees.
          first_inflated: the first stage whose bottlenecks are inflated.
          lateral_share: see `create_blocks`.
          options: of the network.
          rngs: draws the weights.
        """
        self.stages, self.remat = STAGES[options.depth], options.remat
        dtype = jnp.dtype(options.dtype)
        self.stem = ConvBN3D(3, width, (stem_frames, 7, 7), (1, 2, 2), dtype=dtype, rngs=rngs)
        blocks = create_blocks(
            width,
            self.stages,
            lambda stage, _: stage >= first_inflated,
            lateral_share=lateral_share,
            dtype=dtype,
            rngs=rngs,
        )
        self.blocks = nnx.List(blocks)

    def begin(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b t h2 w2 c"]:
        """The first convolution and the pooling."""
        return run_stem(self.stem, x, remat=self.remat)

    def run_stage(self, stage: int, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 c2"]:
        """The bottlenecks of a stage."""
        start = sum(self.stages[:stage])
        return run_blocks(list(self.blocks)[start : start + self.stages[stage]], x, remat=self.remat)


class SlowFast(nnx.Module):
    """Two paths at different rates of frames (Feichtenhofer et al., ICCV 2019), as in mmaction2.

    Before each stage the slow path gets the fast path's channels beside its own, through a convolution along time
    without bias, BatchNorm and activation; PySlowFast's networks have both after it, and are others.
    """

    Options = SlowFastOptions

    def __init__(self, options: SlowFastOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        stages, width = STAGES[options.depth], options.width
        narrow = width // NARROWER
        self.slow = Pathway(width, 1, 2, NARROWER // LATERAL_CHANNELS, options, rngs=rngs)
        self.fast = Pathway(narrow, 5, 0, 0, options, rngs=rngs)
        # The fast path's channels where a stage begins.
        sizes = [narrow, *(narrow * EXPANSION * 2**stage for stage in range(len(stages) - 1))]
        self.laterals = nnx.Dict({_name(stage): self._create_lateral(size, rngs) for stage, size in enumerate(sizes)})
        last = 2 ** (len(stages) - 1) * EXPANSION
        self.heads = Heads((narrow + width) * last, options, rngs=rngs)

    def _create_lateral(self, size: int, rngs: nnx.Rngs) -> nnx.Conv:
        kernel, strides = (self.options.lateral_kernel, 1, 1), (self.options.alpha, 1, 1)
        dtype = jnp.dtype(self.options.dtype)
        return create_conv_3d(size, LATERAL_CHANNELS * size, kernel, strides, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for the clips `inputs["video"]`, see `models`."""
        return self.heads(self.features(inputs["video"]).mean((1, 2, 3))[:, None], keys)

    def class_maps(self, inputs: dict[str, Array]) -> Float[Array, "b t h w n"]:
        """Returns the class activation maps at the slow path's frames, see `layers.ClassificationHead.maps`."""
        return self.heads.classifier.maps(self.features(inputs["video"]))

    def features(self, video: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t2 h2 w2 c"]:
        """Returns the last feature maps of both paths, the fast one's first, which are averaged to the slow one's time.

        1 / tau of the frames, 1/32 of their sides, 4 + 32 channels for each of `width` / 8 and of `width`.
        """
        options = self.options
        x = normalize(video, options)
        slow, fast = self.slow.begin(x[:, :: options.tau]), self.fast.begin(x[:, :: options.tau // options.alpha])
        for stage in range(len(self.slow.stages)):
            lateral = self.laterals[_name(stage)](fast)
            slow = self.slow.run_stage(stage, jnp.concatenate([slow, lateral], axis=-1))
            fast = self.fast.run_stage(stage, fast)
        fast = fast.reshape(*slow.shape[:2], options.alpha, *fast.shape[2:]).mean(2)
        return jnp.concatenate([fast, slow], axis=-1)


def _name(stage: int) -> str:
    """The name of the lateral connection before a stage."""
    return f"stage{stage + 1}"
