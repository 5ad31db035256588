"""Trains a `DetectionHead` on annotated videos, in a minute or two on a processor; on one device."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from manet_jax.detection.features import VideoFeatures
from manet_jax.detection.head import DetectionHead, HeadOptions, Points, class_inputs, level_strides, point_times
from manet_jax.optimizers import create_optimizer, create_schedule
from tfds_ma52.untrimmed import Action

_CENTER = 1.5  # strides of a level around the middle of an action in which its points are to find it, as ActionFormer
_REACH = 4.0  # strides of a level up to which it looks for the farther end of an action, from half of that on
_WARMUP = 0.1  # of the steps
_WEIGHT_DECAY = 0.05  # ActionFormer's
_SHOWN_EVERY = 50  # steps; each time waits for the device


@dataclasses.dataclass(frozen=True)
class Example:
    """A class in a video to learn from.

    Attributes:
      inputs: of each moment, see `head.class_inputs`.
      actions: those of the class.
    """

    inputs: Float[np.ndarray, "t c"]
    actions: tuple[Action, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a head is trained.

    Attributes:
      num_steps: with AdamW and a cosine schedule.
      batch_size: parts of videos in a step.
      num_moments: of a part, a power of two.
      learning_rate: the highest.
      seed: fixes everything.
    """

    num_steps: int = 800
    batch_size: int = 16
    num_moments: int = 256
    learning_rate: float = 1e-3
    seed: int = 0


class Batch(NamedTuple):
    """Parts of videos, and what is to be found in them.

    Attributes:
      inputs: of each moment.
      moments: those that are there.
      present: whether an action is to be found at each point.
      distances: to its start and end, in strides of the level.
      mask: the points that are there.
    """

    inputs: Float[Array, "b t c"]
    moments: Bool[Array, "b t"]
    present: Bool[Array, "b p"]
    distances: Float[Array, "b p 2"]
    mask: Bool[Array, "b p"]


def class_examples(features: VideoFeatures, actions: Sequence[Action]) -> list[Example]:
    """Each class of a video to learn from."""
    return [
        Example(inputs, tuple(action for action in actions if action.class_id == class_id))
        for class_id, inputs in enumerate(class_inputs(features))
    ]


def assign(
    actions: Sequence[Action], num_moments: int, options: HeadOptions
) -> tuple[Bool[np.ndarray, " p"], Float[np.ndarray, "p 2"]]:
    """What the points of a video are to find of a class: whether it is there, and its distances in the level's strides.

    A point is to find an action if it lies in it, within 1.5 strides of its middle, and if its level has the scale for
    it: the farther of the action's two ends is up to 4 strides away, and more than 2 but for the finest level and with
    no limit for the coarsest one. An action that no point is to find so is found by the nearest point of the finest
    level. Of two actions a point finds the shorter one.
    """
    times, strides = point_times(num_moments, options), level_strides(num_moments, options)
    present = np.zeros(len(times), bool)
    distances = np.zeros((len(times), 2), np.float32)
    finest, coarsest = strides == options.stride, strides == strides.max()
    for action in sorted(actions, key=lambda each: (each.start - each.end, each.start)):  # the longest first
        left, right = times - action.start, action.end - times
        farther = np.maximum(left, right) / strides
        fits = (finest | (farther > _REACH / 2)) & (coarsest | (farther <= _REACH))
        near = np.abs(times - (action.start + action.end) / 2) <= _CENTER * strides
        chosen = (left > 0) & (right > 0) & near & fits
        if not chosen.any():
            chosen[np.abs(times[finest] - (action.start + action.end) / 2).argmin()] = True
        present[chosen] = True
        distances[chosen] = np.stack([left, right], axis=1)[chosen] / strides[chosen, None]
    return present, np.maximum(distances, 0)


def head_loss(
    found: Points,
    present: Bool[Array, "b p"],
    distances: Float[Array, "b p 2"],
    mask: Bool[Array, "b p"],
) -> Float[Array, ""]:
    """Focal loss of the scores, and of the distances one minus the DIoU, both for each action that is to be found.

    Focal loss: Lin et al., ICCV 2017, with its gamma of 2 and alpha of 0.25. DIoU: Zheng et al., AAAI 2020, in one
    dimension, as in ActionFormer.
    """
    focal = optax.sigmoid_focal_loss(found.logits, present.astype(jnp.float32), alpha=0.25, gamma=2.0)
    both = jnp.minimum(found.distances, distances).sum(-1)
    either = found.distances.sum(-1) + distances.sum(-1) - both
    enclosing = jnp.maximum(found.distances, distances).sum(-1)
    apart = jnp.diff(found.distances - distances, axis=-1)[..., 0] / 2
    diou = both / either - (apart / enclosing) ** 2
    positive = present & mask
    total = jnp.where(mask, focal, 0).sum() + jnp.where(positive, 1 - diou, 0).sum()
    return total / jnp.maximum(positive.sum(), 1).astype(jnp.float32)


def train_head(
    examples: Sequence[Example], stride: float, recipe: Recipe | None = None, *, progress: bool = True
) -> DetectionHead:
    """Trains a head on the classes of videos.

    Args:
      examples: of all classes, from `class_examples`.
      stride: seconds between the moments.
      recipe: how; None takes the default.
      progress: whether to show a progress bar.
    """
    recipe = recipe or Recipe()
    options = HeadOptions(num_inputs=examples[0].inputs.shape[1], stride=stride)
    head = DetectionHead(options, rngs=nnx.Rngs(recipe.seed))
    everything = np.concatenate([each.inputs for each in examples])
    head.mean[...] = jnp.asarray(everything.mean(0))
    head.deviation[...] = jnp.asarray(np.maximum(everything.std(0), 1e-3))
    step, parameters, state = _create_step(head, recipe)
    rng = np.random.default_rng(recipe.seed)
    bar = tqdm.trange(recipe.num_steps, desc="training the head", unit="step", disable=None if progress else True)
    for number in bar:
        batch = _draw_batch(rng, examples, options, recipe)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(recipe.seed), number), recipe.batch_size)
        parameters, state, loss = step(parameters, state, batch, keys)
        if number % _SHOWN_EVERY == 0:
            bar.set_postfix_str(f"loss {float(loss):.3f}")
    nnx.update(head, parameters)
    return head


def _create_step(head: DetectionHead, recipe: Recipe) -> tuple[Callable[..., Any], Any, Any]:
    """The compiled training step, the head's parameters, and the optimiser's state."""
    graphdef, parameters, rest = nnx.split(head, nnx.Param, ...)
    schedule = create_schedule(
        "cosine",
        learning_rate=recipe.learning_rate,
        total_steps=recipe.num_steps,
        warmup_steps=round(_WARMUP * recipe.num_steps),
    )
    optimizer = create_optimizer(
        schedule,
        name="adamw",
        momentum=0.0,
        weight_decay=_WEIGHT_DECAY,
        clip_norm=1.0,
        head_lr_multiplier=1.0,
        head="last",
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters: Any, state: Any, batch: Batch, keys: Key[Array, " b"]):
        def loss(parameters: Any) -> Float[Array, ""]:
            found = nnx.merge(graphdef, parameters, rest)(batch.inputs, batch.moments, keys)
            return head_loss(found, batch.present, batch.distances, batch.mask)

        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    return step, jax.tree.map(jnp.copy, parameters), optimizer.init(parameters)


def _draw_batch(rng: np.random.Generator, examples: Sequence[Example], options: HeadOptions, recipe: Recipe) -> Batch:
    """Draws parts of videos, a video the more often the longer it is; a shorter one is filled up."""
    lengths = np.array([len(each.inputs) for each in examples], np.float64)
    chosen = rng.choice(len(examples), recipe.batch_size, p=lengths / lengths.sum())
    parts = [_draw_part(rng, examples[i], options, recipe.num_moments) for i in chosen.tolist()]
    return Batch(*(jnp.asarray(np.stack(values)) for values in zip(*parts, strict=True)))


def _draw_part(rng: np.random.Generator, example: Example, options: HeadOptions, num_moments: int) -> tuple:
    """Draws a part of a video, as the fields of `Batch` for one."""
    first = int(rng.integers(max(0, len(example.inputs) - num_moments) + 1))
    inputs = example.inputs[first : first + num_moments]
    count, start = len(inputs), first * options.stride
    actions = [
        Action(action.class_id, action.start - start, action.end - start)
        for action in example.actions
        if action.end > start and action.start < start + num_moments * options.stride
    ]
    there = np.arange(num_moments) < count
    mask = point_times(num_moments, options) < count * options.stride
    filled = np.pad(inputs, ((0, num_moments - count), (0, 0)))
    return filled, there, *assign(actions, num_moments, options), mask
