"""The report of an evaluation: one HTML file that needs nothing else, its figures as PNG, its predictions as CSV."""

import base64
import csv
import dataclasses
import html
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.figure import Figure

from manet_jax import checkpoint as checkpoint_lib
from manet_jax import evaluate, inference, metrics, preprocess, visualize
from manet_jax.evaluate import Evaluation
from manet_jax.label_embeddings import load_label_vectors
from tfds_ma52.errors import UserError
from tfds_ma52.labels import Labels

_PAIRS, _EXAMPLES = 6, 3  # most confused pairs; right and wrong clips with activation maps
_DPI = 100
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1250px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc } img { max-width: 100%; display: block }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .15em .8em; text-align: left }
td + td, th + th { text-align: right }
tr:nth-child(even) td { background: #f4f4f4 } th { border-bottom: 1px solid #999 }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto; font-size: 12px }
p { max-width: 50em } summary { cursor: pointer; font-weight: bold; margin: 1em 0 }
"""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a model tells of clips, actions or emotions, with what is true of them.

    Attributes:
      name: "actions" or "emotions".
      labels: the classes; each emotion is a group of its own.
      rows: the clips of the evaluation that this is known of.
      probabilities: of each class for each of these clips.
      shown: the true classes.
      predicted: those that the model tells: the most probable one, or all from the threshold on.
      counts: training clips of each class.
      one_each: whether a clip has one class.
    """

    name: str
    labels: Labels
    rows: Int[np.ndarray, " b"]
    probabilities: Float[np.ndarray, "b n"]
    shown: Bool[np.ndarray, "b n"]
    predicted: Bool[np.ndarray, "b n"]
    counts: Int[np.ndarray, " n"]
    one_each: bool

    def confusion(self) -> Int[np.ndarray, "n n"]:
        """Clips by true class (row) and the one told (column), where a clip has one class."""
        return metrics.confusion_matrix(self.shown.argmax(1), self.predicted.argmax(1), len(self.labels.names))

    def f1(self) -> Float[np.ndarray, " n"]:
        """F1 of each class; NaN for one that occurs neither as truth nor as prediction."""
        return metrics.label_f1(self.predicted, self.shown)

    def confidence(self) -> tuple[Float[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
        """The probabilities of the decisions, and whether they were right.

        That is of the most probable class of each clip; with several classes a clip, of each class for each clip.
        """
        if self.one_each:
            return self.probabilities.max(1), (self.predicted & self.shown).any(1)
        return self.probabilities.ravel(), self.shown.ravel()

    def confused_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """The most frequent pairs of a true class that was missed and one told in its place, with their clips."""
        missed, wrong = self.shown & ~self.predicted, self.predicted & ~self.shown
        pairs = missed.T.astype(np.int64) @ wrong.astype(np.int64)
        best = np.argsort(-pairs, axis=None, kind="stable")[:count]
        found = [(*divmod(int(i), len(pairs)), int(pairs.flat[i])) for i in best]
        return [pair for pair in found if pair[2]]

    def best_examples(self, wanted: Bool[np.ndarray, "b n"], count: int) -> list[tuple[int, int]]:
        """Of the wanted clips and classes the most probable ones, as (place in `rows`, class); each once."""
        found: list[tuple[int, int]] = []
        scores = np.where(wanted, self.probabilities, -1)
        for i in np.argsort(-scores, axis=None, kind="stable")[: int(wanted.sum())]:
            clip, label = divmod(int(i), wanted.shape[1])
            if all(clip != other_clip and label != other for other_clip, other in found):
                found.append((clip, label))
            if len(found) == count:
                break
        return found


def tasks(evaluation: Evaluation, *, unknown: bool = False) -> list[Task]:
    """What there is to report of an evaluation with public labels: actions, emotions, or both.

    Args:
      evaluation: of a checkpoint.
      unknown: whether clips whose emotion is unknown are among those of the emotions, with none shown.
    """
    outputs, truth = evaluation.predictions.outputs, evaluation.predictions.truth
    training, found = evaluation.dataset.builder.info.metadata, []
    if "logits" in outputs:
        multilabel = "labels" in truth
        probabilities = inference.to_probabilities(outputs["logits"], multilabel)
        every = np.arange(len(probabilities))
        shown = truth["labels"] > 0 if multilabel else _one_hot(truth["label"], probabilities.shape[1])
        told = probabilities >= evaluation.scores["threshold"] if multilabel else _most_probable(probabilities)
        counts = np.array(training["label_counts"]["train"])
        found.append(Task("actions", evaluation.labels, every, probabilities, shown, told, counts, not multilabel))
    if "emotion" in outputs:
        rows, names = np.flatnonzero(unknown | (truth["emotion"] >= 0)), evaluation.emotions
        probabilities = inference.to_probabilities(outputs["emotion"], multilabel=False)[rows]
        shown = _one_hot(truth["emotion"][rows], len(names))
        counts = np.array(training["emotion_counts"]["train"])
        labels = Labels(names, names, tuple(range(len(names))))
        found.append(Task("emotions", labels, rows, probabilities, shown, _most_probable(probabilities), counts, True))
    return found


def _one_hot(label: np.ndarray, count: int) -> np.ndarray:
    return np.arange(count) == label[:, None]


def _most_probable(probabilities: np.ndarray) -> np.ndarray:
    return _one_hot(probabilities.argmax(1), probabilities.shape[1])


def clip_views(
    evaluation: Evaluation, model: checkpoint_lib.LoadedModel, row: int
) -> dict[str, UInt8[np.ndarray, "..."]]:
    """The frames of a clip of the evaluation as the model sees them, see `preprocess.middle_views`."""
    return preprocess.middle_views(evaluation.dataset.source(evaluation.split)[row]["video"], **model.views)


def activation_rows(
    evaluation: Evaluation, model: checkpoint_lib.LoadedModel, task: Task, count: int = _EXAMPLES
) -> list[tuple[str, UInt8[np.ndarray, "_ _ _ 3"], Float[np.ndarray, "_ _ _"] | None]]:
    """Class activation maps for `visualize.plot_frames`: of clips whose class is told rightly, then of wrong ones.

    They are the clips about which the model is surest, each with another class. Of a wrong one there is also the map of
    a true class that was missed.
    """
    names, rows = task.labels.names, []
    right = task.best_examples(task.predicted & task.shown, count)
    wrong = task.best_examples(task.predicted & ~task.shown, count)
    for clip, label in [*right, *wrong]:
        views = clip_views(evaluation, model, int(task.rows[clip]))
        frames = views.get("video", views.get("appearance"))
        batch = {name: value[None] for name, value in views.items()}
        maps = np.asarray(model.class_maps(batch.get("video"), batch.get("appearance"))[0])
        name, share = evaluation.video_ids[task.rows[clip]], task.probabilities[clip]
        title = f"{'right' if task.shown[clip, label] else 'wrong'}: {names[label]} ({100 * share[label]:.0f} %)"
        rows.append((f"{name}, {title}", frames, maps[..., label]))
        missed = np.flatnonzero(task.shown[clip] & ~task.predicted[clip])
        if not task.shown[clip, label] and len(missed):
            true = int(missed[0])
            rows.append((f"{name}, true: {names[true]} ({100 * share[true]:.0f} %)", frames, maps[..., true]))
    return rows


def pair_rows(
    evaluation: Evaluation, model: checkpoint_lib.LoadedModel, task: Task, true: int, told: int
) -> list[tuple[str, UInt8[np.ndarray, "_ _ _ 3"], None]]:
    """Frames for `visualize.plot_frames`: a clip of one class that was taken for another, and one of that other."""
    names, rows = task.labels.names, []
    confused = (task.shown & ~task.predicted)[:, true] & (task.predicted & ~task.shown)[:, told]
    for title, clips in (
        (f"{names[true]}, taken for {names[told]}", confused),
        (f"{names[told]}, told rightly", task.shown[:, told] & task.predicted[:, told]),
    ):
        if clips.any():
            clip = int(task.rows[np.where(clips, task.probabilities[:, told], -1).argmax()])
            views = clip_views(evaluation, model, clip)
            frames = views.get("video", views.get("appearance"))
            rows.append((f"{title}: {evaluation.video_ids[clip]}", frames, None))
    return rows


def write(evaluation: Evaluation) -> pathlib.Path:
    """Writes `report_<split>_<kind>/` in the workdir: `report.html`, its figures as PNG, and `predictions.csv`.

    Args:
      evaluation: with public labels.

    Returns:
      The path of the HTML file.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = evaluation.workdir / f"report_{evaluation.split}_{evaluation.kind}"
    model = checkpoint_lib.load_model(evaluation.workdir, evaluation.kind)
    intervals = evaluate.bootstrap(
        evaluation.predictions, evaluation.labels, evaluation.scores.get("threshold"), show_progress=True
    )
    try:
        folder.mkdir(exist_ok=True)
        _write_predictions(evaluation, folder / "predictions.csv")
        parts = [_head(evaluation), _figures_table(evaluation, intervals)]
        for task in tasks(evaluation):
            for title, text, figures in _sections(evaluation, model, task):
                parts += [f"<h2>{html.escape(title)}</h2>", f"<p>{html.escape(text)}</p>"]
                parts += [_picture(figure, folder / f"{name}.png") for name, figure in figures.items()]
        parts.append(_foot(evaluation))
        title = html.escape(f"{evaluation.workdir.name}, {evaluation.split}")
        head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        page = "\n".join([f"{head}<style>{_STYLE}</style></head><body>", *parts, "</body></html>\n"])
        (folder / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"the report cannot be written to {folder} ({error.strerror})") from error
    return folder / "report.html"


def _sections(
    evaluation: Evaluation, model: checkpoint_lib.LoadedModel, task: Task
) -> Iterator[tuple[str, str, dict[str, Figure]]]:
    """Title, text and figures of each part of the report about a task; figures by the names of their files."""
    labels, name = task.labels, task.name
    if task.one_each:
        figures = {}
        if 1 < len(labels.group_names) < len(labels.names):
            grouped = metrics.group_confusion(task.confusion(), np.array(labels.groups))
            figures["confusion_groups"] = visualize.plot_confusion(
                grouped, labels.group_names, range(len(grouped)), "body groups"
            )
        figures[f"confusion_{name}"] = visualize.plot_confusion(task.confusion(), labels.names, labels.groups, name)
        yield f"Confusion of {name}", "Rows are true classes, in the order of their groups.", figures
    text = "From the most frequent class of the training clips to the rarest one."
    f1 = visualize.plot_class_f1(task.f1(), task.counts, labels)
    yield f"F1 of {name} by their number of training clips", text, {f"f1_{name}": f1}
    pairs = task.confused_pairs(_PAIRS)
    listed = [f"{labels.names[true]} → {labels.names[told]}: {count}" for true, told, count in pairs]
    figures = {
        f"confused_{name}_{i}": visualize.plot_frames(pair_rows(evaluation, model, task, true, told))
        for i, (true, told, _) in enumerate(pairs, 1)
    }
    text = f"True class → the one it was taken for, with the number of clips: {'; '.join(listed) or 'none'}."
    yield f"Most confused {name}", text, figures
    text = "How often the model is right where it says it is so sure."
    if not task.one_each:
        text += " Of each class for each clip, whether it is shown."
    figure = visualize.plot_calibration(*task.confidence(), name)
    yield f"Calibration of {name}", text, {f"calibration_{name}": figure}
    if name == "actions" and "embedding" in evaluation.predictions.outputs:
        vectors, remark = _label_vectors(evaluation)
        embedding = evaluation.predictions.outputs["embedding"].astype(np.float64)
        figure = visualize.plot_embedding(embedding, task.shown, labels, vectors)
        text = "Training draws a clip's embedding to the vector of its label, or the mean of several. Colours are body"
        text += f" groups; clips of several are grey.{remark}"
        yield "Joint embedding", text, {"embedding": figure}
    if name == "actions" or "logits" not in evaluation.predictions.outputs:
        text = (
            "Where and when the model sees a class (black to yellow, from the least to the most in a row): the clips "
            "it is surest of, right ones, then wrong ones with the map of the class that was true."
        )
        rows = activation_rows(evaluation, model, task)
        if rows:
            text += (
                f" The maps have {' x '.join(map(str, rows[0][2].shape[1:]))} places a frame, the network's last layer."
            )
        yield "Class activation maps", text, {"activation": visualize.plot_frames(rows)} if rows else {}


def _label_vectors(evaluation: Evaluation) -> tuple[np.ndarray | None, str]:
    try:
        source = evaluation.metadata["config"].get("label_vectors", "")
        vectors = load_label_vectors(source, evaluation.labels.names)
    except UserError as error:
        return None, f" The labels' vectors are missing: {error}"
    if vectors.shape[1] != evaluation.predictions.outputs["embedding"].shape[1]:
        return None, " The labels' vectors are missing: the model was trained with others."
    return vectors, ""


def _picture(figure: Figure, path: pathlib.Path) -> str:
    """Saves a figure; returns it as HTML."""
    content = io.BytesIO()
    figure.savefig(content, dpi=_DPI)
    path.write_bytes(content.getvalue())
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{encoded}">'


def _head(evaluation: Evaluation) -> str:
    num_clips = len(evaluation.video_ids)
    text = (
        f"The {evaluation.kind} checkpoint (step {evaluation.scores['step']}) of {evaluation.workdir}, on the "
        f"{num_clips} clips of split {evaluation.split} of {evaluation.dataset.builder.data_dir}."
    )
    warning = "This file shows frames of these clips: pass it on only as you may pass on the clips."
    return f"<h1>Evaluation of {html.escape(evaluation.workdir.name)}</h1><p>{html.escape(text)} {warning}</p>"


def _figures_table(evaluation: Evaluation, intervals: dict[str, tuple[float, float]]) -> str:
    rows = []
    for name in evaluate.table_rows(evaluation.scores):
        scale = 1 if name == "threshold" else 100
        low, high = (f"{scale * bound:.2f}" for bound in intervals[name])
        interval = "fixed" if name == "threshold" else f"{low} – {high}"  # noqa: RUF001
        rows.append((name.replace("_", " "), f"{scale * evaluation.scores[name]:.2f}", interval))
    text = (
        "In percent, with 95 % intervals: from 1,000 samples of the clips, drawn with replacement. They say how much "
        "depends on which clips were taken, not how much on the seed of the training."
    )
    return f"<h2>Figures</h2>{_table(('figure', '%', '95 % interval'), rows)}<p>{text}</p>"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = ["".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)]
    cells += ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def _foot(evaluation: Evaluation) -> str:
    known = evaluation.metadata
    facts = {name: known[name] for name in ("data", "initialized_from", "source") if known.get(name)}
    versions = [(f"{name} (training)", version) for name, version in known.get("versions", {}).items()]
    versions += [(f"{name} (this report)", version) for name, version in checkpoint_lib.versions().items()]
    blocks = {"Config": known["config"], "Data and origin": facts, "Model": known["model"]}
    parts = [
        f"<details><summary>{title}</summary><pre>{html.escape(json.dumps(block, indent=1))}</pre></details>"
        for title, block in blocks.items()
    ]
    parts.append(f"<details><summary>Versions</summary>{_table(('package', 'version'), versions)}</details>")
    return "<h2>Config and versions</h2>" + "".join(parts)


def _write_predictions(evaluation: Evaluation, path: pathlib.Path) -> None:
    """A row for each clip: what is true, what is told, and all probabilities; several classes with `;` between."""
    columns: dict[str, Sequence[Any]] = {"video_id": evaluation.video_ids}
    for task in tasks(evaluation, unknown=True):
        names = task.labels.names
        for title, hot in ((task.name, task.shown), (f"predicted_{task.name}", task.predicted)):
            columns[title] = [";".join(names[i] for i in np.flatnonzero(row)) for row in hot]
        for name, column in zip(names, task.probabilities.T, strict=True):
            columns[f"p({name})"] = [f"{probability:.6g}" for probability in column]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
