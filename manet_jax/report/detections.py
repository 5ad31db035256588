"""The report of a detector: mAP, what is found by length and class, errors by kind, and a few videos along time."""

import html
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from manet_jax.detection import diagnosis
from manet_jax.detection.metric import THRESHOLDS, Predictions, Targets
from manet_jax.detection.segments import Segment, distinct
from manet_jax.report import figures, fonts, page, tables
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import LabelSet
from tfds_ma52.untrimmed import Action

_AT = 0.5  # tIoU of the diagnosis
_VIDEOS = 3  # drawn along time
_SHOWN = 0.2  # least score of a segment there
_WARNING = "This file shows no frames, but names of videos and what people do in them."


def write(
    path: pathlib.Path,
    title: str,
    found: Mapping[str, Predictions],
    targets: Targets,
    labels: LabelSet,
    metrics: Mapping[str, Mapping[str, float]],
    workdir: pathlib.Path,
    checkpoint: str,
) -> None:
    """Writes the report: an HTML file that needs nothing else, and its figures beside it.

    Args:
      path: of the file.
      title: above it.
      found: the segments of each method; the first ones of a video are drawn with the last method's name on top.
      targets: the annotated actions.
      labels: the classes.
      metrics: of each method, see `metric.detection_metrics`.
      workdir: of the run.
      checkpoint: of it, "best" or "latest".

    Raises:
      OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    diagnoses = {name: diagnosis.diagnose(each, targets, labels, threshold=_AT) for name, each in found.items()}
    rows = [
        (name, *(f"{100 * values[f'{level}_map{end}']:.2f}" for level in ("action", "body") for end in _ENDS))
        for name, values in metrics.items()
    ]
    heads = [f"{level} {end.replace('_', '@') or 'mean'}" for level in ("action", "body") for end in _ENDS]
    instances = sum(map(len, targets.values()))
    sections = [
        ("Detection mAP", _MAP_TEXT, {"map": _plot_map(metrics)}, tables.html_table(["%", *heads], rows)),
        ("Recall by length", _RECALL_TEXT, {"recall_length": _plot_recall(diagnoses)}, ""),
        ("Errors by kind", _KINDS_TEXT, {"errors": _plot_errors(diagnoses)}, _gains_table(found, targets, labels)),
        ("Recall by class", _CLASS_TEXT, {}, _class_table(diagnoses)),
        ("Videos", _VIDEOS_TEXT, _plot_videos(found, targets, labels), ""),
    ]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{instances} actions in {len(targets)} videos. {_WARNING}</p>",
        page.list_ids(labels),
    ]
    for name, text, pictures, table in sections:
        parts += [f"<h2>{html.escape(name)}</h2>", f"<p>{html.escape(text)}</p>", table]
        parts += [page.picture(figure, path.with_name(f"{path.stem}_{end}.png")) for end, figure in pictures.items()]
    parts.append(page.in_videos([workdir], checkpoint))
    write_atomically(path, page.document(title, parts))


_ENDS = ("_0.2", "_0.5", "_0.7", "")
_MAP_TEXT = (
    "The mean average precision over the classes that occur, at temporal IoU (tIoU) thresholds and as the mean over "
    "0.1, 0.2 ... 0.9; of actions, and of body groups."
)
_RECALL_TEXT = (
    "The share of actions of each length that are found with a tIoU of 0.5, among as many of the most certain segments "
    "of each class as it has actions."
)
_KINDS_TEXT = (
    "What the same segments are. Double: the action has a more certain segment already. Wrong place: of the right "
    "class, with a tIoU from 0.1 to 0.5. Background: where no action is. The table has what the mAP at 0.5 would gain, "
    "in points, without the errors of each kind among all segments (DETAD, Alwassel et al., ECCV 2018)."
)
_CLASS_TEXT = "Found actions of each class, as above, and how many there are."
_VIDEOS_TEXT = (
    f"What is annotated (dark) and what each method finds with a score of at least {_SHOWN}, one class a row; of "
    "segments that overlap the most certain one."
)


def _plot_map(metrics: Mapping[str, Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, level in zip(figure.subplots(1, 2, sharey=True), ("action", "body"), strict=True):
        for number, (name, values) in enumerate(metrics.items()):
            heights = [100 * values[f"{level}_map_{threshold}"] for threshold in THRESHOLDS]
            marker = "osv^D"[number % 5]
            axes.plot(THRESHOLDS, heights, marker=marker, color=figures.COLORS[number % 7], label=name)
        axes.set(title=level, xlabel="tIoU threshold", ylim=(0, 100))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mAP, %")
    figure.axes[0].legend(frameon=False)
    return figure


def _plot_recall(diagnoses: Mapping[str, diagnosis.Diagnosis]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.add_subplot()
    bins = next(iter(diagnoses.values())).by_length
    width = 0.8 / len(diagnoses)
    for number, (name, each) in enumerate(diagnoses.items()):
        places = np.arange(len(bins)) + (number - (len(diagnoses) - 1) / 2) * width
        heights = [100 * (recall.value or 0) for recall in each.by_length]
        axes.bar(places, heights, width, color=figures.COLORS[number % 7], label=name)
    axes.set_xticks(range(len(bins)), [f"{recall.name}\n{recall.actions} actions" for recall in bins])
    axes.set(ylabel="found, %", ylim=(0, 100))
    axes.legend(frameon=False)
    return figure


def _plot_errors(diagnoses: Mapping[str, diagnosis.Diagnosis]) -> Figure:
    figure = Figure(figsize=(9, 0.6 + 0.6 * len(diagnoses)), layout="constrained")
    axes = figure.add_subplot()
    kinds = ("right", *diagnosis.KINDS)
    colors = (figures.COLORS[2], *figures.COLORS[:2], *figures.COLORS[3:])
    hatches = ("", "//", "..", "\\\\", "xx", "--")  # so that kinds can be told without colour
    for row, each in enumerate(diagnoses.values()):
        counts = np.array([each.correct, *each.wrong.values()])
        shares = 100 * counts / max(1, counts.sum())
        starts = np.cumsum(shares) - shares
        for number, kind in enumerate(kinds):
            label = kind if row == 0 else None
            options = {"color": colors[number], "hatch": hatches[number], "edgecolor": "white", "label": label}
            axes.barh(row, shares[number], left=starts[number], **options)
    axes.set_yticks(range(len(diagnoses)), list(diagnoses))
    axes.invert_yaxis()
    axes.set(xlabel="% of the segments", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return figure


def _gains_table(found: Mapping[str, Predictions], targets: Targets, labels: LabelSet) -> str:
    rows = []
    for name, predictions in found.items():
        gains = diagnosis.gains(predictions, targets, labels, threshold=_AT)
        rows.append((name, *(f"{100 * gains[kind]:.1f}" for kind in diagnosis.KINDS)))
    return tables.html_table(["gain without", *diagnosis.KINDS], rows)


def _class_table(diagnoses: Mapping[str, diagnosis.Diagnosis]) -> str:
    classes = zip(*(each.by_class for each in diagnoses.values()), strict=True)
    rows = [
        (of_class[0].name, of_class[0].actions, *(recall.found for recall in of_class))
        for of_class in classes
        if of_class[0].actions
    ]
    return tables.html_table(["class", "actions", *diagnoses], sorted(rows, key=lambda row: -row[1]))


def _plot_videos(found: Mapping[str, Predictions], targets: Targets, labels: LabelSet) -> dict[str, Figure]:
    chosen = sorted(targets, key=lambda name: (-len(targets[name]), name))[:_VIDEOS]
    return {
        f"video_{number}": _plot_video(
            name, {m: each.get(name, ()) for m, each in found.items()}, targets[name], labels
        )
        for number, name in enumerate(chosen, 1)
    }


def _plot_video(
    name: str, found: Mapping[str, Sequence[Segment]], actions: Sequence[Action], labels: LabelSet
) -> Figure:
    """The actions and each method's segments of a video: a row for each class, a lane for each method."""
    shown = {method: [each for each in distinct(some) if each.score >= _SHOWN] for method, some in found.items()}
    classes = sorted({each.class_id for each in actions} | {each.class_id for some in shown.values() for each in some})
    figure = Figure(figsize=(12, 0.9 + 0.42 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / (1 + len(shown))
    lanes = {"annotated": [(each.start, each.end, each.class_id, 1.0) for each in actions]}
    lanes |= {m: [(each.start, each.end, each.class_id, each.score) for each in some] for m, some in shown.items()}
    for number, (method, spans) in enumerate(lanes.items()):
        color = "#222222" if not number else figures.COLORS[(number - 1) % 7]
        for start, end, class_id, score in spans:
            top = classes.index(class_id) - 0.4 + number * height
            axes.barh(top, end - start, height, left=start, align="edge", color=color, alpha=0.3 + 0.7 * score)
        axes.plot([], [], color=color, linewidth=6, label=method)
    names = fonts.drawable(labels.names)
    axes.set_yticks(range(len(classes)), [names[class_id] for class_id in classes])
    axes.set(title=figures.printable(name), xlabel="seconds", ylim=(len(classes) - 0.5, -0.5), xlim=(0, None))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    return figure
