"""UniFormer: local, learned affinity in a clip's early stages, attention among all its places in the late ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models.layers import BatchNorm, Heads, fold_in, normalize
from manet_jax.models.ops import by_platform
from manet_jax.models.options import ClipSpec, NetworkOptions, Numbers, at_least
from manet_jax.models.outputs import Outputs
from manet_jax.models.vit import MLP, Attention, LayerNorm, drop_path, drop_path_of_maps

# Of LayerNorm: PyTorch's default after a patch embedding, and the authors' choice in blocks, where mmaction2's copy of
# their code has the default too.
EMBEDDING_EPSILON, BLOCK_EPSILON = 1e-5, 1e-6
_STAGES = 4
_STRIDE = 32  # pixels of a frame's sides for one of the last stage
_conv_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default, as the authors start
CLIP = ClipSpec(
    num_frames=16,
    sampling="dense",
    frame_interval=4,
    mean=(114.75, 114.75, 114.75),  # .45 and .225 of 255
    std=(57.375, 57.375, 57.375),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniFormerOptions(NetworkOptions):
    """Options of `UniFormer`; the defaults are those of the published UniFormer-S.

    Attributes:
      depths: blocks of each of the four stages.
      widths: channels of each.
      head_size: channels of a head of the attention, in the last two stages.
      drop_path: share of the last block's residual branches that training drops; it rises linearly from 0.
    """

    depths: Numbers = (3, 4, 8, 3)
    widths: Numbers = (64, 128, 320, 512)
    head_size: int = 64
    dropout: float = 0.0
    drop_path: float = 0.1
    clip: ClipSpec = CLIP

    def problems(self) -> list[str]:
        """See `NetworkOptions.problems`."""
        problems = super().problems() + at_least(self, head_size=1)
        for name in ("depths", "widths"):
            values = getattr(self, name)
            if len(values) != _STAGES or not all(isinstance(value, int) and value > 0 for value in values):
                problems.append(f"{name} is {values}; give a number of at least 1 for each of the {_STAGES} stages")
            elif name == "widths" and self.head_size > 0 and any(width % self.head_size for width in values[2:]):
                problems.append(f"widths is {values}; the last two must be multiples of head_size, {self.head_size}")
        if self.clip.crop_size % _STRIDE:
            problems.append(f"clip.crop_size is {self.clip.crop_size}; it must be a multiple of {_STRIDE}")
        if not 0 <= self.drop_path < 1:
            problems.append(f"drop_path is {self.drop_path}; it must lie in 0..1, below 1")
        return problems

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """See `NetworkOptions.layers`."""
        layers = [("stage1.embedding",)]
        for stage, depth in enumerate(self.depths, 1):
            layers += [(f"stage{stage}.blocks.{i}",) for i in range(depth)]
            if stage > 1:
                layers[-depth] += (f"stage{stage}.embedding",)
        return (*layers, ("norm", "heads"))

    @classmethod
    def tiny(cls, **options) -> "UniFormerOptions":
        """A network for tests."""
        clip = dataclasses.replace(CLIP, num_frames=4, frame_interval=1, short_side=80, crop_size=64)
        small = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "head_size": 8, "dropout": 0.5, "drop_path": 0.0}
        return dataclasses.replace(cls(num_classes=3, embedding_dim=5, clip=clip, **small), **options)


Maps = Float[Array, "b t h w c"]


def _of_patches(x: Array, kernel: Array, *_, **__) -> Array:
    # As wide as its stride in space, the convolution is a matrix product. Over three frames it is at every second one.
    # At the module's level: models whose layers hold the same function count as the same to nnx.
    frames, size, _, channels, out = kernel.shape
    padded = jnp.pad(x, ((0, 0), (frames // 2, frames // 2), (0, 0), (0, 0), (0, 0)))
    step, reach = (frames + 1) // 2, x.shape[1]
    x = jnp.stack([padded[:, i : i + reach : step] for i in range(frames)], axis=2)
    b, t, _, height, width, _ = x.shape
    patches = x.reshape(b, t, frames, height // size, size, width // size, size, channels)
    patches = patches.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, t, height // size, width // size, -1)
    return patches @ kernel.reshape(-1, out)


class PatchEmbedding(nnx.Module):
    """A linear layer over patches, square in space, and LayerNorm."""

    def __init__(
        self, in_features: int, features: int, patch_size: int, num_frames: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        """Makes the layer; a patch has `num_frames`, 1, or 3 around every second frame."""
        self.projection = nnx.Conv(
            in_features,
            features,
            (num_frames, patch_size, patch_size),
            kernel_init=_conv_init,
            conv_general_dilated=_of_patches,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = LayerNorm(features, EMBEDDING_EPSILON, rngs=rngs)

    def __call__(self, x: Maps) -> Float[Array, "b t2 h2 w2 d"]:
        """Returns a token for each patch."""
        return self.norm(self.projection(x))


def _depthwise(x: Array, kernel: Array, *_, **__) -> Array:
    return convolve_depthwise(x, kernel)


def create_depthwise(features: int, size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution of each channel by itself over `size` frames, rows and columns, see `convolve_depthwise`."""
    return nnx.Conv(
        features,
        features,
        (size, size, size),
        feature_group_count=features,
        kernel_init=_conv_init,
        conv_general_dilated=_depthwise,
        dtype=dtype,
        rngs=rngs,
    )


class LocalBlock(nnx.Module):
    """Mixes each channel of neighbouring places by learned weights, then the channels of each place (section 3.2).

    The position encoding that comes first is a convolution too (section 3.4).
    """

    def __init__(self, features: int, rate: float, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.rate = rate

        def linear(before: int, after: int) -> nnx.Linear:
            return nnx.Linear(before, after, kernel_init=_conv_init, dtype=dtype, rngs=rngs)

        self.position = create_depthwise(features, 3, dtype=dtype, rngs=rngs)
        self.norm1 = BatchNorm(features)
        self.value = linear(features, features)
        self.affinity = create_depthwise(features, 5, dtype=dtype, rngs=rngs)
        self.out = linear(features, features)
        self.norm2 = BatchNorm(features)
        self.fc1 = linear(features, 4 * features)
        self.fc2 = linear(4 * features, features)

    def __call__(self, x: Maps, keys: Key[Array, " b"] | None) -> Maps:
        """Returns the maps after the block."""
        x = x + self.position(x)
        mixed = self.out(self.affinity(self.value(normalize_maps(self.norm1, x))))
        x = x + drop_path_of_maps(mixed, fold_in(keys, 0), self.rate)
        hidden = jax.nn.gelu(self.fc1(normalize_maps(self.norm2, x)), approximate=False)
        return x + drop_path_of_maps(self.fc2(hidden), fold_in(keys, 1), self.rate)


class GlobalBlock(nnx.Module):
    """Attention among all places of all frames, and an MLP, each a residual branch, after the position encoding."""

    def __init__(self, features: int, num_heads: int, rate: float, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.rate = rate
        self.position = create_depthwise(features, 3, dtype=dtype, rngs=rngs)
        self.norm1 = LayerNorm(features, BLOCK_EPSILON, rngs=rngs)
        self.attention = Attention(features, num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(features, BLOCK_EPSILON, rngs=rngs)
        self.mlp = MLP(features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Maps, keys: Key[Array, " b"] | None) -> Maps:
        """Returns the maps after the block."""
        tokens = (x + self.position(x)).reshape(x.shape[0], -1, x.shape[-1])
        tokens = tokens + drop_path(self.attention(self.norm1(tokens)), fold_in(keys, 0), self.rate)
        tokens = tokens + drop_path(self.mlp(self.norm2(tokens)), fold_in(keys, 1), self.rate)
        return tokens.reshape(x.shape)


def normalize_maps(norm: BatchNorm, x: Maps) -> Maps:
    """Normalises each channel over clips, frames and space."""
    return norm(x.reshape(-1, *x.shape[2:])).reshape(x.shape)


def _apply(block: LocalBlock | GlobalBlock, x: Maps, keys: Key[Array, " b"] | None) -> Maps:
    return block(x, keys)


class Stage(nnx.Module):
    """A patch embedding, then blocks of one kind: local ones in the first two stages, global ones in the others."""

    def __init__(self, number: int, options: UniFormerOptions, *, rngs: nnx.Rngs):
        """Makes the stage of a number, from 0 on."""
        dtype, width, depth = jnp.dtype(options.dtype), options.widths[number], options.depths[number]
        before, patch = (3, (4, 3)) if number == 0 else (options.widths[number - 1], (2, 1))
        self.first = sum(options.depths[:number])  # the number of its first block in the network
        self.remat = options.remat
        rates = np.linspace(0, options.drop_path, sum(options.depths))[self.first :][:depth].tolist()
        self.embedding = PatchEmbedding(before, width, *patch, dtype=dtype, rngs=rngs)

        def block(rate: float) -> LocalBlock | GlobalBlock:
            if number < 2:
                return LocalBlock(width, rate, dtype=dtype, rngs=rngs)
            return GlobalBlock(width, width // options.head_size, rate, dtype=dtype, rngs=rngs)

        self.blocks = nnx.List([block(rate) for rate in rates])

    def __call__(self, x: Maps, keys: Key[Array, " b"] | None) -> Float[Array, "b t2 h2 w2 d"]:
        """Returns the maps after the last block."""
        x = self.embedding(x)
        apply = nnx.remat(_apply) if self.remat else _apply
        for number, block in enumerate(self.blocks, self.first):
            x = apply(block, x, fold_in(keys, number))
        return x


class UniFormer(nnx.Module):
    """Classifies clips by the mean over all places of its last maps (Li et al., ICLR 2022), as in the authors' code.

    16 frames of 224 pixels become 8 maps of 56 x 56, 28, 14 and 7. Differs from the release: the heads start with the
    small weights of all heads here, and convolutions with biases of 0.
    """

    Options = UniFormerOptions

    def __init__(self, options: UniFormerOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        self.stage1, self.stage2, self.stage3, self.stage4 = (Stage(i, options, rngs=rngs) for i in range(_STAGES))
        self.norm = BatchNorm(options.widths[-1])
        self.heads = Heads(options.widths[-1], options, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for the clips `inputs["video"]`, see `models`."""
        return self.heads(self._features(inputs["video"], keys).mean((1, 2, 3))[:, None], keys)

    def class_maps(self, inputs: dict[str, Array]) -> Float[Array, "b t h w n"]:
        """Returns the class activation maps, see `layers.ClassificationHead.maps`."""
        return self.heads.classifier.maps(self.features(inputs["video"]))

    def features(self, video: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t2 h2 w2 c"]:
        """Returns the last maps: half of the frames, 1/32 of their sides."""
        return self._features(video, None)

    def _features(
        self, video: UInt8[Array, "b t h w 3"], keys: Key[Array, " b"] | None
    ) -> Float[Array, "b t2 h2 w2 c"]:
        x = normalize(video, self.options)
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            x = stage(x, keys)
        return normalize_maps(self.norm, x)


@jax.custom_vjp
def convolve_depthwise(x: Float[Array, "b t h w c"], kernel: Float[Array, "s s s 1 c"]) -> Float[Array, "b t h w c"]:
    """Convolves each channel of clips by itself with an odd kernel, padded by zeros to the same size.

    On a CPU it is a sum of shifted clips, each times a place of the kernel. XLA's own, which other devices run, takes
    35 to 45 times as long there: 950 ms, not 28, for 2 clips of 8 x 14 x 14 x 320 and a kernel of 3.
    """
    return by_platform(x, kernel, cpu=_depthwise_as_sums, default=depthwise_with_xla)


def depthwise_with_xla(x: Float[Array, "b t h w c"], kernel: Float[Array, "s s s 1 c"]) -> Array:
    """The same as XLA makes it."""
    padding = [(kernel.shape[0] // 2, kernel.shape[0] // 2)] * 3
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1, 1), padding, dimension_numbers=dimensions, feature_group_count=x.shape[-1]
    )


def _depthwise_as_sums(x: Float[Array, "b t h w c"], kernel: Float[Array, "s s s 1 c"]) -> Array:
    """The same as sums, in float32."""
    _, frames, rows, columns, channels = x.shape
    size = kernel.shape[0]
    padded = _pad_all(x, size // 2)

    # All frames of the kernel at once compile to something ten times as slow.
    def of_frame(i: Array, total: Array) -> Array:
        moved = jax.lax.dynamic_slice_in_dim(padded, i, frames, axis=1).astype(jnp.float32)
        weights = jax.lax.dynamic_index_in_dim(kernel, i, keepdims=False).astype(jnp.float32)
        for j in range(size):
            for k in range(size):
                total += moved[:, :, j : j + rows, k : k + columns] * weights[j, k].reshape(1, 1, 1, 1, channels)
        return total

    return jax.lax.fori_loop(0, size, of_frame, jnp.zeros(x.shape, jnp.float32)).astype(x.dtype)


def _pad_all(x: Float[Array, "b t h w c"], width: int) -> Array:
    # Made once, rather than anew by each of its readers.
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *[(width, width)] * 3, (0, 0))))


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_depthwise(x, kernel), (x, kernel)


def _depthwise_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return by_platform(x, kernel, gradient, cpu=_depthwise_gradients, default=depthwise_gradients_with_xla)


def depthwise_gradients_with_xla(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    """The gradients of the input and of the kernel, given that of the result, as XLA makes them."""
    return jax.vjp(depthwise_with_xla, x, kernel)[1](gradient)


def _depthwise_gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    """The same as sums."""
    along_x = _depthwise_as_sums(gradient, kernel[::-1, ::-1, ::-1])
    return along_x, _gradient_of_depthwise(x, gradient, kernel.shape[0]).astype(kernel.dtype)


def _gradient_of_depthwise(x: Array, gradient: Array, size: int) -> Array:
    """Adds up the surroundings of each place, which are as large as the kernel, times the result's gradient there.

    Those of a row are read at once, and the kernel's gradient stays in the cache: an eighth of the time of a sum over
    all places for each place of the kernel (2 clips of 8 x 56 x 56 x 64, a kernel of 5).
    """
    clips, frames, rows, columns, channels = x.shape
    padded = _pad_all(x, size // 2)

    def of_row(n: Array, total: Array) -> Array:
        start = (n // (frames * rows), n // rows % frames, n % rows, 0, 0)
        shape = (1, size, size, padded.shape[3], channels)
        around = jax.lax.dynamic_slice(padded, start, shape)[0].astype(jnp.float32)
        along = jax.lax.dynamic_slice(gradient, start, (1, 1, 1, columns, channels)).astype(jnp.float32)
        places = (around[:, :, k : k + size] * along[0, :, :, k : k + 1] for k in range(columns))
        return total + functools.reduce(jnp.add, places)

    zeros = jnp.zeros((size, size, size, channels), jnp.float32)
    return jax.lax.fori_loop(0, clips * frames * rows, of_row, zeros)[:, :, :, None]


convolve_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
