import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from tfds_ma52 import annotations
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES, read_labels
from tfds_ma52.synthetic import face, motions, pro, render, skeleton, write_synthetic, writer
from tfds_ma52.synthetic.__main__ import main

SETTINGS = {
    "size": 0.05,
    "pro": True,
    "untrimmed": False,
    "subjects": "shared",
    "test": False,
    "short_side": 64,
    "frame_rate": 30,
    "seed": 1,
}
PART_OF = {name: part for part, names in pro.PARTS.items() for name in names}


@pytest.fixture(scope="module")
def plan():
    return writer.plan_clips({**SETTINGS, "size": 1.0})


def names_of(acts):
    return [MA52_NAMES[i] for i in acts]


def test_write_synthetic_writes_annotation_files(drawn_pro):
    check_annotation_files(drawn_pro)


def check_annotation_files(folder):
    read = annotations.read_folder(folder)
    assert read.problems == ()
    assert read.emotions == pro.EMOTIONS
    assert read.labels == read_labels(folder / "label_name.txt")
    assert read.labels == pro.LABELS
    settings = json.loads((folder / "synthetic.json").read_text())
    planned = {f"{clip.split}/{clip.name}": clip for clip in writer.plan_clips(settings)}
    assert {clip.video_id for clip in read.clips} == planned.keys()
    with (folder / "faces.csv").open() as file:
        faces = {row["video"]: row["expression"] for row in csv.DictReader(file)}
    for clip in read.clips:
        assert clip.path.is_file()
        true = planned[clip.video_id]
        assert faces[clip.video_id] == pro.EMOTIONS[true.expression]
        if clip.split == "test":
            assert (clip.labels, clip.emotion) == (None, -1)
        else:
            assert [read.labels.names[i] for i in clip.labels] == sorted(
                names_of(true.acts), key=pro.LABELS.names.index
            )
            assert clip.emotion == true.emotion
            assert clip.subject == f"{true.subject:04d}"


def test_command_hides_the_labels_of_the_test_split(tmp_path):
    root = tmp_path / "set"
    assert main([str(root), "--pro", "--test", "--size=1e-5", "--short_side=32", "--processes=1"]) == 0
    check_annotation_files(root)
    assert {clip.split for clip in annotations.read_folder(root).clips} == {"train", "val", "test"}


def test_draw_acts_draws_two_to_four_parts_once_each(plan):
    for clip in plan:
        parts = [PART_OF[name] for name in names_of(clip.acts)]
        assert len(set(parts)) == len(parts)
        assert len(parts) in (2, 3, 4)
    counts = np.bincount([len(clip.acts) for clip in plan])[2:]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_plan_clips_follows_the_table_of_probabilities(plan):
    emotions = np.array([clip.emotion for clip in plan])
    assert stats.chisquare(np.bincount(emotions)).pvalue > 1e-3
    right = np.mean([clip.emotion == clip.expression for clip in plan])
    assert right == pytest.approx(0.6, abs=4 * np.sqrt(0.6 * 0.4 / len(plan)))
    for i, (emotion, favourites) in enumerate(pro.FAVOURITES.items()):
        for part, names in pro.PARTS.items():
            done = [name for clip in plan if clip.emotion == i for name in names_of(clip.acts) if name in names]
            counts = np.array([done.count(name) for name in names])
            weights = np.array([6 if name in favourites else 1 for name in names])
            assert (weights == 6).sum() == 1, (emotion, part)
            assert stats.chisquare(counts, len(done) * weights / weights.sum()).pvalue > 1e-4, (emotion, part)


def guesses(plan, with_acts, with_face):
    """Shares of emotions that the most probable one, by weights from the table, gets right."""
    right = 0
    for clip in plan:
        scores = np.zeros(5)
        for i, favourites in enumerate(pro.FAVOURITES.values()):
            if with_acts:
                scores[i] += np.log(6) * sum(name in favourites for name in names_of(clip.acts))
            if with_face:
                scores[i] += np.log(0.6 / 0.1) * (clip.expression == i)
        # Parts have as many actions for every emotion, so that their normalisation is the same.
        best = np.flatnonzero(scores > scores.max() - 1e-9)
        right += (clip.emotion in best) / len(best)
    return right / len(plan)


@pytest.mark.parametrize("form", ["appearance", "micro_action", "fused"])
def test_bayes_accuracy_is_that_of_the_best_rule(plan, form):
    expected = pro.bayes_accuracy()[form]
    reached = guesses(plan, form != "appearance", form != "micro_action")
    assert reached == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(plan)))
    assert {"appearance": 0.6, "micro_action": 0.694, "fused": 0.774}[form] == pytest.approx(expected, abs=5e-4)


def test_posterior_is_bayes_rule_by_counting(plan):
    acts, expression = ("nodding", "crossing arms"), 2
    same = [clip for clip in plan if set(acts) <= set(names_of(clip.acts)) and len(clip.acts) == 2]
    seen = np.bincount([clip.emotion for clip in same], minlength=5)
    assert stats.chisquare(seen, len(same) * pro.posterior(acts, None)).pvalue > 1e-4
    np.testing.assert_allclose(pro.posterior(None, expression), [0.1, 0.1, 0.6, 0.1, 0.1])
    product = pro.posterior(acts, None) * pro.posterior(None, expression)
    np.testing.assert_allclose(pro.posterior(acts, expression), product / product.sum())


def test_windows_hold_the_middle_and_stay_inside():
    rng = np.random.default_rng(0)
    starts = set()
    for frames in (60, 75, 90):
        for first, length in np.concatenate([pro.windows(rng, frames, 4) for _ in range(200)]):
            assert 0 <= first <= frames // 2 < first + length <= frames
            assert length >= 45
            starts.add(int(first))
    assert len(starts) > 30


def pose(acts, seed=0, frames=90, first=20, length=60):
    rng = np.random.default_rng(seed)
    body, variation = skeleton.draw_body(rng), motions.draw_variation(rng)
    variation = dataclasses.replace(variation, frames=frames, hold="", crossed=False, idle=np.zeros((0, 2)))
    own = dataclasses.replace(motions.draw_variation(rng), frames=length, side=variation.side, both=False)
    points = skeleton.pose_acts([skeleton.Act(MA52_NAMES.index(name), first, own) for name in acts], body, variation)
    return points, variation.side


def moves(points, names):
    """By how much points move from the first frame on, each frame the largest of them, metres."""
    return max(np.abs(points[name] - points[name][:1]).max() for name in names)


WATCHED = {
    "head": ("nose",),
    "hands": ("left wrist", "right wrist"),
    "legs": ("left toe", "right toe", "left knee", "right knee"),
}


@pytest.fixture
def nothing_idles(monkeypatch):
    monkeypatch.setattr(motions, "IDLE", ())


@pytest.mark.usefixtures("nothing_idles")
@pytest.mark.parametrize(
    ("acts", "still"),
    [
        (("nodding", "patting legs"), ("legs",)),
        (("bowing head", "spread legs"), ()),  # hands lie on the legs
        (("rubbing hands", "shaking legs"), ("head",)),
        (("tilting head",), ("hands", "legs")),
    ],
)
def test_pose_acts_moves_the_acting_parts_only(acts, still):
    points, _ = pose(acts)
    for part in {PART_OF[name] for name in acts}:
        assert moves(points, WATCHED[part]) > 0.03, part
    for part in still:
        assert moves(points, WATCHED[part]) < 1e-9, part


@pytest.mark.usefixtures("nothing_idles")
def test_pose_acts_moves_nothing_outside_its_window():
    points, side = pose(("nodding", "stretching feet"), first=25, length=45)
    for name in ("nose", "left toe" if side > 0 else "right toe"):
        assert np.ptp(points[name][:25], axis=0).max() < 1e-9
        assert np.ptp(points[name][25:70], axis=0).max() > 0.03
        assert np.ptp(points[name][70:], axis=0).max() < 1e-9  # stays as it ended


@pytest.mark.parametrize("name", [name for names in pro.PARTS.values() for name in names])
def test_pose_acts_of_one_act_is_the_clip_of_its_class(name):
    rng = np.random.default_rng(3)
    body, variation = skeleton.draw_body(rng), motions.draw_variation(rng)
    class_id = MA52_NAMES.index(name)
    one = skeleton.pose_trajectory(class_id, body, variation)
    many = skeleton.pose_acts([skeleton.Act(class_id, 0, variation)], body, variation)
    assert one.keys() == many.keys()
    for point in one.keys() - {"object start", "object end"}:  # none of them holds anything
        np.testing.assert_allclose(many[point], one[point], atol=1e-9, err_msg=point)


@pytest.fixture(scope="module")
def faces():
    """One frame of the same person at rest and with each expression."""
    rng = np.random.default_rng(0)
    body, looks, scene = skeleton.draw_body(rng), render.draw_looks(rng, 0), render.draw_scene(rng)
    scene, looks = dataclasses.replace(scene, noise=0.0), dataclasses.replace(looks, glasses=False)
    variation = dataclasses.replace(motions.draw_variation(rng), frames=2, hold="")
    points = skeleton.pose_acts([], body, variation)
    points = {name: np.broadcast_to(point, (2, 3))[:1] for name, point in points.items()}
    drawn = {"rest": face.NEUTRAL, **pro.EXPRESSIONS}
    return {
        name: render.render_frames(points, body, dataclasses.replace(looks, expression=each), scene, (346, 288), rng)[0]
        for name, each in drawn.items()
    }


def test_render_expressions_change_the_face_only(faces):
    for one, other in itertools.combinations(faces, 2):
        differs = np.abs(faces[one].astype(int) - faces[other]).sum(-1) > 60
        rows, columns = np.nonzero(differs)
        assert differs.sum() > 15, (one, other)
        assert np.ptp(rows) < 60, (one, other)
        assert np.ptp(columns) < 60, (one, other)


def test_between_scales_an_expression():
    surprise = pro.EXPRESSIONS["surprise"]
    assert face.between(surprise, 0.0) == face.NEUTRAL
    assert face.between(surprise, 1.0) == surprise
    assert face.between(surprise, 0.5).mouth_open == pytest.approx(surprise.mouth_open / 2)


def test_write_synthetic_refuses_other_settings(drawn_pro):
    with pytest.raises(UserError, match=r"other settings: pro \(True there, False asked for\)"):
        write_synthetic(drawn_pro, size=5e-4, pro=False, short_side=40)


def test_write_synthetic_leaves_a_complete_set_alone(drawn_pro, capsys):
    write_synthetic(drawn_pro, size=5e-4, pro=True, short_side=40)
    assert "already holds this synthetic set" in capsys.readouterr().err
