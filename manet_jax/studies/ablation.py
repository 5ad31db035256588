"""Trains all arms of an ablation with several seeds, and compares them in tables and plots.

python -m manet_jax.studies.ablation --workdir runs/ablation
python -m manet_jax.studies.ablation --config configs/tricks.py --seeds 3 --reference baseline --workdir runs/tricks
"""

import itertools
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.figure
import numpy as np
from jaxtyping import Num

from manet_jax import metrics
from manet_jax.studies import effects, study
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52, MA52_COUNTS

# Pairs that differ in the direction of time alone in the generated clips.
REVERSED_PAIRS = (("bowing head", "head up"), ("spread legs", "closing legs"), ("stretching feet", "retracting feet"))

# The parts of the full factorial.
PARTS = ("shift", "se", "embedding")
# The metrics whose differences are compared.
COMPARED = ("f1_mean", "action_top1", "mean_class_accuracy", "f1_rare", "direction")


def summarize(confusion: Num[np.ndarray, "n n"], top5: float) -> dict[str, float]:
    """The compared quantities of one run on MA-52's classes, as shares of 1.

    Beside the eight published metrics and `mean_class_accuracy`: `f1_<group>`, `f1_frequent` and `f1_rare` are the mean
    F1 over the classes of a body group, and over the 26 most and the 26 least frequent classes in MA-52's training
    split (of those that occur).
    `direction_<class>` is, for a class that is another one played backwards, the share of its clips that are predicted
    as it among those predicted as one of the two; NaN without such clips. For a model that ignores order the two
    shares of a pair add up to 1 but for chance, whichever it prefers, so that their mean, `direction`, is 0.5.
    """
    groups = np.array(MA52.groups)
    values = metrics.recognition_metrics(confusion, top5 * confusion.sum(), groups)
    values["mean_class_accuracy"] = metrics.mean_class_accuracy(confusion)
    scores = metrics.f1_scores(confusion)
    for group, name in enumerate(MA52.group_names):
        values[f"f1_{name}"] = metrics.nan_mean(scores[groups == group])
    frequent = np.argsort([-train for train, _, _ in MA52_COUNTS], kind="stable")
    values["f1_frequent"], values["f1_rare"] = (
        metrics.nan_mean(scores[frequent[:26]]),
        metrics.nan_mean(scores[frequent[26:]]),
    )
    directions = _directions(confusion)
    values["direction"] = metrics.nan_mean(np.array(list(directions.values())))
    return values | {f"direction_{name}": share for name, share in directions.items()}


def _directions(confusion: Num[np.ndarray, "n n"]) -> dict[str, float]:
    shares = {}
    for names in REVERSED_PAIRS:
        pair = [MA52.names.index(name) for name in names]
        for name, class_id in zip(names, pair, strict=True):
            predicted = confusion[class_id, pair].sum()
            shares[name] = float(confusion[class_id, class_id] / predicted) if predicted else float("nan")
    return shares


def plot(runs: study.Runs, path: pathlib.Path) -> None:
    """Draws the arms side by side, each seed a dot: main metrics, F1 by body group, head and tail, direction."""
    panels = {
        "Recognition": ("action_top1", "action_f1_macro", "body_top1", "f1_mean"),
        "Mean F1 of the 26 most and least frequent classes": ("f1_frequent", "f1_rare"),
        "Mean F1 by body group": tuple(f"f1_{name}" for name in MA52.group_names),
        "Direction of time: correct among those predicted as the class or its reverse": tuple(
            f"direction_{name}" for pair in REVERSED_PAIRS for name in pair
        ),
    }
    figure = matplotlib.figure.Figure(figsize=(13, 8), layout="constrained")
    grid = figure.subplots(2, 2, width_ratios=(3, 4)).T.ravel()
    for axes, (title, names) in zip(grid, panels.items(), strict=True):
        for i, (arm, values) in enumerate(runs.items()):
            scores = 100 * np.array([[each[name] for name in names] for each in values])
            positions = np.arange(len(names)) + (i - (len(runs) - 1) / 2) * 0.8 / len(runs)
            axes.bar(
                positions,
                [metrics.nan_mean(each) for each in scores.T],
                0.8 / len(runs),
                label=arm,
                color=study.COLORS[i % len(study.COLORS)],
            )
            axes.plot(np.tile(positions, len(scores)), scores.ravel(), "o", color="black", markersize=2.5)
        axes.set_xticks(range(len(names)), [name.replace("_", "\n").replace(" ", "\n") for name in names])
        axes.set_title(title, loc="left", fontsize=11)
        axes.set(ylabel="%", ylim=(0, 100))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(50, color="black", linewidth=0.8, linestyle=":")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(runs))
    figure.savefig(path, dpi=110)


def factorial(arms: Iterable[str]) -> dict[str, effects.Contrast]:
    """The effects of the parts of a full factorial, as far as it is there.

    Of each part: alone (against the arm without any), in the full model (against the one without it), and the mean over
    all four pairs of arms that differ in it alone; and all parts together. An arm is called by its parts, as in
    configs/ablation.py: `tsn` has none, `tsm` the shift, and `manet` all.
    """

    def name(parts: Iterable[str]) -> str:
        chosen = set(parts)
        base = "tsm" if "shift" in chosen else "tsn"
        return "manet" if chosen == set(PARTS) else "_".join([base, *(part for part in PARTS[1:] if part in chosen)])

    found: dict[str, effects.Contrast] = {}
    for part in PARTS:
        others = [other for other in PARTS if other != part]
        subsets = [subset for size in range(3) for subset in itertools.combinations(others, size)]
        found[f"{part}, alone"] = {name([part]): 1.0, name([]): -1.0}
        found[f"{part}, mean over the others"] = {
            name(each): sign / len(subsets) for subset in subsets for each, sign in (((*subset, part), 1), (subset, -1))
        }
        found[f"{part}, in the full model"] = {name(PARTS): 1.0, name(others): -1.0}
    found["all together"] = {name(PARTS): 1.0, name([]): -1.0}
    return {title: contrast for title, contrast in found.items() if contrast.keys() <= set(arms)}


def compare(plan: study.Study, results: study.Results) -> str:
    """Writes `ablation.md`, `.json` and `.png` in the workdir, and `effects.md`, ...; returns the tables.

    The effects are those of `factorial`, or with a reference the differences from it.

    Raises:
      UserError: the classes of a run are not MA-52's.
    """
    runs = {
        arm: [_summarize_run(result, plan.workdir / f"{arm}_{seed}") for seed, result in by_seed.items()]
        for arm, by_seed in results.items()
    }
    plot(runs, plan.workdir / "ablation.png")
    text = study.write(plan.workdir, "ablation", runs)
    contrasts = factorial(results)
    if plan.reference in results:
        differences = effects.against(plan.reference, list(results))
        contrasts = {f"{arm} - {plan.reference}": contrast for arm, contrast in differences.items()}
    found = effects.compute(results, contrasts, lambda confusion: summarize(confusion, float("nan")), COMPARED)
    return text if found is None else f"{text}\n\n{effects.write(plan.workdir, 'effects', found)}"


def _summarize_run(result: Mapping[str, Any], directory: pathlib.Path) -> dict[str, float]:
    confusion = np.array(result["confusion"])
    if len(confusion) != len(MA52.names):
        raise UserError(f"{directory} has {len(confusion)} classes; the study compares MA-52's {len(MA52.names)}")
    return summarize(confusion, result["action_top5"])


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = study.create_parser("manet_jax.studies.ablation", __doc__, "configs/ablation.py", num_seeds=5)
    return study.run(parser, argv, compare)


if __name__ == "__main__":
    sys.exit(main())
