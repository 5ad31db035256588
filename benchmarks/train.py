"""The whole training loop: start to first step, clips a second, the share of time spent waiting for data, memory.

Without --manual_dir it writes clips of MA-52's size and length itself, and builds the set. The model is the paper's; on
a CPU the batch is 2 clips, not 10.
"""

import contextlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import jax

from benchmarks import clips, measure
from configs import ma52
from manet_jax import train

_SKIPPED = 3  # steps at the start, which use up what was read ahead while the step was compiled


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.train", __doc__, repeats=None)
    on_cpu = jax.default_backend() == "cpu"
    parser.add_argument("--manual_dir", type=pathlib.Path, help="a folder in MA-52's layout")
    parser.add_argument("--batch_size", type=int, default=2 if on_cpu else 80, help="clips, over all devices")
    parser.add_argument("--steps", type=int, default=20 if on_cpu else 200, help="to time")
    parser.add_argument("--dtype", default="float32" if on_cpu else "bfloat16", help="of the computation")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        folder = arguments.manual_dir or scratch / "clips"
        if arguments.manual_dir is None:
            clips.write_clips(folder)
        options = {
            "data.manual_dir": str(folder),
            "data.read_threads": len(os.sched_getaffinity(0)),
            "batch_size": arguments.batch_size,
            "eval.batch_size": arguments.batch_size,
            "model.dtype": arguments.dtype,
            "log_every_steps": 1,
        }
        subprocess.run([sys.executable, "-m", "tfds_ma52", "--manual_dir", str(folder)], check=True)
        starts = [_seconds_to_first_step(scratch, name, options) for name in ("empty cache", "filled cache")]
        lines = _train(scratch / "run", options, arguments.steps + _SKIPPED)[_SKIPPED:]
    rate = measure.spread([line["clips_per_second"] for line in lines])
    device = jax.local_devices()[0].memory_stats()
    row = {
        "clips/s": rate["median"],
        "middle half": f"{rate['low']:.3g}-{rate['high']:.3g}",
        "waiting for data (%)": 100 * statistics.mean(line["data_wait_share"] for line in lines),
        "first step (s)": starts[0],
        "with the compilation cache (s)": starts[1],
        "host memory (GB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "device memory (GB)": device and device["peak_bytes_in_use"] / 1e9,
    }
    print(f"batches of {arguments.batch_size}, {arguments.dtype}; {measure.machine()}\n{measure.table([row])}")
    measure.finish({"arguments": {**vars(arguments), "json": None}, "row": row, "lines": lines}, arguments.json)


def _seconds_to_first_step(scratch: pathlib.Path, name: str, options: dict) -> float:
    """From the command's start to the first line in its log, with a compilation cache for all such runs."""
    workdir = scratch / name
    command = [sys.executable, "-m", "manet_jax.main", "--config", ma52.__file__, "--workdir", str(workdir)]
    command += [f"--config.{field}={value}" for field, value in options.items()]
    environment = os.environ | {"XDG_CACHE_HOME": str(scratch / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        log = workdir / "metrics.jsonl"
        while not (log.exists() and log.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(process.stderr.read().decode())
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def _train(workdir: pathlib.Path, options: dict, num_steps: int) -> list[dict[str, float]]:
    """Trains in this process; returns the log's lines."""
    config = ma52.get_config()
    config.update_from_flattened_dict(options)
    config.num_epochs = config.eval.every_epochs = num_steps * config.batch_size / _num_clips(config)
    with contextlib.redirect_stdout(sys.stderr):
        train.train_and_evaluate(config, workdir)
    return [line for line in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()) if "loss" in line]


def _num_clips(config) -> int:
    from manet_jax import configuration

    return len(configuration.parse(config).data.open().source("train"))


if __name__ == "__main__":
    main()
