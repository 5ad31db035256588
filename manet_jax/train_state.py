"""What a training changes, and one step of it on one device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array, PyTree

from manet_jax import emotion, models, nets, parallel


@struct.dataclass
class TrainState:
    """What a training step changes.

    Attributes:
      step: number of steps done.
      params: the model's trained values, as nested dicts.
      batch_stats: BatchNorm's running statistics, as nested dicts.
      opt_state: the optimiser's.
    """

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree


def create_train_state(
    model_options: dict[str, Any], optimizer: optax.GradientTransformation, seed: int
) -> tuple[nnx.GraphDef, TrainState]:
    """Makes a model with fresh weights; returns its structure and the state at step 0."""

    def create() -> TrainState:
        _, variables = nets.split_variables(nets.create_model(model_options, nnx.Rngs(seed)))
        return TrainState(step=jnp.int32(0), **variables, opt_state=optimizer.init(variables["params"]))

    graphdef, _ = nets.abstract_variables(model_options)
    return graphdef, nets.compile_once(create)()


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    objective: Callable[[emotion.Outputs, dict[str, Array]], tuple[Array, dict[str, Array]]],
    seed: int,
    sync_batch_norm: bool,
    frozen: str = "",
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one device's part of a batch; gradients, running statistics and metrics are averaged over devices.

    Args:
      state: replicated over the devices; may be donated.
      batch: this device's part, see `input_pipeline`.
      graphdef: the model's structure.
      optimizer: from `optimizers.create_optimizer`.
      objective: `losses.objective` with its options.
      seed: of the dropout masks.
      sync_batch_norm: normalise with the statistics of the whole batch rather than of each device's part.
      frozen: a part of the model that stays as it is, as in `optimizers.create_optimizer`.
    """
    local_size = jax.tree.leaves(batch)[0].shape[0]
    clip = state.step * local_size * jax.lax.axis_size(parallel.AXIS)
    clip += jax.lax.axis_index(parallel.AXIS) * local_size + jnp.arange(local_size)
    dropout_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), clip)
    context = models.BatchNormContext(train=True, axis_name=parallel.AXIS if sync_batch_norm else None)

    def loss_fn(params: PyTree) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        model = nnx.merge(graphdef, params, state.batch_stats)
        loss, parts = objective(emotion.forward(model, batch, context, dropout_keys), batch)
        return loss, (parts, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics, batch_stats = jax.lax.pmean((grads, metrics, batch_stats), parallel.AXIS)
    if frozen:  # an average over devices may round
        batch_stats = batch_stats | {frozen: state.batch_stats[frozen]}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    new_state = TrainState(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
    return new_state, {**metrics, **norms}
