"""Trains all networks of the benchmark and compares them: the paper's table in one command.

python -m manet_jax.studies.benchmark --workdir runs/benchmark --init_from weights --config.data.manual_dir=/data/MA-52
python -m manet_jax.studies.benchmark --config configs/benchmark.py:synthetic --seeds 1 --workdir runs/benchmark_small
"""

import csv
import io
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from manet_jax import metrics
from manet_jax.studies import effects, study
from tfds_ma52.errors import UserError

NETWORKS = {
    "c3d": "C3D",
    "i3d": "I3D",
    "slowfast": "SlowFast",
    "tsn": "TSN",
    "tsm": "TSM",
    "tin": "TIN",
    "gc_tsm": "GC-TSM",
    "timesformer": "TimeSformer",
    "videomae": "VideoMAE",
    "uniformer": "UniFormer",
    "swin": "Video Swin",
    "manet": "MANet",
}
# Of MA-52's test set, in %, in the order of `metrics.NAMES`: Guo et al., TCSVT 2024, whose TSM has MANet's gates.
_PAPER = {
    "c3d": (74.04, 52.22, 86.97, 66.60, 74.04, 40.86, 52.22, 58.43),
    "i3d": (78.16, 57.07, 88.67, 71.56, 78.16, 39.84, 57.07, 61.66),
    "slowfast": (77.18, 59.60, 88.54, 70.61, 77.18, 44.96, 59.60, 63.09),
    "tsm": (77.64, 56.75, 87.47, 70.98, 77.64, 40.19, 56.75, 61.39),
    "manet": (78.95, 61.33, 88.83, 72.87, 78.95, 49.22, 61.33, 65.59),
}
PUBLISHED: dict[str, dict[str, float]] = {
    **{name: dict(zip(metrics.NAMES, values, strict=True)) for name, values in _PAPER.items()},
    # Later ones on the same set; Video Swin's are its authors' challenge baseline, without a word on the part.
    "uniformer": {"action_top1": 58.89, "f1_mean": 64.43},
    "swin": {"action_top1": 58.88, "f1_mean": 65.64},
}
COMPARED = ("f1_mean", "action_top1", "mean_class_accuracy")
_COST = {"parameters": "parameters (M)", "gflops": "GFLOPs", "clips_per_second": "clips/s"}


def compare(plan: study.Study, results: study.Results) -> str:
    """Writes `benchmark.md`, `.csv`, `.tex`, `.json` and `.png` in the workdir; returns the Markdown.

    With a reference, the differences from it are in the Markdown too, and in `differences.md`, `.json` and `.png`.

    Raises:
      UserError: the clips of a run have several labels.
    """
    for arm, by_seed in results.items():
        if any("clips" not in result for result in by_seed.values()):
            raise UserError(f"the clips of {arm}'s runs have several labels; the benchmark is of one label a clip")
    rows = table_rows(results)
    parts = [study.markdown_table(rows[0], rows[1:])]
    (plan.workdir / "benchmark.csv").write_text(to_csv(results))
    (plan.workdir / "benchmark.tex").write_text(to_latex(rows))
    commands = {run.name: run.line for run in plan.runs.values()}
    numbers = {
        arm: {"published": PUBLISHED.get(arm, {}), "seeds": {seed: _numbers(each) for seed, each in by_seed.items()}}
        for arm, by_seed in results.items()
    }
    study.write_json(plan.workdir / "benchmark.json", {"networks": numbers, "commands": commands})
    plot(results, plan.workdir / "benchmark.png")
    if plan.reference in results:
        contrasts = {
            f"{NETWORKS.get(arm, arm)} - {NETWORKS.get(plan.reference, plan.reference)}": contrast
            for arm, contrast in effects.against(plan.reference, list(results)).items()
        }
        found = effects.compute(results, contrasts, _measure(results), COMPARED)
        if found is not None:
            parts.append(effects.write(plan.workdir, "differences", found))
    text = "\n\n".join([*parts, "```bash\n" + "\n".join(commands.values()) + "\n```"])
    (plan.workdir / "benchmark.md").write_text(text + "\n")
    return text


def _measure(results: study.Results) -> effects.Measure:
    """The compared metrics of a confusion matrix of the runs' classes."""
    by_seed = next(iter(results.values()))
    groups = np.array(next(iter(by_seed.values()))["clips"]["groups"])

    def measure(confusion: np.ndarray) -> dict[str, float]:
        values = metrics.recognition_metrics(confusion, float("nan"), groups)
        return values | {"mean_class_accuracy": metrics.mean_class_accuracy(confusion)}

    return measure


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a run's result in `benchmark.json`."""
    names = (*metrics.RECOGNITION_NAMES, "cross_entropy", *_COST, "device")
    return {name: result[name] for name in names if name in result}


def table_rows(results: study.Results) -> list[list[str]]:
    """The head of the table, and a row for each network: metrics in %, cost, published figures."""
    head = ["network", *(name.replace("_", " ") for name in metrics.RECOGNITION_NAMES), *_COST.values()]
    rows = [[*head, "published, MA-52 test: top1 / F1 mean"]]
    for arm, by_seed in results.items():
        values = list(by_seed.values())
        cells = [study.format_share([each[name] for each in values]) for name in metrics.RECOGNITION_NAMES]
        published = PUBLISHED.get(arm)
        both = f"{published['action_top1']:.2f} / {published['f1_mean']:.2f}" if published else "-"
        rows.append([NETWORKS.get(arm, arm), *cells, *_format_cost(values), both])
    return rows


def _format_cost(values: Sequence[Mapping[str, Any]]) -> list[str]:
    parameters, gflops, rate = (_mean(values, name) for name in _COST)
    return [f"{parameters / 1e6:.2f}", f"{gflops:.3g}", f"{rate:.3g}"]


def _mean(values: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.mean([each[name] for each in values]))


def to_csv(results: study.Results) -> str:
    """A row for each network: means and standard deviations over seeds as shares of 1, cost, published figures in %."""
    text = io.StringIO(newline="")
    names = metrics.RECOGNITION_NAMES
    head = ["network", "seeds", *(column for name in names for column in (name, f"{name}_std")), *_COST]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, *(f"published_{name}" for name in metrics.NAMES)])
    for arm, by_seed in results.items():
        values = list(by_seed.values())
        row: list[Any] = [arm, len(values)]
        for name in names:
            scores = [each[name] for each in values]
            row += [np.mean(scores), np.std(scores, ddof=1) if len(scores) > 1 else ""]
        published = PUBLISHED.get(arm, {})
        writer.writerow(
            [*row, *(_mean(values, name) for name in _COST), *(published.get(n, "") for n in metrics.NAMES)]
        )
    return text.getvalue()


def to_latex(rows: Sequence[Sequence[str]]) -> str:
    """A table for LaTeX with the package booktabs, of the head and the rows of another."""
    head, *body = ([escape(cell) for cell in row] for row in rows)
    lines = [" & ".join(cells) + r" \\" for cells in [head, *body]]
    begin = r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}"
    whole = [begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join(whole) + "\n"


def escape(text: str) -> str:
    """A text for LaTeX."""
    special = {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$"}
    return "".join(special.get(character, character) for character in text)


def plot(results: study.Results, path: pathlib.Path) -> None:
    """Draws the F1 mean of each network, and its spread over seeds, against its GFLOPs, with its name beside it."""
    figure = matplotlib.figure.Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    points = []
    for arm, by_seed in results.items():
        values = list(by_seed.values())
        scores = 100 * np.array([each["f1_mean"] for each in values])
        points.append((_mean(values, "gflops"), scores.mean(), NETWORKS.get(arm, arm)))
        spread = scores.std(ddof=1) if len(scores) > 1 else 0
        axes.errorbar(
            *points[-1][:2], yerr=spread, fmt="o", color="black", ecolor="#bbbbbb", elinewidth=1, markersize=5
        )
    axes.set_xscale("log")
    axes.set(xlabel="GFLOPs (multiply-adds) of a clip's forward pass", ylabel="F1 mean, %")
    axes.margins(0.15)
    axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 3, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # so that it is known where everything stands
    _label(axes, points)
    figure.savefig(path, dpi=110)


# Where the name of a point may stand: its offset in points, and its alignment.
_PLACES = [(6, 0, "left", "center"), (-6, 0, "right", "center"), (0, 6, "center", "bottom"), (0, -6, "center", "top")]
_PLACES += [(x, y, h, v) for y, v in ((6, "bottom"), (-6, "top")) for x, h in ((4, "left"), (-4, "right"))]
_PLACES += [(x, 2.5 * y, h, v) for x, y, h, v in _PLACES[2:]]


def _label(axes: matplotlib.axes.Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Writes the names of points beside them, each at the first place where it hides no point and no other name."""
    taken = [
        Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in axes.transData.transform([p[:2] for p in points])
    ]
    for x, y, name in points:
        for dx, dy, horizontal, vertical in _PLACES:
            text = axes.annotate(
                name, (x, y), (dx, dy), textcoords="offset points", ha=horizontal, va=vertical, fontsize=9
            )
            box = text.get_window_extent()
            if axes.bbox.x1 > box.x1 and axes.bbox.x0 < box.x0 and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            text = axes.annotate(name, (x, y), (6, 0), textcoords="offset points", va="center", fontsize=9)
        taken.append(text.get_window_extent())


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = study.create_parser("manet_jax.studies.benchmark", __doc__, "configs/benchmark.py", arms="models")
    return study.run(parser, argv, compare, measure=("--cost",))


if __name__ == "__main__":
    sys.exit(main())
