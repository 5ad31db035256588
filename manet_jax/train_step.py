"""The training state and the training step."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from manet_jax import parallel
from manet_jax.mixing import NO_MIXING, Mixing, mix, mix_losses
from manet_jax.models import ModelSpec
from manet_jax.models.variables import Variables, abstract_variables, create_variables, jit_init, merge
from manet_jax.tasks import Task, total_loss

_OF_MIXING = 2**32 - 1  # beyond the number of any clip, whose key is for dropout


@struct.dataclass
class TrainState:
    """The state of a training run.

    Attributes:
      step: number of steps done.
      params: the model's trained values, as nested dicts.
      batch_stats: BatchNorm's running statistics, as nested dicts.
      opt_state: the optimiser's.
      mean_params: the mean of the latest params, see `train_step`; None where there is none.
    """

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    mean_params: PyTree = None

    @property
    def variables(self) -> Variables:
        """The model's variables for evaluation: the mean params where there are any."""
        params = self.params if self.mean_params is None else self.mean_params
        return {"params": params, "batch_stats": self.batch_stats}


def create_train_state(model: ModelSpec, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
    """Makes the state at step 0, with fresh weights, on every device of a mesh."""
    placement = parallel.replicated(mesh)
    variables = create_variables(model, seed, placement)
    opt_state = jit_init(optimizer.init, placement)(variables["params"])
    return TrainState(step=parallel.replicate(np.int32(0), mesh), **variables, opt_state=opt_state)


def abstract_trees(model: ModelSpec, optimizer: optax.GradientTransformation, mesh: Mesh) -> tuple[Variables, PyTree]:
    """Returns the variables and the optimiser's state of `create_train_state` as shapes with their placement."""
    _, variables = abstract_variables(model)
    trees = variables, jax.eval_shape(optimizer.init, variables["params"])
    placement = parallel.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement), trees)


def create_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    tasks: Sequence[Task],
    mesh: Mesh,
    *,
    seed: int,
    mapping: str = "shard_map",
    sync_batch_norm: bool = False,
    frozen_module: str = "",
    mixing: Mixing = NO_MIXING,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    donate_state: bool = True,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """Returns `train_step` over all devices of a mesh, compiled: the step of training, benchmarks and tests alike.

    Args:
      graphdef: the model's structure.
      optimizer: from `optimizers.create_optimizer`.
      tasks: their losses are summed.
      mesh: the devices.
      seed: of the dropout masks.
      mapping: see `parallel.map_step`.
      sync_batch_norm: normalise with the statistics of the whole batch rather than of each device's part.
      frozen_module: a module of the model that stays as it is, as in `optimizers.create_optimizer`.
      mixing: of clips and their targets.
      accumulate: parts that a device's clips are computed in, one after the other; BatchNorm sees each by itself.
      ema_decay: of the mean of the params; used where the state has one.
      donate_state: see `parallel.map_step`.
    """
    step = functools.partial(
        train_step,
        graphdef=graphdef,
        optimizer=optimizer,
        tasks=tasks,
        seed=seed,
        sync_batch_norm=sync_batch_norm,
        frozen_module=frozen_module,
        mixing=mixing,
        accumulate=accumulate,
        ema_decay=ema_decay,
    )
    return parallel.map_step(step, mesh, mapping, donate_state=donate_state)


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    tasks: Sequence[Task],
    seed: int,
    sync_batch_norm: bool,
    frozen_module: str,
    mixing: Mixing,
    accumulate: int,
    ema_decay: float,
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one device's part of a batch; gradients, running statistics and metrics are averaged over devices.

    Args: see `create_step`; `state` is replicated over the devices, and `batch` this device's part.
    """
    keys = _clip_keys(state.step, batch, seed)
    axis_name = parallel.AXIS if sync_batch_norm else None
    others, share = None, jnp.float32(1)
    if mixing:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _OF_MIXING), state.step)
        batch, others, share = mix(batch, key, mixing)

    def differentiate(batch_stats: PyTree, part: tuple) -> tuple[PyTree, tuple[PyTree, dict[str, Array]]]:
        batch, others, keys = part

        def loss_fn(params: PyTree) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
            evaluating = merge(graphdef, {"params": params, "batch_stats": batch_stats})
            # A network without layers that differ in training has no such view.
            model = nnx.view(evaluating, train=True, axis_name=axis_name, raise_if_not_found=False)
            outputs = model(batch, keys)
            losses = total_loss(tasks, outputs, batch)
            if others is not None:
                losses = mix_losses(losses, total_loss(tasks, outputs, others), share)
            loss, terms = losses
            return loss, (terms, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        grads, (terms, new_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        return new_stats, (grads, terms)

    batch_stats, sums = _in_parts(differentiate, state.batch_stats, (batch, others, keys), accumulate)
    grads, metrics, batch_stats = jax.lax.pmean((*sums, batch_stats), parallel.AXIS)
    if frozen_module in batch_stats:  # an average over devices may round
        batch_stats = batch_stats | {frozen_module: state.batch_stats[frozen_module]}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        mean_params=_update_mean(state, params, ema_decay),
    )
    return new_state, {**metrics, **norms}


def _clip_keys(step: Array, batch: dict[str, Array], seed: int) -> Key[Array, " b"]:
    """A random key for each clip of this device's part of a batch, whatever the number of devices."""
    local_size = jax.tree.leaves(batch)[0].shape[0]
    clip = step * local_size * jax.lax.axis_size(parallel.AXIS)
    clip += jax.lax.axis_index(parallel.AXIS) * local_size + jnp.arange(local_size)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), clip)


def _in_parts(
    function: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], carry: PyTree, values: PyTree, count: int
) -> tuple[PyTree, PyTree]:
    """Applies `function(carry, part)` to parts of values, one after the other; returns carry and mean result."""
    if count == 1:
        return function(carry, values)
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), values)
    _, result = jax.eval_shape(function, carry, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result)

    def add(sums: tuple[PyTree, PyTree], part: PyTree) -> tuple[tuple[PyTree, PyTree], None]:
        carry, result = function(sums[0], part)
        return (carry, jax.tree.map(jnp.add, sums[1], result)), None

    (carry, total), _ = jax.lax.scan(add, (carry, zeros), parts)
    return carry, jax.tree.map(lambda x: x / count, total)


def _update_mean(state: TrainState, params: PyTree, decay: float) -> PyTree:
    """The mean of the params, which forgets its start faster in the first steps (as TensorFlow's moving averages)."""
    if state.mean_params is None:
        return None
    step = (state.step + 1).astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    # As a difference, which leaves alone what does not learn.
    return jax.tree.map(lambda mean, new: mean + rate * (new - mean), state.mean_params, params)
