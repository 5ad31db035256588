"""Video Swin: a transformer whose attention stays within windows of a clip, shifted in every second block.

Liu et al., CVPR 2022; the rules are those of the authors' code. Maps are [b, t, h, w, c].
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, UInt8

from manet_jax.models.layers import Heads, fold_in, normalize
from manet_jax.models.options import ClipSpec, NetworkOptions, at_least
from manet_jax.models.outputs import Outputs
from manet_jax.models.vit import MLP, Attention, LayerNorm, PatchEmbedding, drop_path_of_maps, normal_init

_EPSILON = 1e-5  # of LayerNorm
_PATCH_SIZE = 4  # pixels of a patch's sides
_MASKED = -100.0  # added to the scores of locations that a shift has brought together
CLIP = ClipSpec(num_frames=32, sampling="dense", frame_interval=2)

Sizes = tuple[int, ...]  # three: over time, height and width


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinOptions(NetworkOptions):
    """Options of `Swin`; the defaults are the published tiny one's.

    Attributes:
      depth: blocks of the third stage; the other three have two each.
      width: features of a token in the first stage; each further stage doubles them.
      num_heads: of the first stage's attention, likewise.
      window_frames: length of a window in time, in tokens.
      window_size: sides of a window, in tokens.
      patch_frames: frames of a patch; 1, with windows of one frame, makes a Swin over images.
      drop_path: share of the last block's residual branches that training drops; it rises linearly from 0.
    """

    depth: int = 6
    width: int = 96
    num_heads: int = 3
    window_frames: int = 8
    window_size: int = 7
    patch_frames: int = 2
    drop_path: float = 0.1
    clip: ClipSpec = CLIP

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        sizes = ("depth", "num_heads", "window_frames", "window_size", "patch_frames")
        problems = super().problems() + at_least(self, **dict.fromkeys(sizes, 1))
        if self.num_heads > 0 and (self.width < 1 or self.width % self.num_heads):
            problems.append(f"width is {self.width}; it must be a multiple of num_heads, {self.num_heads}")
        if not 0 <= self.drop_path < 1:
            problems.append(f"drop_path is {self.drop_path}; it must lie in 0..1, below 1")
        return problems

    @property
    def depths(self) -> tuple[int, ...]:
        """The blocks of each stage."""
        return (2, 2, self.depth, 2)

    @property
    def window(self) -> Sizes:
        """The sizes of a window."""
        return (self.window_frames, self.window_size, self.window_size)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """See `NetworkOptions.layers`."""
        firsts = np.cumsum(self.depths)[:-1].tolist()
        mergings = {first: (f"mergings.stage{stage}",) for stage, first in enumerate(firsts, 2)}
        blocks = ((*mergings.get(i, ()), f"blocks.{i}") for i in range(sum(self.depths)))
        return (("patches",), *blocks, ("norm", "heads"))

    @classmethod
    def tiny(cls, **options) -> "SwinOptions":
        """A network for tests, whose maps are padded, shifted, and smaller than a window."""
        clip = ClipSpec(num_frames=8, short_side=40, crop_size=32)
        small = {"depth": 1, "width": 16, "num_heads": 2, "window_frames": 2, "window_size": 3, "drop_path": 0.0}
        return dataclasses.replace(cls(num_classes=3, embedding_dim=5, clip=clip, **small), **options)


class Patches(PatchEmbedding):
    """A linear layer over the pixels of patches of a clip, padded with zeros to whole ones, and a LayerNorm."""

    def __init__(self, patch: Sizes, num_features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(patch, num_features, dtype=dtype, rngs=rngs)
        self.patch = patch
        self.norm = LayerNorm(num_features, _EPSILON, rngs=rngs)

    def __call__(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t2 h2 w2 c"]:
        """Returns a token for each patch."""
        return self.norm(super().__call__(pad(video, self.patch)))


class Merging(nnx.Module):
    """Halves the sides of a map: the features of 2 x 2 tokens become twice those of one; odd sides get zeros."""

    def __init__(self, num_features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * num_features, _EPSILON, rngs=rngs)
        self.reduction = nnx.Linear(
            4 * num_features, 2 * num_features, use_bias=False, kernel_init=normal_init, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 c2"]:
        """Returns the merged tokens."""
        x = pad(x, (1, 2, 2))
        b, t, h, w, c = x.shape
        # A row's two tokens stand next to each other in the order of the second axis: (0, 0), (1, 0), (0, 1), (1, 1).
        x = x.reshape(b, t, h // 2, 2, w // 2, 2, c).transpose(0, 1, 2, 4, 5, 3, 6)
        return self.reduction(self.norm(x.reshape(b, t, h // 2, w // 2, 4 * c)))


class Block(nnx.Module):
    """Attention within windows, which may be shifted, and an MLP, each a residual branch."""

    def __init__(
        self,
        num_features: int,
        num_heads: int,
        window: Sizes,
        *,
        shifted: bool,
        drop_rate: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.window, self.shifted, self.drop_rate = window, shifted, drop_rate
        self.norm1 = LayerNorm(num_features, _EPSILON, rngs=rngs)
        self.attention = Attention(num_features, num_heads, dtype=dtype, rngs=rngs)
        differences = tuple(2 * size - 1 for size in window)
        self.position_bias = nnx.Param(normal_init(rngs.params(), (*differences, num_heads)))
        self.norm2 = LayerNorm(num_features, _EPSILON, rngs=rngs)
        self.mlp = MLP(num_features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"], keys: Key[Array, " b"] | None) -> Float[Array, "b t h w c"]:
        """Returns the map after the block."""
        x = x + drop_path_of_maps(self.attend(self.norm1(x)), fold_in(keys, 0), self.drop_rate)
        return x + drop_path_of_maps(self.mlp(self.norm2(x)), fold_in(keys, 1), self.drop_rate)

    def attend(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Returns the attention's result for each token of normalised maps.

        Maps are padded with zeros to whole windows. The padding is attended to, as in the authors' code.
        """
        window, shift = fit_window(x.shape[1:4], self.window, shifted=self.shifted)
        padded = pad(x, window)
        maps = padded.shape[1:4]
        count = int(np.prod(window))
        # In smaller windows pairs get the biases of the first ones of a full window: those of other differences if it
        # is smaller in space. Published weights were trained with that.
        bias = expand_differences(self.position_bias[...])[None, None, :, :count, :count]
        if any(shift):
            padded = jnp.roll(padded, [-size for size in shift], (1, 2, 3))
            bias = bias + mask_regions(find_regions(maps, window, shift))[None, :, None]
        windows = split(padded, window)
        result = self.attention(windows.reshape(x.shape[0], -1, count, x.shape[-1]), bias)
        result = join(result.reshape(windows.shape), window)
        if any(shift):
            result = jnp.roll(result, shift, (1, 2, 3))
        t, h, w = x.shape[1:4]
        return result[:, :t, :h, :w]


class Swin(nnx.Module):
    """Classifies clips by the mean over all tokens, which see further with each shift and each merging.

    32 frames of 224 x 224 pixels are 16 x 56 x 56 tokens, and 16 x 7 x 7 in the last of four stages.

    Differs from the release: the heads start with the small weights of all heads here.
    """

    Options = SwinOptions

    def __init__(self, options: SwinOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        dtype, widths = jnp.dtype(options.dtype), [options.width * 2**stage for stage in range(4)]
        patch = (options.patch_frames, _PATCH_SIZE, _PATCH_SIZE)
        self.patches = Patches(patch, options.width, dtype=dtype, rngs=rngs)
        rates = iter(np.linspace(0, options.drop_path, sum(options.depths)).tolist())
        self.blocks = nnx.List(
            Block(
                widths[stage],
                options.num_heads * 2**stage,
                options.window,
                shifted=number % 2 == 1,
                drop_rate=next(rates),
                dtype=dtype,
                rngs=rngs,
            )
            for stage, depth in enumerate(options.depths)
            for number in range(depth)
        )
        self.mergings = nnx.Dict(
            {f"stage{stage}": Merging(width, dtype=dtype, rngs=rngs) for stage, width in enumerate(widths[:-1], 2)}
        )
        self.norm = LayerNorm(widths[-1], _EPSILON, rngs=rngs)
        self.heads = Heads(widths[-1], options, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for the clips `inputs["video"]`, see `models`."""
        return self.heads(self._run(inputs["video"], keys).mean((1, 2, 3))[:, None], keys)

    def class_maps(self, inputs: dict[str, Array]) -> Float[Array, "b t h w n"]:
        """Returns the class activation maps, see `layers.ClassificationHead.maps`."""
        return self.heads.classifier.maps(self.features(inputs["video"]))

    def features(self, video: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t2 h2 w2 c"]:
        """Returns the last feature maps: half of the frames, 1/32 of their sides, 8 * width channels."""
        return self._run(video, None)

    def _run(self, video: UInt8[Array, "b t h w 3"], keys: Key[Array, " b"] | None) -> Float[Array, "b t2 h2 w2 c"]:
        x = self.patches(normalize(video, self.options))
        apply = nnx.remat(Block.__call__) if self.options.remat else Block.__call__
        blocks = iter(enumerate(self.blocks))
        for stage, depth in enumerate(self.options.depths, 1):
            if stage > 1:
                x = self.mergings[f"stage{stage}"](x)
            for _ in range(depth):
                number, block = next(blocks)
                x = apply(block, x, fold_in(keys, number))
        return self.norm(x)


def fit_window(maps: Sizes, window: Sizes, *, shifted: bool) -> tuple[Sizes, Sizes]:
    """The window and its shift for maps of a size: along an axis that is no longer than it, all of it, unshifted."""
    fits = [size > length for size, length in zip(maps, window, strict=True)]
    sizes = tuple(length if fit else size for fit, size, length in zip(fits, maps, window, strict=True))
    shift = tuple(length // 2 if fit and shifted else 0 for fit, length in zip(fits, window, strict=True))
    return sizes, shift


def pad(x: Float[Array, "b t h w c"], sizes: Sizes) -> Float[Array, "b t2 h2 w2 c"]:
    """Maps with zeros at the end of each axis, up to a multiple of a size."""
    missing = [-length % size for length, size in zip(x.shape[1:4], sizes, strict=True)]
    return jnp.pad(x, ((0, 0), *((0, count) for count in missing), (0, 0))) if any(missing) else x


def split(x: Any, window: Sizes) -> Any:
    """Cuts maps [b, t, h, w, c] into windows: [b, t2, h2, w2, n, c], n places each, the last axis of a window first."""
    (b, *maps, c), (t, h, w) = x.shape, window
    t2, h2, w2 = (length // size for length, size in zip(maps, window, strict=True))
    x = x.reshape(b, t2, t, h2, h, w2, w, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, t2, h2, w2, t * h * w, c)


def join(windows: Float[Array, "b t2 h2 w2 n c"], window: Sizes) -> Float[Array, "b t h w c"]:
    """The inverse of `split`."""
    (b, t2, h2, w2, _, c), (t, h, w) = windows.shape, window
    x = windows.reshape(b, t2, h2, w2, t, h, w, c).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t2 * t, h2 * h, w2 * w, c)


def find_regions(maps: Sizes, window: Sizes, shift: Sizes) -> Int[np.ndarray, "windows n"]:
    """The region of each place of each window of shifted maps; places of different regions are no neighbours.

    Along an axis these are the windows but the last, and of the last the part before and after the shift's seam.
    """
    regions = np.zeros(maps, np.int32)
    for axis, (length, size, moved) in enumerate(zip(maps, window, shift, strict=True)):
        if moved:
            places = np.arange(length)
            parts = (places >= length - size).astype(np.int32) + (places >= length - moved)
            regions += np.expand_dims(parts * 3**axis, [other for other in range(3) if other != axis])
    return split(regions[None, ..., None], window).reshape(-1, int(np.prod(window)))


def mask_regions(regions: Int[np.ndarray, "windows n"]) -> Float[Array, "windows n n"]:
    """What is added to the scores of pairs: a large negative number where their regions differ."""
    # The barrier keeps XLA from computing the mask while it compiles: it is 79 MB for 128 windows of 392 places.
    of_places = jax.lax.optimization_barrier(jnp.asarray(regions))
    return jnp.where(of_places[:, :, None] == of_places[:, None, :], 0.0, _MASKED).astype(jnp.float32)


def expand_differences(table: Float[Array, "t2 h2 w2 heads"]) -> Float[Array, "heads n n"]:
    """The values for pairs of places i, j of a window, from a table of those for i - j, counted from the least.

    By copies and slices: the gradient of a look-up would be a sum in no fixed order, slow on accelerators.
    """
    sizes = [length // 2 + 1 for length in table.shape[:3]]
    pairs = table
    for size in sizes:
        # n copies of 2 n values, read in rows of 2 n - 1, move one place to the right from row to row.
        rest = pairs.shape[1:]
        values = jnp.pad(pairs[::-1], ((0, 1), *((0, 0) for _ in rest)))
        copies = jnp.broadcast_to(values, (size, *values.shape)).reshape(-1, *rest)
        rows = copies[: size * (2 * size - 1)].reshape(size, 2 * size - 1, *rest)
        pairs = jnp.moveaxis(rows[:, size - 1 :], (0, 1), (-2, -1))
    count = int(np.prod(sizes))
    return pairs.transpose(0, 1, 3, 5, 2, 4, 6).reshape(-1, count, count)


def inflate(images: Mapping[str, Array], clips: Mapping[str, Array]) -> dict[str, Array]:
    """Weights of a Swin over images, or with windows of other sides, as those of a Swin over clips.

    By the authors' rule: kernels of patches are repeated along time and divided by its length, so that equal frames
    get the tokens of one; tables of positions are repeated, and resized where windows have other sides.

    Args:
      images: variables by path, see `variables.flatten`.
      clips: those of the network over clips.

    Returns:
      All of `images`; as they are but for these two.
    """
    return {
        path: _inflate(path, value, clips[path].shape) if path in clips else value for path, value in images.items()
    }


def _inflate(path: str, value: Array, shape: tuple[int, ...]) -> Array:
    if path.endswith("patches.projection.kernel") and value.ndim == 5 and value.shape[0] == 1:
        return jnp.broadcast_to(value / shape[0], (shape[0], *value.shape[1:]))
    if path.endswith(".position_bias") and value.shape[0] in (1, shape[0]) and value.shape[3] == shape[3]:
        for axis in (1, 2):
            if value.shape[axis] != shape[axis]:
                matrix = jnp.asarray(bicubic(value.shape[axis], shape[axis]), value.dtype)
                value = jnp.moveaxis(jnp.tensordot(matrix, value, (1, axis)), 0, axis)
        return jnp.broadcast_to(value, (shape[0], *value.shape[1:]))
    return value


def bicubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """The matrix that resizes a line of values as PyTorch's bicubic interpolation does (aligned centres, a = -0.75)."""
    a = -0.75
    matrix = np.zeros((new, old))
    for row, center in zip(matrix, (np.arange(new) + 0.5) * old / new - 0.5, strict=True):
        for place in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            x = abs(center - place)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            row[min(max(place, 0), old - 1)] += near if x <= 1 else far
    return matrix
