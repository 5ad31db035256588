"""Measures the cost of a training step by the number of devices and of clips.

On a CPU the devices are virtual and share its cores: what the time grows by for the same batch is what the split costs.
"""

import statistics
import time
from typing import Any

import jax

from benchmarks import measure, step
from manet_jax import parallel
from manet_jax.train_step import create_train_state


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.scaling", __doc__, repeats=1)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of them")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 16, 32], help="clips of 8 frames, over all")
    parser.add_argument("--size", type=int, default=64, help="pixels of a frame's sides")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(arguments.devices))  # where the CPU is all there is
    if len(jax.devices()) < max(arguments.devices):
        raise SystemExit(f"there are {len(jax.devices())} devices; lower --devices")

    seconds, compile_seconds = {}, {}
    for batch_size in arguments.batch_sizes:
        functions = {}
        for devices in arguments.devices:
            functions[devices], compile_seconds[batch_size, devices] = _step(batch_size, devices, arguments)
        timed = measure.in_turn(functions, arguments.repeats)
        seconds |= {(batch_size, devices): times for devices, times in timed.items()}
    rows = [_row(key, times, seconds, compile_seconds) for key, times in seconds.items()]
    print(f"clips of 8 x {arguments.size} x {arguments.size}, {arguments.dtype}; {measure.machine()}")
    print(measure.table(rows))
    named = {f"{batch_size} clips, {devices} devices": times for (batch_size, devices), times in seconds.items()}
    measure.finish({"seconds": named, "rows": rows}, arguments.json)


def _step(batch_size: int, num_devices: int, arguments) -> tuple[Any, float]:
    """A function that runs one training step, and the seconds that its compilation took."""
    mesh = parallel.make_mesh(num_devices)
    spec = step.model(dtype=arguments.dtype)
    run, optimizer = step.create_step(spec, mesh)
    state = create_train_state(spec, optimizer, 0, mesh)
    batch = parallel.shard_batch(step.make_batch(batch_size, arguments.size), mesh)
    start = time.perf_counter()
    compiled = run.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start

    def run_step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    return run_step, compile_seconds


def _row(key: tuple[int, int], times: list[float], seconds: dict, compile_seconds: dict) -> dict[str, Any]:
    batch_size, devices = key
    spread, fewest = measure.spread(times), min(other for size, other in seconds if size == batch_size)
    return {
        "clips": batch_size,
        "devices": devices,
        "step (s)": spread["median"],
        "middle half": f"{spread['low']:.3g}-{spread['high']:.3g}",
        "clips/s": batch_size / spread["median"],
        f"over {fewest} device": spread["median"] / statistics.median(seconds[batch_size, fewest]),
        "compile (s)": compile_seconds[key],
    }


if __name__ == "__main__":
    main()
