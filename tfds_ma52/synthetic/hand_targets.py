"""The locations on and around the figure that a hand can go to, and its shape there. Lengths in metres."""

import dataclasses

import numpy as np

from tfds_ma52.synthetic.motions import Number

Vector = tuple[Number, Number, Number]


@dataclasses.dataclass(frozen=True)
class HandTarget:
    """A location that a hand can go to. All vectors are (outwards on the hand's own side, up, forward).

    Attributes:
      part: the part of the figure that it moves with.
      position: metres from the part's origin.
      fingers: direction of the fingers.
      palm: direction that the palm faces.
      elbow: direction of the elbow.
      shape: of the hand, a key of `SHAPES`.
      detour: metres by which the way there bends.
    """

    part: str
    position: Vector
    fingers: Vector
    palm: Vector
    elbow: Vector = (0.8, -1.0, -0.2)
    shape: str = "flat"
    detour: Vector = (0.03, 0.0, 0.10)


# The bend of thumb, index, middle, ring and little finger; the point of the hand that touches: this fraction of its
# length from the wrist, and this one towards the thumb.
SHAPES = {
    "relaxed": ((0.3, 0.3, 0.33, 0.36, 0.4), (0.6, 0.0)),
    "flat": ((0.1, 0.05, 0.05, 0.05, 0.05), (0.6, 0.0)),
    "fist": ((0.9, 1.0, 1.0, 1.0, 1.0), (0.5, 0.0)),
    "point": ((0.8, 0.0, 1.0, 1.0, 1.0), (0.98, 0.25)),
    "fingertips": ((0.4, 0.12, 0.12, 0.15, 0.2), (0.95, 0.0)),
    "grip": ((0.5, 0.55, 0.55, 0.55, 0.55), (0.6, 0.0)),
}

# The hand at rest on the thigh: fingers, palm and elbow as in `HandTarget`, then the shape.
RESTING = [np.array(v) for v in ((-0.35, -0.05, 0.9), (0.0, -1.0, 0.0), (0.8, -1.0, -0.4), *SHAPES["relaxed"])]

HAND_TARGETS = {
    # part, position, fingers, palm, elbow, shape, detour
    "nose": HandTarget("head", (0.0, -0.015, 0.135), (-0.55, 0.65, -0.4), (-0.3, 0, -1), shape="point"),
    "eye": HandTarget("head", (0.042, 0.03, 0.12), (-0.35, 0.8, -0.35), (0, 0.2, -1), (1, -0.7, 0.1), "fist"),
    "glasses": HandTarget("head", (0.0, 0.03, 0.13), (-0.7, 0.6, -0.25), (0, 0.1, -1), (1, -0.5, 0.1), "point"),
    "forehead": HandTarget("head", (0.0, 0.085, 0.11), (-0.85, 0.4, -0.1), (0, 0, -1), (1, -0.3, 0.2), "flat"),
    "cheek": HandTarget("head", (0.08, -0.045, 0.075), (-0.15, 0.95, -0.25), (-1, 0, -0.4), shape="fingertips"),
    "ear": HandTarget("head", (0.11, 0.0, 0.0), (-0.3, 0.8, -0.4), (-1, 0, 0.1), (1, -0.6, 0), "fingertips"),
    "mouth": HandTarget("head", (0.0, -0.07, 0.13), (-0.8, 0.5, -0.1), (0, 0, -1), (0.9, -1, 0.1), "flat"),
    "whole face": HandTarget("head", (0.035, -0.005, 0.135), (-0.2, 0.97, -0.05), (0, 0, -1), (0.7, -1, 0.3), "flat"),
    "hair": HandTarget(
        "head", (0.05, 0.14, 0.02), (-0.6, 0.45, -0.5), (-0.2, -1, -0.2), (1, -0.1, 0.3), "flat", (0.15, 0, 0.1)
    ),
    "back of the head": HandTarget(
        "head", (0.02, -0.01, -0.12), (-0.85, 0.35, -0.3), (0, 0, 1), (1, 0.25, 0.1), "flat", (0.30, 0, 0.2)
    ),
    "neck": HandTarget("chest", (0.065, 0.055, 0.04), (-0.4, 0.55, -0.7), (-1, 0, 0.2), (0.9, -0.6, 0.3), "fingertips"),
    "chest": HandTarget("chest", (-0.05, -0.15, 0.13), (-0.95, 0.25, 0), (0, 0, -1), (0.9, -0.7, 0), "flat"),
    "breastbone": HandTarget(
        "chest", (0.0, -0.10, 0.15), (-0.6, 0.15, -0.75), (-0.5, -0.8, 0), (1, -0.6, 0.2), "point"
    ),
    "other shoulder": HandTarget(
        "chest", (-0.18, 0.015, 0.06), (-0.8, 0.35, -0.5), (0, -0.5, -0.8), (0.2, -1, 0.6), "flat"
    ),
    "other upper arm": HandTarget(
        "chest", (-0.15, -0.22, 0.15), (-0.95, 0.25, -0.1), (0, 0, -1), (1, -0.8, 0), "flat", (0, 0, 0.15)
    ),
    "back": HandTarget(
        "chest", (0.04, -0.30, -0.14), (-0.85, 0.4, 0.1), (0, 0, 1), (1, -0.1, -0.5), "flat", (0.30, 0, -0.05)
    ),
    "hip": HandTarget(
        "pelvis", (0.175, 0.10, 0.03), (-0.3, -0.5, 0.8), (-1, 0, 0.2), (1, 0.1, -0.35), "grip", (0.12, 0, 0)
    ),
    "beside the head": HandTarget("chest", (0.27, 0.14, 0.24), (0.1, 1, 0.1), (0, 0, 1), (0.8, -1, 0), "flat"),
    "before the chest": HandTarget(
        "chest", (0.17, -0.22, 0.32), (-0.3, 0.45, 0.8), (-0.8, 0.4, 0), (0.9, -1, 0), "relaxed"
    ),
    "palms up": HandTarget("chest", (0.32, -0.27, 0.28), (0.5, 0.1, 0.85), (0, 1, 0.25), (0.4, -1, -0.4), "flat"),
    "far out": HandTarget("chest", (0.36, 0.02, 0.52), (0.4, 0.15, 0.9), (-0.3, -1, 0), (0.8, -0.8, -0.3), "flat"),
    "fist in front": HandTarget("chest", (0.20, -0.25, 0.32), (-0.1, 0.75, 0.6), (0, 0.5, -0.8), (0.8, -1, 0), "flat"),
    "palms together": HandTarget("chest", (0.018, -0.22, 0.29), (-0.05, 0.85, 0.4), (-1, 0, 0), (1, -0.6, 0), "flat"),
    "palms low": HandTarget("pelvis", (0.018, 0.19, 0.30), (-0.15, 0.1, 0.95), (-1, 0, 0), (1, -0.3, -0.2), "flat"),
    "fingers together": HandTarget(
        "pelvis", (0.05, 0.16, 0.27), (-0.9, 0.1, 0.35), (0, -0.4, -1), (1, -0.4, -0.2), "grip"
    ),
    "lap": HandTarget("pelvis", (0.055, 0.19, 0.28), (-0.5, 0.2, 0.8), (-0.7, 0.5, 0), (1, -0.5, -0.2), "grip"),
    "other forearm": HandTarget(
        "other forearm", (0, 0.035, 0.02), (-0.9, 0, 0.3), (0, -1, -0.3), (1, -0.6, 0), "fingertips"
    ),
    "thigh": HandTarget("thigh", (0.0, 0.092, 0.0), (-0.2, 0, 0.95), (0, -1, 0), shape="flat", detour=(0.0, 0.08, 0.0)),
    "knee": HandTarget(
        "knee", (0.02, 0.075, 0.03), (-0.1, -0.35, 0.9), (0, -1, -0.3), shape="flat", detour=(0, 0.04, 0)
    ),
    "foot": HandTarget("foot", (0.02, 0.06, 0.06), (-0.3, -0.8, 0.3), (-0.4, -0.5, -0.7), shape="fingertips"),
}
