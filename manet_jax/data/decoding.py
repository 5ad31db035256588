"""Frames of encoded videos: decord for clips, PyAV for videos of any length."""

import io
import pathlib
import re
from collections.abc import Iterator

import av
import decord
import numpy as np
from jaxtyping import Int, UInt8

from tfds_ma52 import transcode

_DECORD_ERRORS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError)


class UnreadableVideoError(Exception):
    """Video bytes that cannot be decoded; the text gives the reason."""


def open_video(source: bytes | pathlib.Path) -> decord.VideoReader:
    """Opens an encoded video or a file of one; `len()` of the result is its number of frames.

    Raises:
      UnreadableVideoError: it is not a readable video.
    """
    try:
        # Without fault_tol, decord repeats the last good frame of some cut files without a word.
        opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        return decord.VideoReader(opened, num_threads=1, fault_tol=1)
    except UnicodeEncodeError as error:
        raise UnreadableVideoError("the file's name is not UTF-8: rename it") from error
    except _DECORD_ERRORS as error:
        raise UnreadableVideoError(_first_line(error)) from error


def decode_frames(video: decord.VideoReader, indices: Int[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Decodes some frames of a video as RGB.

    Args:
      video: just opened.
      indices: of frames, in any order.

    Raises:
      UnreadableVideoError: a frame cannot be decoded.
    """
    wanted, order = np.unique(indices, return_inverse=True)
    frames, position = [], 0
    try:
        for index in wanted.tolist():
            # Frame by frame: where decord itself skips some, and its decoding thread gets no processor for a while, it
            # gives up and returns earlier frames without a word. This costs a sixth of the speed at 256 pixels.
            for _ in range(position, index):
                video.next()
            frames.append(_without_padding(video.next().asnumpy()))
            position = index + 1
    except (*_DECORD_ERRORS, StopIteration) as error:
        raise UnreadableVideoError(_first_line(error)) from error
    return np.stack([frames[i] for i in order])


def stream_frames(path: pathlib.Path, indices: Int[np.ndarray, " t"]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Decodes some frames of a video of any length one by one, the same pixels as `decode_frames`.

    With PyAV, which holds a frame at a time: decord decodes ahead of what is asked for, a gigabyte of large frames.

    Args:
      path: the video.
      indices: of frames, rising.

    Raises:
      UnreadableVideoError: a frame cannot be decoded.
    """
    wanted = set(indices.tolist())
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            container.streams.video[0].thread_type = "AUTO"
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    yield transcode.upright_image(frame)
                    wanted.remove(index)
                if not wanted:
                    return
    except av.error.FFmpegError as error:
        raise UnreadableVideoError(error.strerror or "unknown error") from error
    raise UnreadableVideoError(f"it ends before frame {min(wanted)}")


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
