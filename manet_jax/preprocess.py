"""Clips from video bytes: which frames, decoding, crops, flip. NumPy, OpenCV and decoders only."""

import collections
import dataclasses
import io
import pathlib
import re
from collections.abc import Iterator, Sequence

import av
import cv2
import decord
import numpy as np
from jaxtyping import Int, UInt8

MAX_SCALE_GAP = 1  # how many crop scales width and height may lie apart
# Crop corners in quarters of the free room, (y, x): the corners, the centre, the edges' middles, the inner corners.
CROP_POSITIONS = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((2, 0), (2, 4), (4, 2), (0, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)

_DECORD_ERRORS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError)


class UnreadableVideoError(Exception):
    """Video bytes that cannot be decoded; the text says why."""


def sample_segments(rng: np.random.Generator, num_frames: int, num_segments: int) -> Int[np.ndarray, " t"]:
    """Draws one frame from each of `num_segments` equal segments, in order (Wang et al., "TSN", ECCV 2016).

    A segment is num_frames // num_segments frames long. A clip with fewer frames than segments is spread over them
    evenly; where rounding would lead past its last frame, the release goes on with its first.
    """
    interval = num_frames // num_segments
    if interval > 0:
        return np.arange(num_segments) * interval + rng.integers(interval, size=num_segments)
    # Rounding half to even, as the release's np.around.
    return np.around(np.arange(num_segments) * num_frames / num_segments).astype(np.int64) % num_frames


def sample_center_frames(num_frames: int, num_segments: int) -> Int[np.ndarray, " t"]:
    """Returns the middle frame of each of `num_segments` equal segments: the release's frames at test time."""
    return np.floor(np.arange(num_segments) * num_frames / num_segments + num_frames / num_segments / 2).astype(
        np.int64
    )


def open_video(source: bytes | pathlib.Path) -> decord.VideoReader:
    """Opens an encoded video or a file of one; `len()` of the result is its number of frames.

    Raises:
      UnreadableVideoError: it is not a readable video.
    """
    try:
        # Without fault_tol, decord repeats the last good frame of some cut files without a word.
        opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        return decord.VideoReader(opened, num_threads=1, fault_tol=1)
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
    wanted, places = np.unique(indices, return_inverse=True)
    frames, position = [], 0
    try:
        for index in wanted:
            # Frame by frame: where decord itself skips some, and its decoding thread gets no processor for a while, it
            # gives up and returns earlier frames without a word. This costs a sixth of the speed at 256 pixels.
            while position <= index:
                frame, position = video.next(), position + 1
            frames.append(_without_padding(frame.asnumpy()))
    except (*_DECORD_ERRORS, StopIteration) as error:
        raise UnreadableVideoError(_first_line(error)) from error
    return np.stack([frames[place] for place in places])


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
                    yield frame.to_ndarray(format="rgb24")
                    wanted.remove(index)
                if not wanted:
                    return
    except av.error.FFmpegError as error:
        raise UnreadableVideoError(error.strerror) from error
    raise UnreadableVideoError(f"it ends before frame {min(wanted)}")


def _without_padding(frame: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    # decord divides a row's length, padding included, by the width to get the number of channels: frames that are 16,
    # 24, 32, 48, 96 or 144 pixels wide come with more than 3.
    height, width, channels = frame.shape
    if channels == 3:
        return frame
    return frame.reshape(height, width * channels)[:, : 3 * width].reshape(height, width, 3)


def _first_line(error: Exception) -> str:
    """What went wrong, without the time and the places in decord's source that come before it."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", line) or type(error).__name__


def resize_short_side(frames: UInt8[np.ndarray, "t h w 3"], size: int) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Scales frames, with bilinear interpolation, so that their shorter side has `size` pixels."""
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    return _resize(frames, int(height * scale + 0.5), int(width * scale + 0.5))


def random_crop(
    rng: np.random.Generator, frames: UInt8[np.ndarray, "t h w 3"], scales: Sequence[float], size: int
) -> UInt8[np.ndarray, "t size size 3"]:
    """Cuts the same random box out of all frames and scales it to size x size.

    Multi-scale cropping of TSN: the box's sides are two of `scales`, as shares of the frames' shorter side, at most
    MAX_SCALE_GAP steps apart; it lies at one of 13 positions.
    """
    height, width = frames.shape[1:3]
    sides = [int(min(height, width) * scale) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= MAX_SCALE_GAP]
    crop_height, crop_width = pairs[rng.integers(len(pairs))]
    row, column = CROP_POSITIONS[rng.integers(len(CROP_POSITIONS))]
    top, left = row * ((height - crop_height) // 4), column * ((width - crop_width) // 4)
    return _resize(frames[:, top : top + crop_height, left : left + crop_width], size, size)


def center_crop(frames: UInt8[np.ndarray, "t h w 3"], size: int) -> UInt8[np.ndarray, "t size size 3"]:
    """Cuts size x size pixels out of the middle of all frames."""
    height, width = frames.shape[1:3]
    top, left = (height - size) // 2, (width - size) // 2
    return frames[:, top : top + size, left : left + size]


def flip(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Mirrors frames left to right. No class of MA-52 names a side, so this keeps the label."""
    return frames[:, :, ::-1]


def _resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR) for frame in frames])


@dataclasses.dataclass(frozen=True)
class Appearance:
    """What a network sees that knows nothing of motion: some of a clip's frames, or a part of them.

    Attributes:
      num_frames: how many of the clip's sampled frames.
      box: top, left, bottom and right edge of the part, as shares of the frame's height and width.
      short_side: pixels of the part's shorter side before cropping.
      crop_scales: of training crops, see `random_crop`.
      size: pixels of the crop's sides.
    """

    num_frames: int
    box: tuple[float, float, float, float]
    short_side: int
    crop_scales: tuple[float, ...]
    size: int


def train_views(
    rng: np.random.Generator,
    content: bytes,
    *,
    num_segments: int,
    short_side: int,
    crop_scales: Sequence[float],
    crop_middle: bool,
    size: int,
    video: bool = True,
    appearance: Appearance | None = None,
) -> dict[str, UInt8[np.ndarray, "..."]]:
    """Decodes random training views of a video.

    Args:
      rng: draws frames, crops and flips.
      content: the encoded video.
      num_segments: frames to take.
      short_side: pixels of the frames' shorter side before cropping.
      crop_scales: see `random_crop`.
      crop_middle: whether the crop is cut from the middle `size` pixels, what `middle_views` shows, or the whole frame.
      size: pixels of the crop's sides.
      video: whether the first view is wanted.
      appearance: the second view, of random ones of the frames; None leaves it out.

    Returns:
      `video` [num_segments, size, size, 3] and `appearance`, likewise in its own sizes.

    Raises:
      UnreadableVideoError: the video cannot be decoded.
    """
    reader = open_video(content)
    frames = sample_segments(rng, len(reader), num_segments)
    chosen = sample_segments(rng, num_segments, appearance.num_frames) if appearance else None
    images, chosen = _decode_wanted(reader, frames, chosen, video)
    views = {}
    if video:
        views["video"] = _random_view(rng, images, short_side, crop_scales, crop_middle, size)
    if appearance:
        part = cut_box(images[chosen], appearance.box)
        views["appearance"] = _random_view(
            rng, part, appearance.short_side, appearance.crop_scales, False, appearance.size
        )
    return views


def middle_views(
    content: bytes | pathlib.Path,
    *,
    num_segments: int,
    short_side: int,
    size: int,
    video: bool = True,
    appearance: Appearance | None = None,
) -> dict[str, UInt8[np.ndarray, "..."]]:
    """Decodes the views of a video that evaluation uses: middle frames, centre crops.

    Args, returns and errors: see `train_views`.
    """
    reader = open_video(content)
    frames = sample_center_frames(len(reader), num_segments)
    chosen = sample_center_frames(num_segments, appearance.num_frames) if appearance else None
    images, chosen = _decode_wanted(reader, frames, chosen, video)
    return _middle_views(images, chosen, short_side, size, video, appearance)


def window_views(
    path: pathlib.Path,
    spans: Sequence[tuple[int, int]],
    *,
    num_segments: int,
    short_side: int,
    size: int,
    video: bool = True,
    appearance: Appearance | None = None,
) -> Iterator[dict[str, UInt8[np.ndarray, "..."]]]:
    """Decodes the views that evaluation uses of windows of a long video, each as if it were a clip by itself.

    The video is read once, from its start to its end, and only the frames that windows yet to come share are kept.

    Args:
      path: the video.
      spans: first frame and end of each window, in the order of their starts.
      num_segments: frames of a window.
      short_side: see `train_views`.
      size: see `train_views`.
      video: see `train_views`.
      appearance: see `train_views`.

    Raises:
      UnreadableVideoError: a frame cannot be decoded.
    """
    windows = [first + sample_center_frames(end - first, num_segments) for first, end in spans]
    chosen = sample_center_frames(num_segments, appearance.num_frames) if appearance else None
    kept, waiting = {}, collections.deque(windows)
    indices = np.unique(np.concatenate(windows))
    for index, frame in zip(indices, stream_frames(path, indices), strict=True):
        kept[index] = frame
        while waiting and waiting[0][-1] <= index:
            images = np.stack([kept[frame] for frame in waiting.popleft()])
            yield _middle_views(images, chosen, short_side, size, video, appearance)
        first = waiting[0][0] if waiting else 0
        kept = {frame: image for frame, image in kept.items() if frame >= first}


def _middle_views(images, chosen, short_side, size, video, appearance) -> dict[str, np.ndarray]:
    views = {}
    if video:
        views["video"] = _middle_view(images, short_side, size)
    if appearance:
        part = cut_box(images[chosen], appearance.box)
        views["appearance"] = _middle_view(part, appearance.short_side, appearance.size)
    return views


def _decode_wanted(
    reader: decord.VideoReader, frames: np.ndarray, chosen: np.ndarray | None, video: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes a clip's frames, or only the chosen ones; returns them, and where among them the chosen ones are."""
    if video or chosen is None:
        return decode_frames(reader, frames), chosen
    return decode_frames(reader, frames[chosen]), np.arange(len(chosen))


def _random_view(rng, frames, short_side, crop_scales, crop_middle, size) -> UInt8[np.ndarray, "t size size 3"]:
    frames = resize_short_side(frames, short_side)
    if crop_middle:
        frames = center_crop(frames, size)
    frames = random_crop(rng, frames, crop_scales, size)
    return np.ascontiguousarray(flip(frames) if rng.random() < 0.5 else frames)


def _middle_view(frames, short_side, size) -> UInt8[np.ndarray, "t size size 3"]:
    return np.ascontiguousarray(center_crop(resize_short_side(frames, short_side), size))


def cut_box(
    frames: UInt8[np.ndarray, "t h w 3"], box: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Cuts the part between the edges top, left, bottom and right, shares of height and width, out of all frames."""
    height, width = frames.shape[1:3]
    top, bottom = round(box[0] * height), round(box[2] * height)
    left, right = round(box[1] * width), round(box[3] * width)
    return frames[:, top : max(bottom, top + 1), left : max(right, left + 1)]
