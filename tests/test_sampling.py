import json

import numpy as np
import pytest
from helpers import ROOT

from manet_jax.data import sampling
from manet_jax.models import ClipSpec, OptionError

REFERENCE = ROOT / "../shared/zoo/zoo_sampling.json"  # frames of mmaction2 in test mode; not part of the project


def dense(num_frames, interval, short_videos="spread", **fields):
    spec = ClipSpec(
        num_frames=num_frames, sampling="dense", frame_interval=interval, short_videos=short_videos, **fields
    )
    return {"video": spec}


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


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (0, [1, 8, 16, 23, 31, 38, 46, 53]),  # floor(7.5 i + 1.25): a sixth of a segment
        (1, [3, 11, 18, 26, 33, 41, 48, 56]),  # the single clip's
        (2, [6, 13, 21, 28, 36, 43, 51, 58]),  # floor(7.5 i + 6.25)
    ],
)
def test_eval_frames_of_three_clips_of_segments(clip, expected):
    assert sampling.eval_frames(60, {"video": ClipSpec()}, clip, 3)["video"].tolist() == expected


@pytest.mark.parametrize(
    ("num_frames", "clip", "num_clips", "expected"),
    [
        (20, 0, 1, [5, 8, 11, 14]),  # the clip spans 10 frames, so it starts at 0 ... 10
        (21, 0, 1, [5, 8, 11, 14]),
        (21, 0, 3, [0, 3, 6, 9]),
        (21, 1, 3, [6, 9, 12, 15]),  # round(5.5), half to even
        (21, 2, 3, [11, 14, 17, 20]),
        (10, 0, 1, [0, 3, 6, 9]),
        (10, 1, 2, [0, 3, 6, 9]),
        (9, 0, 1, [0, 3, 5, 8]),  # 8 i / 3: 0, 2.67, 5.33, 8
        (6, 1, 2, [0, 2, 3, 5]),
        (2, 0, 1, [0, 0, 1, 1]),
        (1, 0, 1, [0, 0, 0, 0]),
    ],
)
def test_eval_frames_of_dense_clips_by_hand(num_frames, clip, num_clips, expected):
    assert sampling.eval_frames(num_frames, dense(4, 3), clip, num_clips)["video"].tolist() == expected


def test_eval_frames_that_wrap_continue_with_the_start():
    frames = sampling.eval_frames(47, dense(32, 2, "wrap"))["video"].tolist()
    assert frames == [*range(0, 47, 2), *range(1, 16, 2)]
    spread = sampling.eval_frames(47, dense(32, 2))["video"]
    assert (spread[0], spread[-1]) == (0, 46)
    assert set(np.diff(spread).tolist()) == {1, 2}


@pytest.mark.parametrize("name", ["8 segments", "16x1x1", "32x2x1", "8x32x1", "16x4x1", "32x2x4"])
def test_eval_frames_are_those_of_mmaction2(name):
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not here")
    recorded = json.loads(REFERENCE.read_text())["1.x"][name]
    assert len(recorded) > 4
    length, interval, num_clips = (int(part) for part in name.split("x")) if "x" in name else (8, 1, 1)
    inputs = dense(length, interval, "wrap") if "x" in name else {"video": ClipSpec()}
    for num_frames, expected in recorded.items():
        clips = [sampling.eval_frames(int(num_frames), inputs, clip, num_clips)["video"] for clip in range(num_clips)]
        assert np.concatenate(clips).tolist() == expected


def test_random_frames_of_a_dense_clip_start_anywhere():
    inputs = dense(4, 3)
    draws = np.stack([sampling.random_frames(np.random.default_rng(seed), 21, inputs)["video"] for seed in range(3000)])
    assert (np.diff(draws) == 3).all()
    counts = np.bincount(draws[:, 0], minlength=12)
    assert len(counts) == 12  # starts 0 ... 11: the last frame is 20
    assert np.abs(counts - 250).max() < 5 * np.sqrt(250)


@pytest.mark.parametrize(("short_videos", "expected"), [("spread", [0, 2, 4, 6]), ("wrap", [0, 3, 6, 2])])
def test_random_frames_of_a_short_video_are_not_random(short_videos, expected):
    for seed in range(5):
        drawn = sampling.random_frames(np.random.default_rng(seed), 7, dense(4, 3, short_videos))
        assert drawn["video"].tolist() == expected


def test_inputs_share_the_frames_of_a_dense_clip():
    inputs = dense(8, 2) | {"appearance": dense(2, 2, subset_of=8)["video"]}
    both = sampling.eval_frames(31, inputs)
    assert both["video"].tolist() == [8, 10, 12, 14, 16, 18, 20, 22]
    assert both["appearance"].tolist() == [12, 20]  # numbers 2 and 6 of these
    alone = sampling.eval_frames(31, {"appearance": inputs["appearance"]})
    assert alone["appearance"].tolist() == [12, 20]
    for seed in range(20):
        drawn = sampling.random_frames(np.random.default_rng(seed), 31, inputs)
        assert set(drawn["appearance"].tolist()) < set(drawn["video"].tolist())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": "sparse"}, "sampling is 'sparse'; choose one of segments, dense"),
        ({"sampling": "dense", "short_videos": "loop"}, "short_videos is 'loop'; choose one of spread, wrap"),
        ({"sampling": "dense", "frame_interval": 0}, "frame_interval is 0; it must be at least 1"),
        ({"frame_interval": 2}, "frame_interval is 2; that is for sampling 'dense'"),
        ({"short_videos": "wrap"}, "short_videos is 'wrap'; that is for sampling 'dense'"),
    ],
)
def test_clip_spec_refuses_sampling_it_does_not_know(fields, message):
    with pytest.raises(OptionError) as error:
        ClipSpec(**fields)
    assert error.value.problems == [message]


def test_clip_spec_of_an_older_checkpoint_has_segments():
    older = {"num_frames": 4, "short_side": 40, "crop_size": 32, "box": [0, 0, 1, 1]}
    assert ClipSpec.from_json(older) == ClipSpec(num_frames=4, short_side=40, crop_size=32, box=(0, 0, 1, 1))
