"""Trains or evaluates MANet.

python -m manet_jax.main --config configs/ma52_synthetic.py --workdir runs/first
python -m manet_jax.main --config configs/ma52.py --workdir runs/ma52 --config.data.manual_dir=/data/MA-52
python -m manet_jax.main --mode=evaluate --workdir runs/ma52
"""

import itertools
import logging
import pathlib
import re
import sys
from collections.abc import Sequence

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from tfds_ma52.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/; --config.field=value overrides a field.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where logs and checkpoints are kept; a run there is gone on with.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train, or evaluate a checkpoint of the workdir.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "Which one to evaluate.")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    # Late, because the flags' help should not wait for JAX.
    from manet_jax import evaluate, train

    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing: name a folder for logs and checkpoints")
    if _MODE.value == "evaluate":
        values = evaluate.evaluate_checkpoint(_CONFIG.value, _WORKDIR.value, _CHECKPOINT.value)
        columns = {f"{_CHECKPOINT.value} (step {values['step']})": values}
    else:
        if _CONFIG.value is None:
            raise UserError("--config is missing: try --config configs/ma52_synthetic.py, which needs no data")
        try:
            results = train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
        except train.NonFiniteLossError as error:
            print(f"manet_jax: {error}", file=sys.stderr)
            return 1
        columns = {f"{name} (step {values['step']})": values for name, values in results.items()}
    print(evaluate.format_table(columns))
    return 0


def _parse_flags(argv: Sequence[str]) -> list[str]:
    names = ("--config", "-config")
    files = [value for flag, value in itertools.pairwise(argv) if flag in names]
    files += [value for flag, is_given, value in (word.partition("=") for word in argv) if is_given and flag in names]
    missing = [file for file in files if not pathlib.Path(file.partition(":")[0]).is_file()]
    if missing:
        raise UserError(f"--config: there is no file {missing[0]}; those of the project lie in its folder configs/")
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.to_dict()  # a file that could not be loaded says so here
    except (AttributeError, KeyError) as error:  # from ml_collections, for a field that the config does not have
        match = re.search(r"(\w+)\W+?n?Did you mean \W*(\w+)", str(error))
        hint = f"{match[1]}; did you mean {match[2]}?" if match else str(error)
        raise UserError(f"--config has no field {hint}") from error
    except (OSError, ImportError, SyntaxError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"--config {' '.join(files)} cannot be loaded ({text}); start in the project's folder"
        ) from error
    except (flags.Error, TypeError, ValueError) as error:
        # An error of a config file itself comes with its stack trace, the message last.
        raise UserError(str(error).strip().rpartition("\n")[2].removeprefix("ValueError: ")) from error
    return rest


def run() -> None:
    """Runs `main`; a user's mistake is one sentence and exit status 2, never a stack trace."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("manet_jax").setLevel(logging.INFO)
    try:
        app.run(main, flags_parser=_parse_flags)
    except UserError as error:
        print(f"manet_jax: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
