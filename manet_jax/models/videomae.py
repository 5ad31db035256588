"""VideoMAE: a vision transformer with attention over all of a clip (Tong et al., NeurIPS 2022)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.layers import Heads, fold_in, normalize
from manet_jax.models.options import ClipSpec, NetworkOptions, at_least
from manet_jax.models.outputs import Outputs
from manet_jax.models.vit import MLP, Attention, LayerNorm, PatchEmbedding, drop_path

_EPSILON = 1e-6  # of LayerNorm
_patch_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default, as the authors'
CLIP = ClipSpec(num_frames=16, sampling="dense", frame_interval=4, short_side=224)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoMAEOptions(NetworkOptions):
    """Options of `VideoMAE`; the defaults are the published small model's, a ViT-S/16.

    Attributes:
      depth: blocks.
      width: features of a token.
      num_heads: of the attention.
      patch_size: pixels of a patch's sides.
      tubelet_size: frames that a patch spans.
      drop_path: share of the last block's residual branches that training drops; it rises linearly from 0.
    """

    depth: int = 12
    width: int = 384
    num_heads: int = 6
    patch_size: int = 16
    tubelet_size: int = 2
    dropout: float = 0.0
    drop_path: float = 0.1
    clip: ClipSpec = CLIP

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + at_least(self, depth=1, num_heads=1, patch_size=1, tubelet_size=1)
        if self.num_heads > 0 and self.width % self.num_heads:
            problems.append(f"width is {self.width}; it must be a multiple of num_heads, {self.num_heads}")
        lengths = {
            "clip.crop_size": (self.clip.crop_size, "patch_size", self.patch_size),
            "clip.num_frames": (self.clip.num_frames, "tubelet_size", self.tubelet_size),
        }
        for name, (length, part, size) in lengths.items():
            if size > 0 and length % size:
                problems.append(f"{part} is {size}; {name}, {length}, must be a multiple of it")
        if not 0 <= self.drop_path < 1:
            problems.append(f"drop_path is {self.drop_path}; it must lie in 0..1, below 1")
        return problems

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """See `NetworkOptions.layers`."""
        return (("patches",), *((f"blocks.{i}",) for i in range(self.depth)), ("norm", "heads"))

    @classmethod
    def tiny(cls, **options) -> "VideoMAEOptions":
        """A network for tests."""
        clip = ClipSpec(num_frames=4, short_side=40, crop_size=32)
        small = {"depth": 2, "width": 32, "num_heads": 2, "patch_size": 8, "dropout": 0.5, "drop_path": 0.0}
        return dataclasses.replace(cls(num_classes=3, embedding_dim=5, clip=clip, **small), **options)


def positions(num_tokens: int, width: int) -> Float[np.ndarray, "s c"]:
    """The fixed table of positions: sines in even channels, cosines in odd ones, of a token's number in the clip.

    It is computed for each number of tokens, as the authors do, and in double precision: angles in float32 would move
    it by up to 1e-4.
    """
    channels = np.arange(width)
    angles = np.arange(num_tokens)[:, None] / 10000.0 ** (2 * (channels // 2) / width)
    return np.where(channels % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


class Block(nnx.Module):
    """Attention over all tokens of a clip, and an MLP, each a residual branch."""

    def __init__(self, options: VideoMAEOptions, rate: float, *, rngs: nnx.Rngs):
        dtype, width = jnp.dtype(options.dtype), options.width
        self.rate = rate
        self.norm1 = LayerNorm(width, _EPSILON, rngs=rngs)
        self.attention = Attention(width, options.num_heads, key_bias=False, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, _EPSILON, rngs=rngs)
        self.mlp = MLP(width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b s c"], keys: Key[Array, " b"] | None) -> Float[Array, "b s c"]:
        """Returns the tokens after the block."""
        tokens += drop_path(self.attention(self.norm1(tokens)), fold_in(keys, 0), self.rate)
        return tokens + drop_path(self.mlp(self.norm2(tokens)), fold_in(keys, 1), self.rate)


class VideoMAE(nnx.Module):
    """Classifies clips by the mean of all tokens, each of which is a patch of two frames; as it is fine-tuned.

    The mean is normalised before the heads see it, so that there are no class maps. Differs from the release: the heads
    start with the small weights of all heads here, and the patches' bias with zeros.
    """

    Options = VideoMAEOptions

    def __init__(self, options: VideoMAEOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        size = (options.tubelet_size, options.patch_size, options.patch_size)
        dtype = jnp.dtype(options.dtype)
        self.patches = PatchEmbedding(size, options.width, kernel_init=_patch_init, dtype=dtype, rngs=rngs)
        rates = np.linspace(0, options.drop_path, options.depth).tolist()
        self.blocks = nnx.List([Block(options, rate, rngs=rngs) for rate in rates])
        self.norm = LayerNorm(options.width, _EPSILON, rngs=rngs)
        self.heads = Heads(options.width, options, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for the clips `inputs["video"]`, see `models`."""
        mean = self.features(inputs["video"], keys).astype(jnp.float32).mean((1, 2, 3))
        return self.heads(self.norm(mean)[:, None], keys)

    def features(
        self, video: UInt8[Array, "b t h w 3"], keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b t2 h2 w2 c"]:
        """Returns the tokens after the last block, at their places; `keys` are for drop path."""
        patches = self.patches(normalize(video, self.options))
        tokens = patches.reshape(patches.shape[0], -1, patches.shape[-1])
        tokens += jnp.asarray(positions(*tokens.shape[1:]), tokens.dtype)[None]
        apply = nnx.remat(Block.__call__) if self.options.remat else Block.__call__
        for number, block in enumerate(self.blocks):
            tokens = apply(block, tokens, fold_in(keys, number))
        return tokens.reshape(patches.shape)
