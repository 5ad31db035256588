"""A learned detector: its head applied to a video's features, kept in a file, and read again."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from manet_jax.data.windows import DenseWindows
from manet_jax.detection.features import VideoFeatures
from manet_jax.detection.grouping import Grouping, soft_nms
from manet_jax.detection.head import (
    DetectionHead,
    HeadOptions,
    Points,
    class_inputs,
    level_strides,
    padded,
    point_times,
)
from manet_jax.detection.segments import Segment
from manet_jax.pretrained import state_dict
from tfds_ma52.errors import UserError

FOLDER, FILE = "detection", "detector.safetensors"  # in a run's workdir
_LOWEST_SCORE = 0.001  # of a segment before soft-NMS, and the most segments there are, as AdaTAD's settings
_MOST = 2000
_SHORTEST = 0.05  # seconds of a segment


@dataclasses.dataclass(frozen=True)
class Detector:
    """A trained head, and the rule that was chosen beside it.

    Attributes:
      head: the network.
      windows: of the features that it sees.
      grouping: the rule.
      network: the `features.network_digest` of the network whose features it sees.
      origin: a digest of all that it was fitted to.
    """

    head: DetectionHead
    windows: DenseWindows
    grouping: Grouping
    network: str
    origin: str

    def __call__(self, features: VideoFeatures) -> list[Segment]:
        """The segments of a video, the most certain first; soft-NMS has lowered the scores of those that overlap."""
        options, inputs = self.head.options, class_inputs(features)
        length = inputs.shape[1]
        count = padded(length, options)
        there = np.broadcast_to(np.arange(count) < length, (len(inputs), count))
        points = self._apply(np.pad(inputs, ((0, 0), (0, count - length), (0, 0))), there)
        return soft_nms(_segments(points, features.duration, count, options))

    @functools.cached_property
    def _apply(self) -> Callable[..., Any]:
        graphdef, variables = nnx.split(self.head)
        return functools.partial(jax.jit(lambda variables, *inputs: nnx.merge(graphdef, variables)(*inputs)), variables)


def _segments(points: Points, duration: float, num_moments: int, options: HeadOptions) -> list[Segment]:
    """The most certain segments that a head has found in a video."""
    times, strides = point_times(num_moments, options), level_strides(num_moments, options)
    scores = np.array(jax.nn.sigmoid(points.logits), np.float64)
    scores[:, times >= duration] = 0
    distances = np.array(points.distances, np.float64) * strides[:, None]
    starts = np.maximum(0, times - distances[..., 0])
    ends = np.minimum(duration, times + distances[..., 1])
    scores[ends - starts < _SHORTEST] = 0
    chosen = np.argsort(-scores, axis=None, kind="stable")[:_MOST]
    return [
        Segment(float(starts[at]), float(ends[at]), int(at[0]), float(scores[at]))
        for at in zip(*np.unravel_index(chosen, scores.shape), strict=True)
        if scores[at] >= _LOWEST_SCORE
    ]


def save(detector: Detector, path: pathlib.Path) -> None:
    """Writes a detector into one .safetensors file.

    Raises:
      UserError: it cannot be written.
    """
    arrays = {_name(path): np.asarray(value) for path, value in nnx.to_flat_state(nnx.state(detector.head))}
    parts = {"options": detector.head.options, "windows": detector.windows, "grouping": detector.grouping}
    notes = {name: dataclasses.asdict(part) for name, part in parts.items()} | {
        "network": detector.network,
        "origin": detector.origin,
    }
    state_dict.write(path, arrays, notes)


def load(path: pathlib.Path) -> Detector:
    """Reads a detector.

    Raises:
      UserError: there is none, or the file holds something else.
    """
    arrays, notes = state_dict.read(path)
    try:
        head = DetectionHead(HeadOptions(**notes["options"]), rngs=nnx.Rngs(0))
        for name, value in nnx.to_flat_state(nnx.state(head)):
            value[...] = jnp.asarray(arrays[_name(name)]).reshape(value.shape)
        windows = DenseWindows(tuple(notes["windows"]["lengths"]), notes["windows"]["stride"])
        rule = Grouping(**notes["grouping"] | {"thresholds": tuple(notes["grouping"]["thresholds"])})
        return Detector(head, windows, rule, notes["network"], notes["origin"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no detector of this version ({error}); train it again with python -m manet_jax.detect"
        ) from error


def _name(path: tuple) -> str:
    return ".".join(map(str, path))
