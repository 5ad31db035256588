"""TimeSformer: a vision transformer with attention over time, then over space (Bertasius et al., ICML 2021)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.layers import Heads, fold_in, normalize
from manet_jax.models.options import ClipSpec, NetworkOptions, at_least
from manet_jax.models.outputs import Outputs
from manet_jax.models.vit import MLP, Attention, LayerNorm, PatchEmbedding, drop_path, normal_init

_EPSILON = 1e-6  # of LayerNorm
HALF = (127.5, 127.5, 127.5)  # mean and std of the pixels in mmaction2's files
# Crops of 224 pixels where the shorter side has 256 to 320.
CLIP = ClipSpec(num_frames=8, sampling="dense", frame_interval=32, crop_scales=(0.875, 0.79, 0.7), mean=HALF, std=HALF)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeSformerOptions(NetworkOptions):
    """Options of `TimeSformer`; the defaults are the published model's, a ViT-B/16.

    Attributes:
      depth: blocks.
      width: features of a token.
      num_heads: of the attention.
      patch_size: pixels of a patch's sides.
      drop_path: share of the last block's residual branches that training drops; it rises linearly from 0.
      table_frames: frames that the table of times is for; a clip of another number has the nearest ones.
      table_size: pixels of the sides of frames that the table of positions is for, likewise.
    """

    depth: int = 12
    width: int = 768
    num_heads: int = 12
    patch_size: int = 16
    dropout: float = 0.0
    drop_path: float = 0.1
    table_frames: int = 8
    table_size: int = 224
    clip: ClipSpec = CLIP

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        sizes = {"depth": 1, "num_heads": 1, "patch_size": 1, "table_frames": 1, "table_size": 1}
        problems = super().problems() + at_least(self, **sizes)
        if self.num_heads > 0 and self.width % self.num_heads:
            problems.append(f"width is {self.width}; it must be a multiple of num_heads, {self.num_heads}")
        for name, size in {"clip.crop_size": self.clip.crop_size, "table_size": self.table_size}.items():
            if self.patch_size > 0 and size % self.patch_size:
                problems.append(f"patch_size is {self.patch_size}; {name}, {size}, must be a multiple of it")
        if not 0 <= self.drop_path < 1:
            problems.append(f"drop_path is {self.drop_path}; it must lie in 0..1, below 1")
        return problems

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """See `NetworkOptions.layers`."""
        blocks = ((f"blocks.{i}",) for i in range(self.depth))
        return (("patches", "class_token", "positions", "times"), *blocks, ("norm", "heads"))

    @classmethod
    def tiny(cls, **options) -> "TimeSformerOptions":
        """A network for tests."""
        clip = ClipSpec(num_frames=4, short_side=40, crop_size=32, mean=HALF, std=HALF)
        small = {"depth": 2, "width": 32, "num_heads": 2, "table_frames": 4, "table_size": 32, "dropout": 0.5}
        return dataclasses.replace(cls(num_classes=3, embedding_dim=5, drop_path=0.0, clip=clip, **small), **options)


# Tokens of a clip: the class token, then of each patch those of all frames, in order.
Tokens = Float[Array, "b s c"]


class TemporalAttention(nnx.Module):
    """Adds to each patch what it learns from the same patch of all frames; the class token stays."""

    def __init__(self, options: TimeSformerOptions, rate: float, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(options.dtype)
        self.num_frames, self.rate = options.clip.num_frames, rate
        self.norm = LayerNorm(options.width, _EPSILON, rngs=rngs)
        self.attention = Attention(options.width, options.num_heads, dtype=dtype, rngs=rngs)
        # At 0 a fresh block is that of a transformer over images.
        self.linear = nnx.Linear(
            options.width, options.width, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs
        )

    def __call__(self, tokens: Tokens, keys: Key[Array, " b"] | None) -> Tokens:
        """Returns the tokens with the result added."""
        b, _, c = tokens.shape
        patches = tokens[:, 1:].reshape(b, -1, self.num_frames, c)
        result = self.linear(drop_path(self.attention(self.norm(patches)), keys, self.rate))
        return jnp.concatenate([tokens[:, :1], tokens[:, 1:] + result.reshape(b, -1, c)], axis=1)


class SpatialAttention(nnx.Module):
    """Adds to each patch what it learns from all of its frame and the class token, which gets the mean over frames."""

    def __init__(self, options: TimeSformerOptions, rate: float, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(options.dtype)
        self.num_frames, self.rate = options.clip.num_frames, rate
        self.norm = LayerNorm(options.width, _EPSILON, rngs=rngs)
        self.attention = Attention(options.width, options.num_heads, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Tokens, keys: Key[Array, " b"] | None) -> Tokens:
        """Returns the tokens with the result added."""
        b, _, c = tokens.shape
        frames = tokens[:, 1:].reshape(b, -1, self.num_frames, c).transpose(0, 2, 1, 3)
        class_token = jnp.broadcast_to(tokens[:, None, :1], (b, self.num_frames, 1, c))
        frames = self.norm(jnp.concatenate([class_token, frames], axis=2))
        result = drop_path(self.attention(frames), keys, self.rate)
        patches = result[:, :, 1:].transpose(0, 2, 1, 3).reshape(b, -1, c)
        return tokens + jnp.concatenate([result[:, :, 0].mean(1, keepdims=True), patches], axis=1)


class Block(nnx.Module):
    """Attention over time, attention over space, and an MLP, each a residual branch."""

    def __init__(self, options: TimeSformerOptions, rate: float, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(options.dtype)
        self.rate = rate
        self.temporal = TemporalAttention(options, rate, rngs=rngs)
        self.spatial = SpatialAttention(options, rate, rngs=rngs)
        self.norm = LayerNorm(options.width, _EPSILON, rngs=rngs)
        self.mlp = MLP(options.width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Tokens, keys: Key[Array, " b"] | None) -> Tokens:
        """Returns the tokens after the block."""
        tokens = self.temporal(tokens, fold_in(keys, 0))
        tokens = self.spatial(tokens, fold_in(keys, 1))
        return tokens + drop_path(self.mlp(self.norm(tokens)), fold_in(keys, 2), self.rate)


class TimeSformer(nnx.Module):
    """Classifies clips by a class token that sees all patches of all frames, with divided attention.

    Its heads see the class token alone, so that there are no class maps. Differs from the release: they start with the
    small weights of all heads here.
    """

    Options = TimeSformerOptions

    def __init__(self, options: TimeSformerOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        dtype, width = jnp.dtype(options.dtype), options.width
        num_patches = (options.table_size // options.patch_size) ** 2
        self.patches = PatchEmbedding(options.patch_size, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(normal_init(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(normal_init(rngs.params(), (1, 1 + num_patches, width)))  # the class token's first
        self.times = nnx.Param(jnp.zeros((1, options.table_frames, width)))
        rates = np.linspace(0, options.drop_path, options.depth).tolist()
        self.blocks = nnx.List([Block(options, rate, rngs=rngs) for rate in rates])
        self.norm = LayerNorm(width, _EPSILON, rngs=rngs)
        self.heads = Heads(width, options, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for the clips `inputs["video"]`, see `models`."""
        tokens = self._embed(inputs["video"])
        apply = nnx.remat(Block.__call__) if self.options.remat else Block.__call__
        for number, block in enumerate(self.blocks):
            tokens = apply(block, tokens, fold_in(keys, number))
        return self.heads(self.norm(tokens[:, :1]), keys)

    def _embed(self, video: UInt8[Array, "b t h w 3"]) -> Tokens:
        """The tokens of clips, with their positions and times."""
        frames = normalize(video, self.options)
        b, t = frames.shape[:2]
        patches = self.patches(frames.reshape(-1, *frames.shape[2:]))
        h, w, c = patches.shape[1:]
        dtype = patches.dtype
        positions = nearest(self.positions[:, 1:].reshape(1, *(self._table_side,) * 2, c), (h, w)).reshape(1, 1, -1, c)
        times = nearest(self.times[...], (t,)).reshape(1, t, 1, c)
        patches = patches.reshape(b, t, h * w, c) + positions.astype(dtype) + times.astype(dtype)
        class_token = (self.class_token[...] + self.positions[:, :1]).astype(dtype)
        of_patches = patches.transpose(0, 2, 1, 3).reshape(b, -1, c)
        return jnp.concatenate([jnp.broadcast_to(class_token, (b, 1, c)), of_patches], axis=1)

    @property
    def _table_side(self) -> int:
        return self.options.table_size // self.options.patch_size


def nearest(table: Float[Array, "1 *n c"], sizes: tuple[int, ...]) -> Float[Array, "1 *m c"]:
    """A table with other sizes, each place the nearest one before it, as in the authors' code (PyTorch's "nearest")."""
    for axis, size in enumerate(sizes, 1):
        if size != table.shape[axis]:
            table = jnp.take(table, np.arange(size) * table.shape[axis] // size, axis=axis)
    return table
