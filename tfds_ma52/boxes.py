"""Frames cropped to a box, such as the one around the person."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from tfds_ma52.video import DamagedVideoError, Frame

MARGIN = 0.1  # of the box's width and height, on each side


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of a picture: left, top, right and bottom, in pixels of the upright picture, or as shares of its sides."""

    x0: float
    y0: float
    x1: float
    y1: float
    in_shares: bool

    def edges(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, bottom, left and right in pixels of a picture of some height and width, with the margin.

        Raises:
          DamagedVideoError: the box lies outside.
        """
        height, width = size
        scale_x, scale_y = (width, height) if self.in_shares else (1, 1)
        margin_x, margin_y = MARGIN * (self.x1 - self.x0) * scale_x, MARGIN * (self.y1 - self.y0) * scale_y
        left, right = round(max(0, self.x0 * scale_x - margin_x)), round(min(width, self.x1 * scale_x + margin_x))
        top, bottom = round(max(0, self.y0 * scale_y - margin_y)), round(min(height, self.y1 * scale_y + margin_y))
        if left >= right or top >= bottom:
            raise DamagedVideoError(f"its box lies outside of the picture of {width} x {height} pixels")
        return top, bottom, left, right


class CroppedPicture:
    """The part of a picture in a box.

    Attributes:
      size: height and width of the part.
      num_bytes: the memory that the whole picture takes, about.
    """

    def __init__(self, picture: Any, box: Box):
        self._picture = picture
        self._edges = top, bottom, left, right = box.edges(picture.size)
        self.size = bottom - top, right - left
        self.num_bytes = picture.num_bytes

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB image."""
        top, bottom, left, right = self._edges
        return np.ascontiguousarray(self._picture.image()[top:bottom, left:right])


def crop(frames: Iterable[Frame[Any]], box: Box) -> Iterator[Frame[CroppedPicture]]:
    """Crops all frames of a video to one box."""
    return (Frame(frame.start, frame.end, CroppedPicture(frame.picture, box)) for frame in frames)
