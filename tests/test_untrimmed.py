import csv
import dataclasses
import itertools
import json
import tracemalloc

import av
import numpy as np
import pytest
from scipy import stats

from configs import mma52_synthetic
from manet_jax import train
from manet_jax.studies.small_runs import FIELDS
from tfds_ma52 import mma52
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_COUNTS, read_labels
from tfds_ma52.synthetic import pro, skeleton, untrimmed, write_synthetic, writer
from tfds_ma52.synthetic.__main__ import main
from tfds_ma52.synthetic.motions import FPS, MOTIONS
from tfds_ma52.synthetic.untrimmed import PlannedVideo, TimedAction

SETTINGS = {"size": 0.5, "frame_rate": 10, "short_side": 40, "seed": 2}
SIZE = writer.frame_size(40)


@pytest.fixture(scope="module")
def plan():
    return untrimmed.plan_videos(SETTINGS, "train", range(1, 187))


def part_of(action):
    return pro.LABELS.groups[action.class_id]


def timed(name, first, end):
    return TimedAction(pro.LABELS.names.index(name), first, end)


def planned(*actions, frames=240):
    return PlannedVideo("train", 0, 1, frames, actions)


def pose(video):
    """The points of a whole video."""
    parts = list(untrimmed.pose(video, skeleton.Body(), np.random.default_rng(0)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_plan_videos_has_lengths_like_mma52(plan):
    assert len(plan) == 100
    minutes = sum(video.frames for video in plan) / FPS / 60
    assert minutes == pytest.approx(150, abs=8)
    assert all(60 * FPS <= video.frames <= 120 * FPS for video in plan)
    lengths = np.array([action.end - action.first for video in plan for action in video.actions]) / FPS
    assert 0.29 <= lengths.min() < 0.5
    assert 14 < lengths.max() <= 15.04
    assert np.median(lengths) == pytest.approx(2.6, abs=0.3)
    assert lengths.mean() == pytest.approx(4.1, abs=0.5)
    assert len(lengths) / minutes / 60 == pytest.approx(0.31, abs=0.02)  # MMA-52: 3.0 to 3.2 in about 10 s


def test_plan_videos_acts_at_once_only_in_different_parts(plan):
    together = 0
    for video in plan:
        assert list(video.actions) == sorted(video.actions, key=lambda action: action.first)
        for left, right in itertools.combinations(video.actions, 2):
            if left.first < right.end and right.first < left.end:
                assert part_of(left) != part_of(right)
                together += 1
            elif part_of(left) == part_of(right):
                assert right.first - left.end >= 0.45 * FPS
        assert all(0.45 * FPS <= action.first < action.end <= video.frames for action in video.actions)
    assert together > 1000


def test_plan_videos_has_ma52s_long_tail(plan):
    names = [pro.LABELS.names[action.class_id] for video in plan for action in video.actions]
    for part, known in pro.PARTS.items():
        counts = np.array([names.count(name) for name in known])
        if part == "head":  # nodding, of 1,283 clips, is as short as shaking the head: no length changes the shares
            train = np.array([MA52_COUNTS[i][0] for i in (5, 7, 9, 10)])
            assert np.allclose(untrimmed.class_probabilities(part), train / train.sum())
        assert stats.chisquare(counts, untrimmed.class_probabilities(part) * counts.sum()).pvalue > 1e-3
        assert counts.min() > 0


def test_plan_videos_differs_by_split_and_seed(plan):
    assert plan == untrimmed.plan_videos(SETTINGS, "train", range(1, 187))
    for settings, split in ((SETTINGS, "val"), (SETTINGS | {"seed": 3}, "train")):
        other = untrimmed.plan_videos(settings, split, range(1, 187))
        assert [video.actions for video in other[:5]] != [video.actions for video in plan[:5]]


def test_pose_moves_from_an_actions_start_to_its_end():
    """The foot is stretched in 1..3 s and nowhere else; and it is back at rest afterwards."""
    moved, still = (pose(planned(*actions)) for actions in ((timed("stretching feet", 30, 90),), ()))
    distances = {
        side: np.linalg.norm(moved[f"{side} toe"] - still[f"{side} toe"], axis=1) for side in ("left", "right")
    }
    distance = max(distances.values(), key=np.max)
    assert min(distances.values(), key=np.max).max() < 1e-9
    assert max(distance[:31].max(), distance[90:].max()) < 1e-5
    assert distance[31:89].min() > 0
    assert distance[50:70].min() > 0.15  # held


@pytest.mark.parametrize("name", pro.LABELS.names)
def test_pose_neither_jumps_nor_leaves_a_limb(name):
    """Of every class, long and short, with another part in progress; the figure is cut into parts where acts begin."""
    actions = (timed(name, 31, 71), timed(name, 100, 220))
    other = "nodding" if pro.LABELS.groups[pro.LABELS.names.index(name)] != 1 else "spread legs"
    moved, still = pose(planned(*actions, timed(other, 90, 110))), pose(planned())
    names = [joint for joint in moved if not joint.startswith("object")]
    paths = np.stack([moved[joint] - still[joint] for joint in names], axis=1)  # [t, joint, 3]
    assert np.abs(paths[[0, 30, 80, 239]]).max() < 1e-9
    assert np.abs(paths[31:71]).max() > 0.02
    steps = np.linalg.norm(np.diff(paths, axis=0), axis=-1).max(1)
    assert steps.max() < 0.16  # metres a frame: fingers on their way to the hair and back in a second
    for cut in (31, 90, 100):  # the step over it is like those before and after it
        assert steps[cut - 1] < max(steps[cut - 2], steps[cut]) + 0.005


def test_pose_repeats_what_lasts_long():
    video = planned(timed("patting legs", 30, 30 + 10 * FPS), frames=14 * FPS)
    moved, still = pose(video), pose(dataclasses.replace(video, actions=()))
    height = max((moved[f"{s} wrist"] - still[f"{s} wrist"] for s in ("left", "right")), key=lambda x: np.abs(x).max())
    lifted = height[:, 1] > 0.5 * height[:, 1].max()
    assert np.count_nonzero(np.diff(lifted.astype(int)) == 1) > 15


def test_draw_frames_takes_every_third_frame():
    video = planned(timed("patting legs", 31, 71), timed("nodding", 50, 100))
    every, third = (
        np.stack(list(untrimmed.draw_frames(video, SETTINGS | {"frame_rate": rate}, SIZE))).astype(int)
        for rate in (30, 10)
    )
    assert (len(every), len(third)) == (240, 80)
    assert np.abs(every[::3] - third).mean() < 4  # the sensor's noise differs


def test_draw_frames_holds_a_few_seconds_at_a_time():
    """Four minutes take no more memory than one."""
    peaks = []
    for minutes in (1, 4):
        frames = untrimmed.draw_frames(planned(frames=minutes * 60 * FPS), SETTINGS | {"frame_rate": 10}, SIZE)
        tracemalloc.start()
        for _ in itertools.islice(frames, 110):  # past the first cut
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_rows_by_hand():
    video = planned(timed("nodding", 31, 71), timed("shrugging", 61, 66), frames=100)
    nodding, shrugging = (str(pro.LABELS.names.index(name)) for name in ("nodding", "shrugging"))
    assert untrimmed.rows([video], 10) == [
        ("0", "train0000", "10", "24", nodding, "34", "10.0"),
        ("1", "train0000", "20", "22", shrugging, "34", "10.0"),
    ]
    assert untrimmed.rows([dataclasses.replace(video, split="test", number=3)], 30) == [
        ("0", "test0003", "0", "20", "3", "100", "30.0")
    ]


def test_write_synthetic_writes_what_mma52_reads(drawn_untrimmed):
    assert {path.name for path in drawn_untrimmed.iterdir()} == {
        *("train", "val", "test", "train.csv", "val.csv", "test.csv", "label_name.txt", "synthetic.json"),
    }
    labels, videos = mma52.read_videos(drawn_untrimmed)
    assert labels == read_labels(drawn_untrimmed / "label_name.txt") == pro.LABELS
    settings = json.loads((drawn_untrimmed / "synthetic.json").read_text())
    people = range(1, 187)
    for video in videos:
        (true,) = untrimmed.plan_videos(settings, video.split, people if video.split != "test" else range(1, 206))
        with av.open(str(mma52.find_video(drawn_untrimmed, video))) as container:
            stream = container.streams.video[0]
            size = stream.width, stream.height, stream.frames, stream.average_rate
        assert size == (*SIZE[::-1], round(10 * video.duration), 10)
        assert video.duration == pytest.approx(true.frames / FPS, abs=0.1)
        expected = () if video.split == "test" else true.actions
        assert [action.class_id for action in video.actions] == [action.class_id for action in expected]
        found = [(action.start, action.end) for action in video.actions]
        assert np.allclose(found, [(action.first / FPS, action.end / FPS) for action in expected] or found, atol=0.1)
    assert [video.split for video in videos] == ["train", "val", "test"]
    with (drawn_untrimmed / "test.csv").open() as file:
        assert [list(row.values())[2:5] for row in csv.DictReader(file)] == [["0", "20", "0"]]


def test_write_synthetic_gives_the_same_videos_on_two_processes(drawn_untrimmed, tmp_path, capsys):
    """One that was stopped resumes; one with other settings is refused."""
    settings = ["--untrimmed", "--size=0.001", "--test", "--short_side=40", "--frame_rate=10"]
    (tmp_path / "synthetic.json").write_bytes((drawn_untrimmed / "synthetic.json").read_bytes())
    (tmp_path / "val").mkdir()
    (tmp_path / "val/val0000.mp4").write_bytes(b"kept")
    assert main([str(tmp_path), *settings, "--processes=2"]) == 0
    assert (tmp_path / "val/val0000.mp4").read_bytes() == b"kept"
    for name in ("train/train0000.mp4", "test/test0000.mp4", "train.csv", "test.csv"):
        assert (tmp_path / name).read_bytes() == (drawn_untrimmed / name).read_bytes()
    assert main([str(tmp_path), "--size=0.001", "--test", "--short_side=40", "--frame_rate=10"]) == 2
    assert "other settings: untrimmed (True there, False asked for); give another folder" in capsys.readouterr().err


def test_write_synthetic_knows_sets_that_do_not_say_untrimmed(drawn_untrimmed, tmp_path, capsys):
    settings = json.loads((drawn_untrimmed / "synthetic.json").read_text())
    del settings["untrimmed"]
    (tmp_path / "synthetic.json").write_text(json.dumps(settings))
    for name in ("train_list_videos.txt", "val_list_videos.txt", "test_list_videos.txt", "label_name.txt"):
        (tmp_path / name).touch()
    write_synthetic(tmp_path, size=1e-3, test=True, short_side=40, frame_rate=10)
    assert "already holds this synthetic set" in capsys.readouterr().err


def test_write_synthetic_refuses_two_kinds(tmp_path, capsys):
    with pytest.raises(UserError, match="pro and untrimmed are two sets; give one of them"):
        write_synthetic(tmp_path, size=0.1, pro=True, untrimmed=True)
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--preview", "--untrimmed"])
    assert "--preview takes no --untrimmed" in capsys.readouterr().err


def test_every_class_is_at_rest_before_and_after_it():
    """What `_lasting` asks of the table: no class of the set is one of time reversed."""
    assert not any(MOTIONS[i].reverse for i in map(untrimmed.MA52_NAMES.index, pro.LABELS.names))


@pytest.mark.slow
def test_config_trains_on_windows_of_the_drawn_set(drawn_untrimmed, tmp_path):
    """It finds the set drawn, as it would draw it, and builds its windows."""
    config = mma52_synthetic.get_config()
    assert (config.data.synthetic.untrimmed, config.multilabel.loss) == (True, "asymmetric")
    fields = {"data.synthetic.size": 1e-3, "data.synthetic.short_side": 40, "data.windows.stride": 8.0}
    fields |= {"data.manual_dir": str(tmp_path / "drawn"), "num_epochs": 2.0, "eval.every_epochs": 1.0}
    config.update_from_flattened_dict(FIELDS | fields)
    for name in ("train", "val", "train.csv", "val.csv", "label_name.txt"):
        (tmp_path / "drawn").mkdir(exist_ok=True)
        (tmp_path / "drawn" / name).symlink_to(drawn_untrimmed / name)
    settings = json.loads((drawn_untrimmed / "synthetic.json").read_text())
    (tmp_path / "drawn/synthetic.json").write_text(json.dumps(settings | {"test": False}))
    results = train.train_and_evaluate(config, tmp_path / "run")
    assert results["best"]["map"] > 0
