"""Differences between the arms of a study, paired by seed and by clip, with 95 % intervals: a table and a plot.

Two intervals answer two questions. Student's t over seeds: would another seed show the difference, on these clips? The
bootstrap over seeds and clips: would it show on other clips (of other persons, where persons are known) too?
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib.figure
import numpy as np
import scipy  # its modules are imported where they are used first
from jaxtyping import Float, Int

from manet_jax.metrics import confusion_matrix
from manet_jax.studies import study
from tfds_ma52.errors import UserError

Contrast = Mapping[str, float]  # the weight of each arm in a difference
Interval = tuple[float, float]
Measure = Callable[[Float[np.ndarray, "n n"]], Mapping[str, float]]  # from a confusion matrix to metrics
_NAN: Interval = (float("nan"), float("nan"))
_PERSON = re.compile(r"(\d+)_\d+_\d+(\.\w+)?")  # MA-52's names: the first number is the person's


@dataclasses.dataclass(frozen=True)
class Effect:
    """A difference between arms in one metric, as a share of 1.

    Attributes:
      value: the mean over seeds.
      over_seeds: the 95 % interval of Student's t over seeds; NaN of one seed.
      over_clips: that of the bootstrap over seeds and clips.
    """

    value: float
    over_seeds: Interval
    over_clips: Interval


@dataclasses.dataclass(frozen=True)
class Effects:
    """Some differences in some metrics.

    Attributes:
      table: each difference of each metric, by their names.
      num_seeds: of each arm.
      num_units: what the bootstrap draws: persons or clips.
      of_persons: whether it draws persons, with all of their clips.
    """

    table: dict[str, dict[str, Effect]]
    num_seeds: int
    num_units: int
    of_persons: bool

    @property
    def drawn(self) -> str:
        """What the bootstrap draws."""
        return " and ".join(["seeds"] * (self.num_seeds > 1) + ["persons" if self.of_persons else "clips"])

    @property
    def note(self) -> str:
        """What the intervals are, in a sentence."""
        t = f"Student's t over {self.num_seeds} seeds, and " if self.num_seeds > 1 else ""
        seeds = f"{self.num_seeds} seeds and " if self.num_seeds > 1 else ""
        units = "persons, with all of their clips" if self.of_persons else "clips, whose persons are not known"
        return f"Differences in points, with 95 % intervals: {t}the bootstrap over {seeds}{self.num_units} {units}."


def against(reference: str, arms: Sequence[str]) -> dict[str, Contrast]:
    """The difference of each arm from a reference, by the arm."""
    return {arm: {arm: 1.0, reference: -1.0} for arm in arms if arm != reference}


def compute(
    results: study.Results, contrasts: Mapping[str, Contrast], measure: Measure, names: Sequence[str]
) -> Effects | None:
    """The differences between arms, over the seeds that all of them have.

    Args:
      results: of the runs; each must have one label a clip.
      contrasts: by name.
      measure: the metrics of a confusion matrix.
      names: of those to compare.

    Returns:
      None where the arms have no seed in common, or there is nothing to compare.

    Raises:
      UserError: the runs were evaluated on different clips.
    """
    arms = {arm: results[arm] for contrast in contrasts.values() for arm in contrast}
    seeds = sorted(set.intersection(*map(set, arms.values()))) if arms else []
    if not seeds:
        return None
    clips = {arm: [by_seed[seed]["clips"] for seed in seeds] for arm, by_seed in arms.items()}
    first = clips[next(iter(clips))][0]
    if any(each["video_ids"] != first["video_ids"] for of_arm in clips.values() for each in of_arm):
        raise UserError("the runs were evaluated on different clips; compare runs on the same data and split")
    target, num_classes = np.array(first["target"]), len(next(iter(arms.values()))[seeds[0]]["confusion"])
    predicted = {arm: np.array([each["predicted"] for each in of_arm]) for arm, of_arm in clips.items()}
    units, of_persons = group_by_person(first["video_ids"])

    def metrics_of(confusion: np.ndarray) -> np.ndarray:
        values = measure(confusion)
        return np.array([values[name] for name in names])

    by_seed = {
        arm: np.array([metrics_of(confusion_matrix(target, each, num_classes)) for each in of_arm])
        for arm, of_arm in predicted.items()
    }
    samples = bootstrap(target, predicted, units, metrics_of, num_classes)
    table = {}
    for title, contrast in contrasts.items():
        differences = _combine(contrast, by_seed)
        drawn = _combine(contrast, samples)
        table[title] = {
            name: Effect(
                float(np.nanmean(differences[:, i])) if not np.isnan(differences[:, i]).all() else float("nan"),
                t_interval(differences[:, i]),
                percentiles(drawn[:, i]),
            )
            for i, name in enumerate(names)
        }
    return Effects(table, len(seeds), int(units.max()) + 1, of_persons)


def _combine(contrast: Contrast, values: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.sum([weight * values[arm] for arm, weight in contrast.items()], axis=0)


def group_by_person(video_ids: Sequence[str]) -> tuple[Int[np.ndarray, " b"], bool]:
    """The number of the person of each clip, from MA-52's names (and the synthetic set's), and whether they tell.

    Where a name tells no person, each clip is one of its own.
    """
    found = [_PERSON.fullmatch(name.rpartition("/")[2]) for name in video_ids]
    if not all(found):
        return np.arange(len(video_ids)), False
    return np.unique([match[1] for match in found if match], return_inverse=True)[1], True


def bootstrap(
    target: Int[np.ndarray, " b"],
    predicted: Mapping[str, Int[np.ndarray, "s b"]],
    units: Int[np.ndarray, " b"],
    measure: Callable[[Float[np.ndarray, "n n"]], Float[np.ndarray, " k"]],
    num_classes: int,
    num_samples: int = 1000,
) -> dict[str, Float[np.ndarray, "r k"]]:
    """Metrics of each arm, the mean over its seeds, in samples of the seeds and of the clips.

    Seeds and clips are crossed (every seed is evaluated on every clip), so that each sample draws both with replacement
    and independently (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007); clips are drawn with all
    others of their unit. All arms get the same seeds and clips, so that their differences are paired.

    Args:
      target: the true class of each clip.
      predicted: the predicted classes for each seed, by arm.
      units: the number of each clip's unit, from 0.
      measure: the metrics of a confusion matrix, whose counts are how often clips were drawn.
      num_classes: how many there are.
      num_samples: how many are drawn, the same in every call.
    """
    rng = np.random.default_rng(0)
    num_units, num_seeds = int(units.max()) + 1, len(next(iter(predicted.values())))
    cells = {arm: target * num_classes + of_arm for arm, of_arm in predicted.items()}
    samples: dict[str, list[np.ndarray]] = {arm: [] for arm in predicted}
    for _ in range(num_samples):
        seeds = np.bincount(rng.integers(num_seeds, size=num_seeds), minlength=num_seeds)
        weights = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)[units].astype(float)
        for arm, of_arm in cells.items():
            values = [
                count * measure(np.bincount(of_arm[i], weights, num_classes**2).reshape(num_classes, num_classes))
                for i, count in enumerate(seeds)
                if count
            ]
            samples[arm].append(np.sum(values, axis=0) / num_seeds)
    return {arm: np.array(values) for arm, values in samples.items()}


def percentiles(samples: Float[np.ndarray, " r"]) -> Interval:
    """The middle 95 % of the samples that are numbers."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return _NAN
    low, high = np.percentile(samples, (2.5, 97.5))
    return float(low), float(high)


def t_interval(values: Float[np.ndarray, " s"]) -> Interval:
    """Student's 95 % interval of the mean of the values that are numbers; NaN of fewer than two."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return _NAN
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def write(workdir: pathlib.Path, name: str, effects: Effects) -> str:
    """Writes `<name>.md`, `.json` and `.png` in the workdir; returns the tables."""
    text = format_tables(effects)
    (workdir / f"{name}.md").write_text(text + "\n")
    table = {
        title: {metric: dataclasses.asdict(effect) for metric, effect in row.items()}
        for title, row in effects.table.items()
    }
    study.write_json(workdir / f"{name}.json", {"note": effects.note, "effects": table})
    plot(effects, workdir / f"{name}.png")
    return text


def format_tables(effects: Effects) -> str:
    """A Markdown table for each metric: a row for each difference, in points, with its intervals."""
    head = ["difference", "points", *(["over seeds"] if effects.num_seeds > 1 else []), f"over {effects.drawn}"]
    parts = [effects.note]
    for metric in next(iter(effects.table.values())):
        rows = []
        for title, row in effects.table.items():
            effect = row[metric]
            intervals = [effect.over_seeds] if effects.num_seeds > 1 else []
            cells = [f"{100 * effect.value:+.1f}", *map(_format_interval, [*intervals, effect.over_clips])]
            rows.append([title, *("-" if "nan" in cell else cell for cell in cells)])
        parts.append(f"**{metric.replace('_', ' ')}**\n\n{study.markdown_table(head, rows)}")
    return "\n\n".join(parts)


def _format_interval(interval: Interval) -> str:
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def plot(effects: Effects, path: pathlib.Path) -> None:
    """Draws each difference as a point with both intervals, a panel for each metric."""
    titles, metrics = list(effects.table), list(next(iter(effects.table.values())))
    size = (2.2 + 2.6 * len(metrics), 1.4 + 0.32 * len(titles))
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    rows = -np.arange(len(titles))
    for axes, metric in zip(panels, metrics, strict=True):
        found = [effects.table[title][metric] for title in titles]
        if effects.num_seeds > 1:
            low, high = 100 * np.array([each.over_seeds for each in found]).T
            axes.hlines(rows, low, high, label="over seeds", linewidth=5, color=study.COLORS[2])
        low, high = 100 * np.array([each.over_clips for each in found]).T
        axes.hlines(rows, low, high, label=f"over {effects.drawn}", color="black")
        axes.plot([100 * each.value for each in found], rows, "o", color="black", markersize=5)
        axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(metric.replace("_", " "), loc="left", fontsize=11)
        axes.set(xlabel="points")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(rows, titles)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)
