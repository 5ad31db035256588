"""Surfaces of four-cornered faces that move: tubes, ellipsoids, discs. Lengths in metres."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Vector = Float[np.ndarray, "t 3"]
Vectors = Float[np.ndarray, "t 3 r"]  # of the r sections of a limb
Color = tuple[int | float, int | float, int | float]  # red, green, blue, 0..255


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Faces over the frames of a clip; one frame stands for all.

    Attributes:
      points: the corners of all faces.
      faces: the four points of each, counter-clockwise as seen from outside.
      colors: red, green, blue of each face, 0..255, unshaded.
      flat: faces without shading, such as eyes.
      nearer: metres by which a face counts as nearer to the camera than it is, for details on a surface.
    """

    points: Float[np.ndarray, "t 3 p"]
    faces: Int[np.ndarray, "4 f"]
    colors: Float[np.ndarray, "3 f"]
    flat: Bool[np.ndarray, " f"]
    nearer: Float[np.ndarray, " f"]


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of many."""
    frames = max(len(mesh.points) for mesh in meshes)
    points = [np.broadcast_to(mesh.points, (frames, *mesh.points.shape[1:])) for mesh in meshes]
    first = np.cumsum([0, *(mesh.points.shape[2] for mesh in meshes)])[:-1]
    faces = [start + mesh.faces for start, mesh in zip(first, meshes, strict=True)]
    rest = (np.concatenate([getattr(mesh, name) for mesh in meshes], axis=-1) for name in ("colors", "flat", "nearer"))
    return Mesh(np.concatenate(points, axis=2), np.concatenate(faces, axis=1), *rest)


def unit(vector: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """The vector's direction; zeros stay zeros."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


def cross(first: Float[np.ndarray, "n 3"], second: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """The cross products; on arrays as small as here `np.cross` takes several times as long."""
    (a, b, c), (d, e, f) = first.T, second.T
    return np.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=-1)


def times(vector: Float[np.ndarray, "t 3"], factors: Sequence[float] | Float[np.ndarray, " r"]) -> Vectors:
    """The vector times each of the factors."""
    return vector[..., None] * np.asarray(factors)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Round shapes, of as many faces as the size of the drawing lets one see.

    Attributes:
      detail: the share of the sides and rows that a shape is given, of which at least four are drawn.
      round_end: sections of a limb's round end, the outermost first: radii beyond its end, and the share of the radius.
    """

    detail: float = 1.0
    round_end: tuple[tuple[float, ...], tuple[float, ...]] = ((0.95, 0.75, 0.4), (0.25, 0.66, 0.92))

    def loft(
        self, centers: Vectors, rights: Vectors, fronts: Vectors, color: Color, *, sides: int, nearer: float = 0.0
    ) -> Mesh:
        """A skin over elliptic cross-sections, given by their centres and their two half axes.

        It faces outwards where right x front points back, against the way from section to section.
        """
        sides = self._number(sides)
        angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        rings = centers[..., None] + np.cos(angles) * rights[..., None] + np.sin(angles) * fronts[..., None]
        frames, _, sections, _ = rings.shape
        point = np.arange(sections * sides).reshape(sections, sides)
        beside = np.roll(point, -1, axis=1)
        faces = np.stack([point[:-1], point[1:], beside[1:], beside[:-1]])
        return _mesh(rings.reshape(frames, 3, -1), faces.reshape(4, -1), color, nearer=nearer)

    def tube(
        self,
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
        right = unit(cross(helper, axis))
        front = cross(right, axis)
        offsets, shares = np.array(self.round_end if round_ends else ((0.0,), (0.02,)))
        # Of each section: the share of the way between the ends, metres beyond it, and the radius.
        inner = np.linspace(0, 1, len(radii))
        along = np.concatenate([0 * offsets, inner, 1 + 0 * offsets])
        beyond = np.concatenate([-offsets * radii[0], 0 * inner, offsets[::-1] * radii[-1]])
        widths = np.concatenate([shares * radii[0], radii, shares[::-1] * radii[-1]])
        centers = first[..., None] + times(second - first, along) + times(axis, beyond)
        return self.loft(centers, times(right, widths), times(front, widths), color, sides=sides, nearer=nearer)

    def ellipsoid(
        self,
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
        heights = -np.cos(np.linspace(0.06, np.pi - 0.06, self._number(rows)))
        widths = np.sqrt(1 - heights**2)
        return self.loft(
            center[..., None] + times(up, heights), times(left, widths), times(front, widths), color, sides=sides
        )

    def _number(self, wanted: int) -> int:
        return max(min(4, wanted), round(self.detail * wanted))


COARSE = Shapes(detail=0.6, round_end=((0.85,), (0.45,)))  # half as many faces


def disc(center: Vector, right: Vector, up: Vector, color: Color, *, nearer: float = 0.012) -> Mesh:
    """An ellipse of eight corners, drawn without shading, seen from its front only."""
    faces = np.array([(0, 1, 2, 3), (0, 3, 4, 7), (4, 5, 6, 7)]).T
    return _mesh(_around(center, right, up), faces, color, flat=True, nearer=nearer)


def ring(center: Vector, right: Vector, up: Vector, thickness: float, color: Color, *, nearer: float) -> Mesh:
    """The outline of an ellipse; `thickness` is a share of its half axes."""
    outer, inner = (_around(center, scale * right, scale * up) for scale in (1.0, 1 - thickness))
    point = np.arange(8)
    beside = np.roll(point, -1)
    faces = np.stack([point, beside, 8 + beside, 8 + point])
    return _mesh(np.concatenate([outer, inner], axis=2), faces, color, flat=True, nearer=nearer)


def _around(center: Vector, right: Vector, up: Vector) -> Float[np.ndarray, "t 3 8"]:
    angles = np.arange(8) * np.pi / 4
    return center[..., None] + times(right, np.cos(angles)) + times(up, np.sin(angles))


def _mesh(
    points: Float[np.ndarray, "t 3 p"],
    faces: Int[np.ndarray, "4 f"],
    color: Color,
    *,
    flat: bool = False,
    nearer: float = 0.0,
) -> Mesh:
    number = faces.shape[1]
    colors = np.broadcast_to(np.asarray(color, float)[:, None], (3, number))
    return Mesh(points, faces, colors, np.full(number, flat), np.full(number, nearer))
