"""The common part of studies: some arms of a config file are trained with several seeds, and compared."""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError

COLORS = ("#999999", "#0072b2", "#56b4e9", "#e69f00", "#d55e00")  # distinct to all eyes (Okabe and Ito)
Runs = Mapping[str, Sequence[Mapping[str, float]]]  # for each arm, the metrics of each seed, shares of 1


def train_all(
    config_file: str,
    arms: Sequence[str],
    num_seeds: int,
    workdir: pathlib.Path,
    overrides: Sequence[str],
    summarize: Callable[[dict[str, Any], pathlib.Path], dict[str, float]],
) -> dict[str, list[dict[str, float]]]:
    """Trains what is not trained yet and evaluates the last checkpoint of each run.

    Each run is a process of its own in `<workdir>/<arm>_<seed>`, so that a stopped study resumes.

    Args:
      config_file: takes an arm after a colon.
      arms: what to compare.
      num_seeds: runs of each arm, with the seeds 0, 1, ...
      workdir: of the study.
      overrides: flags of `manet_jax.main` for all runs.
      summarize: from an evaluation's file, and the run's folder, to the metrics that are compared.

    Raises:
      UserError: a run has failed; its own message has gone to the terminal.
    """
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    # Seed by seed, so that a stopped study has all arms.
    for number, (seed, arm) in enumerate(itertools.product(range(num_seeds), arms), 1):
        directory = workdir / f"{arm}_{seed}"
        print(f"run {number} of {num_seeds * len(arms)}: {arm}, seed {seed}", file=sys.stderr)
        result = _train(directory, f"{config_file}:{arm}", *overrides, f"--config.seed={seed}")
        runs[arm].append(summarize(result, directory))
    return runs


def _train(directory: pathlib.Path, *config: str) -> dict[str, Any]:
    """Trains what is left of one run; returns the evaluation of its last checkpoint."""
    _call_main(directory, "--config", *config)
    for path in directory.glob("evaluation_*_latest.json"):
        path.unlink()
    # The last checkpoint, not the best: the arms are compared on the split that would choose it.
    _call_main(directory, "--mode=evaluate", "--checkpoint=latest", "--config", *config)
    (path,) = directory.glob("evaluation_*_latest.json")
    return json.loads(path.read_text())


def _call_main(directory: pathlib.Path, *flags: str) -> None:
    # A process for each, because a device has one owner: nothing here may start JAX.
    command = [sys.executable, "-m", "manet_jax.main", "--workdir", str(directory), "--noreport", *flags]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise UserError(f"the run in {directory} has failed; start the study again when the cause is fixed")


def format_table(runs: Runs) -> str:
    """A Markdown table: a row for each quantity, a column for each arm; mean and standard deviation over seeds in %."""
    lines = [f"| % | {' | '.join(runs)} |", "|---" * (len(runs) + 1) + "|"]
    for name in dict.fromkeys(name for values in runs.values() for name in values[0]):
        cells = [_format_cell(np.array([each.get(name, np.nan) for each in values])) for values in runs.values()]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_cell(scores: Float[np.ndarray, " n"]) -> str:
    scores = 100 * scores[~np.isnan(scores)]
    if not len(scores):
        return "-"
    return f"{scores.mean():.1f} ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else f"{scores[0]:.1f}"


def write(workdir: pathlib.Path, name: str, runs: Runs) -> str:
    """Writes `<name>.md` and `<name>.json` in the workdir; returns the table."""
    table = format_table(runs)
    (workdir / f"{name}.md").write_text(table + "\n")
    valid = {arm: [{k: None if np.isnan(v) else v for k, v in each.items()} for each in runs[arm]] for arm in runs}
    (workdir / f"{name}.json").write_text(json.dumps(valid, indent=1) + "\n")
    return table


def command(
    run: Callable[[str, Sequence[str], int, pathlib.Path, Sequence[str]], str],
    *,
    argv: list[str] | None,
    module: str,
    description: str,
    arms: str,
    config_file: str,
) -> int:
    """Reads a study's command line and runs it; returns the exit status.

    Args:
      run: gets config file, arms, number of seeds, workdir and overrides, and returns what to print.
      argv: the command line without the program's name; None takes the process's own.
      module: its name.
      description: for the help text.
      arms: those compared unless the user gives others, commas between.
      config_file: likewise.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --seed is no --seeds
        epilog="Flags of manet_jax.main that override the config, --config.field=value, hold for all runs.",
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="where the runs and results are kept")
    parser.add_argument("--arms", default=arms, help=f"which to compare, commas between (all: {arms})")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (3)")
    parser.add_argument("--config_file", default=config_file, help=f"takes an arm after a colon ({config_file})")
    arguments, overrides = parser.parse_known_args(argv)
    chosen = arguments.arms.split(",")
    for flag in overrides:
        if not flag.startswith("--config.") or "=" not in flag:
            parser.error(f"unknown flag {flag}; a config's field is set by --config.field=value")
        if flag.startswith("--config.seed="):
            parser.error(f"{flag}: the study sets the seeds itself, 0 to --seeds - 1")
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; give 1 or more")
    if len(set(chosen)) < len(chosen) or "" in chosen:
        parser.error(f"--arms is {arguments.arms!r}; give each arm once, commas between")

    def run_study() -> int:
        print(run(arguments.config_file, chosen, arguments.seeds, arguments.workdir, overrides))
        return 0

    return run_command("manet_jax", run_study)
