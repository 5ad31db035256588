"""Maps a step written for one device over all of them: batches are split, everything else is replicated."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from tfds_ma52.errors import UserError

AXIS = "data"  # the name under which a step averages over the devices
MAPPINGS = ("shard_map", "pmap")

_REPLICATED = PartitionSpec()
_SPLIT = PartitionSpec(AXIS)


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Returns a mesh of all devices, or of the first `num_devices`, along the axis `AXIS`."""
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of an array of which every device of a mesh has a copy."""
    return NamedSharding(mesh, _REPLICATED)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts a copy of a tree of arrays on every device of a mesh.

    The copies may be donated: unlike `jax.device_put`, they never share memory with `tree`.
    """
    return jax.jit(lambda t: jax.tree.map(jax.numpy.copy, t), out_shardings=replicated(mesh))(tree)


def check_batch_size(field: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Checks that a batch divides among the devices, and each device's share into `parts`.

    Raises:
      UserError: it does not; the text names the config's `field`.
    """
    unit = mesh.size * parts
    if batch_size % unit:
        lower = batch_size - batch_size % unit
        fitting = f"{lower} or {lower + unit}" if lower else f"{unit}"
        each = f" in {parts} parts each (config.accumulate)" if parts > 1 else ""
        raise UserError(
            f"config.{field} is {batch_size}, which does not divide among {mesh.size} devices{each}; set it to "
            f"{fitting}"
        )


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Spreads this process's part of a batch over its devices; text, which no device can hold, is left out."""
    sharding = NamedSharding(mesh, _SPLIT)
    return {
        key: jax.make_array_from_process_local_data(sharding, value)
        for key, value in batch.items()
        if value.dtype.kind not in "OSU"
    }


def compiler_options(mesh: Mesh | None = None) -> dict[str, str]:
    """Options of XLA for a program that applies a model, on a mesh or the first device.

    On a CPU it drops optimisation barriers before it fuses elementwise operations. Where it keeps them, a block's
    output is computed once rather than by each of its four readers, and by each reader of later blocks' outputs again:
    that takes an eighth off a forward pass and a twelfth off a training step of 2 clips of 8 x 224 x 224.
    """
    platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else {}


def map_step(step: Callable, mesh: Mesh, mapping: str, *, donate_state: bool = False) -> Callable:
    """Compiles a per-device `step(state, batch)` into one over all devices of a mesh.

    Args:
      step: gets the replicated state and its device's part of the batch, and returns trees that are the same on every
        device: it averages or sums over the axis `AXIS` itself.
      mesh: the devices.
      mapping: "shard_map" or "pmap"; both give the same numbers.
      donate_state: whether the memory of the given state may be reused.

    Returns:
      A function of the replicated state and the whole batch.
    """
    options = {"donate_argnums": (0,) if donate_state else (), "compiler_options": compiler_options(mesh)}
    if mapping == "shard_map":
        # With check_vma=True the gradient with respect to a replicated input comes summed over the devices, and the
        # step's own average would make it N times too large.
        mapped = jax.shard_map(step, mesh=mesh, in_specs=(_REPLICATED, _SPLIT), out_specs=_REPLICATED, check_vma=False)
        return jax.jit(mapped, **options)

    devices = list(mesh.devices.flat)
    mapped = jax.jit(jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices), **options)

    def run(state, batch):
        return mapped(state, jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch))

    return run
