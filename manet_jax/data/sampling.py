"""Which frames of a video a clip consists of: random ones in training, centred ones in evaluation."""

import numpy as np
from jaxtyping import Int


def random_segments(rng: np.random.Generator, num_frames: int, num_segments: int) -> Int[np.ndarray, " t"]:
    """Draws one frame from each of `num_segments` equal segments, in order (Wang et al., "TSN", ECCV 2016).

    A segment is num_frames // num_segments frames long. A video with fewer frames than segments is spread over them
    evenly; where rounding would lead past its last frame, the release continues with its first.
    """
    interval = num_frames // num_segments
    if interval > 0:
        return np.arange(num_segments) * interval + rng.integers(interval, size=num_segments)
    # Rounding half to even, as the release's np.around.
    return np.around(np.arange(num_segments) * num_frames / num_segments).astype(np.int64) % num_frames


def center_segments(num_frames: int, num_segments: int) -> Int[np.ndarray, " t"]:
    """Returns the middle frame of each of `num_segments` equal segments: the release's frames at test time."""
    middles = np.arange(num_segments) * num_frames / num_segments + num_frames / num_segments / 2
    return np.floor(middles).astype(np.int64)
