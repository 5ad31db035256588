"""SGD as the released training has it: learning-rate schedule and parameter groups."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

BIAS_LR_MULTIPLIER = 2.0  # released parameter groups

HEADS = ("last", "classifier")
SCHEDULES = ("step", "cosine")


def create_schedule(
    name: str,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    decay_steps: Sequence[int] = (),
    decay_factor: float = 0.1,
) -> optax.Schedule:
    """Returns the learning rate as a function of the number of steps done.

    Args:
      name: "step" multiplies by `decay_factor` at each of `decay_steps`; "cosine" falls to 0 at `total_steps`.
      learning_rate: the highest value.
      total_steps: of the training run.
      warmup_steps: the rate rises linearly from 0 over so many steps first.
      decay_steps: counted from the start of the training run, warm-up included.
      decay_factor: for "step".
    """
    if name == "step":
        # Boundaries are inclusive in optax: the rate after `boundary` steps is the lowered one.
        after = optax.piecewise_constant_schedule(learning_rate, {s - warmup_steps: decay_factor for s in decay_steps})
    else:
        after = optax.cosine_decay_schedule(learning_rate, max(1, total_steps - warmup_steps))
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
        after = optax.join_schedules([warmup, after], [warmup_steps])
    # optax compares counts with floats, which JAX's strict promotion refuses.
    return lambda count: after(jnp.asarray(count, jnp.float32))


def create_optimizer(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    clip_norm: float,
    head_lr_multiplier: float,
    head: str,
    frozen_module: str = "",
) -> optax.GradientTransformation:
    """Returns SGD with momentum, global-norm clipping and the released parameter groups.

    As in PyTorch, weight decay is added to the clipped gradient before the momentum.

    Args:
      schedule: the learning rate.
      momentum: 0.9 in the release.
      weight_decay: of weights; biases and BatchNorm have none.
      clip_norm: largest global norm of a gradient; 0 leaves gradients as they are.
      head_lr_multiplier: see `parameter_group`.
      head: see `parameter_group`.
      frozen_module: a module of the model whose parameters stay as they are; "" is none.
    """

    def groups(params: Any, index: int) -> Any:
        heads = params.get("micro_action", params).get("heads", {})

        def group_of(path: tuple, _: Any) -> float | bool:
            names = [str(key.key) for key in path if hasattr(key, "key")]
            return parameter_group(
                names,
                head_lr_multiplier=head_lr_multiplier,
                head=head,
                has_embedding="joint_embedding" in heads,
                frozen_module=frozen_module,
            )[index]

        return jax.tree_util.tree_map_with_path(group_of, params)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay, mask=lambda params: groups(params, 1)),
        optax.trace(momentum),
        _scale_by(lambda params: groups(params, 0)),
        optax.scale_by_learning_rate(schedule),
    )


def parameter_group(
    path: Sequence[str], *, head_lr_multiplier: float, head: str, has_embedding: bool, frozen_module: str = ""
) -> tuple[float, bool]:
    """Returns the learning-rate multiplier of a parameter and whether it decays (released parameter groups).

    BatchNorm: 1, no decay. Biases: 2, no decay. The weight of one layer of the heads: `head_lr_multiplier`, its bias
    twice that without decay. Any other weight: 1.

    Args:
      path: of the parameter, such as ("blocks", "0", "conv1", "bn", "scale").
      head_lr_multiplier: 5 in the release.
      head: which layer of the heads it is for: "last" is the release's rule, the last linear layer in the order of the
        modules, with the joint embedding that head's second layer, otherwise the classifier; "classifier" is always
        the classifier.
      has_embedding: whether the model has the joint-embedding head.
      frozen_module: the module of the model, its first name, that neither learns nor decays.
    """
    if path[0] == frozen_module:
        return 0.0, False
    if "bn" in path:
        return 1.0, False
    layer = ["joint_embedding", "out"] if head == "last" and has_embedding else ["classifier", "linear"]
    multiplier = head_lr_multiplier if ["heads", *layer] == list(path[-4:-1]) else 1.0
    is_bias = path[-1] == "bias"
    return (multiplier * BIAS_LR_MULTIPLIER, False) if is_bias else (multiplier, True)


def _scale_by(multipliers: Callable[[Any], Any]) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda update, factor: update * factor, updates, multipliers(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
