"""A learned detector: a small temporal network over what a classifier says of a video's moments.

After ActionFormer (Zhang et al., ECCV 2022): a pyramid of levels in time, at each point of which there is a score and
the distances to a start and an end. Two things differ. The levels come from maximum pooling and convolutions, as in
TemporalMaxer (Tang et al., 2023), which has no attention. And the network looks for one class at a time, the same for
all classes: it sees the logits of that class and the largest of the others. So it learns where actions start and end
from all classes together, also for rare ones, and actions of several classes may overlap. With the network's features
instead, and a score for each class, it learned the classes of the training videos by heart.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from manet_jax.detection.features import VideoFeatures
from manet_jax.models.vit import LayerNorm, normal_init

_EPSILON = 1e-5  # of LayerNorm
_LOWEST = 1e-6  # probability of a class in a window
_PRIOR = 0.01  # probability of a class at a point before training, as for the focal loss (Lin et al., ICCV 2017)


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """The size of a `DetectionHead`.

    Attributes:
      num_inputs: values of a moment, see `class_inputs`.
      stride: seconds from one moment to the next.
      width: channels inside.
      num_levels: of the pyramid; each has half as many points as the one before.
      dropout: the share of inputs that training leaves out.
    """

    num_inputs: int
    stride: float
    width: int = 128
    num_levels: int = 5
    dropout: float = 0.0


class Points(NamedTuple):
    """What a head finds at the points of all levels, level by level.

    Attributes:
      logits: whether there is an action of the class.
      distances: from the point back to its start, and on to its end, in strides of the level; above 0.
    """

    logits: Float[Array, "b p"]
    distances: Float[Array, "b p 2"]


class _Block(nnx.Module):
    """A residual convolution over three moments."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, _EPSILON, rngs=rngs)
        self.conv = nnx.Conv(width, width, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b t c"], mask: Float[Array, "b t 1"]) -> Float[Array, "b t c"]:
        return x + jax.nn.gelu(self.conv(self.norm(x) * mask))


class DetectionHead(nnx.Module):
    """Scores and distances of one class at the points of a pyramid in time."""

    def __init__(self, options: HeadOptions, *, rngs: nnx.Rngs):
        self.options = options
        width = options.width
        # Those of the training videos, once they are known.
        self.mean = nnx.Variable(jnp.zeros(options.num_inputs))
        self.deviation = nnx.Variable(jnp.ones(options.num_inputs))
        self.embed = nnx.Linear(options.num_inputs, width, rngs=rngs)
        self.stem = nnx.List([_Block(width, rngs=rngs) for _ in range(2)])
        self.levels = nnx.List([_Block(width, rngs=rngs) for _ in range(options.num_levels)])
        self.classifier = _Block(width, rngs=rngs)
        self.regressor = _Block(width, rngs=rngs)
        rare = nnx.initializers.constant(np.log(_PRIOR / (1 - _PRIOR)))
        self.logits = nnx.Linear(width, 1, kernel_init=normal_init, bias_init=rare, rngs=rngs)
        self.distances = nnx.Linear(width, 2, kernel_init=normal_init, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "b t c"], mask: Bool[Array, "b t"], keys: Key[Array, " b"] | None = None
    ) -> Points:
        """Returns what is found of a class in videos.

        Args:
          inputs: of each moment, from `class_inputs`; as many moments as the coarsest level needs, see `padded`.
          mask: the moments that are there.
          keys: a random key for each video, for dropout; None in evaluation.
        """
        keep = mask[..., None].astype(jnp.float32)
        x = (inputs - self.mean[...][None, None]) / self.deviation[...][None, None]
        x = self.embed(_drop_channels(x, keys, self.options.dropout)) * keep
        for block in self.stem:
            x = block(x, keep)
        logits, distances = [], []
        for number, block in enumerate(self.levels):
            if number:
                x = nnx.max_pool(jnp.where(keep > 0, x, -jnp.inf), (2,), (2,))
                keep = nnx.max_pool(keep, (2,), (2,))
                x = jnp.where(keep > 0, x, 0)
            x = block(x, keep)
            logits.append(self.logits(self.classifier(x, keep))[..., 0])
            distances.append(jax.nn.softplus(self.distances(self.regressor(x, keep))))
        return Points(jnp.concatenate(logits, axis=1), jnp.concatenate(distances, axis=1))


def _drop_channels(x: Float[Array, "b t c"], keys: Key[Array, " b"] | None, rate: float) -> Float[Array, "b t c"]:
    """Drops channels of whole videos, and scales the others up; nothing without keys."""
    if keys is None or not rate:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (1, x.shape[-1])))(keys)
    return jnp.where(kept, x / (1 - rate), 0)


def class_inputs(features: VideoFeatures) -> Float[np.ndarray, "n t c"]:
    """What a head sees of each class at each moment: of each window its logit, and the largest of the others."""
    probabilities = np.clip(features.probabilities, _LOWEST, 1 - _LOWEST)
    logits = np.moveaxis(np.log(probabilities) - np.log1p(-probabilities), -1, 0)
    others = [np.delete(logits, class_id, axis=0) for class_id in range(len(logits))]
    largest = [each.max(0) if len(each) else np.zeros_like(logits[0]) for each in others]
    return np.concatenate([logits, np.stack(largest)], axis=-1).astype(np.float32)


def padded(num_moments: int, options: HeadOptions) -> int:
    """The moments to which a video is filled up: a power of two, so that few lengths are compiled for."""
    return max(2 ** (options.num_levels - 1), 1 << (num_moments - 1).bit_length())


def level_strides(num_moments: int, options: HeadOptions) -> Float[np.ndarray, " p"]:
    """The seconds between the points of each point's level, of a video of so many moments, filled up."""
    counts = [num_moments >> level for level in range(options.num_levels)]
    return np.repeat(options.stride * 2.0 ** np.arange(options.num_levels), counts)


def point_times(num_moments: int, options: HeadOptions) -> Float[np.ndarray, " p"]:
    """The time of each point in seconds: the middle of the moments that it stands for."""
    counts = [num_moments >> level for level in range(options.num_levels)]
    numbers = np.concatenate([np.arange(count) for count in counts])
    return (numbers + 0.5) * level_strides(num_moments, options)
