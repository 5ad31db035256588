"""Evaluates the last checkpoint of a finished run, and writes what studies compare as `study.json` in its workdir.

python -m manet_jax.studies.measure --workdir runs/benchmark/manet_0 --cost
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from typing import Any

from manet_jax.studies.study import RESULT_FILE
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically


def measure(workdir: pathlib.Path, *, cost: bool) -> dict[str, Any]:
    """Evaluates the last checkpoint of a run and writes its `study.json`.

    Args:
      workdir: of the run.
      cost: whether to measure `compute_cost` too.

    Returns:
      What is written: `config` and `step` of the run, its metrics and confusion matrices, `clips`, where a clip
      has one label: the `video_ids` of the split with their `target` and `predicted` class, and the body `groups` of
      the classes; and the cost.

    Raises:
      UserError: the run is not finished.
    """
    # Late, because the help text should not wait for JAX.
    import ml_collections

    from manet_jax import checkpoint, configuration, evaluate, train

    metadata = checkpoint.read_metadata(workdir, "latest")
    config = configuration.parse(ml_collections.ConfigDict(metadata.config))
    num_clips = metadata.data["training clips"] * config.augmentation.repeats
    total = train.count_steps(config, num_clips).total
    if metadata.step != total:
        raise UserError(f"the run in {workdir} is at step {metadata.step} of {total}; its command resumes it")
    evaluation = evaluate.evaluate_checkpoint(workdir, "latest")
    result: dict[str, Any] = {"config": metadata.config, **evaluation.metrics}
    confusions = evaluate.compute_confusions(evaluation.predictions, evaluation.tasks)
    result |= {name: confusion.tolist() for name, confusion in confusions.items()}
    if "confusion" in confusions:
        result["clips"] = {
            "video_ids": evaluation.video_ids,
            "groups": list(metadata.labels.groups),
            "target": evaluation.predictions.targets["label"].tolist(),
            "predicted": evaluation.predictions.outputs["logits"].argmax(1).tolist(),
        }
    if cost:
        result |= compute_cost(workdir, config.eval.batch_size)
    write_atomically(workdir / RESULT_FILE, json.dumps(result) + "\n")
    return result


def compute_cost(workdir: pathlib.Path, batch_size: int) -> dict[str, Any]:
    """The cost of the network of a run's last checkpoint.

    Args:
      workdir: of the run.
      batch_size: clips of the forward passes that are timed.

    Returns:
      `parameters`; `gflops`: thousands of millions of multiply-adds of a forward pass of one clip, as XLA counts them;
      `clips_per_second`: of forward passes on one device, the median of five; `device`: its name.
    """
    import jax
    import numpy as np

    from manet_jax import checkpoint, parallel
    from manet_jax.models.variables import count_forward_flops, count_parameters, forward_function

    saved = checkpoint.read_model(workdir, "latest")
    spec = saved.metadata.model
    clip = spec.options.clip
    shape = (batch_size, clip.num_frames, clip.crop_size, clip.crop_size, 3)
    video = jax.device_put(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    forward = jax.jit(forward_function(spec), compiler_options=parallel.compiler_options())
    jax.block_until_ready(forward(saved.variables, video))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(forward(saved.variables, video))
        seconds.append(time.perf_counter() - start)
    return {
        "parameters": count_parameters(saved.variables["params"]),
        "gflops": count_forward_flops(spec) / 2e9,
        "clips_per_second": batch_size / statistics.median(seconds),
        "device": jax.devices()[0].device_kind,
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.studies.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of the run")
    parser.add_argument("--cost", action="store_true", help="count parameters and GFLOPs, and time forward passes too")
    arguments = parser.parse_args(argv)

    def run() -> int:
        from manet_jax import compilation_cache

        compilation_cache.use()
        measure(arguments.workdir, cost=arguments.cost)
        return 0

    return run_command("manet_jax", run)


if __name__ == "__main__":
    sys.exit(main())
