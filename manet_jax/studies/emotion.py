"""Trains the three forms of emotion recognition with several seeds, and compares them with the best possible rule.

python -m manet_jax.studies.emotion --workdir runs/emotion
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import numpy as np

from manet_jax import metrics
from manet_jax.configuration import FORMS
from manet_jax.studies import study
from tfds_ma52.errors import UserError
from tfds_ma52.synthetic import pro

_METRICS = (*metrics.EMOTION_NAMES, "map", "f1_macro", "f1_micro", "exact_match")


def compare_forms(plan: study.Study, results: study.Results) -> str:
    """Writes `emotion.md`, `.json` and `.png` in the workdir; returns the table.

    Raises:
      UserError: the emotions of a run are not those of the synthetic set.
    """
    runs = {
        arm: [summarize_run(result, plan.workdir / f"{arm}_{seed}") for seed, result in by_seed.items()]
        for arm, by_seed in results.items()
    }
    plot(runs, plan.workdir / "emotion.png")
    return study.write(plan.workdir, "emotion", runs) + compare(runs)


def summarize_run(result: dict[str, Any], directory: pathlib.Path) -> dict[str, float]:
    """The compared metrics of one run, with the recall of each emotion.

    Raises:
      UserError: its emotions are not those of the synthetic set.
    """
    confusion = np.array(result["emotion_confusion"])
    if len(confusion) != len(pro.EMOTIONS):
        raise UserError(f"{directory} has {len(confusion)} emotions; the study compares the synthetic set's")
    recalls = np.diag(confusion) / np.maximum(confusion.sum(1), 1)
    recalls = {f"recall_{name}": float(recall) for name, recall in zip(pro.EMOTIONS, recalls, strict=True)}
    return {name: result[name] for name in _METRICS if name in result} | recalls


def compare(runs: study.Runs) -> str:
    """Two lines: the accuracy possible in each form, and what micro-actions add to the appearance, over the seeds."""
    possible = pro.bayes_accuracy()
    lines = [f"possible emotion accuracy: {', '.join(f'{arm} {100 * possible[arm]:.1f}' for arm in runs)}"]
    if {"appearance", "fused"} <= runs.keys():
        appearance, fused = (_accuracies(runs[arm]) for arm in ("appearance", "fused"))
        gain, spread = fused.mean() - appearance.mean(), max(_spread(fused), _spread(appearance))
        lines.append(f"fused - appearance: {gain:.1f} points; the larger standard deviation over seeds: {spread:.1f}")
    return "".join(f"\n{line}" for line in lines)


def _accuracies(values: Sequence[Mapping[str, float]]) -> np.ndarray:
    return np.array([100 * each["emotion_accuracy"] for each in values])


def _spread(accuracies: np.ndarray) -> float:
    return float(accuracies.std(ddof=1)) if len(accuracies) > 1 else float("nan")


def plot(runs: study.Runs, path: pathlib.Path) -> None:
    """Draws the accuracy of each form, each seed a dot, below what is possible; and the recall of each emotion."""
    possible = pro.bayes_accuracy()
    figure = matplotlib.figure.Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for i, (arm, values) in enumerate(runs.items()):
        color, accuracies = study.COLORS[(0, 3, 1)[FORMS.index(arm)]], _accuracies(values)
        left.bar(i, accuracies.mean(), 0.7, color=color)
        left.plot(np.full(len(accuracies), i), accuracies, "o", color="black", markersize=3)
        left.plot((i - 0.42, i + 0.42), (100 * possible[arm],) * 2, color="black", linewidth=1.5)
        left.annotate(f"{accuracies.mean():.0f}", (i, 2), ha="center", color="white", weight="bold")
        left.annotate(f"possible: {100 * possible[arm]:.0f}", (i, 100 * possible[arm] + 1.5), ha="center", fontsize=9)
        recalls = 100 * np.array([[each[f"recall_{name}"] for name in pro.EMOTIONS] for each in values])
        positions = np.arange(len(pro.EMOTIONS)) + (i - (len(runs) - 1) / 2) * 0.8 / len(runs)
        right.bar(positions, recalls.mean(0), 0.8 / len(runs), label=arm.replace("_", "-"), color=color)
        right.plot(np.tile(positions, len(recalls)), recalls.ravel(), "o", color="black", markersize=2.5)
    left.axhline(100 / len(pro.EMOTIONS), color="black", linewidth=0.8, linestyle=":")
    left.annotate("chance", (len(runs) - 0.55, 100 / len(pro.EMOTIONS) + 1), ha="right", fontsize=9)
    left.set_xticks(range(len(runs)), [arm.replace("_", "-") for arm in runs])
    left.set_title("Emotions recognised", loc="left", fontsize=11)
    right.set_xticks(range(len(pro.EMOTIONS)), pro.EMOTIONS)
    right.set_title("Of each emotion's clips", loc="left", fontsize=11)
    right.legend(ncols=len(runs), loc="upper center", frameon=False)
    for axes in (left, right):
        axes.set(ylabel="%", ylim=(0, 100))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = study.create_parser("manet_jax.studies.emotion", __doc__, "configs/ma52_pro_synthetic.py")
    return study.run(parser, argv, compare_forms, arms=FORMS)


if __name__ == "__main__":
    sys.exit(main())
