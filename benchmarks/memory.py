"""The largest training batch that a device's memory holds, by the compiler's own account, without and with remat.

A tenth of the memory is left to the runtime. With --topology it asks the TPU compiler, on any machine that has the
package libtpu (pip install 'jax[tpu]'); no TPU is needed, because nothing is run. Without, it asks the compiler of this
machine's first device.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import measure, step
from manet_jax import parallel
from manet_jax.train_step import TrainState, abstract_trees

_PROBES = (8, 24)  # batch sizes from which the memory of all others is guessed
_USABLE = 0.9  # of a device's memory; the rest is the runtime's, its libraries' and the next batch's


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.memory", __doc__, repeats=None)
    parser.add_argument("--topology", help="TPUs to compile for, such as v5p:2x2x1")
    parser.add_argument(
        "--gigabytes", type=int, nargs="+", default=[16, 40, 80], help="memory of the devices asked for"
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of the computation")
    arguments = parser.parse_args()
    mesh = _make_mesh(arguments.topology)
    rows = []
    for dtype in arguments.dtypes:
        for remat in (False, True):
            rows.append({"dtype": dtype, "remat": remat} | largest_batches(mesh, dtype, remat, arguments.gigabytes))
    print(f"Largest batches of clips of 8 x 224 x 224, {mesh.devices.flat[0].device_kind}\n{measure.table(rows)}")
    measure.finish({"arguments": vars(arguments) | {"json": None}, "rows": rows}, arguments.json)


def _make_mesh(topology: str | None) -> Mesh:
    """A mesh of one device, which need not be there."""
    if topology is None:
        return parallel.make_mesh(1)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks the network what machine this is
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    return Mesh(np.array(devices[:1]), (parallel.AXIS,), axis_types=(AxisType.Auto,))


def largest_batches(mesh: Mesh, dtype: str, remat: bool, gigabytes: Sequence[int]) -> dict[str, Any]:
    """The largest batch for each size of memory, and the memory of a further clip."""
    spec = step.model(dtype=dtype, remat=remat)
    run, optimizer = step.create_step(spec, mesh)
    variables, opt_state = abstract_trees(spec, optimizer, mesh)
    state = TrainState(step=jax.ShapeDtypeStruct((), np.int32), **variables, opt_state=opt_state)

    def needed(batch_size: int) -> int:
        clips = {"video": ((8, 224, 224, 3), np.uint8), "label": ((), np.int32)}
        batch = {
            name: jax.ShapeDtypeStruct(
                (batch_size, *shape), kind, sharding=NamedSharding(mesh, PartitionSpec(parallel.AXIS))
            )
            for name, (shape, kind) in clips.items()
        }
        start = time.perf_counter()
        analysis = run.lower(state, batch).compile().memory_analysis()
        print(
            f"{dtype}, remat {remat}, {batch_size} clips: compiled in {time.perf_counter() - start:.0f} s", flush=True
        )
        sizes = (analysis.argument_size_in_bytes, analysis.output_size_in_bytes, analysis.temp_size_in_bytes)
        return sum(sizes) + analysis.generated_code_size_in_bytes - analysis.alias_size_in_bytes

    few, many = (needed(size) for size in _PROBES)
    a_clip = (many - few) / (_PROBES[1] - _PROBES[0])
    row = {"MiB a clip more": a_clip / 2**20}
    for size in gigabytes:
        memory = size * _USABLE * 2**30
        row[f"{size} GiB"] = _largest(needed, int((memory - few) / a_clip) + _PROBES[0], memory)
    return row


def _largest(needed: Callable[[int], int], guess: int, memory: float) -> int:
    """The largest batch size that fits, from a guess down, by compiling."""
    while needed(guess) > memory:
        guess -= max(1, guess // 50)
    return guess


if __name__ == "__main__":
    main()
