"""An evaluation arranged by task: targets, predictions and probabilities of its clips."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from manet_jax import metrics
from manet_jax.evaluate import Evaluation
from manet_jax.tasks import Task
from tfds_ma52.labels import LabelSet


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """The predictions of a task, with their targets.

    Attributes:
      task: of actions or emotions.
      rows: the clips of the evaluation whose target is known.
      probabilities: of each class for each of these clips.
      target: the true classes.
      predicted: the predicted ones: the most probable one, or all from the threshold on.
      counts: training clips of each class.
    """

    task: Task
    rows: Int[np.ndarray, " b"]
    probabilities: Float[np.ndarray, "b n"]
    target: Bool[np.ndarray, "b n"]
    predicted: Bool[np.ndarray, "b n"]
    counts: Int[np.ndarray, " n"]

    @property
    def labels(self) -> LabelSet:
        """The classes; each emotion is a group of its own."""
        return self.task.labels

    def confusion(self) -> Int[np.ndarray, "n n"]:
        """Clips by true class (row) and predicted one (column), where a clip has one class."""
        return metrics.confusion_matrix(self.target.argmax(1), self.predicted.argmax(1), len(self.labels.names))

    def f1(self) -> Float[np.ndarray, " n"]:
        """F1 of each class; NaN for one that occurs neither as target nor as prediction."""
        return metrics.label_f1(self.predicted, self.target)

    def correct(self) -> Bool[np.ndarray, " b"]:
        """Whether a true class of each clip is among the predicted ones."""
        return np.any(self.predicted & self.target, axis=1)

    def confidence(self) -> tuple[Float[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
        """The probabilities of the decisions, and whether they were correct.

        A decision is the most probable class of a clip; with several classes a clip, each class of each clip.
        """
        if self.task.exclusive:
            return self.probabilities.max(1), self.correct()
        return self.probabilities.ravel(), self.target.ravel()

    def confused_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """The most frequent pairs of a true class that was missed and one predicted instead, with their clips."""
        missed, wrong = self.target & ~self.predicted, self.predicted & ~self.target
        pairs = missed.T.astype(np.int64) @ wrong.astype(np.int64)
        best = np.argsort(-pairs, axis=None, kind="stable")[:count]
        found = [(*divmod(int(i), len(pairs)), int(pairs.flat[i])) for i in best]
        return [pair for pair in found if pair[2]]

    def best_examples(self, wanted: Bool[np.ndarray, "b n"], count: int) -> list[tuple[int, int]]:
        """Of the wanted clips and classes the most probable ones, as (index into `rows`, class); each once."""
        found: list[tuple[int, int]] = []
        scores = np.where(wanted, self.probabilities, -1)
        for i in np.argsort(-scores, axis=None, kind="stable")[: int(wanted.sum())]:
            clip, label = divmod(int(i), wanted.shape[1])
            if all(clip != other_clip and label != other for other_clip, other in found):
                found.append((clip, label))
            if len(found) == count:
                break
        return found


def task_results(evaluation: Evaluation, *, unknown: bool = False) -> list[TaskResult]:
    """The results of an evaluation with public labels: of actions, emotions, or both.

    Args:
      evaluation: of a checkpoint.
      unknown: whether clips whose target is unknown are kept, without a true class.
    """
    found = []
    for task in evaluation.tasks:
        outputs, targets = evaluation.predictions.outputs, evaluation.predictions.targets
        rows = np.arange(len(evaluation.predictions)) if unknown else task.rows(targets)
        probabilities = task.probabilities(outputs[task.output])[rows]
        name = {"actions": "label_counts", "emotions": "emotion_counts"}[task.name]
        listed = evaluation.metadata.data.get("training counts")  # of a run on a list of clips
        counts = evaluation.dataset.training_counts(evaluation.metadata.train_splits, name)
        counts = counts if listed is None else np.array(listed)
        target = task.target(targets)[rows]
        found.append(TaskResult(task, rows, probabilities, target, task.decide(probabilities), counts))
    return found
