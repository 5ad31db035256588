"""Surfaces of four-cornered faces that move: tubes, ellipsoids, discs. Lengths in metres."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

Vector = Float[np.ndarray, "t 3"]
Color = tuple[int | float, int | float, int | float]  # red, green, blue, 0..255


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Faces over the frames of a clip; one frame stands for all.

    Attributes:
      corners: of each face, counter-clockwise as seen from outside.
      colors: red, green, blue of each face, 0..255, unshaded.
      flat: faces without shading, such as eyes.
      nearer: metres by which a face counts as nearer to the camera than it is, for details on a surface.
    """

    corners: Float[np.ndarray, "t f 4 3"]
    colors: Float[np.ndarray, "f 3"]
    flat: Bool[np.ndarray, " f"]
    nearer: Float[np.ndarray, " f"]


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of many."""
    frames = max(len(mesh.corners) for mesh in meshes)
    corners = [np.broadcast_to(mesh.corners, (frames, *mesh.corners.shape[1:])) for mesh in meshes]
    rest = (np.concatenate([getattr(mesh, name) for mesh in meshes]) for name in ("colors", "flat", "nearer"))
    return Mesh(np.concatenate(corners, axis=1), *rest)


def unit(vector: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """The vector's direction; zeros stay zeros."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


def loft(
    centers: Sequence[Vector],
    rights: Sequence[Vector],
    fronts: Sequence[Vector],
    color: Color,
    *,
    sides: int,
    nearer: float = 0.0,
) -> Mesh:
    """A skin over elliptic cross-sections, given by their centres and their two half axes.

    It faces outwards where right x front points back, against the way from section to section.
    """
    angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    center, right, front = (np.stack(each, axis=1)[:, :, None] for each in (centers, rights, fronts))
    rings = center + np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * front  # [t, ring, side, 3]
    beside = np.roll(rings, -1, axis=2)
    corners = np.stack([rings[:, :-1], rings[:, 1:], beside[:, 1:], beside[:, :-1]], axis=3)
    return _mesh(corners.reshape(len(rings), -1, 4, 3), color, nearer=nearer)


def tube(
    ends: Sequence[Vector],
    radii: Sequence[float],
    color: Color,
    *,
    sides: int,
    round_ends: bool = True,
    nearer: float = 0.0,
) -> Mesh:
    """A limb: round, straight, with a radius at equal distances from its first end to its second."""
    first, second = ends
    axis = unit(second - first)
    # Any direction across will do, as long as it never lies along the limb.
    helper = np.where(np.abs(axis[:, 2:]) < 0.8, np.array((0.0, 0.0, 1.0)), np.array((1.0, 0.0, 0.0)))
    right = unit(np.cross(helper, axis))
    front = np.cross(right, axis)
    start, end = ((0.95, 0.25), (0.75, 0.66), (0.4, 0.92)), ((0.4, 0.92), (0.75, 0.66), (0.95, 0.25))
    if not round_ends:
        start = end = ((0.0, 0.02),)
    rings = [(first - offset * radii[0] * axis, share * radii[0]) for offset, share in start]
    shares = np.linspace(0, 1, len(radii))
    rings += [(first + share * (second - first), radius) for share, radius in zip(shares, radii, strict=True)]
    rings += [(second + offset * radii[-1] * axis, share * radii[-1]) for offset, share in end]
    centers = [center for center, _ in rings]
    rights, fronts = ([radius * across for _, radius in rings] for across in (right, front))
    return loft(centers, rights, fronts, color, sides=sides, nearer=nearer)


def ellipsoid(
    center: Vector,
    radii: Float[np.ndarray, "3"],
    axes: Float[np.ndarray, "t 3 3"],
    color: Color,
    *,
    rows: int = 9,
    sides: int = 14,
) -> Mesh:
    """An ellipsoid; `radii` are along the rows of `axes`: to the left, up, to the front."""
    left, up, front = (radius * axes[:, i] for i, radius in enumerate(radii))
    heights = -np.cos(np.linspace(0.06, np.pi - 0.06, rows))
    widths = np.sqrt(1 - heights**2)
    centers = [center + height * up for height in heights]
    return loft(centers, [w * left for w in widths], [w * front for w in widths], color, sides=sides)


def disc(center: Vector, right: Vector, up: Vector, color: Color, *, nearer: float = 0.012) -> Mesh:
    """An ellipse of eight corners, drawn without shading, seen from its front only."""
    edge = _around(center, right, up)
    corners = np.stack([edge[:, [0, 1, 2, 3]], edge[:, [0, 3, 4, 7]], edge[:, [4, 5, 6, 7]]], axis=1)
    return _mesh(corners, color, flat=True, nearer=nearer)


def ring(center: Vector, right: Vector, up: Vector, thickness: float, color: Color, *, nearer: float) -> Mesh:
    """The outline of an ellipse; `thickness` is a share of its half axes."""
    outer, inner = (_around(center, scale * right, scale * up) for scale in (1.0, 1 - thickness))
    corners = np.stack([outer, np.roll(outer, -1, 1), np.roll(inner, -1, 1), inner], axis=2)
    return _mesh(corners, color, flat=True, nearer=nearer)


def _around(center: Vector, right: Vector, up: Vector) -> Float[np.ndarray, "t 8 3"]:
    angles = np.arange(8) * np.pi / 4
    return center[:, None] + np.cos(angles)[:, None] * right[:, None] + np.sin(angles)[:, None] * up[:, None]


def _mesh(corners: Float[np.ndarray, "t f 4 3"], color: Color, *, flat: bool = False, nearer: float = 0.0) -> Mesh:
    faces = corners.shape[1]
    return Mesh(
        corners,
        np.broadcast_to(np.asarray(color, float), (faces, 3)),
        np.full(faces, flat),
        np.full(faces, nearer),
    )
