"""Trains a network, or evaluates a checkpoint.

python -m manet_jax.main --config configs/ma52_synthetic.py --workdir runs/first
python -m manet_jax.main --config configs/ma52.py --workdir runs/ma52 --config.data.manual_dir=/data/MA-52
python -m manet_jax.main --mode=evaluate --workdir runs/ma52
python -m manet_jax.main --mode=evaluate --workdir runs/ma52 --submission val.zip
python -m manet_jax.main --mode=evaluate --workdir runs/mma82 --splits laboratory_test,street_test
python -m manet_jax.main --mode=evaluate --workdir runs/ma52 --workdir runs/timesformer --weights 2,1
"""

from manet_jax import host_memory

if __name__ == "__main__":  # first, because the process that replaces this one imports everything again
    host_memory.use_huge_pages("manet_jax.main")

import errno
import gc
import itertools
import logging
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError

if TYPE_CHECKING:
    from manet_jax.evaluate import Evaluation

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/; --config.field=value overrides a field.")
_WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    None,
    "Where logs and checkpoints are kept; a run there is resumed. Given several times, with --mode=evaluate: of each "
    "model of an ensemble.",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train, or evaluate a checkpoint of the workdir.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "Which one to evaluate.")
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "Of an ensemble's models, such as 2,1, in the order of their --workdir; without it all are alike."
)
_SPLITS = flags.DEFINE_list(
    "splits", None, "With --mode=evaluate: to evaluate on, one after the other, for one table; without it the config's."
)
_REPORT = flags.DEFINE_bool(
    "report",
    True,
    "Whether to write report_<split>_<checkpoint> in the workdir, after training of the best checkpoint.",
)
_SUBMISSION = flags.DEFINE_string("submission", None, "With --mode=evaluate: a zip file to write for the challenge.")
_SUBMISSION_FORMAT = flags.DEFINE_enum(
    "submission_format", "current", ["current", "2024"], "Five ranked actions with body groups, or the best of each."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0 of a run of several; not needed under SLURM, Open MPI and on Cloud TPU."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: of the run.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: of this process.", lower_bound=0)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    # Here as below late, because the flags' help should not wait for JAX. What is imported stays: the collector of
    # garbage, which would go through it again and again, leaves it alone, and a start is a tenth quicker.
    gc.disable()
    from manet_jax import checkpoint, compilation_cache, distributed, evaluate, step_meter, train

    gc.freeze()
    gc.enable()
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
    workdirs = _WORKDIR.value or [""]
    if not all(workdirs):
        raise UserError("--workdir is missing: give a folder for logs and checkpoints")
    if _MODE.value == "train" and _SUBMISSION.value:
        raise UserError("--submission is written by --mode=evaluate, from the workdir of a training run")
    if _MODE.value == "train" and (len(workdirs) > 1 or _WEIGHTS.value is not None):
        raise UserError("an ensemble is for --mode=evaluate: train each model by itself, with one --workdir")
    if _SPLITS.value and (_MODE.value == "train" or len(workdirs) > 1 or _WEIGHTS.value or _SUBMISSION.value):
        raise UserError("--splits is for --mode=evaluate of one model, without --submission")
    if _MODE.value == "train" and _CONFIG.value is None:
        raise UserError("--config is missing: try --config configs/ma52_synthetic.py, which needs no data")
    distributed.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not distributed.is_primary():
        logging.getLogger("manet_jax").setLevel(logging.ERROR)
    compilation_cache.use()
    if _MODE.value == "evaluate":
        _evaluate_splits(workdirs[0], _SPLITS.value) if _SPLITS.value else _evaluate(workdirs)
        return 0
    (workdir,) = workdirs
    try:
        results = train.train_and_evaluate(_CONFIG.value, workdir)
    except train.StoppedError as stop:
        if distributed.is_primary():
            print(f"manet_jax: {stop}; the same command resumes from there", file=sys.stderr)
        return 0
    except (step_meter.NonFiniteLossError, checkpoint.CheckpointError) as error:
        print(f"manet_jax: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"manet_jax: {workdir} cannot be written ({error.strerror}): make room", file=sys.stderr)
        return 1
    if distributed.is_primary():
        print(evaluate.format_table({f"{name} (step {values['step']})": values for name, values in results.items()}))
        sys.stdout.flush()
    if _REPORT.value:
        _report_best(workdir)
    return 0


def _report_best(workdir: str) -> None:
    """Writes the report of the best checkpoint after training, and suggests what to do with it."""
    from manet_jax import distributed, evaluate
    from manet_jax.report import page

    evaluation = evaluate.evaluate_checkpoint(workdir)
    if not distributed.is_primary():
        return
    print(
        f"report: {page.write(evaluation)}\n"
        f"try: python -m manet_jax.predict --workdir {workdir} VIDEO\n"
        f"     python -m manet_jax.main --mode=evaluate --workdir {workdir} --submission val.zip",
        file=sys.stderr,
    )


def _evaluate(workdirs: Sequence[str]) -> None:
    from manet_jax import distributed, ensemble, evaluate
    from manet_jax.report import page, submission

    target = pathlib.Path(_SUBMISSION.value or "").expanduser()
    if _SUBMISSION.value and (target.is_dir() or not target.parent.is_dir()):
        raise UserError(f"--submission: {target} cannot be written; give a file in a folder that exists")
    options = {"config": _CONFIG.value, "need_labels": not _SUBMISSION.value}
    if len(workdirs) == 1 and _WEIGHTS.value is None:
        evaluation = evaluate.evaluate_checkpoint(workdirs[0], _CHECKPOINT.value, **options)
    else:
        weights = None if _WEIGHTS.value is None else ensemble.parse_weights(_WEIGHTS.value)
        evaluation = ensemble.evaluate_ensemble(workdirs, _CHECKPOINT.value, weights=weights, **options)
    if not distributed.is_primary():
        return
    if _SUBMISSION.value:
        submission.write(evaluation, target, _SUBMISSION_FORMAT.value)
        print(f"{target}: {len(evaluation.video_ids)} clips of split {evaluation.split}", file=sys.stderr)
    if evaluation.hidden:
        return
    print(evaluate.format_table(_columns(evaluation)))
    if _REPORT.value:
        print(f"report: {page.write(evaluation)}", file=sys.stderr)


def _evaluate_splits(workdir: str, splits: Sequence[str]) -> None:
    """Evaluates a checkpoint on several splits, and prints a table with a column for each."""
    import ml_collections

    from manet_jax import checkpoint, distributed, evaluate
    from manet_jax.report import page

    path = pathlib.Path(workdir).expanduser()
    metadata = checkpoint.read_metadata(path, _CHECKPOINT.value)
    raw = _CONFIG.value.to_dict() if _CONFIG.value else metadata.config
    configs = {
        split: ml_collections.ConfigDict(raw | {"eval": raw["eval"] | {"split": split}}) if raw else None
        for split in splits
    }
    for config in configs.values():  # before the first takes its time
        evaluate.open_data(path, metadata, config, need_labels=True)
    columns = {}
    for split, config in configs.items():
        evaluation = evaluate.evaluate_checkpoint(path, _CHECKPOINT.value, config=config)
        columns[split] = evaluation.metrics
        if _REPORT.value and distributed.is_primary():
            print(f"report: {page.write(evaluation)}", file=sys.stderr)
    if distributed.is_primary():
        print(evaluate.format_table(columns))


def _columns(evaluation: "Evaluation") -> dict[str, dict[str, float | int]]:
    """The columns of the table: a checkpoint's, or those of an ensemble's members and its own."""
    if not evaluation.members:
        return {f"{evaluation.checkpoint} (step {evaluation.metrics['step']})": evaluation.metrics}
    members = {f"{each.workdir} (step {each.metrics['step']})": each.metrics for each in evaluation.members}
    return {**members, "ensemble": evaluation.metrics}


def _parse_flags(argv: Sequence[str]) -> list[str]:
    names = ("--config", "-config")
    files = [value for flag, value in itertools.pairwise(argv) if flag in names]
    files += [value for flag, is_given, value in (word.partition("=") for word in argv) if is_given and flag in names]
    missing = [file for file in files if not pathlib.Path(file.partition(":")[0]).is_file()]
    if missing:
        raise UserError(f"--config: there is no file {missing[0]}; those of the project are in its folder configs/")
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.to_dict()  # raises here if the file could not be loaded
    except (AttributeError, KeyError) as error:  # from ml_collections, for a field that the config does not have
        match = re.search(r"(\w+)\W+?n?Did you mean \W*(\w+)", str(error))
        hint = f"{match[1]}; did you mean {match[2]}?" if match else str(error).strip("\"'")
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
    # app.run exits with the status that main returns.
    sys.exit(run_command("manet_jax", lambda: app.run(main, flags_parser=_parse_flags)))


if __name__ == "__main__":
    run()
