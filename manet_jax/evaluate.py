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
from manet_jax import configuration, emotion, hosts, inference, input_pipeline, metrics, parallel
from tfds_ma52.errors import UserError
from tfds_ma52.labels import Labels, same_classes

_log = logging.getLogger(__name__)


# What is known of a clip and kept beside what the model says of it.
_TRUTH = ("label", "labels", "emotion", "index")
# The figure by which the best checkpoint is chosen, by what is recognised, and those that the log shows.
_MAIN_FIGURES = ("emotion_f1_macro", "map", "f1_mean")
_SUMMARY = ("action_top1", "action_top5", "f1_mean", "map", "f1_macro", "f1_micro", *metrics.EMOTION_NAMES)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of the clips of a split, and what is true of them, in the same order.

    Attributes:
      outputs: `logits` [b, n] of micro-actions, the joint `embedding` [b, e] and `emotion` [b, k] logits of emotions,
        where the model has them.
      truth: `label` [b] (-1 where hidden), or `labels` [b, n] and `emotion` [b].
    """

    outputs: dict[str, Float[np.ndarray, "b _"]]
    truth: dict[str, Num[np.ndarray, "b ..."]]

    def __getitem__(self, rows: Int[np.ndarray, " b2"]) -> "Predictions":
        """Those of some clips."""
        return Predictions(*({name: x[rows] for name, x in part.items()} for part in (self.outputs, self.truth)))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A checkpoint's predictions of a split.

    Attributes:
      workdir: of the training.
      kind: of the checkpoint, "best" or "latest".
      split: of the data.
      dataset: the data.
      predictions: of all clips of the split, in the order of `dataset.source(split)`.
      scores: the figures of `score` and the checkpoint's `step`; the step alone where the labels are hidden.
      labels: the classes.
      emotions: their names, where the model recognises any.
      metadata: what the checkpoint says of itself.
    """

    workdir: pathlib.Path
    kind: str
    split: str
    dataset: input_pipeline.Dataset
    predictions: Predictions
    scores: dict[str, float | int]
    labels: Labels
    emotions: tuple[str, ...]
    metadata: dict[str, Any]

    @property
    def hidden(self) -> bool:
        """Whether the labels are hidden, so that there are no figures."""
        return self.split in self.dataset.hidden

    @functools.cached_property
    def video_ids(self) -> list[str]:
        """The clips' names, in the order of `predictions`."""
        source = self.dataset.source(self.split)
        return [source[i]["video_id"].decode() for i in range(len(source))]


def eval_step(
    variables: dict[str, PyTree], batch: dict[str, Array], *, graphdef: nnx.GraphDef
) -> dict[str, dict[str, Array]]:
    """What a model says of the clips of a batch, and what is true of them, from all devices.

    Args:
      variables: `params` and `batch_stats`.
      batch: one device's part.
      graphdef: the model's structure.

    Returns:
      `outputs` and `truth` as in `Predictions`, and in `truth` the `index`.
    """
    model = nnx.merge(graphdef, variables["params"], variables["batch_stats"])
    said = emotion.forward(model, batch)
    result = {
        "outputs": {name: value for name, value in said._asdict().items() if value is not None},
        "truth": {name: batch[name] for name in _TRUTH if name in batch},
    }
    return jax.lax.all_gather(result, parallel.AXIS, tiled=True)


def collect(parts: Sequence[dict[str, dict[str, Array]]]) -> Predictions:
    """Puts what `eval_step` returned for all batches together, by index, without the clips whose index is -1."""
    parts = jax.device_get(parts)
    whole = {
        kind: {name: np.concatenate([part[kind][name] for part in parts]) for name in parts[0][kind]}
        for kind in ("outputs", "truth")
    }
    index = whole["truth"].pop("index")
    order = np.argsort(index, kind="stable")
    return Predictions(**whole)[order[(index < 0).sum() :]]


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
        probabilities = inference.to_probabilities(logits, multilabel=True)
        values |= metrics.multilabel_metrics(probabilities, truth["labels"], groups, labels.group_names, threshold)
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
    if not len(label):
        return float("nan")
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
      UserError: there is no such split.
    """
    source = dataset.source(split)
    step = parallel.map_step(functools.partial(eval_step, graphdef=graphdef), mesh, mapping)
    num_batches = math.ceil(len(source) / pipeline["batch_size"])

    def run(variables: dict[str, PyTree]) -> Predictions:
        batches = input_pipeline.eval_batches(source, num_prefetch=num_prefetch, **pipeline)
        batches = input_pipeline.to_devices(batches, mesh, num_prefetch)
        with contextlib.closing(iter(batches)) as batches:
            bar = tqdm.tqdm(
                batches,
                f"evaluating {split}",
                num_batches,
                unit="batch",
                leave=False,
                dynamic_ncols=True,
                disable=not hosts.is_first(),
            )
            return collect([step(variables, batch) for batch in bar])

    return run


def check_labels(dataset: input_pipeline.Dataset, split: str, model_options: dict[str, Any]) -> None:
    """Checks that a split has what a model is judged by.

    Raises:
      UserError: there is no such split, its labels are hidden, or it has no emotions for a model of these.
    """
    dataset.source(split)
    if split in dataset.hidden:
        raise UserError(
            f"the labels of split {split!r} are hidden, so it cannot be evaluated: try --config.eval.split=val, or "
            "--mode=evaluate --submission=FILE"
        )
    if "form" in model_options and not any(dataset.builder.info.metadata["emotion_counts"][split]):
        raise UserError(f"no clip of split {split!r} has an emotion: name another with --config.eval.split")


def evaluate_checkpoint(
    config: ml_collections.ConfigDict | None, workdir: str | pathlib.Path, kind: str, *, need_labels: bool = True
) -> Evaluation:
    """Evaluates a checkpoint and writes `evaluation_<split>_<kind>.json` in the workdir.

    Args:
      config: says where the data lie, which split to use and how to compute; None takes all that from the checkpoint.
        Model, frames and crops are always those of the checkpoint.
      workdir: of a training.
      kind: "best" or "latest".
      need_labels: whether hidden labels are an error; else there are no figures of them, and no file is written.

    Returns:
      The predictions and their figures. The threshold of several labels is the one that was chosen in training, on its
      evaluation split.

    Raises:
      UserError: there is no checkpoint, or the data are missing or have other classes.
    """
    workdir = pathlib.Path(workdir).expanduser()
    mesh = parallel.make_mesh()
    graphdef, variables, metadata = checkpoint_lib.read_model(workdir, kind, parallel.replicated(mesh))
    trained = ml_collections.ConfigDict(metadata["config"])
    if config is None and "eval" not in trained:
        raise UserError(
            f"{workdir} holds converted weights, which do not know where data lie: "
            "add --config configs/ma52.py --config.data.manual_dir=DIR"
        )
    config = trained if config is None else config
    dataset = _open_data(config, metadata, mesh, workdir)
    split = config.eval.split
    if need_labels:
        check_labels(dataset, split, metadata["model"])
    run = create_evaluation(graphdef, dataset, mesh, **configuration.evaluation_arguments(config, trained))
    predictions = run(variables)
    scores, labels = {"step": metadata["step"]}, checkpoint_lib.labels_of(metadata)
    if split not in dataset.hidden:
        in_training = metadata.get({"best": "best", "latest": "last"}[kind]) or {}
        scores |= score(predictions, labels, in_training.get("threshold"))
        _write(workdir / f"evaluation_{split}_{kind}.json", scores, predictions)
    emotions = dataset.emotions if "emotion" in predictions.outputs else ()
    return Evaluation(workdir, kind, split, dataset, predictions, scores, labels, emotions, metadata)


def _open_data(
    config: ml_collections.ConfigDict, metadata: dict[str, Any], mesh: Mesh, workdir: pathlib.Path
) -> input_pipeline.Dataset:
    """Opens the data to evaluate on; they must have the model's classes and emotions."""
    configuration.check(config)
    parallel.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
    dataset = input_pipeline.open_dataset(**configuration.data_arguments(config))
    same_emotions = "form" not in metadata["model"] or metadata["emotions"] == list(dataset.emotions)
    if not same_classes(dataset.labels, checkpoint_lib.labels_of(metadata)) or not same_emotions:
        raise UserError(
            f"{dataset.builder.data_dir} has other classes or emotions than the model in {workdir}: "
            "set --config.data.manual_dir to the data it was trained for"
        )
    return dataset


def _write(path: pathlib.Path, scores: dict[str, float | int], predictions: Predictions) -> None:
    if not hosts.is_first():
        return
    found = {name: confusion.tolist() for name, confusion in confusions(predictions).items()}
    try:
        path.write_text(json.dumps({**scores, **found}))
    except OSError as error:
        _log.warning("%s cannot be written (%s)", path, error.strerror)


def bootstrap(
    predictions: Predictions,
    labels: Labels,
    threshold: float | None = None,
    *,
    num_samples: int = 1000,
    show_progress: bool = False,
) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of the figures of `score`: percentiles over samples of its clips, drawn with replacement.

    They say how far a figure depends on which clips were taken, as if these were independent of each other: clips of
    one person are not quite.

    Args:
      predictions: see `score`.
      labels: see `score`.
      threshold: see `score`; None chooses one for each sample.
      num_samples: how many samples are drawn, the same in every call.
      show_progress: whether to show a progress bar.

    Returns:
      The lower and upper bound of each figure; NaN where it is not a number in any sample.
    """
    rng, samples = np.random.default_rng(0), []
    num_clips = len(next(iter(predictions.truth.values())))
    bar = tqdm.trange(
        num_samples, desc="bootstrap", unit="sample", leave=False, dynamic_ncols=True, disable=not show_progress
    )
    for _ in bar:
        samples.append(score(predictions[rng.integers(num_clips, size=num_clips)], labels, threshold))
    intervals = {}
    for name in samples[0]:
        values = np.array([sample[name] for sample in samples])
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, (2.5, 97.5)) if len(values) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def table_rows(scores: dict[str, float | int]) -> list[str]:
    """The names of the figures in the order of a table."""
    known = (*metrics.NAMES, *metrics.MULTILABEL_NAMES, *metrics.EMOTION_NAMES)
    rows = [name for name in known if name in scores]
    return rows + [name for name in scores if name.startswith(("map_", "f1_")) and name not in rows]


def format_table(columns: dict[str, dict[str, float | int]]) -> str:
    """A table of the figures in percent, thresholds as they are: a row each, a column for each of `columns`."""
    width = max(12, *(len(title) + 2 for title in columns))
    rows = table_rows(next(iter(columns.values())))
    indent = max(18, *(len(name) + 2 for name in rows))
    lines = [" " * indent + "".join(f"{title:>{width}}" for title in columns)]
    for name in rows:
        scale = 1 if name == "threshold" else 100
        lines.append(f"{name:{indent}}" + "".join(f"{scale * values[name]:>{width}.2f}" for values in columns.values()))
    return "\n".join(lines)
