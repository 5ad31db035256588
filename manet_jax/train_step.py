"""The training state and the training step."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from manet_jax import parallel
from manet_jax.models import ModelSpec
from manet_jax.models.variables import Variables, abstract_variables, create_variables, jit_init, merge
from manet_jax.tasks import Task, total_loss


@struct.dataclass
class TrainState:
    """The state of a training run.

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

    @property
    def variables(self) -> Variables:
        """The model's variables."""
        return {"params": self.params, "batch_stats": self.batch_stats}


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
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one device's part of a batch; gradients, running statistics and metrics are averaged over devices.

    Args: see `create_step`; `state` is replicated over the devices, and `batch` this device's part.
    """
    local_size = jax.tree.leaves(batch)[0].shape[0]
    clip = state.step * local_size * jax.lax.axis_size(parallel.AXIS)
    clip += jax.lax.axis_index(parallel.AXIS) * local_size + jnp.arange(local_size)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), clip)
    axis_name = parallel.AXIS if sync_batch_norm else None

    def loss_fn(params: PyTree) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        evaluating = merge(graphdef, {"params": params, "batch_stats": state.batch_stats})
        # A network without layers that differ in training has no such view.
        model = nnx.view(evaluating, train=True, axis_name=axis_name, raise_if_not_found=False)
        loss, parts = total_loss(tasks, model(batch, keys), batch)
        return loss, (parts, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics, batch_stats = jax.lax.pmean((grads, metrics, batch_stats), parallel.AXIS)
    if frozen_module in batch_stats:  # an average over devices may round
        batch_stats = batch_stats | {frozen_module: state.batch_stats[frozen_module]}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    new_state = TrainState(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
    return new_state, {**metrics, **norms}
