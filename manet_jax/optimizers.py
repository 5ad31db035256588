"""SGD as the released training has it: learning-rate schedule and parameter groups."""

from collections.abc import Sequence

import jax
import optax

# What the last linear layer's learning rate is multiplied by; its bias gets twice that (released parameter groups).
_BOOST = 5.0
_BIAS_FACTOR = 2.0

BOOSTED_LAYERS = ("last", "classifier", "none")
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
      total_steps: length of the training.
      warmup_steps: the rate rises linearly from 0 over so many steps first.
      decay_steps: counted from the start of the training, warm-up included.
      decay_factor: for "step".
    """
    if name == "step":
        # Boundaries are inclusive in optax: the rate after `boundary` steps is the lowered one.
        after = optax.piecewise_constant_schedule(learning_rate, {s - warmup_steps: decay_factor for s in decay_steps})
    else:
        after = optax.cosine_decay_schedule(learning_rate, max(1, total_steps - warmup_steps))
    if not warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps])


def create_optimizer(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    clip_norm: float,
    boosted_layer: str,
    frozen: str = "",
) -> optax.GradientTransformation:
    """Returns SGD with momentum, global-norm clipping and the released parameter groups.

    As in PyTorch, weight decay is added to the clipped gradient before the momentum.

    Args:
      schedule: the learning rate.
      momentum: 0.9 in the release.
      weight_decay: of weights; biases and BatchNorm have none.
      clip_norm: largest global norm of a gradient; 0 leaves gradients as they are.
      boosted_layer: see `group`.
      frozen: a part of the model whose parameters stay as they are; "" is none.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay, mask=lambda params: _map_groups(params, boosted_layer, frozen, 1)),
        optax.trace(momentum),
        _scale_groups(boosted_layer, frozen),
        optax.scale_by_learning_rate(schedule),
    )


def group(path: Sequence[str], boosted_layer: str, has_embedding: bool, frozen: str = "") -> tuple[float, bool]:
    """Returns the learning-rate factor of a parameter and whether it decays (released parameter groups).

    BatchNorm: 1, no decay. Biases: 2, no decay. The boosted layer's weight: 5, its bias: 10 without decay. Any other
    weight: 1.

    Args:
      path: the names that lead to the parameter, such as ("blocks", "0", "conv1", "bn", "scale").
      boosted_layer: "last" is the release's rule, the last linear layer in the order of the modules: with the
        joint-embedding branch its second layer, otherwise the classifier. "classifier" is always the classifier,
        "none" boosts no layer.
      has_embedding: whether the model has the joint-embedding branch.
      frozen: the part of the model, its first name, that neither learns nor decays.
    """
    if path[0] == frozen:
        return 0.0, False
    if "bn" in path:
        return 1.0, False
    boosted = {"last": "embedding_out" if has_embedding else "classifier", "classifier": "classifier", "none": ""}
    factor = _BOOST if path[-2] == boosted[boosted_layer] else 1.0
    is_bias = path[-1] == "bias"
    return (factor * _BIAS_FACTOR, False) if is_bias else (factor, True)


def _map_groups(params: optax.Params, boosted_layer: str, frozen: str, index: int) -> optax.Params:
    has_embedding = "embedding_out" in params.get("micro_actions", params)

    def of(path, _):
        names = [str(key.key) for key in path if hasattr(key, "key")]
        return group(names, boosted_layer, has_embedding, frozen)[index]

    return jax.tree_util.tree_map_with_path(of, params)


def _scale_groups(boosted_layer: str, frozen: str) -> optax.GradientTransformation:
    def update(updates, state, params):
        factors = _map_groups(params, boosted_layer, frozen, 0)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
