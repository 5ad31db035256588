"""Evaluation: masked sums over a split, then the benchmark's metrics; the same code in training and afterwards."""

import contextlib
import functools
import json
import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from manet_jax import checkpoint as checkpoint_lib
from manet_jax import configuration, input_pipeline, losses, metrics, parallel
from tfds_ma52.errors import UserError
from tfds_ma52.labels import same_classes

_log = logging.getLogger(__name__)


def eval_step(variables: dict[str, PyTree], batch: dict[str, Array], *, graphdef: nnx.GraphDef) -> dict[str, Array]:
    """Sums over the clips of a batch whose mask is 1, over all devices.

    Args:
      variables: `params` and `batch_stats`.
      batch: one device's part.
      graphdef: the model's structure.

    Returns:
      `confusion` [n, n] (true class by most probable class), `top5` (true class among the five most probable ones),
      `cross_entropy` (nats).
    """
    logits, _ = nnx.merge(graphdef, variables["params"], variables["batch_stats"])(batch["video"])
    label, mask = batch["label"], batch["mask"]
    num_classes = logits.shape[-1]
    truth = jax.nn.one_hot(label, num_classes) * mask[:, None]
    prediction = jax.nn.one_hot(logits.argmax(-1), num_classes)
    _, top5 = jax.lax.top_k(logits, min(5, num_classes))
    sums = {
        "confusion": jnp.matmul(truth.T, prediction, precision=jax.lax.Precision.HIGHEST),
        "top5": ((top5 == label[:, None]).any(-1) * mask).sum(),
        "cross_entropy": (losses.cross_entropy(logits, label) * mask).sum(),
    }
    return jax.lax.psum(sums, parallel.AXIS)


def create_evaluation(
    graphdef: nnx.GraphDef,
    dataset: input_pipeline.Dataset,
    mesh: Mesh,
    *,
    split: str,
    mapping: str,
    num_prefetch: int,
    **pipeline: Any,
) -> Callable[[dict[str, PyTree]], tuple[dict[str, float], Int[np.ndarray, "n n"]]]:
    """Makes the function that evaluates a model's variables on one split.

    Args:
      graphdef: the model's structure.
      dataset: the data.
      mesh: the devices.
      split: of the data.
      mapping: see `parallel.map_step`.
      num_prefetch: how many batches are made ahead.
      **pipeline: see `input_pipeline.eval_batches`.

    Returns:
      A function from replicated `params` and `batch_stats` to the published metrics with the mean `cross_entropy`, and
      the confusion matrix.

    Raises:
      UserError: there is no such split, or its labels are hidden.
    """
    source = dataset.source(split)
    if split in dataset.hidden:
        raise UserError(
            f"the labels of split {split!r} are hidden, so it cannot be evaluated: try --config.eval.split=val"
        )
    step = parallel.map_step(functools.partial(eval_step, graphdef=graphdef), mesh, mapping)
    num_batches = math.ceil(len(source) / pipeline["batch_size"])

    def run(variables: dict[str, PyTree]) -> tuple[dict[str, float], np.ndarray]:
        batches = input_pipeline.eval_batches(source, num_prefetch=num_prefetch, **pipeline)
        batches = parallel.to_devices(batches, mesh, num_prefetch)
        sums = None
        with contextlib.closing(iter(batches)) as batches:
            bar = tqdm.tqdm(batches, f"evaluating {split}", num_batches, unit="batch", leave=False, dynamic_ncols=True)
            for batch in bar:
                new = step(variables, batch)
                sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
        sums = jax.device_get(sums)
        confusion = sums["confusion"].astype(np.int64)
        values = metrics.recognition_metrics(confusion, sums["top5"], np.array(dataset.labels.groups))
        return values | {"cross_entropy": float(sums["cross_entropy"] / confusion.sum())}, confusion

    return run


def evaluate_checkpoint(
    config: ml_collections.ConfigDict | None, workdir: str | pathlib.Path, kind: str
) -> dict[str, float | int]:
    """Evaluates a checkpoint and writes `evaluation_<split>_<kind>.json` in the workdir.

    Args:
      config: says where the data lie, which split to use and how to compute; None takes all that from the checkpoint.
        Model, frames and crops are always those of the checkpoint.
      workdir: of a training.
      kind: "best" or "latest".

    Returns:
      The metrics of `create_evaluation` and the checkpoint's `step`.

    Raises:
      UserError: there is no checkpoint, or the data are missing or have other classes.
    """
    mesh = parallel.make_mesh()
    graphdef, variables, metadata = checkpoint_lib.read_model(workdir, kind, parallel.replicated(mesh))
    trained = ml_collections.ConfigDict(metadata["config"])
    if config is None and "eval" not in trained:
        raise UserError(
            f"{workdir} holds converted weights, which do not know where data lie: "
            "add --config configs/ma52.py --config.data.manual_dir=DIR"
        )
    config = trained if config is None else config
    configuration.check(config)
    parallel.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
    dataset = input_pipeline.open_dataset(**configuration.data_arguments(config))
    if not same_classes(dataset.labels, checkpoint_lib.labels_of(metadata)):
        raise UserError(
            f"{dataset.builder.data_dir} has other classes than the model in {workdir}: "
            "set --config.data.manual_dir to the data it was trained for"
        )
    run = create_evaluation(graphdef, dataset, mesh, **configuration.evaluation_arguments(config, trained))
    values, confusion = run(variables)
    values = {"step": metadata["step"], **values}
    path = pathlib.Path(workdir).expanduser() / f"evaluation_{config.eval.split}_{kind}.json"
    try:
        path.write_text(json.dumps({**values, "confusion": confusion.tolist()}))
    except OSError as error:
        _log.warning("%s cannot be written (%s)", path, error.strerror)
    return values


def format_table(columns: dict[str, dict[str, float | int]]) -> str:
    """A table of the published metrics in percent: a row each, a column for each of `columns`."""
    width = max(12, *(len(title) + 2 for title in columns))
    lines = [" " * 18 + "".join(f"{title:>{width}}" for title in columns)]
    for name in metrics.NAMES:
        lines.append(f"{name:18}" + "".join(f"{100 * values[name]:>{width}.2f}" for values in columns.values()))
    return "\n".join(lines)
