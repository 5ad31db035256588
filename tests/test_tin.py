"""What TIN is beyond the contract of tests/test_models.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from manet_jax.models.options import OptionError
from manet_jax.models.tin import OffsetNet, TemporalInterlace, TINOptions, interlace

FLOAT32 = jnp.dtype("float32")
LOG3 = np.log(3.0)  # a sigmoid of 3/4

# A channel's values in four frames, and moved by some offsets.
VALUES = [1.0, 2.0, 4.0, 8.0]
MOVED = {
    0.0: [1, 2, 4, 8],
    1.25: [0, 0.75, 1.5 + 0.25, 3 + 0.5],
    -0.5: [0.5 + 1, 1 + 2, 2 + 4, 4],
    1.0: [0, 1, 2, 4],
    -1.75: [0.25 * 2 + 0.75 * 4, 0.25 * 4 + 0.75 * 8, 0.25 * 8, 0],
    2.0: [0, 0, 1, 2],
    -2.0: [4, 8, 0, 0],
}


def as_clips(values):
    """float32 [1, t, 1, 1, c] of the values of channels."""
    return jnp.asarray(np.array(values, np.float32).T[None, :, None, None])


@pytest.mark.parametrize("offset", MOVED)
def test_interlace_by_hand(offset):
    # Two groups of two channels; the second group stays. The first is doubled in its second frame.
    x = as_clips([VALUES, [3.0] * 4, VALUES, VALUES])
    weights = np.ones((1, 4, 2), np.float32)
    weights[0, 1, 0] = 2
    moved = interlace(x, jnp.array([[offset, 0.0]]), jnp.asarray(weights))[0, :, 0, 0]
    np.testing.assert_allclose(moved[:, 0], np.array(MOVED[offset]) * [1, 2, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(moved[:, 2:], x[0, :, 0, 0, 2:])


def test_interlace_gives_offsets_their_gradient():
    # By 1.25 frames the sum is .75 (1 + 2 + 4) + .25 (1 + 2); its derivative takes the first sum from the second.
    def total(offset):
        return interlace(as_clips([VALUES]), offset[None, None], jnp.ones((1, 4, 1))).sum()

    assert total(jnp.float32(1.25)) == pytest.approx(0.75 * 7 + 0.25 * 3)
    assert jax.grad(total)(jnp.float32(1.25)) == pytest.approx(3 - 7)


def test_temporal_interlace_moves_four_groups_by_two_offsets():
    module = TemporalInterlace(4, 4, dtype=FLOAT32, rngs=nnx.Rngs(0))
    module.offset_net.fc2.kernel[...] = jnp.zeros((4, 2))
    module.offset_net.fc2.bias[...] = jnp.array([LOG3, -LOG3])  # by 4 (3/4 - 1/2) = 1, and by -1
    module.weight_net.kernel[...] = jnp.zeros((3, 4, 2))
    module.weight_net.bias[...] = jnp.array([0.0, LOG3])  # 2 / 2 = 1, and 2 * 3/4
    moved = module(as_clips([VALUES] * 6))[0, :, 0, 0].T
    later, earlier = np.array([0, 1, 2, 4.0]), np.array([2, 4, 8, 0.0])
    expected = [later, 1.5 * earlier, earlier, 1.5 * later, VALUES, VALUES]
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-5)


def test_offset_net_starts_at_half_a_frame():
    net = OffsetNet(2, 4, dtype=FLOAT32, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(net(jnp.zeros((3, 4, 2))), 0.5, atol=1e-4)
    # The same from any clip by the same weights: over time by a convolution, a linear layer, and a second one.
    pooled = np.random.default_rng(0).normal(size=(1, 4, 2)).astype(np.float32)
    kernel, padded = np.asarray(net.conv.kernel[...])[:, :, 0], np.pad(pooled[0], ((1, 1), (0, 0)))
    hidden = np.array([(padded[t : t + 3] * kernel).sum() for t in range(4)])
    hidden = np.maximum(hidden @ np.asarray(net.fc1.kernel[...]), 0) @ np.asarray(net.fc2.kernel[...]) + 0.5108
    np.testing.assert_allclose(net(jnp.asarray(pooled))[0], 4 / (1 + np.exp(-hidden)) - 2, rtol=1e-5)


def test_tin_needs_four_groups_of_whole_channels():
    with pytest.raises(OptionError, match=r"^width is 24; with shift_div 4 it must be a multiple of 16$"):
        TINOptions(width=24)
