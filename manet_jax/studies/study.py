"""The common part of studies: some arms of a config file are trained with several seeds, and compared.

A config file of a study takes an arm after a colon, and lists them as `ARMS`. Where it has a `BACKBONE`, that is the
arm which is trained first, and from whose weights all others start; and a `REFERENCE` is the arm that the others are
compared with.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import pathlib
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float
from ml_collections import ConfigDict, config_flags

from manet_jax import configuration
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError

RESULT_FILE = "study.json"  # of a finished run, in its folder
# Distinct to all eyes: seven of Okabe and Ito's, after a grey and before a dark blue.
COLORS = ("#999999", "#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#f0e442", "#332288")
Runs = Mapping[str, Sequence[Mapping[str, float]]]  # for each arm, the metrics of each seed, shares of 1
Results = dict[str, dict[int, dict[str, Any]]]  # for each arm and seed, what `measure` wrote


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a study, in a folder of its own.

    Attributes:
      name: of its arm and seed.
      directory: its workdir.
      config: the flags of `manet_jax.main` that give its config.
      measure: flags of `manet_jax.studies.measure`.
    """

    name: str
    directory: pathlib.Path
    config: tuple[str, ...]
    measure: tuple[str, ...] = ()

    @property
    def commands(self) -> list[list[str]]:
        """The modules, with their flags, that train what is left of the run, and evaluate its last checkpoint."""
        workdir = f"--workdir={self.directory}"
        return [
            ["manet_jax.main", workdir, "--noreport", *self.config],
            ["manet_jax.studies.measure", workdir, *self.measure],
        ]

    @property
    def line(self) -> str:
        """Its commands as one line of a shell."""
        return " && ".join(shlex.join(["python", "-m", *command]) for command in self.commands)

    def result(self) -> dict[str, Any] | None:
        """What was measured of the run; None unless it is finished, with the config that it is to have.

        Raises:
          UserError: there is no such config.
        """
        config = load_config(self.config)
        path = self.directory / RESULT_FILE
        result = json.loads(path.read_text()) if path.exists() else None
        if result is None or configuration.changes(result["config"], config.to_dict()):
            return None
        return result

    def start(self) -> dict[str, Any]:
        """Trains and evaluates what is left; returns what was measured.

        Raises:
          UserError: a command has failed; its own message has gone to the terminal.
        """
        for command in self.commands:
            # A process for each, because a device has one owner: nothing here may start JAX.
            arguments = [sys.executable, "-m", *command]
            if subprocess.run(arguments, stdout=subprocess.DEVNULL, check=False).returncode:
                raise UserError(
                    f"the run in {self.directory} has failed; start the study again when the cause is fixed"
                )
        return json.loads((self.directory / RESULT_FILE).read_text())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Arms of a config file, each to be trained with several seeds.

    Attributes:
      config_file: takes an arm after a colon.
      arms: what to compare.
      num_seeds: runs of each arm, with the seeds 0, 1, ...
      workdir: of the study.
      overrides: flags of `manet_jax.main` for all runs.
      backbone: the arm that is trained first, and from whose weights the others start; "": none.
      init_from: a workdir of weights that all arms start from, or a folder that has one for each arm, by its name; "":
        the backbone, or what the config says.
      reference: the arm that the others are compared with; "": none.
      measure: flags of `manet_jax.studies.measure` for all runs.
    """

    config_file: str
    arms: tuple[str, ...]
    num_seeds: int
    workdir: pathlib.Path
    overrides: tuple[str, ...] = ()
    backbone: str = ""
    init_from: str = ""
    reference: str = ""
    measure: tuple[str, ...] = ()

    @property
    def first(self) -> Run | None:
        """The run of the backbone; None where none is needed."""
        given = any(flag.startswith("--config.init_from=") for flag in self.overrides)
        if not self.backbone or self.init_from or given:
            return None
        # Its data are others than those of the arms.
        overrides = [flag for flag in self.overrides if not flag.startswith("--config.data.")]
        config = (f"--config={self.config_file}:{self.backbone}", *overrides)
        return Run("the backbone", self.workdir / "backbone", config)

    @property
    def runs(self) -> dict[tuple[str, int], Run]:
        """Those of all arms, by arm and seed; seed by seed, so that a stopped study has all arms."""
        weights = self._weights()
        return {
            (arm, seed): Run(
                f"{arm}, seed {seed}",
                self.workdir / f"{arm}_{seed}",
                (f"--config={self.config_file}:{arm}", *weights[arm], *self.overrides, f"--config.seed={seed}"),
                self.measure,
            )
            for seed, arm in itertools.product(range(self.num_seeds), self.arms)
        }

    def _weights(self) -> dict[str, tuple[str, ...]]:
        """The flags that say where the weights of each arm come from."""
        if not self.init_from:
            found = (f"--config.init_from={self.first.directory}",) if self.first else ()
            return dict.fromkeys(self.arms, found)
        folder = pathlib.Path(self.init_from).expanduser()
        if (folder / "checkpoints").is_dir():
            return dict.fromkeys(self.arms, (f"--config.init_from={folder}",))
        missing = [arm for arm in self.arms if not (folder / arm).is_dir()]
        if missing:
            raise UserError(
                f"--init_from: {folder} has no folder {', '.join(missing)}; link the weights that each is to start "
                "from there, or choose others to compare"
            )
        return {arm: (f"--config.init_from={folder / arm}",) for arm in self.arms}


def load_config(arguments: Sequence[str]) -> ConfigDict:
    """The config that `manet_jax.main` makes of its flags `--config=FILE:ARM` and then `--config.field=value`.

    Raises:
      UserError: it makes none.
    """
    path, _, arm = arguments[0].removeprefix("--config=").partition(":")
    values, argv = flags.FlagValues(), ["study", *arguments[1:]]
    try:
        config = runpy.run_path(path)["get_config"](*[arm] if arm else [])
        found = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (AttributeError, KeyError, TypeError, ValueError, flags.Error) as error:
        text = str(error).strip("\"'").partition("\n")[0]
        raise UserError(f"{' '.join(arguments)} is no config: {text}") from error
    return found.value


def train_all(study: Study) -> Results:
    """Trains what is not trained yet and evaluates the last checkpoint of each run.

    The last, not the best: the arms are compared on the split that would choose it. Each run is a process of its own in
    `<workdir>/<arm>_<seed>`, so that a stopped study resumes.

    Raises:
      UserError: a run has failed; its own message has gone to the terminal.
    """
    if study.first is not None and study.first.result() is None:
        print("the backbone, from whose weights all arms start", file=sys.stderr)
        study.first.start()
    results: Results = {arm: {} for arm in study.arms}
    # What is finished comes first, so that the time that is left is that of the rest.
    for (arm, seed), run in study.runs.items():
        if (result := run.result()) is not None:
            results[arm][seed] = result
    left = [(key, run) for key, run in study.runs.items() if key[1] not in results[key[0]]]
    start, done = time.monotonic(), len(study.runs) - len(left)
    for i, ((arm, seed), run) in enumerate(left):
        minutes = (time.monotonic() - start) / 60
        rest = f"; {minutes:.0f} minutes so far, about {minutes / i * (len(left) - i):.0f} to go" if i else ""
        print(f"run {done + i + 1} of {len(study.runs)}: {run.name}{rest}", file=sys.stderr)
        results[arm][seed] = run.start()
    return {arm: dict(sorted(by_seed.items())) for arm, by_seed in results.items()}


def collect(study: Study) -> Results:
    """The results of the runs that are finished; the others are named on the terminal, with their commands.

    Raises:
      UserError: none is finished.
    """
    results: Results = collections.defaultdict(dict)
    for (arm, seed), run in study.runs.items():
        if (result := run.result()) is None:
            print(f"missing: {run.name}: {run.line}", file=sys.stderr)
        else:
            results[arm][seed] = result
    if not results:
        raise UserError(f"{study.workdir} has no finished run of this study; --list prints the commands of its runs")
    return {arm: results[arm] for arm in study.arms if arm in results}


def format_table(runs: Runs) -> str:
    """A Markdown table: a row for each quantity, a column for each arm; mean and standard deviation over seeds in %."""
    names = dict.fromkeys(name for values in runs.values() for name in values[0])
    cells = [[format_share([each.get(name, np.nan) for each in values]) for values in runs.values()] for name in names]
    rows = [[name.replace("_", " "), *row] for name, row in zip(names, cells, strict=True)]
    return markdown_table(["%", *runs], rows)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]).replace("| --- ", "|---")


def format_share(scores: Sequence[float] | Float[np.ndarray, " n"]) -> str:
    """Mean and standard deviation over seeds of shares of 1, in %, of those that are numbers."""
    found = 100 * np.array([score for score in scores if not np.isnan(score)])
    if not len(found):
        return "-"
    return f"{found.mean():.1f} ± {found.std(ddof=1):.1f}" if len(found) > 1 else f"{found[0]:.1f}"


def write(workdir: pathlib.Path, name: str, runs: Runs) -> str:
    """Writes `<name>.md` and `<name>.json` in the workdir; returns the table."""
    table = format_table(runs)
    (workdir / f"{name}.md").write_text(table + "\n")
    write_json(workdir / f"{name}.json", {arm: list(values) for arm, values in runs.items()})
    return table


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes nested lists and dicts; what is not a number is null."""
    path.write_text(json.dumps(_with_nulls(value), indent=1) + "\n")


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_nulls(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def create_parser(
    module: str, description: str, config_file: str, *, arms: str = "arms", num_seeds: int = 3
) -> argparse.ArgumentParser:
    """The command line of a study.

    Args:
      module: its name.
      description: for the help text.
      config_file: that of the study unless the user gives another.
      arms: the name of the flag that chooses some of them.
      num_seeds: runs of each arm unless the user says otherwise.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --seed is no --seeds
        epilog="Flags of manet_jax.main that override the config, --config.field=value, hold for all runs.",
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="where the runs and results are kept")
    parser.add_argument("--config", default=config_file, help=f"a config file that lists its arms ({config_file})")
    parser.add_argument(f"--{arms}", dest="arms", metavar="A,B", help="which to compare, commas between (all)")
    parser.set_defaults(flag=f"--{arms}")
    parser.add_argument("--seeds", type=int, default=num_seeds, help=f"runs of each ({num_seeds})")
    parser.add_argument(
        "--reference", default="", help="the one that the others are compared with (REFERENCE of the config file)"
    )
    parser.add_argument(
        "--init_from", default="", help="a workdir of weights to start from, or a folder with one for each, by its name"
    )
    parser.add_argument("--list", action="store_true", help="print the command of each run, one a line, and stop")
    parser.add_argument("--collect", action="store_true", help="compare the runs that are finished; train nothing")
    return parser


def run(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    compare: Callable[[Study, Results], str],
    *,
    measure: tuple[str, ...] = (),
    arms: Sequence[str] = (),
) -> int:
    """Reads a study's command line and runs it; returns the exit status.

    Args:
      parser: see `create_parser`.
      argv: the command line without the program's name; None takes the process's own.
      compare: writes the study's files of the results of some or all runs, and returns what to print.
      measure: see `Study`.
      arms: the known ones, in place of those that the config file lists.
    """
    arguments, overrides = parser.parse_known_args(argv)
    for flag in overrides:
        if not flag.startswith("--config.") or "=" not in flag:
            parser.error(f"unknown flag {flag}; a config's field is set by --config.field=value")
        if flag.startswith("--config.seed="):
            parser.error(f"{flag}: the study sets the seeds itself, 0 to --seeds - 1")
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; give 1 or more")

    def run_study() -> int:
        study = _plan(arguments, tuple(overrides), arms, measure)
        if arguments.list:
            runs = ([study.first] if study.first else []) + list(study.runs.values())
            print("\n".join(run.line for run in runs))
            return 0
        print(compare(study, collect(study) if arguments.collect else train_all(study)))
        return 0

    return run_command("manet_jax", run_study)


def _plan(
    arguments: argparse.Namespace, overrides: tuple[str, ...], arms: Sequence[str], measure: tuple[str, ...]
) -> Study:
    """The study that a command line asks for."""
    path = pathlib.Path(arguments.config.partition(":")[0])
    if not path.is_file():
        raise UserError(f"--config: there is no file {path}; those of the project are in its folder configs/")
    scope = runpy.run_path(str(path))
    known = tuple(arms or scope.get("ARMS", ()))
    if not known:
        raise UserError(f"--config: {path} lists no arms to compare: give one with ARMS, such as configs/ablation.py")
    chosen = known if arguments.arms is None else tuple(arguments.arms.split(","))
    unknown = [arm for arm in chosen if arm not in known]
    if unknown:
        raise UserError(f"{arguments.flag} has {', '.join(map(repr, unknown))}; those of {path} are {', '.join(known)}")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"{arguments.flag} is {arguments.arms!r}; give each once, commas between")
    reference = arguments.reference or (scope["REFERENCE"] if scope.get("REFERENCE") in chosen else "")
    if arguments.reference and reference not in chosen:
        raise UserError(f"--reference is {reference!r}; give one that is compared: {', '.join(chosen)}")
    return Study(
        config_file=arguments.config,
        arms=chosen,
        num_seeds=arguments.seeds,
        workdir=arguments.workdir,
        overrides=overrides,
        backbone=scope.get("BACKBONE", ""),
        init_from=arguments.init_from,
        reference=reference,
        measure=measure,
    )
