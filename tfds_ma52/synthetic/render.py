"""Drawing of the figure of `skeleton.py`: shaded polygons in perspective, painted from back to front."""

import colorsys
import dataclasses
import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from tfds_ma52.labels import MA52_NAMES
from tfds_ma52.synthetic import mesh
from tfds_ma52.synthetic.camera import Camera, Scene
from tfds_ma52.synthetic.face import NEUTRAL, Expression, brow, eye, mouth
from tfds_ma52.synthetic.mesh import Color, Mesh, Shapes
from tfds_ma52.synthetic.motions import Number
from tfds_ma52.synthetic.skeleton import FINGERS, Body

# Drawn larger by a whole number, at least twice as large and this many pixels wide, then averaged down: hands and
# fingers are seen in the smallest frames too.
_DRAWN_WIDTH = 192
_FINE_WIDTH = 300  # of a drawing whose faces are a few pixels large; below it, half as many look the same
_SHIFT = 3  # fractional bits of OpenCV's coordinates
_DOT = 0.5  # square pixels, twice the area of the smallest face that is drawn

_PUSHING_GLASSES = MA52_NAMES.index("pushing glasses")


@dataclasses.dataclass(frozen=True)
class Looks:
    """The looks of one person."""

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    long_sleeves: bool
    long_hair: bool
    glasses: bool
    expression: Expression = NEUTRAL


def draw_looks(rng: np.random.Generator, class_id: int) -> Looks:
    """Draws one person's looks; who pushes glasses wears some."""
    skins = ((242, 208, 180), (224, 180, 148), (196, 146, 110), (150, 104, 74), (104, 70, 50))
    hairs = ((24, 20, 18), (58, 40, 28), (104, 70, 40), (170, 130, 76), (130, 130, 132), (112, 44, 24))
    skin, other = rng.choice(len(skins), 2)
    return Looks(
        skin=_as_color(0.8 * np.array(skins[skin]) + 0.2 * np.array(skins[other])),
        hair=hairs[rng.integers(len(hairs))],
        # Dark cool clothes and light shoes, so that skin and feet stand out even where a hand is a few pixels large.
        shirt=_cool_color(rng, 0.3, 0.6),
        trousers=_cool_color(rng, 0.2, 0.45),
        shoes=_color(rng, 170, 240, 0.3),
        long_sleeves=bool(rng.random() < 0.5),
        long_hair=bool(rng.random() < 0.45),
        glasses=bool(rng.random() < 0.4) or class_id == _PUSHING_GLASSES,
    )


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws one clip's camera, light and room."""
    return Scene(
        yaw=rng.uniform(-16, 16),
        height=rng.uniform(1.0, 1.35),
        distance=rng.uniform(2.6, 3.6),
        aim=(rng.uniform(-0.03, 0.03), rng.uniform(0.60, 0.63)),
        zoom=rng.uniform(0.83, 0.91),
        light=rng.uniform(0.85, 1.2),
        light_from=rng.uniform(-1, 1),
        wall=_color(rng, 150, 210, 0.1),
        floor=_color(rng, 90, 140, 0.1),
        stool=_color(rng, 40, 90, 0.5),
        picture=_color(rng, 60, 200, 0.5),
        picture_at=(rng.uniform(-1.6, 1.0), rng.uniform(0.9, 1.6), rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9)),
        noise=rng.uniform(1.0, 3.0),
    )


def _cool_color(rng: np.random.Generator, darkest: float, lightest: float) -> Color:
    """A green, blue or violet; `darkest` and `lightest` bound its strongest channel, 0..1."""
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.8), rng.uniform(darkest, lightest))
    return 255 * red, 255 * green, 255 * blue


def _color(rng: np.random.Generator, low: Number, high: Number, saturation: Number = 1) -> Color:
    color = rng.uniform(low, high, 3)
    return _as_color(color.mean() + saturation * (color - color.mean()))


def _darker(color: Color, factor: float) -> Color:
    return _as_color(factor * np.array(color))


def _as_color(rgb: Float[np.ndarray, "3"]) -> Color:
    red, green, blue = rgb.tolist()
    return red, green, blue


def render_frames(
    points: dict[str, Float[np.ndarray, "t 3"]],
    body: Body,
    looks: Looks,
    scene: Scene,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Draws a clip.

    Args:
      points: the posed figure, from `skeleton.pose_trajectory`.
      body: the person's thicknesses.
      looks: the person's colours.
      scene: camera, light and room.
      size: (height, width) of the frames in pixels.
      rng: for the sensor's noise.

    Returns:
      RGB frames.
    """
    drawing, length = Drawing(body, looks, scene, size, rng), len(points["pelvis"])
    frames = np.empty((length, *size, 3), np.uint8)
    for t, frame in enumerate(drawing.frames(points)):
        frames[t] = frame
    return frames


class Drawing:
    """Draws one person in one room, clip after clip; the arguments are those of `render_frames`."""

    def __init__(self, body: Body, looks: Looks, scene: Scene, size: tuple[int, int], rng: np.random.Generator):
        self._height, self._width = size
        oversampling = max(2, math.ceil(_DRAWN_WIDTH / self._width))
        self._camera = Camera(scene, self._height * oversampling, self._width * oversampling)
        self._room = _room(self._camera, scene)
        self._shapes = mesh.COARSE if self._camera.width < _FINE_WIDTH else Shapes()
        noise = rng.normal(0, scene.noise, (self._height + 64, self._width + 64, 3))
        self._noise = np.rint(noise).astype(np.int16)
        self._body, self._looks, self._scene, self._rng = body, looks, scene, rng

    def frames(self, points: dict[str, Float[np.ndarray, "t 3"]]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Draws the frames of posed points."""
        person = _person(points, self._body, self._looks, self._shapes)
        clip = mesh.join([*_stool(self._body, self._scene, self._shapes), *person])
        canvas, size = np.empty_like(self._room), (self._width, self._height)
        for places in clip.points:
            canvas[:] = self._room
            _paint(canvas, places, clip, self._camera, self._scene)
            small = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
            y, x = self._rng.integers(0, 64, 2)
            yield cv2.add(small, self._noise[y : y + self._height, x : x + self._width], dtype=cv2.CV_8U)


def _paint(
    canvas: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "3 p"], clip: Mesh, camera: Camera, scene: Scene
) -> None:
    """Paints one frame of a clip from back to front."""
    pixels, depth = camera.project(points.T)
    seen = _visible(pixels.T, depth, clip)
    polygons = np.rint(pixels * 2**_SHIFT).astype(np.int32).take(clip.faces.T.take(seen, axis=0), axis=0)
    colors = shade(points, clip, seen, camera, scene)
    for polygon, red, green, blue in zip(polygons, *colors.tolist(), strict=True):
        cv2.fillConvexPoly(canvas, polygon, (red, green, blue), cv2.LINE_8, _SHIFT)


def _visible(pixels: Float[np.ndarray, "2 p"], depth: Float[np.ndarray, " p"], clip: Mesh) -> Int[np.ndarray, " _"]:
    """Returns the faces that are seen from their front, the far ones first."""
    first, second = _diagonals(pixels, clip.faces)
    # Twice the area, negative where the face's front is seen; what is smaller than a dot only costs time.
    seen = np.flatnonzero(first[0] * second[1] - first[1] * second[0] < -_DOT)
    distance = depth.take(clip.faces.take(seen, axis=1)).mean(0) - clip.nearer.take(seen)
    return seen.take(np.argsort(-distance))


def shade(
    points: Float[np.ndarray, "3 p"], clip: Mesh, faces: Int[np.ndarray, " f"], camera: Camera, scene: Scene
) -> Float[np.ndarray, "3 f"]:
    """Returns the colours of some faces in the light, in whole numbers."""
    first, second = _diagonals(points, clip.faces.take(faces, axis=1))
    lambert = np.maximum(mesh.unit(mesh.cross(first.T, second.T)) @ camera.light, 0)
    tone = scene.light * np.where(clip.flat.take(faces), 0.95, 0.52 + 0.5 * lambert)
    return np.floor(np.clip(clip.colors.take(faces, axis=1) * tone, 0, 255))


def _diagonals(
    points: Float[np.ndarray, "n p"], faces: Int[np.ndarray, "4 f"]
) -> tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n f"]]:
    corners = points.take(faces, axis=1)
    return corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]


def _room(camera: Camera, scene: Scene) -> UInt8[np.ndarray, "h w 3"]:
    """The background: wall, floor, a picture on the wall, and the shadow on the floor."""
    h, w = camera.height, camera.width
    rows = np.arange(h)[:, None, None]
    floor = np.zeros((h, w, 1), np.uint8)
    _fill(floor, camera, [(-3, 0, -1), (3, 0, -1), (3, 0, 1.8), (-3, 0, 1.8)], (1, 1, 1))
    ground = (np.array(scene.floor) * (0.8 + 0.3 * rows / h)).astype(np.float32)
    room = np.where(floor, ground, np.array(scene.wall, np.float32))
    left, bottom, width, height = scene.picture_at
    corners = [(left, bottom), (left + width, bottom), (left + width, bottom + height), (left, bottom + height)]
    _fill(room, camera, [(x, y, -1.0) for x, y in corners], scene.picture)
    _fill(room, camera, [(-3, 0, -1), (3, 0, -1), (3, 0.09, -1), (-3, 0.09, -1)], _darker(scene.wall, 0.8))
    around = np.linspace(0, 2 * np.pi, 24)
    shadow = np.stack([0.34 * np.cos(around), 0 * around, 0.18 + 0.42 * np.sin(around)], axis=1)
    _fill(room, camera, shadow, _darker(scene.floor, 0.62))
    room = cv2.GaussianBlur(room, (0, 0), w / 300)
    side = 1 + 0.18 * scene.light_from * np.linspace(-1, 1, w)[None, :, None]
    room = room * side
    room *= 1.05 - 0.15 * rows / h
    room *= scene.light
    return np.clip(room, 0, 255, out=room).astype(np.uint8)


def _fill(
    room: np.ndarray,
    camera: Camera,
    points: Sequence[tuple[Number, Number, Number]] | Float[np.ndarray, "n 3"],
    color: Color,
) -> None:
    pixels, _ = camera.project(np.array(points, float))
    cv2.fillConvexPoly(room, np.rint(pixels * 2**_SHIFT).astype(np.int32), color, cv2.LINE_8, _SHIFT)


def _stool(body: Body, scene: Scene, shapes: Shapes) -> list[Mesh]:
    """A round seat on four legs; one frame, for all."""
    top = body.pelvis_height - 0.09
    seat = [np.array([[0, y, 0.03]]) for y in (top - 0.04, top)]
    parts = [shapes.tube(seat, (0.19, 0.19), scene.stool, sides=14, round_ends=False)]
    for x, z in ((-0.13, -0.10), (0.13, -0.10), (-0.13, 0.15), (0.13, 0.15)):
        leg = [np.array([[1.25 * x, 0.01, 0.03 + 1.25 * (z - 0.03)]]), np.array([[x, top - 0.03, z]])]
        parts.append(shapes.tube(leg, (0.014, 0.016), scene.stool, sides=5, round_ends=False))
    return parts


def _person(points: dict[str, np.ndarray], body: Body, looks: Looks, shapes: Shapes) -> list[Mesh]:
    """The moving parts."""
    parts = [_trunk(points, body, looks, shapes), *_head(points, body, looks, shapes)]
    for side in ("left", "right"):
        parts += _leg(points, side, body, looks, shapes) + _arm(points, side, body, looks, shapes)
    # Something long between the hands; where a motion has none, its ends coincide and nothing is seen.
    grip = [points["object start"], points["object end"]]
    if np.ptp(np.stack(grip), axis=0).max() > 0.01:
        parts.append(shapes.tube(grip, (0.016, 0.016), (40, 44, 52), sides=6))
    return parts


def _trunk(points: dict[str, np.ndarray], body: Body, looks: Looks, shapes: Shapes) -> Mesh:
    """Elliptic cross-sections from the seat to the neck."""
    g = body.girth
    hips = mesh.unit(points["left hip"] - points["right hip"])
    shoulders = mesh.unit(points["left shoulder"] - points["right shoulder"])
    lower, upper = points["waist"] - points["pelvis"], points["chest"] - points["waist"]
    # Along the spine: centre, share of the shoulders' direction, half width, half depth, metres forwards.
    sections = (
        (points["pelvis"] - 0.35 * lower, 0.0, 0.10 * g, 0.09 * g, 0.02),
        (points["pelvis"], 0.0, 0.155 * g, 0.115 * g, 0.02),
        (points["pelvis"] + 0.55 * lower, 0.2, 0.145 * g, 0.11 * g, 0.015),
        (points["waist"], 0.5, 0.135 * g, 0.10 * g, 0.01),
        (points["waist"] + 0.5 * upper, 0.8, body.shoulder - 0.035, 0.11 * g, 0.01),
        (points["waist"] + 0.8 * upper, 1.0, body.shoulder - 0.015, 0.10 * g, 0.0),
        (points["chest"] - 0.06 * upper, 1.0, body.shoulder - 0.01, 0.075 * g, 0.0),
        (points["chest"] + 0.05 * upper, 1.0, 0.10, 0.06, 0.0),
        (points["chest"] + 0.12 * upper, 1.0, 0.045, 0.045, 0.0),
    )
    centers, rights, fronts = [], [], []
    for center, share, width, depth, forwards in sections:
        right = mesh.unit((1 - share) * hips + share * shoulders)
        front = mesh.unit(mesh.cross(right, lower + upper))
        centers.append(center + forwards * front)
        rights.append(width * right)
        fronts.append(depth * front)
    # A shrug lifts the upper sections with the shoulders.
    lift = 0.5 * (points["left shoulder"] + points["right shoulder"]) - points["chest"]
    for i in (-3, -2):
        centers[i] = centers[i] + (lift + 0.035 * mesh.unit(upper)) * 0.7
    centers, rights, fronts = (np.stack(each, axis=-1) for each in (centers, rights, fronts))
    return shapes.loft(centers, rights, fronts, looks.shirt, sides=18)


def _leg(points: dict[str, np.ndarray], side: str, body: Body, looks: Looks, shapes: Shapes) -> list[Mesh]:
    g = 0.5 + 0.5 * body.girth
    hip, knee, ankle = (points[f"{side} {joint}"] for joint in ("hip", "knee", "ankle"))
    heel, toe = points[f"{side} heel"], points[f"{side} toe"]
    sole = toe - heel
    across = mesh.unit(mesh.cross(sole, ankle - heel + 1e-6))
    up = mesh.unit(mesh.cross(across, sole))
    # Of each section: share of the way from heel to toe, half width, half height.
    sections = ((-0.10, 0.020, 0.02), (0.0, 0.033, 0.035), (0.3, 0.038, 0.045), (0.7, 0.043, 0.033))
    sections += ((0.95, 0.036, 0.02), (1.06, 0.015, 0.01))
    shares, widths, heights = np.array(sections).T
    centers = heel[..., None] + mesh.times(sole, shares) + mesh.times(up, 0.6 * heights - 0.012)
    return [
        shapes.tube([hip, knee], (0.084 * g, 0.078 * g, 0.069 * g, 0.060 * g), looks.trousers, sides=12),
        shapes.tube([knee, ankle], (0.058 * g, 0.060 * g, 0.050 * g, 0.040 * g), looks.trousers, sides=10),
        shapes.loft(centers, mesh.times(across, widths), mesh.times(up, heights), looks.shoes, sides=8),
    ]


def _arm(points: dict[str, np.ndarray], side: str, body: Body, looks: Looks, shapes: Shapes) -> list[Mesh]:
    g, size = body.girth, body.hand
    shoulder, elbow, wrist = (points[f"{side} {joint}"] for joint in ("shoulder", "elbow", "wrist"))
    sleeve = looks.shirt if looks.long_sleeves else looks.skin
    knuckles = [points[f"{side} knuckle {finger}"] for finger in range(FINGERS)]
    across = mesh.unit(knuckles[1] - knuckles[4])
    along = 0.5 * (knuckles[2] + knuckles[3]) - wrist
    out = mesh.unit(mesh.cross(across, along))
    sections = ((-0.05, 0.12, 0.10), (0.0, 0.135, 0.11), (0.5, 0.20, 0.095), (0.95, 0.215, 0.08), (1.05, 0.17, 0.04))
    shares, widths, heights = np.array(sections).T
    parts = [
        shapes.tube([shoulder, elbow], (0.058 * g, 0.053 * g, 0.046 * g), looks.shirt, sides=9),
        shapes.tube([elbow, wrist], (0.044 * g, 0.043 * g, 0.030 * g), sleeve, sides=8),
        shapes.loft(
            wrist[..., None] + mesh.times(along, shares),
            mesh.times(across, widths * size),
            mesh.times(out, heights * size),
            looks.skin,
            sides=8,
        ),
    ]
    for finger in range(FINGERS):
        joint, tip = points[f"{side} joint {finger}"], points[f"{side} tip {finger}"]
        radius = (0.055 if finger == 0 else 0.048) * size
        parts.append(shapes.tube([knuckles[finger], joint], (radius, 0.95 * radius), looks.skin, sides=5, nearer=0.002))
        parts.append(shapes.tube([joint, tip], (0.95 * radius, 0.8 * radius), looks.skin, sides=5, nearer=0.002))
    return parts


def _head(points: dict[str, np.ndarray], body: Body, looks: Looks, shapes: Shapes) -> list[Mesh]:
    k = body.head_scale
    center, left = points["head"], mesh.unit(points["left ear"] - points["right ear"])
    up = mesh.unit(points["crown"] - center)
    front = mesh.cross(left, up)
    axes = np.stack([left, up, front], axis=-2)  # [t, 3, 3], rows

    def at(x: Number, y: Number, z: Number) -> np.ndarray:
        return center + k * (np.array((x, y, z)) @ axes)

    skin, hair = looks.skin, looks.hair
    parts = [
        shapes.tube([points["chest"], at(0, -0.05, -0.01)], (0.050, 0.046, 0.046), _darker(skin, 0.9), sides=8),
        shapes.ellipsoid(at(0, 0.0, 0.005), k * np.array((0.078, 0.115, 0.098)), axes, skin),
        shapes.ellipsoid(at(0, -0.055, 0.035), k * np.array((0.055, 0.055, 0.058)), axes, skin, rows=6, sides=10),
        # Hair: where it lies outside the first ellipsoid.
        shapes.ellipsoid(at(0, 0.03, -0.022), k * np.array((0.086, 0.104, 0.098)), axes, hair),
    ]
    if looks.long_hair:
        back = [at(0, -0.21, -0.06), at(0, -0.20, -0.06), at(0, -0.08, -0.065), at(0, 0.05, -0.06)]
        widths = mesh.times(k * left, (0.02, 0.075, 0.09, 0.08))
        depths = mesh.times(k * front, (0.01, 0.04, 0.04, 0.04))
        parts.append(shapes.loft(np.stack(back, axis=-1), widths, depths, hair, sides=10))
    axes_of_face = (k * left, k * up, k * front)
    for name, sign in (("left", 1), ("right", -1)):
        ear = np.array((0.012, 0.03, 0.02))
        parts.append(shapes.ellipsoid(points[f"{name} ear"], k * ear, axes, skin, rows=4, sides=6))
        parts += eye(points[f"{name} eye"], axes_of_face, looks.expression)
        parts.append(brow(points[f"{name} brow"], sign, axes_of_face, looks.expression, hair))
        if looks.glasses:
            # A frame at the lens: outlines alone, so that the eye stays in sight.
            lens = points[f"{name} lens"]
            parts.append(mesh.ring(lens, 0.029 * k * left, 0.023 * k * up, 0.2, (25, 25, 30), nearer=0.02))
            ear = at(0.083 * sign, 0.02, 0.0) + (lens - at(0.042 * sign, 0.026, 0.112))
            parts.append(shapes.tube([lens + 0.029 * k * sign * left, ear], (0.004, 0.004), (25, 25, 30), sides=4))
    parts.append(shapes.tube([at(0, 0.035, 0.094), points["nose"]], (0.008, 0.016), skin, sides=6, nearer=0.014))
    return parts + mouth(points["mouth"], axes_of_face, looks.expression)
