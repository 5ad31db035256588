"""The files of the micro-action challenge: a zip with one `prediction.csv`."""

import collections
import csv
import io
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from manet_jax.evaluate import Evaluation
from tfds_ma52.errors import UserError, report
from tfds_ma52.files import write_atomically, zipped

_RANKS = {"current": 5, "2024": 1}  # actions a clip
_COLUMNS = {
    "current": ["vid", *(f"action_pred_{i}" for i in range(1, 6)), *(f"body_pred_{i}" for i in range(1, 6))],
    "2024": ["id", "pred_label_1", "pred_label_2"],
}


def write(evaluation: Evaluation, path: str | pathlib.Path, form: str = "current") -> None:
    """Writes the predictions of an evaluation, whose labels may be hidden.

    Args:
      evaluation: of a model of one action a clip.
      path: of the zip file.
      form: "current", the clip's name, five ranked actions and their body groups; or "2024", the clip's name, the most
        probable action's body group, and the action.

    Raises:
      UserError: the model predicts several actions or none, or fewer than are ranked; the predictions are not exactly
        those of the split's list; or the file cannot be written. A file that was there stays as it is then.
    """
    path = pathlib.Path(path).expanduser()
    logits = evaluation.predictions.outputs.get("logits")
    if logits is None or not evaluation.tasks[0].exclusive:
        raise UserError(f"--submission is for one action a clip; the model in {evaluation.workdir} is for others")
    if logits.shape[1] < _RANKS[form]:
        raise UserError(f"--submission ranks {_RANKS[form]} actions, but the data have {logits.shape[1]}")
    actions = np.argsort(-logits, axis=1, kind="stable")[:, : _RANKS[form]]
    check(evaluation.video_ids, actions, evaluation.dataset.listed_ids(evaluation.split))
    groups = np.array(evaluation.metadata.labels.groups)[actions]
    columns = np.concatenate([actions, groups] if form == "current" else [groups, actions], axis=1)
    table = io.StringIO()
    rows = [[name, *row] for name, row in zip(evaluation.video_ids, columns.tolist(), strict=True)]
    csv.writer(table, lineterminator="\n").writerows([_COLUMNS[form], *rows])
    try:
        write_atomically(path, zipped("prediction.csv", table.getvalue()))
    except OSError as error:
        raise UserError(f"--submission: {path} cannot be written ({error.strerror})") from error


def check(names: Sequence[str], actions: Int[np.ndarray, "b k"], listed: Sequence[str]) -> None:
    """Checks ranked actions against the list of a split.

    Args:
      names: of the predicted clips.
      actions: ranked for each of them, best first.
      listed: the clips of the split's list.

    Raises:
      UserError: a clip is missing, foreign or repeated, or an action is ranked twice; all of those are reported.
    """
    counts = collections.Counter(names)
    problems = [f"{name} is in the list, but has no prediction" for name in listed if name not in counts]
    problems += [f"{name} has a prediction, but is not in the list" for name in counts.keys() - set(listed)]
    problems += [f"{name} has {count} predictions" for name, count in counts.items() if count > 1]
    problems += [
        f"{name} has an action twice among {row}"
        for name, row in zip(names, actions.tolist(), strict=True)
        if len(set(row)) < len(row)
    ]
    if problems:
        raise UserError(report("the submission is not written", problems))
