"""Which frames of a video a clip consists of: random ones in training, given ones in evaluation.

Frames are numbered from 0 and counted, not timed: an interval of 2 takes every second frame at any frame rate.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from manet_jax.models import ClipSpec

Frames = Int[np.ndarray, " _"]


def random_frames(rng: np.random.Generator, num_frames: int, inputs: dict[str, ClipSpec]) -> dict[str, Frames]:
    """Draws the frames of a training clip, for each input.

    A dense clip starts at any frame from which it fits, each as likely as the others. Differs from mmaction2, which
    never draws the last `frame_interval` - 1 of them.

    Args:
      rng: draws them.
      num_frames: of the video.
      inputs: what the network sees; those that sample the video alike share its frames.
    """

    def of_video(spec: ClipSpec) -> Frames:
        if spec.sampling == "segments":
            return random_segments(rng, num_frames, spec.subset_of or spec.num_frames)
        return dense_frames(num_frames, spec, int(rng.integers(max(num_frames - spec.span, 0) + 1)))

    return _sample(inputs, of_video, lambda count, segments: random_segments(rng, count, segments))


def eval_frames(num_frames: int, inputs: dict[str, ClipSpec], clip: int = 0, num_clips: int = 1) -> dict[str, Frames]:
    """Returns the frames of one of several evaluation clips, for each input; the clips are spread evenly.

    Of segments, clip k of n takes the frame at (k + 1/2) / n of each. A single dense clip lies in the middle; several
    start evenly from the first frame to the last one from which they fit, as in mmaction2 1.x (0.24 differs).

    Args:
      num_frames: of the video.
      inputs: as in `random_frames`.
      clip: which one, from 0.
      num_clips: how many there are.
    """

    def of_video(spec: ClipSpec) -> Frames:
        if spec.sampling == "segments":
            return center_segments(num_frames, spec.subset_of or spec.num_frames, clip, num_clips)
        last = max(num_frames - spec.span, 0)
        start = last // 2 if num_clips == 1 else int(np.around(clip * (last / (num_clips - 1))))
        return dense_frames(num_frames, spec, start)

    return _sample(inputs, of_video, center_segments)


def random_segments(rng: np.random.Generator, num_frames: int, num_segments: int) -> Frames:
    """Draws one frame from each of `num_segments` equal segments, in order (Wang et al., "TSN", ECCV 2016).

    A segment is num_frames // num_segments frames long. A video with fewer frames than segments is spread over them
    evenly; where rounding would lead past its last frame, the release continues with its first.
    """
    interval = num_frames // num_segments
    if interval > 0:
        return np.arange(num_segments) * interval + rng.integers(interval, size=num_segments)
    # Rounding half to even, as the release's np.around.
    return np.around(np.arange(num_segments) * num_frames / num_segments).astype(np.int64) % num_frames


def center_segments(num_frames: int, num_segments: int, clip: int = 0, num_clips: int = 1) -> Frames:
    """Returns a frame of each of `num_segments` equal segments: the middle one, the release's at test time.

    Of several clips each has the middle frame of its own part of every segment.
    """
    length, position = num_frames / num_segments, (clip + 0.5) / num_clips
    return np.floor(np.arange(num_segments) * num_frames / num_segments + length * position).astype(np.int64)


def dense_frames(num_frames: int, spec: ClipSpec, start: int) -> Frames:
    """Returns frames `spec.frame_interval` apart from `start` on.

    Of a video shorter than `spec.span`, "spread" returns frames from its first to its last, evenly, so that their order
    stays; "wrap" continues with its start, as mmaction2 does.
    """
    count = spec.subset_of or spec.num_frames
    if num_frames < spec.span and spec.short_videos == "spread":
        return (2 * np.arange(count) * (num_frames - 1) + count - 1) // (2 * (count - 1))  # rounded, halves up
    return (start + np.arange(count) * spec.frame_interval) % num_frames


def _sample(
    inputs: dict[str, ClipSpec], of_video: Callable[[ClipSpec], Frames], of_frames: Callable[[int, int], Frames]
) -> dict[str, Frames]:
    """Samples the frames of each input.

    Args:
      inputs: those that sample the video alike share its frames.
      of_video: samples the video.
      of_frames: samples as many of some frames, for an input that takes a part of another's.
    """
    shared: dict[tuple, Frames] = {}
    frames = {}
    for name, spec in inputs.items():
        count = spec.subset_of or spec.num_frames
        rule = (count, spec.sampling, spec.frame_interval, spec.short_videos)
        if rule not in shared:
            shared[rule] = of_video(spec)
        frames[name] = shared[rule][of_frames(count, spec.num_frames)] if spec.subset_of else shared[rule]
    return frames
