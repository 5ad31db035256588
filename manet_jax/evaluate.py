"""Evaluation: a model's outputs for a split, then the metrics; the same code in training and afterwards."""

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
from jaxtyping import Array, Float, Int, Num

from manet_jax import checkpoint as checkpoint_lib
from manet_jax import configuration, distributed, memory, metrics, parallel, progress
from manet_jax import tasks as tasks_lib
from manet_jax.configuration import Configuration
from manet_jax.data import input_pipeline
from manet_jax.data.dataset import Dataset
from manet_jax.data.views import Views
from manet_jax.models.variables import Variables, merge
from manet_jax.run_metadata import RunMetadata
from manet_jax.tasks import Task
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import same_classes

_log = logging.getLogger(__name__)

_TARGETS = ("label", "labels", "emotion", "index")  # of a batch, kept beside the outputs


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's outputs for the clips of a split, and their targets, in the same order.

    Attributes:
      outputs: `logits` [b, n] of micro-actions, the joint `embedding` [b, e] and `emotion` [b, k] logits of emotions,
        where the model has them; of several views those of `tasks.average_views`.
      targets: `label` [b] (-1 where hidden), or `labels` [b, n] and `emotion` [b].
    """

    outputs: dict[str, Float[np.ndarray, "b _"]]
    targets: dict[str, Num[np.ndarray, "b ..."]]

    def __getitem__(self, rows: Int[np.ndarray, " b2"]) -> "Predictions":
        """Those of some clips."""
        return Predictions(*({name: x[rows] for name, x in part.items()} for part in (self.outputs, self.targets)))

    def __len__(self) -> int:
        return len(next(iter(self.targets.values())))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A checkpoint's predictions for a split.

    Attributes:
      workdir: of the run.
      checkpoint: "best" or "latest".
      split: of the data.
      dataset: the data.
      views: of each clip, over which the predictions are averaged.
      predictions: for all clips of the split, in the order of `dataset.source(split)`.
      metrics: those of `tasks` and the checkpoint's `step`; the step alone where the labels are hidden.
      tasks: of the model, with the threshold that is used.
      metadata: of the run.
      members: of an ensemble, see `ensemble.evaluate_ensemble`, each by itself; `workdir`, `dataset`, `views` and
        `metadata` are then those of the first, and `metrics` have no step.
      weights: of the members.
      suffix: of the names of an ensemble's files in `workdir`.
    """

    workdir: pathlib.Path
    checkpoint: str
    split: str
    dataset: Dataset
    views: Views
    predictions: Predictions
    metrics: dict[str, float | int]
    tasks: tuple[Task, ...]
    metadata: RunMetadata
    members: "tuple[Evaluation, ...]" = ()
    weights: tuple[float, ...] = ()
    suffix: str = ""

    @property
    def name(self) -> str:
        """What its files in the workdir are named by."""
        return f"{self.split}_{self.checkpoint}{self.suffix}"

    @property
    def hidden(self) -> bool:
        """Whether the labels are hidden, so that there are no metrics."""
        return self.split in self.dataset.hidden

    @functools.cached_property
    def video_ids(self) -> list[str]:
        """The clips' names, in the order of `predictions`."""
        return self.dataset.video_ids(self.split)


def eval_step(
    variables: Variables, batch: dict[str, Array], *, graphdef: nnx.GraphDef, outputs: Sequence[str]
) -> dict[str, dict[str, Array]]:
    """Returns a model's outputs for the clips of a batch, and their targets, from all devices.

    Args:
      variables: `params` and `batch_stats`.
      batch: one device's part.
      graphdef: the model's structure.
      outputs: the names of those to return.

    Returns:
      `outputs` and `targets` as in `Predictions`, and in `targets` the `index`.
    """
    returned = merge(graphdef, variables)(batch)
    result = {
        "outputs": {name: getattr(returned, name) for name in outputs},
        "targets": {name: batch[name] for name in _TARGETS if name in batch},
    }
    return jax.lax.all_gather(result, parallel.AXIS, tiled=True)


def collect(parts: Sequence[dict[str, dict[str, Array]]]) -> Predictions:
    """Joins the results of `eval_step` for all batches, by index, without the clips whose index is -1."""
    parts = jax.device_get(parts)
    whole = {
        kind: {name: np.concatenate([part[kind][name] for part in parts]) for name in parts[0][kind]}
        for kind in ("outputs", "targets")
    }
    index = whole["targets"].pop("index")
    order = np.argsort(index, kind="stable")
    return Predictions(**whole)[order[(index < 0).sum() :]]


def average_views(predictions: Predictions, tasks: Sequence[Task], num_views: int) -> Predictions:
    """Averages the predictions for the views of each clip, which follow one another, see `tasks.average_views`."""
    views = {name: x.reshape(-1, num_views, *x.shape[1:]) for name, x in predictions.outputs.items()}
    targets = {name: x[::num_views] for name, x in predictions.targets.items()}
    return Predictions(tasks_lib.average_views(tasks, views), targets)


def create_evaluation(
    graphdef: nnx.GraphDef,
    dataset: Dataset,
    mesh: Mesh,
    metadata: RunMetadata,
    config: Configuration,
) -> Callable[[Variables], Predictions]:
    """Makes the function that applies a model's variables to one split.

    Args:
      graphdef: the model's structure.
      dataset: the data.
      mesh: the devices.
      metadata: of the run; its model decides on frames and crops.
      config: decides on the split, the views, and how to compute and read.

    Returns:
      A function of replicated variables.

    Raises:
      UserError: there is no such split.
    """
    split, batch_size, reading = config.eval.split, config.eval.batch_size, config.data.reading
    source, options, views = dataset.source(split), metadata.model.options, config.eval.views
    apply = functools.partial(eval_step, graphdef=graphdef, outputs=options.outputs)
    step = parallel.map_step(apply, mesh, config.parallel)
    num_batches = math.ceil(len(source) * len(views) / batch_size)
    if split in metadata.train_splits and metadata.data.get("lists") == dataset.fingerprint:
        _log.warning(
            "split %r is trained on (config.data.train_splits), so its metrics say nothing of other clips; give "
            "another with --config.eval.split",
            split,
        )

    def run(variables: Variables) -> Predictions:
        batches = input_pipeline.eval_batches(
            source, options.inputs, batch_size=batch_size, views=views, reading=reading
        )
        batches = input_pipeline.to_devices(batches, mesh, reading.num_prefetch)
        with (
            memory.batch_must_fit("--config.eval.batch_size", batch_size, options.inputs),
            contextlib.closing(iter(batches)) as batches,
        ):
            bar = progress.bar(batches, desc=f"evaluating {split}", total=num_batches, unit="batch", leave=False)
            predictions = collect([step(variables, batch) for batch in bar])
        return average_views(predictions, metadata.tasks(), len(views))

    return run


def check_targets(dataset: Dataset, split: str, tasks: Sequence[Task]) -> None:
    """Checks that a split has the targets that a model is judged by.

    Raises:
      UserError: there is no such split, its labels are hidden, or it has no emotions for a model of these.
    """
    dataset.source(split)
    if split in dataset.hidden:
        raise UserError(
            f"the labels of split {split!r} are hidden, so it cannot be evaluated: try --config.eval.split=val, or "
            "--mode=evaluate --submission=FILE"
        )
    if any(task.name == "emotions" for task in tasks) and not any(dataset.counts["emotion_counts"][split]):
        raise UserError(f"no clip of split {split!r} has an emotion: give another with --config.eval.split")


def evaluate_checkpoint(
    workdir: str | pathlib.Path,
    checkpoint: str = "best",
    *,
    config: ml_collections.ConfigDict | None = None,
    need_labels: bool = True,
) -> Evaluation:
    """Evaluates a checkpoint and writes `evaluation_<split>_<checkpoint>.json` in the workdir.

    Args:
      workdir: of a run.
      checkpoint: "best" or "latest".
      config: gives the location of the data, the split and how to compute; None takes all that from the checkpoint.
        Model, frames and crops are always those of the checkpoint; the number of views is the config's.
      need_labels: whether hidden labels are an error; else there are no metrics of them, and no file is written.

    Returns:
      The predictions and their metrics. The threshold of several labels is the one that was chosen in training, on its
      evaluation split.

    Raises:
      UserError: there is no checkpoint, or the data are missing or have other classes.
    """
    workdir = pathlib.Path(workdir).expanduser()
    mesh = parallel.make_mesh()
    saved = checkpoint_lib.read_model(workdir, checkpoint, parallel.replicated(mesh))
    metadata = saved.metadata
    parsed, dataset = open_data(workdir, metadata, config, need_labels=need_labels)
    predictions = create_evaluation(saved.graphdef, dataset, mesh, metadata, parsed)(saved.variables)
    tasks = metadata.tasks(metadata.evaluated(checkpoint).get("threshold"))
    split, views = parsed.eval.split, parsed.eval.views
    values: dict[str, float | int] = {"step": metadata.step or 0}
    if split not in dataset.hidden:
        values |= compute_metrics(predictions, tasks)
        tasks = metadata.tasks(values.get("threshold"))
    evaluation = Evaluation(workdir, checkpoint, split, dataset, views, predictions, values, tasks, metadata)
    write(evaluation)
    return evaluation


def open_data(
    workdir: pathlib.Path, metadata: RunMetadata, config: ml_collections.ConfigDict | None, *, need_labels: bool
) -> tuple[Configuration, Dataset]:
    """Opens the data to evaluate a run on.

    Args:
      workdir: of the run.
      metadata: of it.
      config: see `evaluate_checkpoint`.
      need_labels: whether hidden labels are an error.

    Returns:
      The config to evaluate with, and the data.

    Raises:
      UserError: the data are missing, or have other classes or emotions than the model.
    """
    if config is None and not metadata.config:
        raise UserError(
            f"{workdir} holds converted weights, which have no location of data: "
            "add --config configs/ma52.py --config.data.manual_dir=DIR"
        )
    parsed = configuration.parse(ml_collections.ConfigDict(metadata.config) if config is None else config)
    parallel.check_batch_size("eval.batch_size", parsed.eval.batch_size, parallel.make_mesh())
    dataset = parsed.data.open()
    same_emotions = "emotion" not in metadata.model.options.outputs or metadata.emotions == dataset.emotions
    if not same_classes(dataset.labels, metadata.labels) or not same_emotions:
        raise UserError(
            f"{dataset.location} has other classes or emotions than the model in {workdir}: "
            "set --config.data.manual_dir to the data it was trained for"
        )
    if need_labels:
        check_targets(dataset, parsed.eval.split, metadata.tasks())
    return parsed, dataset


def write(evaluation: Evaluation) -> None:
    """Writes `evaluation_<split>_<checkpoint>.json` in the workdir, unless the labels are hidden."""
    if evaluation.hidden or not distributed.is_primary():
        return
    content: dict[str, Any] = dict(evaluation.metrics)
    if evaluation.members:
        pairs = zip(evaluation.members, evaluation.weights, strict=True)
        content["members"] = [_describe(each) | {"weight": weight} for each, weight in pairs]
    elif len(evaluation.views) > 1:
        content |= dataclasses.asdict(evaluation.views)
    confusions = compute_confusions(evaluation.predictions, evaluation.tasks)
    content |= {name: matrix.tolist() for name, matrix in confusions.items()}
    path = evaluation.workdir / f"evaluation_{evaluation.name}.json"
    try:
        write_atomically(path, json.dumps(content))
    except OSError as error:
        _log.warning("%s cannot be written (%s)", path, error.strerror)


def _describe(member: Evaluation) -> dict[str, Any]:
    return {"workdir": str(member.workdir), "step": member.metrics["step"], **dataclasses.asdict(member.views)}


def compute_metrics(predictions: Predictions, tasks: Sequence[Task]) -> dict[str, float]:
    """Returns the metrics of predictions, as shares of 1."""
    return tasks_lib.compute_metrics(tasks, predictions.outputs, predictions.targets)


def compute_confusions(predictions: Predictions, tasks: Sequence[Task]) -> dict[str, Int[np.ndarray, "_ _"]]:
    """Returns the confusion matrices, true class by most probable one: `confusion`, `emotion_confusion`."""
    return {
        name: matrix
        for task in tasks
        for name, matrix in task.confusion(predictions.outputs, predictions.targets).items()
    }


def bootstrap(
    predictions: Predictions, tasks: Sequence[Task], *, num_samples: int = 1000, show_progress: bool = False
) -> dict[str, tuple[float, float]]:
    """Returns the 95 % intervals of the metrics: percentiles over samples of the clips, drawn with replacement.

    They show how far a metric depends on which clips were taken, as if these were independent of each other: clips of
    one person are not quite.

    Args:
      predictions: of a split.
      tasks: of the model; a threshold of None chooses one for each sample.
      num_samples: how many samples are drawn, the same in every call.
      show_progress: whether to show a progress bar.

    Returns:
      The lower and upper bound of each metric; NaN where it is not a number in any sample.
    """
    rng, samples = np.random.default_rng(0), []
    bar = tqdm.trange(
        num_samples, desc="bootstrap", unit="sample", leave=False, dynamic_ncols=True, disable=not show_progress
    )
    for _ in bar:
        rows = rng.integers(len(predictions), size=len(predictions))
        samples.append(compute_metrics(predictions[rows], tasks))
    intervals = {}
    for name in samples[0]:
        values = np.array([sample[name] for sample in samples])
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, (2.5, 97.5)) if len(values) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def table_rows(values: dict[str, float | int]) -> list[str]:
    """The names of the metrics in the order of a table."""
    known = (*metrics.RECOGNITION_NAMES, *metrics.MULTILABEL_NAMES, *metrics.EMOTION_NAMES)
    rows = [name for name in known if name in values]
    return rows + [name for name in values if name.startswith(("map_", "f1_")) and name not in rows]


def format_metric(name: str, values: dict[str, float | int]) -> str:
    """A metric in percent, a threshold as it is; "-" where there is none of the name."""
    return f"{(1 if name == 'threshold' else 100) * values[name]:.2f}" if name in values else "-"


def format_table(columns: dict[str, dict[str, float | int]]) -> str:
    """A table of the metrics: a row each, a column for each of `columns`."""
    width = max(12, *(len(title) + 2 for title in columns))
    rows = table_rows({name: x for values in columns.values() for name, x in values.items()})
    indent = max(18, *(len(name) + 2 for name in rows))
    lines = [" " * indent + "".join(f"{title:>{width}}" for title in columns)]
    for name in rows:
        cells = [format_metric(name, values) for values in columns.values()]
        lines.append(f"{name:{indent}}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)
