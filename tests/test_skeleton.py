import numpy as np
import pytest
from helpers import id_of, pose, stack, travel

from tfds_ma52.labels import MA52_NAMES
from tfds_ma52.synthetic import motions, skeleton

REVERSED_PAIRS = (("bowing head", "head up"), ("spread legs", "closing legs"), ("stretching feet", "retracting feet"))
HANDS = ("palm", "touch", "tip 1", "tip 2", "wrist")


@pytest.mark.parametrize(("forwards", "backwards"), REVERSED_PAIRS)
def test_pose_of_pairs_differs_in_direction_of_time_only(forwards, backwards):
    for seed in range(5):
        first, second = pose(id_of(forwards), seed), pose(id_of(backwards), seed)
        assert list(first) == list(second)
        assert all(np.array_equal(first[name], second[name][::-1]) for name in first)
        assert not np.allclose(stack(first), stack(second), atol=0.02)


def change(class_name, seed, name, origin, axis):
    """How far a point of the figure has moved against another one by the end of the clip."""
    way = relative(pose(id_of(class_name), seed), name, origin)[:, axis]
    return way[-1] - way[0]


def test_pose_of_pairs_has_the_direction_of_their_names():
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
    "torso": lambda p: travel(p["chest"] - p["pelvis"]),
    "body": lambda p: travel(p["left shoulder"]),
    "shoulders": lambda p: min(travel(relative(p, f"{side} shoulder", "chest")) for side in ("left", "right")),
    "head": lambda p: max(travel(relative(p, name, "head")) for name in ("nose", "crown")),
    "arm": lambda p: max(travel(p[f"{side} wrist"]) for side in ("left", "right")),
    "hand": lambda p: max(travel(p[f"{side} touch"]) for side in ("left", "right")),
    "hands": lambda p: max(travel(p[f"{side} touch"]) for side in ("left", "right")),
    "fingers": lambda p: max(travel(relative(p, f"{side} tip 2", f"{side} palm")) for side in ("left", "right")),
    "legs": lambda p: max(travel(p[f"{side} {name}"]) for side in ("left", "right") for name in ("knee", "ankle")),
    "foot": lambda p: max(travel(p[f"{side} toe"]) for side in ("left", "right")),
    "heel": lambda p: max(travel(p[f"{side} heel"]) for side in ("left", "right")),
}


@pytest.mark.parametrize("class_id", range(52))
def test_pose_moves_the_effector_more_than_idle_sway(class_id, monkeypatch):
    effector = motions.MOTIONS[class_id].effector
    for seed in range(4):
        moved = MEASURES[effector](pose(class_id, seed))
        monkeypatch.setitem(motions.MOTIONS, class_id, motions.Motion(effector))
        idle = MEASURES[effector](pose(class_id, seed))
        monkeypatch.undo()
        assert moved > max(3 * idle, 0.02), (moved, idle)


# The end of the hand's way, within so many metres, for targets that a point of the figure marks.
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
def test_pose_brings_the_hand_to_its_target(name):
    target, limit = TARGETS[name]
    for seed in range(4):
        points = pose(id_of(name), seed, hold="")
        marks = [points[mark] for mark in (target, f"left {target}", f"right {target}") if mark in points]
        hands = stack(points, [f"{side} {part}" for side in ("left", "right") for part in HANDS])
        distance = np.min([np.linalg.norm(hands - mark[:, None], axis=-1).min(axis=1) for mark in marks], axis=0)
        assert distance.min() < limit
        assert distance[0] > distance.min() + 0.05


# The motion in a class's name: a point, against which other one, along which axis (x to the person's left, y up, z
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
def test_pose_moves_the_part_as_its_name_implies(name):
    point, origin, axis, way = WAYS[name]
    for seed in range(3):
        curve = relative(pose(id_of(name), seed, **CALM), point, origin)[:, axis]
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


def test_pose_brings_hands_to_targets_without_a_mark():
    for seed in range(3):
        ends = {
            name: {point: way[np.linalg.norm(way - way[0], axis=-1).argmax()] for point, way in reached.items()}
            for name in MA52_NAMES
            for points in [pose(id_of(name), seed, **CALM)]
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
        meeting = pose(id_of("putting hands together"), seed, **CALM)
        between = np.linalg.norm(relative(meeting, "left touch", "right touch"), axis=-1)
        assert between.min() < 0.06
        assert between[0] > 0.12


def test_pose_keeps_the_lengths_of_limbs():
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


def test_two_bones_fall_short_of_a_far_target():
    root, target, pole = np.zeros((1, 3)), np.array([[0.0, 0.0, 2.0]]), np.array([[0.0, 1.0, 0.0]])
    joint, end = skeleton.two_bones(root, target, 0.3, 0.2, pole)
    np.testing.assert_allclose(np.linalg.norm([joint - root, end - joint], axis=-1).ravel(), [0.3, 0.2])
    assert 0.49 < end[0, 2] < 0.5


def test_pose_differs_between_all_classes():
    poses = np.stack([stack(pose(class_id, 1, both=False, returns=True))[::8] for class_id in range(52)])
    distance = np.linalg.norm(poses[:, None] - poses[None], axis=-1).max(axis=(2, 3))
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 0.02


def test_pose_starts_alike_in_all_classes():
    # The names of these classes imply another pose at the start.
    special = {
        id_of(name) for name in ("head up", "closing legs", "retracting feet", "curling legs", "playing objects")
    }

    def start(class_id):
        return stack(pose(class_id, 2, hold="", crossed=False))[0]

    starts = [start(class_id) for class_id in range(52) if class_id not in special]
    assert np.ptp(starts, axis=0).max() < 1e-9
    assert all(np.abs(start(class_id) - starts[0]).max() > 0.05 for class_id in special)


def test_draw_variation_covers_both_sides_and_all_lengths():
    draws = [motions.draw_variation(np.random.default_rng(seed)) for seed in range(400)]
    assert {draw.side for draw in draws} == {-1, 1}
    assert (min(draw.frames for draw in draws), max(draw.frames for draw in draws)) == (45, 75)


def test_pose_keeps_an_idle_hand_still_at_its_hold():
    for class_id in (id_of("nodding"), id_of("touching nose")):
        points = pose(class_id, 1, hold="cheek", side=1, both=False)
        still = points["right touch"] - points["head"]
        assert np.linalg.norm(still[0]) < 0.2
        assert travel(still) < 0.05
        assert np.linalg.norm((points["left touch"] - points["head"])[0]) > 0.3


def test_pose_crosses_idle_legs_only():
    crossed = pose(id_of("nodding"), 1, crossed=True, side=1)
    free = pose(id_of("nodding"), 1, crossed=False, side=1)
    assert np.abs(crossed["left ankle"] - free["left ankle"]).max() > 0.2
    acting = [pose(id_of("tiptoe"), 1, crossed=flag) for flag in (True, False)]
    np.testing.assert_array_equal(acting[0]["left ankle"], acting[1]["left ankle"])
