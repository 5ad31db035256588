"""The frames of a clip, wherever they lie: in a video, in a part of one, or in a folder of images."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from tfds_ma52 import boxes, image_folder, video
from tfds_ma52.boxes import Box
from tfds_ma52.video import Frame

FRAME_RATE = 30.0  # of folders of images, where nothing gives another


@dataclasses.dataclass(frozen=True)
class ClipFrames:
    """Where the frames of a clip lie.

    Attributes:
      path: a video file, or a folder of images.
      span: start and end in seconds of the part wanted, see `video.frames_between`; None stands for all frames.
      box: the part of the picture that is wanted; None stands for all of it.
      frame_pattern: of the images' names, see `image_folder.find_images`.
      num_frames: how many images there must be; None takes as many as there are.
      frame_rate: of the images.
    """

    path: pathlib.Path
    span: tuple[float, float] | None = None
    box: Box | None = None
    frame_pattern: str = ""
    num_frames: int | None = None
    frame_rate: float = FRAME_RATE

    def read(self, *, num_threads: int = 0, convert: bool = False) -> Iterator[Frame[Any]]:
        """The frames in order; their pictures have `size`, `num_bytes` and `image()`, as `video.Picture` has.

        Args:
          num_threads: of a video's decoder; 0 leaves it to FFmpeg.
          convert: whether all frames are wanted, see `video.read_frames`.

        Raises:
          DamagedVideoError: see `video.read_frames`, `image_folder.read_frames`; or there is no frame in the span or
            nothing in the box.
        """
        frames = self._all_frames(num_threads, convert and not self.span)
        if self.span:
            frames = video.frames_between(frames, *self.span)
        return boxes.crop(frames, self.box) if self.box else frames

    def _all_frames(self, num_threads: int, convert: bool) -> Iterator[Frame[Any]]:
        if not self.path.is_dir():
            return video.read_frames(self.path, num_threads=num_threads, convert=convert)
        options = {"pattern": self.frame_pattern, "num_frames": self.num_frames}
        return image_folder.read_frames(self.path, frame_rate=self.frame_rate, **options)

    def estimate_duration(self) -> float:
        """The seconds of all frames, as a file's header gives them; 0 where it gives none."""
        if not self.path.is_dir():
            return video.estimate_duration(self.path)
        return len(image_folder.find_images(self.path, self.frame_pattern)) / self.frame_rate

    def announces_length(self) -> bool:
        """Whether the file says how long it is, see `video.announces_length`; a folder's images can be counted."""
        return self.path.is_dir() or video.announces_length(self.path)
