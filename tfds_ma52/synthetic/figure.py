"""Draws the figure of `skeleton.py`: looks, camera, shaded limbs painted from back to front."""

import colorsys
import dataclasses
import functools

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from tfds_ma52.synthetic.motions import Number
from tfds_ma52.synthetic.skeleton import FINGERS, Body

_OVERSAMPLING = 2  # drawn this much larger, then averaged down
_SHIFT = 3  # fractional bits of OpenCV's coordinates
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 9)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 9)[:-1])], axis=1)

Color = tuple[Number, Number, Number]  # red, green, blue, 0..255


@dataclasses.dataclass(frozen=True)
class Looks:
    """What one person looks like."""

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    long_sleeves: bool
    long_hair: bool
    glasses: bool


@dataclasses.dataclass(frozen=True)
class Scene:
    """Camera, light and room of one clip; lengths in metres, angles in degrees."""

    yaw: float
    height: float
    distance: float
    aim: tuple[float, float]
    zoom: float
    light: float
    light_from: float
    wall: Color
    floor: Color
    stool: Color
    wall_line: float
    noise: float


def draw_looks(rng: np.random.Generator) -> Looks:
    """Draws one person's looks."""
    skins = ((242, 208, 180), (224, 180, 148), (196, 146, 110), (150, 104, 74), (104, 70, 50))
    hairs = ((24, 20, 18), (58, 40, 28), (104, 70, 40), (170, 130, 76), (130, 130, 132), (112, 44, 24))
    skin, other = rng.choice(len(skins), 2)
    return Looks(
        skin=tuple(0.8 * np.array(skins[skin]) + 0.2 * np.array(skins[other])),
        hair=hairs[rng.integers(len(hairs))],
        # Dark cool clothes and light shoes, so that skin and feet stand out even where a hand is a few pixels large.
        shirt=_cool_color(rng, 0.3, 0.6),
        trousers=_cool_color(rng, 0.2, 0.45),
        shoes=_color(rng, 170, 240, 0.3),
        long_sleeves=bool(rng.random() < 0.5),
        long_hair=bool(rng.random() < 0.45),
        glasses=bool(rng.random() < 0.4),
    )


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws one clip's camera, light and room."""
    return Scene(
        yaw=rng.uniform(-12, 12),
        height=rng.uniform(1.0, 1.3),
        distance=rng.uniform(2.6, 3.4),
        aim=(rng.uniform(-0.03, 0.03), rng.uniform(0.60, 0.64)),
        zoom=rng.uniform(0.82, 0.9),
        light=rng.uniform(0.75, 1.15),
        light_from=rng.uniform(-1, 1),
        wall=_color(rng, 150, 210, 0.1),
        floor=_color(rng, 90, 140, 0.1),
        stool=_color(rng, 40, 90, 0.5),
        wall_line=rng.uniform(0.3, 1.1),
        noise=rng.uniform(1.0, 3.0),
    )


def _cool_color(rng: np.random.Generator, darkest: float, lightest: float) -> Color:
    """A green, blue or violet; `darkest` and `lightest` bound its strongest channel, 0..1."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.8), rng.uniform(darkest, lightest))
    return tuple(255 * channel for channel in rgb)


def _color(rng: np.random.Generator, low: Number, high: Number, saturation: Number = 1) -> Color:
    color = rng.uniform(low, high, 3)
    return tuple(color.mean() + saturation * (color - color.mean()))


def render(
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
    height, width = size
    camera = _Camera(scene, height * _OVERSAMPLING, width * _OVERSAMPLING)
    room = _room(camera, scene, body)
    names = list(points)
    pixels, depth = camera.project(np.stack([points[name] for name in names], axis=1))
    index = {name: i for i, name in enumerate(names)}
    parts = _parts(index, body, looks)
    order = np.argsort(-_part_depths(parts, depth, index), axis=1)
    scale = camera.focal / depth
    noise = rng.normal(0, scene.noise, (height + 64, width + 64, 3)).astype(np.int16)
    frames = np.empty((len(pixels), height, width, 3), np.uint8)
    for t in range(len(pixels)):
        canvas = room.copy()
        for k in order[t]:
            parts[k].paint(canvas, pixels[t], scale[t], scene)
        small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
        y, x = rng.integers(0, 64, 2)
        frames[t] = cv2.add(small, noise[y : y + height, x : x + width], dtype=cv2.CV_8U)
    return frames


class _Camera:
    """Perspective projection of points in metres to pixels."""

    def __init__(self, scene: Scene, height: int, width: int):
        yaw = np.radians(scene.yaw)
        target = np.array((scene.aim[0], scene.aim[1], 0.12))
        self.position = np.array((np.sin(yaw) * scene.distance, scene.height, np.cos(yaw) * scene.distance))
        back = self.position - target
        self.focal = scene.zoom * height * np.linalg.norm(back) / 1.6
        back = back / np.linalg.norm(back)
        right = np.cross((0, 1, 0), back)
        right = right / np.linalg.norm(right)
        self.axes = np.stack([right, -np.cross(back, right), -back])
        self.center = np.array((width / 2, height / 2))
        self.height, self.width = height, width

    def project(
        self, points: Float[np.ndarray, "... 3"]
    ) -> tuple[Float[np.ndarray, "... 2"], Float[np.ndarray, "..."]]:
        """Returns pixels (right, down) and depth in metres."""
        seen = (points - self.position) @ self.axes.T
        depth = np.maximum(seen[..., 2], 0.3)
        return self.center + self.focal * seen[..., :2] / depth[..., None], depth


def _room(camera: _Camera, scene: Scene, body: Body) -> UInt8[np.ndarray, "h w 3"]:
    """The background: wall, floor, stool and its shadow."""
    h, w = camera.height, camera.width
    behind = camera.project(np.array([[0, 0, -1.0]]))[0][0, 1]
    rows = np.arange(h)[:, None, None]
    room = np.where(rows < behind, scene.wall, np.array(scene.floor) * (0.8 + 0.3 * rows / h))
    side = 1 + 0.18 * scene.light_from * np.linspace(-1, 1, w)[None, :, None]
    room = room * side * (1.05 - 0.15 * rows / h) * scene.light
    room = np.ascontiguousarray(np.clip(np.broadcast_to(room, (h, w, 3)), 0, 255).astype(np.uint8))
    line = int(camera.project(np.array([[0, scene.wall_line, -1.0]]))[0][0, 1])
    _line(room, (0, line), (w, line), _lit(scene.wall, 0.85 * scene.light), 2 * w / 128)
    center, depth = camera.project(np.array([[0, 0, 0.05], [0, body.pelvis_height - 0.1, 0.02]]))
    radius = 0.21 * camera.focal / depth
    floor = tuple(float(c) for c in _lit(scene.floor, 0.6 * scene.light))
    cv2.ellipse(room, _box(center[0], 1.5 * radius[0], 0.55 * radius[0]), floor, -1)
    for x, z in ((-0.15, 0.12), (0.15, 0.12), (-0.15, -0.12), (0.15, -0.12)):
        (top, foot), _ = camera.project(np.array([[x, body.pelvis_height - 0.1, z], [1.2 * x, 0, 1.2 * z]]))
        _line(room, top, foot, _lit(scene.stool, 0.8 * scene.light), 0.035 * camera.focal / depth[1])
    cv2.ellipse(room, _box(center[1], radius[1], 0.35 * radius[1]), _lit(scene.stool, scene.light), -1, cv2.LINE_AA)
    return room


@dataclasses.dataclass(frozen=True)
class _Part:
    """One thing to paint: its points decide how deep it lies, `bias` metres nearer than their mean."""

    points: tuple[str, ...]
    paint: object
    bias: float = 0.0


def _part_depths(parts, depth, index) -> Float[np.ndarray, "t part"]:
    return np.stack([depth[:, [index[n] for n in p.points]].mean(axis=1) - p.bias for p in parts], axis=1)


def _parts(index: dict[str, int], body: Body, looks: Looks) -> list[_Part]:
    """Lists everything that a figure is painted of."""
    g = body.girth
    parts = []

    def limb(start: str, end: str, thick: float, thin: float, color: Color, bias: float = 0.0) -> None:
        paint = functools.partial(_paint_limb, index[start], index[end], thick, thin, color)
        parts.append(_Part((start, end), paint, bias))

    sleeve = looks.shirt if looks.long_sleeves else looks.skin
    for side in ("left", "right"):
        limb(f"{side} hip", f"{side} knee", 0.082 * g, 0.062 * g, looks.trousers, 0.02)
        limb(f"{side} knee", f"{side} ankle", 0.060 * g, 0.042 * g, looks.trousers, 0.03)
        foot = tuple(index[f"{side} {name}"] for name in ("heel", "ankle", "toe"))
        paint = functools.partial(_paint_foot, *foot, looks.shoes)
        parts.append(_Part((f"{side} heel", f"{side} toe"), paint, 0.05))
        limb(f"{side} shoulder", f"{side} elbow", 0.056 * g, 0.045 * g, looks.shirt, 0.06)
        limb(f"{side} elbow", f"{side} wrist", 0.043 * g, 0.032 * g, sleeve, 0.08)
        hand = np.array([[index[f"{side} {k} {f}"] for k in ("knuckle", "joint", "tip")] for f in range(FINGERS)])
        wrist, palm = index[f"{side} wrist"], index[f"{side} palm"]
        paint = functools.partial(_paint_hand, wrist, palm, hand, body.hand, looks.skin)
        parts.append(_Part((f"{side} wrist", f"{side} touch", f"{side} touch"), paint, 0.11))
    trunk = tuple(index[n] for n in ("left shoulder", "right shoulder", "left hip", "right hip", "waist"))
    parts.append(_Part(("chest", "waist"), functools.partial(_paint_trunk, trunk, g, looks.shirt)))
    limb("chest", "skull", 0.052 * g, 0.048 * g, tuple(0.88 * np.array(looks.skin)), 0.0)
    parts.append(_Part(("head",), functools.partial(_paint_head, index, body.head, looks), 0.03))
    if looks.long_hair:
        limb("nape", "hair end", 0.108 * body.head / 0.125, 0.07, looks.hair, -0.12)
    start, end = index["object start"], index["object end"]
    parts.append(_Part(("object start", "object end"), functools.partial(_paint_object, start, end), 0.13))
    return parts


def _paint_limb(start, end, thick, thin, color, canvas, pixels, scale, scene) -> None:
    a, b = pixels[start], pixels[end]
    _capsule(canvas, a, b, thick * scale[start], thin * scale[end], _lit(color, 0.82 * scene.light))
    lit = np.array((0.35 * scene.light_from, -0.25))
    a, b = a + lit * thick * scale[start], b + lit * thin * scale[end]
    _capsule(canvas, a, b, 0.55 * thick * scale[start], 0.55 * thin * scale[end], _lit(color, scene.light))


def _paint_trunk(trunk, girth, color, canvas, pixels, scale, scene) -> None:
    left, right, left_hip, right_hip, waist = trunk
    across = pixels[left] - pixels[right]
    middle = pixels[waist]
    centers = [pixels[left] - 0.05 * across, pixels[right] + 0.05 * across]
    centers += [middle + 0.36 * across, middle - 0.36 * across, pixels[left_hip], pixels[right_hip]]
    radii = np.array((0.062, 0.062, 0.07, 0.07, 0.085, 0.085)) * girth * scale[waist]
    ring = (np.array(centers)[:, None] + radii[:, None, None] * _CIRCLE).reshape(-1, 2)
    _polygon(canvas, cv2.convexHull(_fixed(ring)), _lit(color, 0.82 * scene.light))
    lit = np.array((0.05 * scene.light_from, 0)) * scale[waist]
    ring = (np.array(centers)[:, None] * 0.72 + 0.28 * middle + radii[:, None, None] * 0.55 * _CIRCLE + lit).reshape(
        -1, 2
    )
    _polygon(canvas, cv2.convexHull(_fixed(ring)), _lit(color, 0.95 * scene.light))


def _paint_foot(heel, ankle, toe, color, canvas, pixels, scale, scene) -> None:
    _capsule(canvas, pixels[ankle], pixels[toe], 0.042 * scale[ankle], 0.036 * scale[toe], _lit(color, scene.light))
    _capsule(canvas, pixels[heel], pixels[toe], 0.036 * scale[heel], 0.034 * scale[toe], _lit(color, 0.8 * scene.light))


def _paint_hand(wrist, palm, hand, size, skin, canvas, pixels, scale, scene) -> None:
    k = size * scale[palm]
    corners = pixels[[*hand[1:, 0], wrist]]
    fingers = list(_fixed(pixels[hand]))
    # The dark outline first: a hand must stand out against the face.
    for width, color in ((0.17, _lit(skin, 0.6 * scene.light)), (0.10, _lit(skin, scene.light))):
        ring = (corners[:, None] + width * k * _CIRCLE).reshape(-1, 2)
        _polygon(canvas, cv2.convexHull(_fixed(ring)), color)
        cv2.polylines(canvas, fingers, False, color, max(round(1.2 * width * k), 1), cv2.LINE_AA, _SHIFT)


def _paint_head(index, size, looks, canvas, pixels, scale, scene) -> None:
    at = {name: pixels[i] for name, i in index.items()}
    k = size / 0.125 * scale[index["head"]]
    skin, hair = _lit(looks.skin, scene.light), _lit(looks.hair, scene.light)
    dark = _lit(looks.skin, 0.55 * scene.light)
    up = at["crown"] - at["head"]
    angle = np.degrees(np.arctan2(up[0], -up[1]))
    cv2.ellipse(canvas, _box(at["hair"], 0.108 * k, 0.128 * k, angle), hair, -1, cv2.LINE_AA)
    for side in ("left", "right"):
        cv2.ellipse(canvas, _box(at[f"{side} ear"], 0.018 * k, 0.03 * k, angle), dark, -1, cv2.LINE_AA)
    cv2.ellipse(canvas, _box(at["face"], 0.088 * k, 0.108 * k, angle), skin, -1, cv2.LINE_AA)
    _capsule(canvas, at["left hairline"], at["right hairline"], 0.030 * k, 0.030 * k, hair)
    for side in ("left", "right"):
        cv2.ellipse(canvas, _box(at[f"{side} eye"], 0.018 * k, 0.011 * k, angle), (235, 235, 235), -1, cv2.LINE_AA)
        cv2.circle(canvas, _fixed(at[f"{side} eye"]), int(0.009 * k * 2**_SHIFT), (30, 24, 20), -1, cv2.LINE_AA, _SHIFT)
        _line(canvas, at[f"{side} brow inner"], at[f"{side} brow outer"], hair, 0.012 * k)
    _line(canvas, at["bridge"], at["nose"], dark, 0.014 * k)
    _line(canvas, at["left mouth"], at["right mouth"], _lit((165, 70, 70), scene.light), 0.014 * k)
    if looks.glasses:
        for side in ("left", "right"):
            box = _box(at[f"{side} lens"], 0.034 * k, 0.026 * k, angle)
            cv2.ellipse(canvas, box, (25, 25, 30), max(int(0.010 * k), 1), cv2.LINE_AA)
            _line(
                canvas,
                at[f"{side} lens"] + (at[f"{side} lens"] - at["bridge"]) * 0.75,
                at[f"{side} ear"],
                (25, 25, 30),
                0.01 * k,
            )


def _paint_object(start, end, canvas, pixels, scale, scene) -> None:
    a, b = pixels[start], pixels[end]
    if np.abs(a - b).sum() > 0.5:
        _capsule(canvas, a, b, 0.026 * scale[start], 0.026 * scale[end], _lit((40, 44, 52), scene.light))


def _lit(color: Color, light: Number) -> tuple[int, int, int]:
    return tuple(min(int(c * light), 255) for c in color)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels * 2**_SHIFT).astype(np.int32)


def _box(center, half_width: float, half_height: float, angle: float = 0.0):
    return (float(center[0]), float(center[1])), (2 * float(half_width), 2 * float(half_height)), float(angle)


def _polygon(canvas, points: np.ndarray, color) -> None:
    cv2.fillConvexPoly(canvas, points, color, cv2.LINE_AA, _SHIFT)


def _line(canvas, a, b, color, thickness: Number) -> None:
    a, b = _fixed(np.asarray(a)), _fixed(np.asarray(b))
    cv2.line(canvas, a, b, color, max(round(thickness), 1), cv2.LINE_AA, _SHIFT)


def _capsule(canvas, a, b, first: float, second: float, color) -> None:
    """A limb with round ends of two radii."""
    ring = np.concatenate([a + first * _CIRCLE, b + second * _CIRCLE])
    _polygon(canvas, cv2.convexHull(_fixed(ring)), color)
