"""RandAugment and random erasing."""

import numpy as np
import pytest
from PIL import Image

from manet_jax.data import augment
from manet_jax.data.augment import NO_AUGMENTATION, Augmentation
from manet_jax.models import ClipSpec
from manet_jax.models.options import OptionError

SPEC = ClipSpec(num_frames=3, short_side=40, crop_size=32)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)


def apply(name, frame, level=0.5, sign=1):
    change = augment._OPERATIONS[name](level, sign, frame.shape[:2], SPEC)
    return np.asarray(change(Image.fromarray(frame)))


def test_no_augmentation_changes_nothing_and_draws_nothing():
    rng = np.random.default_rng(3)
    assert augment.augment(rng, FRAMES, SPEC, NO_AUGMENTATION) is FRAMES
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("invert", [255, 155, 55, 0]),
        ("posterize", [0, 64, 192, 192]),  # two bits are left
        ("solarize", [0, 100, 55, 0]),  # from 128 on inverted
        ("add below the middle", [55, 155, 200, 255]),
        ("brightness", [0, 145, 255, 255]),  # times 1.45
    ],
)
def test_operations_by_hand(name, expected):
    frame = np.array([0, 100, 200, 255], np.uint8).reshape(1, 4, 1).repeat(3, -1)
    np.testing.assert_array_equal(apply(name, frame)[0, :, 0], expected)


def test_colour_of_a_grey_image_stays():
    frame = FRAMES[0, ..., :1].repeat(3, -1)
    np.testing.assert_array_equal(apply("colour", frame), frame)


def test_movements_fill_with_the_mean_colour():
    frame = np.full((10, 10, 3), 255, np.uint8)
    fill = [round(value) for value in SPEC.mean]
    moved = apply("move along x", frame, level=0.5)  # by 0.45 / 2 of the width
    assert moved[5, 0].tolist() == [255] * 3
    assert moved[5, 9].tolist() == moved[5, 8].tolist() == fill
    assert moved[5, 6].tolist() == [255] * 3
    assert apply("rotate", frame, level=1.0)[0, 0].tolist() == fill
    assert apply("shear along y", frame, level=1.0)[9, 9].tolist() == fill


@pytest.mark.parametrize("name", list(augment._OPERATIONS))
def test_operations_keep_form_and_type(name):
    for level, sign in ((0.0, 1), (1.0, 1), (1.0, -1)):
        changed = apply(name, FRAMES[0], level, sign)
        assert changed.shape == FRAMES[0].shape
        assert changed.dtype == np.uint8


def test_all_frames_of_a_clip_are_changed_alike():
    still = FRAMES[:1].repeat(3, 0)
    changed = [
        augment.augment(np.random.default_rng(seed), still, SPEC, Augmentation(operations=4)) for seed in range(6)
    ]
    for clip in changed:
        np.testing.assert_array_equal(clip[1:], clip[:-1])
    assert sum(bool((clip != still).any()) for clip in changed) >= 4  # of 4 operations, each takes place by a half
    again = augment.augment(np.random.default_rng(2), still, SPEC, Augmentation(operations=4))
    np.testing.assert_array_equal(again, changed[2])


def test_erasing_fills_one_box_of_all_frames_with_noise():
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    areas = []
    for seed in range(20):
        erased = augment.augment(np.random.default_rng(seed), frames, SPEC, Augmentation(erasing=1.0))
        inside = erased.any((0, 3))
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        assert inside.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        areas.append(inside.mean())
        box = erased[:, inside].reshape(-1, 3)
        if len(box) > 1000:
            np.testing.assert_allclose(box.mean(0), SPEC.mean, atol=8)
            assert (erased[0] != erased[1]).any()
    assert 0.01 < min(areas) < max(areas) < 0.36
    assert not frames.any()


def test_erasing_has_its_chance():
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    rng = np.random.default_rng(0)
    count = sum(augment.augment(rng, frames, SPEC, Augmentation(erasing=0.25)).any() for _ in range(400))
    assert 70 < count < 130


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"operations": -1}, "operations is -1; it must be at least 0"),
        ({"repeats": 0}, "repeats is 0; it must be at least 1"),
        ({"magnitude": 11.0}, r"magnitude is 11.0; it must lie in 0..10"),
        ({"erasing": 1.5}, r"erasing is 1.5; it must lie in 0..1"),
    ],
)
def test_values_out_of_range_are_refused(values, text):
    with pytest.raises(OptionError, match=text):
        Augmentation(**values)
