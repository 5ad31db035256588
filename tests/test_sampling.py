import numpy as np
import pytest

from manet_jax.data import sampling


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (15, [0, 1, 2, 3, 4, 5, 6, 7]),  # segments of one frame
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (5, [0, 1, 1, 2, 2, 3, 4, 4]),  # round(0, .625, 1.25, 1.875, 2.5, 3.125, 3.75, 4.375), halves to even
        (4, [0, 0, 1, 2, 2, 2, 3, 0]),  # round(3.5) = 4 does not exist: the release starts again
        (3, [0, 0, 1, 1, 2, 2, 2, 0]),
        (1, [0, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_random_segments_below_two_frames_are_not_random(num_frames, expected):
    for seed in range(5):
        assert sampling.random_segments(np.random.default_rng(seed), num_frames, 8).tolist() == expected


@pytest.mark.parametrize("num_frames", [16, 60, 75])
def test_random_segments_give_one_uniform_frame_each(num_frames):
    interval = num_frames // 8
    draws = np.stack([sampling.random_segments(np.random.default_rng(seed), num_frames, 8) for seed in range(2000)])
    offsets = draws - np.arange(8) * interval
    assert (offsets >= 0).all()
    assert (offsets < interval).all()
    counts = np.stack([np.bincount(column, minlength=interval) for column in offsets.T])
    expected = 2000 / interval
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (60, [3, 11, 18, 26, 33, 41, 48, 56]),  # floor(7.5 i + 3.75)
        (54, [3, 10, 16, 23, 30, 37, 43, 50]),
        (5, [0, 0, 1, 2, 2, 3, 4, 4]),
        (1, [0] * 8),
    ],
)
def test_center_segments_by_hand(num_frames, expected):
    assert sampling.center_segments(num_frames, 8).tolist() == expected
