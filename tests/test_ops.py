import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from manet_jax.models import ops


def with_gradient(function, *values, gradient):
    """The result of a function of some values, and its gradients given that of its result."""

    def apply(values, gradient):
        result, vjp = jax.vjp(function, *values)
        return result, vjp(gradient)

    return jax.jit(apply)(values, gradient)


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_temporal_shift_by_hand():
    # One clip of 3 frames and 8 channels: channel c of frame t holds 10 t + c.
    x = jnp.array([[10 * t + c for c in range(8)] for t in (1, 2, 3)], jnp.float32)
    shifted = ops.temporal_shift(x[None, :, None, None, :], shift_div=4)[0, :, 0, 0]
    expected = [
        [20, 21, 0, 0, 14, 15, 16, 17],
        [30, 31, 12, 13, 24, 25, 26, 27],
        [0, 0, 22, 23, 34, 35, 36, 37],
    ]
    np.testing.assert_array_equal(shifted, expected)


def test_temporal_shift_has_the_gradient_of_its_slices():
    def plain(x, fold):
        before = jnp.concatenate([x[:, 1:, ..., :fold], jnp.zeros_like(x[:, :1, ..., :fold])], 1)
        after = jnp.concatenate([jnp.zeros_like(x[:, :1, ..., :fold]), x[:, :-1, ..., fold : 2 * fold]], 1)
        return jnp.concatenate([before, after, x[..., 2 * fold :]], -1)

    rng = np.random.default_rng(0)
    x, gradient = (jnp.asarray(rng.normal(size=(2, 5, 3, 2, 11)), jnp.float32) for _ in range(2))
    expected = with_gradient(lambda x: plain(x, 2), x, gradient=gradient)
    assert_same(with_gradient(lambda x: ops.temporal_shift(x, 5), x, gradient=gradient), expected)


def test_frames_are_merged_and_split_on_every_platform():
    x = jnp.arange(2 * 3 * 4.0).reshape(2, 3, 2, 2, 1)  # of clip b, frame t, the first value is 12 b + 4 t
    np.testing.assert_array_equal(ops.merge_frames(x)[:, 0, 0, 0], [0, 4, 8, 12, 16, 20])
    np.testing.assert_array_equal(ops.split_frames(ops.merge_frames(x), 3), x)
    with ops.traced_for("tpu"):
        np.testing.assert_array_equal(ops.merge_frames(x)[:, 0, 0, 0], [0, 12, 4, 16, 8, 20])
        np.testing.assert_array_equal(ops.split_frames(ops.merge_frames(x), 3), x)


def test_forms_are_chosen_when_a_computation_is_traced():
    x = jnp.arange(2 * 3 * 4.0).reshape(2, 3, 2, 2, 1)
    merge = jax.jit(ops.merge_frames)

    def transposes(platform):
        return "stablehlo.transpose" in jax.export.export(merge, platforms=[platform])(x).mlir_module()

    # One function under different contexts: what was traced for one is not taken for another.
    assert not transposes("tpu")  # the default backend's form, a CPU's
    with ops.traced_for("tpu"):
        assert transposes("cpu")
    with ops.traced_for(None):
        assert transposes("tpu")
        assert not transposes("cpu")
    assert not transposes("tpu")


@pytest.mark.parametrize("with_gates", [True, False])
def test_shift_and_multiply_is_the_same_on_every_platform(with_gates):
    rng = np.random.default_rng(0)
    # Whole numbers, whose sums are exact in whatever order.
    x, kernel, gates = (
        jnp.asarray(rng.integers(-8, 9, size), jnp.float32) for size in ((2, 3, 4, 5, 11), (11, 7), (2, 3, 1, 1, 11))
    )
    gradient = jnp.asarray(rng.integers(-8, 9, (2, 3, 4, 5, 7)), jnp.float32)

    def plain(x, kernel, gates):
        return jnp.einsum("bthwc,cd->bthwd", ops.temporal_shift(x * gates if with_gates else x, 5), kernel)

    def ours(x, kernel, gates):
        merged = ops.merge_frames(gates)[:, 0, 0] if with_gates else None
        return ops.split_frames(ops.shift_and_multiply(ops.merge_frames(x), kernel, merged, 3, 5), 3)

    expected = with_gradient(plain, x, kernel, gates, gradient=gradient)
    assert_same(with_gradient(ours, x, kernel, gates, gradient=gradient), expected)
    with ops.traced_for("tpu"):
        assert_same(with_gradient(ours, x, kernel, gates, gradient=gradient), expected)


def test_relu_has_jaxs_gradient():
    x = jnp.array([-2.0, -0.0, 0.0, 3.0])
    gradient = jnp.array([5.0, 6.0, 7.0, 8.0])
    result, (along,) = with_gradient(ops.relu, x, gradient=gradient)
    np.testing.assert_array_equal(result, [0, 0, 0, 3])
    np.testing.assert_array_equal(along, [0, 0, 0, 8])


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (6, 5), (1, 1)])
def test_max_pool_has_xlas_gradient(size):
    rng = np.random.default_rng(0)
    # Few different values, so that most windows hold their largest one several times.
    x = jnp.asarray(rng.integers(-2, 3, (3, *size, 4)), jnp.float32)
    plain = functools.partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    gradient = jnp.asarray(rng.integers(1, 100, jax.eval_shape(plain, x).shape), jnp.float32)
    expected = with_gradient(plain, x, gradient=gradient)
    assert_same(with_gradient(ops.max_pool, x, gradient=gradient), expected)


@pytest.mark.parametrize(
    ("size", "channels", "features", "kernel_size", "stride"),
    [
        ((32, 30), 3, 20, 7, 2),  # the stem
        ((32, 30), 3, 4, 7, 2),  # that of a small network
        ((6, 5), 5, 4, 3, 1),
        ((8, 6), 5, 4, 3, 2),
        ((7, 9), 5, 4, 3, 2),  # odd sides: no pixel after the last window
        ((8, 9), 5, 4, 3, 2),
        ((4, 4), 130, 4, 3, 2),
        ((4, 8), 130, 4, 3, 2),
        ((8, 8), 130, 4, 3, 2),
        ((2, 2), 5, 4, 3, 1),  # smaller than the kernel
        ((1, 2), 5, 4, 3, 1),
        ((2, 5), 5, 4, 3, 2),
    ],
)
def test_convolve_has_xlas_gradients(size, channels, features, kernel_size, stride):
    def plain(x, kernel):
        padding = [(kernel_size // 2, kernel_size // 2)] * 2
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=dimensions)

    rng = np.random.default_rng(0)
    # Whole numbers, whose sums are exact in whatever order.
    x = jnp.asarray(rng.integers(-8, 9, (2, *size, channels)), jnp.float32)
    kernel = jnp.asarray(rng.integers(-8, 9, (kernel_size, kernel_size, channels, features)), jnp.float32)
    gradient = jnp.asarray(rng.integers(-8, 9, jax.eval_shape(plain, x, kernel).shape), jnp.float32)
    expected = with_gradient(plain, x, kernel, gradient=gradient)
    assert_same(
        with_gradient(lambda x, kernel: ops.convolve(x, kernel, stride), x, kernel, gradient=gradient), expected
    )


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "strides"),
    [
        ((4, 8, 8, 3), (5, 7, 7, 3, 4), (2, 2, 2)),  # I3D's first layer
        ((4, 8, 8, 3), (5, 7, 7, 3, 2), (1, 2, 2)),  # SlowFast's
        ((4, 3, 3, 6), (3, 1, 1, 6, 4), (1, 1, 1)),  # inflated
        ((1, 3, 3, 6), (3, 1, 1, 6, 4), (1, 1, 1)),  # shorter than the kernel
        ((9, 3, 3, 2), (5, 1, 1, 2, 4), (4, 1, 1)),  # lateral; no frame after the last window
        ((3, 4, 4, 5), (1, 3, 3, 5, 4), (1, 2, 2)),
        ((3, 4, 4, 5), (1, 1, 1, 5, 4), (1, 2, 2)),
        ((3, 4, 4, 2), (3, 3, 3, 2, 4), (1, 1, 1)),  # C3D's, of more and of as many channels
        ((3, 4, 4, 4), (3, 3, 3, 4, 4), (1, 1, 1)),
    ],
)
def test_convolve_3d_is_xlas(shape, kernel_shape, strides):
    def plain(x, kernel):
        padding = [(size // 2, size // 2) for size in kernel_shape[:3]]
        dimensions = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimensions)

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-8, 9, (2, *shape)), jnp.float32)
    kernel = jnp.asarray(rng.integers(-8, 9, kernel_shape), jnp.float32)
    gradient = jnp.asarray(rng.integers(-8, 9, jax.eval_shape(plain, x, kernel).shape), jnp.float32)
    expected = with_gradient(plain, x, kernel, gradient=gradient)
    assert_same(
        with_gradient(lambda x, kernel: ops.convolve_3d(x, kernel, strides), x, kernel, gradient=gradient), expected
    )


def test_max_of_pairs_by_hand():
    # The last of an odd number is left out; of equal values the first has the gradient.
    x = jnp.array([1.0, 3.0, 2.0, 2.0, 9.0]).reshape(1, 5, 1, 1, 1)
    y, (gradient,) = with_gradient(
        lambda x: ops.max_of_pairs(x, 1), x, gradient=jnp.array([5.0, 7.0]).reshape(1, 2, 1, 1, 1)
    )
    assert y.ravel().tolist() == [3, 2]
    assert gradient.ravel().tolist() == [0, 5, 7, 0, 0]
