"""What a training step needs of a device's memory, by the compiler's own account, without and with remat.

Two tables. Traffic: the bytes and the operations a clip, and the times that they take at the device's full rates, the
larger of which bounds the step. The largest batches that a memory holds, a tenth of it left to the runtime. With
--topology it asks the TPU compiler, on any machine that has the package libtpu (pip install 'jax[tpu]'); no TPU is
needed, because nothing is run. Without, it asks the compiler of this machine's first device: with --forms gpu, a CPU's
accounts for a GPU's program, as far as it can without the GPU's libraries.
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
from benchmarks.accelerator_parts import PEAKS
from manet_jax import parallel
from manet_jax.models import MODELS, ModelSpec, NetworkOptions, ops
from manet_jax.train_step import TrainState, abstract_trees

_PROBES = (8, 24)  # batch sizes from which the memory of all others is guessed
_USABLE = 0.9  # of a device's memory; the rest is the runtime's, its libraries' and the next batch's
_BANDWIDTHS = {  # of the memory, by the makers' data sheets, in 1e9 bytes a second
    "NVIDIA A100-SXM4-80GB": 2039,
    "NVIDIA H100 80GB HBM3": 3350,
    "NVIDIA H200": 4800,
    "TPU v4": 1228,
    "TPU v5 lite": 819,
    "TPU v5": 2765,
    "TPU v6 lite": 1640,
}
_TABLES = ("traffic", "batches")


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.memory", __doc__, repeats=None)
    parser.add_argument("--topology", help="TPUs to compile for, such as v5e:2x2")
    forms = ("cpu", "gpu", "tpu")
    parser.add_argument("--forms", choices=forms, help="whose forms operations have (of what is compiled for)")
    parser.add_argument("--tables", nargs="+", choices=_TABLES, default=_TABLES, help="what to print")
    networks = [name for name, network in MODELS.items() if issubclass(network.Options, NetworkOptions)]
    parser.add_argument("--models", nargs="+", choices=networks, default=["manet"], help="networks, as released")
    parser.add_argument("--batch_size", type=int, default=32, help="clips of the step whose traffic is printed")
    parser.add_argument(
        "--gigabytes", type=int, nargs="+", default=[16, 40, 80], help="memory of the devices asked for"
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of the computation")
    arguments = parser.parse_args()
    mesh = _make_mesh(arguments.topology)
    device = mesh.devices.flat[0].device_kind
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in arguments.tables}
    for name in arguments.models:
        for dtype in arguments.dtypes:
            for remat in (False, True):
                compile_step = _compiler(name, dtype, remat, mesh, arguments.forms)
                of_step = {"": name, "dtype": dtype, "remat": remat}
                if "traffic" in rows:
                    rows["traffic"].append(of_step | traffic(compile_step, arguments.batch_size, device))
                    print(rows["traffic"][-1], flush=True)
                if "batches" in rows:
                    rows["batches"].append(of_step | largest_batches(compile_step, arguments.gigabytes))
                    print(rows["batches"][-1], flush=True)
    titles = {"traffic": f"Traffic a clip of {arguments.batch_size}", "batches": "Largest batches of clips"}
    compiler = f"{device}, forms of a {arguments.forms}" if arguments.forms else device
    for table, of_table in rows.items():
        print(f"{titles[table]}, {compiler}\n{measure.table(of_table)}")
    measure.finish({"arguments": vars(arguments) | {"json": None}, **rows}, arguments.json)


def _make_mesh(topology: str | None) -> Mesh:
    """A mesh of one device, which need not be there."""
    if topology is None:
        return parallel.make_mesh(1)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks the network what machine this is
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    return Mesh(np.array(devices[:1]), (parallel.AXIS,), axis_types=(AxisType.Auto,))


def _compiler(name: str, dtype: str, remat: bool, mesh: Mesh, forms: str | None) -> Callable[[int], Any]:
    """A function that compiles a network's training step of a number of clips."""
    spec = ModelSpec(name, MODELS[name].Options(embedding_dim=300, dtype=dtype, remat=remat))
    run, optimizer = step.create_step(spec, mesh)
    variables, opt_state = abstract_trees(spec, optimizer, mesh)
    state = TrainState(step=jax.ShapeDtypeStruct((), np.int32), **variables, opt_state=opt_state)
    split = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
    clip = spec.options.clip
    frames = clip.num_frames, clip.crop_size, clip.crop_size, 3

    def compile_step(batch_size: int) -> Any:
        batch = {
            "video": jax.ShapeDtypeStruct((batch_size, *frames), np.uint8, sharding=split),
            "label": jax.ShapeDtypeStruct((batch_size,), np.int32, sharding=split),
        }
        start = time.perf_counter()
        with ops.traced_for(forms or mesh.devices.flat[0].platform):
            compiled = run.lower(state, batch).compile()
        seconds = time.perf_counter() - start
        print(f"{name}, {dtype}, remat {remat}, {batch_size} clips: compiled in {seconds:.0f} s", flush=True)
        return compiled

    return compile_step


def traffic(compile_step: Callable[[int], Any], batch_size: int, device: str) -> dict[str, Any]:
    """Bytes and operations a clip of a step, and the milliseconds that each takes at the device's full rate."""
    compiled = compile_step(batch_size)
    counts = compiled.cost_analysis()
    num_bytes, operations = counts["bytes accessed"] / batch_size, counts["flops"] / batch_size
    bandwidth, peak = _BANDWIDTHS.get(device), PEAKS.get(device)
    return {
        "GB": num_bytes / 1e9,
        "GFLOP": operations / 1e9,
        "ms for the bytes": bandwidth and num_bytes / bandwidth / 1e6,
        "ms for the operations": peak and operations / peak / 1e9,
        "MB of temporaries": compiled.memory_analysis().temp_size_in_bytes / batch_size / 1e6,
    }


def largest_batches(compile_step: Callable[[int], Any], gigabytes: Sequence[int]) -> dict[str, Any]:
    """The largest batch for each size of memory, and the memory of a further clip."""

    def needed(batch_size: int) -> int:
        analysis = compile_step(batch_size).memory_analysis()
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
