"""Camera, light and room of a clip, and the projection of points to pixels."""

import dataclasses

import numpy as np
from jaxtyping import Float

from tfds_ma52.synthetic import mesh
from tfds_ma52.synthetic.mesh import Color

_FRAMED = 1.62  # metres that a frame of zoom 1 is wide


@dataclasses.dataclass(frozen=True)
class Scene:
    """Camera, light and room of one clip; lengths in metres, angles in degrees.

    Attributes:
      yaw: direction from the figure to the camera, 0 in front.
      height: of the camera.
      distance: of the camera from the figure.
      aim: the point in the middle of the frame, metres to the person's left and above the floor.
      zoom: size of the figure in the frame.
      light: brightness.
      light_from: side of the light, from -1, the frame's left, to 1, its right.
      wall: colours of wall, floor, stool and of a picture on the wall.
      floor: see `wall`.
      stool: see `wall`.
      picture: see `wall`.
      picture_at: left, bottom, width and height of the picture.
      noise: standard deviation of the sensor's noise, grey levels.
    """

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
    picture: Color
    picture_at: tuple[float, float, float, float]
    noise: float


class Camera:
    """Perspective projection of points in metres to pixels."""

    def __init__(self, scene: Scene, height: int, width: int):
        yaw = np.radians(scene.yaw)
        target = np.array((scene.aim[0], scene.aim[1], 0.12))
        self.position = np.array((np.sin(yaw) * scene.distance, scene.height, np.cos(yaw) * scene.distance))
        back = self.position - target
        self.focal = scene.zoom * width * np.linalg.norm(back) / _FRAMED
        back = back / np.linalg.norm(back)
        right = np.cross((0, 1, 0), back)
        right = right / np.linalg.norm(right)
        self.axes = np.stack([right, -np.cross(back, right), -back])
        self.center = np.array((width / 2, height / 2))
        # Towards the light: from above, from one side, and from the camera's.
        self.light = mesh.unit(0.7 * scene.light_from * self.axes[0] - 0.5 * self.axes[1] - 0.6 * self.axes[2])
        self.height, self.width = height, width

    def project(self, points: Float[np.ndarray, "*n 3"]) -> tuple[Float[np.ndarray, "*n 2"], Float[np.ndarray, "*n"]]:
        """Returns pixels (right, down) and depth in metres."""
        right, down, depth = np.moveaxis((points - self.position) @ self.axes.T, -1, 0)
        depth = np.maximum(depth, 0.3)
        scale = self.focal / depth
        return np.stack([self.center[0] + scale * right, self.center[1] + scale * down], axis=-1), depth
