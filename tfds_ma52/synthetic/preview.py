"""Pictures of the synthetic set: a contact sheet of all classes, and a GIF of each."""

import dataclasses
import pathlib

import cv2
import numpy as np
import tqdm
from jaxtyping import UInt8
from PIL import Image

from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52, MA52_NAMES
from tfds_ma52.synthetic import motions, render, skeleton, writer

_COLUMNS = 4  # classes side by side on the sheet
_FRAMES = 4  # of each


def write_preview(root: pathlib.Path, *, short_side: int, seed: int = 0) -> None:
    """Writes `contact_sheet.jpg`, with the classes' names, and `gifs/<id>_<name>.gif`, without.

    Args:
      root: the folder; made where it does not exist.
      short_side: width of the GIFs in pixels.
      seed: of people, scenes and motions.

    Raises:
      UserError: a setting out of range, or the folder cannot be written.
    """
    writer.check_drawing(short_side=short_side, seed=seed)
    try:
        (root / "gifs").mkdir(parents=True, exist_ok=True)
        cells = []
        for class_id, name in enumerate(tqdm.tqdm(MA52_NAMES, "preview", unit="class", disable=None)):
            animated, still = _draw_example(class_id, short_side, seed)
            images = [Image.fromarray(frame) for frame in animated]
            path = root / "gifs" / f"{class_id:02d}_{name.replace(' ', '_')}.gif"
            images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0)
            cells.append(_cell(still, f"{class_id} {name}", MA52.groups[class_id]))
        rows = [np.hstack(cells[i : i + _COLUMNS]) for i in range(0, len(cells), _COLUMNS)]
        Image.fromarray(np.vstack(rows)).save(root / "contact_sheet.jpg", quality=88)
        print(f"{root} holds contact_sheet.jpg, and gifs/ with {len(cells)} classes.")
    except OSError as error:
        raise UserError(f"{root}: cannot write there ({error.strerror or error}); give another folder.") from error


def _draw_example(
    class_id: int, short_side: int, seed: int
) -> tuple[UInt8[np.ndarray, "t h w 3"], UInt8[np.ndarray, "n h w 3"]]:
    """Draws a clip of one class by a person of its own, without the sensor's noise.

    Returns:
      Every third of its frames, and `_FRAMES` frames for the sheet.
    """
    rng = np.random.default_rng([seed, 4, class_id])
    body, looks, scene = skeleton.draw_body(rng), render.draw_looks(rng, class_id), render.draw_scene(rng)
    points = skeleton.pose_trajectory(class_id, body, motions.draw_variation(rng))
    length = len(next(iter(points.values())))
    animated = range(0, length, 3)
    still = [round(i) for i in np.linspace(0.1, 0.9, _FRAMES) * (length - 1)]
    # Only the frames that are shown are drawn.
    shown, position = np.unique([*animated, *still], return_inverse=True)
    points = {name: places[shown] for name, places in points.items()}
    scene = dataclasses.replace(scene, noise=0.0)
    frames = render.render_frames(points, body, looks, scene, writer.frame_size(short_side), rng)[position]
    return frames[: len(animated)], frames[len(animated) :]


def _cell(frames: UInt8[np.ndarray, "n h w 3"], title: str, group: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Frames of a clip side by side below its name."""
    height, width = frames.shape[1:3]
    size = (96, round(96 * height / width))
    strip = np.hstack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    shade = 235 if group % 2 else 255
    band = np.full((18, strip.shape[1], 3), shade, np.uint8)
    cv2.putText(band, title, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
    return np.pad(np.vstack([band, strip]), ((0, 4), (0, 4), (0, 0)), constant_values=255)
