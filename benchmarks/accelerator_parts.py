"""The parts of benchmarks.accelerator, each a process: python -m benchmarks.accelerator_parts PART FILE.

Nothing here imports a package that reads videos.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import measure, special_cases, step
from manet_jax import parallel
from manet_jax.models import ModelSpec
from manet_jax.models.variables import count_forward_flops
from manet_jax.step_meter import StepMeter
from manet_jax.train_step import create_train_state
from tfds_ma52.files import write_atomically

# Floating-point operations a second of matrix products in bfloat16, dense, by the makers' data sheets, in 1e12.
PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA L4": 121,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H200": 989,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
}
_STEP_FACTOR = 3  # operations of a training step over those of a forward pass
_AHEAD = 2  # batches that are on their way to the device while a step runs


def main() -> None:
    """Runs one part and writes its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator_parts", description=__doc__)
    parser.add_argument("part", help="machine, fidelity, jax N, pytorch N, special cases, loop N; N clips")
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--platform", default="cpu", help="what JAX runs on")
    arguments = parser.parse_args()
    name, _, number = arguments.part.partition(" ")
    small = arguments.small
    if name == "machine":
        result = measure.machine() | {"platform": jax.default_backend()}
    elif name == "fidelity":
        result = fidelity(small)
    elif name == "special":
        result = {"rows": special_cases.measure_all(small=small)}
    elif name == "jax":
        result = with_jax(int(number), small)
    elif name == "pytorch":
        result = with_pytorch(int(number), small, arguments.platform)
    else:
        result = loop(int(number), small)
    write_atomically(arguments.file, json.dumps(result))


def _model(small: bool) -> ModelSpec:
    return step.model(dtype="bfloat16", **({"depth": 8, "width": 8} if small else {}))


def _batch(num_clips: int, small: bool) -> dict[str, np.ndarray]:
    return step.make_batch(num_clips, 32 if small else 224)


def fidelity(small: bool) -> dict[str, Any]:
    """The differences from the recorded outputs, with products in full float32."""
    jax.config.update("jax_default_matmul_precision", "highest")
    # The tests' modules import each other by bare names, as pytest lets them.
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests"))
    import recorded

    if small:
        measurements = recorded.forward_of_small_model()
    else:
        model = recorded.released_model()
        measurements = [*recorded.forward(*model), *recorded.training(recorded.run_steps(*model))]
    return {"rows": [dataclasses.asdict(each) for each in measurements]}


def with_jax(num_clips: int, small: bool) -> dict[str, Any]:
    """Our training step and forward pass."""
    spec, batch = _model(small), _batch(num_clips, small)
    functions, _, compile_seconds = step.ours(batch, spec)
    flops, peak = count_forward_flops(spec, num_clips), PEAKS.get(jax.devices()[0].device_kind)
    result = _timed(functions, "ours", num_clips, small)
    for part, factor in (("forward", 1), ("train step", _STEP_FACTOR)):
        result[part] |= {
            "flops_per_clip": factor * flops / num_clips,
            "peak_flops": peak and peak * 1e12,
            "compile_seconds": compile_seconds[part],
        }
    memory = jax.devices()[0].memory_stats() or {}
    return result | {"peak_bytes": memory.get("peak_bytes_in_use")}


def with_pytorch(num_clips: int, small: bool, platform: str) -> dict[str, Any]:
    """The same of a plain PyTorch MANet, in a process that does not start JAX, so that it has the whole memory."""
    import torch

    if platform != "cpu" and not (platform == "gpu" and torch.cuda.is_available()):
        return {"left_out": f"this PyTorch ({torch.__version__}) does not run on the device"}
    device = "cpu" if platform == "cpu" else "cuda"
    spec, batch, note = _model(small), _batch(num_clips, small), ""
    functions = step.plain_pytorch(batch, spec, device, compiled=device == "cuda")
    if device == "cuda":
        try:
            for function in functions.values():
                function()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            note = f"without torch.compile, which failed: {(str(error) or type(error).__name__).splitlines()[0]}"
            functions = step.plain_pytorch(batch, spec, device, compiled=False)
            torch.cuda.reset_peak_memory_stats()
    result = _timed(functions, "pytorch", num_clips, small) | {"version": torch.__version__}
    if device == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result | ({"note": note} if note else {})


def _timed(functions: dict, name: str, num_clips: int, small: bool) -> dict[str, Any]:
    seconds = measure.in_turn(functions, repeats=1 if small else 5)
    return {
        part: {"clips_per_second": num_clips / measure.spread(seconds[f"{name} {part}"])["median"]}
        for part in ("forward", "train step")
    }


def loop(num_clips: int, small: bool) -> dict[str, Any]:
    """Training as `manet_jax.train` does it, on batches that are in memory: with logs, without checkpoints."""
    mesh, every, lines = parallel.make_mesh(1), 2 if small else 10, 2 if small else 6
    run, optimizer = step.create_step(_model(small), mesh)
    state = create_train_state(_model(small), optimizer, 0, mesh)
    kept = [{name: np.roll(x, i, 0) for name, x in _batch(num_clips, small).items()} for i in range(4)]
    batches, meter, logged = _to_devices(itertools.cycle(kept), mesh), StepMeter(num_clips), []
    for number in range(1, every * lines + 1):
        state, metrics = run(state, meter.wait_for(batches))
        meter.add(metrics)
        if number % every == 0:
            logged.append(meter.read(number, None))
    logged = logged[1:]  # without the one in which the step was compiled
    rate = measure.spread([line["clips_per_second"] for line in logged])["median"]
    waiting = float(np.mean([line["data_wait_share"] for line in logged]))
    assert all(math.isfinite(line["loss"]) for line in logged)
    return {"clips_per_second": rate, "steps_per_second": rate / num_clips, "data_wait_share": waiting}


def _to_devices(batches: Iterator[dict[str, np.ndarray]], mesh: jax.sharding.Mesh) -> Iterator[dict[str, jax.Array]]:
    """As `input_pipeline.to_devices`, without grain."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        ahead = collections.deque(thread.submit(parallel.shard_batch, next(batches), mesh) for _ in range(_AHEAD))
        while True:
            batch = ahead.popleft().result()
            ahead.append(thread.submit(parallel.shard_batch, next(batches), mesh))
            yield batch


if __name__ == "__main__":
    main()
