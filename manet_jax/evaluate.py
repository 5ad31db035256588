"""Evaluation: what a model says of a split, then the metrics; the same code in training and afterwards."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Num, PyTree

from manet_jax import checkpoint as checkpoint_lib
from manet_jax import configuration, emotion, input_pipeline, metrics, parallel
from tfds_ma52.errors import UserError
from tfds_ma52.labels import Labels, same_classes

_log = logging.getLogger(__name__)


# What is known of a clip and kept beside what the model says of it.
_TRUTH = ("label", "labels", "emotion", "mask")
# The figure by which the best checkpoint is chosen, by what is recognised, and those that the log shows.
_MAIN_FIGURES = ("emotion_f1_macro", "map", "f1_mean")
_SUMMARY = ("action_top1", "action_top5", "f1_mean", "map", "f1_macro", "f1_micro", *metrics.EMOTION_NAMES)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of the clips of a split, and what is true of them, in the same order.

    Attributes:
      outputs: `logits` [b, n] of micro-actions and `emotion` [b, k] logits of emotions, where the model has them.
      truth: `label` [b], or `labels` [b, n] and `emotion` [b].
    """

    outputs: dict[str, Float[np.ndarray, "b _"]]
    truth: dict[str, Num[np.ndarray, "b ..."]]


def eval_step(
    variables: dict[str, PyTree], batch: dict[str, Array], *, graphdef: nnx.GraphDef
) -> dict[str, dict[str, Array]]:
    """What a model says of the clips of a batch, and what is true of them, from all devices.

    Args:
      variables: `params` and `batch_stats`.
      batch: one device's part.
      graphdef: the model's structure.

    Returns:
      `outputs` and `truth` as in `Predictions`, and in `truth` the `mask`.
    """
    model = nnx.merge(graphdef, variables["params"], variables["batch_stats"])
    said = emotion.forward(model, batch)
    outputs = {"logits": said.logits, "emotion": said.emotion}
    result = {
        "outputs": {name: value for name, value in outputs.items() if value is not None},
        "truth": {name: batch[name] for name in _TRUTH if name in batch},
    }
    return jax.lax.all_gather(result, parallel.AXIS, tiled=True)


def collect(parts: Sequence[dict[str, dict[str, Array]]]) -> Predictions:
    """Puts what `eval_step` returned for all batches together, without the clips whose mask is 0."""
    parts = jax.device_get(parts)
    counts = np.concatenate([part["truth"]["mask"] for part in parts]) > 0
    whole = {
        kind: {name: np.concatenate([part[kind][name] for part in parts])[counts] for name in parts[0][kind]}
        for kind in ("outputs", "truth")
    }
    del whole["truth"]["mask"]
    return Predictions(**whole)


def score(predictions: Predictions, labels: Labels, threshold: float | None = None) -> dict[str, float]:
    """The figures of what a model recognises: actions, several micro-actions, emotions.

    Args:
      predictions: of a split.
      labels: the classes.
      threshold: see `metrics.multilabel_metrics`.
    """
    outputs, truth, values = predictions.outputs, predictions.truth, {}
    groups = np.array(labels.groups)
    if "logits" in outputs and "labels" in truth:
        logits = outputs["logits"].astype(np.float64)
        values |= metrics.multilabel_metrics(
            1 / (1 + np.exp(-logits)), truth["labels"], groups, labels.group_names, threshold
        )
        # log(1 + exp(x)) - x for what is shown, log(1 + exp(x)) for what is not.
        values["cross_entropy"] = float((np.logaddexp(0, logits) - truth["labels"] * logits).sum(1).mean())
    elif "logits" in outputs:
        logits, label = outputs["logits"].astype(np.float64), truth["label"]
        ranked = np.argsort(-logits, axis=1, kind="stable")
        top5 = (ranked[:, :5] == label[:, None]).any(1).sum()
        confusion = metrics.confusion_matrix(label, ranked[:, 0], logits.shape[1])
        values |= metrics.recognition_metrics(confusion, top5, groups)
        values["cross_entropy"] = _cross_entropy(logits, label)
    if "emotion" in outputs:
        known = truth["emotion"] >= 0
        if not known.any():
            raise UserError("no clip of the evaluation's split has an emotion: name another with --config.eval.split")
        values |= metrics.emotion_metrics(_emotion_confusion(predictions))
        values["emotion_cross_entropy"] = _cross_entropy(
            outputs["emotion"][known].astype(np.float64), truth["emotion"][known]
        )
    return values


def confusions(predictions: Predictions) -> dict[str, Int[np.ndarray, "n n"]]:
    """The confusion matrices, true class by most probable one: `confusion` of actions, `emotion_confusion`."""
    found, outputs, truth = {}, predictions.outputs, predictions.truth
    if "logits" in outputs and "label" in truth:
        num_classes = outputs["logits"].shape[1]
        found["confusion"] = metrics.confusion_matrix(truth["label"], outputs["logits"].argmax(1), num_classes)
    if "emotion" in outputs:
        found["emotion_confusion"] = _emotion_confusion(predictions)
    return found


def _emotion_confusion(predictions: Predictions) -> Int[np.ndarray, "k k"]:
    said, truth = predictions.outputs["emotion"], predictions.truth["emotion"]
    return metrics.confusion_matrix(truth[truth >= 0], said.argmax(1)[truth >= 0], said.shape[1])


def _cross_entropy(logits: Float[np.ndarray, "b n"], label: Int[np.ndarray, " b"]) -> float:
    highest = logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits - highest).sum(1)) + highest[:, 0]
    return float((log_sum - logits[np.arange(len(label)), label]).mean())


def main_figure(values: dict[str, float]) -> str:
    """The name of the figure that says which of two checkpoints is better."""
    return next(name for name in _MAIN_FIGURES if name in values)


def format_summary(values: dict[str, float]) -> str:
    """The main figures in one line, in percent."""
    figures = [f"{name} {100 * values[name]:.2f}" for name in _SUMMARY if name in values]
    figures += [f"{name} {values[name]:.3f}" for name in ("cross_entropy", "emotion_cross_entropy") if name in values]
    return ", ".join(figures).replace("_", " ")


def create_evaluation(
    graphdef: nnx.GraphDef,
    dataset: input_pipeline.Dataset,
    mesh: Mesh,
    *,
    split: str,
    mapping: str,
    num_prefetch: int,
    **pipeline: Any,
) -> Callable[[dict[str, PyTree]], Predictions]:
    """Makes the function that applies a model's variables to one split.

    Args:
      graphdef: the model's structure.
      dataset: the data.
      mesh: the devices.
      split: of the data.
      mapping: see `parallel.map_step`.
      num_prefetch: how many batches are made ahead.
      **pipeline: see `input_pipeline.eval_batches`.

    Returns:
      A function of replicated `params` and `batch_stats`.

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

    def run(variables: dict[str, PyTree]) -> Predictions:
        batches = input_pipeline.eval_batches(source, num_prefetch=num_prefetch, **pipeline)
        batches = parallel.to_devices(batches, mesh, num_prefetch)
        with contextlib.closing(iter(batches)) as batches:
            bar = tqdm.tqdm(batches, f"evaluating {split}", num_batches, unit="batch", leave=False, dynamic_ncols=True)
            return collect([step(variables, batch) for batch in bar])

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
      The figures of `score` and the checkpoint's `step`. The threshold of several labels is the one that was chosen in
      training, on its evaluation split.

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
    same_emotions = "form" not in metadata["model"] or metadata["emotions"] == list(dataset.emotions)
    if not same_classes(dataset.labels, checkpoint_lib.labels_of(metadata)) or not same_emotions:
        raise UserError(
            f"{dataset.builder.data_dir} has other classes or emotions than the model in {workdir}: "
            "set --config.data.manual_dir to the data it was trained for"
        )
    run = create_evaluation(graphdef, dataset, mesh, **configuration.evaluation_arguments(config, trained))
    predictions = run(variables)
    in_training = metadata.get({"best": "best", "latest": "last"}[kind]) or {}
    labels = checkpoint_lib.labels_of(metadata)
    values = {"step": metadata["step"], **score(predictions, labels, in_training.get("threshold"))}
    path = pathlib.Path(workdir).expanduser() / f"evaluation_{config.eval.split}_{kind}.json"
    found = {name: confusion.tolist() for name, confusion in confusions(predictions).items()}
    try:
        path.write_text(json.dumps({**values, **found}))
    except OSError as error:
        _log.warning("%s cannot be written (%s)", path, error.strerror)
    return values


def format_table(columns: dict[str, dict[str, float | int]]) -> str:
    """A table of the figures in percent, thresholds as they are: a row each, a column for each of `columns`."""
    width = max(12, *(len(title) + 2 for title in columns))
    known = (*metrics.NAMES, *metrics.MULTILABEL_NAMES, *metrics.EMOTION_NAMES)
    first = next(iter(columns.values()))
    rows = [name for name in known if name in first]
    rows += [name for name in first if name.startswith(("map_", "f1_")) and name not in rows]
    indent = max(18, *(len(name) + 2 for name in rows))
    lines = [" " * indent + "".join(f"{title:>{width}}" for title in columns)]
    for name in rows:
        scale = 1 if name == "threshold" else 100
        lines.append(f"{name:{indent}}" + "".join(f"{scale * values[name]:>{width}.2f}" for values in columns.values()))
    return "\n".join(lines)
