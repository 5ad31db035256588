"""The pose of an articulated seated person: the points in space of a body in motion.

Metres; x points to the person's left, y up, z to where the person faces. The origin is on the floor below the pelvis.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tfds_ma52.synthetic import mesh
from tfds_ma52.synthetic.hand_targets import HAND_TARGETS, RESTING, SHAPES, HandTarget, Vector
from tfds_ma52.synthetic.motions import (
    MOTIONS,
    Motion,
    Variation,
    add_curves,
    channel_curves,
    idle_curves,
    motion_curves,
)

SIDES = (("left", 1), ("right", -1))
FINGERS = 5  # the thumb first
# Effectors of the motions that take a hand, or a leg, from where it rests.
HAND_EFFECTORS = ("arm", "hand", "hands", "fingers")
LEG_EFFECTORS = ("legs", "foot", "heel", "body")  # nobody rises with crossed legs


@dataclasses.dataclass(frozen=True)
class Body:
    """Sizes of one person, metres."""

    pelvis_height: float = 0.54
    hip: float = 0.085  # half widths
    shoulder: float = 0.185
    waist: float = 0.20  # lengths, upwards and outwards
    chest: float = 0.29
    neck: float = 0.085
    head: float = 0.125  # half height
    upper_arm: float = 0.28
    forearm: float = 0.245
    hand: float = 0.20
    thigh: float = 0.42
    shin: float = 0.42
    foot: float = 0.17
    girth: float = 1.0  # factor on all thicknesses

    @property
    def head_scale(self) -> float:
        """Size of the head against that of the mean person, for whom positions on the head are given."""
        return self.head / Body.head


def draw_body(rng: np.random.Generator) -> Body:
    """Draws one person's size and proportions."""
    size = rng.uniform(0.95, 1.05)
    mean = dataclasses.asdict(Body())
    lengths = {name: mean[name] * size * rng.uniform(0.97, 1.03) for name in mean if name != "girth"}
    return Body(**lengths, girth=rng.uniform(0.88, 1.2))


def pose_trajectory(class_id: int, body: Body, variation: Variation) -> dict[str, Float[np.ndarray, "t 3"]]:
    """Poses the figure for every frame of a clip.

    Args:
      class_id: MA-52's integer id.
      body: the person.
      variation: the clip's draws; `variation.frames` is t.

    Returns:
      The figure's points by name, in metres, all classes with the same names.
    """
    motion = MOTIONS[class_id]
    points = pose_channels([(motion, variation)], channel_curves(motion, variation), body, variation)
    return {name: point[::-1] if motion.reverse else point for name, point in points.items()}


@dataclasses.dataclass(frozen=True)
class Act:
    """One of several micro-actions in a clip.

    Attributes:
      class_id: MA-52's integer id.
      first: the frame at which its part of the clip begins; until then its limbs are at rest.
      variation: the draws of that part; `variation.frames` is its length.
    """

    class_id: int
    first: int
    variation: Variation


def pose_acts(acts: Sequence[Act], body: Body, variation: Variation) -> dict[str, Float[np.ndarray, "t 3"]]:
    """Poses a figure that does several micro-actions, each of other limbs; a moved limb stays as it ends.

    Args:
      acts: none of them reversed, at most one of hands and one of legs.
      body: the person.
      variation: the clip's draws, of which side, idling and resting hold for all acts; `variation.frames` is t.

    Returns:
      As `pose_trajectory`.
    """
    curves, motions = [], []
    for act in acts:
        motion, own = MOTIONS[act.class_id], motion_curves(MOTIONS[act.class_id], act.variation)
        if motion.effector not in HAND_EFFECTORS:
            del own["reach"]
        around = (act.first, variation.frames - act.first - act.variation.frames)
        curves.append({name: np.pad(curve, around, mode="edge") for name, curve in own.items()})
        motions.append((motion, act.variation))
    return pose_channels(motions, add_curves(*curves, idle_curves(variation)), body, variation)


def pose_channels(
    motions: Sequence[tuple[Motion, Variation]],
    channels: dict[str, Float[np.ndarray, " t"]],
    body: Body,
    variation: Variation,
) -> dict[str, Float[np.ndarray, "t 3"]]:
    """Poses a figure from curves: `motions`, at most one of hands and one of legs, say which limbs these move."""
    curves = {name: curve[:, None] for name, curve in channels.items()}
    zeros = np.zeros((variation.frames, 1))
    if variation.crossed and not any(motion.effector in LEG_EFFECTORS for motion, _ in motions):
        curves["cross"] = zeros + 1
    hand = next((motion for motion, _ in motions if motion.effector in HAND_EFFECTORS), None)
    both_arms, both_legs = (
        any(_takes_both(motion, draws) for motion, draws in motions if motion.effector in effectors)
        for effectors in (HAND_EFFECTORS, LEG_EFFECTORS)
    )
    state = _State(curves, zeros, body, variation.side, both_arms, both_legs, variation.rest)
    points = _torso_and_head(state)
    _legs(state, points)
    # The hand that goes to the other forearm needs that forearm.
    for name, sign in sorted(SIDES, key=lambda item: item[1] == variation.side):
        if hand and state.arm_acts(sign):
            _arm(state, points, name, sign, HAND_TARGETS.get(hand.target), state("reach"))
        else:
            hold = HAND_TARGETS.get(variation.hold) if sign != variation.side else None
            _arm(state, points, name, sign, hold, zeros + 1)
    _held_object(state, points)
    turn = _rotation(zeros, state("body_yaw") * variation.side, zeros)
    return {name: _apply(turn, point) for name, point in points.items()}


def _takes_both(motion: Motion, variation: Variation) -> bool:
    return motion.limbs == "both" or (motion.limbs == "any" and variation.both)


@dataclasses.dataclass
class _State:
    """The input of the figure's parts; calling it gives a channel, 0 where the motion has none."""

    curves: dict[str, Float[np.ndarray, "t 1"]]
    zeros: Float[np.ndarray, "t 1"]
    body: Body
    side: int
    both_arms: bool
    both_legs: bool
    rest: dict[str, float]
    frames: dict[str, Float[np.ndarray, "t 3 3"]] = dataclasses.field(default_factory=dict)  # rotations by part

    def __call__(self, channel: str) -> Float[np.ndarray, "t 1"]:
        return self.curves.get(channel, self.zeros)

    def arm_acts(self, sign: int) -> float:
        """1 where the arm of that side takes part in a motion, else 0."""
        return float(self.both_arms or sign == self.side)

    def leg_acts(self, sign: int) -> float:
        """1 where the leg of that side takes part in a motion, else 0."""
        return float(self.both_legs or sign == self.side)


def _torso_and_head(state: _State) -> dict[str, np.ndarray]:
    body, side, rest = state.body, state.side, state.rest
    slump = 0.75 + 0.15 * rest["slump"] + state("slump")
    pitch = 4 + 4 * rest["torso_pitch"] + state("torso_pitch")
    roll = 1.5 * rest["torso_roll"] + side * state("torso_roll")
    yaw = 3 * rest["torso_yaw"] + side * state("torso_yaw")
    lower = _rotation(pitch - 14 * slump, 0.4 * yaw, 0.7 * roll)
    upper = _rotation(pitch + 20 * slump, yaw, roll)
    state.frames["chest"] = upper
    head_pitch = 0.35 * pitch + 10 * rest["head_pitch"] + state("head_pitch")
    head_yaw = 0.8 * yaw + 18 * rest["head_yaw"] + side * state("head_yaw")
    head = _rotation(head_pitch, head_yaw, 0.5 * roll + 7 * rest["head_roll"] + side * state("head_roll"))
    state.frames["head"] = head

    pelvis = np.concatenate([state.zeros, body.pelvis_height + state("rise"), 0.7 * state("rise")], axis=1)
    points = {"pelvis": pelvis}
    points["waist"] = pelvis + _apply(lower, (0, body.waist, 0))
    points["chest"] = points["waist"] + _apply(upper, (0, body.chest, 0))
    points["neck"] = points["chest"] + _apply(upper, (0, 0.3 * body.neck, 0.01))
    points["skull"] = points["neck"] + _apply(head, (0, 0.7 * body.neck, 0.01))
    points["head"] = points["skull"] + _apply(head, (0, 0.85 * body.head, 0.01))
    k = body.head_scale
    marks: dict[str, tuple[float, float, float]] = {
        "crown": (0, 0.125, 0),
        "nose": (0, -0.012, 0.115),
        "mouth": (0, -0.062, 0.098),
    }
    for name, sign in SIDES:
        marks[f"{name} eye"] = (0.034 * sign, 0.022, 0.101)
        marks[f"{name} brow"] = (0.036 * sign, 0.047, 0.1)
        marks[f"{name} ear"] = (0.080 * sign, -0.005, 0)
    for name, mark in marks.items():
        points[name] = points["head"] + k * _apply(head, mark)
    for name, sign in SIDES:
        lens = k * _apply(head, (0.042 * sign, 0.026, 0.112)) + state("glasses_up") * _apply(head, (0, 1, 0))
        points[f"{name} lens"] = points["head"] + lens
        shrug = state("shrug") * _apply(upper, (-0.2 * sign, 1, 0))
        points[f"{name} shoulder"] = points["chest"] + _apply(upper, (sign * body.shoulder, -0.035, 0)) + shrug
    return points


def _legs(state: _State, points: dict[str, np.ndarray]) -> None:
    body, rest = state.body, state.rest
    ankle_height = 0.075
    apart = 0.035 + 0.035 * rest["knees_apart"] + state("knees_apart")
    # The standing leg first: the crossing leg lies over its knee.
    for name, sign in sorted(SIDES, key=lambda item: item[1] == state.side):
        acts = state.leg_acts(sign)
        forward = 0.86 * body.thigh + 0.05 * rest[f"{name} foot_forward"] + acts * state("foot_forward")
        side = sign * (body.hip + 0.9 * apart + acts * state("foot_out"))
        ankle = np.concatenate([side, state.zeros + ankle_height, forward], axis=1)
        toe = ankle + np.array((0.04 * sign, 0.02 - ankle_height, body.foot))
        # A raised heel turns the foot about its ball.
        ankle = ankle + acts * state("heel_up") * np.array((0, 1, 0.45))
        cross = acts * state("cross") * float(sign == state.side)
        if np.any(cross):
            other = points[f"{'left' if sign < 0 else 'right'} knee"]
            arc = np.sin(np.pi * cross) * np.array((0, 0.13, 0.10))
            over = other + np.array((-0.07 * sign, -0.20, 0.13))
            toe = toe + cross * (over + body.foot * np.array((-0.25 * sign, -0.45, 0.85)) - toe) + arc
            ankle = ankle + cross * (over - ankle) + arc
        lift = acts * state("foot_lift") * np.array((0, 1, 0.4))
        ankle, toe = ankle + lift, toe + lift * 1.2
        hip = points["pelvis"] + (sign * body.hip, -0.02, 0.03)
        outwards = sign * (3.3 * apart + 0.1) * (1 - cross)
        pole = np.concatenate([outwards, state.zeros + 0.62 + cross, state.zeros + 0.78], axis=1)
        knee, end = two_bones(hip, ankle, body.thigh, body.shin, pole)
        points |= {f"{name} hip": hip, f"{name} knee": knee, f"{name} ankle": end, f"{name} toe": toe + (end - ankle)}
        sole = points[f"{name} toe"] - end
        points[f"{name} heel"] = end - 0.22 * sole + (0, -0.035, 0)


def _arm(
    state: _State,
    points: dict[str, np.ndarray],
    name: str,
    sign: int,
    hand_target: HandTarget | None,
    reach: Float[np.ndarray, "t 1"],
) -> None:
    """Adds an arm whose hand goes from the thigh to its target by the share `reach`, 0..1."""
    rest, mirror = state.rest, np.array((sign, 1, 1))
    acts = state.arm_acts(sign)
    offset = np.concatenate([state("hand_out"), state("hand_up"), state("hand_forward") + sign * state("rub")], axis=1)
    offset = acts * offset
    hip, knee = points[f"{name} hip"], points[f"{name} knee"]
    home = hip + (0.5 + 0.12 * rest[f"{name} hand_forward"]) * (knee - hip)
    home = home + np.array((-0.015 + 0.02 * rest[f"{name} hand_out"], 0.095, 0)) * mirror
    target, grasp = home + offset * mirror, RESTING
    if hand_target:
        origin, turn = _part(state, points, hand_target.part, name)
        size = state.body.head_scale if hand_target.part == "head" else 1
        spot = origin + _apply(turn, (size * np.array(hand_target.position) + offset) * mirror)
        target = home + reach * (spot - home) + 4 * reach * (1 - reach) * np.array(hand_target.detour) * mirror
        goal = [
            _apply(turn, np.array(direction) * mirror) * mirror for direction in (hand_target.fingers, hand_target.palm)
        ]
        goal += [np.array(hand_target.elbow), *(np.array(value) for value in SHAPES[hand_target.shape])]
        grasp = [resting + reach * (there - resting) for resting, there in zip(RESTING, goal, strict=True)]
    fingers, palm, elbow, curl, touch = grasp
    along = np.broadcast_to(mesh.unit(fingers * mirror), target.shape)
    elbow = np.broadcast_to(elbow * mirror, target.shape)
    thumbwards = -sign * mesh.unit(np.cross(along, palm * mirror))
    wrist = target - state.body.hand * (touch[..., :1] * along + touch[..., 1:] * thumbwards)
    arm = state.body.upper_arm, state.body.forearm
    points[f"{name} elbow"], points[f"{name} wrist"] = two_bones(points[f"{name} shoulder"], wrist, *arm, elbow)
    waves = np.sin(np.arange(FINGERS) * 1.4) * state("wiggle") + 0.5 * np.abs(state("wiggle"))
    curl = np.clip(curl + acts * (waves + state("fist")), 0, 1)
    facing = -sign * np.cross(thumbwards, along)
    _hand(points, name, state.body.hand, along, facing, thumbwards, curl)


def _hand(
    points: dict[str, np.ndarray],
    name: str,
    size: float,
    along: Float[np.ndarray, "t 3"],
    facing: Float[np.ndarray, "t 3"],
    thumbwards: Float[np.ndarray, "t 3"],
    curl: Float[np.ndarray, "t finger"],
) -> None:
    """Adds the palm, and of each finger the knuckle, the middle joint and the tip.

    `along` points from the wrist to the fingertips, `facing` from the palm away; `curl` is 0 for straight fingers.
    """
    wrist = points[f"{name} wrist"]
    points[f"{name} palm"] = wrist + 0.3 * size * along
    points[f"{name} touch"] = wrist + 0.6 * size * along
    for finger in range(FINGERS):
        bend = curl[:, finger, None]
        if finger == 0:
            root = wrist + size * (0.22 * along + 0.18 * thumbwards)
            straight, inwards, length = (
                mesh.unit(0.75 * along + 0.65 * thumbwards),
                mesh.unit(facing - 0.6 * thumbwards),
                0.2,
            )
        else:
            spread = 0.25 * (2.5 - finger)
            root = wrist + size * (0.52 * along + 0.105 * (2.5 - finger) * thumbwards)
            straight, inwards, length = mesh.unit(along + spread * 0.6 * (1 - bend) * thumbwards), facing, 0.26
        angles = np.radians(85) * bend, np.radians(185) * bend
        middle = root + length * size * (np.cos(angles[0]) * straight + np.sin(angles[0]) * inwards)
        tip = middle + 0.9 * length * size * (np.cos(angles[1]) * straight + np.sin(angles[1]) * inwards)
        points |= {f"{name} knuckle {finger}": root, f"{name} joint {finger}": middle, f"{name} tip {finger}": tip}


def _part(state: _State, points: dict[str, np.ndarray], part: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Origin and rotation of the part that a target belongs to; `name` is the hand's side."""
    still = _rotation(state.zeros, state.zeros, state.zeros)
    if part in state.frames:
        return points[part], state.frames[part]
    hip, knee, ankle = (points[f"{name} {joint}"] for joint in ("hip", "knee", "ankle"))
    other = "right" if name == "left" else "left"
    origins = {
        "pelvis": lambda: points["pelvis"],
        "thigh": lambda: hip + 0.62 * (knee - hip),
        "knee": lambda: knee,
        "foot": lambda: ankle,
        "other forearm": lambda: 0.45 * points[f"{other} elbow"] + 0.55 * points[f"{other} wrist"],
    }
    return origins[part](), still


def _held_object(state: _State, points: dict[str, np.ndarray]) -> None:
    """Something long that one hand brings between the hands; its ends coincide where the motion has none."""
    own = points["left touch" if state.side > 0 else "right touch"]
    between = 0.5 * (points["left touch"] + points["right touch"]) + (0, 0.02, 0.03)
    middle = own + state("reach") * (between - own)
    spin = state("spin") * 1.1
    axis = np.concatenate([np.cos(spin), np.sin(spin), state.zeros], axis=1) * state("object")
    points["object start"], points["object end"] = middle - 0.085 * axis, middle + 0.085 * axis


def _rotation(pitch: np.ndarray, yaw: np.ndarray, roll: np.ndarray) -> Float[np.ndarray, "t 3 3"]:
    """Rotation by degrees: pitch forward, yaw to the left, roll to the left, roll first."""
    (cx, sx), (cy, sy), (cz, sz) = (
        (np.cos(a[:, 0]), np.sin(a[:, 0])) for a in np.radians(np.stack([pitch, yaw, -roll]))
    )
    rows = (
        (cy * cz + sy * sx * sz, -cy * sz + sy * sx * cz, sy * cx),
        (cx * sz, cx * cz, -sx),
        (-sy * cz + cy * sx * sz, sy * sz + cy * sx * cz, cy * cx),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _apply(rotation: Float[np.ndarray, "t 3 3"], vector: np.ndarray | Vector) -> Float[np.ndarray, "t 3"]:
    return np.einsum("tij,tj->ti", rotation, np.broadcast_to(vector, (len(rotation), 3)))


def two_bones(
    root: Float[np.ndarray, "t 3"],
    target: Float[np.ndarray, "t 3"],
    first: float,
    second: float,
    pole: Float[np.ndarray, "t 3"],
) -> tuple[Float[np.ndarray, "t 3"], Float[np.ndarray, "t 3"]]:
    """Inverse kinematics of a limb of two bones.

    Returns:
      The middle joint, bent towards `pole`, and the end: the target, or the nearest point that the limb can reach.
    """
    way = target - root
    length = np.linalg.norm(way, axis=-1, keepdims=True)
    reach = np.clip(length, abs(first - second) + 0.02, 0.995 * (first + second))
    axis = way / np.maximum(length, 1e-9)
    along = (first**2 - second**2 + reach**2) / (2 * reach)
    height = np.sqrt(np.maximum(first**2 - along**2, 0))
    outwards = mesh.unit(pole - np.sum(pole * axis, axis=-1, keepdims=True) * axis)
    return root + along * axis + height * outwards, root + reach * axis
