"""The expressive parts of a face. Lengths in metres on the mean person's head."""

import dataclasses

import numpy as np
from jaxtyping import Float

from tfds_ma52.synthetic import mesh
from tfds_ma52.synthetic.mesh import Color, Mesh
from tfds_ma52.synthetic.motions import Number

Axes = tuple[Float[np.ndarray, "t 3"], Float[np.ndarray, "t 3"], Float[np.ndarray, "t 3"]]  # left, up, front
_LIPS, _GAP = (165, 75, 75), (70, 20, 24)


@dataclasses.dataclass(frozen=True)
class Expression:
    """A facial expression; the defaults are at rest.

    Attributes:
      brow_up: how far the brows are raised.
      brow_tilt: how far a brow's inner end lies below its outer one.
      brow_height: half the height of a brow.
      eye_open: height of the eyes over that at rest.
      mouth_curve: how far the mouth's corners lie above its middle.
      mouth_width: half the mouth's width.
      mouth_open: half the height of the open mouth.
    """

    brow_up: Number = 0.0
    brow_tilt: Number = 0.0
    brow_height: Number = 0.0045
    eye_open: Number = 1.0
    mouth_curve: Number = 0.0
    mouth_width: Number = 0.026
    mouth_open: Number = 0.0


NEUTRAL = Expression()


def between(expression: Expression, strength: float) -> Expression:
    """The expression, scaled by `strength`: 0 is at rest, 1 the whole of it."""
    rest, full = dataclasses.asdict(NEUTRAL), dataclasses.asdict(expression)
    return Expression(**{name: rest[name] + strength * (full[name] - rest[name]) for name in rest})


def eye(center: Float[np.ndarray, "t 3"], axes: Axes, expression: Expression) -> list[Mesh]:
    """The white of an eye and its iris."""
    left, up, front = axes
    height = 0.0075 * expression.eye_open
    return [
        mesh.disc(center, 0.015 * left, height * up, (228, 224, 220)),
        mesh.disc(center + 0.002 * front, 0.0075 * left, min(height, 0.0085) * up, (35, 26, 20), nearer=0.016),
    ]


def brow(center: Float[np.ndarray, "t 3"], sign: int, axes: Axes, expression: Expression, color: Color) -> Mesh:
    """The brow on the side of `sign`, +1 for the left."""
    left, up, _ = axes
    along = 0.021 * left + 0.5 * sign * expression.brow_tilt * up
    return mesh.disc(center + expression.brow_up * up, along, expression.brow_height * up, color)


def mouth(center: Float[np.ndarray, "t 3"], axes: Axes, expression: Expression) -> list[Mesh]:
    """The lips, bent by pieces, and the gap between them."""
    left, up, _ = axes
    width, height = expression.mouth_width, 0.006 + expression.mouth_open
    if not expression.mouth_curve:
        parts = [mesh.disc(center, width * left, height * up, _LIPS, nearer=0.016)]
    else:
        pieces = np.linspace(-1, 1, 7)
        parts = [
            mesh.disc(
                center + x * width * left + expression.mouth_curve * (x * x - 0.4) * up,
                width / 4 * left,
                height * up,
                _LIPS,
                nearer=0.016,
            )
            for x in pieces
        ]
    if expression.mouth_open:
        opening = mesh.disc(center, (width - 0.006) * left, expression.mouth_open * up, _GAP, nearer=0.018)
        parts.append(opening)
    return parts
