"""SGD as the released training has it, AdamW, and Muon: learning-rate schedule and parameter groups."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

BIAS_LR_MULTIPLIERS = {"sgd": 2.0, "adamw": 1.0, "muon": 1.0}  # SGD's is of the released parameter groups

OPTIMIZERS = tuple(BIAS_LR_MULTIPLIERS)
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
    name: str = "sgd",
    nesterov: bool = False,
    betas: Sequence[float] = (0.9, 0.999),
    layer_decay: float = 1.0,
    layers: Sequence[Sequence[str]] = (),
) -> optax.GradientTransformation:
    """Returns SGD with momentum, AdamW or Muon, with global-norm clipping and parameter groups.

    As in PyTorch, SGD adds weight decay to the clipped gradient before the momentum, AdamW and Muon to the update.

    Args:
      schedule: the learning rate.
      momentum: of SGD and Muon, 0.9 in the release.
      weight_decay: see `parameter_group` for what has none.
      clip_norm: largest global norm of a gradient; 0 leaves gradients as they are.
      head_lr_multiplier: see `parameter_group`.
      head: see `parameter_group`.
      frozen_module: a module of the model whose parameters stay as they are; "" is none.
      name: one of OPTIMIZERS.
      nesterov: of SGD, whether the momentum is Nesterov's.
      betas: of AdamW, and in Muon of what is no kernel: decay rates of the means of gradients and of their squares.
      layer_decay: the learning rate of a layer over that of the next one; 1 gives all layers the same.
      layers: of the network, see `models`; needed for a `layer_decay` other than 1.
    """

    def groups(params: Any, index: int) -> Any:
        heads = params.get("micro_action", params).get("heads", {})

        def group_of(path: tuple, _: Any) -> float | bool:
            names = [str(key.key) for key in path if hasattr(key, "key")]
            multiplier, decays = parameter_group(
                names,
                head_lr_multiplier=head_lr_multiplier,
                head=head,
                has_embedding="joint_embedding" in heads,
                frozen_module=frozen_module,
                bias_lr_multiplier=BIAS_LR_MULTIPLIERS[name],
            )
            if layer_decay != 1:
                multiplier *= layer_decay ** (len(layers) - 1 - layer_of(names, layers))
            return (multiplier, decays)[index]

        return jax.tree_util.tree_map_with_path(group_of, params)

    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    decay = optax.add_decayed_weights(weight_decay, mask=lambda params: groups(params, 1))
    b1, b2 = betas
    steps = {
        "sgd": (decay, optax.trace(momentum, nesterov)),
        "adamw": (_with_promotion(optax.scale_by_adam(b1, b2)), decay),
        "muon": (_scale_by_muon(momentum, b1, b2), decay),
    }
    scale = _scale_by(lambda params: groups(params, 0))
    return optax.chain(clip, *steps[name], scale, optax.scale_by_learning_rate(schedule))


def parameter_group(
    path: Sequence[str],
    *,
    head_lr_multiplier: float,
    head: str,
    has_embedding: bool,
    frozen_module: str = "",
    bias_lr_multiplier: float = 2.0,
) -> tuple[float, bool]:
    """Returns the learning-rate multiplier of a parameter and whether it decays.

    With the default of `bias_lr_multiplier` these are the released parameter groups. Norms: 1, no decay. Biases:
    `bias_lr_multiplier`, no decay. The kernel of one layer of the heads: `head_lr_multiplier`, its bias that times
    `bias_lr_multiplier` without decay. Any other kernel: 1. What is no kernel, such as class tokens and tables of
    positions: 1, no decay.

    Args:
      path: of the parameter, such as ("blocks", "0", "conv1", "bn", "scale").
      head_lr_multiplier: 5 in the release.
      head: which layer of the heads it is for: "last" is the release's rule, the last linear layer in the order of the
        modules, with the joint embedding that head's second layer, otherwise the classifier; "classifier" is always
        the classifier.
      has_embedding: whether the model has the joint-embedding head.
      frozen_module: the module of the model, its first name, that neither learns nor decays.
      bias_lr_multiplier: 2 in the release.
    """
    if path[0] == frozen_module:
        return 0.0, False
    if "bn" in path or "norm" in "".join(path[-2:-1]):
        return 1.0, False
    layer = ["joint_embedding", "out"] if head == "last" and has_embedding else ["classifier", "linear"]
    multiplier = head_lr_multiplier if ["heads", *layer] == list(path[-4:-1]) else 1.0
    is_bias = path[-1] == "bias"
    return (multiplier * bias_lr_multiplier, False) if is_bias else (multiplier, path[-1] == "kernel")


def layer_of(path: Sequence[str], layers: Sequence[Sequence[str]]) -> int:
    """Returns the number of the layer that a parameter belongs to.

    Args:
      path: of the parameter.
      layers: of the network, see `models`.

    Raises:
      ValueError: it belongs to none of them, or to several.
    """
    found = [
        i
        for i, layer in enumerate(layers)
        for module in layer
        if list(path[: module.count(".") + 1]) == module.split(".")
    ]
    if len(found) != 1:
        raise ValueError(f"the parameter {'.'.join(path)} belongs to {len(found)} of the network's layers, not one")
    return found[0]


def _scale_by_muon(momentum: float, b1: float, b2: float) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for kernels, whose columns are the outputs; Adam for all else, both with Nesterov.

    Its updates have the root mean square of Adam's (Liu et al., "Muon is scalable for LLM training", 2025), so that one
    learning rate suits both.
    """

    def columns(path: tuple, x: Any) -> contrib.MuonDimensionNumbers | None:
        if getattr(path[-1], "key", "") != "kernel":
            return None
        return contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    muon = contrib.muon(
        1.0,
        beta=momentum,
        adam_b1=b1,
        adam_b2=b2,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(columns, params),
    )
    return optax.chain(_with_promotion(muon), optax.scale(-1.0))  # it descends by itself


def _with_promotion(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer's power
            return transformation.update(updates, state, params)

    return optax.GradientTransformation(transformation.init, update)


def _scale_by(multipliers: Callable[[Any], Any]) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda update, factor: update * factor, updates, multipliers(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
