"""The tasks that a model is trained and judged by: one action a clip, several actions, an emotion.

A task knows its loss, its probabilities and decisions, its metrics, and which of those chooses the best checkpoint. A
run has a task of actions, one of emotions, or both; `create_tasks` decides which, and nothing else asks.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # its modules are imported where they are used first, which takes longer than all of this package
from jaxtyping import Array, Bool, Float, Int, Num

from manet_jax import losses, metrics
from manet_jax.long_tail import NO_LONG_TAIL, LongTail
from manet_jax.models import ModelSpec, Outputs
from manet_jax.models.outputs import present
from tfds_ma52.labels import LabelSet

# A model's outputs and the clips' targets, by name, on the host.
Arrays = dict[str, Num[np.ndarray, "..."]]
Loss = tuple[Float[Array, ""], dict[str, Float[Array, ""]]]


@dataclasses.dataclass(frozen=True)
class JointEmbedding:
    """The joint-embedding loss of a task of actions.

    Attributes:
      vectors: of the labels, the targets.
      weight: of the loss beside that of the logits (50 in the release).
    """

    vectors: Float[np.ndarray, "n e"]
    weight: float


@dataclasses.dataclass(frozen=True)
class SingleLabel:
    """One action a clip: a softmax over the classes.

    Attributes:
      labels: the classes and their body groups.
      joint_embedding: its loss; None where the model has no such head, or is not trained.
      label_smoothing: see `losses.cross_entropy`.
      long_tail: what the loss does about rare classes and body groups.
    """

    labels: LabelSet
    joint_embedding: JointEmbedding | None = None
    label_smoothing: float = 0.0
    long_tail: LongTail = NO_LONG_TAIL

    name: ClassVar[str] = "actions"
    output: ClassVar[str] = "logits"
    primary_metric: ClassVar[str] = "f1_mean"
    summary: ClassVar[tuple[str, ...]] = ("action_top1", "action_top5", "f1_mean")
    exclusive: ClassVar[bool] = True  # a clip has one class

    def loss(self, outputs: Outputs, batch: dict[str, Array]) -> Loss:
        """Returns the loss of a batch, its terms, and the share of clips whose class is predicted."""
        logits, label = present(outputs.logits), batch["label"]
        groups = self.labels.groups
        total = self.long_tail.cross_entropy(logits, label, self.label_smoothing, groups).mean()
        parts = {"cross_entropy": total, "action_top1": (logits.argmax(-1) == label).mean()}
        if self.joint_embedding is not None:
            target = jnp.asarray(self.joint_embedding.vectors)[label]
            parts["joint_embedding"] = losses.joint_embedding(present(outputs.embedding), target).mean()
            total += self.joint_embedding.weight * parts["joint_embedding"]
        target = jax.nn.one_hot(label, logits.shape[-1])
        return _add(total, parts, self.long_tail.terms(outputs, target, groups, exclusive=True))

    def probabilities(self, logits: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b n"]:
        """Returns the probability of each class, float64."""
        return _softmax(logits)

    def mean_over_views(
        self, logits: Float[np.ndarray, "b v n"], weights: Float[np.ndarray, " v"] | None = None
    ) -> Float[np.ndarray, "b n"]:
        """Returns the logits, float64, whose probabilities are the mean of those of the views."""
        return _log_mean(scipy.special.log_softmax(logits.astype(np.float64), axis=-1), weights)

    def decide(self, probabilities: Float[np.ndarray, "b n"]) -> Bool[np.ndarray, "b n"]:
        """Returns the predicted classes."""
        return one_hot(probabilities.argmax(1), probabilities.shape[1])

    def rows(self, targets: Arrays) -> Int[np.ndarray, " b"]:
        """Returns the clips whose target is known."""
        return np.flatnonzero(targets["label"] >= 0)

    def target(self, targets: Arrays) -> Bool[np.ndarray, "b n"]:
        """Returns the true classes; none for a clip whose target is unknown."""
        return one_hot(targets["label"], len(self.labels.names))

    def compute_metrics(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Returns the published metrics, the mean class accuracy and the cross-entropy."""
        logits, label = outputs["logits"].astype(np.float64), targets["label"]
        ranked = np.argsort(-logits, axis=1, kind="stable")
        top5 = (ranked[:, :5] == label[:, None]).any(1).sum()
        confusion = metrics.confusion_matrix(label, ranked[:, 0], logits.shape[1])
        values = metrics.recognition_metrics(confusion, top5, np.array(self.labels.groups))
        values["mean_class_accuracy"] = metrics.mean_class_accuracy(confusion)
        return values | {"cross_entropy": metrics.cross_entropy(logits, label)}

    def confusion(self, outputs: Arrays, targets: Arrays) -> dict[str, Int[np.ndarray, "n n"]]:
        """Returns the number of clips by true class (row) and most probable one (column), as `confusion`."""
        predicted = outputs["logits"].argmax(1)
        return {"confusion": metrics.confusion_matrix(targets["label"], predicted, len(self.labels.names))}


@dataclasses.dataclass(frozen=True)
class MultiLabel:
    """Several actions a clip: a sigmoid for each class.

    Attributes:
      labels: the classes and their body groups.
      threshold: of the probability from which a class is predicted; None chooses the best one for the clips at hand.
      loss_name: one of `losses.MULTILABEL`.
      positive_weights: see `losses.binary_cross_entropy`.
      joint_embedding: its loss; None where the model has no such head, or is not trained.
      long_tail: what the loss does about rare classes and body groups, as far as that is for several classes a clip.
    """

    labels: LabelSet
    threshold: float | None = None
    loss_name: str = "plain"
    positive_weights: Float[np.ndarray, " n"] | None = None
    joint_embedding: JointEmbedding | None = None
    long_tail: LongTail = NO_LONG_TAIL

    name: ClassVar[str] = "actions"
    output: ClassVar[str] = "logits"
    primary_metric: ClassVar[str] = "map"
    summary: ClassVar[tuple[str, ...]] = ("map", "f1_macro", "f1_micro")
    exclusive: ClassVar[bool] = False

    def loss(self, outputs: Outputs, batch: dict[str, Array]) -> Loss:
        """Returns the loss of a batch and its terms; a clip without a label has no part in the joint embedding.

        It counts there as 0, so that every clip weighs the same in every batch.
        """
        labels = batch["labels"]
        total = losses.multilabel(self.loss_name, present(outputs.logits), labels, self.positive_weights).mean()
        parts = {"multilabel": total}
        if self.joint_embedding is not None:
            target = losses.mean_label_vectors(labels, jnp.asarray(self.joint_embedding.vectors))
            distance = losses.joint_embedding(present(outputs.embedding), target)
            parts["joint_embedding"] = jnp.where(labels.any(-1), distance, 0).mean()
            total += self.joint_embedding.weight * parts["joint_embedding"]
        return _add(total, parts, self.long_tail.terms(outputs, labels, self.labels.groups, exclusive=False))

    def probabilities(self, logits: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b n"]:
        """Returns the probability of each class, float64."""
        return scipy.special.expit(logits.astype(np.float64))

    def mean_over_views(
        self, logits: Float[np.ndarray, "b v n"], weights: Float[np.ndarray, " v"] | None = None
    ) -> Float[np.ndarray, "b n"]:
        """Returns the logits, float64, whose probabilities are the mean of those of the views."""
        values = logits.astype(np.float64)
        log_present, log_absent = (_log_mean(scipy.special.log_expit(x), weights) for x in (values, -values))
        return log_present - log_absent

    def decide(self, probabilities: Float[np.ndarray, "b n"]) -> Bool[np.ndarray, "b n"]:
        """Returns the predicted classes.

        Raises:
          ValueError: there is no threshold.
        """
        if self.threshold is None:
            raise ValueError("several classes a clip are decided on by a threshold, but there is none")
        return probabilities >= self.threshold

    def rows(self, targets: Arrays) -> Int[np.ndarray, " b"]:
        """Returns the clips whose target is known: all of a split with public labels."""
        return np.arange(len(targets["labels"]))

    def target(self, targets: Arrays) -> Bool[np.ndarray, "b n"]:
        """Returns the true classes."""
        return targets["labels"] > 0

    def compute_metrics(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Returns the metrics of `metrics.multilabel_metrics` and the cross-entropy."""
        logits, labels = outputs["logits"].astype(np.float64), targets["labels"]
        groups, names = np.array(self.labels.groups), self.labels.group_names
        values = metrics.multilabel_metrics(self.probabilities(logits), labels, groups, names, self.threshold)
        return values | {"cross_entropy": metrics.binary_cross_entropy(logits, labels)}

    def confusion(self, outputs: Arrays, targets: Arrays) -> dict[str, Int[np.ndarray, "n n"]]:
        """Returns nothing: with several classes a clip there is no confusion matrix."""
        return {}


@dataclasses.dataclass(frozen=True)
class Emotion:
    """An emotion a clip: a softmax over the emotions, for the clips whose emotion is known.

    Attributes:
      labels: the emotions, each a group of its own.
      weight: of the loss beside that of the actions.
      label_smoothing: see `losses.cross_entropy`.
    """

    labels: LabelSet
    weight: float = 1.0
    label_smoothing: float = 0.0

    name: ClassVar[str] = "emotions"
    output: ClassVar[str] = "emotion"
    primary_metric: ClassVar[str] = "emotion_f1_macro"
    summary: ClassVar[tuple[str, ...]] = metrics.EMOTION_NAMES
    exclusive: ClassVar[bool] = True

    def loss(self, outputs: Outputs, batch: dict[str, Array]) -> Loss:
        """Returns the weighted loss of a batch, its term, and the share of clips whose emotion is predicted.

        A clip without an emotion counts as 0, so that every clip weighs the same in every batch.
        """
        logits, emotion = present(outputs.emotion), batch["emotion"]
        cross_entropy = losses.cross_entropy(logits, jnp.maximum(emotion, 0), self.label_smoothing)
        cross_entropy = jnp.where(emotion >= 0, cross_entropy, 0).mean()
        accuracy = (logits.argmax(-1) == emotion).mean()
        return self.weight * cross_entropy, {"emotion_cross_entropy": cross_entropy, "emotion_accuracy": accuracy}

    def probabilities(self, logits: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b n"]:
        """Returns the probability of each emotion, float64."""
        return _softmax(logits)

    def mean_over_views(
        self, logits: Float[np.ndarray, "b v n"], weights: Float[np.ndarray, " v"] | None = None
    ) -> Float[np.ndarray, "b n"]:
        """Returns the logits, float64, whose probabilities are the mean of those of the views."""
        return _log_mean(scipy.special.log_softmax(logits.astype(np.float64), axis=-1), weights)

    def decide(self, probabilities: Float[np.ndarray, "b n"]) -> Bool[np.ndarray, "b n"]:
        """Returns the predicted emotions."""
        return one_hot(probabilities.argmax(1), probabilities.shape[1])

    def rows(self, targets: Arrays) -> Int[np.ndarray, " b"]:
        """Returns the clips whose emotion is known."""
        return np.flatnonzero(targets["emotion"] >= 0)

    def target(self, targets: Arrays) -> Bool[np.ndarray, "b n"]:
        """Returns the true emotions; none for a clip whose emotion is unknown."""
        return one_hot(targets["emotion"], len(self.labels.names))

    def compute_metrics(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Returns accuracy, macro F1 and cross-entropy."""
        rows = self.rows(targets)
        values = metrics.emotion_metrics(self.confusion(outputs, targets)["emotion_confusion"])
        logits = outputs["emotion"][rows].astype(np.float64)
        return values | {"emotion_cross_entropy": metrics.cross_entropy(logits, targets["emotion"][rows])}

    def confusion(self, outputs: Arrays, targets: Arrays) -> dict[str, Int[np.ndarray, "n n"]]:
        """Returns the number of clips by true emotion (row) and most probable one (column), as `emotion_confusion`."""
        rows = self.rows(targets)
        target, predicted = targets["emotion"][rows], outputs["emotion"][rows].argmax(1)
        return {"emotion_confusion": metrics.confusion_matrix(target, predicted, len(self.labels.names))}


Task = SingleLabel | MultiLabel | Emotion


def create_tasks(
    spec: ModelSpec,
    labels: LabelSet,
    emotions: Sequence[str],
    *,
    multilabel: bool,
    threshold: float | None = None,
    loss_name: str = "plain",
    positive_weights: Float[np.ndarray, " n"] | None = None,
    joint_embedding: JointEmbedding | None = None,
    emotion_weight: float = 1.0,
    label_smoothing: float = 0.0,
    long_tail: LongTail = NO_LONG_TAIL,
) -> tuple[Task, ...]:
    """Returns the tasks of a model: of actions if it has logits, of emotions if it has those.

    Args:
      spec: the model.
      labels: its classes.
      emotions: the names of its emotions.
      multilabel: whether clips have several labels.
      threshold: see `MultiLabel`.
      loss_name: see `MultiLabel`.
      positive_weights: see `MultiLabel`.
      joint_embedding: its loss, in training.
      emotion_weight: see `Emotion`.
      label_smoothing: of every task of one class a clip.
      long_tail: of the task of actions, in training.
    """
    tasks: list[Task] = []
    if "logits" in spec.options.outputs and multilabel:
        tasks.append(MultiLabel(labels, threshold, loss_name, positive_weights, joint_embedding, long_tail))
    elif "logits" in spec.options.outputs:
        tasks.append(SingleLabel(labels, joint_embedding, label_smoothing, long_tail))
    if "emotion" in spec.options.outputs:
        names = tuple(emotions)
        tasks.append(Emotion(LabelSet(names, names, tuple(range(len(names)))), emotion_weight, label_smoothing))
    return tuple(tasks)


def total_loss(tasks: Sequence[Task], outputs: Outputs, batch: dict[str, Array]) -> Loss:
    """Returns the sum of the tasks' losses, the mean over a batch, and it as `loss` with their terms and accuracies."""
    total, parts = jnp.float32(0), {}
    for task in tasks:
        loss, terms = task.loss(outputs, batch)
        total, parts = total + loss, parts | terms
    return total, {"loss": total, **parts}


def compute_metrics(tasks: Sequence[Task], outputs: Arrays, targets: Arrays) -> dict[str, float]:
    """Returns the metrics of all tasks, as shares of 1."""
    return {name: x for task in tasks for name, x in task.compute_metrics(outputs, targets).items()}


def average_views(tasks: Sequence[Task], outputs: Arrays, weights: Float[np.ndarray, " v"] | None = None) -> Arrays:
    """Averages outputs over test-time views, [b, v, ...] -> [b, ...]: the one rule for all that shows predictions.

    A task's probabilities are averaged, and its logits become those of the mean probabilities: the logarithm for a
    softmax, the log odds for a sigmoid. All else, such as the embedding, is averaged itself. A single view stays as it
    is, bit for bit.

    Args:
      tasks: of the model.
      outputs: of all views.
      weights: of the views, of any positive sum; None weighs all alike.
    """
    if next(iter(outputs.values())).shape[1] == 1:
        return {name: values[:, 0] for name, values in outputs.items()}
    of_tasks = {task.output: task for task in tasks}
    return {
        name: of_tasks[name].mean_over_views(values, weights)
        if name in of_tasks
        else np.average(values.astype(np.float64), axis=1, weights=weights)
        for name, values in outputs.items()
    }


def average_models(tasks: Sequence[Task], outputs: Sequence[Arrays], weights: Sequence[float | int]) -> Arrays:
    """Averages the outputs of several models for the same clips by the rule of `average_views`.

    Args:
      tasks: of any of the models; each is averaged over the models that have its output. All else, such as the
        embedding, means something else in each network and is left out.
      outputs: of each model, [b, ...].
      weights: of each model; their sum over the models that have an output must be positive.
    """
    averaged: Arrays = {}
    for task in tasks:
        having = [i for i, each in enumerate(outputs) if task.output in each]
        stacked = np.stack([outputs[i][task.output] for i in having], axis=1)
        averaged |= average_views([task], {task.output: stacked}, np.array([weights[i] for i in having], np.float64))
    return averaged


def primary_metric(tasks: Sequence[Task]) -> str:
    """The metric that chooses the best checkpoint: that of the last task, the emotions where there are any."""
    return tasks[-1].primary_metric


def format_summary(tasks: Sequence[Task], values: dict[str, float]) -> str:
    """The main metrics in one line, in percent, and the cross-entropies."""
    shares = [f"{name} {100 * values[name]:.2f}" for task in tasks for name in task.summary]
    nats = [f"{name} {values[name]:.3f}" for name in ("cross_entropy", "emotion_cross_entropy") if name in values]
    return ", ".join(shares + nats).replace("_", " ")


def _add(
    total: Float[Array, ""],
    parts: dict[str, Float[Array, ""]],
    terms: dict[str, tuple[float, Float[Array, ""]]],
) -> Loss:
    """Adds further terms, each with its weight, to a loss and to its parts."""
    for weight, value in terms.values():
        total += weight * value
    return total, parts | {name: value for name, (_, value) in terms.items()}


def _log_mean(
    logarithms: Float[np.ndarray, "b v n"], weights: Float[np.ndarray, " v"] | None = None
) -> Float[np.ndarray, "b n"]:
    """The logarithm of the mean over views."""
    shares = np.ones(logarithms.shape[1]) if weights is None else weights
    return scipy.special.logsumexp(logarithms, axis=1, b=shares[:, None]) - np.log(shares.sum())


def _softmax(logits: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b n"]:
    return scipy.special.softmax(logits.astype(np.float64), axis=1)


def one_hot(label: Int[np.ndarray, " b"], count: int) -> Bool[np.ndarray, "b n"]:
    """True at each clip's class; nowhere for a class of -1."""
    return np.arange(count) == label[:, None]
