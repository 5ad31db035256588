"""A video read once from its start to its end, in windows of time that may overlap."""

import collections
import dataclasses
import functools
import heapq
import itertools
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from manet_jax.data import clips as clips_lib
from manet_jax.data.clips import CroppedFrame, EvalClips
from manet_jax.data.views import Views
from manet_jax.models import ClipSpec
from tfds_ma52 import untrimmed, video
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.video import Frame

_DECODED_BYTES = 200 * 2**20  # of frames that are kept as they are decoded, for each video that is being read
_SLACK = 1e-6  # seconds that rounding may cost

Span = tuple[float, float]  # start and end in seconds


@dataclasses.dataclass(frozen=True)
class SlidingWindows:
    """Windows of one length along a video, as `untrimmed.windows` places them.

    Attributes:
      length: seconds of a window.
      stride: seconds between the starts of two.
    """

    length: float
    stride: float

    @property
    def longest(self) -> float:
        """Seconds of the longest window."""
        return self.length

    def endless(self) -> Iterator[Span]:
        """The windows of a video without an end, in the order of their ends."""
        return ((i * self.stride, i * self.stride + self.length) for i in itertools.count())

    def of(self, duration: float) -> list[Span]:
        """The windows of a video of so many seconds; as far as they end before it does, the first ones of `endless`."""
        return untrimmed.windows(duration, self.length, self.stride)


@dataclasses.dataclass(frozen=True)
class DenseWindows:
    """Windows of several lengths around each moment of a video, cut off where the video starts and ends.

    The moments are the middles of equal parts of the video, `stride` seconds each; the last part may be shorter.

    Attributes:
      lengths: seconds of the windows around a moment, each at least `stride`.
      stride: seconds from one moment to the next.
    """

    lengths: tuple[float, ...]
    stride: float

    @property
    def longest(self) -> float:
        """Seconds of the longest window."""
        return max(self.lengths)

    def endless(self) -> Iterator[Span]:
        """The windows of a video without an end, in the order of their ends."""

        def of_length(length: float) -> Iterator[tuple[float, int, float]]:
            return ((self._end(i, length), i, length) for i in itertools.count())

        found = heapq.merge(*map(of_length, self.lengths))
        return ((max(0.0, end - length), end) for end, _, length in found)

    def order(self, duration: float) -> list[tuple[int, int]]:
        """The windows of a video of so many seconds: of each the number of its moment, and of its length."""
        numbers = itertools.product(range(self.num_moments(duration)), range(len(self.lengths)))
        return sorted(numbers, key=lambda at: (self._end(at[0], self.lengths[at[1]]), at[0], self.lengths[at[1]]))

    def of(self, duration: float) -> list[Span]:
        """As `order`, their starts and ends; as far as they end before the video does, the first ones of `endless`."""
        spans = ((self._end(i, self.lengths[j]), self.lengths[j]) for i, j in self.order(duration))
        return [(max(0.0, end - length), min(end, duration)) for end, length in spans]

    def times(self, duration: float) -> Float[np.ndarray, " t"]:
        """The moments of a video of so many seconds."""
        return (np.arange(self.num_moments(duration)) + 0.5) * self.stride

    def num_moments(self, duration: float) -> int:
        """How many `times` there are."""
        return max(1, math.ceil(duration / self.stride - _SLACK))

    def _end(self, moment: int, length: float) -> float:
        return (moment + 0.5) * self.stride + length / 2


@dataclasses.dataclass(frozen=True)
class LoadedClip:
    """A short video or a window of a long one, decoded, or the error that prevented it.

    Attributes:
      path: of the video.
      span: start and end in seconds.
      windowed: whether it is a window.
      error: why it cannot be read; "" where it can.
      clips: what is seen of it, in each view, for each of the `EvalInputs` that were asked for; None with an error.
      announces_length: whether the file says how long it is, so that it is known to be whole.
    """

    path: pathlib.Path
    span: tuple[float, float] = (0.0, 0.0)
    windowed: bool = False
    error: str = ""
    clips: tuple[EvalClips, ...] | None = None
    announces_length: bool = True


@dataclasses.dataclass(frozen=True)
class EvalInputs:
    """What a model sees of a video: its inputs, in each of the views."""

    inputs: dict[str, ClipSpec]
    views: Views


def read_windows(
    source: ClipFrames,
    eval_inputs: Sequence[EvalInputs],
    windows: SlidingWindows | DenseWindows,
    *,
    whole_until: float = 0.0,
    num_threads: int = 0,
) -> Iterator[LoadedClip]:
    """Reads a video once and yields its windows, in their order; memory does not grow with its length.

    Where it cannot be read on, the error comes last, in a clip that begins with the first window that is missing.

    Args:
      source: the video.
      eval_inputs: what is seen of each window, by each model.
      windows: where they lie.
      whole_until: a video of at most so many seconds is one clip instead.
      num_threads: of the decoder; 0 leaves it to FFmpeg.
    """
    path, longest = source.path, max(windows.longest, whole_until)
    frames: collections.deque[Frame[_Kept]] = collections.deque()
    endless = windows.endless()
    upcoming, count, duration = next(endless), 0, 0.0  # window; of windows so far; seconds read

    def is_long() -> bool:
        return duration > whole_until + _SLACK

    try:
        announced = source.announces_length()
        for frame in source.read(num_threads=num_threads):
            frames.append(Frame(frame.start, frame.end, _Kept(frame.picture, eval_inputs)))
            _save_memory(frames)
            duration = frame.end
            while is_long() and upcoming[1] <= frame.middle:
                yield _load(path, frames, upcoming, eval_inputs, announced)
                upcoming, count = next(endless), count + 1
            # The last windows end with the video; a video may turn out to be short.
            while frames[0].end <= min(upcoming[1], duration) - longest:
                frames.popleft()
        if is_long():
            for span in windows.of(duration)[count:]:
                yield _load(path, frames, span, eval_inputs, announced)
        else:
            yield LoadedClip(path, (0.0, duration), clips=_clips(list(frames), eval_inputs), announces_length=announced)
    except (video.DamagedVideoError, OSError) as error:
        start = upcoming[0]
        yield LoadedClip(path, (start, max(start, duration)), windowed=is_long(), error=str(error))


class _Kept:
    """A frame that later clips may use: decoded, or as the networks see it, which takes less memory, but time."""

    def __init__(self, picture: Any, eval_inputs: Sequence[EvalInputs]):
        self._picture, self._eval_inputs = picture, eval_inputs
        self._cropped: dict[int, CroppedFrame] = {}
        self.num_bytes = picture.num_bytes  # as long as it is decoded

    def cropped(self, seen: int) -> CroppedFrame:
        """As the networks of one of the inputs see it."""
        if seen not in self._cropped:
            eval_inputs = self._eval_inputs[seen]
            image = self._picture.image()
            self._cropped[seen] = clips_lib.crop_frame(image, eval_inputs.inputs, eval_inputs.views.num_crops)
        if len(self._cropped) == len(self._eval_inputs):
            self._picture, self.num_bytes = None, 0
        return self._cropped[seen]

    def crop(self) -> None:
        """Crops it for all networks, so that it need not be kept decoded."""
        for seen in range(len(self._eval_inputs)):
            self.cropped(seen)


def _save_memory(frames: Iterable[Frame[_Kept]]) -> None:
    """Crops the first of some frames where all of them, decoded, would take too much memory."""
    total = sum(frame.picture.num_bytes for frame in frames)
    for frame in frames:
        if total <= _DECODED_BYTES:
            return
        total -= frame.picture.num_bytes
        frame.picture.crop()


def _load(
    path: pathlib.Path,
    frames: Iterable[Frame[_Kept]],
    span: tuple[float, float],
    eval_inputs: Sequence[EvalInputs],
    announced: bool,
) -> LoadedClip:
    """A window of a long video, given frames around it."""
    found = _clips(list(video.frames_between(frames, *span)), eval_inputs)
    return LoadedClip(path, span, windowed=True, clips=found, announces_length=announced)


def _clips(frames: Sequence[Frame[_Kept]], eval_inputs: Sequence[EvalInputs]) -> tuple[EvalClips, ...]:
    def read(seen: int, indices: list[int]) -> list[CroppedFrame]:
        return [frames[i].picture.cropped(seen) for i in indices]

    return tuple(
        clips_lib.eval_clips(len(frames), functools.partial(read, seen), each.inputs, each.views)
        for seen, each in enumerate(eval_inputs)
    )
