"""Trains all arms of an ablation with several seeds, and writes the comparison: a table, figures, plots.

python -m manet_jax.ablation --workdir runs/ablation
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np
from jaxtyping import Float, Int

from manet_jax import metrics
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52, MA52_COUNTS

# Pairs that only the direction of time tells apart in the generated clips.
REVERSED_PAIRS = (("bowing head", "head up"), ("spread legs", "closing legs"), ("stretching feet", "retracting feet"))
COLORS = ("#999999", "#0072b2", "#56b4e9", "#e69f00", "#d55e00")  # told apart by all eyes (Okabe and Ito)


def summarize(confusion: Int[np.ndarray, "n n"], top5: float) -> dict[str, float]:
    """Everything that is compared, as shares of 1, of one run on MA-52's classes.

    Beside the eight published figures: `f1_<group>`, `f1_frequent` and `f1_rare` are the mean F1 over the classes of a
    body group, and over the 26 most and the 26 least frequent classes in MA-52's training split (of those that occur).
    `direction_<class>` says of a class that is another one played backwards how many of its clips, among those taken
    for one of the two, are taken for the right one; NaN without such clips. For a model that ignores order the two
    shares of a pair add up to 1 but for chance, whichever it prefers, so that their mean, `direction`, is 0.5.
    """
    groups = np.array(MA52.groups)
    values = metrics.recognition_metrics(confusion, top5 * confusion.sum(), groups)
    scores = metrics.f1_scores(confusion)
    for group, name in enumerate(MA52.group_names):
        values[f"f1_{name}"] = _mean(scores[groups == group])
    frequent = np.argsort([-train for train, _, _ in MA52_COUNTS], kind="stable")
    values["f1_frequent"], values["f1_rare"] = _mean(scores[frequent[:26]]), _mean(scores[frequent[26:]])
    directions = _directions(confusion)
    values["direction"] = _mean(np.array(list(directions.values())))
    return values | {f"direction_{name}": share for name, share in directions.items()}


def _directions(confusion: Int[np.ndarray, "n n"]) -> dict[str, float]:
    shares = {}
    for names in REVERSED_PAIRS:
        pair = [MA52.names.index(name) for name in names]
        for name, class_id in zip(names, pair, strict=True):
            taken = confusion[class_id, pair].sum()
            shares[name] = float(confusion[class_id, class_id] / taken) if taken else float("nan")
    return shares


def _mean(scores: Float[np.ndarray, " n"]) -> float:
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if len(scores) else float("nan")


def format_table(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A Markdown table: a row for each quantity, a column for each arm; mean and standard deviation over seeds in %."""
    lines = [f"| % | {' | '.join(runs)} |", "|---" * (len(runs) + 1) + "|"]
    for name in next(iter(runs.values()))[0]:
        cells = [_format_cell(np.array([each[name] for each in values])) for values in runs.values()]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_cell(scores: Float[np.ndarray, " n"]) -> str:
    scores = 100 * scores[~np.isnan(scores)]
    if not len(scores):
        return "-"
    return f"{scores.mean():.1f} ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else f"{scores[0]:.1f}"


def plot(runs: Mapping[str, Sequence[Mapping[str, float]]], path: pathlib.Path) -> None:
    """Draws the arms side by side, each seed a dot: main figures, F1 by body group, head and tail, direction."""
    panels = {
        "Recognition": ("action_top1", "action_f1_macro", "body_top1", "f1_mean"),
        "Mean F1 of the 26 most and least frequent classes": ("f1_frequent", "f1_rare"),
        "Mean F1 by body group": tuple(f"f1_{name}" for name in MA52.group_names),
        "Direction of time: right among those taken for the class or its reverse": tuple(
            f"direction_{name}" for pair in REVERSED_PAIRS for name in pair
        ),
    }
    figure = matplotlib.figure.Figure(figsize=(13, 8), layout="constrained")
    grid = figure.subplots(2, 2, width_ratios=(3, 4)).T.ravel()
    for axes, (title, names) in zip(grid, panels.items(), strict=True):
        for i, (arm, values) in enumerate(runs.items()):
            scores = 100 * np.array([[each[name] for name in names] for each in values])
            places = np.arange(len(names)) + (i - (len(runs) - 1) / 2) * 0.8 / len(runs)
            axes.bar(
                places, [_mean(each) for each in scores.T], 0.8 / len(runs), label=arm, color=COLORS[i % len(COLORS)]
            )
            axes.plot(np.tile(places, len(scores)), scores.ravel(), "o", color="black", markersize=2.5)
        axes.set_xticks(range(len(names)), [name.replace("_", "\n").replace(" ", "\n") for name in names])
        axes.set_title(title, loc="left", fontsize=11)
        axes.set(ylabel="%", ylim=(0, 100))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(50, color="black", linewidth=0.8, linestyle=":")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(runs))
    figure.savefig(path, dpi=110)


def run(config_file: str, arms: Sequence[str], num_seeds: int, workdir: pathlib.Path, overrides: Sequence[str]) -> str:
    """Trains what is not trained yet, writes `ablation.md`, `.json` and `.png` in the workdir; returns the table.

    Each run is a process of its own in `<workdir>/<arm>_<seed>`, so that a stopped study goes on where it was.

    Raises:
      UserError: a run has failed (its own message has gone to the terminal), or its classes are not MA-52's.
    """
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    # Seed by seed, so that a stopped study has all arms.
    for number, (seed, arm) in enumerate(itertools.product(range(num_seeds), arms), 1):
        directory = workdir / f"{arm}_{seed}"
        print(f"run {number} of {num_seeds * len(arms)}: {arm}, seed {seed}", file=sys.stderr)
        runs[arm].append(_train(directory, f"{config_file}:{arm}", *overrides, f"--config.seed={seed}"))
    table = format_table(runs)
    (workdir / "ablation.md").write_text(table + "\n")
    valid = {arm: [{k: None if np.isnan(v) else v for k, v in each.items()} for each in runs[arm]] for arm in runs}
    (workdir / "ablation.json").write_text(json.dumps(valid, indent=1) + "\n")
    plot(runs, workdir / "ablation.png")
    return table


def _train(directory: pathlib.Path, *config: str) -> dict[str, float]:
    """Trains what is left of one run; returns the summary of its last checkpoint."""
    _call_main(directory, "--config", *config)
    for path in directory.glob("evaluation_*_latest.json"):
        path.unlink()
    # The last checkpoint, not the best: the arms are compared on the split that would choose it.
    _call_main(directory, "--mode=evaluate", "--checkpoint=latest", "--config", *config)
    (path,) = directory.glob("evaluation_*_latest.json")
    result = json.loads(path.read_text())
    confusion = np.array(result["confusion"])
    if len(confusion) != len(MA52.names):
        raise UserError(f"{directory} has {len(confusion)} classes; the study compares MA-52's {len(MA52.names)}")
    return summarize(confusion, result["action_top5"])


def _call_main(directory: pathlib.Path, *flags: str) -> None:
    # A process for each, because a device has one owner: nothing here may start JAX.
    command = [sys.executable, "-m", "manet_jax.main", "--workdir", str(directory), *flags]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise UserError(f"the run in {directory} has failed; start the study again when the cause is mended")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --seed is no --seeds
        epilog="Flags of manet_jax.main that override the config, --config.field=value, hold for all runs.",
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="where the runs and results are kept")
    parser.add_argument("--arms", default="single_frame,tsn,tsm,tsm_se,manet", help="which to compare, commas between")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--config_file", default="configs/ablation.py", help="takes an arm after a colon")
    arguments, overrides = parser.parse_known_args(argv)
    arms = arguments.arms.split(",")
    for flag in overrides:
        if not flag.startswith("--config.") or "=" not in flag:
            parser.error(f"unknown flag {flag}; a config's field is set by --config.field=value")
        if flag.startswith("--config.seed="):
            parser.error(f"{flag}: the study sets the seeds itself, 0 to --seeds - 1")
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; give 1 or more")
    if len(set(arms)) < len(arms) or "" in arms:
        parser.error(f"--arms is {arguments.arms!r}; name each arm once, commas between")
    try:
        print(run(arguments.config_file, arms, arguments.seeds, arguments.workdir, overrides))
    except UserError as error:
        print(f"manet_jax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
