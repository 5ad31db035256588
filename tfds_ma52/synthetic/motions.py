"""The 52 micro-actions as one table, and the curves over time that a table row stands for."""

import dataclasses

import numpy as np
from jaxtyping import Float

FPS = 30
Number = int | float  # the type checker of the tests takes no 1 for a float


@dataclasses.dataclass(frozen=True)
class Motion:
    """One micro-action.

    A channel is one number of the pose over time (`skeleton.py` gives it its meaning): degrees for the rotations
    (`torso_*`, `head_*`, `body_yaw`), metres for the displacements, 0..1 for the rest. Signed channels point to the
    side of the acting limb.

    Attributes:
      effector: the part that moves. Hands and legs that are none may rest elsewhere (`Variation.hold`, `crossed`).
      once: (channel, amount): goes from 0 to the amount, once.
      pulse: (channel, amount, hertz): goes from 0 to the amount and back, repeatedly.
      swing: (channel, amount, hertz): goes to both sides of 0, repeatedly.
      held: (channel, amount): has the amount from the first frame to the last.
      target: of the hand, a key of `hand_targets.HAND_TARGETS`; empty leaves it on the thigh.
      limbs: "one" (the left or the right one, by draw), "both", or "any" (one or both, by draw).
      seconds: how long the way there takes.
      end: "stay", "return", "either" (one of the two, by draw), or "step" (stays, and may start at any time: the same
        distribution of times forwards and backwards).
      reverse: the whole clip runs backwards in time.
    """

    effector: str
    once: tuple[tuple[str, Number], ...] = ()
    pulse: tuple[tuple[str, Number, Number], ...] = ()
    swing: tuple[tuple[str, Number, Number], ...] = ()
    held: tuple[tuple[str, Number], ...] = ()
    target: str = ""
    limbs: str = "one"
    seconds: float = 0.45
    end: str = "either"
    reverse: bool = False


# The three pairs that only the direction of time distinguishes.
_BOW_HEAD = Motion("head", once=(("head_pitch", 27),), end="step")
_SPREAD_LEGS = Motion("legs", once=(("knees_apart", 0.14),), seconds=0.55, end="step")
_STRETCH_FOOT = Motion("foot", once=(("foot_forward", 0.22), ("foot_out", 0.03)), seconds=0.55, end="step")


def _reversed(motion: Motion) -> Motion:
    return dataclasses.replace(motion, reverse=not motion.reverse)


def _scratch(target: str, *, out: float = 0.0, up: float = 0.0, forward: float = 0.0) -> Motion:
    """The hand goes to a target and rubs there, `out`, `up` and `forward` metres to either side."""
    strokes = (("hand_out", out), ("hand_up", up), ("hand_forward", forward))
    return Motion(
        "hand", target=target, seconds=0.5, swing=tuple((channel, size, 3.0) for channel, size in strokes if size)
    )


MOTIONS: dict[int, Motion] = {
    # Body
    0: Motion("torso", swing=(("torso_roll", 9, 1.1), ("torso_yaw", 6, 1.1))),
    1: Motion("torso", once=(("slump", -0.9), ("torso_pitch", -4)), seconds=0.6),
    2: Motion("shoulders", once=(("shrug", 0.07), ("head_pitch", 3)), limbs="both", seconds=0.25, end="return"),
    3: Motion("body", once=(("body_yaw", 42), ("head_yaw", 8)), seconds=0.8),
    4: Motion("body", once=(("rise", 0.14), ("torso_pitch", 30), ("head_pitch", -15)), seconds=0.7),
    # Head
    # The manual's texts of bowing and tilting have each other's name, it seems; these follow the names.
    5: _BOW_HEAD,
    6: _reversed(_BOW_HEAD),
    7: Motion("head", once=(("head_roll", 26),)),
    8: Motion("head", once=(("head_yaw", 42),)),
    9: Motion("head", pulse=(("head_pitch", 19, 1.9),)),
    10: Motion("head", swing=(("head_yaw", 20, 1.8),)),
    # Upper limb
    11: Motion("hand", target="other forearm", swing=(("hand_out", 0.05, 3.0), ("hand_forward", 0.03, 3.0))),
    12: Motion(
        "hands",
        target="lap",
        limbs="both",
        held=(("object", 1),),
        swing=(("hand_up", 0.025, 1.7), ("spin", 1, 1.3), ("wiggle", 0.4, 1.9)),
    ),
    13: Motion("hands", target="palms together", limbs="both"),
    14: Motion("hands", target="palms low", limbs="both", swing=(("rub", 0.05, 2.6),)),
    15: Motion("hand", target="breastbone", pulse=(("hand_forward", 0.06, 2.0),)),
    16: Motion("fingers", target="fist in front", pulse=(("fist", 1, 1.5),), limbs="any"),
    17: Motion("arm", target="far out", limbs="any", end="stay", seconds=0.6),
    18: Motion("arm", target="far out", limbs="any", end="return", seconds=0.5),
    19: Motion("hand", target="beside the head", swing=(("hand_out", 0.10, 2.2),), limbs="one"),
    20: Motion("hands", target="palms up", limbs="any"),
    21: Motion("fingers", target="fingers together", limbs="both", swing=(("wiggle", 0.25, 1.2),)),
    22: Motion("fingers", swing=(("wiggle", 1.0, 2.2),), once=(("hand_up", 0.05),), limbs="any"),
    23: Motion(
        "hand",
        target="before the chest",
        swing=(("hand_out", 0.10, 1.0), ("hand_up", 0.07, 1.7), ("hand_forward", 0.06, 1.3), ("wiggle", 0.3, 1.1)),
    ),
    # Lower limb
    24: Motion("legs", pulse=(("heel_up", 0.10, 4.0),), limbs="any"),
    25: Motion("legs", held=(("cross", 1),), pulse=(("foot_lift", 0.12, 0.8),)),
    26: _SPREAD_LEGS,
    27: _reversed(_SPREAD_LEGS),
    28: Motion("legs", once=(("cross", 1),), seconds=0.8, end="stay"),
    29: _STRETCH_FOOT,
    30: _reversed(_STRETCH_FOOT),
    31: Motion("heel", once=(("heel_up", 0.14),), limbs="any"),
    # Body and hand
    32: _scratch("neck", up=0.025),
    33: _scratch("chest", out=0.03, up=0.02),
    34: _scratch("back", out=0.03, up=0.03),
    35: _scratch("other shoulder", out=0.025, forward=0.02),
    36: Motion("hands", target="hip", limbs="both", seconds=0.55, end="stay"),
    37: Motion("hands", target="other upper arm", limbs="both", seconds=0.6, end="stay"),
    # Head and hand
    38: Motion("hand", target="hair", swing=(("hand_forward", 0.05, 1.4), ("hand_out", 0.05, 1.4))),
    39: _scratch("back of the head", up=0.03),
    40: _scratch("forehead", out=0.03),
    41: _scratch("cheek", up=0.025),
    42: Motion("hand", target="eye", swing=(("hand_out", 0.018, 3.2), ("hand_up", 0.012, 3.2))),
    43: Motion("hand", target="nose", swing=(("hand_up", 0.012, 2.5),)),
    44: Motion("hand", target="ear", swing=(("hand_up", 0.012, 2.5),)),
    45: Motion("hands", target="whole face", limbs="both", end="stay"),
    46: Motion("hand", target="mouth"),
    47: Motion("hand", target="glasses", pulse=(("hand_up", 0.02, 1.6), ("glasses_up", 0.02, 1.6)), seconds=0.35),
    # Leg and hand
    48: Motion("hand", target="thigh", pulse=(("hand_up", 0.11, 2.6),), limbs="any"),
    49: Motion("hand", target="knee", swing=(("hand_forward", 0.015, 0.7),), limbs="any"),
    50: _scratch("thigh", forward=0.045, out=0.012),
    51: Motion(
        "hand",
        target="foot",
        once=(("torso_pitch", 50), ("foot_lift", 0.15), ("head_pitch", -10)),
        swing=(("hand_forward", 0.03, 3.0),),
        seconds=0.6,
    ),
}


@dataclasses.dataclass(frozen=True)
class Variation:
    """The random part of one clip's motion, drawn alike for every class.

    Attributes:
      frames: length of the clip.
      side: +1 where the left limb acts, -1 the right one.
      both: where a class allows one or two limbs, two.
      returns: where a class allows it, the limb goes back before the clip ends.
      amplitude: factor on the size of the motion.
      speed: factor on its speed.
      start: when it starts, 0..1 of what is possible.
      dwell: how long it lasts, 0..1 of what is possible.
      hold: at which the hand of the other side lies all the time unless it acts, a key of
        `hand_targets.HAND_TARGETS`; "" is the thigh. So a hand at the nose gives no class away until it moves.
      crossed: the acting side's leg lies over the other one all the time, unless legs or feet act.
      idle: (channel, sine) phases of the small movements that never stop.
      rest: draws in -1..1 of the neutral pose, by the names of `REST`.
    """

    frames: int
    side: int
    both: bool
    returns: bool
    amplitude: float
    speed: float
    start: float
    dwell: float
    hold: str
    crossed: bool
    idle: Float[np.ndarray, "channel sine"]
    rest: dict[str, float]


def draw_variation(rng: np.random.Generator) -> Variation:
    """Draws the random part of one clip's motion, of 45 to 75 frames."""
    return Variation(
        frames=int(rng.integers(45, 76)),
        side=int(rng.choice((-1, 1))),
        both=bool(rng.random() < 0.35),
        returns=bool(rng.random() < 0.5),
        amplitude=rng.uniform(0.8, 1.2),
        speed=rng.uniform(0.8, 1.25),
        start=rng.random(),
        dwell=rng.random(),
        hold=str(rng.choice(_HOLDS)) if rng.random() < 0.2 else "",
        crossed=bool(rng.random() < 0.1),
        idle=rng.uniform(0, 2 * np.pi, (len(IDLE), 2)),
        rest={name: rng.uniform(-1, 1) for name in REST},
    )


# The targets at which a hand may lie all the time: those of actions.
_HOLDS = (
    *("nose", "eye", "glasses", "forehead", "cheek", "ear", "mouth", "hair", "back of the head", "neck", "chest"),
    *("breastbone", "other shoulder", "back", "hip", "beside the head", "before the chest", "palms up", "far out"),
    *("fist in front", "lap", "knee"),
)

# The differences between two people who sit and do nothing.
REST = (
    *("slump", "torso_pitch", "torso_roll", "torso_yaw", "head_pitch", "head_yaw", "head_roll", "knees_apart"),
    *("left foot_forward", "left hand_forward", "left hand_out"),
    *("right foot_forward", "right hand_forward", "right hand_out"),
)

# Small movements that never stop: (channel, amount, hertz).
IDLE = (
    ("slump", 0.05, 0.28),
    ("torso_roll", 0.6, 0.2),
    ("torso_pitch", 0.7, 0.23),
    ("head_pitch", 1.1, 0.31),
    ("head_yaw", 1.6, 0.26),
    ("head_roll", 0.7, 0.22),
)


def channel_curves(motion: Motion, variation: Variation) -> dict[str, Float[np.ndarray, " t"]]:
    """Evaluates a motion's channels at a clip's frames, forwards in time whatever `motion.reverse`.

    Returns:
      Each channel the motion uses, each channel that idles, and `reach`: 0 with the hand at rest, 1 at its target.
    """
    return add_curves(motion_curves(motion, variation), idle_curves(variation))


def add_curves(*many: dict[str, Float[np.ndarray, " t"]]) -> dict[str, Float[np.ndarray, " t"]]:
    """Adds channels of the same name."""
    total: dict[str, np.ndarray] = {}
    for curves in many:
        for channel, values in curves.items():
            total[channel] = total[channel] + values if channel in total else values
    return total


def motion_curves(motion: Motion, variation: Variation) -> dict[str, Float[np.ndarray, " t"]]:
    """`channel_curves` without the idle movements."""
    seconds = np.arange(variation.frames) / FPS
    envelope, start = _envelope(motion, variation, seconds)
    curves: dict[str, np.ndarray] = {"reach": envelope}

    def add(channel: str, values: Float[np.ndarray, " t"]) -> None:
        curves[channel] = curves.get(channel, np.zeros_like(seconds)) + values

    for channel, amount in motion.held:
        add(channel, np.full_like(seconds, amount))
    for channel, amount in motion.once:
        # The amplitude of "cross" is no size: at 1 one leg lies on the other.
        add(channel, amount * (1.0 if channel == "cross" else variation.amplitude) * envelope)
    # A hand moves to and fro only once it is there.
    window = (_smooth((envelope - 0.7) / 0.3) if motion.target else envelope) * variation.amplitude
    for channel, amount, hertz in motion.pulse:
        add(channel, amount * window * 0.5 * (1 - np.cos(2 * np.pi * hertz * variation.speed * (seconds - start))))
    for channel, amount, hertz in motion.swing:
        add(channel, amount * window * np.sin(2 * np.pi * hertz * variation.speed * (seconds - start)))
    return curves


def idle_curves(variation: Variation) -> dict[str, Float[np.ndarray, " t"]]:
    """The channels of the small movements that never stop."""
    seconds = np.arange(variation.frames) / FPS
    curves: dict[str, np.ndarray] = {}
    for (channel, amount, hertz), phases in zip(IDLE, variation.idle, strict=True):
        slow, slower = (np.sin(2 * np.pi * rate * hertz * seconds + phases[i]) for i, rate in enumerate((1, 0.6)))
        curves[channel] = amount * (slow + 0.6 * slower)
    return curves


def _envelope(
    motion: Motion, variation: Variation, seconds: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, " t"], float]:
    """The way there (and back) as 0..1, and the time at which repeated movements start."""
    length = variation.frames / FPS
    repeats = bool(motion.pulse or motion.swing) and not motion.target and not motion.once
    way = 0.3 if repeats else min(motion.seconds / variation.speed, 0.33 * length)
    if motion.end == "step":
        start = 0.08 * length + variation.start * (0.84 * length - way)
        return _smooth((seconds - start) / way), start
    start = (0.05 + 0.15 * variation.start) * length
    envelope = _smooth((seconds - start) / way)
    if repeats or motion.end == "return" or (motion.end == "either" and variation.returns):
        earliest, latest = start + way + 0.15 * length, 0.97 * length - way
        # A few repetitions must fit in.
        earliest = min(max(earliest, start + 0.6 * length), latest) if repeats else min(earliest, latest)
        back = earliest + variation.dwell * (latest - earliest)
        envelope = envelope - _smooth((seconds - back) / way)
    return envelope, start if repeats else start + 0.8 * way


def _smooth(x: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Goes from 0 at 0 to 1 at 1 with no jump in speed or acceleration."""
    x = np.clip(x, 0, 1)
    return x * x * x * (x * (6 * x - 15) + 10)
