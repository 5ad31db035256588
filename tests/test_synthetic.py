import dataclasses
import shutil
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from PIL import Image

from manet_jax import ablation
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES, read_labels
from tfds_ma52.synthetic import figure, motions, skeleton, write_synthetic, writer
from tfds_ma52.synthetic.__main__ import main

TINY = 1e-6  # one clip of each class in every split
SETTINGS = {
    "size": TINY,
    "pro": False,
    "subjects": "disjoint",
    "test": False,
    "short_side": 64,
    "seed": 3,
    "version": 1,
}
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
    arguments = [f"--size={TINY}", "--subjects=disjoint", "--test", "--short_side=40", "--processes=2"]
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


def subjects_of(clips):
    return [{clip.subject for clip in clips if clip.split == split} for split in ("train", "val", "test")]


def test_subjects_are_disjoint_or_shared_as_in_ma52():
    settings = SETTINGS | {"size": 0.05, "test": True}
    disjoint = subjects_of(writer.plan_clips(settings))
    assert sum(map(len, disjoint)) == len(set.union(*disjoint)) > 150
    train, val, test = subjects_of(writer.plan_clips(settings | {"size": 1.0, "subjects": "shared"}))
    assert train == val
    assert (len(train), len(test)) == (186, 205)


def test_class_counts_are_ma52s_times_one_number():
    clips = writer.plan_clips(SETTINGS | {"size": 1, "test": True})
    counts = {split: np.bincount([c.acts[0] for c in clips if c.split == split]) for split in ("train", "val", "test")}
    assert [sum(each) for each in counts.values()] == [11250, 5586, 5586]
    # From the table of the annotation lists: nodding, covering face, turning around.
    assert [counts[split][name_id("nodding")] for split in counts] == [1283, 641, 2565 - 1283 - 641]
    assert [counts[split][name_id("covering face")] for split in counts] == [6, 2, 2]
    assert [counts[split][name_id("turning around")] for split in counts] == [9, 3, 3]
    bounds = np.searchsorted(np.cumsum([5, 6, 13, 8, 6, 10, 4]), np.arange(52), side="right")
    assert np.bincount(bounds, counts["train"]).tolist() == [644, 4473, 2626, 1441, 317, 719, 1030]
    assert np.bincount(bounds, counts["val"]).tolist() == [315, 2233, 1304, 717, 152, 353, 512]

    small = np.bincount([c.acts[0] for c in writer.plan_clips(SETTINGS | {"size": 0.1}) if c.split == "train"])
    assert small[name_id("nodding")] == 128
    assert small[name_id("covering face")] == 1


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
        assert frames.shape[1:] == (48, 40, 3)
        assert frames.std(axis=(1, 2)).min() > 5
        lengths.add(len(frames))
    assert len(lengths) > 5


def test_encoded_frames_look_like_the_drawn_ones(tmp_path):
    frames = writer.render_clip(writer.Clip("train", 0, (0,), 1), SETTINGS | {"short_side": 128})
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
    clip = writer.Clip("train", 0, (0,), 1)
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
        pixels, _ = figure._Camera(figure.draw_scene(rng), 308, 256).project(
            stack(points, ["crown", "left toe", "right toe"])
        )
        # Inside the released test crop, the middle 224 x 224.
        outside += bool(np.any(pixels < (16, 42)) or np.any(pixels > (240, 266)))
        assert np.ptp(pixels[..., 1]) > 0.6 * 256
    assert outside <= 6  # of 60; somewhat taller people lose some hair or a toe


@pytest.mark.parametrize(("forwards", "backwards"), ablation.REVERSED_PAIRS)
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
        assert change("bowing head", seed, "nose", "head", 1) < -0.02


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
    "pushing glasses": ("lens", 0.06),
    "rubbing eyes": ("eye", 0.06),
    "touching ears": ("ear", 0.04),
    "covering mouth": ("mouth", 0.06),
    "scratching or touching face": ("mouth", 0.08),
    "scratching or touching forehead": ("brow", 0.08),
    "playing or tidying hair": ("crown", 0.10),
    "scratching or touching hindbrain": ("head", 0.16),
    "scratching or touching neck": ("neck", 0.12),
    "scratching or touching shoulder": ("shoulder", 0.08),
    "touching legs": ("knee", 0.10),
    "scratching feet": ("ankle", 0.12),
}


@pytest.mark.parametrize("name", TARGETS)
def test_hand_reaches_its_target(name):
    target, limit = TARGETS[name]
    for seed in range(4):
        points = pose(name_id(name), seed, hold="")
        marks = [points[mark] for mark in (target, f"left {target}", f"right {target}") if mark in points]
        hands = stack(points, [f"{side} {part}" for side in ("left", "right") for part in HANDS])
        distance = np.min([np.linalg.norm(hands - mark[:, None], axis=-1).min(axis=1) for mark in marks], axis=0)
        assert distance.min() < limit
        assert distance[0] > distance.min() + 0.05


# What a class's name says: a point, against which other one, along which axis (x to the person's left, y up, z
# forwards), and whether it goes there once, there and back, or to and fro.
X, Y, Z = range(3)
# The left limb acts, the others rest on the thighs and the floor.
CALM = {"hold": "", "crossed": False, "side": 1, "both": False, "returns": False, "frames": 70}
WAYS = {
    "shaking body": ("chest", "pelvis", X, "to and fro"),
    "sitting straightly": ("chest", "pelvis", Y, "up"),
    "shrugging": ("left shoulder", "chest", Y, "up and down"),
    "rising up": ("pelvis", "left toe", Y, "up"),
    "bowing head": ("nose", "head", Y, "down"),
    "head up": ("nose", "head", Y, "up"),
    "tilting head": ("crown", "head", X, "aside"),
    "turning head": ("nose", "head", X, "aside"),
    "nodding": ("nose", "head", Y, "to and fro"),
    "shaking head": ("nose", "head", X, "to and fro"),
    "stretching arms": ("left wrist", "left shoulder", Z, "forwards"),
    "retracting arms": ("left wrist", "left shoulder", Z, "forwards and back"),
    "waving": ("left wrist", "left elbow", X, "to and fro"),
    "rubbing hands": ("left wrist", "right wrist", Z, "to and fro"),
    "patting legs": ("left touch", "left knee", Y, "to and fro"),
    "scratching legs": ("left touch", "left knee", Z, "to and fro"),
    "shaking legs": ("left heel", "left toe", Y, "to and fro"),
    "tiptoe": ("left heel", "left toe", Y, "up"),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_part_moves_as_the_name_says(name):
    point, origin, axis, way = WAYS[name]
    for seed in range(3):
        curve = relative(pose(name_id(name), seed, **CALM), point, origin)[:, axis]
        assert np.ptp(curve) > 0.01
        share = (curve - curve.min()) / np.ptp(curve)
        changes = np.count_nonzero(np.diff(share[np.abs(share - 0.5) > 0.2] > 0.5))
        if way == "to and fro":
            assert changes >= 2
            assert np.abs(np.diff(curve[10:])).sum() > 2.5 * np.ptp(curve)
        else:
            assert changes == (2 if "and" in way else 1)
            farthest = curve[np.abs(curve - curve[0]).argmax()]
            assert way == "aside" or (farthest > curve[0]) == (way != "down")


def test_where_hands_end_without_a_mark():
    for seed in range(3):
        ends = {
            name: {point: way[np.linalg.norm(way - way[0], axis=-1).argmax()] for point, way in reached.items()}
            for name in MA52_NAMES
            for points in [pose(name_id(name), seed, **CALM)]
            for reached in [{point: relative(points, point, "chest") for point in ("left touch", "right touch")}]
        }
        chest, back = ends["scratching or touching chest"], ends["scratching or touching back"]
        assert chest["left touch"][Z] > 0.03
        assert back["left touch"][Z] < -0.05
        akimbo = ends["arms akimbo"]
        assert akimbo["left touch"][X] > 0.1 > -0.1 > akimbo["right touch"][X]
        assert max(akimbo["left touch"][Y], akimbo["right touch"][Y]) < -0.2
        crossed = ends["crossing arms"]
        assert crossed["left touch"][X] < 0 < crossed["right touch"][X]
        assert abs(ends["covering face"]["left touch"][X]) < 0.1
        assert ends["covering face"]["right touch"][Y] > 0.1
        assert ends["waving"]["left touch"][Y] > ends["illustrative gestures"]["left touch"][Y] + 0.1
        meeting = pose(name_id("putting hands together"), seed, **CALM)
        between = np.linalg.norm(relative(meeting, "left touch", "right touch"), axis=-1)
        assert between.min() < 0.06
        assert between[0] > 0.12


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

    def start(class_id):
        return stack(pose(class_id, 2, hold="", crossed=False))[0]

    starts = [start(class_id) for class_id in range(52) if class_id not in special]
    assert np.ptp(starts, axis=0).max() < 1e-9
    assert all(np.abs(start(class_id) - starts[0]).max() > 0.05 for class_id in special)


def test_draws_cover_both_sides_and_all_lengths():
    draws = [motions.draw_variation(np.random.default_rng(seed)) for seed in range(400)]
    assert {draw.side for draw in draws} == {-1, 1}
    assert (min(draw.frames for draw in draws), max(draw.frames for draw in draws)) == (45, 75)


def test_complete_folder_is_left_alone(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_synthetic(folder, size=TINY, subjects="disjoint", test=True, short_side=40)
    assert "already holds" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_second_run_waits_for_the_first_and_draws_nothing_again(folder, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    lost = sorted((root / "val").iterdir())[:8]
    for path in (root / "label_name.txt", *lost):
        path.unlink()
    command = [
        sys.executable,
        "-m",
        "tfds_ma52.synthetic",
        root,
        "--size",
        str(TINY),
        "--subjects",
        "disjoint",
        "--test",
    ]
    first = subprocess.Popen([*command, "--short_side", "40"], stderr=subprocess.PIPE, text=True)
    while not any(path.exists() for path in lost):
        assert first.poll() is None
        time.sleep(0.005)
    drawn = {path: path.stat().st_mtime_ns for path in lost if path.exists()}
    assert len(drawn) < 8
    write_synthetic(root, size=TINY, subjects="disjoint", test=True, short_side=40)
    _, messages = first.communicate()
    assert first.returncode == 0, messages
    assert all(path.stat().st_mtime_ns == moment for path, moment in drawn.items())
    assert all(path.read_bytes() == (folder / "val" / path.name).read_bytes() for path in lost)
    assert not list(root.rglob("*.partial"))


def test_partial_folder_is_completed(folder, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    (root / "label_name.txt").unlink()
    kept, lost, *_ = sorted((root / "val").iterdir())
    content = lost.read_bytes()
    kept.write_bytes(b"finished earlier")
    lost.rename(lost.with_name(lost.name + ".partial"))
    write_synthetic(root, size=TINY, subjects="disjoint", test=True, short_side=40)
    assert kept.read_bytes() == b"finished earlier"
    assert lost.read_bytes() == content
    assert (root / "label_name.txt").exists()
    assert not list(root.rglob("*.partial"))


def test_other_settings_are_refused(folder, capsys):
    message = (
        f"{folder} holds a synthetic set with other settings: short_side (40 there, 64 asked for), "
        "seed (0 there, 5 asked for); give another folder or the same settings."
    )
    with pytest.raises(UserError) as error:
        write_synthetic(folder, size=TINY, subjects="disjoint", test=True, short_side=64, seed=5)
    assert str(error.value) == message
    assert main([str(folder), "--seed=5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 2, "train_per_class": 24}', "was drawn by another version of this program; remove it or give"),
        ("[1]", "synthetic.json is damaged; remove the folder or give another one."),
        ("{", "synthetic.json is damaged; remove the folder or give another one."),
    ],
)
def test_a_folder_of_another_version_or_damaged_is_refused(content, message, tmp_path):
    (tmp_path / "synthetic.json").write_text(content)
    with pytest.raises(UserError) as error:
        write_synthetic(tmp_path, size=TINY)
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic.json"]


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "train_list_videos.txt").write_text("the user's own")
    with pytest.raises(UserError, match=r"holds files but no synthetic\.json"):
        write_synthetic(tmp_path, size=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["train_list_videos.txt"]


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--size=0", "size"),
        ("--size=nan", "size"),
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
        main([str(tmp_path), "--size=many"])
    assert stop.value.code == 2
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main([str(tmp_path / "file" / "below")]) == 2
    assert "cannot be read or written" in capsys.readouterr().err


@pytest.fixture(scope="module")
def drawn_person():
    rng = np.random.default_rng(0)
    body, looks, scene = skeleton.draw_body(rng), figure.draw_looks(rng, 0), figure.draw_scene(rng)
    return body, looks, dataclasses.replace(scene, noise=0.0, yaw=0.0, light_from=0.0)


def draw(person, points, **scene_changes):
    body, looks, scene = person
    scene = dataclasses.replace(scene, **scene_changes)
    return figure.render(points, body, looks, scene, (308, 256), np.random.default_rng(0))


def test_what_is_nearer_hides_what_is_farther(drawn_person):
    # Seen from the front, a hand that covers the face hides eyes and mouth; one behind the head is hidden itself.
    body, looks, scene = drawn_person
    person = (body, dataclasses.replace(looks, long_hair=False, glasses=False), scene)

    rest = dict.fromkeys(motions._REST, 0.0)

    def face(place):
        points = pose(name_id("nodding"), 1, frames=45, hold=place, crossed=False, rest=rest)
        pixels, _ = figure._Camera(scene, 308, 256).project(points["nose"][:1])
        x, y = pixels[0].astype(int)
        return draw(person, points)[0, y - 8 : y + 14, x - 9 : x + 9].astype(float)

    assert np.abs(face("mouth") - face("")).mean() > 8
    assert np.abs(face("back of the head") - face("")).mean() < 1


def test_light_comes_from_its_side(drawn_person):
    points = pose(name_id("nodding"), 1, frames=45, hold="")
    left, right = (draw(drawn_person, points, light_from=side)[0].astype(float) for side in (-1.0, 1.0))
    difference = (right - left).mean(2)
    assert difference[:, 160:].mean() > difference[:, :96].mean() + 5


def test_a_hand_that_does_not_act_may_lie_anywhere_and_keeps_still():
    for class_id in (name_id("nodding"), name_id("touching nose")):
        points = pose(class_id, 1, hold="cheek", side=1, both=False)
        still = points["right touch"] - points["head"]
        assert np.linalg.norm(still[0]) < 0.2
        assert span(still) < 0.05
        assert np.linalg.norm((points["left touch"] - points["head"])[0]) > 0.3


def test_legs_that_do_not_act_may_lie_crossed():
    crossed = pose(name_id("nodding"), 1, crossed=True, side=1)
    free = pose(name_id("nodding"), 1, crossed=False, side=1)
    assert np.abs(crossed["left ankle"] - free["left ankle"]).max() > 0.2
    acting = [pose(name_id("tiptoe"), 1, crossed=flag) for flag in (True, False)]
    np.testing.assert_array_equal(acting[0]["left ankle"], acting[1]["left ankle"])


def test_preview(tmp_path, capsys):
    assert main([str(tmp_path / "preview"), "--preview", "--short_side=32"]) == 0
    gifs = sorted((tmp_path / "preview" / "gifs").iterdir())
    assert [gif.stem for gif in gifs] == [f"{i:02d}_{name.replace(' ', '_')}" for i, name in enumerate(MA52_NAMES)]
    with Image.open(gifs[9]) as gif:
        assert gif.n_frames > 20
        assert gif.size == (32, 38)
    with Image.open(tmp_path / "preview" / "contact_sheet.jpg") as sheet:
        assert sheet.size[0] > 1000
        assert np.asarray(sheet).std() > 20
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file"), "--preview"]) == 2
    assert "cannot write there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--short_side=0", "short_side is 0; give an even number from 32 to 2160."),
        ("--seed=-1", "seed is -1; give 0 or more."),
        ("--size=0.5", "--preview takes no --size: it draws one clip of each class"),
        ("--test", "--preview takes no --test: it draws one clip of each class"),
    ],
)
def test_bad_options_of_a_preview(option, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        sys.exit(main([str(tmp_path / "preview"), "--preview", option]))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "preview").exists()
