import collections

import cv2
import numpy as np
import pytest
from helpers import stored, write_clip

from manet_jax.data import clips, decoding
from manet_jax.models import ClipSpec
from tfds_ma52.synthetic import writer
from tfds_ma52.video import DamagedVideoError


def rng(seed=0):
    return np.random.default_rng(seed)


def test_resize_short_side_is_opencvs_bilinear():
    frames = rng().integers(0, 256, (2, 30, 20, 3), np.uint8)
    resized = clips.resize_short_side(frames, 10)
    assert resized.shape == (2, 15, 10, 3)
    np.testing.assert_array_equal(resized[1], cv2.resize(frames[1], (10, 15), interpolation=cv2.INTER_LINEAR))
    assert clips.resize_short_side(frames, 20) is frames
    assert clips.resize_short_side(frames.swapaxes(1, 2), 40).shape == (2, 40, 60, 3)


def test_center_crop_by_hand():
    frames = np.arange(6 * 5, dtype=np.uint8).reshape(1, 6, 5, 1).repeat(3, -1)
    assert clips.center_crop(frames, 2)[0, :, :, 0].tolist() == [[11, 12], [16, 17]]
    assert clips.center_crop(frames, 4)[0, 0, 0, 0] == 5  # (6 - 4) // 2 rows, (5 - 4) // 2 columns


def test_random_crop_draws_the_releases_boxes(monkeypatch):
    # The crop's box is read off an image whose channels are its coordinates, before it is scaled.
    boxes = collections.Counter()

    def record(frame, size, **_):
        boxes[(*frame.shape[:2], int(frame[0, 0, 0]), int(frame[0, 0, 1]))] += 1
        return np.zeros((*size[::-1], 3), np.uint8)

    monkeypatch.setattr(cv2, "resize", record)
    y, x = np.mgrid[:240, :200]
    frames = np.stack([y, x, y], -1).astype(np.uint8)[None]
    for seed in range(6000):
        clips.random_crop(rng(seed), frames, (1.0, 0.875, 0.75, 0.66), 100)
    sides = [200, 175, 150, 132]
    sizes = {(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    assert {(h, w) for h, w, _, _ in boxes} == sizes
    assert len(sizes) == 10
    # 13 positions in steps of a quarter of the free room: 3 in the rows of the borders and the middle, 2 between.
    corners = {(top, left) for h, w, top, left in boxes if (h, w) == (132, 132)}
    assert corners == {(r * 27, c * 17) for r, c in clips.CROP_POSITIONS}
    assert sorted(collections.Counter(r for r, _ in clips.CROP_POSITIONS).items()) == [
        *((0, 3), (1, 2), (2, 3), (3, 2), (4, 3)),
    ]
    assert len(corners) == 13
    for h, w in sizes:  # all sizes alike
        assert sum(n for (bh, bw, _, _), n in boxes.items() if (bh, bw) == (h, w)) == pytest.approx(600, abs=120)


def test_random_crop_is_the_same_for_every_frame():
    frame = rng().integers(0, 256, (40, 30, 3), np.uint8)
    crops = clips.random_crop(rng(1), np.stack([frame] * 4), (1.0, 0.66), 24)
    assert crops.shape == (4, 24, 24, 3)
    assert (crops == crops[0]).all()


def test_flip_mirrors_left_to_right():
    frames = rng().integers(0, 256, (2, 3, 4, 3), np.uint8)
    np.testing.assert_array_equal(clips.flip(frames)[1, 2, 0], frames[1, 2, 3])


def test_clips_of_a_video_by_hand(tmp_path):
    write_clip(tmp_path / "a.mp4", num_frames=30, height=64, width=48)
    content = stored((tmp_path / "a.mp4").read_bytes())
    inputs = {"video": ClipSpec(num_frames=4, short_side=40, crop_size=32, crop_scales=(1.0, 0.75))}
    clip = clips.eval_clip(content, inputs)["video"]
    frames = content.frames(np.array([3, 11, 18, 26]))  # floor(7.5 i + 3.75)
    np.testing.assert_array_equal(clip, clips.center_crop(clips.resize_short_side(frames, 40), 32))

    drawn = [clips.train_clip(rng(seed), content, inputs)["video"] for seed in (0, 0, 1)]
    assert drawn[0].shape == (4, 32, 32, 3)
    assert drawn[0].flags.c_contiguous
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_clips_of_two_inputs_share_their_frames():
    # The brightness of the lower half is the frame's number; with the upper half at rest no frame is a new scene.
    frames = np.empty((32, 64, 48, 3), np.uint8)
    frames[:, :32] = rng(0).integers(0, 255, (32, 48, 3))
    frames[:, 32:] = 120 + 4 * np.arange(32)[:, None, None, None]
    content = stored(writer.encode(frames))
    video = ClipSpec(num_frames=8, short_side=40, crop_size=32, crop_scales=(1.0,))
    box = (0.5, 0.25, 1.0, 0.75)
    below = ClipSpec(num_frames=2, subset_of=8, box=box, short_side=40, crop_size=36, crop_scales=(1.0,))
    inputs = {"video": video, "appearance": below}
    both = clips.eval_clip(content, inputs)
    assert both["video"].shape == (8, 32, 32, 3)
    assert both["appearance"].shape == (2, 36, 36, 3)
    # Frames 2, 6 ... 30 of the video; of these eight, numbers 2 and 6, so frames 10 and 26.
    np.testing.assert_allclose(both["appearance"].mean((1, 2, 3)), [160, 224], atol=2)
    alone = clips.eval_clip(content, {"appearance": below})
    assert set(alone) == {"appearance"}
    np.testing.assert_array_equal(alone["appearance"], both["appearance"])

    drawn = [
        clips.train_clip(rng(seed), content, chosen) for seed in range(30) for chosen in (inputs, {"appearance": below})
    ]
    assert [set(clip) for clip in drawn[:2]] == [{"video", "appearance"}, {"appearance"}]
    numbers = (np.stack([clip["appearance"].mean((1, 2, 3)) for clip in drawn]) - 120) / 4
    assert (numbers[:, 0] < 16.5).all()  # one of the first half's, one of the second's
    assert (numbers[:, 1] > 15.5).all()
    assert len(np.unique(np.round(numbers))) > 20


def test_cut_box_goes_by_shares_and_is_never_empty():
    frames = np.arange(2 * 10 * 20 * 3).reshape(2, 10, 20, 3).astype(np.uint8)
    np.testing.assert_array_equal(clips.cut_box(frames, (0.1, 0.25, 0.5, 0.75)), frames[:, 1:5, 5:15])
    np.testing.assert_array_equal(clips.cut_box(frames, (0.0, 0.0, 1.0, 1.0)), frames)
    assert clips.cut_box(frames, (0.5, 0.5, 0.501, 0.501)).shape == (2, 1, 1, 3)


def test_center_crop_first_hides_what_evaluation_does_not_see():
    # A ramp from left to right, so that a pixel's brightness is where it was.
    ramp = np.broadcast_to(4 * np.arange(48, dtype=np.uint8)[:, None], (8, 64, 48, 3))
    content = stored(writer.encode(ramp))

    def spec(center_crop_first):
        scales = (1.0, 0.5)
        clip = ClipSpec(
            num_frames=4, short_side=48, crop_size=32, crop_scales=scales, center_crop_first=center_crop_first
        )
        return {"video": clip}

    def draw(inputs):
        return np.stack([clips.train_clip(rng(seed), content, inputs)["video"] for seed in range(40)])

    assert clips.eval_clip(content, spec(True))["video"].min() > 28  # from column 8
    center = draw(spec(center_crop_first=True))
    assert 28 < center.min() < 36
    assert 152 < center.max() < 164
    spans = np.ptp(center[:, 0, 0, :, 0].astype(int), axis=1)
    assert spans.min() < 70
    assert spans.max() > 115
    whole = draw(spec(center_crop_first=False))
    assert whole.min() < 8
    assert whole.max() > 180


@pytest.mark.parametrize("decode", [decoding.decode_h264, decoding.decode_original])
def test_eval_clip_refuses_a_broken_frame(tmp_path, decode):
    # Rather than repeat the one before.
    write_clip(tmp_path / "a.mp4", num_frames=60)
    content = (tmp_path / "a.mp4").read_bytes()
    start = content.index(b"mdat") + 600
    broken = content[:start] + bytes(700) + content[start + 700 :]
    video = decoding.StoredVideo(broken, 60, decode)
    with pytest.raises(DamagedVideoError):
        clips.eval_clip(video, {"video": ClipSpec(num_frames=8, short_side=40, crop_size=32)})
