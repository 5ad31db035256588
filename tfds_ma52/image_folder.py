"""Clips as folders of images, a file a frame."""

import collections
import pathlib
import re
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import UInt8

from tfds_ma52.errors import UserError
from tfds_ma52.video import DamagedVideoError, Frame

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_DEEP_MODES = ("I", "F")  # Pillow's names of pixels of more than 8 bits begin with these


class ImageFile:
    """The picture of a frame, in a file.

    Attributes:
      size: height and width of the first frame.
    """

    num_bytes = 0  # in memory

    def __init__(self, path: pathlib.Path, size: tuple[int, int]):
        self._path, self.size = path, size

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB image, upright, scaled to the size of the first frame."""
        image = _read_image(self._path)
        return image if image.shape[:2] == self.size else cv2.resize(image, self.size[::-1])


def read_frames(
    folder: pathlib.Path, *, frame_rate: float, pattern: str = "", num_frames: int | None = None
) -> Iterator[Frame[ImageFile]]:
    """The frames of a folder, in order.

    Args:
      folder: holds a file a frame.
      frame_rate: frames a second.
      pattern: see `find_images`.
      num_frames: how many there must be; None takes as many as there are.

    Raises:
      DamagedVideoError: there are no images or another number of them, one is missing, or one cannot be read.
    """
    paths = find_images(folder, pattern)
    if num_frames is not None and len(paths) != num_frames:
        raise DamagedVideoError(f"the folder has {len(paths)} images, but the list says {num_frames}")
    size = _read_image(paths[0]).shape[:2]
    for i, path in enumerate(paths):
        yield Frame(i / frame_rate, (i + 1) / frame_rate, ImageFile(path, size))


def find_images(folder: pathlib.Path, pattern: str = "") -> list[pathlib.Path]:
    """The images of a folder in the order of the numbers in their names.

    Args:
      folder: the folder.
      pattern: of their names, such as "img_{:05d}.jpg"; "" takes all images, which must differ by a number alone.

    Raises:
      DamagedVideoError: there are none, they are of several kinds, or a number is missing between two.
    """
    matches = re.compile(_expression(pattern) if pattern else r"(.*?)(\d*)(\.\w+)")
    found: dict[int, pathlib.Path] = {}
    kinds: collections.Counter[str] = collections.Counter()
    for path in sorted(folder.iterdir()):
        match = matches.fullmatch(path.name)
        if match and (pattern or path.suffix.lower() in SUFFIXES) and not path.name.startswith("."):
            number = match[2]
            kinds[f"{match[1]}*{match[3]}" if number else path.name] += 1
            if int(number or 0) in found and len(kinds) == 1:
                raise DamagedVideoError(f"the folder has {found[int(number)].name} and {path.name}, of one number")
            found[int(number or 0)] = path
    if not found:
        raise DamagedVideoError(f"the folder has no images{f' named as {pattern}' if pattern else ''}")
    if len(kinds) > 1:
        names = ", ".join(sorted(kinds)[:4])
        raise DamagedVideoError(f"the folder has images of several names ({names}): say which with a frame_pattern")
    _check_gaps(sorted(found))
    return [found[number] for number in sorted(found)]


def check_pattern(pattern: str) -> None:
    """Checks a pattern of names.

    Raises:
      UserError: it has no place for the number.
    """
    if pattern and not re.fullmatch(r"[^{}/]*\{(:0?\d*d)?\}[^{}/]*", pattern):
        raise UserError(
            f"frame_pattern is {pattern!r}; give a file's name with {{}} or {{:05d}} for its number, such as "
            "img_{:05d}.jpg",
            field="frame_pattern",
        )


def _expression(pattern: str) -> str:
    """A regular expression of names; its groups are what is before the number, the number, and what is behind."""
    before, _, rest = pattern.partition("{")
    return rf"({re.escape(before)})(\d+)({re.escape(rest.partition('}')[2])})"


def _check_gaps(numbers: Sequence[int]) -> None:
    """Refuses a missing image; names may also count in other steps, or be times."""
    steps = np.diff(numbers)
    if len(steps) and np.count_nonzero(steps == 1) * 2 > len(steps) and (steps > 1).any():
        gap = int(np.argmax(steps > 1))
        raise DamagedVideoError(f"the folder has image {numbers[gap]} and {numbers[gap + 1]}, but none between")


def _read_image(path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with PIL.Image.open(path) as opened:
            if opened.mode.startswith(_DEEP_MODES):
                raise DamagedVideoError(f"{path.name} has more than 8 bits a channel: save it with 8")
            return np.array(PIL.ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise DamagedVideoError(f"{path.name} cannot be read as an image ({error})") from error
