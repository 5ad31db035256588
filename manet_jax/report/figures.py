"""Figures for reports and notebooks. Each function takes arrays and returns a Matplotlib figure.

Names may be in any script, see `fonts`: a name that no installed font can draw becomes the id of its class.
"""

import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from manet_jax import metrics
from manet_jax.data.sampling import center_segments
from manet_jax.inference import Prediction
from manet_jax.report import fonts
from tfds_ma52.labels import LabelSet

# Distinct to all eyes (Okabe and Ito), and from white; more groups than these begin again.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#555555")
_ROW = 0.19  # inches of a class in a chart
_FRAMES = 8  # of a clip in a row; more would be too small to see
_TIMELINE_ROWS = 16  # more would be too small to read
_TICKS = (*(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800), *(3600 * 2**i for i in range(10)))  # seconds between marks


def group_color(group: int) -> str:
    """The colour of a body group."""
    return COLORS[group % len(COLORS)]


def plot_confusion(
    confusion: Num[np.ndarray, "n n"], names: Sequence[str], groups: Sequence[int], title: str = ""
) -> Figure:
    """Draws the share of each true class's clips (row) that are predicted as each class (column), ordered by group.

    Args:
      confusion: number of clips.
      names: of the classes.
      groups: the group of each; lines are drawn between them.
      title: above.
    """
    order = np.argsort(groups, kind="stable")
    confusion, ordered = np.asarray(confusion, np.float64)[np.ix_(order, order)], np.asarray(groups)[order]
    totals = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.full_like(confusion, np.nan), where=totals > 0)
    names, count, few = fonts.drawable(names), len(names), len(names) <= 12
    side = 0.6 * count if few else 0.17 * count
    figure = Figure(figsize=(3.4 + side, 2.6 + side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, vmin=0, vmax=100, cmap="cividis")
    axes.set_facecolor("#dddddd")  # of classes without clips
    size = 10 if few else 7
    axes.set_xticks(range(count), [names[i] for i in order], rotation=90, fontsize=size)
    axes.set_yticks(range(count), [f"{names[i]} ({totals[row, 0]:.0f})" for row, i in enumerate(order)], fontsize=size)
    for edge in np.flatnonzero(np.diff(ordered)) + 0.5 if count > len(set(ordered.tolist())) else ():
        axes.axhline(edge, color="white", linewidth=0.6)
        axes.axvline(edge, color="white", linewidth=0.6)
    for row, column in np.argwhere(confusion > 0) if few else ():
        color = "black" if shares[row, column] > 0.6 else "white"
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    axes.set(xlabel="predicted as", ylabel="true (clips)")
    axes.set_title(title, loc="left", fontsize=11)
    figure.colorbar(image, ax=axes, label="% of the true class's clips", fraction=0.03, pad=0.02)
    return fonts.make_legible(figure)


def plot_class_f1(
    f1: Float[np.ndarray, " n"], counts: Int[np.ndarray, " n"], labels: LabelSet, title: str = ""
) -> Figure:
    """Draws each class's number of training clips and its F1, from the most frequent class to the rarest.

    Args:
      f1: 0..1; NaN for a class that occurs neither as target nor as prediction.
      counts: training clips.
      labels: the classes.
      title: above.
    """
    order = np.argsort(-np.asarray(counts), kind="stable")
    colors = [group_color(labels.groups[i]) for i in order]
    figure = Figure(figsize=(11, 1.8 + _ROW * len(order)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    rows = np.arange(len(order))
    left.barh(rows, np.maximum(counts[order], 0.7), color=colors)  # a bar for none, too
    left.set_xscale("log")
    left.set_xlim(0.6, max(2, 1.2 * max(counts)))
    left.set_xlabel("training clips")
    names = fonts.drawable(labels.names)
    left.set_yticks(rows, [names[i] for i in order], fontsize=8)
    left.set_ylim(len(order) - 0.4, -0.6)
    values = 100 * f1[order]
    right.barh(rows, np.nan_to_num(values), color=colors)
    for row in np.flatnonzero(np.isnan(values)):
        right.text(1, row, "does not occur", va="center", fontsize=7, color="#555555")
    mean = 100 * metrics.nan_mean(f1)
    right.axvline(mean, color="black", linewidth=0.8, linestyle=":")
    right.set(xlim=(0, 100), xlabel=f"F1, % (dotted: mean {mean:.1f})")
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _add_group_legend(figure, labels)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fonts.make_legible(figure)


def _add_group_legend(figure: Figure, labels: LabelSet) -> None:
    if 1 < len(labels.group_names) <= len(COLORS):
        marks = [
            Line2D([], [], marker="s", linestyle="", color=group_color(i), label=name)
            for i, name in enumerate(fonts.drawable(labels.group_names, "group"))
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)


def plot_calibration(confidence: Float[np.ndarray, " b"], correct: Bool[np.ndarray, " b"], title: str = "") -> Figure:
    """Draws the accuracy of a model against its confidence, see `metrics.calibration`."""
    counts, confidences, accuracies, error = metrics.calibration(np.asarray(confidence), np.asarray(correct))
    edges = np.linspace(0, 1, len(counts) + 1)
    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle=":", label="calibrated")
    upper.bar(100 * edges[:-1], 100 * np.nan_to_num(accuracies), 100 / len(counts), align="edge", color=COLORS[4])
    upper.plot(100 * confidences, 100 * accuracies, "o-", color=COLORS[0], markersize=4, label="this model")
    upper.set(ylabel="correct, %", ylim=(0, 100), xlim=(0, 100))
    upper.set_title(f"{title} (expected calibration error {100 * error:.1f} points)".strip(), loc="left", fontsize=10)
    upper.legend(loc="upper left", frameon=False)
    lower.bar(100 * edges[:-1], counts, 100 / len(counts), align="edge", color=COLORS[6], edgecolor="white")
    lower.set(xlabel="confidence, %", ylabel="decisions")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return fonts.make_legible(figure)


def plot_embedding(
    embedding: Float[np.ndarray, "b e"],
    target: Bool[np.ndarray, "b n"],
    labels: LabelSet,
    vectors: Float[np.ndarray, "n e"] | None = None,
) -> Figure:
    """Draws clips on the two principal components of their joint embedding, and there the vectors of their labels.

    Args:
      embedding: of each clip.
      target: multi-hot, the true classes; a clip has the colour of their group, grey where they are of several or none.
      labels: the classes.
      vectors: of the labels; None leaves them out.
    """
    center = embedding.mean(0)
    _, scale, axes_ = np.linalg.svd(embedding - center, full_matrices=False)
    variance = 100 * scale**2 / max(float((scale**2).sum()), 1e-12)
    points = (embedding - center) @ axes_[:2].T
    groups = [{labels.groups[i] for i in np.flatnonzero(row)} for row in target]
    colors = [group_color(*each) if len(each) == 1 else "#888888" for each in groups]
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(*points.T, s=9, c=colors, alpha=0.5, linewidths=0)
    if vectors is not None:
        _add_vectors(axes, (vectors - center) @ axes_[:2].T, labels)
    axes.set(xlabel=f"first principal component ({variance[0]:.0f} % of the variance)")
    axes.set_ylabel(f"second principal component ({variance[1]:.0f} %)")
    axes.set_title("joint embedding of the clips (dots) and vectors of the labels (numbers)", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    _add_group_legend(figure, labels)
    return fonts.make_legible(figure)


def _add_vectors(axes: Axes, points: Float[np.ndarray, "n 2"], labels: LabelSet) -> None:
    """Draws the labels' numbers at their vectors, moved apart where they would overlap, and their names at the side."""
    axes.plot(*points.T, linestyle="")  # so that the limits hold them
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    unit = np.ptp(np.array([axes.get_xlim(), axes.get_ylim()]), axis=1) / (9.5, 6.5)  # about an inch
    names, height = fonts.drawable(labels.names), 1 / max(len(labels.names), 20)
    for i, (point, moved) in enumerate(zip(points, unit * move_apart(points / unit, 0.16), strict=True)):
        color = group_color(labels.groups[i])
        axes.plot(*np.stack([point, moved]).T, color=color, linewidth=0.8, zorder=2)
        axes.scatter(*moved, s=110, c=color, edgecolors="white", linewidths=0.6, zorder=3)
        axes.text(moved[0], moved[1], str(i), ha="center", va="center_baseline", fontsize=6.5, color="white", zorder=4)
        key = (1.01, 1 - (i + 0.5) * height)
        axes.annotate(f"{i} {names[i]}", key, xycoords="axes fraction", va="center", fontsize=7, color=color)


def move_apart(points: Float[np.ndarray, "n 2"], distance: float) -> Float[np.ndarray, "n 2"]:
    """Moves points that lie closer to each other than a distance apart."""
    points = points + 1e-3 * np.random.default_rng(0).normal(size=points.shape)  # no two coincide
    for _ in range(200):
        gaps = points[:, None] - points
        lengths = np.linalg.norm(gaps, axis=-1)
        push = np.maximum(distance - lengths, 0) / np.where(lengths > 0, lengths, 1)
        points = points + 0.3 * (push[..., None] * gaps).sum(1)
    return points


def plot_frames(
    rows: Sequence[tuple[str, UInt8[np.ndarray, "_ _ _ 3"], Float[np.ndarray, "_ _ _"] | None]],
) -> Figure:
    """Draws clips frame by frame, a row each, with a class activation map over them if there is one.

    Of clips of more than 8 frames, 8 that are spread evenly are drawn, each with the moment of the map that covers it.

    Args:
      rows: a title, the frames, and the map: where and when the evidence for a class lies, from the least of the row
        (black) to the most (yellow); None leaves the frames as they are.
    """
    rows = [
        (title, _spread(frames, len(frames)), None if maps is None else _spread(maps, len(frames)))
        for title, frames, maps in rows
    ]
    count = max(len(frames) for _, frames, _ in rows)
    height = 1.6 * len(rows)
    figure = Figure(figsize=(1.35 * count, height))
    # Placed by hand: a layout engine would make room for a title in the first column.
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - 0.25 / height, wspace=0.04, hspace=0.2)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (title, frames, maps) in zip(grid, rows, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, picture in zip(line, frames if maps is None else overlay(frames, maps), strict=False):
            axes.imshow(picture)
        line[0].set_title(title, loc="left", fontsize=9, pad=3)
    return fonts.make_legible(figure)


def _spread(moments: np.ndarray, num_frames: int) -> np.ndarray:
    """Those of a clip's frames, or of the moments of its map, that are drawn."""
    return moments[center_segments(len(moments), min(num_frames, _FRAMES))]


def overlay(frames: UInt8[np.ndarray, "t h w 3"], maps: Float[np.ndarray, "t h2 w2"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Lays a class activation map, from its least value to its largest, over the grey frames of a clip."""
    height, width = frames.shape[1:3]
    heat = np.stack(
        [cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in maps.astype(np.float32)]
    )
    heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    levels = (255 * heat).astype(np.uint8)
    colored = np.stack([cv2.applyColorMap(each, cv2.COLORMAP_INFERNO)[..., ::-1] for each in levels])
    grey = frames.mean(-1, keepdims=True)
    return (0.55 * grey + 0.45 * colored).astype(np.uint8)


def plot_timeline(windows: Sequence[Prediction]) -> Figure:
    """Draws the probabilities over time of the actions that are most probable somewhere, by group, and emotions."""
    labels, panels = windows[0].labels, []
    if windows[0].probabilities is not None:
        scores = np.stack([p.probabilities for p in windows if p.probabilities is not None])
        drawn = sorted(np.argsort(-scores.max(0), kind="stable")[:_TIMELINE_ROWS], key=lambda i: (labels.groups[i], i))
        names, groups = fonts.drawable(labels.names), fonts.drawable(labels.group_names, "group")
        names = [f"{names[i]} ({groups[labels.groups[i]]})" for i in drawn]
        panels.append((names, scores[:, drawn]))
    if windows[0].emotion_probabilities is not None:
        scores = np.stack([p.emotion_probabilities for p in windows if p.emotion_probabilities is not None])
        panels.append((fonts.drawable(windows[0].emotions, "emotion"), scores))
    rows = [len(names) for names, _ in panels]
    figure = Figure(figsize=(12, 1.4 + 0.27 * sum(rows)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    # A window is drawn around its middle, as wide as the step to its neighbours.
    middles = np.array([(p.start + p.end) / 2 for p in windows])
    between = (middles[1:] + middles[:-1]) / 2
    edges = np.concatenate([[windows[0].start], between, [windows[-1].end]])
    for axis, (names, scores) in zip(axes, panels, strict=True):
        mesh = axis.pcolormesh(edges, np.arange(len(names) + 1), scores.T, vmin=0, vmax=1, cmap="cividis")
        axis.set_yticks(np.arange(len(names)) + 0.5, names)
        axis.invert_yaxis()
        axis.tick_params(axis="y", length=0)
    axes[0].set_title(fonts.plain(printable(pathlib.Path(windows[0].video).name)), loc="left", fontsize=11)
    axes[-1].set_xticks(np.arange(0, edges[-1], next(step for step in _TICKS if edges[-1] < 12 * step)))
    axes[-1].xaxis.set_major_formatter(lambda seconds, _: clock(seconds))
    axes[-1].set_xlabel("time")
    figure.colorbar(mesh, ax=axes, label="probability", fraction=0.03, pad=0.01)
    return fonts.make_legible(figure)


def printable(name: str) -> str:
    """A file's name in which bytes that are no UTF-8 have become escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds, such as 1:02:05 or 2:05.5."""
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600 / 10
    whole = f"{rest:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02}:{whole}" if hours else f"{minutes}:{whole}"
