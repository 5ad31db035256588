"""Mixup and CutMix: each clip of a batch becomes a mixture of two, and so does its loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from manet_jax import parallel
from manet_jax.models.options import at_least, raise_any

Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
    """Section `mixing`; with both, each batch gets one of them by an even chance, as in the published recipes (timm).

    Attributes:
      mixup: alpha of the Beta(alpha, alpha) that a batch's share of the first clip is drawn from (Zhang et al., ICLR
        2018); 0 is none.
      cutmix: the same for the area that is not cut out of the first clip (Yun et al., ICCV 2019).
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        raise_any(at_least(self, mixup=0, cutmix=0))

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)


NO_MIXING = Mixing()


def mix(batch: Batch, key: Key[Array, ""], mixing: Mixing) -> tuple[Batch, Batch, Float[Array, ""]]:
    """Mixes the clips of a batch with those of the batch in reverse order, whatever the devices that hold them.

    Clips stay uint8: a mixture is rounded to whole grey levels.

    Args:
      batch: this device's part.
      key: draws the mixture, the same for the whole batch and on every device.
      mixing: what is drawn.

    Returns:
      The batch with mixed clips, the batch of what was mixed in, whose targets the clips have too, and the share of the
      clips' own targets.
    """
    weights_of = _draw_weights(key, mixing)
    others = jax.tree.map(_reversed, batch)
    clips = {name: x for name, x in batch.items() if x.ndim == 5}
    weights = {name: weights_of(*x.shape[2:4]) for name, x in clips.items()}
    mixed = {name: _blend(x, others[name], weights[name]) for name, x in clips.items()}
    return batch | mixed, others, next(iter(weights.values())).mean()


def _draw_weights(key: Key[Array, ""], mixing: Mixing) -> Callable[[int, int], Float[Array, "h w"]]:
    """A function that returns the weight of the first clip at each pixel of frames of a size."""
    choice, of_mixup, of_cutmix, place = jax.random.split(key, 4)
    cut = jax.random.bernoulli(choice) if mixing.mixup and mixing.cutmix else jnp.bool_(mixing.cutmix > 0)
    share, uncut = (
        jax.random.beta(each, alpha or 1.0, alpha or 1.0)
        for each, alpha in ((of_mixup, mixing.mixup), (of_cutmix, mixing.cutmix))
    )
    side = jnp.sqrt(1 - uncut)  # of the box, as a share of the frame's
    centre = jax.random.uniform(place, (2,))

    def weights(height: int, width: int) -> Array:
        rows, columns = ((jnp.arange(size, dtype=jnp.float32) + 0.5) / size for size in (height, width))
        inside = [jnp.abs(x - middle) < side / 2 for x, middle in zip((rows, columns), centre, strict=True)]
        box = inside[0][:, None] & inside[1][None, :]
        return jnp.where(cut, 1 - box.astype(jnp.float32), share)

    return weights


def _reversed(x: Array) -> Array:
    """This device's part of a batch in reverse order."""
    count = jax.lax.axis_size(parallel.AXIS)
    return jax.lax.ppermute(x[::-1], parallel.AXIS, [(i, count - 1 - i) for i in range(count)])


def _blend(first: Array, second: Array, weights: Float[Array, "h w"]) -> Array:
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    weights = weights[None, None, :, :, None]
    return jnp.round(weights * first + (1 - weights) * second).astype(jnp.uint8)


def mix_losses(first: Any, second: Any, share: Float[Array, ""]) -> Any:
    """The loss of mixed clips from those against both targets, and their terms and accuracies likewise.

    All losses are linear in their targets but two: the joint embedding's distance, for which this has the gradient of
    the distance from the mixed vectors, and the soft F1, of which it is the mean over both targets too.
    """
    return jax.tree.map(lambda x, y: share * x + (1 - share) * y, first, second)
