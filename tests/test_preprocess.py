import collections

import av
import cv2
import numpy as np
import pytest
from conftest import write_clip

from manet_jax import preprocess
from tfds_ma52.synthetic import writer


def rng(seed=0):
    return np.random.default_rng(seed)


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
def test_below_two_frames_a_segment_nothing_is_random(num_frames, expected):
    for seed in range(5):
        assert preprocess.sample_segments(rng(seed), num_frames, 8).tolist() == expected


@pytest.mark.parametrize("num_frames", [16, 60, 75])
def test_one_uniform_frame_from_each_segment(num_frames):
    interval = num_frames // 8
    draws = np.stack([preprocess.sample_segments(rng(seed), num_frames, 8) for seed in range(2000)])
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
def test_center_frames(num_frames, expected):
    assert preprocess.sample_center_frames(num_frames, 8).tolist() == expected


def test_resize_short_side_is_opencvs_bilinear():
    frames = rng().integers(0, 256, (2, 30, 20, 3), np.uint8)
    resized = preprocess.resize_short_side(frames, 10)
    assert resized.shape == (2, 15, 10, 3)
    np.testing.assert_array_equal(resized[1], cv2.resize(frames[1], (10, 15), interpolation=cv2.INTER_LINEAR))
    assert preprocess.resize_short_side(frames, 20) is frames
    assert preprocess.resize_short_side(frames.swapaxes(1, 2), 40).shape == (2, 40, 60, 3)


def test_center_crop_by_hand():
    frames = np.arange(6 * 5, dtype=np.uint8).reshape(1, 6, 5, 1).repeat(3, -1)
    assert preprocess.center_crop(frames, 2)[0, :, :, 0].tolist() == [[11, 12], [16, 17]]
    assert preprocess.center_crop(frames, 4)[0, 0, 0, 0] == 5  # (6 - 4) // 2 rows, (5 - 4) // 2 columns


def test_random_crops_are_the_releases(monkeypatch):
    # The crop's box is read off an image whose channels are its coordinates, before it is scaled.
    boxes = collections.Counter()

    def record(frames, height, width):
        boxes[(frames.shape[1], frames.shape[2], int(frames[0, 0, 0, 0]), int(frames[0, 0, 0, 1]))] += 1
        return np.zeros((1, height, width, 3), np.uint8)

    monkeypatch.setattr(preprocess, "_resize", record)
    y, x = np.mgrid[:240, :200]
    frames = np.stack([y, x, y], -1).astype(np.uint8)[None]
    for seed in range(6000):
        preprocess.random_crop(rng(seed), frames, (1.0, 0.875, 0.75, 0.66), 100)
    sides = [200, 175, 150, 132]
    sizes = {(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    assert {(h, w) for h, w, _, _ in boxes} == sizes
    assert len(sizes) == 10
    # 13 positions in steps of a quarter of the free room: 3 in the rows of the borders and the middle, 2 between.
    corners = {(top, left) for h, w, top, left in boxes if (h, w) == (132, 132)}
    assert corners == {(r * 27, c * 17) for r, c in preprocess.CROP_POSITIONS}
    assert sorted(collections.Counter(r for r, _ in preprocess.CROP_POSITIONS).items()) == [
        *((0, 3), (1, 2), (2, 3), (3, 2), (4, 3)),
    ]
    assert len(corners) == 13
    for h, w in sizes:  # all sizes alike
        assert sum(n for (bh, bw, _, _), n in boxes.items() if (bh, bw) == (h, w)) == pytest.approx(600, abs=120)


def test_every_frame_of_a_clip_gets_the_same_crop():
    frame = rng().integers(0, 256, (40, 30, 3), np.uint8)
    crops = preprocess.random_crop(rng(1), np.stack([frame] * 4), (1.0, 0.66), 24)
    assert crops.shape == (4, 24, 24, 3)
    assert (crops == crops[0]).all()


def test_flip_mirrors_left_to_right():
    frames = rng().integers(0, 256, (2, 3, 4, 3), np.uint8)
    np.testing.assert_array_equal(preprocess.flip(frames)[1, 2, 0], frames[1, 2, 3])


def test_views_of_a_video(tmp_path):
    write_clip(tmp_path / "a.mp4", num_frames=30, height=64, width=48)
    content = (tmp_path / "a.mp4").read_bytes()
    options = {"num_segments": 4, "short_side": 40, "size": 32}
    view = preprocess.middle_views(content, **options)["video"]
    video = preprocess.open_video(content)
    frames = preprocess.decode_frames(video, np.array([3, 11, 18, 26]))  # floor(7.5 i + 3.75)
    np.testing.assert_array_equal(view, preprocess.center_crop(preprocess.resize_short_side(frames, 40), 32))

    options |= {"crop_scales": (1.0, 0.75), "crop_middle": False}
    views = [preprocess.train_views(rng(seed), content, **options)["video"] for seed in (0, 0, 1)]
    assert views[0].shape == (4, 32, 32, 3)
    assert views[0].flags.c_contiguous
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()


def test_the_appearance_shows_a_part_of_some_of_the_frames(tmp_path):
    # The brightness of the lower half says which frame it is; with the upper half at rest no frame is a new scene.
    frames = np.empty((32, 64, 48, 3), np.uint8)
    frames[:, :32] = rng(0).integers(0, 255, (32, 48, 3))
    frames[:, 32:] = 120 + 4 * np.arange(32)[:, None, None, None]
    writer.encode(tmp_path / "a.mp4", frames)
    content = (tmp_path / "a.mp4").read_bytes()
    view = {"num_segments": 8, "short_side": 40, "size": 32}
    below = preprocess.Appearance(num_frames=2, box=(0.5, 0.25, 1.0, 0.75), short_side=20, crop_scales=(1.0,), size=16)
    both = preprocess.middle_views(content, **view, appearance=below)
    assert both["video"].shape == (8, 32, 32, 3)
    assert both["appearance"].shape == (2, 16, 16, 3)
    # Frames 2, 6 ... 30 of the clip; of these eight, numbers 2 and 6, so frames 10 and 26.
    np.testing.assert_allclose(both["appearance"].mean((1, 2, 3)), [160, 224], atol=2)
    only = preprocess.middle_views(content, **view, video=False, appearance=below)
    assert set(only) == {"appearance"}
    np.testing.assert_array_equal(only["appearance"], both["appearance"])

    view |= {"crop_scales": (1.0,), "crop_middle": False}
    seen = [
        preprocess.train_views(rng(seed), content, **view, video=video, appearance=below)
        for seed in range(30)
        for video in (True, False)
    ]
    assert [set(views) for views in seen[:2]] == [{"video", "appearance"}, {"appearance"}]
    numbers = (np.stack([views["appearance"].mean((1, 2, 3)) for views in seen]) - 120) / 4
    assert (numbers[:, 0] < 16.5).all()  # one of the first half's, one of the second's
    assert (numbers[:, 1] > 15.5).all()
    assert len(np.unique(np.round(numbers))) > 20


def test_a_box_is_cut_by_shares_and_never_empty():
    frames = np.arange(2 * 10 * 20 * 3).reshape(2, 10, 20, 3).astype(np.uint8)
    np.testing.assert_array_equal(preprocess.cut_box(frames, (0.1, 0.25, 0.5, 0.75)), frames[:, 1:5, 5:15])
    np.testing.assert_array_equal(preprocess.cut_box(frames, (0.0, 0.0, 1.0, 1.0)), frames)
    assert preprocess.cut_box(frames, (0.5, 0.5, 0.501, 0.501)).shape == (2, 1, 1, 3)


def test_crops_of_the_middle_show_nothing_that_a_test_view_does_not(tmp_path):
    # A ramp from left to right, so that a pixel's brightness says where it was.
    ramp = np.broadcast_to(4 * np.arange(48, dtype=np.uint8)[:, None], (8, 64, 48, 3))
    writer.encode(tmp_path / "ramp.mp4", ramp)
    content = (tmp_path / "ramp.mp4").read_bytes()
    options = {"num_segments": 4, "short_side": 48, "size": 32}
    assert preprocess.middle_views(content, **options)["video"].min() > 28  # from column 8

    def views(**crops):
        return np.stack([preprocess.train_views(rng(seed), content, **crops, **options)["video"] for seed in range(40)])

    middle = views(crop_scales=(1.0, 0.5), crop_middle=True)
    assert 28 < middle.min() < 36
    assert 152 < middle.max() < 164
    spans = np.ptp(middle[:, 0, 0, :, 0].astype(int), axis=1)
    assert spans.min() < 70
    assert spans.max() > 115
    frame = views(crop_scales=(1.0, 0.5), crop_middle=False)
    assert frame.min() < 8
    assert frame.max() > 180


@pytest.mark.parametrize("width", [16, 24, 32, 48, 64, 96, 100, 144, 308])
def test_frames_of_any_width_are_those_of_another_decoder(tmp_path, width):
    write_clip(tmp_path / "a.mp4", num_frames=5, height=64, width=width)
    with av.open(str(tmp_path / "a.mp4")) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    video = preprocess.open_video((tmp_path / "a.mp4").read_bytes())
    frames = preprocess.decode_frames(video, np.array([4, 0, 0, 2]))
    np.testing.assert_allclose(frames.astype(int), expected[[4, 0, 0, 2]], atol=2)


@pytest.mark.parametrize("content", [b"", b"not a video" * 50])
def test_unreadable_videos(content):
    with pytest.raises(preprocess.UnreadableVideoError):
        preprocess.open_video(content)


def test_a_broken_frame_is_an_error_not_a_repetition(tmp_path):
    write_clip(tmp_path / "a.mp4", num_frames=60)
    content = (tmp_path / "a.mp4").read_bytes()
    start = content.index(b"mdat") + 600
    broken = content[:start] + bytes(700) + content[start + 700 :]
    with pytest.raises(preprocess.UnreadableVideoError):
        preprocess.middle_views(broken, num_segments=8, short_side=40, size=32)
