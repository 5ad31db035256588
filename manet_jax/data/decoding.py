"""Frames of the videos in a built data set, by the form in which the build stored them.

decord decodes the H.264 that the build wrote, simplejpeg its JPEGs, and PyAV files from outside.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import decord
import numpy as np
import simplejpeg
from jaxtyping import Int, UInt8

from tfds_ma52 import transcode, video
from tfds_ma52.video import DamagedVideoError

Decode = Callable[[Any, Int[np.ndarray, " t"]], UInt8[np.ndarray, "t h w 3"]]  # content, frame numbers -> RGB
_DECORD_ERRORS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class StoredVideo:
    """A video of a built data set.

    Attributes:
      content: its bytes; those of each frame where they are stored apart.
      num_frames: as the build counted them.
      decode: of `DECODERS`.
    """

    content: bytes | Sequence = dataclasses.field(repr=False)  # long in messages
    num_frames: int
    decode: Decode

    def frames(self, indices: Int[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """Decodes some frames, in any order, as RGB.

        Raises:
          DamagedVideoError: one cannot be decoded.
        """
        return self.decode(self.content, indices)


def decode_h264(content: bytes, indices: Int[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Decodes some frames of a video that `encode_h264` wrote.

    Raises:
      DamagedVideoError: it is not a readable video, or a frame cannot be decoded.
    """
    wanted, order = np.unique(indices, return_inverse=True)
    frames, position = [], 0
    try:
        # Without fault_tol, decord repeats the last good frame of some cut files without a word.
        reader = decord.VideoReader(io.BytesIO(content), num_threads=1, fault_tol=1)
        for index in wanted.tolist():
            # Frame by frame: where decord itself skips some, and its decoding thread gets no processor for a while, it
            # gives up and returns earlier frames without a word. This costs a sixth of the speed at 256 pixels.
            for _ in range(position, index):
                reader.next()
            frames.append(_without_padding(reader.next().asnumpy()))
            position = index + 1
    except (*_DECORD_ERRORS, StopIteration) as error:
        raise DamagedVideoError(_first_line(error)) from error
    return np.stack([frames[i] for i in order])


def decode_original(content: bytes, indices: Int[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Decodes some frames of any video, as the build sees them.

    Raises:
      DamagedVideoError: see `video.read_frames`; or the video ends before one of the frames.
    """
    wanted, order = np.unique(indices, return_inverse=True)
    frames: list[np.ndarray] = []
    for index, frame in enumerate(video.read_frames(content, num_threads=1)):
        if index == wanted[len(frames)]:
            frames.append(frame.picture.image())
        if len(frames) == len(wanted):
            return np.stack([frames[i] for i in order])
    raise DamagedVideoError(f"it ends before frame {wanted[len(frames)]}")


def decode_jpegs(encoded: Sequence[Any], indices: Int[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Decodes some frames of a video that is a JPEG a frame; it reads no others.

    Args:
      encoded: the JPEG of each frame, bytes or a view of them.
      indices: frame numbers, in any order.

    Raises:
      DamagedVideoError: a frame cannot be decoded, or is missing.
    """
    frames = np.empty((len(indices), 0, 0, 3), np.uint8)
    done: dict[int, int] = {}  # frame number -> where it is in `frames`
    for i, index in enumerate(indices.tolist()):
        if index >= len(encoded):
            raise DamagedVideoError(f"it ends before frame {index}")
        if index in done:
            frames[i] = frames[done[index]]
            continue
        jpeg = encoded[index]
        try:
            if not done:
                height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
                frames = np.empty((len(indices), int(height), int(width), 3), np.uint8)
            # Into its place: a copy of all frames costs a sixth of what decoding them does.
            image = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=frames[i])
        except ValueError as error:
            raise DamagedVideoError(f"frame {index} is damaged ({error})") from error
        if image.shape != frames.shape[1:]:
            raise DamagedVideoError(f"frame {index} has another size than frame {next(iter(done))}")
        done[index] = i
    return frames


DECODERS: dict[transcode.Form, Decode] = {
    "original": decode_original,
    "h264": decode_h264,
    "jpeg": decode_jpegs,
}


def _without_padding(frame: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    # decord divides a row's length, padding included, by the width to get the number of channels: frames that are 16,
    # 24, 32, 48, 96 or 144 pixels wide come with more than 3.
    height, width, channels = frame.shape
    if channels == 3:
        return frame
    return frame.reshape(height, width * channels)[:, : 3 * width].reshape(height, width, 3)


def _first_line(error: Exception) -> str:
    """The cause in an error of decord, without the time and the location in decord's source that come before it."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", line) or type(error).__name__
