import dataclasses
import shutil

import av
import numpy as np
import pytest

from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES, read_labels
from tfds_ma52.synthetic import figure, motions, skeleton, write_synthetic, writer
from tfds_ma52.synthetic.__main__ import main

SETTINGS = {"train_per_class": 1, "val_per_class": 0, "test_per_class": 0, "short_side": 64, "seed": 3, "version": 1}
HANDS = ("palm", "touch", "tip 1", "tip 2", "wrist")


def name_id(name):
    return MA52_NAMES.index(name)


def pose(class_id, seed, **changes):
    rng = np.random.default_rng(seed)
    body, variation = skeleton.draw_body(rng), motions.draw_variation(rng)
    variation = dataclasses.replace(variation, **changes)
    return skeleton.pose_trajectory(class_id, body, variation)


def stack(points, names=None):
    return np.stack([points[name] for name in names or points], axis=1)


def span(points):
    """How far a point [t, 3] gets from where it starts."""
    return np.linalg.norm(points - points[0], axis=-1).max()


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return stream.codec_context.name, float(stream.average_rate), np.stack(frames)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "set"
    arguments = ["--train_per_class=1", "--val_per_class=1", "--test_per_class=1", "--short_side=32", "--processes=2"]
    assert main([str(root), *arguments]) == 0
    return root


def test_layout(folder):
    lists = {f"{split}_list_videos.txt" for split in ("train", "val", "test")}
    found = {path.name for path in folder.iterdir()}
    assert found == {"train", "val", "test", "label_name.txt", "synthetic.json"} | lists
    assert read_labels(folder / "label_name.txt").names == MA52_NAMES
    subjects = {}
    for split in ("train", "val", "test"):
        text = (folder / f"{split}_list_videos.txt").read_bytes().decode()
        assert text.count("\r\n") == text.count("\n") == len(MA52_NAMES)
        names, labels = zip(*(line.split(" ") for line in text.split("\r\n")[:-1]), strict=True)
        assert set(names) == {path.name for path in (folder / split).iterdir()}
        if split == "test":
            assert names == tuple(f"test{i:04d}.mp4" for i in range(52))
            assert set(labels) == {"0"}
        else:
            assert sorted(map(int, labels)) == list(range(52))
            assert list(map(int, labels)) != list(range(52))  # the order gives nothing away
            subjects[split] = {name.split("_")[0] for name in names}
            assert all(len(subject) == 4 for subject in subjects[split])
    assert not subjects["train"] & subjects["val"]
    assert len(subjects["train"]) > 20


def test_subjects_of_the_anonymous_split_are_disjoint_too():
    clips = writer.plan_clips(SETTINGS | {"train_per_class": 9, "val_per_class": 9, "test_per_class": 9})
    subjects = [{clip.subject for clip in clips if clip.split == split} for split in ("train", "val", "test")]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) > 150


def test_label_name_file_has_crlf(folder):
    lines = (folder / "label_name.txt").read_bytes().split(b"\r\n")
    assert lines[9] == b"9\tnodding"
    assert lines[52:] == [b""]


def test_clips_decode(folder):
    paths = sorted((folder / "train").iterdir())
    lengths = set()
    for path in paths[::3]:
        codec, rate, frames = decode(path)
        assert (codec, rate) == ("h264", 30.0)
        assert 45 <= len(frames) <= 75
        assert frames.shape[1:] == (32, 32, 3)
        assert frames.std(axis=(1, 2)).min() > 5
        lengths.add(len(frames))
    assert len(lengths) > 5


def test_encoded_frames_look_like_the_drawn_ones(tmp_path):
    frames = writer.render_clip(writer.Clip("train", 0, 0, 1), SETTINGS | {"short_side": 128})
    writer.encode(tmp_path / "clip.mp4", frames)
    _, _, decoded = decode(tmp_path / "clip.mp4")
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(float) - frames).mean() < 6


def test_process_count_and_order_change_nothing(tmp_path):
    clips = writer.plan_clips(SETTINGS)[:6]
    for processes, order in ((1, clips), (2, clips[::-1])):
        (tmp_path / str(processes) / "train").mkdir(parents=True)
        writer._write_clips(order, tmp_path / str(processes), SETTINGS, processes)
    for clip in clips:
        one, two = ((tmp_path / str(processes) / "train" / clip.name).read_bytes() for processes in (1, 2))
        assert one == two


def test_seed_changes_person_and_scene(monkeypatch):
    drawn, render = [], figure.render
    monkeypatch.setattr(figure, "render", lambda *args: drawn.append(args) or render(*args))
    clip = writer.Clip("train", 0, 0, 1)
    frames = [writer.render_clip(clip, SETTINGS | {"seed": seed}) for seed in (0, 0, 1)]
    assert np.array_equal(frames[0], frames[1])
    (_, *same, _, _), (_, *again, _, _), (_, *other, _, _) = drawn
    assert same == again
    assert all(ours != theirs for ours, theirs in zip(same, other, strict=True))  # body, looks and scene


def test_whole_figure_is_in_the_frame():
    outside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        points = pose(9, seed)
        pixels, _ = figure._Camera(figure.draw_scene(rng), 128, 128).project(
            stack(points, ["crown", "left toe", "right toe"])
        )
        outside += bool(np.any(pixels < 0) or np.any(pixels > (128, 128)))
        assert np.ptp(pixels[..., 1]) > 0.6 * 128
    assert outside <= 1


@pytest.mark.parametrize(
    ("forwards", "backwards"),
    [("spread legs", "closing legs"), ("stretching feet", "retracting feet"), ("tilting head", "head up")],
)
def test_pairs_differ_only_in_the_direction_of_time(forwards, backwards):
    for seed in range(5):
        first, second = pose(name_id(forwards), seed), pose(name_id(backwards), seed)
        assert list(first) == list(second)
        assert all(np.array_equal(first[name], second[name][::-1]) for name in first)
        assert not np.allclose(stack(first), stack(second), atol=0.02)


def change(class_name, seed, name, origin, axis):
    """How far a point of the figure has moved against another one by the end of the clip."""
    way = relative(pose(name_id(class_name), seed), name, origin)[:, axis]
    return way[-1] - way[0]


def test_pairs_go_the_way_their_names_say():
    for seed in range(5):
        assert change("spread legs", seed, "left knee", "right knee", 0) > 0.1
        assert change("closing legs", seed, "left knee", "right knee", 0) < -0.1
        feet = ("left toe", "right toe")
        assert max(change("stretching feet", seed, toe, "pelvis", 2) for toe in feet) > 0.1
        assert min(change("retracting feet", seed, toe, "pelvis", 2) for toe in feet) < -0.1
        assert change("head up", seed, "nose", "head", 1) > 0.02
        assert change("tilting head", seed, "nose", "head", 1) < -0.02


def relative(points, name, origin):
    return points[name] - points[origin]


# For each effector of the table, how far it moves, in metres and against the part that carries it.
MEASURES = {
    "torso": lambda p: span(p["chest"] - p["pelvis"]),
    "body": lambda p: span(p["left shoulder"]),
    "shoulders": lambda p: min(span(relative(p, f"{side} shoulder", "chest")) for side in ("left", "right")),
    "head": lambda p: max(span(relative(p, name, "head")) for name in ("nose", "crown")),
    "arm": lambda p: max(span(p[f"{side} wrist"]) for side in ("left", "right")),
    "hand": lambda p: max(span(p[f"{side} touch"]) for side in ("left", "right")),
    "hands": lambda p: max(span(p[f"{side} touch"]) for side in ("left", "right")),
    "fingers": lambda p: max(span(relative(p, f"{side} tip 2", f"{side} palm")) for side in ("left", "right")),
    "legs": lambda p: max(span(p[f"{side} {name}"]) for side in ("left", "right") for name in ("knee", "ankle")),
    "foot": lambda p: max(span(p[f"{side} toe"]) for side in ("left", "right")),
    "heel": lambda p: max(span(p[f"{side} heel"]) for side in ("left", "right")),
}


@pytest.mark.parametrize("class_id", range(52))
def test_effector_moves_by_more_than_idle_sway(class_id, monkeypatch):
    effector = motions.MOTIONS[class_id].effector
    for seed in range(4):
        moved = MEASURES[effector](pose(class_id, seed))
        monkeypatch.setitem(motions.MOTIONS, class_id, motions.Motion(effector))
        idle = MEASURES[effector](pose(class_id, seed))
        monkeypatch.undo()
        assert moved > max(3 * idle, 0.02), (moved, idle)


# Where the hand ends up, within so many metres, for places that a point of the figure marks.
TARGETS = {
    "touching nose": ("nose", 0.03),
    "pushing glasses": ("bridge", 0.06),
    "rubbing eyes": ("eye", 0.06),
    "touching ears": ("ear", 0.04),
    "covering mouth": ("mouth", 0.06),
    "scratching or touching face": ("mouth", 0.08),
    "scratching or touching forehead": ("brow inner", 0.08),
    "playing or tidying hair": ("crown", 0.10),
    "scratching or touching hindbrain": ("nape", 0.12),
    "scratching or touching neck": ("neck", 0.12),
    "scratching or touching shoulder": ("shoulder", 0.08),
    "touching legs": ("knee", 0.10),
    "scratching feet": ("ankle", 0.12),
}


@pytest.mark.parametrize("name", TARGETS)
def test_hand_reaches_its_target(name):
    target, limit = TARGETS[name]
    for seed in range(4):
        points = pose(name_id(name), seed)
        marks = [points[mark] for mark in (target, f"left {target}", f"right {target}") if mark in points]
        hands = stack(points, [f"{side} {part}" for side in ("left", "right") for part in HANDS])
        distance = np.min([np.linalg.norm(hands - mark[:, None], axis=-1).min(axis=1) for mark in marks], axis=0)
        assert distance.min() < limit
        assert distance[0] > distance.min() + 0.05


def test_limbs_keep_their_lengths():
    for class_id in range(52):
        rng = np.random.default_rng(class_id)
        body, variation = skeleton.draw_body(rng), motions.draw_variation(rng)
        points = skeleton.pose_trajectory(class_id, body, variation)
        bones = (("shoulder", "elbow", body.upper_arm), ("elbow", "wrist", body.forearm))
        bones += (("hip", "knee", body.thigh), ("knee", "ankle", body.shin))
        for side in ("left", "right"):
            for first, second, length in bones:
                bone = np.linalg.norm(points[f"{side} {first}"] - points[f"{side} {second}"], axis=-1)
                np.testing.assert_allclose(bone, length, rtol=1e-6)


def test_limb_falls_short_of_what_it_cannot_reach():
    root, target, pole = np.zeros((1, 3)), np.array([[0.0, 0.0, 2.0]]), np.array([[0.0, 1.0, 0.0]])
    joint, end = skeleton._two_bones(root, target, 0.3, 0.2, pole)
    np.testing.assert_allclose(np.linalg.norm([joint - root, end - joint], axis=-1).ravel(), [0.3, 0.2])
    assert 0.49 < end[0, 2] < 0.5


def test_no_two_classes_have_the_same_trajectory():
    poses = np.stack([stack(pose(class_id, 1, both=False, returns=True))[::8] for class_id in range(52)])
    distance = np.linalg.norm(poses[:, None] - poses[None], axis=-1).max(axis=(2, 3))
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 0.02


def test_classes_start_alike():
    # Where an action begins in another pose, its name says so.
    special = {
        name_id(name) for name in ("head up", "closing legs", "retracting feet", "curling legs", "playing objects")
    }
    starts = [stack(pose(class_id, 2))[0] for class_id in range(52) if class_id not in special]
    assert np.ptp(starts, axis=0).max() < 1e-9
    assert all(np.abs(stack(pose(class_id, 2))[0] - starts[0]).max() > 0.05 for class_id in special)


def test_draws_cover_both_sides_and_all_lengths():
    draws = [motions.draw_variation(np.random.default_rng(seed)) for seed in range(400)]
    assert {draw.side for draw in draws} == {-1, 1}
    assert (min(draw.frames for draw in draws), max(draw.frames for draw in draws)) == (45, 75)


def test_complete_folder_is_left_alone(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_synthetic(folder, train_per_class=1, val_per_class=1, test_per_class=1, short_side=32)
    assert "already holds" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_partial_folder_is_completed(folder, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    (root / "label_name.txt").unlink()
    kept, lost, *_ = sorted((root / "val").iterdir())
    content = lost.read_bytes()
    kept.write_bytes(b"finished earlier")
    lost.rename(lost.with_name(lost.name + ".partial"))
    write_synthetic(root, train_per_class=1, val_per_class=1, test_per_class=1, short_side=32)
    assert kept.read_bytes() == b"finished earlier"
    assert lost.read_bytes() == content
    assert (root / "label_name.txt").exists()
    assert not list(root.rglob("*.partial"))


def test_other_settings_are_refused(folder, capsys):
    message = (
        f"{folder} holds a synthetic set with other settings: short_side (32 there, 64 asked for), "
        "seed (0 there, 5 asked for); give another folder or the same settings."
    )
    with pytest.raises(UserError) as error:
        write_synthetic(folder, train_per_class=1, val_per_class=1, test_per_class=1, short_side=64, seed=5)
    assert str(error.value) == message
    assert main([str(folder), "--seed=5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "train_list_videos.txt").write_text("the user's own")
    with pytest.raises(UserError, match=r"holds files but no synthetic\.json"):
        write_synthetic(tmp_path, train_per_class=1, val_per_class=0)
    assert [path.name for path in tmp_path.iterdir()] == ["train_list_videos.txt"]


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--train_per_class=0", "train_per_class"),
        ("--val_per_class=-1", "val_per_class"),
        ("--short_side=63", "short_side"),
        ("--short_side=8", "short_side"),
        ("--seed=-1", "seed"),
        ("--processes=-1", "processes"),
    ],
)
def test_bad_options(option, word, tmp_path, capsys):
    assert main([str(tmp_path / "set"), option]) == 2
    error = capsys.readouterr().err
    assert error.startswith(word)
    assert error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_unknown_options_and_files(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--train_per_class=many"])
    assert stop.value.code == 2
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main([str(tmp_path / "file" / "below")]) == 2
    assert "cannot write there" in capsys.readouterr().err
