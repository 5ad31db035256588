"""Operations whose form or gradient is ours, because XLA's own is slow: in time on a CPU, in bytes moved on a TPU.

A platform gets another form than the rest (`by_platform`) where it was measured, or for a TPU accounted by its
compiler, to be better there.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_OVER_TIME = ("TNHWC", "HWTIO", "TNHWC")
_ANY = "any"
# Whose forms are traced: "", that of JAX's default backend; one by name; or those of all. JAX's caches know it.
_platform = jax.make_user_context(default_value="")


def by_platform(*args: Any, default: Callable, **forms: Callable) -> Any:
    """Computes by the form of the platform, `cpu=` or `tpu=`, or by the default one.

    The platform is that of JAX's default backend, or what `traced_for` says. `jax.lax.platform_dependent`, which leaves
    the choice to the lowering, traces and differentiates all forms: a sixth of the time from a command's start to its
    first step.
    """
    platform = _platform.value or jax.default_backend()
    if platform == _ANY:
        return jax.lax.platform_dependent(*args, default=default, **forms)
    return forms.get(platform, default)(*args)


def traced_for(platform: str | None) -> contextlib.AbstractContextManager:
    """A context in which computations are traced in the forms of a platform; None: so that they can be lowered for any.

    For what runs elsewhere: exports, and programs for devices that are not there.
    """
    return _platform(_ANY if platform is None else platform)


def merge_frames(x: Float[Array, "b t h w c"]) -> Float[Array, "n h w c"]:
    """The frames of clips as one batch, in the order that suits the platform.

    It is clip by clip, but on a TPU the first frames of all clips come first, then the second ones: as it keeps a
    frame's location before its number in the batch, it finds the next frame without moving any.
    """
    return by_platform(x, tpu=lambda x: _merge(x.swapaxes(0, 1)), default=_merge)


def split_frames(x: Float[Array, "n h w c"], num_frames: int) -> Float[Array, "b t h w c"]:
    """The inverse of `merge_frames`."""
    clips_first = functools.partial(_split, shape=(-1, num_frames))
    frames_first = functools.partial(_split, shape=(num_frames, -1))
    return by_platform(x, tpu=lambda x: frames_first(x).swapaxes(0, 1), default=clips_first)


def _merge(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _split(x: Array, shape: tuple[int, int]) -> Array:
    return x.reshape(*shape, *x.shape[1:])


def shift_and_multiply(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "c d"],
    gates: Float[Array, "n c"] | None,
    num_frames: int,
    shift_div: int,
) -> Float[Array, "n h w d"]:
    """The product of a kernel and the `temporal_shift` of x times its gates, for frames in the order of `merge_frames`.

    On a TPU it is one convolution over time, which reads x and the gates and writes no copy. It has three times the
    operations of the product; the copies would be a third of the bytes of a training step.
    """
    product = functools.partial(_shift_then_multiply, num_frames=num_frames, shift_div=shift_div)
    convolution = functools.partial(_multiply_over_time, num_frames=num_frames, shift_div=shift_div)
    return by_platform(x, kernel, gates, tpu=convolution, default=product)


def _shift_then_multiply(x: Array, kernel: Array, gates: Array | None, num_frames: int, shift_div: int) -> Array:
    if gates is not None:
        x = x * gates[:, None, None, :]
    shifted = _merge(temporal_shift(_split(x, (-1, num_frames)), shift_div))
    return (shifted.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def _multiply_over_time(x: Array, kernel: Array, gates: Array | None, num_frames: int, shift_div: int) -> Array:
    x = _split(x, (num_frames, -1))
    if gates is not None:  # after the split: before it, a TPU would write the product
        x = x * _split(gates, (num_frames, -1))[:, :, None, None, :]
    fold = x.shape[-1] // shift_div
    channel = jnp.arange(x.shape[-1])[:, None]
    from_later, from_earlier = channel < fold, (channel >= fold) & (channel < 2 * fold)
    taps = [jnp.where(of_tap, kernel, 0) for of_tap in (from_earlier, ~(from_later | from_earlier), from_later)]
    # Time is the last of the kernel's axes: by that order a TPU keeps the frames as one batch, as its neighbours do.
    result = jax.lax.conv_general_dilated(
        x, jnp.stack(taps)[None, None], (1, 1, 1), ((0, 0), (0, 0), (1, 1)), dimension_numbers=_OVER_TIME
    )
    return _merge(result)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def temporal_shift(x: Float[Array, "b t h w c"], shift_div: int) -> Float[Array, "b t h w c"]:
    """Moves a part of the channels by one frame along time (Lin et al., "TSM", ICCV 2019).

    Of c channels the first c // shift_div are taken from the next frame, as many after them from the previous frame,
    and the rest stays; beyond the clip's ends there are zeros.
    """
    return _shift(x, x.shape[-1] // shift_div, 1)


def _shift(x: Float[Array, "b t h w c"], fold: int, towards: int) -> Float[Array, "b t h w c"]:
    """Takes `fold` channels from `towards` frames later, and as many from as far back."""
    # A choice at every location fuses with what comes before it; slices and a concatenation, which are read and written
    # one by one, take 2.4 times as long on a CPU (30 and 13 ms for 16 frames of 56 x 56 x 256).
    frames = ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)), ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0))
    later, earlier = jnp.pad(x[:, 1:], frames[0]), jnp.pad(x[:, :-1], frames[1])
    first, second = (later, earlier) if towards > 0 else (earlier, later)
    channel = jnp.arange(x.shape[-1])
    return jnp.where(channel < fold, first, jnp.where(channel < 2 * fold, second, x))


def _temporal_shift_forward(x: Array, shift_div: int) -> tuple[Array, None]:
    return temporal_shift(x, shift_div), None


def _temporal_shift_backward(shift_div: int, _: None, gradient: Array) -> tuple[Array]:
    return (_shift(gradient, gradient.shape[-1] // shift_div, -1),)


temporal_shift.defvjp(_temporal_shift_forward, _temporal_shift_backward)


@jax.custom_vjp
def relu(x: Array) -> Array:
    """The larger of x and 0, whose gradient needs the result alone: where that is kept anyway, x is not."""
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    return (result := relu(x)), result


def _relu_backward(result: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(result > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def compute_once(x: Array) -> Array:
    """Keeps the compiler from computing x anew for each of its readers; a TPU's does not, and x stays as it is."""
    return by_platform(x, tpu=lambda x: x, default=jax.lax.optimization_barrier)


@jax.custom_vjp
def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """The largest values of 3x3 windows, two pixels apart, padded by one: the pooling after a ResNet's first layer.

    Its gradient goes to a window's first largest value, as in PyTorch. XLA's own gradient takes ten times as long on a
    CPU, a fifth of a small model's training step; a TPU keeps it.
    """
    return max_pool_with_xla(x)


def max_pool_with_xla(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """The same with XLA's gradient."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _max_pool_forward(x: Array) -> tuple[Array, Array]:
    return max_pool(x), x


def _max_pool_backward(x: Array, gradient: Array) -> tuple[Array]:
    def with_xla(x: Array, gradient: Array) -> Array:
        return jax.vjp(max_pool_with_xla, x)[1](gradient)[0]

    return (by_platform(x, gradient, tpu=with_xla, default=gradient_of_max_pool),)


def gradient_of_max_pool(x: Array, gradient: Array) -> Array:
    """The gradient of `max_pool`'s input, given that of its result, by comparing the nine pixels of each window."""
    n, height, width, channels = x.shape
    rows, columns = gradient.shape[1:3]
    padding = ((0, 0), (1, 2 * rows - height), (1, 2 * columns - width), (0, 0))
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    # Which of the nine pixels of its window a value is from. They are compared with each other, not with the forward
    # pass's result: a compiler that computes x once for each pass may round it otherwise, and none would be equal.
    source = jnp.full(gradient.shape, 9, jnp.int32)
    largest = jnp.full(gradient.shape, -jnp.inf, x.dtype)
    for i in range(9):
        top, left = divmod(i, 3)
        values = padded[:, top : top + 2 * rows : 2, left : left + 2 * columns : 2]
        source = jnp.where(values > largest, i, source)
        largest = jnp.maximum(values, largest)
    # Computed once and read four times, rather than computed anew for each.
    source, gradient = jax.lax.optimization_barrier((source, gradient))
    beyond = ((0, 0), (0, 1), (0, 1), (0, 0))
    source, gradient = jnp.pad(source, beyond, constant_values=9), jnp.pad(gradient, beyond)

    def share(y: int, x: int, below: int = 0, right: int = 0) -> Array:
        """The share of its pixel (y, x) in the gradient of each window, or of the one below it or to its right."""
        window = (slice(None), slice(below, below + rows), slice(right, right + columns))
        return jnp.where(source[window] == 3 * y + x, gradient[window], 0)

    # Of two by two pixels, the first is in one window, the last in four.
    even = jnp.stack([share(1, 1), share(1, 2) + share(1, 0, right=1)], axis=3)
    corners = share(2, 2) + share(0, 2, below=1) + share(2, 0, right=1) + share(0, 0, below=1, right=1)
    odd = jnp.stack([share(2, 1) + share(0, 1, below=1), corners], axis=3)
    whole = jnp.stack([even, odd], axis=2).reshape(n, 2 * rows, 2 * columns, channels)
    return whole[:, :height, :width]


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def convolve(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c d"], stride: int) -> Float[Array, "n h2 w2 d"]:
    """Convolves with an odd kernel, padded as in PyTorch: k // 2 on every side, which is not "SAME" at a stride of 2.

    On a CPU its gradients are sums of matrix products and of small convolutions: 12 % off a training step of 2 clips of
    8 x 224 x 224. Elsewhere they are XLA's own.
    """
    if min(x.shape[1:3]) < kernel.shape[0]:
        # XLA exchanges an image smaller than the kernel with the kernel, and is slow. As a matrix product, a training
        # step of 4 clips of 8 x 64 x 64 takes a third of the time on a CPU.
        patches = _patches(_patches(x, kernel.shape[0], stride, axis=1), kernel.shape[0], stride, axis=2)
        return patches @ kernel.transpose(1, 0, 2, 3).reshape(-1, kernel.shape[3])
    return _convolve(x, kernel, stride)


def convolve_3d(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "s k k c d"], strides: tuple[int, int, int]
) -> Float[Array, "b t2 h2 w2 d"]:
    """Convolves clips with an odd kernel, padded as in PyTorch, as one convolution or matrix product of all frames.

    XLA's own convolution of three dimensions takes up to ten times as long on a CPU, and its gradients up to six times.
    """
    size, channels = kernel.shape[0], kernel.shape[-1]
    stride, *strides_in_space = strides
    if size == 1:
        return _convolve_frames(x[:, ::stride], kernel[0], strides_in_space)
    if stride > 1 or x.shape[-1] < channels:
        # The stacked frames are several times as large as the clip: made again for the gradient rather than kept.
        return jax.checkpoint(_convolve_stacked, static_argnums=2)(x, kernel, strides)
    # Each frame with every slice of the kernel, whose results are then moved to their time and added.
    kernels = kernel.transpose(1, 2, 3, 0, 4).reshape(*kernel.shape[1:4], -1)
    products = _convolve_frames(x, kernels, strides_in_space)
    padded = jnp.pad(products, ((0, 0), (size // 2, size // 2), (0, 0), (0, 0), (0, 0)))
    moved = [padded[:, i : i + x.shape[1], ..., i * channels : (i + 1) * channels] for i in range(size)]
    return functools.reduce(jnp.add, moved)


def _convolve_stacked(x: Array, kernel: Array, strides: tuple[int, int, int]) -> Array:
    """Convolves the frames under the kernel, side by side as channels."""
    size, channels = kernel.shape[0], kernel.shape[-1]
    stacked = _patches(x, size, strides[0], axis=1)
    kernels = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], -1, channels)
    return _convolve_frames(stacked, kernels, strides[1:])


def _convolve_frames(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "k k c d"], strides: Sequence[int]
) -> Float[Array, "b t h2 w2 d"]:
    """Convolves each frame by itself."""
    (stride,) = set(strides)
    if kernel.shape[:2] == (1, 1):
        return x[:, :, ::stride, ::stride] @ kernel[0, 0]
    y = convolve(x.reshape(-1, *x.shape[2:]), kernel, stride)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def max_of_pairs(x: Float[Array, "b t h w c"], axis: int) -> Array:
    """The larger of each two neighbours along an axis; without the last value where their number is odd.

    The gradient goes to the first of two equal values, as in PyTorch's max pooling.
    """
    end = x.shape[axis] // 2 * 2
    first, second = (jax.lax.slice_in_dim(x, start, end, 2, axis) for start in (0, 1))
    return jnp.where(second > first, second, first)


def _patches(x: Array, size: int, stride: int, axis: int) -> Array:
    """The pixels under a padded kernel along an axis at each of its locations, side by side as channels."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (size // 2, size // 2)
    count = -(-x.shape[axis] // stride)
    padded = jnp.pad(x, padding)
    slices = [jax.lax.slice_in_dim(padded, i, i + stride * (count - 1) + 1, stride, axis) for i in range(size)]
    return jnp.concatenate(slices, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return convolve_with_xla(x, kernel, stride)


def convolve_with_xla(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c d"], stride: int) -> Array:
    """The same as XLA makes it, with XLA's gradients."""
    padding = [(kernel.shape[0] // 2, kernel.shape[0] // 2)] * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS)


def _convolve_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return convolve_with_xla(x, kernel, stride), (x, kernel)


def _convolve_backward(stride: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    with_xla = functools.partial(gradients_with_xla, stride=stride)
    # The first layer of a small network: XLA's take 27 ms, products 59 (128 frames of 64 x 64, 16 channels).
    small_stem = residuals[1].shape[0] > 3 and residuals[1].shape[3] <= 16
    on_cpu = with_xla if small_stem else functools.partial(gradients_as_products, stride=stride)
    return by_platform(*residuals, gradient, cpu=on_cpu, default=with_xla)


def gradients_with_xla(x: Array, kernel: Array, gradient: Array, *, stride: int) -> tuple[Array, Array]:
    """The gradients of a convolution's input and kernel, given that of its result, as XLA makes them."""
    return jax.vjp(lambda x, kernel: convolve_with_xla(x, kernel, stride), x, kernel)[1](gradient)


def gradients_as_products(x: Array, kernel: Array, gradient: Array, *, stride: int) -> tuple[Array, Array]:
    """The same as sums of matrix products and of small convolutions."""
    # Three readers; without a barrier each computes what comes before it anew.
    gradient = jax.lax.optimization_barrier(gradient)
    halved = kernel.shape[:2] == (3, 3) and stride == 2 and x.shape[1] % 2 == x.shape[2] % 2 == 0
    # Where there are more channels, the dilated convolution that XLA makes of it is as fast, but for small images.
    if halved and (x.shape[-1] <= 128 or min(gradient.shape[1:3]) < 3):
        along_x = _gradient_of_input(kernel, gradient)
    else:
        along_x, _ = gradients_with_xla(x, kernel, gradient, stride=stride)
    return along_x, _gradient_of_kernel(x, kernel, gradient, stride)


def _gradient_of_kernel(x: Array, kernel: Array, gradient: Array, stride: int) -> Array:
    """The gradient of each row of the kernel: the columns of the image under it, side by side, times the output's."""
    size = kernel.shape[0]
    rows, _, channels = gradient.shape[1:]
    padding = (size // 2, size // 2)
    patches = jax.lax.optimization_barrier(
        jnp.pad(_patches(x, size, stride, axis=2), ((0, 0), padding, (0, 0), (0, 0)))
    )
    flat = gradient.reshape(-1, channels)

    def of_row(i: int) -> Array:
        under_row = patches[:, i : i + stride * (rows - 1) + 1 : stride].reshape(flat.shape[0], -1)
        return jax.lax.dot_general(under_row, flat, (((0,), (0,)), ((), ())))

    return jnp.stack([of_row(i) for i in range(size)]).reshape(kernel.shape)


def _gradient_of_input(kernel: Array, gradient: Array) -> Array:
    """For a 3x3 kernel at a stride of 2: of two by two pixels the first is in one window, the last in four."""
    n, rows, columns = gradient.shape[:3]
    turned = kernel.transpose(0, 1, 3, 2)

    def of_pixel(y: int, x: int) -> Array:
        weights = turned[1:2] if y == 0 else turned[2::-2]
        weights = weights[:, 1:2] if x == 0 else weights[:, 2::-2]
        return jax.lax.conv_general_dilated(gradient, weights, (1, 1), [(0, y), (0, x)], dimension_numbers=_DIMENSIONS)

    pixels = jnp.stack([jnp.stack([of_pixel(y, x) for x in (0, 1)], axis=3) for y in (0, 1)], axis=2)
    return pixels.reshape(n, 2 * rows, 2 * columns, kernel.shape[2])


_convolve.defvjp(_convolve_forward, _convolve_backward)
