"""Measures whether a long training run keeps its pace: memory, open files, threads, step time and size of the logs.

python -m manet_jax.studies.long_run --steps 1200

The run is the real command on the CPU, with its evaluations, checkpoints and logs. Start it in the project's folder.
Needs Linux (/proc).
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm

from manet_jax.studies.small_runs import command, losses, read_log, start, write_data
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError

_SKIPPED = 0.2  # of the steps, until every buffer and cache has its size
_NUM_CLIPS, _BATCH_SIZE = 12, 8
_SAVE_EVERY, _EVALUATE_EVERY = 10, 30  # steps: much more often than a run does, as both may keep memory
_MEMORY = "memory (MB)"  # without the pages of files, such as libraries, which the kernel drops and reads again


def study(num_steps: int, *, steps_alone: bool = False) -> str:
    """Trains for some steps; returns a table of how the quantities develop, and one of memory over the steps.

    Args:
      num_steps: of the run.
      steps_alone: whether to evaluate and to save at the end only.

    Raises:
      UserError: the run has failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        workdir, messages = pathlib.Path(scratch, "run"), pathlib.Path(scratch, "messages")
        data = write_data(pathlib.Path(scratch, "data"), {"train": _NUM_CLIPS, "val": 4})
        fields: dict[str, Any] = {"num_epochs": num_steps * _BATCH_SIZE / _NUM_CLIPS, "batch_size": _BATCH_SIZE}
        if steps_alone:
            fields |= {"eval.every_epochs": fields["num_epochs"], "checkpoint_every_steps": num_steps}
        else:
            every_epochs = _EVALUATE_EVERY * _BATCH_SIZE / _NUM_CLIPS
            fields |= {"eval.every_epochs": every_epochs, "checkpoint_every_steps": _SAVE_EVERY}
        process = start(command(workdir, data, **fields), messages=messages)
        rows = _watch(process, workdir, num_steps)
        if process.returncode:
            raise UserError(f"the run has failed: {messages.read_text().strip()}")
        lines = [line for line in read_log(workdir) if "loss" in line]
        sizes = {
            "metrics.jsonl": (workdir / "metrics.jsonl").stat().st_size,
            "TensorBoard's files": sum(path.stat().st_size for path in workdir.rglob("events*")),
            "messages": messages.stat().st_size,
        }
    rows += [{"step": line["step"], "step (ms)": 1000 * _BATCH_SIZE / line["clips_per_second"]} for line in lines]
    table = [f"{num_steps} steps", "| | at the start | at the end | most | change in 1,000 steps |", "|---" * 5 + "|"]
    table += describe([row for row in rows if row["step"] > _SKIPPED * num_steps])
    table += ["", f"| step | {_MEMORY} |", "|---|---|", *over_steps(rows, num_steps), ""]
    table += [f"{name}: {size / len(lines):.0f} bytes each time that is logged" for name, size in sizes.items()]
    return "\n".join(table)


def _watch(process: subprocess.Popen, workdir: pathlib.Path, num_steps: int) -> list[dict[str, float | int]]:
    """Samples a training run, twice a second, until it ends."""
    samples = []
    with tqdm.tqdm(total=num_steps, unit="step") as bar:
        while process.poll() is None:
            step = len(losses(workdir))
            bar.update(step - bar.n)
            if step and (values := sample(process.pid)):
                samples.append({"step": step, **values})
            time.sleep(0.5)
    return samples


def sample(process_id: int) -> dict[str, float | int]:
    """Memory, open files and threads of a process; nothing of one that has ended."""
    folder = pathlib.Path("/proc", str(process_id))
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    if "RssAnon" not in fields:
        return {}
    return {
        _MEMORY: sum(int(fields[name].split()[0]) for name in ("RssAnon", "VmSwap")) / 1000,
        "open files": len(list((folder / "fd").iterdir())),
        "threads": int(fields["Threads"]),
    }


def describe(rows: Sequence[dict[str, float | int]]) -> list[str]:
    """A line for each quantity: its median in the first and last tenth, its maximum and its slope over the steps."""
    lines = []
    for name in dict.fromkeys(name for row in rows for name in row if name != "step"):
        steps, values = np.array([(row["step"], row[name]) for row in rows if name in row]).T
        tenth = max(1, len(values) // 10)
        first, last = np.median(values[:tenth]), np.median(values[-tenth:])
        slope = 1000 * np.polyfit(steps, values, 1)[0] if len(set(steps)) > 1 else float("nan")
        lines.append(f"| {name} | {first:.1f} | {last:.1f} | {values.max():.1f} | {slope:+.2f} |")
    return lines


def over_steps(rows: Sequence[dict[str, float | int]], num_steps: int) -> list[str]:
    """A line for each tenth of the steps that was sampled: its end, and the median of memory in it."""
    lines = []
    for tenth in range(10):
        first, last = tenth * num_steps // 10, (tenth + 1) * num_steps // 10
        if values := [row[_MEMORY] for row in rows if _MEMORY in row and first < row["step"] <= last]:
            lines.append(f"| {last} | {np.median(values):.1f} |")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.studies.long_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=1200, help="of the run (1200)")
    parser.add_argument("--steps_alone", action="store_true", help="evaluate and save at the end only")
    arguments = parser.parse_args(argv)
    if arguments.steps < 10:
        parser.error(f"--steps is {arguments.steps}; give 10 or more")

    def run_study() -> int:
        print(study(arguments.steps, steps_alone=arguments.steps_alone))
        return 0

    return run_command("manet_jax", run_study)


if __name__ == "__main__":
    sys.exit(main())
