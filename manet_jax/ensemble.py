"""Ensembles: the mean probabilities of several models, of any networks and clip specifications.

Each model sees a video in its own frames, crops and views. The rule of the mean is `tasks.average_models`.
"""

import dataclasses
import functools
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from manet_jax import checkpoint as checkpoint_lib
from manet_jax import evaluate, inference
from manet_jax import tasks as tasks_lib
from manet_jax.configuration import Configuration
from manet_jax.data.dataset import Dataset
from manet_jax.evaluate import Evaluation, Predictions
from manet_jax.inference import Prediction
from manet_jax.loaded_model import LoadedModel, load_model
from manet_jax.run_metadata import RunMetadata
from manet_jax.tasks import Task
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet, same_classes

_LONGEST_SUFFIX = 100  # characters; a file's name has at most 255 bytes

Paths = Sequence[str | os.PathLike]
Weights = Sequence[float | int]


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Several trained models, whose probabilities are averaged.

    Attributes:
      members: the models.
      weights: of each; their sum is 1.
    """

    members: tuple[LoadedModel, ...]
    weights: tuple[float, ...]

    @property
    def labels(self) -> LabelSet:
        """The classes of all members, and their body groups."""
        return self.members[0].labels

    @functools.cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Its tasks: of actions, of emotions, or both, as its members have them."""
        return _tasks([member.metadata for member in self.members], self.weights)

    @property
    def emotions(self) -> tuple[str, ...]:
        """Names of its emotions; empty where it recognises none."""
        return next((task.labels.names for task in self.tasks if task.name == "emotions"), ())

    def predict(self, videos: str | os.PathLike | Paths, **options: Any) -> list[Prediction]:
        """Predicts the actions and emotions in a video file or in several, see `LoadedModel.predict`."""
        several = [videos] if isinstance(videos, str | os.PathLike) else list(videos)
        return list(inference.predict(self, several, **options))


def load_ensemble(workdirs: Paths, checkpoint: str = "best", *, weights: Weights | None = None) -> Ensemble:
    """Loads the models that were trained in several workdirs.

    Args:
      workdirs: of the runs, or of converted weights.
      checkpoint: "best" (by each run's primary metric on its evaluation split) or "latest", of all.
      weights: of each model in the mean, of any positive sum; None weighs all alike.

    Raises:
      UserError: there is no such checkpoint, the models have other classes, or the weights do not fit.
    """
    paths = _check_workdirs(workdirs)
    shares = _normalize(weights, len(paths))
    members = tuple(load_model(path, checkpoint) for path in paths)
    _check_models(paths, [member.metadata for member in members])
    return Ensemble(members, shares)


def evaluate_ensemble(
    workdirs: Paths,
    checkpoint: str = "best",
    *,
    weights: Weights | None = None,
    config: ml_collections.ConfigDict | None = None,
    need_labels: bool = True,
) -> Evaluation:
    """Evaluates several models one after the other, and the mean of their probabilities.

    Each member's metrics are written as `evaluate_checkpoint` does, those of the ensemble in the first workdir, as
    `evaluation_<split>_<checkpoint>_with_<others>.json`.

    Args:
      workdirs: of the runs.
      checkpoint: "best" or "latest", of all.
      weights: of each model in the mean, of any positive sum; None weighs all alike.
      config: see `evaluate_checkpoint`; the same for all. None takes location, split and views from each checkpoint.
      need_labels: see `evaluate_checkpoint`.

    Returns:
      The mean predictions and their metrics, with those of the `members`. The threshold of several labels is the
      weighted mean of the members' ones.

    Raises:
      UserError: there is no checkpoint, the models have other classes, the data are missing or have other clips for
        another member, or the weights do not fit.
    """
    paths = _check_workdirs(workdirs)
    _normalize(weights, len(paths))
    # All that can be wrong is found before the first model is evaluated, which may take hours.
    metadata = [checkpoint_lib.read_metadata(path, checkpoint) for path in paths]
    _check_models(paths, metadata)
    pairs = zip(paths, metadata, strict=True)
    _check_clips([evaluate.open_data(path, each, config, need_labels=need_labels) for path, each in pairs])
    members = [evaluate.evaluate_checkpoint(path, checkpoint, config=config, need_labels=need_labels) for path in paths]
    evaluation = average(members, weights)
    evaluate.write(evaluation)
    return evaluation


def average(members: Sequence[Evaluation], weights: Weights | None = None) -> Evaluation:
    """The evaluation of an ensemble, given those of its members on the same clips; nothing is written.

    Args:
      members: from `evaluate_checkpoint`.
      weights: see `evaluate_ensemble`.

    Raises:
      UserError: the clips differ, or the weights do not fit.
    """
    shares = _normalize(weights, len(members))
    first = members[0]
    targets = first.predictions.targets
    for each in members[1:]:
        others = each.predictions.targets
        if others.keys() != targets.keys() or not all(np.array_equal(others[name], targets[name]) for name in targets):
            raise _other_clips(first.dataset.location, first.split, each.dataset.location, each.split)
    tasks = _tasks([each.metadata for each in members], shares, _threshold(members, shares))
    outputs = tasks_lib.average_models(tasks, [each.predictions.outputs for each in members], shares)
    predictions = Predictions(outputs, targets)
    return dataclasses.replace(
        first,
        predictions=predictions,
        metrics={} if first.hidden else evaluate.compute_metrics(predictions, tasks),
        tasks=tasks,
        members=tuple(members),
        weights=shares,
        suffix=suffix([each.workdir for each in members]),
    )


def suffix(workdirs: Paths) -> str:
    """What names an ensemble's files in its first workdir: `_with_`, and the others as seen from beside the first."""
    first, *others = (pathlib.Path(path).expanduser().absolute() for path in workdirs)
    names = []
    for other in others:
        parts = pathlib.Path(os.path.relpath(other, first.parent)).parts
        names.append("_".join(part for part in parts if part != os.pardir) or other.name)
    joined = "_".join(names)
    if len(joined) > _LONGEST_SUFFIX:
        joined = f"{len(others)}_others_{zlib.crc32(joined.encode()):08x}"
    return f"_with_{joined}"


def parse_weights(text: str) -> list[float]:
    """Parses numbers with commas between.

    Raises:
      UserError: they are no numbers.
    """
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"weights is {text}; give numbers with commas between, such as 2,1", "weights") from None


def _check_workdirs(workdirs: Paths) -> list[pathlib.Path]:
    """The paths of the models of an ensemble."""
    paths = [pathlib.Path(path).expanduser() for path in workdirs]
    if len(paths) < 2:
        raise UserError("an ensemble has two models or more, but there is one workdir: give the others, or no weights")
    resolved = [path.resolve() for path in paths]
    twice = [str(path) for i, path in enumerate(paths) if resolved[i] in resolved[:i]]
    if twice:
        raise UserError(f"workdir {twice[0]} is given twice: give it once, with a larger weight ({{flag}})", "weights")
    return paths


def _normalize(weights: Weights | None, count: int) -> tuple[float, ...]:
    """The shares of so many models in the mean."""
    given = np.ones(count) if weights is None else np.array(weights, np.float64)
    if len(given) != count or not np.isfinite(given).all() or (given < 0).any() or not given.any():
        listed = ",".join(f"{weight:g}" for weight in given)
        raise UserError(
            f"weights is {listed}; give {count} numbers, one for each workdir, of at least 0 and not all 0", "weights"
        )
    return tuple((given / given.sum()).tolist())


def _check_models(workdirs: Sequence[pathlib.Path], metadata: Sequence[RunMetadata]) -> None:
    """Checks that models can be averaged: that their probabilities are of the same things."""
    with_emotions = [i for i, each in enumerate(metadata) if "emotion" in each.model.options.outputs]
    for i, each in enumerate(metadata):
        both = f"the models in {workdirs[0]} and {workdirs[i]}"
        if not same_classes(each.labels, metadata[0].labels):
            raise UserError(f"{both} have other classes: give models that were trained for the same ones")
        if each.multilabel != metadata[0].multilabel:
            raise UserError(f"{both} predict one action a clip and several: give models of the same kind")
    for i in with_emotions[1:]:
        if metadata[i].emotions != metadata[with_emotions[0]].emotions:
            both = f"the models in {workdirs[with_emotions[0]]} and {workdirs[i]}"
            raise UserError(f"{both} have other emotions: give models that were trained for the same ones")


def _check_clips(opened: Sequence[tuple[Configuration, Dataset]]) -> None:
    """Checks that all models are to be evaluated on the same clips."""
    splits = {(dataset.location, config.eval.split): dataset for config, dataset in opened}
    if len(splits) == 1:
        return
    listed = [(location, split, dataset.video_ids(split)) for (location, split), dataset in splits.items()]
    for location, split, names in listed[1:]:
        if names != listed[0][2]:
            raise _other_clips(*listed[0][:2], location, split)


def _other_clips(location: str, split: str, other_location: str, other_split: str) -> UserError:
    return UserError(
        f"split {split!r} of {location} and split {other_split!r} of {other_location} have other clips or labels: "
        "evaluate all models on the same data with --config FILE, --config.data.manual_dir=DIR and --config.eval.split"
    )


def _threshold(members: Sequence[Evaluation], weights: Sequence[float]) -> float | None:
    """The weighted mean of the members' thresholds; None where they have none.

    Unlike the best one for the clips at hand it is not chosen by their labels, and an ensemble of equal models has
    theirs.
    """
    pairs = zip(members, weights, strict=True)
    known = [(each.metrics["threshold"], weight) for each, weight in pairs if weight and "threshold" in each.metrics]
    total = sum(weight for _, weight in known)
    return sum(threshold * weight for threshold, weight in known) / total if known else None


def _tasks(
    metadata: Sequence[RunMetadata], weights: Sequence[float], threshold: float | None = None
) -> tuple[Task, ...]:
    """The tasks of the models that have a weight."""
    pairs = zip(metadata, weights, strict=True)
    found = {task.name: task for each, weight in pairs if weight for task in each.tasks(threshold)}
    return tuple(found[name] for name in ("actions", "emotions") if name in found)
